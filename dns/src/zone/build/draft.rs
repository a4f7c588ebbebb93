//! What units say of themselves, written down.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::domain::Domain;
use super::shared::is_shared;
use super::{PROBLEMS_MAX, Problem};
use crate::config::Ttl;
use crate::facts::Facts;
use crate::feed::Table;
use crate::name;
use crate::row::Fault;
use crate::zone::Settings;
use crate::zone::entry::{Entries, Kind, UnitId, push_pointer_head};
use crate::zone::records::{Tail, push_a, push_aaaa, push_set, rtype};

/// What a unit is made from.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) facts: &'a Facts,
    pub(super) settings: &'a Settings,
    pub(super) domain: &'a Domain,
    /// Region labels of servers that are not removed.
    pub(super) regions: &'a BTreeSet<Box<[u8]>>,
}

/// What an address's PTR is chosen by: a server comes before an instance, of those the one that started last.
#[derive(Clone, Copy)]
pub(super) enum Rank {
    Instance { started_at: i64 },
    Server,
}

/// The names and problems of one unit after the other.
pub(super) struct Draft<'a> {
    pub(super) view: View<'a>,
    unit: UnitId,
    /// The names of this unit; of equal ones the last counts.
    own: Entries,
    names: Entries,
    pointers: Entries,
    problems: Vec<Problem>,
    problem_count: usize,
}

impl<'a> Draft<'a> {
    pub(super) fn new(view: &View<'a>) -> Self {
        Self {
            view: *view,
            unit: 0,
            own: Entries::default(),
            names: Entries::default(),
            pointers: Entries::default(),
            problems: Vec::new(),
            problem_count: 0,
        }
    }

    /// Begins with a unit.
    pub(super) fn begin(&mut self, unit: UnitId) {
        self.unit = unit;
    }

    /// The unit that is being written.
    pub(super) fn unit(&self) -> UnitId {
        self.unit
    }

    /// Ends a unit: its problems, the first of them and how many there are.
    pub(super) fn end(&mut self) -> (Vec<Problem>, usize) {
        let mut all: Vec<_> = self.own.iter().collect();
        // Stable: of equal names the last one stays last.
        all.sort_by_key(|entry| entry.name);
        let is = |name: &[u8]| all.binary_search_by_key(&name, |entry| entry.name).is_ok();
        let mut above: Vec<&[u8]> = Vec::new();
        for entry in &all {
            let mut rest = entry.name;
            while let Some((_, parent)) = name::split_first(rest).filter(|(_, parent)| !is_shared(parent)) {
                // Neighbours have the same names above them, mostly.
                if above.last() == Some(&parent) {
                    break;
                }
                above.push(parent);
                rest = parent;
            }
        }
        above.sort_unstable();
        above.dedup();
        for name in above.into_iter().filter(|name| !is(name)) {
            self.names.push(self.unit, Kind::Plain, name, |_| {});
        }
        for same in all.chunk_by(|a, b| a.name == b.name) {
            self.names.copy(&same[same.len() - 1]);
        }
        self.own.clear();
        (std::mem::take(&mut self.problems), std::mem::take(&mut self.problem_count))
    }

    /// All names and all addresses.
    pub(super) fn finish(self) -> (Entries, Entries) {
        (self.names, self.pointers)
    }

    /// Puts something at a name, in the place of what the unit put there before.
    pub(super) fn put(&mut self, name: &[u8], kind: Kind, write: impl FnOnce(&mut Vec<u8>)) {
        self.own.push(self.unit, kind, name, write);
    }

    /// Says that an address answers under this relative name.
    pub(super) fn own(&mut self, address: IpAddr, rank: Rank, relative: &[u8]) {
        let Some(first) = self.view.settings.zones.first() else { return };
        let Some(name) = self.view.domain.pointer(address) else { return };
        let target = [relative, first.wire()].concat();
        let ttl = self.view.settings.ttl;
        self.pointers.push(self.unit, Kind::Pointer, &name, |out| {
            match rank {
                Rank::Instance { started_at } => push_pointer_head(out, 0, started_at),
                Rank::Server => push_pointer_head(out, 1, 0),
            }
            push_set(out, rtype::PTR, Tail::Whole, ttl, std::iter::once(target));
        });
    }

    pub(super) fn problem(&mut self, table: Table, key: &str, fault: &Fault) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem::new(table, key, fault));
        }
    }
}

/// The A and AAAA sets of these addresses.
pub(super) fn addresses(
    out: &mut Vec<u8>,
    v4: impl Iterator<Item = Ipv4Addr>,
    v6: impl Iterator<Item = Ipv6Addr>,
    ttl: Ttl,
) {
    push_a(out, v4, ttl);
    push_aaaa(out, v6, ttl);
}
