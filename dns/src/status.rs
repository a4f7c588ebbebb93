//! What this part shows of itself: plain numbers and texts, of which the binary makes JSON and metrics.

mod latency;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::answer::{Rcode, Tally};
use crate::forward::{ForwardStatus, Forwarder};
use crate::name::ZoneName;
use crate::server::{Certificate, TlsError};
use crate::zone::fixed::FileState;
use crate::zone::{Freshness, Owner, Zone, rtype};
use crate::zonefile::Fault;
use latency::Times;
pub use latency::{BUCKETS, Latency};

/// The state of the DNS part at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Whether the zone is loading, current or stale.
    pub freshness: Freshness,
    /// Since when the store is away, by this host's clock; `None` while it is not.
    pub stale_since: Option<SystemTime>,
    /// Counts the zones since the start; 0 before the first.
    pub generation: u64,
    /// How long ago the zone was built.
    pub age: Duration,
    /// What building it took.
    pub build_time: Duration,
    /// The zones, in the order of the configuration.
    pub zones: Vec<ZoneStatus>,
    /// Names in the reverse zones.
    pub reverse_names: usize,
    /// The zone files, in the order of the configuration.
    pub files: Vec<FileStatus>,
    /// Rows, or parts of rows, that are left out, with the reason; the first 100.
    pub problems: Vec<ProblemStatus>,
    /// How many there are.
    pub problem_count: usize,
    /// Entries that `_apps` and `_instances` have no room for, of the zone that is answered from, if they were asked for.
    pub entries_cut: usize,
    /// Services whose flat name another service has, with that one; the first 20.
    pub clashes: Vec<ProblemStatus>,
    /// Queries answered, where there were any.
    pub queries: Vec<QueryCount>,
    /// Time to the answers that were given at once, from the moment their batch was read until it was sent.
    pub at_once: Latency,
    /// Time to the answers that somebody else was asked for first, or whose names nobody keeps at hand.
    pub later: Latency,
    /// Packets dropped without an answer.
    pub dropped: u64,
    /// Queries and connections of networks that may not ask, which were not read.
    pub denied: u64,
    /// Answers that were not sent, because their network was sent enough.
    pub limited: u64,
    /// Answers that were sent empty and cut for the same reason.
    pub limited_cut: u64,
    /// Answers that the system did not take.
    pub send_errors: u64,
    /// Questions for others that were told SERVFAIL, because too many waited already.
    pub overflows: u64,
    /// TCP connections closed at once, because there were too many.
    pub connections_refused: u64,
    /// Connections for TLS that ended before a question.
    pub handshakes_failed: u64,
    /// What is wrong with the certificate's files as they are; then the one before is used.
    pub tls_fault: Option<TlsError>,
    /// Forwarding; `None` where nothing is forwarded.
    pub forward: Option<ForwardStatus>,
}

/// One zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneStatus {
    /// Its apex.
    pub name: String,
    /// How many names it has.
    pub names: usize,
}

/// One zone file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStatus {
    /// Where it is.
    pub path: PathBuf,
    /// The zone that is served of it; `None` if there never was a good one.
    pub zone: Option<ZoneStatus>,
    /// What is wrong with the file as it is; then what is served is what it was.
    pub fault: Option<Fault>,
    /// Records that are left out or served otherwise than they are written; the first 100.
    pub notes: Vec<Fault>,
    /// How many there are.
    pub note_count: usize,
}

impl From<&FileState> for FileStatus {
    fn from(state: &FileState) -> Self {
        let zone = state.zone.as_deref();
        Self {
            path: state.path.clone(),
            zone: zone.map(|zone| ZoneStatus { name: zone.name(), names: zone.names() }),
            fault: state.fault.clone(),
            notes: zone.map_or_else(Vec::new, |zone| zone.notes.to_vec()),
            note_count: zone.map_or(0, |zone| zone.note_count),
        }
    }
}

/// One row, or part of one, that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemStatus {
    /// The table.
    pub table: &'static str,
    /// The row's key, shortened.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

/// A number of queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryCount {
    /// The zone's apex, `reverse`, or `none` for names that are not ours.
    pub zone: String,
    /// Type asked for; `other` for the rare ones.
    pub qtype: &'static str,
    /// Code given.
    pub rcode: &'static str,
    /// How many.
    pub count: u64,
}

