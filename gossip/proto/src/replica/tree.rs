//! Plumtree (Leitão, Pereira, Rodrigues 2007), one tree for each site: above 30 nodes a version comes to every node once,
//! over whatever path was the fastest, and everybody heals what broke.
//!
//! ```text
//! version from a neighbour ── new: forwarded to whoever has not pruned us ── it becomes the site's parent here
//!                          └─ known, from another than the parent: pruned
//! a neighbour's heads show what we lack for [`GRAFT_AFTER`]: grafted, and it pushes to us from then on
//! ```
//! What the paper's lazy links carry, the ids of messages, are the heads that every neighbour is told anyway. A graft for
//! versions that are kept nowhere near any more brings nothing, and the member's lead is pulled as in a small cluster.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::{NodeId, SiteId, Vector, Version};

/// How long a neighbour may be ahead with a version before it is asked for it: longer than two paths of a healthy tree
/// differ by, short enough to be repeated at each step of a long path.
pub const GRAFT_AFTER: Duration = Duration::from_millis(100);

/// How long one neighbour has to answer a graft before another is asked: longer than a round trip.
pub(super) const GRAFT_AGAIN: Duration = Duration::from_millis(300);

/// Bytes of versions that are kept for grafts, the oldest of which go first: a graft asks for what is a fraction of a second
/// old, and 4 MiB are the four greatest transactions or some 20,000 usual ones.
const RECENT_BYTES: usize = 4 << 20;

/// What is pushed to whom, per site.
#[derive(Debug, Default)]
pub(super) struct Tree {
    parents: BTreeMap<SiteId, NodeId>,
    /// Sites whose versions a peer has from elsewhere. Of sites that we know only, so it is bounded as our heads are.
    pruned: BTreeMap<NodeId, BTreeSet<SiteId>>,
    grafted: BTreeMap<SiteId, Duration>,
    recent: Recent,
}

impl Tree {
    /// A version came from a peer and was new.
    pub(super) fn brought(&mut self, site: SiteId, by: &NodeId) {
        if self.parents.get(&site) != Some(by) {
            self.parents.insert(site, by.clone());
        }
    }

    /// A version came that was known. Returns whether the peer need not push the site's versions, because a parent that
    /// is open does. Then it has them, too, and is not pushed to.
    pub(super) fn repeated(&mut self, site: SiteId, by: &NodeId, is_open: impl Fn(&NodeId) -> bool) -> bool {
        match self.parents.get(&site) {
            Some(parent) if parent == by => false,
            Some(parent) if is_open(parent) => {
                self.prune(by, site);
                true
            }
            Some(_) | None => {
                self.parents.insert(site, by.clone());
                false
            }
        }
    }

    /// A peer has the site's versions from elsewhere.
    pub(super) fn prune(&mut self, peer: &NodeId, site: SiteId) {
        self.pruned.entry(peer.clone()).or_default().insert(site);
    }

    /// A peer wants the site's versions, from this number on. Returns those that are kept.
    pub(super) fn graft(&mut self, peer: &NodeId, site: SiteId, first: u64) -> Vec<Arc<Version>> {
        if let Some(pruned) = self.pruned.get_mut(peer) {
            pruned.remove(&site);
        }
        self.recent.since(site, first)
    }

    /// A stream to the peer begins: it knows nothing of what was agreed on the one before.
    pub(super) fn begin(&mut self, peer: &NodeId) {
        self.pruned.remove(peer);
    }

    pub(super) fn is_pushed(&self, peer: &NodeId, site: SiteId) -> bool {
        !self.pruned.get(peer).is_some_and(|pruned| pruned.contains(&site))
    }

    pub(super) fn keep(&mut self, version: Arc<Version>) {
        self.recent.insert(version);
    }

    /// Of these versions, by the first of each site, what nobody was asked for a moment ago.
    pub(super) fn ask(&mut self, wanted: &Vector, now: Duration) -> Vector {
        self.grafted.retain(|_, &mut at| at + GRAFT_AGAIN > now);
        let ask: Vector = wanted.iter().filter(|(site, _)| !self.grafted.contains_key(site)).collect();
        self.grafted.extend(ask.iter().map(|(site, _)| (site, now)));
        ask
    }
}

/// Versions that passed a moment ago, bounded in bytes.
#[derive(Debug, Default)]
struct Recent {
    versions: BTreeMap<(SiteId, u64), (Arc<Version>, usize)>,
    order: VecDeque<(SiteId, u64)>,
    bytes: usize,
}

impl Recent {
    fn insert(&mut self, version: Arc<Version>) {
        let (id, size) = ((version.site, version.version), version.size());
        if self.versions.insert(id, (version, size)).is_some() {
            return;
        }
        self.order.push_back(id);
        self.bytes += size;
        // One may always stay, whatever its size.
        while self.bytes > RECENT_BYTES && self.order.len() > 1 {
            let oldest = self.order.pop_front().and_then(|id| self.versions.remove(&id));
            self.bytes -= oldest.map_or(0, |(_, size)| size);
        }
    }

    /// From this one on without a hole, for with one they could not be applied.
    fn since(&self, site: SiteId, first: u64) -> Vec<Arc<Version>> {
        let kept = self.versions.range((site, first)..=(site, u64::MAX));
        let in_order = kept.zip(first..).take_while(|(((_, number), _), expected)| number == expected);
        in_order.map(|((_, (version, _)), _)| Arc::clone(version)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, Hlc, Key, Value, version::Life};

    fn version(number: u64, bytes: usize) -> Arc<Version> {
        let change = Change {
            table: "t".into(),
            key: Key::encode([&Value::Integer(1)]).unwrap(),
            cl: 1,
            life: Life::Changed,
            cells: [("a".into(), Value::Blob(vec![0; bytes].into()))].into(),
        };
        Arc::new(Version { site: SiteId::new([1; 16]), version: number, hlc: Hlc::from_ms(1), changes: vec![change] })
    }

    #[test]
    fn what_is_kept_for_grafts_is_bounded_and_has_no_hole() {
        let mut recent = Recent::default();
        for number in [1, 2, 4, 5] {
            recent.insert(version(number, 10));
            recent.insert(version(number, 10));
        }
        let since =
            |recent: &Recent, first| recent.since(SiteId::new([1; 16]), first).iter().map(|v| v.version).collect();
        let numbers: [Vec<u64>; 4] = [1, 2, 3, 4].map(|first| since(&recent, first));
        assert_eq!(numbers, [vec![1, 2], vec![2], vec![], vec![4, 5]]);
        (6..106).for_each(|number| recent.insert(version(number, 100 << 10)));
        assert!(recent.bytes <= RECENT_BYTES && recent.versions.len() == recent.order.len());
        assert_eq!(since(&recent, 105), vec![105]);
        recent.insert(version(106, 2 * RECENT_BYTES));
        assert_eq!((since(&recent, 105), since(&recent, 106)), (vec![], vec![106]));
    }
}
