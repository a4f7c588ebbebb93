//! Who the others are, as DNS said it, with a memory: what an answer adds counts at once, what it lacks must be lacking
//! for a while. So no answer that is late, cut or wrong for a moment takes a server out of a cluster that works.
//!
//! ```text
//!            in an answer                    absent from 3 answers, over 90 s
//! unknown ───────────────► held, no misses ◄──────────► held, misses ───────► unknown
//!                                         in an answer
//! ```
//! An empty answer and a failed one say nothing: Kith's DNS answers empty when it hears of no server, and that one is cut
//! off is no news of the others. So the last members of a group are never dropped; a group that is really gone is dropped
//! by the one around it (a region by `center`, in [`crate::shape`]).
//!
//! This module reads no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::name::Label;
use crate::resolve::{Answer, MOST};

mod keep;
#[cfg(test)]
mod tests;

pub(crate) use keep::replace;
pub use keep::{Kept, NotKept};

/// Answers that must lack a peer before it goes. One can be cut, two can come from one name server that lags.
pub(crate) const MISSES: u32 = 3;
/// How long they must lack it: a server that restarts in its turn is out of DNS from the moment in which its clients are sent
/// away until it answers again, about a minute, and is not gone.
pub(crate) const HOLD: Duration = Duration::from_secs(90);
/// Most regions. Each is a question in every pass.
pub const REGIONS: usize = 64;

/// A set that grows at once and shrinks late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<T> {
    members: BTreeMap<T, Absence>,
    most: usize,
}

/// Since when, and in how many answers, a member was absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Absence {
    misses: u32,
    since: Option<Instant>,
}

impl<T: Ord + Clone> Held<T> {
    /// Nobody, and never more than `most`.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { members: BTreeMap::new(), most }
    }

    /// Those of an earlier life, as if an answer had just held them.
    #[must_use]
    pub fn remembered(members: impl IntoIterator<Item = T>, most: usize) -> Self {
        let members = members.into_iter().take(most).map(|member| (member, Absence::default())).collect();
        Self { members, most }
    }

    /// Takes in an answer. Who finds no room is left out until somebody goes.
    pub fn observe(&mut self, answer: &Answer<T>, now: Instant) {
        let Answer::Records(records) = answer else { return };
        self.members.retain(|member, absence| {
            if records.set.contains(member) {
                *absence = Absence::default();
                return true;
            }
            let since = *absence.since.get_or_insert(now);
            absence.misses = absence.misses.saturating_add(1);
            absence.misses < MISSES || now.saturating_duration_since(since) < HOLD
        });
        for found in &records.set {
            if self.members.len() < self.most {
                self.members.entry(found.clone()).or_default();
            }
        }
    }

    /// The members, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.members.keys()
    }

    /// Whether `one` is among them.
    pub fn contains(&self, one: &T) -> bool {
        self.members.contains_key(one)
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// All that is known of the other servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// Servers of the center, in all regions.
    pub center: Held<IpAddr>,
    /// Regions that there are.
    pub regions: Held<Label>,
    /// Servers in each region, of the center or not.
    pub within: BTreeMap<Label, Held<IpAddr>>,
    /// Where they listen for routes.
    pub routes: Ports,
    /// Where they listen for other clusters.
    pub gateways: Ports,
    /// Where they listen for leaves.
    pub leaves: Ports,
}

/// The port of each server, as SRV says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ports {
    /// That of all of whom nothing else is said.
    pub all: Option<u16>,
    /// Of single servers.
    pub of: BTreeMap<IpAddr, u16>,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            center: Held::new(MOST),
            regions: Held::new(REGIONS),
            within: BTreeMap::new(),
            routes: Ports::default(),
            gateways: Ports::default(),
            leaves: Ports::default(),
        }
    }
}

impl Peers {
    /// Takes in what was said of one region.
    pub fn observe_region(&mut self, region: &Label, answer: &Answer<IpAddr>, now: Instant) {
        self.within.entry(region.clone()).or_insert_with(|| Held::new(MOST)).observe(answer, now);
    }

    /// Takes in which regions there are, and forgets who was in those that are gone.
    /// Our `own` region has us, whatever is said.
    pub fn observe_regions(&mut self, answer: &Answer<Label>, own: Option<&Label>, now: Instant) {
        self.regions.observe(answer, now);
        self.within.retain(|region, _| Some(region) == own || self.regions.contains(region));
    }

    /// Servers of the center in a region.
    #[must_use]
    pub fn center_in(&self, region: &Label) -> BTreeSet<IpAddr> {
        let within = self.within.get(region).into_iter().flat_map(Held::iter);
        within.filter(|address| self.center.contains(address)).copied().collect()
    }
}

impl Ports {
    /// The port of `address`.
    #[must_use]
    pub fn at(&self, address: IpAddr, default: u16) -> u16 {
        self.of.get(&address).copied().or(self.all).unwrap_or(default)
    }
}