/// Something that does not get better by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Which kind, one word.
    pub name: &'static str,
    /// What is wrong, and what to do.
    pub text: String,
}

impl Status {
    /// What somebody has to see to.
    #[must_use]
    pub fn alarms(&self) -> Vec<Alarm> {
        let clash = |clash: &ProblemStatus| Alarm {
            name: "flat-name",
            text: format!("service {}: {}; it answers below .svc only: rename one of the two", clash.key, clash.reason),
        };
        let file = |file: &FileStatus| {
            let fault = file.fault.as_ref()?;
            Some(Alarm { name: "zone-file", text: format!("{fault}; what it was before is served: mend it") })
        };
        let tls = |fault: &TlsError| Alarm {
            name: "dns-certificate",
            text: format!("{fault}; the certificate before is used on: put both files right"),
        };
        let files = self.files.iter().filter_map(file);
        self.clashes.iter().map(clash).chain(files).chain(self.tls_fault.as_ref().map(tls)).collect()
    }
}

/// Gives the status at any time; cheap to clone.
#[derive(Debug, Clone)]
pub struct StatusHandle {
    zones: Arc<[ZoneName]>,
    published: Arc<ArcSwap<Published>>,
    counters: Arc<[Counters]>,
    forwarder: Option<Forwarder>,
    certificate: Option<Certificate>,
}

/// The zone being answered from, with what status says of it.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) zone: Zone,
    pub(crate) built: Instant,
    pub(crate) took: Duration,
    pub(crate) stale_since: Option<SystemTime>,
}

impl StatusHandle {
    pub(crate) fn new(
        zones: &[ZoneName],
        published: Arc<ArcSwap<Published>>,
        counters: Arc<[Counters]>,
        (forwarder, certificate): (Option<Forwarder>, Option<Certificate>),
    ) -> Self {
        Self { zones: zones.into(), published, counters, forwarder, certificate }
    }

    /// The status at this moment.
    #[must_use]
    pub fn get(&self) -> Status {
        let published = self.published.load();
        let zone = &published.zone;
        let (problems, problem_count) = zone.problems();
        let problem = |problem: &crate::zone::Problem| ProblemStatus {
            table: problem.table.name(),
            key: problem.key.clone(),
            reason: problem.reason.clone(),
        };
        let zone_status = |name: &ZoneName| ZoneStatus { name: name.to_string(), names: zone.names() };
        let (listeners, slow) = self.counters.split_at(self.counters.len().saturating_sub(1));
        let times = |counters: &[Counters]| Times::sum(counters.iter().map(|counters| &counters.times));
        let sum =
            |of: fn(&Counters) -> &AtomicU64| self.counters.iter().map(|counters| of(counters).load(Relaxed)).sum();
        Status {
            freshness: zone.freshness(),
            stale_since: published.stale_since,
            generation: zone.generation(),
            age: published.built.elapsed(),
            build_time: published.took,
            zones: self.zones.iter().map(zone_status).collect(),
            reverse_names: zone.pointers(),
            files: zone.fixed().files().iter().map(FileStatus::from).collect(),
            problems: problems.iter().map(problem).collect(),
            problem_count,
            entries_cut: zone.entries_cut(),
            clashes: zone.clashes().iter().map(problem).collect(),
            queries: self.queries(),
            at_once: times(listeners),
            later: times(slow),
            dropped: sum(|counters| &counters.dropped),
            denied: sum(|counters| &counters.denied),
            limited: sum(|counters| &counters.limited),
            limited_cut: sum(|counters| &counters.limited_cut),
            send_errors: sum(|counters| &counters.send_errors),
            overflows: sum(|counters| &counters.overflows),
            connections_refused: sum(|counters| &counters.connections_refused),
            handshakes_failed: sum(|counters| &counters.handshakes_failed),
            tls_fault: self.certificate.as_ref().and_then(Certificate::fault),
            forward: self.forwarder.as_ref().map(Forwarder::status),
        }
    }

