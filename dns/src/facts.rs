//! The facts: what the feed said last, table by table, and how far it can be believed.
//!
//! ```text
//!            Reset                 Synced
//!  Loading ─────────► Loading ─────────────► Current ◄───────────── Synced, or any further row
//!                                              │  ▲ Synced (staged rows replace the old ones whole)
//!                                        Reset │  │
//!                                              ▼  │                        FeedLost (staged rows are dropped)
//!                                     rows go to the stage ─────────────────────────────────► Lost
//! ```
//!
//! Each row is decoded once, when it arrives. This module reads no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use crate::feed::{Cell, Event, Member, MemberState, Table};
use crate::row::{self, Belonging, Container, Fault, Key, Nats, Server, Service};

/// All facts. One writer owns them; the zone is built from a reference.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) metadata: Rows<Metadata>,
    pub(crate) servers: Rows<Server>,
    pub(crate) services: Rows<Service>,
    pub(crate) containers: Rows<Container>,
    pub(crate) nats: Rows<Nats>,
    /// By node id. As many as the fleet has had servers since the start; members are never forgotten, because one that
    /// is no longer heard of is silent, which is different from one that never was a member.
    members: BTreeMap<String, Member>,
}

/// One fact of the cluster as a whole.
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    pub(crate) ranges: Vec<IpNet>,
}

/// One table.
#[derive(Debug)]
pub(crate) struct Rows<T> {
    rows: BTreeMap<Key, Entry<T>>,
    /// The snapshot that arrives since a `Reset`.
    stage: Option<BTreeMap<Key, Entry<T>>>,
    phase: Phase,
}

/// One row, with everything that is wrong with it. `None`: too wrong to be used.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) row: Option<T>,
    pub(crate) faults: Vec<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Loading,
    Current,
    Lost,
}

/// How far the facts as a whole can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Some table was never complete: nothing can be said of any name.
    Loading,
    /// All tables follow the store.
    Current,
    /// The store is away; the facts are the last ones known.
    Stale,
}

/// What an event changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that shows.
    None,
    /// What is known, so that the zone has to be built anew.
    Facts,
    /// Only how far it can be believed.
    Freshness,
}

/// What a server's state does to the instances on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing.
    Serving,
    /// Not heard of, or rebooted since its row was written: left out, reversibly.
    Silent,
    /// Left out by the operator, while it runs on.
    Draining,
    /// Removed by the operator.
    Removed,
}

impl Facts {
    /// Takes one event.
    pub(crate) fn apply(&mut self, event: Event) -> Effect {
        match event {
            Event::Reset(table) => self.reset(table),
            Event::Upsert { table, cells } => match table {
                Table::Metadata => self.metadata.upsert(&cells, 1, Metadata::decode),
                Table::Servers => self.servers.upsert(&cells, 1, Server::decode),
                Table::Services => self.services.upsert(&cells, 2, Service::decode),
                Table::Containers => self.containers.upsert(&cells, 1, Container::decode),
                Table::NatsServers => self.nats.upsert(&cells, 1, Nats::decode),
            },
            Event::Delete { table, cells } => match table {
                Table::Metadata => self.metadata.delete(&cells, 1),
                Table::Servers => self.servers.delete(&cells, 1),
                Table::Services => self.services.delete(&cells, 2),
                Table::Containers => self.containers.delete(&cells, 1),
                Table::NatsServers => self.nats.delete(&cells, 1),
            },
            Event::Synced(table) => match table {
                Table::Metadata => self.metadata.synced(),
                Table::Servers => self.servers.synced(),
                Table::Services => self.services.synced(),
                Table::Containers => self.containers.synced(),
                Table::NatsServers => self.nats.synced(),
            },
            Event::Member(member) => self.member(member),
            Event::FeedLost => self.lost(),
        }
    }

    pub(crate) fn freshness(&self) -> Freshness {
        let phases = Table::ALL.map(|table| self.phase(table));
        if phases.contains(&Phase::Loading) {
            Freshness::Loading
        } else if phases.contains(&Phase::Lost) {
            Freshness::Stale
        } else {
            Freshness::Current
        }
    }

    /// How a server stands, by its row and by what is heard of it. A server that never was a member is not silent; a
    /// missing row excludes nothing. A member that reports another boot than its row names has rebooted, and until the
    /// row catches up, its rows name dead addresses.
    pub(crate) fn standing(&self, server: &str) -> Standing {
        let row = self.servers.get(server);
        match row.map_or(Belonging::Member, |row| row.belonging) {
            Belonging::Removed => return Standing::Removed,
            Belonging::Draining => return Standing::Draining,
            Belonging::Member => {}
        }
        let Some(member) = self.members.get(server) else { return Standing::Serving };
        let boot = row.map_or("", |row| row.boot_id.as_str());
        let rebooted = !boot.is_empty() && !member.boot_id.is_empty() && boot != member.boot_id;
        match member.state {
            MemberState::Up if !rebooted => Standing::Serving,
            MemberState::Up | MemberState::Silent | MemberState::Removed => Standing::Silent,
        }
    }

    /// Round trip to a server, if known.
    pub(crate) fn rtt(&self, server: &str) -> Option<Duration> {
        self.members.get(server).and_then(|member| member.rtt)
    }

