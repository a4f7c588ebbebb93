//! The zone: an immutable answer to every name, made of prebuilt records.
//!
//! All zones served have the same names, so there is one table of relative names and a list of origins. A name is
//! looked up by its lower-cased wire bytes; what is found holds whole resource records in wire form, whose owner is a
//! pointer to the question. What cannot be prebuilt is small: the names below `topN.nearest.of`, regions of an APP that
//! has nothing there, and `peers`, which depends on who asks.
//!
//! A zone is built by `build`, out of the facts alone; it never changes afterwards. The next one shares with it every
//! shard in which nothing changed.

mod build;
mod entry;
mod list;
mod node;
mod origin;
mod records;
mod reverse;
mod select;
mod shard;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::{Config, Ttl};
pub use crate::facts::Freshness;
use crate::facts::{Changes, Facts};
use crate::name::{self, ZoneName};
pub(crate) use build::{Builder, Problem};
pub(crate) use node::{Endpoint, Endpoints, Node, Place};
pub(crate) use origin::{LOCAL_NODE, Origin, Owner};
pub(crate) use records::{IN, RR_HEAD, RR_LENGTH, RRset, TO_QUESTION, Tail, rtype};
use shard::Shards;

/// Most records in one RRset. More help nobody: a client tries a few, and a longer answer only costs TCP.
pub(crate) const RRSET_MAX: usize = 100;

/// Everything that is answered, at one moment.
#[derive(Debug, Clone)]
pub struct Zone {
    contents: Arc<Contents>,
    freshness: Freshness,
}

#[derive(Debug)]
struct Contents {
    /// The answering server's id, as NSID and `id.server` tell it.
    server: Box<str>,
    /// Counts the zones since the start; its low 32 bits are the SOA's serial number.
    generation: u64,
    origins: Arc<[Origin]>,
    /// Of the lists of everything.
    ttl: Ttl,
    /// By relative name.
    names: Shards,
    /// By whole name, without the closing zero: the names of the reverse zones.
    pointers: Shards,
    lists: list::Lists,
    /// Region labels of servers that are not removed.
    regions: Arc<BTreeSet<Box<[u8]>>>,
    /// Addresses by which this server itself may ask: its mesh addresses.
    here: Arc<BTreeSet<IpAddr>>,
    problems: Arc<[Problem]>,
    problem_count: usize,
}

/// Where a question leads.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// Into no zone of ours.
    Foreign,
    /// Into the zone of this origin.
    Own { origin: &'a Origin, name: Name<'a> },
}

#[derive(Debug)]
pub(crate) enum Name<'a> {
    Apex,
    Node(Node<'a>),
    /// The first `count` of these.
    Nearest {
        endpoints: Endpoints<'a>,
        count: usize,
    },
    /// Exists and has nothing.
    Empty,
    Missing,
}

/// What building takes from the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) zones: Vec<ZoneName>,
    pub(crate) server: String,
    pub(crate) ranges: Vec<IpNet>,
    pub(crate) own_addresses: Vec<IpNet>,
    pub(crate) ttl: Ttl,
    pub(crate) negative_ttl: Ttl,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            zones: config.zones.clone(),
            server: config.server.clone(),
            ranges: config.ranges.clone(),
            own_addresses: config.own_addresses.clone(),
            ttl: config.ttl,
            // 5 s is the most a negative answer may live: a name is asked for the moment before it appears.
            negative_ttl: config.negative_ttl.min(Ttl::DEFAULT),
        }
    }
}

impl Zone {
    /// The zone of these facts. Pure: the same facts give the same answers.
    pub(crate) fn build(facts: &Facts, settings: &Settings, generation: u64) -> Self {
        Self::next(&mut Builder::new(Arc::new(settings.clone())), facts, Changes::everything(), generation)
    }

