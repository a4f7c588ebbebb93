//! One table: its rows, decoded, with what finds them by other things than their keys.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::changes::{Changes, Group};
use super::{Effect, Metadata};
use crate::feed::Cell;
use crate::row::{self, Container, Digits, Fault, Key, Nats, Server, Service};

/// The number of a row while it is there.
pub(crate) type Id = u32;

/// A kind of row.
pub(crate) trait Fact: Sized + PartialEq {
    /// What finds rows by other things than their keys.
    type Index: Default + std::fmt::Debug;
    /// How many columns are the key.
    const KEY: usize;

    fn decode(cells: &[Cell], faults: &mut Vec<Fault>) -> Result<Self, Fault>;

    /// Enters a row into the index. Texts that the index has already are shared with it from then on.
    fn add(&mut self, id: Id, index: &mut Self::Index);

    fn remove(&self, id: Id, index: &mut Self::Index);

    /// Marks what depends on this row, which has just come or gone (`other` is what it was or is instead).
    fn mark(&self, other: Option<&Self>, rows: &Rows<Self>, changes: &mut Changes);
}

/// A table as it is, with the snapshot that may be arriving.
#[derive(Debug)]
pub(crate) struct Mirror<T: Fact> {
    rows: Rows<T>,
    /// The snapshot that arrives since a `Reset`.
    stage: Option<Rows<T>>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Loading,
    Current,
    Lost,
}

/// Rows that can be used, and what is wrong with these and with the others.
#[derive(Debug)]
pub(crate) struct Rows<T: Fact> {
    ids: HashMap<Key, Id, RandomState>,
    slots: Vec<Option<(Key, T)>>,
    free: Vec<Id>,
    index: T::Index,
    faults: BTreeMap<Key, Vec<Fault>>,
}

impl<T: Fact> Default for Rows<T> {
    fn default() -> Self {
        Self {
            ids: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            index: T::Index::default(),
            faults: BTreeMap::new(),
        }
    }
}

impl<T: Fact> Rows<T> {
    /// A row by the number that the index gave.
    pub(crate) fn at(&self, id: Id) -> Option<(&Key, &T)> {
        self.slots.get(id as usize).and_then(Option::as_ref).map(|(key, row)| (key, row))
    }

    /// Puts a row in the place of the one that had its key, and marks what depends on either.
    fn put(&mut self, key: &Key, row: Option<T>, faults: Vec<Fault>, changes: &mut Changes) -> Change {
        let mut change = Change::None;
        if self.faults.get(key).map_or(&[][..], Vec::as_slice) != faults {
            changes.faults = true;
            change = Change::Some;
            match faults.is_empty() {
                true => _ = self.faults.remove(key),
                false => _ = self.faults.insert(key.clone(), faults),
            }
        }
        let held = self.ids.get(key).copied();
        let same = held.and_then(|id| self.at(id)).map(|(_, old)| old) == row.as_ref();
        if same {
            return change;
        }
        let old = held.and_then(|id| self.take(key, id));
        if let Some(mut row) = row {
            let id = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                // As many rows as the store can hold: far below 2³².
                (self.slots.len() - 1) as Id
            });
            row.add(id, &mut self.index);
            self.slots[id as usize] = Some((key.clone(), row));
            self.ids.insert(key.clone(), id);
        }
        let new = self.ids.get(key).and_then(|id| self.at(*id)).map(|(_, row)| row);
        if let Some(old) = &old {
            old.mark(new, self, changes);
        }
        if let Some(new) = new {
            new.mark(old.as_ref(), self, changes);
        }
        Change::Some
    }

    fn take(&mut self, key: &Key, id: Id) -> Option<T> {
        self.ids.remove(key);
        let (_, row) = self.slots[id as usize].take()?;
        row.remove(id, &mut self.index);
        self.free.push(id);
        Some(row)
    }
}

/// Whether anything is different.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Some,
}

impl<T: Fact> Default for Mirror<T> {
    fn default() -> Self {
        Self { rows: Rows::default(), stage: None, phase: Phase::Loading }
    }
}

