//! The names of one APP: a service or a NATS cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::claims::Claims;
use super::draft::{Draft, Rank, addresses};
use super::group::Checked;
use crate::config::Ttl;
use crate::facts::{self, Group};
use crate::feed::Table;
use crate::name::{self, NameError};
use crate::row::{Fallback, Fault, Nats, Port, Role, Service};
use crate::zone::RRSET_MAX;
use crate::zone::entry::Kind;
use crate::zone::list::List;
use crate::zone::node::{Endpoint, Place, push_endpoints};
use crate::zone::records::{Tail, push_set, rtype};
use crate::zone::select::{Candidate, answers_alone, select};

/// SRV priority 0 and weight 1: all the same, so that clients balance evenly (RFC 2782).
const SRV_HEAD: [u8; 4] = [0, 0, 0, 1];

/// One APP as it is being named.
struct App<'g, 'a> {
    /// What status calls it.
    holder: Holder<'g>,
    /// The flat name, unless another has it.
    flat: Option<String>,
    /// (service, project), for the names below `svc`.
    service: Option<(&'g str, &'g str)>,
    candidates: &'g [Candidate<'a>],
    /// Ports of the service; NATS has none.
    ports: &'g [Port],
    ttl: Ttl,
    fallback: Fallback,
}

/// Who a flat name stands for.
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

impl<'a> Draft<'a> {
    /// The names of a service, if there is one, and of the instances in its name.
    pub(super) fn group(&mut self, group: &Group, claims: &Claims) {
        let view = self.view;
        let services = view.services(group);
        for (key, _) in services.iter().skip(1) {
            let fault = Fault::Taken { name: format!("{}-{}", group.0, group.1), by: services[0].0.text() };
            self.problem(Table::Services, &key.text(), &fault);
        }
        let Checked { candidates, faults } = view.containers(group);
        for (key, fault) in faults {
            self.problem(Table::Containers, key.as_str(), &fault);
        }
        let (project, name) = (&*group.0, &*group.1);
        let service = services.first().map(|(_, row)| *row);
        if let Some(row) = service {
            let holder = Holder::Service { project, name };
            let flat = self.claim(claims, holder, format!("{project}-{name}"));
            let ttl = row.ttl.unwrap_or(view.settings.ttl);
            self.app(&App {
                holder,
                flat,
                service: Some((name, project)),
                candidates: &candidates,
                ports: &row.ports,
                ttl,
                fallback: row.fallback,
            });
        }
        self.instances(service, (project, name), &candidates, claims);
    }

    /// The names of a NATS cluster.
    pub(super) fn cluster(&mut self, cluster: &Arc<str>, claims: &Claims) {
        let view = self.view;
        if view.facts.nats.index().cluster(cluster).is_empty() {
            return;
        }
        let Checked { candidates, faults } = view.cluster(cluster);
        for (key, fault) in faults {
            self.problem(Table::NatsServers, key.as_str(), &fault);
        }
        let holder = Holder::Cluster(cluster);
        // Without the flat name a cluster has none.
        let Some(flat) = self.claim(claims, holder, cluster.to_string()) else { return };
        let (ttl, fallback) = (view.settings.ttl, Fallback::Empty);
        self.app(&App { holder, flat: Some(flat), service: None, candidates: &candidates, ports: &[], ttl, fallback });
    }

    /// Takes a flat name for somebody, or says who has it.
    fn claim(&mut self, claims: &Claims, holder: Holder<'_>, flat: String) -> Option<String> {
        if let Err(reason) = name::label(&flat) {
            self.problem(holder.table(), &holder.to_string(), &Fault::Unnameable { name: flat, reason });
            return None;
        }
        let Err(by) = claims.get(&flat, self.unit()) else { return Some(flat) };
        let by = by.to_string();
        if let Ok(name) = name::relative(&[&flat]) {
            self.put(&name, Kind::Claim, |_| {});
        }
        self.problem(holder.table(), &holder.to_string(), &Fault::Taken { name: flat, by });
        None
    }

    fn app(&mut self, app: &App<'_, 'a>) {
        let live = select(app.candidates.iter(), app.fallback);
        let all = records(&live, app.ttl);
        if let Some((service, project)) = app.service {
            self.put_at(app, &[service, project, "svc"], Kind::Plain, &all);
        }
        if let Some(flat) = &app.flat {
            self.flat_names(app, flat, &live, &all);
        }
        self.srv_names(app, &live);
    }

