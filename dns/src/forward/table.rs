//! A worker's own table of kept answers: no lock, no allocation on a hit.
//!
//! It is filled by a bounded queue with the answers of questions that this worker passed on. What is not in it goes
//! the slow path, where all answers are kept; so a full queue costs the next asker of that name the same way again.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::cache::{Cache, Key};
use super::count::{TableCounts, count_alone};
use super::entry::{Age, Entry};
use super::front::{Front, Recursion};
use crate::answer::{Asked, Tally};
use crate::query;
use crate::zone::{Owner, Zone};

/// Answers that wait until a worker takes them, with its next batch.
pub(super) const FILL_MAX: usize = 256;
/// Questions that wait to be fetched anew. One that finds no room is fetched when it has expired.
pub(super) const AHEAD_MAX: usize = 64;

/// An answer on its way to a worker.
pub(super) type Fill = (Arc<[u8]>, Arc<Entry>);

/// A question whose answer is in use and about to expire.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) packet: Box<[u8]>,
}

/// A worker's table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) server: Arc<str>,
    pub(super) front: Arc<Front>,
    pub(super) cache: Cache,
    /// When the batch came that is being answered.
    pub(super) now: Instant,
    pub(super) fills: mpsc::Receiver<Fill>,
    pub(super) ahead: mpsc::Sender<Ahead>,
    pub(super) counts: Arc<TableCounts>,
}

impl Table {
    /// Takes in what has come since the last time, and what time it is. To be called once for each batch.
    pub(crate) fn fill(&mut self, now: Instant) {
        self.now = now;
        let mut filled = 0;
        while filled < FILL_MAX
            && let Ok((key, entry)) = self.fills.try_recv()
        {
            self.cache.insert(&key, entry);
            filled += 1;
        }
        if filled > 0 {
            self.counts.bytes.store(self.cache.bytes(), std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The answer to a question about a name that is not ours, if it is at hand.
    pub(crate) fn answer(&mut self, zone: &Zone, asked: &Asked<'_>, out: &mut Vec<u8>) -> Option<Tally> {
        let query = &query::parse(asked.query).ok()?;
        if self.front.recursion(zone, asked.source) == Recursion::None {
            return None;
        }
        let key = Key::of(query);
        let (entry, age) = self.cache.fresh(key.bytes(), self.now)?;
        let opt = asked.opt(query, &self.server, entry.ede());
        entry.write(query, asked.size(query), opt.as_ref(), self.now, out);
        let (rcode, is_stale) = (entry.rcode(), entry.is_stale());
        count_alone(&self.counts.hits);
        if is_stale {
            count_alone(&self.counts.stale);
        }
        if age == Age::Nearing {
            // Without room it is fetched when it has expired.
            self.ahead.try_send(Ahead { packet: asked.query.into() }).ok();
        }
        Some(Tally { owner: Owner::Nobody, qtype: query.qtype, rcode })
    }
}
