//! What a server connects to, from who the others are. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::name::{Label, Zone};
use crate::peers::{Peers, Ports};
use crate::status::Named;

#[cfg(test)]
mod tests;

/// Where a server stands, by its configuration; never derived from DNS, for nats-server deletes the streams of one that
/// changes between alone and clustered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// `role = "center"`, `servers = 1`: by itself, with its own JetStream. Leaves may connect.
    Lone,
    /// `role = "center"`, `servers = 3`: in the cluster of its region, joined with those of other regions.
    Clustered,
    /// `role = "leaf"`: connects to the center.
    Leaf,
}

/// What a server is told of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its cluster's name: an APP in DNS.
    pub cluster: Label,
    /// The zone that has the names.
    pub zone: Zone,
    /// Its region, which names the cluster of nats-server. None where there is but one: then all of the center are its
    /// cluster, under the name of [`Self::cluster`].
    pub region: Option<Label>,
    /// Where it stands.
    pub standing: Standing,
    /// The address that others reach it at, as DNS has it.
    pub address: IpAddr,
    /// Where it listens.
    pub host: Host,
    /// Its ports.
    pub ports: Listening,
}

/// Where a server listens. nats-server listens at one address, or at all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// At its address, where others reach it.
    Own,
    /// At all addresses of its host, since it is reached by IPv4 and by IPv6; it tells others of the one that it has here.
    All,
}

/// The ports of a server; also those of others, where DNS says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// For clients.
    pub client: u16,
    /// For servers of the same region.
    pub route: u16,
    /// For other regions.
    pub gateway: u16,
    /// For leaves.
    pub leaf: u16,
}

impl Default for Listening {
    fn default() -> Self {
        Self { client: 4_222, route: 6_222, gateway: 7_222, leaf: 7_422 }
    }
}

/// What it connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nobody.
    Lone,
    /// Servers of its region, its own address among them, and of others.
    Center {
        /// Of its region.
        routes: BTreeSet<SocketAddr>,
        /// Of each other region that has servers of the center.
        gateways: BTreeMap<Label, BTreeSet<SocketAddr>>,
    },
    /// Servers of the center.
    Leaf {
        /// In all regions.
        remotes: BTreeSet<SocketAddr>,
    },
}

/// The peers that a server needs are not known, so it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// A clustered server that starts alone would elect itself once a second comes, in a cluster that is not the others'.
    #[error("no other server of the center is known")]
    Others,
    /// JetStream forms its group among all servers that are configured when it first elects, so the first list is to be
    /// whole: it has to stay the same for a moment.
    #[error("others are still being found")]
    Settling,
    /// There is nobody to connect to.
    #[error("no server of the center is known")]
    Center,
}

impl Place {
    /// Where it listens for whoever comes to this port.
    #[must_use]
    pub fn listens(&self, port: u16) -> SocketAddr {
        match self.host {
            Host::Own => SocketAddr::new(self.address, port),
            Host::All => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
        }
    }

    /// The name of the cluster of nats-server.
    #[must_use]
    pub fn region_name(&self) -> &Label {
        self.region.as_ref().unwrap_or(&self.cluster)
    }
}

impl Shape {
    /// The shape of `place` among `peers`.
    pub fn of(place: &Place, peers: &Peers) -> Result<Self, Unknown> {
        match place.standing {
            Standing::Lone => Ok(Shape::Lone),
            Standing::Clustered => clustered(place, peers),
            Standing::Leaf => {
                let center = peers.center.iter().copied().collect();
                let remotes = at(one_each(&center, place.address), &peers.leaves, place.ports.leaf);
                if remotes.is_empty() { Err(Unknown::Center) } else { Ok(Shape::Leaf { remotes }) }
            }
        }
    }

    /// Where other servers listen for clients, those of the own region first. That all use one port for it is what a
    /// region is configured like.
    #[must_use]
    pub fn clients(&self, own: IpAddr, port: u16) -> Vec<SocketAddr> {
        let of = |servers: &BTreeSet<SocketAddr>| -> Vec<SocketAddr> {
            let others = servers.iter().filter(|server| server.ip() != own);
            others.map(|server| SocketAddr::new(server.ip(), port)).collect()
        };
        match self {
            Shape::Lone => Vec::new(),
            Shape::Center { routes, gateways } => {
                of(routes).into_iter().chain(gateways.values().flat_map(of)).collect()
            }
            Shape::Leaf { remotes } => of(remotes),
        }
    }

    /// Whom it names, for whoever compares.
    #[must_use]
    pub fn named(&self, own: IpAddr) -> Named {
        match self {
            Shape::Lone => Named::Nobody,
            Shape::Center { routes, gateways } => Named::Center {
                near: routes.iter().filter(|route| route.ip() != own).count(),
                regions: gateways.keys().map(ToString::to_string).collect(),
            },
            Shape::Leaf { remotes } => Named::Leaf { center: remotes.len() },
        }
    }

    /// How many other servers it connects to.
    #[must_use]
    pub fn others(&self, own: IpAddr) -> usize {
        let count = |servers: &BTreeSet<SocketAddr>| servers.iter().filter(|server| server.ip() != own).count();
        match self {
            Shape::Lone => 0,
            Shape::Center { routes, gateways } => count(routes) + gateways.values().map(count).sum::<usize>(),
            Shape::Leaf { remotes } => count(remotes),
        }
    }
}

fn clustered(place: &Place, peers: &Peers) -> Result<Shape, Unknown> {
    let near = match &place.region {
        Some(region) => peers.center_in(region),
        None => peers.center.iter().copied().collect(),
    };
    let mut routes = at(one_each(&near, place.address), &peers.routes, place.ports.route);
    // JetStream does not start in a cluster without a route, and takes the number of routes and gateways for that of the
    // servers when it first elects: with its own address it counts right.
    routes.retain(|route| route.ip() != place.address);
    routes.insert(SocketAddr::new(place.address, place.ports.route));
    let elsewhere = peers.regions.iter().filter(|region| place.region.as_ref().is_some_and(|own| own != *region));
    let others = elsewhere.map(|region| {
        let servers = one_each(&peers.center_in(region), place.address);
        (region.clone(), at(servers, &peers.gateways, place.ports.gateway))
    });
    let gateways = others.filter(|(_, servers)| !servers.is_empty()).collect();
    let shape = Shape::Center { routes, gateways };
    if shape.others(place.address) == 0 { Err(Unknown::Others) } else { Ok(shape) }
}

/// One address of each server: those of the family of our own, or of the other if there are none. nats-server counts
/// addresses as servers when it first elects a leader of JetStream; counted twice, it would wait for as many again.
fn one_each(addresses: &BTreeSet<IpAddr>, own: IpAddr) -> BTreeSet<IpAddr> {
    let (same, other): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
        addresses.iter().partition(|address| address.is_ipv4() == own.is_ipv4());
    if same.is_empty() { other } else { same }
}

fn at(addresses: BTreeSet<IpAddr>, ports: &Ports, default: u16) -> BTreeSet<SocketAddr> {
    addresses.into_iter().map(|address| SocketAddr::new(address, ports.at(address, default))).collect()
}

impl fmt::Display for Standing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Standing::Lone | Standing::Clustered => "center",
            Standing::Leaf => "leaf",
        })
    }
}
