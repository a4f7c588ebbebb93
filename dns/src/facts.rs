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
//! Each row is decoded once, when it arrives. What the next zone has to look at is remembered until it asks
//! (`take_changes`). This module reads no clock.

mod changes;
mod index;
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::feed::{Cell, Event, Member, MemberState, Table};
use crate::row::{self, Belonging, Container, Fault, Nats, Server, Service};
pub(crate) use changes::{Changes, Group};
pub(crate) use rows::Mirror;
use rows::Phase;

/// All facts. One writer owns them; the zone is built from a reference.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) metadata: Mirror<Metadata>,
    pub(crate) servers: Mirror<Server>,
    pub(crate) services: Mirror<Service>,
    pub(crate) containers: Mirror<Container>,
    pub(crate) nats: Mirror<Nats>,
    /// By node id. As many as the fleet has had servers since the start; members are never forgotten, because one that
    /// is no longer heard of is silent, which is different from one that never was a member.
    members: BTreeMap<Arc<str>, Member>,
    /// What the next zone has to look at.
    changes: Changes,
}

/// One fact of the cluster as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) ranges: Vec<IpNet>,
}

/// How far the facts as a whole can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freshness {
    /// Some table was never complete: nothing can be said of any name.
    #[default]
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
        let changes = &mut self.changes;
        match event {
            Event::Reset(table) => self.reset(table),
            Event::Upsert { table, cells } => match table {
                Table::Metadata => self.metadata.upsert(&cells, changes),
                Table::Servers => self.servers.upsert(&cells, changes),
                Table::Services => self.services.upsert(&cells, changes),
                Table::Containers => self.containers.upsert(&cells, changes),
                Table::NatsServers => self.nats.upsert(&cells, changes),
            },
            Event::Delete { table, cells } => match table {
                Table::Metadata => self.metadata.delete(&cells, changes),
                Table::Servers => self.servers.delete(&cells, changes),
                Table::Services => self.services.delete(&cells, changes),
                Table::Containers => self.containers.delete(&cells, changes),
                Table::NatsServers => self.nats.delete(&cells, changes),
            },
            Event::Synced(table) => match table {
                Table::Metadata => self.metadata.synced(changes),
                Table::Servers => self.servers.synced(changes),
                Table::Services => self.services.synced(changes),
                Table::Containers => self.containers.synced(changes),
                Table::NatsServers => self.nats.synced(changes),
            },
            // When to build is the follower's.
            Event::Committed(_) => Effect::None,
            Event::Members(members) => {
                let effects: Vec<_> = members.into_iter().map(|member| self.member(member)).collect();
                if effects.contains(&Effect::Facts) { Effect::Facts } else { Effect::None }
            }
            Event::Member(member) => self.member(member),
            Event::FeedLost => self.lost(),
        }
    }

    /// What changed since this was last asked.
    pub(crate) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
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

    /// Whether a server is up under another boot than its row names.
    pub(crate) fn has_rebooted(&self, server: &str) -> bool {
        self.members.get(server).is_some_and(|member| member.state == MemberState::Up)
            && self.standing(server) == Standing::Silent
    }

    /// What was last heard of servers, in the order of their ids.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Facts of which nothing is known yet but how servers were before this start: who was silent is until it is heard.
    pub(crate) fn remembering(members: Vec<Member>) -> Self {
        let members = members.into_iter().map(|member| (Arc::from(member.server.as_str()), member)).collect();
        Self { members, changes: Changes::everything(), ..Self::default() }
    }

    /// Round trip to a server, if known.
    pub(crate) fn rtt(&self, server: &str) -> Option<Duration> {
        self.members.get(server).and_then(|member| member.rtt)
    }

    /// `cluster_cidr` of the metadata table.
    pub(crate) fn ranges(&self) -> Vec<IpNet> {
        // Only one key has any, so that the order of rows is none of the ranges'.
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
            Table::Metadata => self.metadata.phase(),
            Table::Servers => self.servers.phase(),
            Table::Services => self.services.phase(),
            Table::Containers => self.containers.phase(),
            Table::NatsServers => self.nats.phase(),
        }
    }

    fn member(&mut self, member: Member) -> Effect {
        let rank = |rtt: Option<Duration>| {
            let own = place(&member.server, rtt);
            let others = self.members.iter().filter(|(server, _)| ***server != *member.server);
            others.filter(|(server, other)| place(server, other.rtt) < own).count()
        };
        // Round trips jitter with every measurement; only one that changes who is nearer is worth a zone.
        let same = self.members.get(&*member.server).is_some_and(|old| {
            old.state == member.state
                && old.boot_id == member.boot_id
                && old.rtt.is_some() == member.rtt.is_some()
                && (old.rtt == member.rtt || rank(old.rtt) == rank(member.rtt))
        });
        let server = Arc::<str>::from(&*member.server);
        if !same {
            self.changes.servers.insert(Arc::clone(&server));
        }
        self.members.insert(server, member);
        if same { Effect::None } else { Effect::Facts }
    }

    fn lost(&mut self) -> Effect {
        let before = self.freshness();
        self.metadata.lost(&mut self.changes);
        self.servers.lost(&mut self.changes);
        self.services.lost(&mut self.changes);
        self.containers.lost(&mut self.changes);
        self.nats.lost(&mut self.changes);
        if self.freshness() == before { Effect::None } else { Effect::Freshness }
    }
}

/// How near a server is: those without a round trip last, equal ones by their ids.
pub(crate) fn place(server: &str, rtt: Option<Duration>) -> (bool, Option<Duration>, &str) {
    (rtt.is_none(), rtt, server)
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

#[cfg(test)]
mod tests;
