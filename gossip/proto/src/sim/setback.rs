//! Disks that are set back to an earlier state, as with a snapshot of a whole machine, and what peers notice of it.
//!
//! A store that was set back writes numbers that it has given out before. Peers judge it by what it says of its
//! [`Past`] whenever a stream opens, and tell it that it is forked. Here even what one peer holds for ever is not asked for:
//! what was acknowledged and is held by nobody any more is lost, and that is nobody's fault.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngExt;

use super::store::Job;
use super::world::{Event, Life, World};
use super::{Disks, Sabotage};
use crate::model::Store;
use crate::past::{Meeting, Past, Start, is_outgrown};
use crate::{Hlc, Row, SiteId, Vector, Version};

/// What a store keeps beside its rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    /// How often it was started.
    pub(super) boot: u64,
    /// Whether its site was drawn since it was started.
    pub(super) fresh: bool,
    /// The last start of each site that it has met.
    met: BTreeMap<SiteId, Start>,
}

/// What a start began with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began {
    start: Start,
    head: u64,
    /// When it wrote its first version.
    pub(super) first: Option<Hlc>,
    site_is_new: bool,
}

impl Began {
    pub(super) fn nothing() -> Self {
        Self { start: Start { boot: 0, nonce: 0 }, head: 0, first: None, site_is_new: false }
    }
}

/// A disk as it was.
#[derive(Clone, Debug)]
pub(super) struct Image {
    store: Store,
    books: Books,
}

impl World {
    /// Counts the start.
    pub(super) fn begin(&mut self, node: usize) {
        let nonce = self.next_id();
        let it = &mut self.nodes[node];
        it.books.boot += 1;
        it.began = Began {
            start: Start { boot: it.books.boot, nonce },
            head: it.store.heads().head(it.store.site()),
            first: None,
            site_is_new: std::mem::take(&mut it.books.fresh),
        };
    }

    /// Keeps what is on the node's disk, or sets it back to what was kept.
    pub(super) fn strike_disk(&mut self, node: usize) {
        let back = self.rng.random_bool(0.5);
        let image = self.nodes[node].image.take_if(|_| back);
        match image {
            Some(image) => self.set_back(node, image),
            None => {
                let it = &mut self.nodes[node];
                it.image = Some(Image { store: it.store.clone(), books: it.books.clone() });
            }
        }
    }

    fn set_back(&mut self, node: usize, Image { store, books }: Image) {
        self.report.set_back += 1;
        if self.nodes[node].running {
            self.stop(node);
        }
        self.note(|world| format!("{} is set back to {:?}", world.nodes[node].id, store.heads()));
        // What was under way from it comes to nobody.
        let its: Vec<_> = self.pulls.iter().filter(|(_, asked)| asked.from == node).map(|(&id, _)| id).collect();
        its.into_iter().for_each(|id| self.fail_pull(id));
        // Numbers are reserved in blocks. Few, so that what is written anew has numbers that were given out before.
        let reserved = [0, 3, 20][self.rng.random_range(0..3)];
        let it = &mut self.nodes[node];
        (it.store, it.books) = (store, books);
        it.store.leave_hole(it.store.heads().head(it.store.site()) + reserved);
        it.disk = it.store.clone();
        let nodes = &self.nodes;
        self.acknowledged.retain(|version| nodes.iter().any(|node| node.store.holds(version)));
    }

    /// A transaction was acknowledged.
    pub(super) fn acknowledge(&mut self, version: &Arc<Version>) {
        if self.config.disks == Disks::SetBack {
            self.acknowledged.push(Arc::clone(version));
        }
    }

    /// What was acknowledged and is not held by this node at the end.
    pub(super) fn lacks(&self, node: usize) -> Option<&Version> {
        let store = &self.nodes[node].store;
        self.acknowledged.iter().find(|version| !store.holds(version)).map(|version| &**version)
    }

    fn past(&self, node: usize) -> Past {
        let it = &self.nodes[node];
        let first = it.began.first.unwrap_or_else(|| Hlc::from_ms(self.stamps_from(node)));
        Past { site: it.store.site(), start: it.began.start, head: it.began.head, first: Some(first) }
    }

    /// Whether the peer's store is the one that has always written its site, as far as the node knows. If not the peer is told
    /// so, and its stream breaks.
    pub(super) fn meets(&mut self, node: usize, peer: Life) -> bool {
        if !self.is_alive(peer) {
            return true;
        }
        let past = self.past(peer.node);
        let it = &mut self.nodes[node];
        let known = it.books.met.get(&past.site).copied();
        let itself = match past.meet(known) {
            Meeting::Again => true,
            Meeting::Later => {
                let stamps = it.store.rows().values().flat_map(Row::stamps);
                !stamps.into_iter().any(|stamp| past.cannot_know(stamp))
            }
            Meeting::Forked => false,
        };
        if itself {
            it.books.met.insert(past.site, past.start);
            return true;
        }
        let greatest = it.books.met.values().map(|start| start.boot).max().unwrap_or(0).max(past.start.boot);
        self.note(|world| format!("{} finds that {} is forked", world.nodes[node].id, world.nodes[peer.node].id));
        if self.cuts.passes(node, peer.node) {
            let delay = self.delay();
            self.after(delay, Event::Forked(peer, past.site, greatest));
        }
        false
    }

    /// A peer says what it has applied.
    pub(super) fn compare_own_head(&mut self, node: usize, theirs: &Vector) {
        if self.is_outgrown(node, theirs) {
            let it = &self.nodes[node];
            self.forked(node, it.store.site(), it.books.boot);
        }
    }

    /// Whether a peer's state may be joined: not if its heads say that another store has written the node's site.
    pub(super) fn may_join(&mut self, node: usize, theirs: &Vector) -> bool {
        let may = !self.is_outgrown(node, theirs) || self.sabotaged(Sabotage::TakeBack);
        if !may {
            self.compare_own_head(node, theirs);
        }
        may
    }

    /// The same of a version. The pull that follows says it.
    pub(super) fn may_apply(&self, node: usize, version: &Version) -> bool {
        let last = Vector::from_iter([(version.site, version.version)]);
        !self.is_outgrown(node, &last) || self.sabotaged(Sabotage::TakeBack)
    }

    fn is_outgrown(&self, node: usize, theirs: &Vector) -> bool {
        let it = &self.nodes[node];
        // Who tells of what is not synced does not even know what it lost.
        let blind = self.sabotaged(Sabotage::PublishBeforeSync) || self.sabotaged(Sabotage::KeepSite);
        !it.began.site_is_new && !blind && is_outgrown(it.store.site(), it.store.heads(), theirs)
    }

    /// Somebody has met another store of the node's site.
    pub(super) fn forked(&mut self, node: usize, site: SiteId, boot: u64) {
        let it = &self.nodes[node];
        if it.store.site() == site && !it.began.site_is_new && !self.sabotaged(Sabotage::KeepSite) {
            self.enqueue(node, Job::BeginAgain(site, boot));
        }
    }

    /// Goes on under another site, but for what this start began with.
    pub(super) fn begin_again(&mut self, node: usize, site: SiteId, boot: u64) {
        if self.nodes[node].store.site() != site {
            return;
        }
        self.report.forked += 1;
        let it = &mut self.nodes[node];
        it.books.boot = it.books.boot.max(boot);
        let kept = it.began.head;
        self.renounce(node, &Vector::from_iter([(site, kept + 1)]), Hlc::MAX);
    }
}
