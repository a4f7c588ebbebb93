//! What must hold at every instant, and at the end.

use std::time::Duration;

use super::Disks;
use super::workload::complaint;
use super::world::{Event, Node, World};
use crate::model::{Store, fold};
use crate::{Row, SiteId};

impl World {
    /// After every change of a store.
    pub(super) fn check_node(&mut self, node: usize) {
        if self.hurt.contains(&node) {
            return;
        }
        self.check_readers(node);
        self.check_clock(node);
        let store = &self.nodes[node].store;
        if self.config.disks == Disks::SetBack {
            return;
        }
        // Else nobody could tell whether it was away.
        if !store.heads().covers(&store.purged().through) {
            let what = format!("{} says that it purged what it has not applied", self.nodes[node].id);
            return self.fail(what);
        }
        let sound = self.nodes.iter().enumerate().filter(|(other, _)| !self.hurt.contains(other));
        let differs = sound
            .map(|(_, other)| other)
            .find(|other| other.store.heads() == store.heads() && !agree(&other.store, store));
        if let Some(other) = differs {
            let (ours, theirs) = (store.rows(), other.store.rows());
            let different = ours.keys().chain(theirs.keys()).find(|id| ours.get(*id) != theirs.get(*id));
            let different = different.map(|id| (id, ours.get(id), theirs.get(id)));
            let nodes = (&self.nodes[node].id, &other.id);
            let what =
                format!("{} and {} have equal heads and different rows, such as {different:?}", nodes.0, nodes.1);
            self.fail(what);
        }
    }

    pub(super) fn check_readers(&mut self, node: usize) {
        if let Some(complaint) = complaint(&self.nodes[node].store) {
            self.fail(format!("a reader at {} sees {complaint}", self.nodes[node].id));
        }
    }

    /// Now and then: the store is the fold of exactly the transactions below its heads.
    pub(super) fn check_fold(&mut self, node: usize) {
        if self.hurt.contains(&node) || self.config.disks == Disks::SetBack {
            return;
        }
        if let Some(differs) = self.differs_from_fold(node) {
            self.fail(format!("{} is not the fold of what is below its heads: {differs}", self.nodes[node].id));
        }
    }

    /// The first row that is otherwise than the fold says, with both.
    fn differs_from_fold(&self, node: usize) -> Option<String> {
        let store = &self.nodes[node].store;
        let known = self.history.values().map(|version| &**version);
        let mut fold = fold(known.filter(|version| version.version <= store.heads().head(version.site)));
        // But for the tombstones that it has purged.
        let gone = |row: &Row| !row.is_alive() && row.rs.version <= store.purged().through.head(row.rs.site);
        fold.retain(|id, row| store.rows().contains_key(id) || !gone(row));
        let ids = store.rows().keys().chain(fold.keys());
        let (id, ours) = ids.map(|id| (id, store.rows().get(id))).find(|&(id, ours)| ours != fold.get(id))?;
        Some(format!("{id:?} is {ours:?} and should be {:?}", fold.get(id)))
    }

    /// Whether nothing is left to be purged. Heads that were dropped before the healing are told again when they rise, which
    /// they do not any more: who has not heard of them keeps its tombstones.
    fn has_purged(&self, node: &Node) -> bool {
        // Who has no stream with it is asked.
        let heard = |other: &Node| node.replica.heads_of(&other.id).is_none_or(|heads| heads == other.store.heads());
        let waits = || self.nodes.iter().any(|other| other.id != node.id && !heard(other));
        self.config.window.is_none() || node.store.rows().values().all(Row::is_alive) || waits()
    }

    /// Looks again and again after the healing, until all is equal or the time is over.
    pub(super) fn check_settled(&mut self) {
        let Some(healed) = self.healed else { return };
        let first = &self.nodes[0].store;
        let equal = self.hurt.is_empty()
            && self.nodes.iter().all(|node| {
                let at_rest = node.jobs.is_empty() && node.unreported == 0;
                let purged = self.has_purged(node);
                // Two stores that wrote under one number are found to differ later, by their digests.
                let alike = self.config.disks == Disks::Stay || agree(&node.store, first);
                at_rest
                    && purged
                    && alike
                    && node.store.heads() == first.heads()
                    && node.replica.heads() == first.heads()
            });
        if equal {
            self.report.settled_after = self.now - healed;
            self.settled = Some(self.now);
            if let Err(what) = self.check_end() {
                self.fail(what);
            }
        } else if self.now >= healed + self.config.settle {
            let heads = self.nodes.iter().map(|node| format!("\n  {} {:?}", node.id, node.store.heads()));
            let hurt = &self.hurt;
            let heads = heads.collect::<String>();
            let what = format!("not equal {:?} after the healing, {hurt:?} damaged:{heads}", self.config.settle);
            self.fail(what);
        } else {
            self.after(Duration::from_millis(50), Event::Check);
        }
    }

    fn check_end(&mut self) -> Result<(), String> {
        let first = &self.nodes[0].store;
        for node in &self.nodes {
            node.store.verify().map_err(|damage| format!("{}: {damage}", node.id))?;
            let whole = |store: &Store| (store.rows().clone(), store.log().clone(), store.digest());
            let equal = match self.config.window {
                None => whole(&node.store) == whole(first),
                Some(_) => agree(&node.store, first),
            };
            if !equal {
                return Err(format!("{} differs from {} at equal heads", node.id, self.nodes[0].id));
            }
            if node.replica.handed_bytes() > 0 {
                return Err(format!("{} still counts what its store has stored", node.id));
            }
        }
        if self.config.disks == Disks::SetBack {
            let lost =
                self.lacks(0).map(|version| format!("{version:?} was acknowledged, is held by somebody, and is lost"));
            return lost.map_or(Ok(()), Err);
        }
        let stands = |&&(site, version): &&(SiteId, u64)| self.given_up.get(&site).is_none_or(|&kept| version <= kept);
        let told = self.history.keys().filter(stands);
        let lost = told.copied().find(|&(site, version)| version > first.heads().head(site));
        if let Some((site, version)) = lost {
            return Err(format!("version {version} of {site:?} was acknowledged and is lost"));
        }
        let differs = self.differs_from_fold(0);
        differs.map_or(Ok(()), |differs| Err(format!("the rows are not the fold of the history: {differs}")))
    }
}

/// Whether the digests are equal, of what neither has begun to purge.
fn agree(a: &Store, b: &Store) -> bool {
    let floor = a.purged().floor.max(b.purged().floor);
    a.digests().from(floor) == b.digests().from(floor)
}
