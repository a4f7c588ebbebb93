//! Rows as candidates, grouped by the service or the cluster that they belong to.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use foldhash::fast::RandomState;

use super::{Builder, ByOwner};
use crate::facts::Standing;
use crate::feed::Table;
use crate::row::{Container, Fault, Key, Nats, Role, Server, Service, Serving};
use crate::zone::select::Candidate;

/// All candidates, and the services that there are.
pub(super) struct Groups<'a> {
    /// By (project, service), byte-wise.
    pub(super) services: BTreeMap<(&'a str, &'a str), &'a Service>,
    pub(super) containers: ByOwner<'a, (&'a str, &'a str)>,
    /// By name. A cluster is known while any row of it exists, also one that cannot be served.
    pub(super) clusters: ByOwner<'a, &'a str>,
}

/// What a server's row says of the instances on it.
struct Host<'a> {
    region: &'a str,
    addresses: [Option<IpAddr>; 2],
    standing: Standing,
}

impl<'a> Groups<'a> {
    pub(super) fn of(builder: &mut Builder<'a>) -> Self {
        let facts = builder.facts;
        let mut groups = Self { services: services(builder), containers: BTreeMap::new(), clusters: BTreeMap::new() };
        let hosts: HashMap<&str, Host<'a>> =
            facts.servers.used().map(|(_, row)| (row.id.as_str(), Host::of(builder, row))).collect();
        groups.containers(builder, &hosts);
        groups.clusters(builder, &hosts);
        groups
    }

    fn containers(&mut self, builder: &mut Builder<'a>, hosts: &HashMap<&str, Host<'a>>) {
        let facts = builder.facts;
        let mut projects: HashMap<&str, Vec<&'a str>> = HashMap::new();
        for (project, service) in self.services.keys() {
            projects.entry(service).or_default().push(project);
        }
        let twins = twins(facts.containers.used());
        for (key, row) in facts.containers.used() {
            let host = hosts.get(row.server.as_str());
            let checked = not_a_twin(&twins, &key.0, row)
                .and_then(|()| inside(builder, host, row.v4, row.v6))
                .and_then(|()| project(row, &projects));
            match checked {
                Err(fault) => builder.problem(Table::Containers, &key.0, &fault),
                Ok(project) => {
                    let standing = host.map_or_else(|| facts.standing(&row.server), |host| host.standing);
                    let candidate = container(&key.0, row, host.map_or("", |host| host.region), standing);
                    self.containers.entry((project, &row.service)).or_default().push(candidate);
                }
            }
        }
    }

    fn clusters(&mut self, builder: &mut Builder<'a>, hosts: &HashMap<&str, Host<'a>>) {
        let facts = builder.facts;
        for (key, row) in facts.nats.used() {
            let members = self.clusters.entry(&row.cluster).or_default();
            let host = hosts.get(row.server.as_str());
            match inside(builder, host, row.v4, row.v6) {
                Err(fault) => builder.problem(Table::NatsServers, &key.0, &fault),
                Ok(()) => {
                    let standing = host.map_or_else(|| facts.standing(&row.server), |host| host.standing);
                    // A row without a region of its own is where its host is.
                    let own = Some(row.region.as_str()).filter(|region| !region.is_empty());
                    let region = own.or(host.map(|host| host.region)).unwrap_or("");
                    members.push(nats(&key.0, row, region, standing));
                }
            }
        }
    }
}

impl<'a> Host<'a> {
    fn of(builder: &Builder<'a>, row: &'a Server) -> Self {
        let addresses = [row.v4.map(IpAddr::V4), row.v6.map(IpAddr::V6)];
        // What the server itself may not answer with, nothing on it may.
        let addresses = addresses.map(|address| address.filter(|address| builder.serves_server(*address)));
        Self { region: &row.region, addresses, standing: builder.facts.standing(&row.id) }
    }
}