    fn queries(&self) -> Vec<QueryCount> {
        let mut counts = Vec::new();
        for slot in 0..self.zones.len() + 3 {
            for (t, qtype) in QTYPES.iter().map(|(_, name)| *name).chain(["other"]).enumerate() {
                let line = slot * Counters::PER_SLOT + t;
                for (r, rcode) in Rcode::ALL.into_iter().enumerate() {
                    let count = self.counters.iter().map(|all| all.queries[line].0[r].load(Relaxed)).sum();
                    if count > 0 {
                        let zone = match slot.checked_sub(self.zones.len()) {
                            None => self.zones[slot].to_string(),
                            Some(0) => "reverse".to_owned(),
                            Some(1) => "none".to_owned(),
                            Some(_) => "files".to_owned(),
                        };
                        counts.push(QueryCount { zone, qtype, rcode: rcode.name(), count });
                    }
                }
            }
        }
        counts
    }
}

/// The types that are counted by name.
const QTYPES: [(u16, &str); 11] = [
    (rtype::A, "A"),
    (rtype::AAAA, "AAAA"),
    (rtype::TXT, "TXT"),
    (rtype::SRV, "SRV"),
    (rtype::PTR, "PTR"),
    (rtype::SOA, "SOA"),
    (rtype::NS, "NS"),
    (rtype::CNAME, "CNAME"),
    (rtype::MX, "MX"),
    (rtype::HTTPS, "HTTPS"),
    (rtype::ANY, "ANY"),
];

/// The counters of one listener, or of the slow path, on cache lines of their own; added up when somebody looks.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Counters {
    zones: usize,
    writers: Writers,
    /// By zone, then by type.
    queries: Box<[Line]>,
    times: Times,
    pub(crate) dropped: AtomicU64,
    pub(crate) denied: AtomicU64,
    pub(crate) limited: AtomicU64,
    pub(crate) limited_cut: AtomicU64,
    pub(crate) send_errors: AtomicU64,
    pub(crate) overflows: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) handshakes_failed: AtomicU64,
}

/// One cache line of counters: by rcode, in the order of [`Rcode::ALL`].
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; 8]);

/// How many count at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writers {
    /// One thread, which need not lock the memory to add.
    One,
    Many,
}

impl Counters {
    const PER_SLOT: usize = QTYPES.len() + 1;

    /// For so many configured zones.
    pub(crate) fn new(zones: usize, writers: Writers) -> Self {
        Self {
            zones,
            writers,
            queries: (0..(zones + 3) * Self::PER_SLOT).map(|_| Line::default()).collect(),
            times: Times::default(),
            dropped: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            limited: AtomicU64::new(0),
            limited_cut: AtomicU64::new(0),
            send_errors: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
        }
    }

    /// Counts one answer.
    pub(crate) fn count(&self, tally: &Tally) {
        self.writers.add(self.place(tally), 1);
    }

    fn place(&self, tally: &Tally) -> &AtomicU64 {
        let slot = match tally.owner {
            Owner::Forward(place) => place,
            Owner::Reverse => self.zones,
            Owner::Nobody => self.zones + 1,
            Owner::File => self.zones + 2,
        };
        let qtype = QTYPES.iter().position(|(number, _)| *number == tally.qtype).unwrap_or(QTYPES.len());
        &self.queries[slot * Self::PER_SLOT + qtype].0[tally.rcode.index()]
    }

    /// How many answers like this one there were.
    #[cfg(test)]
    pub(crate) fn counted(&self, tally: &Tally) -> u64 {
        self.place(tally).load(Relaxed)
    }

    /// Adds to one of the plain counters.
    pub(crate) fn add(&self, which: impl FnOnce(&Self) -> &AtomicU64, by: u64) {
        self.writers.add(which(self), by);
    }

    /// Counts so many answers that took this long.
    pub(crate) fn took(&self, time: Duration, answers: u64) {
        self.times.add(self.writers, time, answers);
    }
}

impl Writers {
    fn add(self, counter: &AtomicU64, by: u64) {
        match self {
            Writers::One => counter.store(counter.load(Relaxed) + by, Relaxed),
            Writers::Many => {
                counter.fetch_add(by, Relaxed);
            }
        }
    }
}