    /// `cluster_cidr` of the metadata table.
    pub(crate) fn ranges(&self) -> Vec<IpNet> {
        self.metadata.used().flat_map(|(_, metadata)| metadata.ranges.iter().copied()).collect()
    }

    fn reset(&mut self, table: Table) -> Effect {
        match table {
            Table::Metadata => self.metadata.reset(),
            Table::Servers => self.servers.reset(),
            Table::Services => self.services.reset(),
            Table::Containers => self.containers.reset(),
            Table::NatsServers => self.nats.reset(),
        }
        Effect::None
    }

    fn phase(&self, table: Table) -> Phase {
        match table {
            Table::Metadata => self.metadata.phase,
            Table::Servers => self.servers.phase,
            Table::Services => self.services.phase,
            Table::Containers => self.containers.phase,
            Table::NatsServers => self.nats.phase,
        }
    }

    fn member(&mut self, member: Member) -> Effect {
        let rank = |members: &BTreeMap<String, Member>, rtt: Option<Duration>| {
            let nearer = members.values().filter(|other| other.server != member.server);
            nearer.filter(|other| other.rtt.is_some() && (rtt.is_none() || other.rtt < rtt)).count()
        };
        // Round trips jitter with every measurement; only one that changes who is nearer is worth a zone.
        let same = self.members.get(&member.server).is_some_and(|old| {
            old.state == member.state
                && old.boot_id == member.boot_id
                && old.rtt.is_some() == member.rtt.is_some()
                && rank(&self.members, old.rtt) == rank(&self.members, member.rtt)
        });
        self.members.insert(member.server.clone(), member);
        if same { Effect::None } else { Effect::Facts }
    }

    fn lost(&mut self) -> Effect {
        let before = self.freshness();
        self.metadata.lost();
        self.servers.lost();
        self.services.lost();
        self.containers.lost();
        self.nats.lost();
        if self.freshness() == before { Effect::None } else { Effect::Freshness }
    }
}

impl Metadata {
    /// Only `cluster_cidr` matters here: ranges, separated by commas or blanks.
    fn decode(cells: &[Cell], _faults: &mut Vec<Fault>) -> Result<Self, Fault> {
        let [Cell::Text(key), Cell::Text(value)] = cells else {
            return Err(Fault::Type { column: "key or value", found: "something else", wanted: "a text" });
        };
        if key != "cluster_cidr" {
            return Ok(Self { ranges: Vec::new() });
        }
        let parts = value.split([',', ' ']).filter(|part| !part.is_empty());
        let ranges: Result<Vec<IpNet>, _> = parts.map(str::parse).collect();
        ranges.map(|ranges| Self { ranges }).map_err(|_| Fault::Range(row::quote(value)))
    }
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), stage: None, phase: Phase::Loading }
    }
}

impl<T> Rows<T> {
    /// The rows that can be used, in key order.
    pub(crate) fn used(&self) -> impl Iterator<Item = (&Key, &T)> {
        self.rows.iter().filter_map(|(key, entry)| entry.row.as_ref().map(|row| (key, row)))
    }

    /// Everything that is wrong with rows, in key order.
    pub(crate) fn faults(&self) -> impl Iterator<Item = (&Key, &Fault)> {
        self.rows.iter().flat_map(|(key, entry)| entry.faults.iter().map(move |fault| (key, fault)))
    }

    /// The row of a one-column key.
    fn get(&self, key: &str) -> Option<&T> {
        self.rows.get(&(key.to_owned(), String::new())).and_then(|entry| entry.row.as_ref())
    }

    fn upsert(
        &mut self,
        cells: &[Cell],
        key_columns: usize,
        decode: fn(&[Cell], &mut Vec<Fault>) -> Result<T, Fault>,
    ) -> Effect {
        let mut faults = Vec::new();
        let row = decode(cells, &mut faults).map_err(|fault| faults.push(fault)).ok();
        let key = row::key(cells, key_columns);
        self.target().insert(key, Entry { row, faults });
        self.changed()
    }

    fn delete(&mut self, cells: &[Cell], key_columns: usize) -> Effect {
        self.target().remove(&row::key(cells, key_columns));
        self.changed()
    }

    /// Where rows go: to the stage while a snapshot arrives.
    fn target(&mut self) -> &mut BTreeMap<Key, Entry<T>> {
        self.stage.as_mut().unwrap_or(&mut self.rows)
    }

    fn changed(&mut self) -> Effect {
        match (&self.stage, self.phase) {
            (Some(_), _) | (None, Phase::Loading) => Effect::None,
            (None, Phase::Current | Phase::Lost) => {
                self.phase = Phase::Current;
                Effect::Facts
            }
        }
    }

    fn reset(&mut self) {
        self.stage = Some(BTreeMap::new());
    }

    fn synced(&mut self) -> Effect {
        let was = std::mem::replace(&mut self.phase, Phase::Current);
        match (self.stage.take(), was) {
            (Some(rows), _) => {
                self.rows = rows;
                Effect::Facts
            }
            (None, Phase::Loading) => Effect::Facts,
            (None, Phase::Lost) => Effect::Freshness,
            (None, Phase::Current) => Effect::None,
        }
    }

    fn lost(&mut self) {
        self.stage = None;
        match self.phase {
            Phase::Loading => self.rows.clear(),
            Phase::Current | Phase::Lost => self.phase = Phase::Lost,
        }
    }
}

#[cfg(test)]
mod tests;
