//! The zone: an immutable answer to every name, made of prebuilt records.
//!
//! All zones served have the same names, so there is one table of relative names and a list of origins. A name is
//! looked up by its lower-cased wire bytes; what is found holds whole resource records in wire form, whose owner is a
//! pointer to the question. What cannot be prebuilt is small: the names below `topN.nearest.of`, regions of an APP that
//! has nothing there, and `peers`, which depends on who asks.
//!
//! A zone is built by `build`, out of the facts alone; it never changes afterwards. The next one shares with it every
//! shard in which nothing changed. `fixed` are the names of zone files, which lie over those of the facts, or are zones of
//! their own.

mod build;
mod entry;
pub(crate) mod fixed;
mod list;
mod node;
mod origin;
mod records;
mod reverse;
mod saved;
mod select;
mod shard;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::access::Access;
use crate::config::{Config, Ttl};
pub use crate::facts::Freshness;
use crate::facts::{Changes, Facts};
use crate::feed::Member;
use crate::forward::Routes;
use crate::name::{self, ZoneName};
pub(crate) use build::{Builder, Problem, reverse_zones};
use fixed::{Fixed, FixedNode, FixedZone, Said};
pub(crate) use node::{Endpoint, Endpoints, Listed, Node, Place};
pub(crate) use origin::{Origin, Owner, Soa};
pub(crate) use records::{IN, RR_HEAD, RR_LENGTH, RRset, TO_QUESTION, Tail, rtype};
pub(crate) use saved::Saved;
use shard::Shards;

/// Most records in one RRset. More help nobody: a client tries a few, and a longer answer only costs TCP.
pub(crate) const RRSET_MAX: usize = 100;

/// Everything that is answered, at one moment.
#[derive(Debug, Clone)]
pub struct Zone {
    contents: Arc<Contents>,
    fixed: Fixed,
    freshness: Freshness,
    /// Domains that are asked elsewhere although they are below an origin.
    routes: Arc<Routes>,
}

#[derive(Debug)]
struct Contents {
    /// The answering server's id, as NSID and `id.server` tell it.
    server: Box<str>,
    /// Counts the zones since the start; its low 32 bits are the SOA's serial number.
    generation: u64,
    /// Of the cluster, as the zone was built with them.
    ranges: Arc<[IpNet]>,
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
    /// Ranges of the cluster beside those that are configured.
    subnets: Arc<Access>,
    /// What was heard of servers, for the next start.
    members: Arc<[Member]>,
    problems: Arc<[Problem]>,
    problem_count: usize,
    clashes: Arc<[Problem]>,
}

/// Where a question leads.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// Into no zone of ours.
    Foreign,
    /// Into the zone of this origin.
    Own { origin: &'a Origin, name: Name<'a>, by: By },
}

/// What an answer rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The rows, which may be on their way or out of date.
    Facts,
    /// A zone file alone.
    File,
}

