//! The names of one APP: a service or a NATS cluster.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::group::Groups;
use super::{Builder, Rank};
use crate::config::Ttl;
use crate::feed::Table;
use crate::name::{self, NameError};
use crate::row::{Fallback, Fault, Nats, Port, Role, Service};
use crate::zone::list::List;
use crate::zone::records::{Sets, Tail, rtype};
use crate::zone::select::{Candidate, answers_alone, select};
use crate::zone::{Endpoint, Endpoints, Node, Place, RRSET_MAX};

/// SRV priority 0 and weight 1: all the same, so that clients balance evenly (RFC 2782).
const SRV_HEAD: [u8; 4] = [0, 0, 0, 1];

/// One APP as it is being named.
struct App<'g, 'a> {
    /// What status calls it.
    holder: Holder<'a>,
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
type Taken<'a> = HashMap<String, Holder<'a>, RandomState>;

/// Who has a flat name.
#[derive(Clone, Copy)]
enum Holder<'a> {
    Service { project: &'a str, name: &'a str },
    Cluster(&'a str),
    Instance { project: &'a str, name: &'a str, slot: &'a str },
}

impl Holder<'_> {
    fn table(self) -> Table {
        match self {
            Holder::Service { .. } => Table::Services,
            Holder::Cluster(_) => Table::NatsServers,
            Holder::Instance { .. } => Table::Containers,
        }
    }
}

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Service { project, name } => write!(f, "{project}/{name}"),
            Holder::Cluster(cluster) => f.write_str(cluster),
            Holder::Instance { project, name, slot } => write!(f, "{project}/{name}/{slot}"),
        }
    }
}

impl<'a> Builder<'a> {
    /// Names all APPs, then the lists of everything, then the instances by their flat names.
    pub(super) fn apps(&mut self, groups: &Groups<'a>) {
        let mut taken = Taken::default();
        let mut instances = List::new(';');
        for ((project, name), service) in &groups.services {
            let candidates = groups.containers.get(&(*project, *name)).map_or(&[][..], Vec::as_slice);
            let holder = Holder::Service { project, name };
            let flat = self.claim(&mut taken, holder, format!("{project}-{name}"));
            self.app(&service_app(self.settings.ttl, service, holder, flat, candidates), &mut instances);
        }
        for (cluster, candidates) in &groups.clusters {
            let holder = Holder::Cluster(cluster);
            let Some(flat) = self.claim(&mut taken, holder, (*cluster).to_owned()) else { continue };
            self.app(&cluster_app(self.settings.ttl, holder, flat, candidates), &mut instances);
        }
        let mut apps = List::new(',');
        for app in taken.keys().collect::<BTreeSet<_>>() {
            apps.push(format_args!("{app}"));
        }
        self.list(&["_apps"], &apps, self.settings.ttl);
        self.list(&["_instances"], &instances, self.settings.ttl);
        for ((project, name), candidates) in &groups.containers {
            self.instances(groups, (project, name), candidates, &taken);
        }
    }

    /// Takes a flat name for somebody, or says who has it.
    fn claim(&mut self, taken: &mut Taken<'a>, holder: Holder<'a>, flat: String) -> Option<String> {
        if let Err(reason) = name::label(&flat) {
            self.problem(holder.table(), &holder.to_string(), &Fault::Unnameable { name: flat, reason });
            return None;
        }
        if let Some(by) = taken.get(&flat) {
            let fault = Fault::Taken { name: flat, by: by.to_string() };
            self.problem(holder.table(), &holder.to_string(), &fault);
            return None;
        }
        taken.insert(flat.clone(), holder);
        Some(flat)
    }

    fn app(&mut self, app: &App<'_, 'a>, instances: &mut List) {
        let live = select(app.candidates.iter(), app.fallback);
        let all = self.addresses(&live, app.ttl);
        if let Some((service, project)) = app.service {
            self.put(app, &[service, project, "svc"], Node::Plain(all));
        }
        if let Some(flat) = &app.flat {
            self.flat_names(app, flat, &live, all);
            for one in &live {
                push_instance(instances, one, flat);
            }
        }
        self.srv_names(app, &live);
    }

