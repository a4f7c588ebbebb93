//! Facts in, contents of a zone out: which names exist and what stands at them.
//!
//! What names are made of are *units*: a server, the containers of one project and service, a NATS cluster. A unit puts
//! its names into shards, and nobody else changes them; when something changes, the units that it touches are taken
//! out and put in anew, and all other shards stay as they are. The first zone is the same with all units.
//!
//! Units meet in four places only: flat names, which several may claim (`claims`); addresses, whose PTR the shard
//! itself decides; empty non-terminals above names of several units, which are counted (`shared`); and problems, which
//! are listed in the order of units.

mod app;
mod claims;
mod domain;
mod draft;
mod explain;
mod group;
mod scope;
mod server;
mod shared;
mod unit;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::entry::{Entries, Entry};
use super::shard::{Places, ShardId, Shards};
use super::{Contents, Settings};
use crate::access::Access;
use crate::facts::{Changes, Facts};
use crate::feed::{Member, Table};
use crate::forward::Routes;
use crate::row::{Fault, Key};
use claims::Claims;
pub(super) use domain::Domain;
pub(crate) use domain::reverse_zones;
use draft::{Draft, View};
pub(super) use explain::explain;
use shared::Shared;
use unit::{Dirty, Units};

/// Most services that did not get their flat name which are told one by one.
const CLASHES_MAX: usize = 20;
/// Most problems kept with their reasons; beyond, they are only counted.
const PROBLEMS_MAX: usize = 100;

/// Something left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) table: Table,
    pub(crate) key: String,
    pub(crate) reason: String,
    /// Whether its name is somebody else's.
    pub(crate) taken: bool,
}

impl Problem {
    fn new(table: Table, key: &str, fault: &Fault) -> Self {
        Self {
            table,
            key: crate::row::quote(key),
            reason: fault.to_string(),
            taken: matches!(fault, Fault::Taken { .. }),
        }
    }
}

/// The writer's side of a zone: what the next one is made from.
pub(crate) struct Builder {
    settings: Arc<Settings>,
    domain: Domain,
    names: Shards,
    pointers: Shards,
    units: Units,
    /// Above names of several units.
    shared_names: Shared,
    /// Above addresses.
    shared_pointers: Shared,
    regions: Arc<BTreeSet<Box<[u8]>>>,
    here: Arc<BTreeSet<IpAddr>>,
    subnets: Arc<Access>,
    members: Arc<[Member]>,
    problems: Arc<[Problem]>,
    problem_count: usize,
    clashes: Arc<[Problem]>,
}

