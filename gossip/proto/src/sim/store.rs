//! A node's store: one job after the other, each in its time, some in vain; results are heard a little later, in order.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::RngExt;

use super::Sabotage;
use super::faults::Durability;
use super::world::{Event, World};
use crate::buckets::Bucket;
use crate::clocks::{reading, stamped_from};
use crate::model::{Answer, Statement};
use crate::purged::Away;
use crate::replica::{Input, PullOutcome};
use crate::soundness::{Mended, Trust};
use crate::{Frame, Hlc, NodeId, SiteId, Vector, Version};

/// What the store is to do.
pub(super) enum Job {
    Commit(Vec<Statement>),
    Apply(Vec<Version>),
    Join(NodeId, Answer, Whole),
    Purge(Vector),
    Repair(Answer, BTreeSet<Bucket>, Trust),
    /// Give up the site, of which these versions are refused, and what is stamped later than this.
    Renounce(Vector, Hlc),
    /// The same, where another store has written this site, but for what this start began with.
    BeginAgain(SiteId, u64),
}

/// Whether an answer is a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Rows,
    Snapshot,
}

impl World {
    pub(super) fn enqueue(&mut self, node: usize, job: Job) {
        self.nodes[node].jobs.push_back(job);
        self.begin_job(node);
    }

    fn begin_job(&mut self, node: usize) {
        if self.nodes[node].busy || self.nodes[node].jobs.is_empty() {
            return;
        }
        self.nodes[node].busy = true;
        let takes = if self.now < self.nodes[node].slow_until { self.between(50, 600) } else { self.between(0, 3) };
        self.after(takes, Event::Stored(self.life(node)));
    }

    pub(super) fn finish_job(&mut self, node: usize) {
        self.nodes[node].busy = false;
        let full = self.now < self.nodes[node].full_until;
        match self.nodes[node].jobs.pop_front() {
            Some(Job::Commit(_)) if full => {}
            Some(Job::Apply(_)) if full => {
                self.report.failed_applies += 1;
                self.report_to(node, Input::ApplyFailed);
            }
            Some(Job::Join(from, ..)) if full => self.report_to(node, Input::Pulled(from, PullOutcome::Failed)),
            Some(Job::Commit(statements)) => self.commit(node, &statements),
            Some(Job::Apply(versions)) => self.apply(node, &versions),
            Some(Job::Join(from, answer, whole)) => self.join(node, from, answer, whole),
            Some(Job::Purge(_) | Job::Renounce(..) | Job::BeginAgain(..)) if full => {}
            Some(Job::Repair(..)) if full => self.mended(node, Mended::NotStored),
            Some(Job::Repair(answer, buckets, trust)) => self.put_right(node, answer, &buckets, trust),
            Some(Job::Purge(through)) => self.purge(node, &through),
            Some(Job::Renounce(refused, latest)) => self.renounce(node, &refused, latest),
            Some(Job::BeginAgain(site, boot)) => self.begin_again(node, site, boot),
            None => {}
        }
        self.check_node(node);
        self.begin_job(node);
    }

    fn commit(&mut self, node: usize, statements: &[Statement]) {
        let wall_ms = self.stamps_from(node);
        let Some(version) = self.nodes[node].store.transact(wall_ms, statements) else { return };
        self.report.commits += 1;
        self.note(|world| format!("{} committed {version:?}", world.nodes[node].id));
        let version = Arc::new(version);
        self.nodes[node].began.first.get_or_insert(version.hlc);
        self.acknowledge(&version);
        self.history.insert((version.site, version.version), Arc::clone(&version));
        let unheard = self.rng.random_bool(self.faults.unheard_commit);
        let input =
            if unheard { Input::Stored(self.nodes[node].store.heads().clone()) } else { Input::Committed(version) };
        self.report_to(node, input);
    }

    /// What a node stamps from: its clock, or the median.
    pub(super) fn stamps_from(&self, node: usize) -> u64 {
        let highest = self.nodes[node].replica.clocks().highest().map(|at_zero| reading(at_zero, self.now));
        stamped_from(self.wall_ms(node), highest)
    }

