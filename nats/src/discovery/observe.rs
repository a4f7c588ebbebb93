//! One look at DNS: all questions of a pass, as many at once as they do not depend on each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};

use crate::name::Label;
use crate::peers::{Peers, Ports, REGIONS};
use crate::resolve::{Answer, Dns, Records, Service};
use crate::shape::{Place, Standing};

/// Questions at once. Each is a socket.
const AT_ONCE: usize = 16;
/// Most targets whose address is asked for when an answer did not bring it. Those above listen where all do by default.
const TARGETS: usize = 64;

/// What was said.
#[derive(Debug)]
pub(super) struct Observed {
    center: Answer<IpAddr>,
    regions: Answer<Label>,
    within: BTreeMap<Label, Answer<IpAddr>>,
    /// Of routes, gateways, leaves; none keeps what was known.
    ports: [Option<Ports>; 3],
    /// Why some of it is of no use, in one line.
    pub(super) trouble: Option<String>,
    /// How long the shortest answer holds.
    pub(super) ttl: Option<Duration>,
    /// What was answered at all.
    pub(super) heard: Heard,
}

/// How much of what was asked was answered, be it that there is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Heard {
    #[default]
    All,
    Some,
}

/// Asks all that a server in this place needs. `known` are the regions of earlier passes, asked also when the list of
/// regions is not to be had.
pub(super) async fn observe(dns: &impl Dns, place: &Place, known: BTreeSet<Label>) -> Observed {
    if place.standing == Standing::Lone {
        return Observed::nothing();
    }
    let name = |prefix: &str| format!("{prefix}.{}.{}.", place.cluster, place.zone);
    let mut look = Look::default();
    let (center_name, regions_name) = (name("center.process"), name("regions"));
    let clustered = place.standing == Standing::Clustered;
    let regional = clustered && place.region.is_some();
    let (center, listed, routes, gateways, leaves) = tokio::join!(
        dns.addresses(&center_name),
        async { if regional { dns.texts(&regions_name).await } else { Answer::Empty } },
        async { if clustered { ports(dns, &name("_nats-route._tcp")).await } else { None } },
        async { if regional { ports(dns, &name("_nats-gateway._tcp")).await } else { None } },
        async { if clustered { None } else { ports(dns, &name("_nats-leaf._tcp")).await } },
    );
    look.note(&center_name, &center);
    if regional {
        look.note(&regions_name, &listed);
    }
    let regions = split(listed);
    let mut within = BTreeMap::new();
    if regional {
        let mut asked = known;
        asked.extend(place.region.clone());
        if let Answer::Records(records) = &regions {
            asked.extend(records.set.iter().cloned());
        }
        let questions = asked.into_iter().take(REGIONS).map(|region| async {
            let name = name(region.as_str());
            let answer = dns.addresses(&name).await;
            (region, name, answer)
        });
        let mut answers = stream::iter(questions).buffer_unordered(AT_ONCE);
        while let Some((region, name, answer)) = answers.next().await {
            // Nobody in a region is the ordinary case of one that has other servers alone.
            if !matches!(answer, Answer::Empty) {
                look.note(&name, &answer);
            }
            within.insert(region, answer);
        }
    }
    Observed {
        center,
        regions,
        within,
        ports: [routes, gateways, leaves],
        trouble: look.trouble,
        ttl: look.ttl,
        heard: look.heard,
    }
}

impl Observed {
    /// Of a server that knows no other.
    fn nothing() -> Observed {
        let (within, ports) = (BTreeMap::new(), [None, None, None]);
        Observed {
            center: Answer::Empty,
            regions: Answer::Empty,
            within,
            ports,
            trouble: None,
            ttl: None,
            heard: Heard::All,
        }
    }

    /// Into what is known.
    pub(super) fn into_peers(self, peers: &mut Peers, own: Option<&Label>, now: Instant) {
        peers.center.observe(&self.center, now);
        peers.observe_regions(&self.regions, own, now);
        for (region, answer) in &self.within {
            if Some(region) == own || peers.regions.contains(region) {
                peers.observe_region(region, answer, now);
            }
        }
        let [routes, gateways, leaves] = self.ports;
        let known = [&mut peers.routes, &mut peers.gateways, &mut peers.leaves];
        for (known, heard) in known.into_iter().zip([routes, gateways, leaves]) {
            if let Some(heard) = heard {
                *known = heard;
            }
        }
    }
}

/// What all answers have in common.
#[derive(Default)]
struct Look {
    trouble: Option<String>,
    ttl: Option<Duration>,
    heard: Heard,
}

impl Look {
    /// The first trouble is the one that is said.
    fn note<T>(&mut self, name: &str, answer: &Answer<T>) {
        let trouble = match answer {
            Answer::Records(Records { ttl, left_out, set }) => {
                self.ttl = Some(self.ttl.map_or(*ttl, |least| least.min(*ttl)));
                (*left_out > 0).then(|| format!("{name} has {} records; {} are used", set.len() + left_out, set.len()))
            }
            Answer::Empty => Some(format!("{name} has no records")),
            Answer::Failed(failure) => {
                self.heard = Heard::Some;
                Some(format!("{name}: {failure}"))
            }
        };
        self.trouble = self.trouble.take().or(trouble);
    }
}

/// `"ams,iad"` as regions. What is no name is left out: nobody can be asked about it.
fn split(listed: Answer<String>) -> Answer<Label> {
    match listed {
        Answer::Records(records) => {
            let texts = records.set.iter().flat_map(|text| text.split(','));
            Answer::of(texts.filter_map(|text| text.trim().parse().ok()).take(REGIONS), records.ttl)
        }
        Answer::Empty => Answer::Empty,
        Answer::Failed(failure) => Answer::Failed(failure),
    }
}

/// The ports of a listener. One port is everybody's, and needs no address.
async fn ports(dns: &impl Dns, name: &str) -> Option<Ports> {
    let Answer::Records(records) = dns.services(name).await else { return None };
    let distinct: BTreeSet<u16> = records.set.iter().map(|service| service.port).collect();
    if distinct.len() == 1 {
        return Some(Ports { all: distinct.first().copied(), of: BTreeMap::new() });
    }
    let (near, far): (Vec<Service>, Vec<Service>) =
        records.set.into_iter().partition(|service| !service.addresses.is_empty());
    let mut of: BTreeMap<IpAddr, u16> =
        near.iter().flat_map(|service| service.addresses.iter().map(|address| (*address, service.port))).collect();
    let questions = far
        .into_iter()
        .take(TARGETS)
        .map(|Service { target, port, .. }| async move { (port, dns.addresses(&target).await) });
    let mut answers = stream::iter(questions).buffer_unordered(AT_ONCE);
    while let Some((port, answer)) = answers.next().await {
        if let Answer::Records(records) = answer {
            of.extend(records.set.into_iter().map(|address| (address, port)));
        }
    }
    Some(Ports { all: None, of })
}
