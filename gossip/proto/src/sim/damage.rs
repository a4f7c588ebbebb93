//! Rows that change behind a store's back, and how they come right: found by a look, repaired from a peer, told to nobody.
//!
//! What is damaged is known to all others by then: of what one store alone has, nobody could tell what it was. And they are
//! rows of `free`: clients who write on what is not there do so in good faith, and would tear a pack.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::seq::IteratorRandom;

use super::faults::Durability;
use super::store::Job;
use super::world::{Event, Life, Node, World};
use super::{Disks, Sabotage};
use crate::agreement::Fingerprint;
use crate::buckets::Bucket;
use crate::frame::{PulledRow, row_frames};
use crate::model::{Answer, Keep, PROVEN, RowId, Store};
use crate::repair::Seal;
use crate::replica::Input;
use crate::soundness::{Mended, Remedy, Trust};
use crate::{Frame, Row, Value, Vector};

/// A repair that is under way.
#[derive(Clone, Debug)]
pub(super) struct Repair {
    pub(super) asker: Life,
    pub(super) from: usize,
    /// None before the buckets are compared.
    pub(super) buckets: Option<BTreeSet<Bucket>>,
    pub(super) trust: Trust,
}

impl World {
    /// Changes a row of some node, and has it look some time later.
    pub(super) fn hurt(&mut self) {
        if self.healed.is_some() {
            return;
        }
        let next = self.between(200, 2_000);
        self.after(next, Event::Hurt);
        let node = self.rng.random_range(0..self.nodes.len());
        let others_hurt = (0..self.nodes.len()).filter(|&other| other != node && self.may_be_hurt(other)).count();
        if !self.nodes[node].running || self.hurt.contains(&node) || others_hurt + 2 > self.nodes.len() {
            return;
        }
        let full = self.faults.durability == Durability::Full;
        let durable = |store: usize| if full { &self.nodes[store].store } else { &self.nodes[store].disk };
        let others: Vec<&Vector> =
            (0..self.nodes.len()).filter(|&other| other != node).map(|other| durable(other).heads()).collect();
        let known = |row: &Row| {
            row.stamps().iter().all(|stamp| others.iter().all(|heads| heads.head(stamp.site) >= stamp.version))
        };
        let store = &self.nodes[node].store;
        let rows = store.rows().iter().filter(|(id, row)| id.0.as_str() == "free" && row.is_alive() && known(row));
        let Some((id, row)) = rows.choose(&mut self.rng).map(|(id, row)| (id.clone(), row.clone())) else { return };
        let row = self.damaged(row);
        self.note(|world| format!("{}: {id:?} becomes {row:?} behind its back", world.nodes[node].id));
        self.nodes[node].store.damage(id, row);
        self.hurt.insert(node);
        self.report.hurt += 1;
        self.look_soon(node);
    }

    /// Whether the node is damaged, or would be if it lost power: a repair that is not synced is lost with it. Somebody has
    /// to be sound whatever happens, since nobody takes anything from who is damaged.
    pub(super) fn may_be_hurt(&self, node: usize) -> bool {
        self.hurt.contains(&node) || !self.nodes[node].disk.wrong().is_empty()
    }

    /// The power went: what was repaired may be damaged again.
    pub(super) fn hurt_again(&mut self, node: usize) {
        if !self.nodes[node].store.wrong().is_empty() {
            self.hurt.insert(node);
        }
    }

    /// None where the row is gone.
    fn damaged(&mut self, mut row: Row) -> Option<Row> {
        let cell = row.cells.values_mut().choose(&mut self.rng)?;
        cell.value = Value::Integer(self.rng.random_range(-3..9));
        self.rng.random_bool(0.7).then_some(row)
    }

    pub(super) fn look_soon(&mut self, node: usize) {
        let soon = self.between(0, 4_000);
        self.after(soon, Event::Look(self.life(node)));
    }

    /// The node looks through its rows.
    pub(super) fn look(&mut self, node: usize) {
        let wrong = self.nodes[node].store.wrong();
        self.note(|world| format!("{} looks: {wrong:?}", world.nodes[node].id));
        let now = self.now;
        self.nodes[node].soundness.looked(&wrong, now);
        if wrong.is_empty() && self.hurt.remove(&node) {
            self.check_node(node);
        }
    }

    /// Whether the node must not answer; what it would send may be what tells it.
    pub(super) fn must_not_answer(&mut self, node: usize, answer: &Answer) -> bool {
        if self.sabotaged(Sabotage::SendDamaged) {
            return false;
        }
        let store = &self.nodes[node].store;
        let id = |row: &PulledRow| -> RowId { (row.table.clone(), row.key.clone()) };
        let broken = answer.rows.iter().any(|row| store.seal(&id(row)) == Seal::Broken);
        if broken {
            self.look(node);
        }
        broken || self.nodes[node].soundness.damage().is_some()
    }