    fn apply(&mut self, node: usize, versions: &[Version]) {
        let takes_all = self.sabotaged(Sabotage::PurgeAtOnce) || self.sabotaged(Sabotage::TakeForgotten);
        let taken: Vec<_> = versions.iter().filter(|version| self.may_apply(node, version)).collect();
        let store = &mut self.nodes[node].store;
        if takes_all {
            versions.iter().for_each(|version| store.apply_next(version));
        } else {
            store.apply(taken);
        }
        let heads = store.heads().clone();
        let all = versions.iter().all(|version| version.version <= heads.head(version.site));
        self.report_to(node, Input::Stored(heads));
        if !all {
            self.report.failed_applies += 1;
            self.report_to(node, Input::ApplyFailed);
        }
    }

    fn join(&mut self, node: usize, from: NodeId, mut answer: Answer, whole: Whole) {
        if !self.may_join(node, &answer.heads) {
            return self.report_to(node, Input::Pulled(from, PullOutcome::Failed));
        }
        if self.sabotaged(Sabotage::JoinInParts) {
            let second = answer.rows.split_off(answer.rows.len() / 2);
            self.nodes[node].store.join(std::mem::replace(&mut answer.rows, second), &Vector::default());
            self.check_readers(node);
        }
        let outcome = match self.take_rows(node, &mut answer) {
            Away::Nobody => PullOutcome::Joined,
            Away::We if whole == Whole::Snapshot => return self.begin_anew(node, answer),
            Away::We => PullOutcome::NeedsSnapshot,
            Away::They => PullOutcome::Failed,
        };
        let heads = self.nodes[node].store.heads().clone();
        self.report_to(node, Input::Stored(heads));
        self.report_to(node, Input::Pulled(from, outcome));
    }

    /// The replica hears of it once it is synced.
    pub(super) fn report_to(&mut self, node: usize, input: Input) {
        self.nodes[node].unreported += 1;
        if self.publishes_unsynced() {
            self.report_soon(node, input);
        } else {
            self.nodes[node].unsynced.push(input);
        }
    }

    /// With full durability a commit is its own sync.
    pub(super) fn publishes_unsynced(&self) -> bool {
        self.faults.durability == Durability::Full || self.sabotaged(Sabotage::PublishBeforeSync)
    }

    /// The replica hears of it soon, after what it was told before.
    fn report_soon(&mut self, node: usize, input: Input) {
        let soon = self.now + self.between(0, 4);
        let it = &mut self.nodes[node];
        it.reported = it.reported.max(soon);
        let at = it.reported;
        self.at(at, Event::Report(self.life(node), input));
    }

    pub(super) fn sync(&mut self, node: usize) {
        if self.faults.durability == Durability::Full {
            return;
        }
        self.nodes[node].disk = self.nodes[node].store.clone();
        for input in std::mem::take(&mut self.nodes[node].unsynced) {
            self.report_soon(node, input);
        }
        let slowest = if self.healed.is_some() { 50 } else { 400 };
        let next = self.between(0, slowest);
        self.after(next, Event::Synced(self.life(node)));
    }

    /// A frame has arrived.
    pub(super) fn receive(&mut self, node: usize, from: NodeId, frame: Frame) {
        match &frame {
            Frame::Versions(versions) if self.sabotaged(Sabotage::ApplyAtOnce) => {
                versions.iter().for_each(|version| self.nodes[node].store.apply_unchecked(version));
                let heads = self.nodes[node].store.heads().clone();
                self.report_to(node, Input::Stored(heads));
                self.check_node(node);
            }
            Frame::Versions(versions) if self.sabotaged(Sabotage::TellBeforeStored) => {
                let heads = versions.iter().map(|version| (version.site, version.version)).collect();
                self.feed(node, Input::Received(from, frame));
                self.feed(node, Input::Stored(heads));
            }
            _ => {
                if let Frame::Heads(heads) = &frame {
                    self.compare_own_head(node, heads);
                }
                self.feed(node, Input::Received(from, frame));
            }
        }
    }
}