impl Builder {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let domain = Domain::new(&settings, settings.ranges.clone());
        Self::within(settings, domain)
    }

    /// The domains below our origins that are not ours.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.settings.routes)
    }

    fn within(settings: Arc<Settings>, domain: Domain) -> Self {
        Self {
            settings,
            domain,
            names: Shards::default(),
            pointers: Shards::default(),
            units: Units::default(),
            shared_names: Shared::default(),
            shared_pointers: Shared::default(),
            regions: Arc::default(),
            here: Arc::default(),
            subnets: Arc::default(),
            members: Arc::new([]),
            problems: Arc::new([]),
            problem_count: 0,
            clashes: Arc::new([]),
        }
    }

    /// The contents of these facts, of which `changes` are not in the last ones yet.
    pub(super) fn contents(&mut self, facts: &Facts, mut changes: Changes, generation: u64) -> Contents {
        // Configured ranges are the operator's word on this host; what the store says counts only without it, so that
        // one row cannot widen what a configured host serves.
        let ranges = if self.settings.ranges.is_empty() { facts.ranges() } else { self.settings.ranges.clone() };
        if changes.everything || ranges != *self.domain.ranges() {
            let settings = Arc::clone(&self.settings);
            let domain = Domain::new(&settings, ranges);
            *self = Self::within(settings, domain);
            changes = Changes::everything();
        }
        let keys = self.scope(facts, &changes);
        let settings = Arc::clone(&self.settings);
        let view = View { facts, settings: &settings, domain: &self.domain, regions: &self.regions };
        let mut dirty = Dirty::of(&mut self.units, keys);
        let claims = Claims::find(&view, &self.names, &self.units, &mut dirty);
        let (names, pointers) = Self::write(&view, &mut self.units, &dirty, &claims);
        self.place(&dirty, names, pointers);
        if changes.everything || changes.faults || self.units.problems_changed() {
            self.list_problems(facts);
        }
        Contents {
            server: self.settings.server.as_str().into(),
            ttl: self.settings.ttl,
            generation,
            ranges: self.domain.ranges().into(),
            origins: self.domain.origins(),
            names: self.names.clone(),
            pointers: self.pointers.clone(),
            regions: Arc::clone(&self.regions),
            here: Arc::clone(&self.here),
            subnets: Arc::clone(&self.subnets),
            members: Arc::clone(&self.members),
            problems: Arc::clone(&self.problems),
            problem_count: self.problem_count,
            clashes: Arc::clone(&self.clashes),
            lists: super::list::Lists::default(),
        }
    }

    /// Everything that these units say, and what they say is wrong.
    fn write(view: &View<'_>, units: &mut Units, dirty: &Dirty, claims: &Claims) -> (Entries, Entries) {
        let mut draft = Draft::new(view);
        for unit in dirty.iter() {
            draft.begin(unit);
            match units.key(unit) {
                unit::Key::Fixed => draft.fixed(),
                unit::Key::Server(id) => draft.server(id),
                unit::Key::Group(group) => draft.group(group, claims),
                unit::Key::Cluster(cluster) => draft.cluster(cluster, claims),
            }
            let (problems, count) = draft.end();
            units.set_problems(unit, problems, count);
        }
        draft.finish()
    }

    /// Puts what was written in the place of what these units had.
    fn place(&mut self, dirty: &Dirty, mut names: Entries, mut pointers: Entries) {
        let mut deltas = HashMap::default();
        for unit in dirty.iter() {
            shared::count(&mut deltas, self.units.names(unit).entries(&self.names, unit), -1, shared::above_name);
        }
        shared::count(&mut deltas, names.iter(), 1, shared::above_name);
        let gone = self.shared_names.apply(deltas, &mut names);
        let places = touched(dirty.iter().map(|unit| self.units.names(unit)), gone.iter(), &self.names);
        let is_gone =
            |entry: &Entry<'_>| dirty.has(entry.unit) || (entry.unit == unit::SHARED && gone.contains(entry.name));
        self.names.replace(&places, is_gone, &names);

        let mut deltas = HashMap::default();
        let domain = &self.domain;
        let above = |name: &[u8], out: &mut dyn FnMut(&[u8])| domain.above_pointer(name, out);
        for unit in dirty.iter() {
            shared::count(&mut deltas, self.units.pointers(unit).entries(&self.pointers, unit), -1, above);
        }
        shared::count(&mut deltas, pointers.iter(), 1, above);
        let gone = self.shared_pointers.apply(deltas, &mut pointers);
        let places = touched(dirty.iter().map(|unit| self.units.pointers(unit)), gone.iter(), &self.pointers);
        let is_gone =
            |entry: &Entry<'_>| dirty.has(entry.unit) || (entry.unit == unit::SHARED && gone.contains(entry.name));
        self.pointers.replace(&places, is_gone, &pointers);
        self.units.settle(dirty, (&self.names, &names), (&self.pointers, &pointers));
    }

    fn list_problems(&mut self, facts: &Facts) {
        let of = |table: Table, (key, fault): (&Key, &Fault)| Problem::new(table, &key.text(), fault);
        let of_rows = (facts.metadata.faults().map(|one| of(Table::Metadata, one)))
            .chain(facts.servers.faults().map(|one| of(Table::Servers, one)))
            .chain(facts.services.faults().map(|one| of(Table::Services, one)))
            .chain(facts.containers.faults().map(|one| of(Table::Containers, one)))
            .chain(facts.nats.faults().map(|one| of(Table::NatsServers, one)));
        let in_rows: usize = [
            facts.metadata.faults().count(),
            facts.servers.faults().count(),
            facts.services.faults().count(),
            facts.containers.faults().count(),
            facts.nats.faults().count(),
        ]
        .iter()
        .sum();
        self.problems = of_rows.chain(self.units.problems().cloned()).take(PROBLEMS_MAX).collect();
        self.problem_count = in_rows + self.units.problem_count();
        // Of services somebody is to hear, however much else is wrong.
        let clashes = self.units.problems().filter(|one| one.taken && one.table == Table::Services);
        self.clashes = clashes.take(CLASHES_MAX).cloned().collect();
    }
}

/// The shards to look at: those of the units, and those of names that nothing is below any more.
fn touched<'a>(
    units: impl Iterator<Item = &'a Places>,
    gone: impl Iterator<Item = &'a Box<[u8]>>,
    shards: &Shards,
) -> Vec<ShardId> {
    let mut all: Vec<ShardId> = units.flat_map(Places::iter).collect();
    all.extend(gone.map(|name| shards.shard_of(name)));
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests;