    /// Everything at and below `APP` but SRV.
    fn flat_names(&mut self, app: &App<'_, 'a>, flat: &str, live: &[&Candidate<'a>], all: Sets) {
        self.put(app, &[flat], Node::App(all));
        self.put(app, &["global", flat], Node::Plain(all));
        let endpoints = Arc::new(Endpoints { ttl: app.ttl, list: self.nearest(live) });
        self.put(app, &["peers", flat], Node::Peers(Arc::clone(&endpoints)));
        self.put(app, &["nearest", "of", flat], Node::Nearest(endpoints));
        let mut regions = List::new(',');
        for region in live.iter().filter_map(|one| self.region(one)).collect::<BTreeSet<_>>() {
            regions.push(format_args!("{region}"));
        }
        self.list(&["regions", flat], &regions, app.ttl);
        let mut vms = List::new(',');
        for one in live {
            let blank = if one.region.is_empty() { "" } else { " " };
            vms.push(format_args!("{}{blank}{}", one.label, one.region));
        }
        self.list(&["vms", flat], &vms, app.ttl);
        for (region, members) in partition(app.candidates, |one| self.region(one)) {
            let records = self.addresses(&app.select(&members), app.ttl);
            self.put(app, &[region, flat], Node::Plain(records));
        }
        if app.service.is_none() {
            let groups = partition(app.candidates, |one| one.group);
            for role in Role::ALL {
                let members = groups.get(role.label()).map_or(&[][..], Vec::as_slice);
                let records = self.addresses(&app.select(members), app.ttl);
                self.put(app, &[role.label(), "process", flat], Node::Plain(records));
            }
        }
        for one in app.candidates {
            self.vm(app, flat, one);
        }
    }

    /// The region of an instance, if it is known: while some server that is not removed is in it.
    fn region(&self, one: &Candidate<'a>) -> Option<&'a str> {
        Some(one.region).filter(|region| self.regions.contains(region.as_bytes()))
    }

    /// `{ID}.vm.APP`, and whose address it is.
    fn vm(&mut self, app: &App<'_, 'a>, flat: &str, one: &Candidate<'a>) {
        let answers = answers_alone(one, app.fallback);
        let own = [one.v4.map(IpAddr::V4), one.v6.map(IpAddr::V6)];
        let records = if answers { self.sets((one.v4, one.v6), app.ttl) } else { Sets::default() };
        let Ok(name) = self.named(app.holder, &[one.label, "vm", flat]) else { return };
        for address in own.into_iter().flatten().filter(|_| answers) {
            self.own(address, Rank::Instance, one.started_at, &name);
        }
        self.insert(name, Node::Plain(records));
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
        if app.service.is_none() {
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
            rdata.extend_from_slice(&app.target(one)?);
            Some(rdata)
        });
        let set = Sets::from(self.wire.set(rtype::SRV, Tail::Origin, app.ttl, rdata));
        if let Some((service, project)) = app.service {
            self.put(app, &[name, proto, service, project, "svc"], Node::Plain(set));
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
        taken: &Taken<'a>,
    ) {
        let service = groups.services.get(&(project, name)).copied();
        if service.is_none() {
            for one in candidates {
                let fault = Fault::NoService(format!("{project}/{name}"));
                self.problem(Table::Containers, one.key, &fault);
            }
        }
        let ttl = service.and_then(|service| service.ttl).unwrap_or(self.settings.ttl);
        let fallback = service.map_or(Fallback::Empty, |service| service.fallback);
        let mut flat = String::new();
        let mut slots: Vec<(&str, &Candidate<'a>)> =
            candidates.iter().filter_map(|one| Some((one.slot_label?, one))).collect();
        slots.sort_by_key(|(slot, _)| *slot);
        for members in slots.chunk_by(|(a, _), (b, _)| a == b) {
            let slot = members[0].0;
            let records = self.addresses(&select(members.iter().map(|(_, one)| *one), fallback), ttl);
            let holder = Holder::Instance { project, name, slot };
            if service.is_some()
                && let Ok(long) = self.named(holder, &[slot, name, project, "svc"])
            {
                self.insert(long, Node::Plain(records));
            }
            flat.clear();
            write!(flat, "{project}-{name}-{slot}").expect("writing to a String cannot fail");
            self.flat_instance(holder, &flat, records, taken);
        }
    }

    /// Puts an instance at its flat name, which an APP or an earlier instance may have.
    fn flat_instance(&mut self, holder: Holder<'a>, flat: &str, records: Sets, taken: &Taken<'a>) {
        let Ok(name) = self.named(holder, &[flat]) else { return };
        if !self.names.contains_key(&name) {
            self.insert(name, Node::Plain(records));
            return;
        }
        let by = taken.get(flat).map_or_else(|| "another instance".to_owned(), Holder::to_string);
        self.problem(holder.table(), &holder.to_string(), &Fault::Taken { name: flat.to_owned(), by });
    }

    /// The addresses of instances, as they answer.
    fn addresses(&mut self, chosen: &[&Candidate<'_>], ttl: Ttl) -> Sets {
        let v4 = self.wire.a(chosen.iter().filter_map(|one| one.v4), ttl);
        let v6 = self.wire.aaaa(chosen.iter().filter_map(|one| one.v6), ttl);
        Sets::of(v4, v6)
    }

    /// A relative name of these labels, or a problem of whom it is for.
    fn named(&mut self, holder: Holder<'a>, labels: &[&str]) -> Result<Box<[u8]>, NameError> {
        self.relative(labels).inspect_err(|reason| {
            let fault = Fault::Unnameable { name: labels.join("."), reason: reason.clone() };
            self.problem(holder.table(), &holder.to_string(), &fault);
        })
    }

    /// Puts a node at a name of an APP; a name that does not fit becomes a problem.
    fn put(&mut self, app: &App<'_, 'a>, labels: &[&str], node: Node) {
        if let Ok(name) = self.named(app.holder, labels) {
            self.insert(name, node);
        }
    }

    /// Instances by distance: own server first, then by round trip, those without one last.
    fn nearest(&self, live: &[&Candidate<'a>]) -> Box<[Endpoint]> {
        let here = self.settings.server.as_str();
        let mut order: Vec<_> = live.iter().map(|one| (one, self.facts.rtt(one.server))).collect();
        order.sort_by_key(|(one, rtt)| (one.server != here, rtt.is_none(), *rtt, one.server, one.key));
        // Instances can share an address, and equal records count once (RFC 2181 §5). What is here and what is elsewhere
        // stay apart, since `peers` leaves out the one and keeps the other.
        let (mut seen4, mut seen6) = (BTreeSet::new(), BTreeSet::new());
        let endpoints = order.into_iter().filter_map(|(one, _)| {
            let place = if one.server == here { Place::Here } else { Place::Elsewhere };
            let v4 = one.v4.filter(|address| seen4.insert((*address, place)));
            let v6 = one.v6.filter(|address| seen6.insert((*address, place)));
            (v4.is_some() || v6.is_some()).then_some(Endpoint { v4, v6, place })
        });
        // One more than an RRset holds: the asker's own is left out of `peers`.
        endpoints.take(RRSET_MAX + 1).collect()
    }
}

impl<'a> App<'_, 'a> {
    fn select<'c>(&self, members: &[&'c Candidate<'a>]) -> Vec<&'c Candidate<'a>> {
        select(members.iter().copied(), self.fallback)
    }

    /// What SRV points to: `{ID}.vm.APP`; for a service whose flat name another has, its instance's name below `svc`.
    fn target(&self, one: &Candidate<'a>) -> Option<Box<[u8]>> {
        match (&self.flat, self.service, one.slot_label) {
            (Some(flat), _, _) => name::relative(&[one.label, "vm", flat]).ok(),
            (None, Some((service, project)), Some(slot)) => name::relative(&[slot, service, project, "svc"]).ok(),
            (None, _, _) => None,
        }
    }
}

fn service_app<'g, 'a>(
    ttl: Ttl,
    service: &'a Service,
    holder: Holder<'a>,
    flat: Option<String>,
    candidates: &'g [Candidate<'a>],
) -> App<'g, 'a> {
    App {
        holder,
        flat,
        service: Some((&service.name, &service.project)),
        candidates,
        ports: &service.ports,
        ttl: service.ttl.unwrap_or(ttl),
        fallback: service.fallback,
    }
}

fn cluster_app<'g, 'a>(ttl: Ttl, holder: Holder<'a>, flat: String, candidates: &'g [Candidate<'a>]) -> App<'g, 'a> {
    App { holder, flat: Some(flat), service: None, candidates, ports: &[], ttl, fallback: Fallback::Empty }
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

/// One entry of `_instances`.
fn push_instance(list: &mut List, one: &Candidate<'_>, app: &str) {
    let (label, region) = (one.label, one.region);
    match (one.v4, one.v6) {
        (Some(ip), _) => list.push(format_args!("instance={label},app={app},ip={ip},region={region}")),
        (None, Some(ip)) => list.push(format_args!("instance={label},app={app},ip={ip},region={region}")),
        (None, None) => {}
    }
}