impl<T: Fact> Mirror<T> {
    /// The rows that count.
    pub(crate) fn rows(&self) -> &Rows<T> {
        &self.rows
    }

    pub(crate) fn index(&self) -> &T::Index {
        &self.rows.index
    }

    /// The rows that can be used, in no order.
    pub(crate) fn used(&self) -> impl Iterator<Item = (&Key, &T)> {
        self.rows.slots.iter().flatten().map(|(key, row)| (key, row))
    }

    /// Everything that is wrong with rows, in key order.
    pub(crate) fn faults(&self) -> impl Iterator<Item = (&Key, &Fault)> {
        self.rows.faults.iter().flat_map(|(key, faults)| faults.iter().map(move |fault| (key, fault)))
    }

    /// The row of a one-column key.
    pub(crate) fn get(&self, key: &str) -> Option<&T> {
        self.rows.ids.get(key).and_then(|id| self.rows.at(*id)).map(|(_, row)| row)
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn upsert(&mut self, cells: &[Cell], changes: &mut Changes) -> Effect {
        let mut faults = Vec::new();
        let row = T::decode(cells, &mut faults).map_err(|fault| faults.push(fault)).ok();
        self.put(&row::key(cells, T::KEY), row, faults, changes)
    }

    pub(super) fn delete(&mut self, cells: &[Cell], changes: &mut Changes) -> Effect {
        self.put(&row::key(cells, T::KEY), None, Vec::new(), changes)
    }

    /// Rows go to the stage while a snapshot arrives.
    fn put(&mut self, key: &Key, row: Option<T>, faults: Vec<Fault>, changes: &mut Changes) -> Effect {
        if let Some(stage) = &mut self.stage {
            stage.put(key, row, faults, &mut Changes::default());
            return Effect::None;
        }
        let change = self.rows.put(key, row, faults, changes);
        match (std::mem::replace(&mut self.phase, Phase::Current), change) {
            (Phase::Loading, _) => {
                self.phase = Phase::Loading;
                Effect::None
            }
            (Phase::Current | Phase::Lost, Change::Some) => Effect::Facts,
            (Phase::Lost, Change::None) => Effect::Freshness,
            (Phase::Current, Change::None) => Effect::None,
        }
    }

    pub(super) fn reset(&mut self) {
        self.stage = Some(Rows::default());
    }

    pub(super) fn synced(&mut self, changes: &mut Changes) -> Effect {
        let was = std::mem::replace(&mut self.phase, Phase::Current);
        match (self.stage.take(), was) {
            (Some(rows), _) => {
                self.rows = rows;
                *changes = Changes::everything();
                Effect::Facts
            }
            (None, Phase::Loading) => Effect::Facts,
            (None, Phase::Lost) => Effect::Freshness,
            (None, Phase::Current) => Effect::None,
        }
    }

    pub(super) fn lost(&mut self, changes: &mut Changes) {
        self.stage = None;
        match self.phase {
            Phase::Loading => {
                self.rows = Rows::default();
                *changes = Changes::everything();
            }
            Phase::Current | Phase::Lost => self.phase = Phase::Lost,
        }
    }
}

impl Fact for Metadata {
    type Index = ();
    const KEY: usize = 1;

    fn decode(cells: &[Cell], faults: &mut Vec<Fault>) -> Result<Self, Fault> {
        Metadata::decode(cells, faults)
    }

    fn add(&mut self, _: Id, (): &mut ()) {}

    fn remove(&self, _: Id, (): &mut ()) {}

    fn mark(&self, _: Option<&Self>, _: &Rows<Self>, changes: &mut Changes) {
        changes.metadata = true;
    }
}

/// Rows by one thing that several can have.
type By<K> = HashMap<K, Vec<Id>, RandomState>;

fn enter<K: std::hash::Hash + Eq>(by: &mut By<K>, key: K, id: Id) {
    by.entry(key).or_default().push(id);
}

fn leave<K: std::hash::Hash + Eq>(by: &mut By<K>, key: &K, id: Id) {
    let Some(ids) = by.get_mut(key) else { return };
    if let Some(at) = ids.iter().position(|held| *held == id) {
        ids.swap_remove(at);
    }
    if ids.is_empty() {
        by.remove(key);
    }
}

fn found<'a, K: std::hash::Hash + Eq>(by: &'a By<K>, key: &K) -> &'a [Id] {
    by.get(key).map_or(&[][..], Vec::as_slice)
}

