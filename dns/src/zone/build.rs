//! Facts in, contents of a zone out: which names exist and what stands at them.
//!
//! The order is the precedence of flat names: services, NATS clusters, then instances. What comes later and finds its
//! name taken is left out under that name and named, never mixed in.

mod app;
mod group;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use ipnet::IpNet;

use super::list::List;
use super::origin::{LOCAL_NODE, Origin};
use super::records::{Sets, Tail, Wire, rtype};
use super::{Contents, Names, Node, Settings, reverse};
use crate::config::Ttl;
use crate::facts::Facts;
use crate::feed::Table;
use crate::name::{self, NAME_MAX, NameError};
use crate::row::{Belonging, Fault, Key, Server};
use group::Groups;

/// Most problems kept with their reasons; beyond, they are only counted.
const PROBLEMS_MAX: usize = 100;
/// Where management addresses are: `fdcc` and 14 bytes of the key's hash.
const MANAGEMENT: IpNet = IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::new(0xfdcc, 0, 0, 0, 0, 0, 0, 0), 16));

/// Something left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) table: Table,
    pub(crate) key: String,
    pub(crate) reason: String,
}

pub(super) fn contents(facts: &Facts, settings: &Settings, generation: u64) -> Contents {
    let mut builder = Builder::new(facts, settings, generation);
    builder.faults_of_rows();
    builder.servers();
    let groups = Groups::of(&mut builder);
    builder.apps(&groups);
    builder.pointers();
    builder.finish()
}

/// The zone under construction.
struct Builder<'a> {
    facts: &'a Facts,
    settings: &'a Settings,
    ranges: Vec<IpNet>,
    generation: u64,
    wire: Wire,
    origins: Vec<Origin>,
    /// Longest relative name, so that with the longest origin it is still a name.
    room: usize,
    names: Names,
    pointers: Names,
    regions: BTreeSet<Box<[u8]>>,
    here: BTreeSet<IpAddr>,
    /// Who an address is: the newest that answers with it, servers before all.
    owners: HashMap<IpAddr, Owner, RandomState>,
    /// The names that owners refer to.
    owner_names: Vec<u8>,
    problems: Vec<Problem>,
    problem_count: usize,
}

/// What an address's PTR is chosen by, the greatest wins, and where the relative name is that it points to.
struct Owner {
    rank: (Rank, i64),
    name: std::ops::Range<usize>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Rank {
    Instance,
    Server,
}

impl<'a> Builder<'a> {
    fn new(facts: &'a Facts, settings: &'a Settings, generation: u64) -> Self {
        // Configured ranges are the operator's word on this host; what the store says counts only without it, so that
        // one row cannot widen what a configured host serves.
        let ranges = if settings.ranges.is_empty() { facts.ranges() } else { settings.ranges.clone() };
        let longest = settings.zones.iter().map(|zone| zone.wire().len()).max().unwrap_or(1);
        let expected = 4 * (facts.containers.used().count() + facts.services.used().count()) + 64;
        Self {
            facts,
            settings,
            ranges,
            generation,
            wire: Wire::with_capacity(expected * 32),
            origins: Vec::new(),
            room: NAME_MAX - longest,
            names: Names::with_capacity_and_hasher(expected, RandomState::default()),
            pointers: Names::default(),
            regions: BTreeSet::new(),
            here: BTreeSet::new(),
            owners: HashMap::with_capacity_and_hasher(facts.containers.used().count(), RandomState::default()),
            owner_names: Vec::new(),
            problems: Vec::new(),
            problem_count: 0,
        }
    }

    fn faults_of_rows(&mut self) {
        let facts = self.facts;
        for (key, fault) in facts.metadata.faults() {
            self.problem(Table::Metadata, &key_text(key), fault);
        }
        for (key, fault) in facts.servers.faults() {
            self.problem(Table::Servers, &key_text(key), fault);
        }
        for (key, fault) in facts.services.faults() {
            self.problem(Table::Services, &key_text(key), fault);
        }
        for (key, fault) in facts.containers.faults() {
            self.problem(Table::Containers, &key_text(key), fault);
        }
        for (key, fault) in facts.nats.faults() {
            self.problem(Table::NatsServers, &key_text(key), fault);
        }
    }

