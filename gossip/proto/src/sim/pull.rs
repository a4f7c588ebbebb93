//! Pulls: a question, an answer in parts from one snapshot, and all that may come between.

use rand::RngExt;
use rand::seq::IteratorRandom;
use xxhash_rust::xxh3::xxh3_128;

use super::Sabotage;
use super::store::{Job, Whole};
use super::world::{Event, Life, World};
use crate::clocks::from_the_future;
use crate::frame::{Answered, PulledRow, Question, row_frames};
use crate::model::Answer;
use crate::purged::Away;
use crate::replica::{Input, PULL_STALL, PullOutcome};
use crate::{Frame, Hlc, NodeId, Purged, Vector};

/// A pull that is under way.
pub(super) struct Asked {
    asker: Life,
    pub(super) from: usize,
    /// None asks for a snapshot: its stream says so by its kind.
    question: Option<Vec<u8>>,
    parts: Vec<Vec<u8>>,
}

/// Answers of more parts than this are sometimes refused in favour of a snapshot.
const SNAPSHOT_PARTS: usize = 4;

/// An answer, put together.
struct Heard {
    rows: Vec<PulledRow>,
    end: Option<Answered>,
    /// The bytes of a snapshot that came whole.
    snapshot: Option<Vec<u8>>,
    /// How the pull ended if there is none.
    outcome: PullOutcome,
}

impl Heard {
    fn read(parts: &[Vec<u8>]) -> Result<Self, String> {
        let mut heard = Self { rows: Vec::new(), end: None, snapshot: None, outcome: PullOutcome::Failed };
        let (mut bytes, mut length) = (Vec::new(), 0);
        for part in parts {
            match Frame::decode(part) {
                Ok(Frame::Rows(more)) => heard.rows.extend(more),
                Ok(Frame::Pulled(end)) => heard.end = Some(end),
                Ok(Frame::Refused(_)) => {}
                Ok(Frame::NeedsSnapshot) => heard.outcome = PullOutcome::NeedsSnapshot,
                Ok(Frame::Snapshot(all)) => length = all,
                Ok(Frame::Chunk(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(Frame::SnapshotEnd(hash)) => {
                    let whole = bytes.len() as u64 == length && hash == xxh3_128(&bytes);
                    heard.snapshot = whole.then(|| std::mem::take(&mut bytes));
                }
                other => return Err(format!("an answer cannot be read: {other:?}")),
            }
        }
        Ok(heard)
    }
}

/// The frames that a simulated snapshot consists of, each with its length before it.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX).min(rest.len());
        let (record, rest) = rest.split_at(length);
        records.push(record.to_vec());
        bytes = rest;
    }
    records
}

impl World {
    pub(super) fn ask(&mut self, node: usize, from: &NodeId, above: Option<Vector>) {
        self.report.pulls += 1;
        if self.settled.is_some() {
            self.report.pulls_at_rest += 1;
        }
        let from = self.index(from);
        let id = self.next_id();
        let purged = self.nodes[node].store.purged().through.clone();
        let question = above.map(|above| Frame::Pull(Question { above, purged }).encode());
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
        let question = match asked.question.as_deref().map(Frame::decode) {
            None => return self.answer_snapshot(id),
            Some(Ok(Frame::Pull(question))) => question,
            Some(other) => return self.fail(format!("a question cannot be read: {other:?}")),
        };
        // An answer of what is not synced would tell of it.
        let node = &self.nodes[asked.from];
        let store = if self.publishes_unsynced() { &node.store } else { &node.disk };
        let from = asked.from;
        let collected = store.collect(&question.above);
        if self.must_not_answer(from, &collected) {
            return self.send_answer(id, vec![Frame::Refused("damaged".to_owned()).encode()]);
        }
        let node = &self.nodes[from];
        let store = if self.publishes_unsynced() { &node.store } else { &node.disk };
        let by_site = self.sabotaged(Sabotage::PullBySite);
        let above = &question.above;
        let mut answer = collected;
        let end = |answer: &Answer| Answered { heads: answer.heads.clone(), purged: answer.purged.clone() };
        let away = if self.sabotaged(Sabotage::JoinWhoWasAway) { Away::Nobody } else { end(&answer).away(&question) };
        if by_site {
            let site = store.heads().above(above).iter().map(|(site, _)| site).choose(&mut self.rng);
            answer =
                site.map_or(Answer { rows: Vec::new(), heads: Vector::default(), purged: Purged::default() }, |site| {
                    let all = store.heads().iter();
                    let head = |asked: u64, (of, head)| (of, if of == site { asked } else { head });
                    let rows = store.collect(&all.map(|entry| head(above.head(site), entry)).collect()).rows;
                    let heads = [(site, store.heads().head(site))].into_iter().collect();
                    Answer { rows, heads, purged: Purged::default() }
                });
        }
        // From parts so small that rows are split to ones that hold everything.
        let part_bytes = 1 << self.rng.random_range(5..14);
        let end = Frame::Pulled(end(&answer)).encode();
        let mut parts: Vec<_> = row_frames(answer.rows, part_bytes).iter().map(Frame::encode).collect();
        parts.push(end);
        if away == Away::They {
            parts = vec![Frame::NeedsSnapshot.encode()];
        } else if away == Away::We {
            parts = vec![Frame::Refused("away for too long".to_owned()).encode()];
        } else if !by_site && parts.len() > SNAPSHOT_PARTS && self.rng.random_bool(0.5) {
            parts = vec![Frame::NeedsSnapshot.encode()];
        } else if self.rng.random_bool(self.faults.pull) {
            parts.pop();
            if self.rng.random_bool(0.5) {
                parts = vec![Frame::Refused("busy".to_owned()).encode()];
            }
        }
        self.send_answer(id, parts);
    }