/// Servers by their labels, of which ids that differ in case have the same.
#[derive(Debug, Default)]
pub(crate) struct ServerIndex {
    labels: By<Arc<str>>,
}

impl ServerIndex {
    pub(crate) fn label(&self, label: &Arc<str>) -> &[Id] {
        found(&self.labels, label)
    }
}

impl Fact for Server {
    type Index = ServerIndex;
    const KEY: usize = 1;

    fn decode(cells: &[Cell], faults: &mut Vec<Fault>) -> Result<Self, Fault> {
        Server::decode(cells, faults)
    }

    fn add(&mut self, id: Id, index: &mut ServerIndex) {
        if let Some(label) = &self.label {
            enter(&mut index.labels, Arc::clone(label), id);
        }
    }

    fn remove(&self, id: Id, index: &mut ServerIndex) {
        if let Some(label) = &self.label {
            leave(&mut index.labels, label, id);
        }
    }

    fn mark(&self, _: Option<&Self>, rows: &Rows<Self>, changes: &mut Changes) {
        changes.servers.insert(Arc::clone(&self.id));
        let Some(label) = &self.label else { return };
        let others = rows.index.label(label).iter().filter_map(|id| rows.at(*id));
        changes.servers.extend(others.map(|(_, other)| Arc::clone(&other.id)));
    }
}

/// Services by their lower-cased names.
#[derive(Debug, Default)]
pub(crate) struct ServiceIndex {
    /// Rows whose names differ only in case are several.
    groups: By<Group>,
    /// The projects that have a service of this name, with the number of its rows.
    projects: HashMap<Arc<str>, BTreeMap<Arc<str>, usize>, RandomState>,
}

impl ServiceIndex {
    pub(crate) fn group(&self, group: &Group) -> &[Id] {
        found(&self.groups, group)
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.keys()
    }

    /// The projects that have a service of this name.
    pub(crate) fn projects(&self, service: &str) -> impl ExactSizeIterator<Item = &Arc<str>> {
        static NONE: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        self.projects.get(service).unwrap_or(&NONE).keys()
    }
}

impl Service {
    fn group(&self) -> Group {
        (Arc::clone(&self.project), Arc::clone(&self.name))
    }
}

impl Fact for Service {
    type Index = ServiceIndex;
    const KEY: usize = 2;

    fn decode(cells: &[Cell], faults: &mut Vec<Fault>) -> Result<Self, Fault> {
        Service::decode(cells, faults)
    }

    fn add(&mut self, id: Id, index: &mut ServiceIndex) {
        enter(&mut index.groups, self.group(), id);
        *index.projects.entry(Arc::clone(&self.name)).or_default().entry(Arc::clone(&self.project)).or_default() += 1;
    }

    fn remove(&self, id: Id, index: &mut ServiceIndex) {
        leave(&mut index.groups, &self.group(), id);
        let Some(projects) = index.projects.get_mut(&self.name) else { return };
        if let Some(count) = projects.get_mut(&self.project) {
            *count -= 1;
            if *count == 0 {
                projects.remove(&self.project);
            }
        }
        if projects.is_empty() {
            index.projects.remove(&self.name);
        }
    }

    fn mark(&self, other: Option<&Self>, _: &Rows<Self>, changes: &mut Changes) {
        changes.groups.insert(self.group());
        if other.is_none_or(|other| other.group() != self.group()) {
            changes.services.insert(Arc::clone(&self.name));
        }
    }
}

