//! The rules of a name, told instance by instance.

use std::net::IpAddr;
use std::sync::Arc;

use super::Builder;
use super::draft::View;
use super::group::Checked;
use crate::explain::{Explanation, Fate, Instance};
use crate::facts::{Changes, Facts, Group};
use crate::name;
use crate::row::{Fallback, Fault, Health, Key};
use crate::zone::fixed::Fixed;
use crate::zone::select::{Candidate, Verdict, judge};
use crate::zone::{By, Found, Name, Node, Settings, Zone};

/// What a name stands for.
enum Subject<'a> {
    /// A service's instances, or some of them.
    Group(Group, Only<'a>),
    /// A NATS cluster's servers, or some of them.
    Cluster(Arc<str>, Only<'a>),
    /// A server.
    Server(&'a str),
    /// Nothing that has instances.
    Nothing,
}

/// Which of the instances are candidates.
#[derive(Clone, Copy)]
enum Only<'a> {
    All,
    Region(&'a str),
    Slot(&'a str),
    Id(&'a str),
    Role(&'a str),
    /// So many, the nearest.
    Nearest,
}

/// Explains a name.
pub(crate) fn explain(facts: &Facts, fixed: &Fixed, settings: &Arc<Settings>, name: &str) -> Explanation {
    let mut builder = Builder::new(Arc::clone(settings));
    let zone = Zone::next(&mut builder, facts, Changes::everything(), 1).with_fixed(fixed);
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let labels: Vec<&str> = name.split('.').collect();
    let mut told = Explanation {
        name: name.clone(),
        means: String::new(),
        rcode: "NOERROR",
        addresses: Vec::new(),
        instances: Vec::new(),
        notes: fixed.files().iter().filter_map(|file| file.fault.as_ref()).map(ToString::to_string).collect(),
    };
    let Some(relative) = answer(&zone, settings, &labels, &mut told) else { return told };
    let view = View { facts, settings, domain: &builder.domain, regions: &builder.regions };
    let reversed: Vec<&str> = labels[..relative].iter().rev().copied().collect();
    let told = match view.subject(&reversed) {
        Subject::Group(group, only) => view.tell_group(told, &group, only),
        Subject::Cluster(cluster, only) => view.tell_cluster(told, &cluster, only),
        Subject::Server(label) => view.tell_server(told, label),
        Subject::Nothing => {
            let means = if told.rcode == "NXDOMAIN" { "nothing: no row gives this name" } else { "no instances" };
            Explanation { means: means.to_owned(), ..told }
        }
    };
    let taken = reversed.first().map(|flat| format!("name {flat} is taken by "));
    let others = builder.units.problems().filter(|one| taken.as_ref().is_some_and(|text| one.reason.starts_with(text)));
    let notes = others.map(|one| format!("{} {}: {}", one.table.name(), one.key, one.reason));
    Explanation { notes: told.notes.into_iter().chain(notes).collect(), ..told }
}

/// Fills in what the zone answers, and returns how many labels stand before the origin, if it is one of names.
fn answer(zone: &Zone, settings: &Settings, labels: &[&str], told: &mut Explanation) -> Option<usize> {
    let Ok(mut wire) = name::relative(labels).map(Vec::from) else {
        told.means = "no name".to_owned();
        told.rcode = "FORMERR";
        return None;
    };
    let mut starts = Vec::new();
    for label in labels {
        let at = starts.last().map_or(0, |(at, length)| at + length);
        starts.push((at, 1 + label.len()));
    }
    let starts: Vec<u8> = starts.iter().map(|(at, _)| *at as u8).collect();
    wire.push(0);
    let found = match zone.find(&wire, &starts) {
        Found::Foreign if settings.routes.takes(&wire, &starts, 0) => {
            told.means = "forwarded, by a domain of dns.forward".to_owned();
            told.rcode = "FORWARDED";
            return None;
        }
        Found::Foreign => {
            told.means = "a name in none of our zones".to_owned();
            told.rcode = "REFUSED";
            return None;
        }
        Found::Own { name, by, origin } => {
            let of_file = by == By::File || matches!(name, Name::Fixed(_) | Name::Cut(..));
            let file = zone
                .fixed()
                .files()
                .iter()
                .find(|file| file.zone.as_ref().is_some_and(|zone| zone.origin() == origin.wire()));
            if let Some(file) = file.filter(|_| of_file) {
                told.means = format!("in the zone file {}", file.path.display());
            }
            name
        }
    };
    told.addresses = match &found {
        Name::Node(Node::Plain(sets) | Node::App(sets)) => sets.iter().flat_map(|set| set.addresses()).collect(),
        Name::Node(Node::Peers(endpoints)) => {
            endpoints.nearest(usize::MAX).flat_map(|one| both(one.v4, one.v6)).collect()
        }
        Name::Fixed(node) => node.sets().flat_map(|set| set.addresses()).collect(),
        Name::Nearest { endpoints, count } => endpoints.nearest(*count).flat_map(|one| both(one.v4, one.v6)).collect(),
        _ => Vec::new(),
    };
    if matches!(found, Name::Missing) {
        told.rcode = "NXDOMAIN";
    }
    // No row has a say in it.
    if !told.means.is_empty() {
        return None;
    }
    let of_zone =
        |zone: &crate::name::ZoneName| wire.ends_with(zone.wire()).then(|| zone.to_string().split('.').count());
    let origin = settings.zones.iter().filter_map(of_zone).max();
    if origin.is_none() {
        told.means = "an address".to_owned();
    }
    Some(labels.len() - origin?)
}

fn both(v4: Option<std::net::Ipv4Addr>, v6: Option<std::net::Ipv6Addr>) -> impl Iterator<Item = IpAddr> {
    v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6))
}

impl<'a> View<'a> {
    /// What these labels stand for; the last one comes first.
    fn subject<'n>(&self, labels: &[&'n str]) -> Subject<'n> {
        let group = |project: &str, service: &str| (Arc::<str>::from(project), Arc::<str>::from(service));
        match labels {
            [] => Subject::Nothing,
            ["svc", project, service] => Subject::Group(group(project, service), Only::All),
            ["svc", project, service, slot] => Subject::Group(group(project, service), Only::Slot(slot)),
            ["svc", project, service, _, _] => Subject::Group(group(project, service), Only::All),
            ["node", server] => Subject::Server(server),
            ["svc" | "node", ..] => Subject::Nothing,
            [flat, below @ ..] => {
                let only = match below {
                    [] | ["global" | "peers" | "regions" | "vms"] => Only::All,
                    ["of", "nearest", _] => Only::Nearest,
                    ["vm", id] => Only::Id(id),
                    ["process", role] => Only::Role(role),
                    [proto, _] if proto.starts_with('_') => Only::All,
                    [region] => Only::Region(region),
                    _ => return Subject::Nothing,
                };
                self.app(flat, only)
            }
        }
    }

    /// Who has a flat name, by precedence.
    fn app<'n>(&self, flat: &'n str, only: Only<'n>) -> Subject<'n> {
        let services = self.facts.services.index().groups();
        let service = services.filter(|(project, name)| flat == format!("{project}-{name}")).min();
        if let Some(group) = service {
            return Subject::Group(group.clone(), only);
        }
        let cluster = Arc::<str>::from(flat);
        if !self.facts.nats.index().cluster(&cluster).is_empty() {
            return Subject::Cluster(cluster, only);
        }
        if !matches!(only, Only::All) {
            return Subject::Nothing;
        }
        // The slot of an instance is what stands behind its service's name.
        let mut groups: Vec<Group> = self.facts.containers.index().groups().cloned().collect();
        groups.extend(self.facts.services.index().groups().cloned());
        let of = |group: Group| {
            let slot = flat.strip_prefix(&*group.0)?.strip_prefix('-')?.strip_prefix(&*group.1)?.strip_prefix('-')?;
            let there = self.containers(&group).candidates.iter().any(|one| one.slot_label == Some(slot));
            there.then_some((group, slot))
        };
        match groups.into_iter().filter_map(of).min() {
            Some((group, slot)) => Subject::Group(group, Only::Slot(slot)),
            None => Subject::Nothing,
        }
    }

    fn tell_group(&self, mut told: Explanation, group: &Group, only: Only<'_>) -> Explanation {
        let services = self.services(group);
        let fallback = services.first().map_or(Fallback::Empty, |(_, row)| row.fallback);
        told.means = format!("service {}/{}{}", group.0, group.1, only.words());
        if services.is_empty() {
            told.notes.push("there is no services row: the name of the service does not exist".to_owned());
        }
        if fallback == Fallback::All {
            told.notes.push("fail_open: with nothing fit to answer, all that do not drain answer".to_owned());
        }
        told.instances = self.tell("containers", &self.containers(group), only, fallback);
        told
    }

    fn tell_cluster(&self, mut told: Explanation, cluster: &Arc<str>, only: Only<'_>) -> Explanation {
        told.means = format!("NATS cluster {cluster}{}", only.words());
        told.instances = self.tell("nats_servers", &self.cluster(cluster), only, Fallback::Empty);
        told
    }

    fn tell_server(&self, mut told: Explanation, label: &str) -> Explanation {
        let row = match label {
            "local" => self.facts.servers.get(&self.settings.server),
            label => self.holder(&Arc::from(label)),
        };
        told.means = match row {
            Some(row) => format!("server {}", row.id),
            None => "no server".to_owned(),
        };
        let removed = row.is_some_and(|row| row.belonging == crate::row::Belonging::Removed);
        if removed {
            told.notes.push("the server was removed: it has no addresses any more".to_owned());
        }
        told
    }

    /// Every row of an APP that the name is about, with its fate.
    fn tell(&self, table: &'static str, rows: &Checked<'_>, only: Only<'_>, fallback: Fallback) -> Vec<Instance> {
        let candidates: Vec<&Candidate<'_>> = rows.candidates.iter().filter(|one| only.has(one)).collect();
        let left_out = rows.faults.iter().filter(|(key, _)| only.may_have(key.as_str()));
        let mut told: Vec<Instance> = left_out.map(|(key, fault)| bad(table, key, fault)).collect();
        for (one, verdict) in judge(&candidates, fallback) {
            let (fate, rule) = self.rule(one, verdict);
            told.push(Instance {
                table,
                id: one.key.to_owned(),
                server: one.server.to_owned(),
                slot: one.slot.map(str::to_owned),
                addresses: both(one.v4, one.v6).collect(),
                health: one.health.word(),
                started_at: one.started_at,
                fate,
                rule,
            });
        }
        told.sort_by(|a, b| a.id.cmp(&b.id));
        told
    }

    fn rule(&self, one: &Candidate<'_>, verdict: Verdict<'_>) -> (Fate, String) {
        let server = one.server;
        match verdict {
            Verdict::Best => {
                (Fate::In, format!("{}, the best there is, and the newest of its slot", one.health.word()))
            }
            Verdict::FailOpen => (Fate::In, "nothing is fit to answer, and the service is fail_open".to_owned()),
            Verdict::Draining => (Fate::Out, "it is draining".to_owned()),
            Verdict::ServerDraining => (Fate::Out, format!("its server {server} is draining")),
            Verdict::ServerRemoved => (Fate::Out, format!("its server {server} was removed")),
            Verdict::ServerSilent if self.facts.has_rebooted(server) => {
                (Fate::Out, format!("its server {server} has rebooted, and the server's row is of the boot before"))
            }
            Verdict::ServerSilent => (Fate::Out, format!("its server {server} is silent")),
            Verdict::Unhealthy => (Fate::Out, "it is unhealthy".to_owned()),
            Verdict::Worse(best) => (Fate::Out, format!("it is {}, and others are {}", one.health.word(), best.word())),
            // Names have no more of an id than this.
            Verdict::Older(newer) => {
                (Fate::Out, format!("{} is newer in the same slot", newer.chars().take(12).collect::<String>()))
            }
        }
    }
}

