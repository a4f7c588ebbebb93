//! The names of one APP: a service or a NATS cluster.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::group::Groups;
use super::{Builder, Rank, sets};
use crate::config::Ttl;
use crate::feed::Table;
use crate::name;
use crate::row::{Fallback, Fault, Nats, Port, Role, Service};
use crate::zone::list::List;
use crate::zone::records::{RRset, Tail, rtype};
use crate::zone::select::{Candidate, select};
use crate::zone::{Endpoint, Endpoints, Node, Place, RRSET_MAX};

/// SRV priority 0 and weight 1: all the same, so that clients balance evenly (RFC 2782).
const SRV_HEAD: [u8; 4] = [0, 0, 0, 1];

/// One APP as it is being named.
struct App<'g, 'a> {
    table: Table,
    /// What status calls it.
    key: String,
    /// The flat name, unless another has it.
    flat: Option<String>,
    /// (service, project), for the names below `svc`.
    service: Option<(&'a str, &'a str)>,
    candidates: &'g [Candidate<'a>],
    /// Ports of the service; NATS has none.
    ports: &'a [Port],
    ttl: Ttl,
    fallback: Fallback,
}

/// Flat names, with who has them.
type Taken = HashMap<String, String>;

impl<'a> Builder<'a> {
    /// Names all APPs, then the lists of everything, then the instances by their flat names.
    pub(super) fn apps(&mut self, groups: &Groups<'a>) {
        let mut taken = Taken::new();
        let mut instances = List::new(';');
        for ((project, name), service) in &groups.services {
            let candidates = groups.containers.get(&(*project, *name)).map_or(&[][..], Vec::as_slice);
            let key = format!("{project}/{name}");
            let flat = self.claim(&mut taken, Table::Services, &key, &format!("{project}-{name}"));
            self.app(&service_app(self.settings.ttl, service, key, flat, candidates), &mut instances);
        }
        for (cluster, candidates) in &groups.clusters {
            let key = (*cluster).to_owned();
            let Some(flat) = self.claim(&mut taken, Table::NatsServers, &key, cluster) else { continue };
            self.app(&cluster_app(self.settings.ttl, key, flat, candidates), &mut instances);
        }
        let mut apps = List::new(',');
        for app in taken.keys().collect::<BTreeSet<_>>() {
            apps.push(app);
        }
        self.list(&["_apps"], apps, self.settings.ttl);
        self.list(&["_instances"], instances, self.settings.ttl);
        for ((project, name), candidates) in &groups.containers {
            self.instances(groups, (project, name), candidates, &mut taken);
        }
    }

    /// Takes a flat name for somebody, or says who has it.
    fn claim(&mut self, taken: &mut Taken, table: Table, key: &str, flat: &str) -> Option<String> {
        if let Err(reason) = name::label(flat) {
            self.problem(table, key.to_owned(), &Fault::Unnameable { name: flat.to_owned(), reason });
            return None;
        }
        if let Some(by) = taken.get(flat) {
            let fault = Fault::Taken { name: flat.to_owned(), by: by.clone() };
            self.problem(table, key.to_owned(), &fault);
            return None;
        }
        taken.insert(flat.to_owned(), key.to_owned());
        Some(flat.to_owned())
    }

    fn app(&mut self, app: &App<'_, 'a>, instances: &mut List) {
        let live = select(app.candidates.iter(), app.fallback);
        let all = addresses(&live, app.ttl);
        if let Some((service, project)) = app.service {
            self.put(app, &[service, project, "svc"], Node::Plain(Arc::clone(&all)));
        }
        if let Some(flat) = &app.flat {
            self.flat_names(app, flat, &live, &all);
            for one in &live {
                instances.push(&entry(one, flat));
            }
        }
        self.srv_names(app, &live);
    }