    /// `{server}.node`, `local.node`, and the regions.
    fn servers(&mut self) {
        let facts = self.facts;
        self.insert(LOCAL_NODE.into(), Node::Plain(Sets::default()));
        let holders = holders(facts);
        for (_, server) in facts.servers.used() {
            let removed = server.belonging == Belonging::Removed;
            if !removed && !server.region.is_empty() {
                self.regions.insert(server.region.as_bytes().into());
            }
            let (mut v4, mut v6) = (server.v4, server.v6);
            if let Some(address) = v4.map(IpAddr::V4).filter(|address| !self.serves_server(*address)) {
                self.problem(Table::Servers, &server.id, &Fault::Outside { address });
                v4 = None;
            }
            if let Some(address) = v6.map(IpAddr::V6).filter(|address| !self.serves_server(*address)) {
                self.problem(Table::Servers, &server.id, &Fault::Outside { address });
                v6 = None;
            }
            if removed {
                (v4, v6) = (None, None);
            }
            let addresses = [v4.map(IpAddr::V4), v6.map(IpAddr::V6)];
            let sets = self.sets((v4, v6), self.settings.ttl);
            if server.id == self.settings.server {
                self.here.extend(addresses.iter().flatten());
                self.insert(LOCAL_NODE.into(), Node::Plain(sets));
            }
            let Some(label) = &server.label else { continue };
            if let Some(holder) = holders.get(label.as_str()).filter(|holder| holder.id != server.id) {
                // The row of a removed server stays behind, and has no answer that could be missed.
                if !removed {
                    let fault = Fault::Taken { name: format!("{label}.node"), by: crate::row::quote(&holder.id) };
                    self.problem(Table::Servers, &server.id, &fault);
                }
                continue;
            }
            // A label and `node` fit below any origin.
            let Ok(name) = self.relative(&[label, "node"]) else { continue };
            for address in addresses.into_iter().flatten() {
                self.own(address, Rank::Server, 0, &name);
            }
            self.insert(name, Node::Plain(sets));
        }
    }

    /// The reverse zones: a PTR for each address that somebody answers with.
    fn pointers(&mut self) {
        let Some(first) = self.settings.zones.first() else { return };
        let Settings { ttl, negative_ttl, .. } = *self.settings;
        let serial = self.generation as u32;
        let mut reverse = BTreeSet::new();
        for range in self.ranges.iter().chain([&MANAGEMENT]) {
            reverse.extend(reverse::zones(*range));
        }
        for (place, zone) in self.settings.zones.iter().enumerate() {
            self.origins.push(Origin::forward(place, zone.wire(), ttl, negative_ttl, serial));
        }
        self.pointers.reserve(self.owners.len() + self.owners.len() / 16);
        let mut target = Vec::new();
        for (address, owner) in std::mem::take(&mut self.owners) {
            let name = reverse::name(address);
            let owned = |zone: &Vec<u8>| name.ends_with(&zone[..zone.len() - 1]);
            let Some(zone) = reverse.iter().find(|zone| owned(zone)) else { continue };
            target.clear();
            target.extend_from_slice(&self.owner_names[owner.name]);
            target.extend_from_slice(first.wire());
            let set = self.wire.set(rtype::PTR, Tail::Whole, ttl, std::iter::once(&target));
            insert(&mut self.pointers, name, Node::Plain(set.into()), zone.len() - 1);
        }
        for zone in &reverse {
            self.origins.push(Origin::reverse(zone, first.wire(), ttl, negative_ttl, serial));
        }
    }

    fn finish(mut self) -> Contents {
        // The longest first: of two zones that hold a name, the longer one answers it.
        self.origins.sort_by(|a, b| (b.wire().len(), a.wire()).cmp(&(a.wire().len(), b.wire())));
        self.origins.dedup_by(|a, b| a.wire() == b.wire());
        Contents {
            server: self.settings.server.as_str().into(),
            generation: self.generation,
            wire: self.wire,
            origins: self.origins.into(),
            names: self.names,
            pointers: self.pointers,
            regions: self.regions,
            here: self.here,
            problems: self.problems,
            problem_count: self.problem_count,
        }
    }