fn bad(table: &'static str, key: &Key, fault: &Fault) -> Instance {
    Instance {
        table,
        id: key.text(),
        server: String::new(),
        slot: None,
        addresses: Vec::new(),
        health: Health::Unknown.word(),
        started_at: 0,
        fate: Fate::Out,
        rule: format!("its row is left out: {fault}"),
    }
}

impl Only<'_> {
    fn has(self, one: &Candidate<'_>) -> bool {
        match self {
            Only::All | Only::Nearest => true,
            Only::Region(region) => one.region == region,
            Only::Slot(slot) => one.slot_label == Some(slot),
            Only::Id(id) => one.label == id,
            Only::Role(role) => one.group == Some(role),
        }
    }

    /// Whether a row that is left out may be meant.
    fn may_have(self, key: &str) -> bool {
        match self {
            Only::All | Only::Nearest | Only::Region(_) | Only::Role(_) | Only::Slot(_) => true,
            Only::Id(id) => key.to_ascii_lowercase().starts_with(id),
        }
    }

    fn words(self) -> String {
        match self {
            Only::All => String::new(),
            Only::Nearest => ", the nearest".to_owned(),
            Only::Region(region) => format!(" in region {region}"),
            Only::Slot(slot) => format!(", instance {slot}"),
            Only::Id(id) => format!(", id {id}"),
            Only::Role(role) => format!(", role {role}"),
        }
    }
}
