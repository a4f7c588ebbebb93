//! Versions that were refused for their stamps: by whom they were sent, so that somebody can be told.
//!
//! They are not kept. Whoever wrote them has them, and gives them when it is asked once more, until their time has come.
//! What would follow them from the same site is refused too: it could not be applied before them. Who is told so, and sees
//! it the same way, stamps them anew.
//!
//! That holds for the sender only. What one peer sends under a site's name says nothing of what the site has written, so
//! others', and first of all the site's own node's, are taken as if it had not come.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Hlc, NodeId, SiteId, Stamp, Vector};

/// How long a peer that offers what is from the future is not pulled from: its answers are refused whole until its stamps
/// are due, or written anew.
pub(super) const PULL_AFTER_REFUSAL: Duration = Duration::from_secs(10);

/// How long it is remembered that a site's versions were refused. While that goes on they are refused again with every
/// pull, and with whatever the site writes.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How often the sender is told.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Sites that are remembered, once for each sender. A cluster has as many as nodes, and some more; versions of a site on
/// top are refused and not told of.
const SITES: usize = 1_024;

/// That a site's versions are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who sent them: the site's own node, or one that took them, or says so.
    pub node: NodeId,
    /// The lowest number that was refused.
    pub version: u64,
    /// The latest reading among those refused.
    pub hlc: Hlc,
    again: Duration,
    tell: Duration,
}

/// By site and sender.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    sites: BTreeMap<(SiteId, NodeId), Refusal>,
    count: u64,
}

impl Refusals {
    /// A stamp was refused. Returns what the sender is to be told, if it was not told a moment ago.
    pub(super) fn refuse(&mut self, from: &NodeId, stamp: Stamp, now: Duration) -> Option<Vector> {
        self.count += 1;
        let key = (stamp.site, from.clone());
        if !self.sites.contains_key(&key) && self.sites.len() >= SITES {
            return None;
        }
        let (version, hlc) = (stamp.version, stamp.hlc);
        let refusal = || Refusal { node: from.clone(), version, hlc, again: now, tell: now };
        let refusal = self.sites.entry(key).or_insert_with(refusal);
        refusal.version = refusal.version.min(version);
        refusal.hlc = refusal.hlc.max(hlc);
        refusal.again = now;
        if refusal.tell > now {
            return None;
        }
        refusal.tell = now + TOLD_EVERY;
        Some([(stamp.site, refusal.version)].into_iter().collect())
    }

    /// Whether this version follows one that was refused of the same sender.
    pub(super) fn holds_back(&self, from: &NodeId, site: SiteId, version: u64) -> bool {
        self.sites.get(&(site, from.clone())).is_some_and(|refusal| version >= refusal.version)
    }

    /// Forgets what has become due, what came another way, and what nobody offers any more.
    pub(super) fn review(&mut self, latest: Hlc, heads: &Vector, now: Duration) {
        self.sites.retain(|&(site, _), refusal| {
            refusal.hlc > latest && refusal.version > heads.head(site) && refusal.again + REMEMBERED > now
        });
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SiteId, &Refusal)> {
        self.sites.iter().map(|(&(site, _), refusal)| (site, refusal))
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }
}