#[derive(Debug)]
pub(crate) enum Name<'a> {
    /// The zone's own name, with what a file has there.
    Apex(Option<FixedNode<'a>>),
    Node(Node<'a>),
    /// Records of a file.
    Fixed(FixedNode<'a>),
    /// In a zone of somebody else, whose name servers these are; its origin begins at this byte of the name.
    Cut(FixedNode<'a>, usize),
    /// The first `count` of these.
    Nearest {
        endpoints: Endpoints<'a>,
        count: usize,
    },
    /// A list of everything, which is to be made first.
    Unmade(Listed),
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
    pub(crate) routes: Arc<Routes>,
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
            routes: Arc::new(Routes::new(config.forward.domains.iter().map(|domain| &domain.suffix))),
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
        let contents = Arc::new(builder.contents(facts, changes, generation));
        Self { contents, fixed: Fixed::default(), freshness: facts.freshness(), routes: builder.routes() }
    }

    /// The same, with the names of these files.
    pub(crate) fn with_fixed(self, fixed: &Fixed) -> Self {
        Self { fixed: fixed.clone(), ..self }
    }

    /// The zones of files.
    pub(crate) fn fixed(&self) -> &Fixed {
        &self.fixed
    }

    /// The same names, believed differently.
    pub(crate) fn with_freshness(&self, freshness: Freshness) -> Self {
        Self { freshness, ..self.clone() }
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

    /// The number that the SOA of every zone of rows has.
    pub(crate) fn serial(&self) -> u32 {
        self.contents.generation as u32
    }

    /// Whether names are served that are not in files.
    pub(crate) fn has_names(&self) -> bool {
        self.contents.origins.iter().any(|origin| matches!(origin.owner(), Owner::Forward(_)))
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

    /// Makes a list, if it is not made. Blocking: it takes some 10 ms at a million names.
    pub(crate) fn make(&self, list: Listed) {
        let Contents { lists, names, ttl, .. } = &*self.contents;
        lists.make(list, names, *ttl);
    }

    /// How many entries the lists of everything have no room for, of those that somebody asked for.
    pub(crate) fn entries_cut(&self) -> usize {
        self.contents.lists.cut()
    }

    /// Services whose flat name is another's.
    pub(crate) fn clashes(&self) -> &[Problem] {
        &self.contents.clashes
    }

    /// Finds a name. `qname` is the lower-cased wire form with its closing zero; `labels` are the offsets at which its
    /// labels begin. The longest origin wins, because origins are kept with the longest first.
    pub(crate) fn find(&self, qname: &[u8], labels: &[u8]) -> Found<'_> {
        let within = |origin: &Origin| {
            qname.len().checked_sub(origin.wire().len()).filter(|at| {
                qname.ends_with(origin.wire())
                    && (*at + 1 == qname.len() || labels.iter().any(|label| usize::from(*label) == *at))
            })
        };
        let own = self.contents.origins.iter().find_map(|origin| Some((origin, within(origin)?)));
        let fixed = self.fixed.zones().iter().find_map(|zone| Some((&**zone, within(&zone.origin)?)));
        let longest = own.iter().map(|(_, at)| *at).chain(fixed.iter().map(|(_, at)| *at)).min();
        if longest.is_some_and(|at| self.routes.takes(qname, labels, qname.len() - at)) {
            return Found::Foreign;
        }
        let (origin, at, zone) = match (own, fixed) {
            (None, None) => return Found::Foreign,
            (Some((origin, at)), None) => (origin, at, None),
            (Some((origin, at)), Some((_, longer))) if at < longer => (origin, at, None),
            (Some((origin, at)), Some((zone, same))) if at == same => (origin, at, Some(zone)),
            (_, Some((zone, at))) => return self.of_file(zone, qname, labels, at),
        };
        let facts = |relative: &[u8]| self.contents.at(origin, relative);
        let (name, by) = match zone {
            None if at == 0 => (Name::Apex(None), By::Facts),
            None => (facts(&qname[..at]), By::Facts),
            Some(zone) if at == 0 => (Name::Apex(Some(zone.apex())), By::Facts),
            Some(zone) => {
                let exists = |relative: &[u8]| {
                    !matches!(facts(relative), Name::Missing) || self.is_above(&qname[at - relative.len()..])
                };
                match zone.say(&qname[..at], below(labels, at), exists) {
                    Said::Node(node) => (Name::Fixed(node), By::File),
                    Said::Cut(node, at) => (Name::Cut(node, at), By::File),
                    Said::Wildcard(node) => (Name::Fixed(node), By::Facts),
                    Said::Nothing => (facts(&qname[..at]), By::Facts),
                    Said::Empty => match facts(&qname[..at]) {
                        Name::Missing => (Name::Empty, By::Facts),
                        name => (name, By::Facts),
                    },
                }
            }
        };
        Found::Own { origin, name: self.unless_above(qname, name), by }
    }

    /// What stands at a name of a zone that is in a file alone.
    fn of_file<'a>(&'a self, zone: &'a FixedZone, qname: &[u8], labels: &[u8], at: usize) -> Found<'a> {
        // Nobody else answers for a zone that has no SOA of its own; the files are checked for it.
        if zone.origin.soa().is_none() {
            return Found::Foreign;
        }
        let name = match at {
            0 => Name::Apex(Some(zone.apex())),
            _ => match zone.say(&qname[..at], below(labels, at), |name| self.is_above(&qname[at - name.len()..])) {
                Said::Node(node) | Said::Wildcard(node) => Name::Fixed(node),
                Said::Cut(node, at) => Name::Cut(node, at),
                Said::Empty => Name::Empty,
                Said::Nothing => Name::Missing,
            },
        };
        Found::Own { origin: &zone.origin, name: self.unless_above(qname, name), by: By::File }
    }

    /// A name exists if a zone begins below it (RFC 8020), also where that zone is in a file of its own.
    fn unless_above<'a>(&self, qname: &[u8], name: Name<'a>) -> Name<'a> {
        match name {
            Name::Missing if self.is_above(qname) => Name::Empty,
            name => name,
        }
    }

    /// Whether a zone of a file begins below this name.
    fn is_above(&self, qname: &[u8]) -> bool {
        self.fixed.zones().iter().any(|zone| zone.is_below(qname))
    }

    /// Records that stand at a name in a file, whether it is the zone's own or belongs to somebody else: its addresses go
    /// with the name servers that are named.
    pub(crate) fn glue(&self, qname: &[u8]) -> Option<FixedNode<'_>> {
        self.fixed.zones().iter().find_map(|zone| zone.exactly(qname.strip_suffix(zone.origin())?))
    }

    /// Ranges of the cluster beside those that are configured: of its servers, of the store, of management addresses.
    pub(crate) fn subnets(&self) -> &Arc<Access> {
        &self.contents.subnets
    }

    /// Whether an address is in one of them.
    pub(crate) fn has_subnet_of(&self, address: IpAddr) -> bool {
        self.contents.subnets.has(address)
    }

    /// Whether a question from this address is one of this host itself.
    pub(crate) fn is_here(&self, source: IpAddr) -> bool {
        source.is_loopback() || self.contents.here.contains(&source)
    }
}

/// The labels that begin before `at`.
fn below(labels: &[u8], at: usize) -> &[u8] {
    &labels[..labels.partition_point(|label| usize::from(*label) < at)]
}

impl Contents {
    /// What stands at a name relative to an origin, other than the origin itself.
    fn at(&self, origin: &Origin, relative: &[u8]) -> Name<'_> {
        match origin.owner() {
            Owner::File | Owner::Nobody => Name::Missing,
            Owner::Forward(_) => self.relative(relative),
            Owner::Reverse => {
                let mut whole = [0; name::NAME_MAX];
                let (rest, length) = (origin.wire(), relative.len() + origin.wire().len() - 1);
                whole[..relative.len()].copy_from_slice(relative);
                whole[relative.len()..length].copy_from_slice(&rest[..rest.len() - 1]);
                self.pointers.get(&whole[..length]).map_or(Name::Missing, Name::Node)
            }
        }
    }

    fn relative(&self, relative: &[u8]) -> Name<'_> {
        match self.names.get(relative) {
            Some(Node::List(list)) => {
                return self.lists.get(list).map_or(Name::Unmade(list), |sets| Name::Node(Node::Plain(sets)));
            }
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

/// Explains a name.
pub(crate) fn explain(
    facts: &Facts,
    fixed: &Fixed,
    settings: &Arc<Settings>,
    name: &str,
) -> crate::explain::Explanation {
    build::explain(facts, fixed, settings, name)
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