    /// Whether an address may be served: inside the cluster's ranges, or one of this development cluster's own.
    fn serves(&self, address: IpAddr) -> bool {
        self.ranges.iter().chain(&self.settings.own_addresses).any(|range| range.contains(&address))
    }

    /// Whether an address may be served as a server's: that, or a management address.
    fn serves_server(&self, address: IpAddr) -> bool {
        MANAGEMENT.contains(&address) || self.serves(address)
    }

    /// A relative name of these labels, if it fits below every origin.
    fn relative(&self, labels: &[&str]) -> Result<Box<[u8]>, NameError> {
        let name = name::relative(labels)?;
        if name.len() > self.room { Err(NameError::LongName(name.len())) } else { Ok(name) }
    }

    /// The A and AAAA sets of an instance or a server.
    fn sets(&mut self, (v4, v6): Addresses, ttl: Ttl) -> Sets {
        Sets::of(self.wire.a(v4.into_iter(), ttl), self.wire.aaaa(v6.into_iter(), ttl))
    }

    /// Puts a node at a name that fits, and empty non-terminals above it.
    fn insert(&mut self, relative: Box<[u8]>, node: Node) {
        insert(&mut self.names, relative, node, 0);
    }

    /// Says that an address answers under this relative name.
    fn own(&mut self, address: IpAddr, rank: Rank, started_at: i64, name: &[u8]) {
        let rank = (rank, started_at);
        if let Some(held) = self.owners.get(&address) {
            let held = (held.rank, &self.owner_names[held.name.clone()]);
            if held >= (rank, name) {
                return;
            }
        }
        let start = self.owner_names.len();
        self.owner_names.extend_from_slice(name);
        self.owners.insert(address, Owner { rank, name: start..self.owner_names.len() });
    }

    fn problem(&mut self, table: Table, key: &str, fault: &Fault) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { table, key: crate::row::quote(key), reason: fault.to_string() });
        }
    }

    /// A list at a name; without entries the name exists and has no data.
    fn list(&mut self, labels: &[&str], list: &List, ttl: Ttl) {
        // A keyword before a flat name fits below any origin.
        let Ok(name) = self.relative(labels) else { return };
        if list.cut() > 0 {
            tracing::debug!(name = labels.join("."), entries = list.cut(), "list cut at 65000 bytes");
        }
        let set = self.wire.set(rtype::TXT, Tail::Whole, ttl, list.rdata().into_iter());
        self.insert(name, Node::Plain(set.into()));
    }
}

/// Who has each `{server}.node`: of ids that differ only in case the first in key order, but none that is removed before
/// one that is not.
fn holders(facts: &Facts) -> BTreeMap<&str, &Server> {
    let mut holders: BTreeMap<&str, &Server> = BTreeMap::new();
    for (_, server) in facts.servers.used() {
        let Some(label) = &server.label else { continue };
        let held = holders.entry(label).or_insert(server);
        if held.belonging == Belonging::Removed && server.belonging != Belonging::Removed {
            *held = server;
        }
    }
    holders
}

/// What one host or instance can have.
type Addresses = (Option<Ipv4Addr>, Option<Ipv6Addr>);

/// Puts a node into a table, and empty non-terminals at the names above it (RFC 8020), down to `stop` bytes.
fn insert(names: &mut Names, name: Box<[u8]>, node: Node, stop: usize) {
    let mut rest = &*name;
    while let Some((_, parent)) = name::split_first(rest) {
        if parent.len() <= stop || names.contains_key(parent) {
            break;
        }
        names.insert(parent.into(), Node::Plain(Sets::default()));
        rest = parent;
    }
    names.insert(name, node);
}

fn key_text(key: &Key) -> String {
    if key.1.is_empty() { key.0.clone() } else { format!("{}/{}", key.0, key.1) }
}

/// Candidates by what they belong to.
type ByOwner<'a, K> = BTreeMap<K, Vec<super::select::Candidate<'a>>>;