/// Containers by what names are made of.
#[derive(Debug, Default)]
pub(crate) struct ContainerIndex {
    groups: By<Group>,
    servers: By<Arc<str>>,
    /// The first row of these digits.
    digits: HashMap<Digits, Id, RandomState>,
    /// All rows of digits that several have.
    twins: HashMap<Digits, Vec<Id>, RandomState>,
}

impl ContainerIndex {
    /// The rows that name this project and service.
    pub(crate) fn group(&self, group: &Group) -> &[Id] {
        found(&self.groups, group)
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.keys()
    }

    /// The rows on a server.
    pub(crate) fn server(&self, server: &Arc<str>) -> &[Id] {
        found(&self.servers, server)
    }

    /// All rows whose ids begin with these digits, if there are several.
    pub(crate) fn twins(&self, digits: &Digits) -> &[Id] {
        self.twins.get(digits).map_or(&[][..], Vec::as_slice)
    }
}

impl Container {
    pub(crate) fn group(&self) -> Group {
        (Arc::clone(&self.project), Arc::clone(&self.service))
    }
}

impl Fact for Container {
    type Index = ContainerIndex;
    const KEY: usize = 1;

    fn decode(cells: &[Cell], faults: &mut Vec<Fault>) -> Result<Self, Fault> {
        Container::decode(cells, faults)
    }

    fn add(&mut self, id: Id, index: &mut ContainerIndex) {
        if let Some(((project, service), _)) = index.groups.get_key_value(&self.group()) {
            (self.project, self.service) = (Arc::clone(project), Arc::clone(service));
        }
        if let Some((server, _)) = index.servers.get_key_value(&self.server) {
            self.server = Arc::clone(server);
        }
        enter(&mut index.groups, self.group(), id);
        enter(&mut index.servers, Arc::clone(&self.server), id);
        if let Some(first) = index.digits.get(&self.digits) {
            index.twins.entry(self.digits).or_insert_with(|| vec![*first]).push(id);
        } else {
            index.digits.insert(self.digits, id);
        }
    }

    fn remove(&self, id: Id, index: &mut ContainerIndex) {
        leave(&mut index.groups, &self.group(), id);
        leave(&mut index.servers, &self.server, id);
        leave(&mut index.twins, &self.digits, id);
        match index.twins.get(&self.digits).map(Vec::as_slice) {
            None => _ = index.digits.remove(&self.digits),
            Some([last]) => {
                index.digits.insert(self.digits, *last);
                index.twins.remove(&self.digits);
            }
            Some([first, ..]) => _ = index.digits.insert(self.digits, *first),
            Some([]) => {}
        }
    }

    fn mark(&self, _: Option<&Self>, rows: &Rows<Self>, changes: &mut Changes) {
        changes.groups.insert(self.group());
        // One row more or less can make another one a twin, or the only one again.
        let alike = rows.index.twins(&self.digits).iter().chain(rows.index.digits.get(&self.digits));
        changes.groups.extend(alike.filter_map(|id| rows.at(*id)).map(|(_, row)| row.group()));
    }
}

/// NATS servers by their clusters.
#[derive(Debug, Default)]
pub(crate) struct NatsIndex {
    clusters: By<Arc<str>>,
}

impl NatsIndex {
    pub(crate) fn cluster(&self, cluster: &Arc<str>) -> &[Id] {
        found(&self.clusters, cluster)
    }

    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.clusters.keys()
    }
}

impl Fact for Nats {
    type Index = NatsIndex;
    const KEY: usize = 1;

    fn decode(cells: &[Cell], faults: &mut Vec<Fault>) -> Result<Self, Fault> {
        Nats::decode(cells, faults)
    }

    fn add(&mut self, id: Id, index: &mut NatsIndex) {
        enter(&mut index.clusters, Arc::clone(&self.cluster), id);
    }

    fn remove(&self, id: Id, index: &mut NatsIndex) {
        leave(&mut index.clusters, &self.cluster, id);
    }

    fn mark(&self, _: Option<&Self>, _: &Rows<Self>, changes: &mut Changes) {
        changes.clusters.insert(Arc::clone(&self.cluster));
    }
}