    /// The zone after these changes: what a full build of the facts would give.
    pub(crate) fn next(builder: &mut Builder, facts: &Facts, changes: Changes, generation: u64) -> Self {
        Self { contents: Arc::new(builder.contents(facts, changes, generation)), freshness: facts.freshness() }
    }

    /// The same names, believed differently.
    pub(crate) fn with_freshness(&self, freshness: Freshness) -> Self {
        Self { contents: Arc::clone(&self.contents), freshness }
    }

    /// How far the answers can be believed.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// Counts the zones since the start.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.contents.generation
    }

    /// The number that the SOA of every zone has.
    pub(crate) fn serial(&self) -> u32 {
        self.contents.generation as u32
    }

    /// The answering server's id.
    pub(crate) fn server(&self) -> &str {
        &self.contents.server
    }

    /// How many names each forward zone has, empty non-terminals included.
    #[must_use]
    pub fn names(&self) -> usize {
        self.contents.names.len()
    }

    /// How many names the reverse zones have together.
    #[must_use]
    pub fn pointers(&self) -> usize {
        self.contents.pointers.len()
    }

    /// What was left out and why: the first ones, and how many there are.
    pub(crate) fn problems(&self) -> (&[Problem], usize) {
        (&self.contents.problems, self.contents.problem_count)
    }

    /// Finds a name. `qname` is the lower-cased wire form with its closing zero; `labels` are the offsets at which its
    /// labels begin. The longest origin wins, because origins are kept with the longest first.
    pub(crate) fn find(&self, qname: &[u8], labels: &[u8]) -> Found<'_> {
        let contents = &*self.contents;
        let within = |origin: &Origin| {
            qname.len().checked_sub(origin.wire().len()).filter(|at| {
                qname.ends_with(origin.wire())
                    && (*at + 1 == qname.len() || labels.iter().any(|label| usize::from(*label) == *at))
            })
        };
        let found = contents.origins.iter().find_map(|origin| Some((origin, within(origin)?)));
        let Some((origin, at)) = found else { return Found::Foreign };
        let name = match origin.owner() {
            _ if at == 0 => Name::Apex,
            Owner::Nobody => Name::Missing,
            Owner::Forward(_) => contents.relative(&qname[..at]),
            Owner::Reverse => contents.pointers.get(&qname[..qname.len() - 1]).map_or(Name::Missing, Name::Node),
        };
        Found::Own { origin, name }
    }

    /// What stands at a relative name: the target of an SRV record.
    pub(crate) fn node(&self, relative: &[u8]) -> Option<Node<'_>> {
        self.contents.names.get(relative)
    }

    /// Whether a question from this address is one of this host itself.
    pub(crate) fn is_here(&self, source: IpAddr) -> bool {
        source.is_loopback() || self.contents.here.contains(&source)
    }
}

impl Contents {
    fn relative(&self, relative: &[u8]) -> Name<'_> {
        match self.names.get(relative) {
            Some(Node::List(list)) => return Name::Node(Node::Plain(self.lists.get(list, &self.names, self.ttl))),
            Some(node) => return Name::Node(node),
            None => {}
        }
        // What is left is not in the table: the two forms below a node that stand for many names.
        let Some((first, parent)) = name::split_first(relative) else { return Name::Missing };
        match self.names.get(parent) {
            Some(Node::Nearest(endpoints)) => match top(first) {
                Some(count) => Name::Nearest { endpoints, count },
                None => Name::Missing,
            },
            Some(Node::App(_)) if self.regions.contains(first) => Name::Empty,
            Some(Node::App(_) | Node::Plain(_) | Node::Peers(_) | Node::List(_)) | None => Name::Missing,
        }
    }
}

/// The N of a label `topN`: 1 to 100, without a leading zero.
fn top(label: &[u8]) -> Option<usize> {
    let digits = label.strip_prefix(b"top")?;
    if digits.first() == Some(&b'0') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (1..=100).contains(&count).then_some(count)
}

#[cfg(test)]
mod tests;