    /// What a node says of what it holds.
    pub(super) fn fingerprint(&self, node: usize) -> Fingerprint {
        let store = &self.nodes[node].store;
        let floor = store.purged().floor;
        Fingerprint { vector: store.heads().hash(), floor, digest: store.digests().from(floor) }
    }

    /// Begins what the soundness of the rows asks for.
    pub(super) fn tend(&mut self, node: usize) {
        let ours = self.fingerprint(node);
        let peers: Vec<_> = self.nodes[node].heard.keys().copied().collect();
        // Where one store alone writes each number, nobody differs from anybody.
        let told = |peer: usize| match self.config.disks {
            Disks::Stay => None,
            Disks::SetBack => self.nodes[peer].published.map(|(_, holds)| holds),
        };
        let told: Vec<_> = peers.iter().map(|&peer| (self.nodes[peer].id.clone(), told(peer))).collect();
        let now = self.now;
        let remedy = self.nodes[node].soundness.compare(ours, told.iter().map(|(id, told)| (id, *told)), now);
        self.begin_remedy(node, remedy);
    }

    fn begin_remedy(&mut self, node: usize, remedy: Option<Remedy>) {
        match remedy {
            None => {}
            Some(Remedy::Look(_)) => self.look(node),
            Some(Remedy::Repair(from, trust)) => {
                let repair = Repair { asker: self.life(node), from: self.index(&from), buckets: None, trust };
                let delay = self.delay();
                self.after(delay, Event::Repair(repair));
            }
            Some(Remedy::BeginAnew) => self.fail(format!("{} is repaired in vain", self.nodes[node].id)),
        }
    }

    pub(super) fn mended(&mut self, node: usize, mended: Mended) {
        let now = self.now;
        let remedy = self.nodes[node].soundness.repaired(mended, now);
        self.begin_remedy(node, remedy);
    }

    /// The question has arrived, if it could: for the buckets, then for their rows.
    pub(super) fn repair(&mut self, repair: &Repair) {
        let Repair { asker: Life { node, .. }, from, .. } = *repair;
        if !self.is_alive(repair.asker) {
            return;
        }
        let reaches = self.nodes[from].running && self.cuts.passes(node, from) && self.cuts.passes(from, node);
        if !reaches || self.nodes[from].soundness.damage().is_some() {
            return self.mended(node, Mended::Away);
        }
        let delay = self.delay();
        let full = self.publishes_unsynced();
        let durable = |it: &Node| -> Store { if full { it.store.clone() } else { it.disk.clone() } };
        let theirs = durable(&self.nodes[from]);
        let Some(buckets) = &repair.buckets else {
            self.look(from);
            if !theirs.wrong().is_empty() {
                return self.mended(node, Mended::Away);
            }
            let frame = Frame::Buckets(theirs.heads().clone(), theirs.buckets()).encode();
            let Ok(Frame::Buckets(_, theirs)) = Frame::decode(&frame) else {
                return self.fail("buckets cannot be read".to_owned());
            };
            let ours = &self.nodes[node].store;
            let differing = ours.buckets().differing(&theirs).chain(ours.broken()).collect();
            return self.after(delay, Event::Repair(Repair { buckets: Some(differing), ..*repair }));
        };
        // They are looked through once more behind the rows: what went missing meanwhile is not told as deleted.
        if !theirs.wrong().is_empty() {
            self.look(from);
            return self.mended(node, Mended::Away);
        }
        let answer = theirs.collect_with(self.nodes[node].store.heads(), buckets);
        let mut heard = Answer { rows: Vec::new(), ..answer.clone() };
        for frame in row_frames(answer.rows, 1 << self.rng.random_range(5..14)) {
            match Frame::decode(&frame.encode()) {
                Ok(Frame::Rows(rows)) => heard.rows.extend(rows),
                other => return self.fail(format!("rows cannot be read: {other:?}")),
            }
        }
        self.enqueue(node, Job::Repair(heard, buckets.clone(), repair.trust));
    }

    /// The store puts the rows in place.
    pub(super) fn put_right(&mut self, node: usize, answer: Answer, buckets: &BTreeSet<Bucket>, trust: Trust) {
        if !self.may_join(node, &answer.heads) {
            return self.mended(node, Mended::NotStored);
        }
        let keep: Keep = if trust == Trust::Both || self.sabotaged(Sabotage::RepairByJoin) {
            |ours, theirs, _, _| match (ours, theirs) {
                (Some((mut ours, _)), Some(theirs)) => {
                    ours.join(theirs);
                    Some(ours)
                }
                (ours, theirs) => ours.map(|(ours, _)| ours).or(theirs),
            }
        } else if self.sabotaged(Sabotage::RepairWholesale) {
            |_, theirs, _, _| theirs
        } else {
            PROVEN
        };
        let heads = self.nodes[node].store.repair(buckets, answer, keep).clone();
        self.report.repairs += 1;
        self.note(|world| format!("{} is repaired", world.nodes[node].id));
        self.report_to(node, Input::Stored(heads));
        self.mended(node, Mended::Stored);
    }
}
