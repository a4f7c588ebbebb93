//! Links, addresses and routes, by rtnetlink. What is asked here is answered by the kernel at once.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, LinkWireguard, RouteMessageBuilder};
use tokio::task::JoinSet;

use super::LinkSeen;

/// The mark of the routes that are ours to take away, among those that the kernel leaves to programs.
const OURS: RouteProtocol = RouteProtocol::Other(75);

/// A connection to the kernel, closed with it.
pub(super) struct Links {
    handle: Handle,
    _connection: JoinSet<()>,
}

impl Links {
    /// Connects.
    pub(super) fn open() -> io::Result<Links> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Links { handle, _connection: tasks })
    }

    /// The link of this name.
    pub(super) async fn look(&self, name: &str) -> io::Result<Option<LinkSeen>> {
        let Some(link) = self.links().await?.into_iter().find(|link| name_of(link) == Some(name)) else {
            return Ok(None);
        };
        let index = link.header.index;
        let addresses = self.addresses().await?.into_iter().filter(|(at, _)| *at == index).map(|(_, net)| net);
        Ok(Some(LinkSeen {
            index,
            wireguard: is_wireguard(&link),
            up: link.header.flags.contains(LinkFlags::Up),
            mtu: mtu_of(&link).unwrap_or(0),
            addresses: addresses.collect(),
            routes: self.routes(index).await?,
        }))
    }

    /// The smallest MTU of the links by which these are reached; none if none of them is. `own` does not count.
    pub(super) async fn underlay(&self, ends: &[SocketAddr], own: &str) -> io::Result<Option<u32>> {
        let (links, addresses) = (self.links().await?, self.addresses().await?);
        let by = |end: &SocketAddr| {
            let from = source(*end)?;
            let (index, _) = addresses.iter().find(|(_, net)| net.addr() == from)?;
            let link = links.iter().find(|link| link.header.index == *index)?;
            if name_of(link) == Some(own) { None } else { mtu_of(link) }
        };
        Ok(ends.iter().filter_map(by).min())
    }

    /// Makes a WireGuard link, where the kernel knows it.
    pub(super) async fn create(&self, name: &str) -> io::Result<()> {
        self.handle.link().add(LinkWireguard::new(name).build()).execute().await.map_err(io)
    }

    /// Takes it away, and with it the kernel's WireGuard behind it, or ends wireguard-go.
    pub(super) async fn delete(&self, index: u32) -> io::Result<()> {
        self.handle.link().del(index).execute().await.map_err(io)
    }

    /// Sets the MTU.
    pub(super) async fn mtu(&self, index: u32, mtu: u32) -> io::Result<()> {
        self.handle.link().set(LinkUnspec::new_with_index(index).mtu(mtu).build()).execute().await.map_err(io)
    }

    /// Lets packets through.
    pub(super) async fn up(&self, index: u32) -> io::Result<()> {
        self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.map_err(io)
    }

    /// Gives it an address.
    pub(super) async fn address(&self, index: u32, net: IpNet) -> io::Result<()> {
        there(self.handle.address().add(index, net.addr(), net.prefix_len()).execute().await.map_err(io))
    }

    /// Sends what is for `net` there.
    pub(super) async fn route(&self, index: u32, net: IpNet) -> io::Result<()> {
        self.handle.route().add(route(index, net)?).execute().await.map_err(io)
    }

    /// No longer.
    pub(super) async fn unroute(&self, index: u32, net: IpNet) -> io::Result<()> {
        self.handle.route().del(route(index, net)?).execute().await.map_err(io)
    }

    async fn links(&self) -> io::Result<Vec<LinkMessage>> {
        self.handle.link().get().execute().try_collect().await.map_err(io)
    }

    async fn addresses(&self) -> io::Result<Vec<(u32, IpNet)>> {
        let all: Vec<_> = self.handle.address().get().execute().try_collect().await.map_err(io)?;
        let net = |message: rtnetlink::packet_route::address::AddressMessage| {
            let address = |attribute: &AddressAttribute| match attribute {
                // Of a link between two hosts the first is the other end.
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            };
            let other = |attribute: &AddressAttribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            };
            let found =
                message.attributes.iter().find_map(address).or_else(|| message.attributes.iter().find_map(other));
            Some((message.header.index, IpNet::new(found?, message.header.prefix_len).ok()?))
        };
        Ok(all.into_iter().filter_map(net).collect())
    }

    /// Our routes by this link.
    async fn routes(&self, index: u32) -> io::Result<BTreeSet<IpNet>> {
        let mut routes = BTreeSet::new();
        for family in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let all: Vec<_> = self.handle.route().get(family).execute().try_collect().await.map_err(io)?;
            let ours = all.into_iter().filter(|route| route.header.protocol == OURS && goes_by(route, index));
            routes.extend(ours.filter_map(|route| destination(&route)));
        }
        Ok(routes)
    }
}

fn route(index: u32, net: IpNet) -> io::Result<RouteMessage> {
    let builder = RouteMessageBuilder::<IpAddr>::new().output_interface(index).protocol(OURS).scope(RouteScope::Link);
    let builder = builder.destination_prefix(net.addr(), net.prefix_len());
    Ok(builder.map_err(|error| io::Error::other(error.to_string()))?.build())
}

fn goes_by(route: &RouteMessage, index: u32) -> bool {
    route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Oif(oif) if *oif == index))
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

/// The address that packets to `end` are sent from. Nothing is sent.
fn source(end: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if end.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(end).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn is_wireguard(link: &LinkMessage) -> bool {
    let kind = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Wireguard)),
        _ => false,
    };
    link.attributes.iter().any(kind)
}

/// What is there already is as good as made.
fn there(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