    /// The whole store, in chunks of any size.
    fn answer_snapshot(&mut self, id: u64) {
        let Some(asked) = self.pulls.get(&id) else { return };
        let node = &self.nodes[asked.from];
        let store = if self.publishes_unsynced() { &node.store } else { &node.disk };
        let collected = store.collect(&Vector::default());
        // The asker would find that it is damaged.
        let from = asked.from;
        if self.must_not_answer(from, &collected) {
            return self.send_answer(id, vec![Frame::Refused("damaged".to_owned()).encode()]);
        }
        let Answer { rows, heads, purged } = collected;
        let file = [Frame::Rows(rows).encode(), Frame::Pulled(Answered { heads, purged }).encode()];
        let bytes: Vec<u8> =
            file.iter().flat_map(|frame| [&(frame.len() as u64).to_le_bytes(), &frame[..]].concat()).collect();
        let mut parts = vec![Frame::Snapshot(bytes.len() as u64).encode()];
        parts.extend(bytes.chunks(1 << 10).map(|chunk| Frame::Chunk(chunk.into()).encode()));
        parts.push(Frame::SnapshotEnd(xxh3_128(&bytes)).encode());
        if self.rng.random_bool(self.faults.pull) {
            let lost = self.rng.random_range(1..parts.len());
            parts.remove(lost);
        }
        self.send_answer(id, parts);
    }

    fn send_answer(&mut self, id: u64, parts: Vec<Vec<u8>>) {
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
        let mut whole = Whole::Rows;
        let read = match Heard::read(&asked.parts) {
            // A snapshot is a sequence of frames here, where a real store sends its file.
            Ok(Heard { snapshot: Some(bytes), .. }) => {
                self.report.snapshots += 1;
                whole = Whole::Snapshot;
                Heard::read(&records(&bytes))
            }
            other => other,
        };
        let node = asked.asker.node;
        let from = self.nodes[asked.from].id.clone();
        match read {
            Ok(Heard { end: Some(Answered { heads, purged }), rows, .. }) => {
                let latest = self.nodes[node].replica.latest(self.now);
                let latest = if self.sabotaged(Sabotage::JoinFuture) { Hlc::MAX } else { latest };
                match from_the_future(&rows, latest) {
                    Some(stamp) => self.feed(node, Input::Pulled(from, PullOutcome::FromFuture(stamp))),
                    None => self.enqueue(node, Job::Join(from, Answer { rows, heads, purged }, whole)),
                }
            }
            Ok(Heard { outcome, .. }) => self.feed(node, Input::Pulled(from, outcome)),
            Err(what) => self.fail(what),
        }
    }

    pub(super) fn fail_pull(&mut self, id: u64) {
        let Some(asked) = self.pulls.remove(&id).filter(|asked| self.is_alive(asked.asker)) else { return };
        let from = self.nodes[asked.from].id.clone();
        self.feed(asked.asker.node, Input::Pulled(from, PullOutcome::Failed));
    }
}