/// Services by their names. Of those that differ only in case, which names cannot tell apart, the first in key order
/// counts, and each other is named as a problem.
fn services<'a>(builder: &mut Builder<'a>) -> BTreeMap<(&'a str, &'a str), &'a Service> {
    let mut services: BTreeMap<(&str, &str), (&Key, &Service)> = BTreeMap::new();
    for (key, row) in builder.facts.services.used() {
        match services.entry((&row.project, &row.name)) {
            Entry::Vacant(free) => _ = free.insert((key, row)),
            Entry::Occupied(held) => {
                let name = format!("{}-{}", row.project, row.name);
                let fault = Fault::Taken { name, by: super::key_text(held.get().0) };
                builder.problem(Table::Services, &super::key_text(key), &fault);
            }
        }
    }
    services.into_iter().map(|(name, (_, row))| (name, row)).collect()
}

fn container<'a>(key: &'a str, row: &'a Container, region: &'a str, standing: Standing) -> Candidate<'a> {
    Candidate {
        key,
        label: &row.id12,
        slot_label: row.slot_label.as_deref(),
        group: None,
        slot: row.slot.as_deref(),
        server: &row.server,
        region,
        v4: row.v4,
        v6: row.v6,
        ports: &row.ports,
        listeners: [0; 4],
        health: row.health,
        serving: row.serving,
        standing,
        started_at: row.started_at,
    }
}

fn nats<'a>(key: &'a str, row: &'a Nats, region: &'a str, standing: Standing) -> Candidate<'a> {
    Candidate {
        key,
        label: &row.label,
        slot_label: None,
        group: row.role.map(Role::label),
        slot: Some(&row.label),
        server: &row.server,
        region,
        v4: row.v4,
        v6: row.v6,
        ports: &[],
        listeners: row.ports,
        health: row.health,
        serving: Serving::Yes,
        standing,
        started_at: row.started_at,
    }
}

/// The keys of rows whose ids begin alike, by what they begin with; both of a pair are left out, since neither can be
/// told to be the one that was meant.
fn twins<'a>(rows: impl Iterator<Item = (&'a Key, &'a Container)>) -> HashMap<&'a str, Vec<&'a str>> {
    let mut seen: HashMap<&str, &str, RandomState> =
        HashMap::with_capacity_and_hasher(rows.size_hint().1.unwrap_or(0), RandomState::default());
    let mut twins: HashMap<&str, Vec<&str>> = HashMap::new();
    for (key, row) in rows {
        if let Some(first) = seen.insert(&row.id12, &key.0) {
            let all = twins.entry(&row.id12).or_insert_with(|| vec![first]);
            all.push(&key.0);
        }
    }
    twins
}

fn not_a_twin(twins: &HashMap<&str, Vec<&str>>, key: &str, row: &Container) -> Result<(), Fault> {
    let other = twins.get(row.id12.as_str()).and_then(|all| all.iter().find(|other| **other != key));
    other.map_or(Ok(()), |other| Err(Fault::SameId(crate::row::quote(other))))
}

/// The project of a container: its own, or that of the one service of its name.
fn project<'a>(row: &'a Container, projects: &HashMap<&str, Vec<&'a str>>) -> Result<&'a str, Fault> {
    if !row.project.is_empty() {
        return Ok(&row.project);
    }
    match projects.get(row.service.as_str()).map_or(&[][..], Vec::as_slice) {
        [one] => Ok(one),
        [] => Err(Fault::NoService(row.service.clone())),
        many => Err(Fault::AmbiguousProject { service: row.service.clone(), count: many.len() }),
    }
}

/// Refuses an address that neither the cluster's ranges nor the instance's own server has.
fn inside(
    builder: &Builder<'_>,
    host: Option<&Host<'_>>,
    v4: Option<std::net::Ipv4Addr>,
    v6: Option<std::net::Ipv6Addr>,
) -> Result<(), Fault> {
    let of_host = |address: IpAddr| host.is_some_and(|host| host.addresses.contains(&Some(address)));
    let addresses = [v4.map(IpAddr::V4), v6.map(IpAddr::V6)];
    let bad = addresses.into_iter().flatten().find(|address| !builder.serves(*address) && !of_host(*address));
    bad.map_or(Ok(()), |address| Err(Fault::Outside { address }))
}
