//! Which units a change touches.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Builder;
use super::domain::MANAGEMENT;
use super::unit::Key;
use crate::access::Access;
use crate::facts::{Changes, Facts, Group};
use crate::row::{Belonging, Server};

impl Builder {
    /// The units to be made anew, after what is known of regions and of this server is up to date.
    pub(super) fn scope(&mut self, facts: &Facts, changes: &Changes) -> BTreeSet<Key> {
        let mut scope = Scope { facts, keys: BTreeSet::new() };
        if changes.everything || !changes.servers.is_empty() {
            let regions = regions(facts);
            for region in regions.symmetric_difference(&self.regions) {
                scope.region(region);
            }
            self.regions = Arc::new(regions);
            self.here = Arc::new(self.here(facts));
            self.members = facts.members().cloned().collect();
            let subnets = Access::new(self.subnets(facts));
            if subnets != *self.subnets {
                self.subnets = Arc::new(subnets);
            }
        }
        if changes.everything {
            scope.everything();
            return scope.keys;
        }
        for group in &changes.groups {
            scope.group(group);
        }
        for service in &changes.services {
            scope.projects(service, changes);
        }
        scope.keys.extend(changes.clusters.iter().cloned().map(Key::Cluster));
        for server in &changes.servers {
            scope.keys.insert(Key::Server(Arc::clone(server)));
            scope.on_server(server);
            if **server == *self.settings.server {
                scope.keys.insert(Key::Fixed);
            }
        }
        scope.keys
    }

    /// The cluster's ranges beside those that are configured: private ones of servers that are not removed and, where none
    /// are configured, of the store; and that of management addresses.
    fn subnets(&self, facts: &Facts) -> impl Iterator<Item = IpNet> {
        let belong = facts.servers.used().filter(|(_, row)| row.belonging != Belonging::Removed);
        let said = belong.filter_map(|(_, row)| row.subnet).chain(self.domain.ranges().iter().copied());
        let other = |net: &IpNet| is_private(net) && !self.settings.ranges.iter().any(|range| range.contains(net));
        // Who serves files alone is in no cluster.
        let management = self.settings.zones.first().map(|_| MANAGEMENT);
        said.filter(other).chain(management)
    }

    /// Addresses by which this server itself may ask: its mesh addresses.
    fn here(&self, facts: &Facts) -> BTreeSet<IpAddr> {
        let row = facts.servers.get(&self.settings.server);
        let row = row.filter(|row| row.belonging != Belonging::Removed);
        row.into_iter().flat_map(addresses).filter(|address| self.domain.serves_server(*address)).collect()
    }
}

/// The addresses of a server's row.
pub(super) fn addresses(row: &Server) -> impl Iterator<Item = IpAddr> + use<> {
    row.v4.map(IpAddr::V4).into_iter().chain(row.v6.map(IpAddr::V6))
}

/// Ranges that are nobody's on the internet (RFC 1918, 6598, 4193).
const PRIVATE: [IpNet; 5] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7)),
];

/// Whether what a row calls a range of the cluster is believed: who is in it may ask and is looked up names for, and no
/// upstream may point there. Of a public range that would let strangers in, or keep a stranger's names from everybody;
/// such a range is the operator's to configure, on each host.
pub(super) fn is_private(range: &IpNet) -> bool {
    PRIVATE.iter().any(|private| private.contains(range))
}

/// Regions of servers that are not removed.
fn regions(facts: &Facts) -> BTreeSet<Box<[u8]>> {
    let belong = facts.servers.used().filter(|(_, row)| row.belonging != Belonging::Removed);
    belong.filter(|(_, row)| !row.region.is_empty()).map(|(_, row)| row.region.as_bytes().into()).collect()
}

/// Units as they are found.
struct Scope<'a> {
    facts: &'a Facts,
    keys: BTreeSet<Key>,
}

impl Scope<'_> {
    fn everything(&mut self) {
        let facts = self.facts;
        self.keys.insert(Key::Fixed);
        self.keys.extend(facts.servers.used().map(|(_, row)| Key::Server(Arc::clone(&row.id))));
        self.keys.extend(facts.services.index().groups().cloned().map(Key::Group));
        for group in facts.containers.index().groups() {
            self.group(group);
        }
        self.keys.extend(facts.nats.index().clusters().cloned().map(Key::Cluster));
    }

    /// A group. Containers without a project are of the one service of their name.
    fn group(&mut self, group: &Group) {
        let (project, service) = group;
        let mut projects = self.facts.services.index().projects(service);
        if project.is_empty()
            && projects.len() == 1
            && let Some(one) = projects.next()
        {
            self.keys.insert(Key::Group((Arc::clone(one), Arc::clone(service))));
        }
        self.keys.insert(Key::Group(group.clone()));
    }

    /// All services of one name, if there are containers without a project that are, or were, of one of them.
    fn projects(&mut self, service: &Arc<str>, changes: &Changes) {
        let without = (Arc::from(""), Arc::clone(service));
        if changes.groups.contains(&without) || !self.facts.containers.index().group(&without).is_empty() {
            let projects = self.facts.services.index().projects(service);
            self.keys.extend(projects.map(|one| Key::Group((Arc::clone(one), Arc::clone(service)))));
            self.keys.insert(Key::Group(without));
        }
    }

    /// Everything whose instances are on this server.
    fn on_server(&mut self, server: &Arc<str>) {
        let facts = self.facts;
        for (_, row) in facts.containers.index().server(server).iter().filter_map(|id| facts.containers.rows().at(*id))
        {
            self.group(&row.group());
        }
        let nats = facts.nats.used().filter(|(_, row)| *row.server == **server);
        self.keys.extend(nats.map(|(_, row)| Key::Cluster(Arc::clone(&row.cluster))));
    }

    /// Everything that may be in this region.
    fn region(&mut self, region: &[u8]) {
        let facts = self.facts;
        for (_, server) in facts.servers.used().filter(|(_, row)| row.region.as_bytes() == region) {
            self.on_server(&server.id);
        }
        self.keys.extend(facts.nats.index().clusters().cloned().map(Key::Cluster));
    }
}
