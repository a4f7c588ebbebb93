//! Rows as candidates: the containers of a group, the servers of a cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::draft::View;
use super::unit;
use crate::facts::{Group, Standing};
use crate::name;
use crate::row::{Container, Fault, Key, Nats, Role, Server, Service, Serving};
use crate::zone::select::Candidate;

/// What a server's row says of the instances on it.
struct Host<'a> {
    region: &'a str,
    addresses: [Option<IpAddr>; 2],
}

/// The rows of one group, in key order, each with what came of it.
pub(super) struct Checked<'a> {
    pub(super) candidates: Vec<Candidate<'a>>,
    /// The rows that are left out.
    pub(super) faults: Vec<(&'a Key, Fault)>,
}

impl<'a> View<'a> {
    /// The service rows of a group. Of those that differ only in case, which names cannot tell apart, the first in key
    /// order counts.
    pub(super) fn services(&self, group: &Group) -> Vec<(&'a Key, &'a Service)> {
        let services = &self.facts.services;
        let mut rows: Vec<_> = services.index().group(group).iter().filter_map(|id| services.rows().at(*id)).collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        rows
    }

    /// The containers of a group: those that name it, and those whose project follows from the service.
    pub(super) fn containers(&self, group: &Group) -> Checked<'a> {
        let containers = &self.facts.containers;
        let (project, service) = group;
        let mut ids = containers.index().group(group).to_vec();
        let projects = self.facts.services.index().projects(service);
        let lone = projects.len() == 1;
        if !project.is_empty() && lone && projects.into_iter().any(|one| one == project) {
            ids.extend_from_slice(containers.index().group(&(Arc::from(""), Arc::clone(service))));
        }
        let mut rows: Vec<_> = ids.iter().filter_map(|id| containers.rows().at(*id)).collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        let mut checked = Checked { candidates: Vec::new(), faults: Vec::new() };
        for (key, row) in rows {
            let host = self.host(&row.server);
            let result = self
                .not_a_twin(key, row)
                .and_then(|()| self.inside(host.as_ref(), row.v4.map(IpAddr::V4), row.v6.map(IpAddr::V6)))
                .and_then(|()| if project.is_empty() { self.project(service) } else { Ok(()) });
            match result {
                Err(fault) => checked.faults.push((key, fault)),
                // These are candidates of the one service of their name.
                Ok(()) if project.is_empty() => {}
                Ok(()) => {
                    let region = host.map_or("", |host| host.region);
                    checked.candidates.push(container(key, row, region, self.facts.standing(&row.server)));
                }
            }
        }
        if project.is_empty() && lone {
            // Theirs is to say what is wrong as well.
            checked.faults.clear();
        }
        checked
    }

    /// The servers of a cluster.
    pub(super) fn cluster(&self, cluster: &Arc<str>) -> Checked<'a> {
        let nats = &self.facts.nats;
        let mut rows: Vec<_> = nats.index().cluster(cluster).iter().filter_map(|id| nats.rows().at(*id)).collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        let mut checked = Checked { candidates: Vec::new(), faults: Vec::new() };
        let mut labels: BTreeMap<&str, &Key> = BTreeMap::new();
        for (key, row) in rows {
            // Of names that differ only in case the first in key order counts.
            let first = *labels.entry(&row.label).or_insert(key);
            if first != key {
                let (name, by) = (format!("{}.vm.{cluster}", row.label), crate::row::quote(first.as_str()));
                checked.faults.push((key, Fault::Taken { name, by }));
                continue;
            }
            let host = self.host(&row.server);
            match self.inside(host.as_ref(), row.v4.map(IpAddr::V4), row.v6.map(IpAddr::V6)) {
                Err(fault) => checked.faults.push((key, fault)),
                Ok(()) => {
                    // A row without a region of its own is where its host is.
                    let own = Some(row.region.as_str()).filter(|region| !region.is_empty());
                    let region = own.or(host.map(|host| host.region)).unwrap_or("");
                    checked.candidates.push(server(key, row, region, self.facts.standing(&row.server)));
                }
            }
        }
        checked
    }

    /// The flat names that a unit claims, sorted.
    pub(super) fn labels(&self, key: &unit::Key) -> Vec<Box<str>> {
        let mut labels: Vec<Box<str>> = Vec::new();
        match key {
            unit::Key::Fixed | unit::Key::Server(_) => {}
            unit::Key::Cluster(cluster) if self.facts.nats.index().cluster(cluster).is_empty() => {}
            unit::Key::Cluster(cluster) => labels.push((**cluster).into()),
            unit::Key::Group(group) => {
                let (project, service) = group;
                let flat = format!("{project}-{service}");
                let candidates = self.containers(group).candidates;
                let slots = candidates.iter().filter_map(|one| one.slot_label);
                labels.extend(slots.map(|slot| format!("{flat}-{slot}").into()));
                if !self.facts.services.index().group(group).is_empty() {
                    labels.push(flat.into());
                }
            }
        }
        labels.retain(|label| label.len() <= name::LABEL_MAX);
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    fn host(&self, server: &str) -> Option<Host<'a>> {
        let row: &'a Server = self.facts.servers.get(server)?;
        let addresses = [row.v4.map(IpAddr::V4), row.v6.map(IpAddr::V6)];
        // What the server itself may not answer with, nothing on it may.
        let addresses = addresses.map(|address| address.filter(|address| self.domain.serves_server(*address)));
        Some(Host { region: &row.region, addresses })
    }

    /// Rows whose ids begin alike are both left out, since neither can be told to be the one that was meant.
    fn not_a_twin(&self, key: &Key, row: &Container) -> Result<(), Fault> {
        let containers = &self.facts.containers;
        let twins = containers.index().twins(&row.digits).iter();
        let others =
            twins.filter_map(|id| containers.rows().at(*id)).map(|(other, _)| other).filter(|other| *other != key);
        others.min().map_or(Ok(()), |other| Err(Fault::SameId(crate::row::quote(other.as_str()))))
    }

    /// Whether the project of containers that name none is known: when there is one service of their name.
    fn project(&self, service: &Arc<str>) -> Result<(), Fault> {
        match self.facts.services.index().projects(service).len() {
            1 => Ok(()),
            0 => Err(Fault::NoService(service.to_string())),
            count => Err(Fault::AmbiguousProject { service: service.to_string(), count }),
        }
    }

    /// Refuses an address that neither the cluster's ranges nor the instance's own server has.
    fn inside(&self, host: Option<&Host<'_>>, v4: Option<IpAddr>, v6: Option<IpAddr>) -> Result<(), Fault> {
        let of_host = |address: IpAddr| host.is_some_and(|host| host.addresses.contains(&Some(address)));
        let mut addresses = v4.into_iter().chain(v6);
        let bad = addresses.find(|address| !self.domain.serves(*address) && !of_host(*address));
        bad.map_or(Ok(()), |address| Err(Fault::Outside { address }))
    }
}

fn container<'a>(key: &'a Key, row: &'a Container, region: &'a str, standing: Standing) -> Candidate<'a> {
    Candidate {
        key: key.as_str(),
        label: row.digits.as_str(),
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

fn server<'a>(key: &'a Key, row: &'a Nats, region: &'a str, standing: Standing) -> Candidate<'a> {
    Candidate {
        key: key.as_str(),
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