    /// Everything at and below `APP` but SRV.
    fn flat_names(&mut self, app: &App<'_, 'a>, flat: &str, live: &[&Candidate<'a>], all: &Arc<[RRset]>) {
        self.put(app, &[flat], Node::App(Arc::clone(all)));
        self.put(app, &["global", flat], Node::Plain(Arc::clone(all)));
        let endpoints = Arc::new(Endpoints { ttl: app.ttl, list: self.nearest(live) });
        self.put(app, &["peers", flat], Node::Peers(Arc::clone(&endpoints)));
        self.put(app, &["nearest", "of", flat], Node::Nearest(endpoints));
        let mut regions = List::new(',');
        for region in live.iter().map(|one| one.region).filter(|region| !region.is_empty()).collect::<BTreeSet<_>>() {
            regions.push(region);
        }
        self.list(&["regions", flat], regions, app.ttl);
        let mut vms = List::new(',');
        for one in live {
            vms.push(format!("{} {}", one.label, one.region).trim_end());
        }
        self.list(&["vms", flat], vms, app.ttl);
        for (region, members) in partition(app.candidates, |one| (!one.region.is_empty()).then_some(one.region)) {
            self.put(app, &[region, flat], Node::Plain(app.answer(&members)));
        }
        if app.table == Table::NatsServers {
            let groups = partition(app.candidates, |one| one.group);
            for role in Role::ALL {
                let members = groups.get(role.label()).map_or(&[][..], Vec::as_slice);
                self.put(app, &[role.label(), "process", flat], Node::Plain(app.answer(members)));
            }
        }
        for one in app.candidates {
            self.vm(app, flat, one);
        }
    }

    /// `{ID}.vm.APP`, and whose address it is.
    fn vm(&mut self, app: &App<'_, 'a>, flat: &str, one: &Candidate<'a>) {
        let answers = !select(std::iter::once(one), app.fallback).is_empty();
        let own = [one.v4.map(IpAddr::V4), one.v6.map(IpAddr::V6)];
        let records = if answers { sets(&own, app.ttl) } else { Arc::clone(&self.empty) };
        let Ok(name) = self.named(app.table, one.key, &[one.label, "vm", flat]) else { return };
        self.insert(name.as_bytes(), Node::Plain(records));
        for address in own.into_iter().flatten().filter(|_| answers) {
            self.own(address, Rank::Instance, one.started_at, name.as_bytes());
        }
    }

    /// The SRV names, under the flat name and under `svc`.
    fn srv_names(&mut self, app: &App<'_, 'a>, live: &[&Candidate<'a>]) {
        let named: BTreeSet<(&str, &str)> = app
            .candidates
            .iter()
            .flat_map(|one| one.ports)
            .chain(app.ports)
            .map(|port| (port.name.as_str(), port.proto.as_str()))
            .collect();
        for (name, proto) in named {
            let find = |ports: &[Port]| ports.iter().find(|p| p.name == name && p.proto == proto).map(|p| p.port);
            self.srv(app, (name, proto), live, |one| find(one.ports).or_else(|| find(app.ports)));
        }
        if app.table == Table::NatsServers {
            for (index, listener) in Nats::LISTENERS.into_iter().enumerate() {
                self.srv(app, (listener, "_tcp"), live, |one| Some(one.listeners[index]).filter(|port| *port != 0));
            }
        }
    }

    fn srv(
        &mut self,
        app: &App<'_, 'a>,
        (name, proto): (&str, &str),
        live: &[&Candidate<'a>],
        port: impl Fn(&Candidate<'a>) -> Option<u16>,
    ) {
        let rdata = live.iter().filter_map(|one| {
            let mut rdata = Vec::with_capacity(48);
            rdata.extend_from_slice(&SRV_HEAD);
            rdata.extend_from_slice(&port(one)?.to_be_bytes());
            rdata.extend_from_slice(app.target(one)?.as_bytes());
            Some(rdata)
        });
        let set: Arc<[RRset]> = RRset::of(rtype::SRV, Tail::Origin, app.ttl, rdata).into_iter().collect();
        if let Some((service, project)) = app.service {
            self.put(app, &[name, proto, service, project, "svc"], Node::Plain(Arc::clone(&set)));
        }
        if let Some(flat) = &app.flat {
            self.put(app, &[name, proto, flat], Node::Plain(set));
        }
    }

    /// `{instance}.{service}.{project}.svc` while the service is known, and `{project}-{service}-{instance}`.
    fn instances(
        &mut self,
        groups: &Groups<'a>,
        (project, name): (&'a str, &'a str),
        candidates: &[Candidate<'a>],
        taken: &mut Taken,
    ) {
        let service = groups.services.get(&(project, name)).copied();
        if service.is_none() {
            for one in candidates {
                let fault = Fault::NoService(format!("{project}/{name}"));
                self.problem(Table::Containers, one.key.to_owned(), &fault);
            }
        }
        let ttl = service.and_then(|service| service.ttl).unwrap_or(self.settings.ttl);
        let fallback = service.map_or(Fallback::Empty, |service| service.fallback);
        for (slot, members) in partition(candidates, |one| one.slot_label) {
            let records = addresses(&select(members.iter().copied(), fallback), ttl);
            let key = format!("{project}/{name}/{slot}");
            if service.is_some()
                && let Ok(long) = self.named(Table::Containers, &key, &[slot, name, project, "svc"])
            {
                self.insert(long.as_bytes(), Node::Plain(Arc::clone(&records)));
            }
            let flat = self.claim(taken, Table::Containers, &key, &format!("{project}-{name}-{slot}"));
            if let Some(flat) = flat
                && let Ok(flat) = self.named(Table::Containers, &key, &[&flat])
            {
                self.insert(flat.as_bytes(), Node::Plain(records));
            }
        }
    }

    /// Puts a node at a name of an APP; a name that does not fit becomes a problem.
    fn put(&mut self, app: &App<'_, 'a>, labels: &[&str], node: Node) {
        if let Ok(name) = self.named(app.table, &app.key, labels) {
            self.insert(name.as_bytes(), node);
        }
    }

    /// Instances by distance: own server first, then by round trip, those without one last.
    fn nearest(&self, live: &[&Candidate<'a>]) -> Box<[Endpoint]> {
        let here = self.settings.server.as_str();
        let mut order: Vec<_> = live.iter().map(|one| (one, self.facts.rtt(one.server))).collect();
        order.sort_by_key(|(one, rtt)| (one.server != here, rtt.is_none(), *rtt, one.server, one.key));
        let endpoint = |one: &Candidate<'_>| Endpoint {
            v4: one.v4,
            v6: one.v6,
            place: if one.server == here { Place::Here } else { Place::Elsewhere },
        };
        // One more than an RRset holds: the asker's own is left out of `peers`.
        order.into_iter().take(RRSET_MAX + 1).map(|(one, _)| endpoint(one)).collect()
    }
}

impl<'a> App<'_, 'a> {
    fn answer(&self, members: &[&Candidate<'a>]) -> Arc<[RRset]> {
        addresses(&select(members.iter().copied(), self.fallback), self.ttl)
    }

    /// What SRV points to: `{ID}.vm.APP`; for a service whose flat name another has, its instance's name below `svc`.
    fn target(&self, one: &Candidate<'a>) -> Option<name::Relative> {
        match (&self.flat, self.service, one.slot_label) {
            (Some(flat), _, _) => name::Relative::of(&[one.label, "vm", flat]).ok(),
            (None, Some((service, project)), Some(slot)) => name::Relative::of(&[slot, service, project, "svc"]).ok(),
            (None, _, _) => None,
        }
    }
}

fn service_app<'g, 'a>(
    ttl: Ttl,
    service: &'a Service,
    key: String,
    flat: Option<String>,
    candidates: &'g [Candidate<'a>],
) -> App<'g, 'a> {
    App {
        table: Table::Services,
        key,
        flat,
        service: Some((&service.name, &service.project)),
        candidates,
        ports: &service.ports,
        ttl: service.ttl.unwrap_or(ttl),
        fallback: service.fallback,
    }
}

fn cluster_app<'g, 'a>(ttl: Ttl, key: String, flat: String, candidates: &'g [Candidate<'a>]) -> App<'g, 'a> {
    App {
        table: Table::NatsServers,
        key,
        flat: Some(flat),
        service: None,
        candidates,
        ports: &[],
        ttl,
        fallback: Fallback::Empty,
    }
}

/// Candidates by some label of theirs; those without it are in no part.
fn partition<'g, 'a>(
    candidates: &'g [Candidate<'a>],
    by: impl Fn(&Candidate<'a>) -> Option<&'a str>,
) -> BTreeMap<&'a str, Vec<&'g Candidate<'a>>> {
    let mut parts: BTreeMap<&str, Vec<&Candidate<'_>>> = BTreeMap::new();
    for one in candidates {
        if let Some(label) = by(one) {
            parts.entry(label).or_default().push(one);
        }
    }
    parts
}

/// The addresses of instances, as they answer.
fn addresses(chosen: &[&Candidate<'_>], ttl: Ttl) -> Arc<[RRset]> {
    let v4 = RRset::a(chosen.iter().filter_map(|one| one.v4), ttl);
    let v6 = RRset::aaaa(chosen.iter().filter_map(|one| one.v6), ttl);
    [v4, v6].into_iter().flatten().collect()
}

/// One entry of `_instances`.
fn entry(one: &Candidate<'_>, app: &str) -> String {
    let address = one.v4.map(IpAddr::V4).or(one.v6.map(IpAddr::V6));
    let address = address.map(|address| address.to_string()).unwrap_or_default();
    format!("instance={},app={app},ip={address},region={}", one.label, one.region)
}
