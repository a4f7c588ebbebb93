//! Pulls: a question, an answer in parts from one snapshot, and all that may come between.

use rand::RngExt;
use rand::seq::IteratorRandom;

use super::Sabotage;
use super::store::Job;
use super::world::{Event, Life, World};
use crate::frame::row_frames;
use crate::model::Answer;
use crate::replica::{Input, PULL_STALL, PullOutcome};
use crate::{Frame, NodeId, Vector};

/// A pull that is under way.
pub(super) struct Asked {
    asker: Life,
    from: usize,
    question: Vec<u8>,
    parts: Vec<Vec<u8>>,
}

impl World {
    pub(super) fn ask(&mut self, node: usize, from: &NodeId, above: Vector) {
        self.report.pulls += 1;
        if self.settled.is_some() {
            self.report.pulls_at_rest += 1;
        }
        let from = self.index(from);
        let id = self.next_id();
        let question = Frame::Pull(above).encode();
        self.pulls.insert(id, Asked { asker: self.life(node), from, question, parts: Vec::new() });
        let delay = self.delay();
        self.after(delay, Event::Asked(id));
        self.after(PULL_STALL, Event::Stalled(id));
    }

    /// The question has arrived, if it could. The answer is of this instant, whenever it arrives.
    pub(super) fn answer(&mut self, id: u64) {
        let Some(asked) = self.pulls.get(&id) else { return };
        if !self.nodes[asked.from].running || !self.cuts.passes(asked.asker.node, asked.from) {
            return;
        }
        let above = match Frame::decode(&asked.question) {
            Ok(Frame::Pull(above)) => above,
            other => return self.fail(format!("a question cannot be read: {other:?}")),
        };
        // An answer of what is not synced would tell of it.
        let node = &self.nodes[asked.from];
        let store = if self.publishes_unsynced() { &node.store } else { &node.disk };
        let by_site = self.sabotaged(Sabotage::PullBySite);
        let mut answer = store.collect(&above);
        if by_site {
            let site = store.heads().above(&above).iter().map(|(site, _)| site).choose(&mut self.rng);
            answer = site.map_or(Answer { rows: Vec::new(), heads: Vector::default() }, |site| {
                let all = store.heads().iter();
                let head = |asked: u64, (of, head)| (of, if of == site { asked } else { head });
                let rows = store.collect(&all.map(|entry| head(above.head(site), entry)).collect()).rows;
                Answer { rows, heads: [(site, store.heads().head(site))].into_iter().collect() }
            });
        }
        // From parts so small that rows are split to ones that hold everything.
        let part_bytes = 1 << self.rng.random_range(5..14);
        let mut parts: Vec<_> = row_frames(answer.rows, part_bytes).iter().map(Frame::encode).collect();
        parts.push(Frame::Pulled(answer.heads).encode());
        if self.rng.random_bool(self.faults.pull) {
            parts.pop();
            if self.rng.random_bool(0.5) {
                parts = vec![Frame::Refused("busy".to_owned()).encode()];
            }
        }
        if let Some(asked) = self.pulls.get_mut(&id) {
            asked.parts = parts;
        }
        let delay = self.delay();
        self.after(delay, Event::Answered(id));
    }

    pub(super) fn take_answer(&mut self, id: u64) {
        let passes = |asked: &Asked| self.cuts.passes(asked.from, asked.asker.node);
        if !self.pulls.get(&id).is_some_and(passes) {
            return;
        }
        let Some(asked) = self.pulls.remove(&id).filter(|asked| self.is_alive(asked.asker)) else { return };
        let mut rows = Vec::new();
        let mut heads = None;
        for part in &asked.parts {
            match Frame::decode(part) {
                Ok(Frame::Rows(more)) => rows.extend(more),
                Ok(Frame::Pulled(all)) => heads = Some(all),
                Ok(Frame::Refused(_)) => {}
                other => return self.fail(format!("an answer cannot be read: {other:?}")),
            }
        }
        let node = asked.asker.node;
        let from = self.nodes[asked.from].id.clone();
        match heads {
            Some(heads) => self.enqueue(node, Job::Join(from, rows, heads)),
            None => self.feed(node, Input::Pulled(from, PullOutcome::Failed)),
        }
    }

    pub(super) fn fail_pull(&mut self, id: u64) {
        let Some(asked) = self.pulls.remove(&id).filter(|asked| self.is_alive(asked.asker)) else { return };
        let from = self.nodes[asked.from].id.clone();
        self.feed(asked.asker.node, Input::Pulled(from, PullOutcome::Failed));
    }
}