    /// Everything at and below `APP` but SRV.
    fn flat_names(&mut self, app: &App<'_, 'a>, flat: &str, live: &[&Candidate<'a>], all: &[u8]) {
        self.put_at(app, &[flat], Kind::App, all);
        self.put_at(app, &["global", flat], Kind::Plain, all);
        let mut endpoints = Vec::new();
        push_endpoints(&mut endpoints, app.ttl, &self.nearest(live));
        self.put_at(app, &["peers", flat], Kind::Peers, &endpoints);
        self.put_at(app, &["nearest", "of", flat], Kind::Nearest, &endpoints);
        let mut regions = List::new(',');
        for region in live.iter().filter_map(|one| self.region(one)).collect::<BTreeSet<_>>() {
            regions.push(format_args!("{region}"));
        }
        self.put_at(app, &["regions", flat], Kind::Plain, &regions.set(app.ttl));
        let mut vms = List::new(',');
        for one in live {
            let blank = if one.region.is_empty() { "" } else { " " };
            vms.push(format_args!("{}{blank}{}", one.label, one.region));
        }
        if vms.cut() > 0 {
            let fault = Fault::Long { list: "vms", count: vms.cut() };
            self.problem(app.holder.table(), &app.holder.to_string(), &fault);
        }
        self.put_at(app, &["vms", flat], Kind::Plain, &vms.set(app.ttl));
        for (region, members) in partition(app.candidates, |one| self.region(one)) {
            self.put_at(app, &[region, flat], Kind::Plain, &records(&app.select(&members), app.ttl));
        }
        if app.service.is_none() {
            let groups = partition(app.candidates, |one| one.group);
            for role in Role::ALL {
                let members = groups.get(role.label()).map_or(&[][..], Vec::as_slice);
                let records = records(&app.select(members), app.ttl);
                self.put_at(app, &[role.label(), "process", flat], Kind::Plain, &records);
            }
        }
        for one in app.candidates {
            self.vm(app, flat, one);
        }
    }

    /// The region of an instance, if it is known: while some server that is not removed is in it.
    fn region<'c>(&self, one: &Candidate<'c>) -> Option<&'c str> {
        Some(one.region).filter(|region| self.view.regions.contains(region.as_bytes()))
    }

    /// `{ID}.vm.APP`, and whose address it is.
    fn vm(&mut self, app: &App<'_, 'a>, flat: &str, one: &Candidate<'a>) {
        let Ok(name) = self.named(app.holder, &[one.label, "vm", flat]) else { return };
        if !answers_alone(one, app.fallback) {
            self.put(&name, Kind::Plain, |_| {});
            return;
        }
        for address in one.v4.map(IpAddr::V4).into_iter().chain(one.v6.map(IpAddr::V6)) {
            self.own(address, Rank::Instance { started_at: one.started_at }, &name);
        }
        self.put(&name, Kind::Plain, |out| addresses(out, one.v4.into_iter(), one.v6.into_iter(), app.ttl));
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
        let mut set = Vec::new();
        push_set(&mut set, rtype::SRV, Tail::Origin, app.ttl, rdata);
        if let Some((service, project)) = app.service {
            self.put_at(app, &[name, proto, service, project, "svc"], Kind::Plain, &set);
        }
        if let Some(flat) = &app.flat {
            self.put_at(app, &[name, proto, flat], Kind::Plain, &set);
        }
    }

    /// `{instance}.{service}.{project}.svc` while the service is known, and `{project}-{service}-{instance}`.
    fn instances(
        &mut self,
        service: Option<&Service>,
        (project, name): (&str, &str),
        candidates: &[Candidate<'a>],
        claims: &Claims,
    ) {
        if service.is_none() {
            for one in candidates {
                let fault = Fault::NoService(format!("{project}/{name}"));
                self.problem(Table::Containers, one.key, &fault);
            }
        }
        let ttl = service.and_then(|service| service.ttl).unwrap_or(self.view.settings.ttl);
        let fallback = service.map_or(Fallback::Empty, |service| service.fallback);
        let mut slots: Vec<(&str, &Candidate<'_>)> =
            candidates.iter().filter_map(|one| Some((one.slot_label?, one))).collect();
        slots.sort_by_key(|(slot, _)| *slot);
        for members in slots.chunk_by(|(a, _), (b, _)| a == b) {
            let slot = members[0].0;
            let records = records(&select(members.iter().map(|(_, one)| *one), fallback), ttl);
            let holder = Holder::Instance { project, name, slot };
            if service.is_some()
                && let Ok(long) = self.named(holder, &[slot, name, project, "svc"])
            {
                self.put(&long, Kind::Plain, |out| out.extend_from_slice(&records));
            }
            if let Some(flat) = self.claim(claims, holder, format!("{project}-{name}-{slot}"))
                && let Ok(name) = self.named(holder, &[&flat])
            {
                self.put(&name, Kind::Plain, |out| out.extend_from_slice(&records));
            }
        }
    }

    /// A relative name of these labels, or a problem of whom it is for.
    fn named(&mut self, holder: Holder<'_>, labels: &[&str]) -> Result<Box<[u8]>, NameError> {
        self.view.domain.relative(labels).inspect_err(|reason| {
            let fault = Fault::Unnameable { name: labels.join("."), reason: reason.clone() };
            self.problem(holder.table(), &holder.to_string(), &fault);
        })
    }

    /// Puts something at a name of an APP; a name that does not fit becomes a problem.
    fn put_at(&mut self, app: &App<'_, 'a>, labels: &[&str], kind: Kind, body: &[u8]) {
        if let Ok(name) = self.named(app.holder, labels) {
            self.put(&name, kind, |out| out.extend_from_slice(body));
        }
    }

    /// Instances by distance: own server first, then by round trip, those without one last.
    fn nearest(&self, live: &[&Candidate<'a>]) -> Vec<Endpoint> {
        let here = self.view.settings.server.as_str();
        let near = |one: &Candidate<'a>| facts::place(one.server, self.view.facts.rtt(one.server));
        let mut order: Vec<_> = live.iter().map(|one| (one, near(one))).collect();
        order.sort_by_key(|(one, near)| (one.server != here, *near, one.key));
        let mut endpoints = Vec::new();
        let (mut seen4, mut seen6) = (Seen::default(), Seen::default());
        let (mut ours, mut others) = (0, 0);
        for (one, _) in order {
            let (place, count) = match one.server == here {
                true => (Place::Here, &mut ours),
                false => (Place::Elsewhere, &mut others),
            };
            // One more than an RRset holds, as the asker's own is left out of `peers`; and of those here and of those
            // elsewhere, as for who asks from this host all that are here are left out.
            if *count > RRSET_MAX {
                continue;
            }
            let before = endpoints.len();
            let (v4, again4) = seen4.split(one.v4, place);
            let (v6, again6) = seen6.split(one.v6, place);
            endpoints.extend(endpoint(v4, v6, place));
            endpoints.extend(endpoint(again4, again6, Place::Again));
            *count += endpoints.len() - before;
        }
        endpoints
    }
}

fn endpoint(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>, place: Place) -> Option<Endpoint> {
    (v4.is_some() || v6.is_some()).then_some(Endpoint { v4, v6, place })
}

/// The addresses that endpoints have so far.
struct Seen<A> {
    here: BTreeSet<A>,
    elsewhere: BTreeSet<A>,
}

impl<A> Default for Seen<A> {
    fn default() -> Self {
        Self { here: BTreeSet::new(), elsewhere: BTreeSet::new() }
    }
}

impl<A: Ord + Copy> Seen<A> {
    /// An address that is new, or one that is new elsewhere only; neither, if it was there before.
    fn split(&mut self, address: Option<A>, place: Place) -> (Option<A>, Option<A>) {
        let Some(address) = address else { return (None, None) };
        let seen = if place == Place::Here { &mut self.here } else { &mut self.elsewhere };
        if !seen.insert(address) {
            return (None, None);
        }
        let again = place != Place::Here && self.here.contains(&address);
        if again { (None, Some(address)) } else { (Some(address), None) }
    }
}

/// The addresses of instances, as they answer.
fn records(chosen: &[&Candidate<'_>], ttl: Ttl) -> Vec<u8> {
    let mut records = Vec::new();
    let (v4, v6) = (chosen.iter().filter_map(|one| one.v4), chosen.iter().filter_map(|one| one.v6));
    addresses(&mut records, v4, v6, ttl);
    records
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
