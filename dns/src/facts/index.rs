//! What finds the rows of each table by other things than their keys, and what depends on a row.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Metadata;
use super::changes::{Changes, Group};
use super::rows::{Fact, Id, Rows};
use crate::feed::Cell;
use crate::row::{Container, Digits, Fault, Nats, Server, Service};

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
        let others = rows.index().label(label).iter().filter_map(|id| rows.at(*id));
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
        let alike = rows.index().twins(&self.digits).iter().chain(rows.index().digits.get(&self.digits));
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
