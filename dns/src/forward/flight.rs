//! One question on its way: asked once at a time, however many wait for it, and its answer kept.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::watch;

use super::cache::Key;
use super::count::count;
use super::entry::{Age, Entry};
use super::exchange::Question;
use super::{Course, Forwarder, lock};
use crate::answer::message::Ede;
use crate::query::Query;

/// Letters that a question needs to be known again by their case: fewer are the same by chance too often.
const LETTERS_MIN: usize = 12;

/// A question that is being asked.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) question: Arc<Question>,
    pub(super) landed: watch::Receiver<Option<Arc<Entry>>>,
}

impl Forwarder {
    /// Asks a question whose answer is in use and about to expire, for nobody in particular.
    pub(super) fn ahead(&self, key: &Key, query: &Query<'_>, course: Course) {
        count(&self.0.counts.prefetches);
        self.board(key, query, course);
    }

    /// The flight that asks this question: the one that is on its way, or a new one.
    pub(super) fn board(&self, key: &Key, query: &Query<'_>, course: Course) -> Flight {
        let mut flights = lock(&self.0.flights);
        if let Some(flight) = flights.get(key.bytes()) {
            return flight.clone();
        }
        let question = Arc::new(Question::new(query));
        let (land, landed) = watch::channel(None);
        let key: Arc<[u8]> = key.bytes().into();
        let flight = Flight { question: Arc::clone(&question), landed };
        flights.insert(Arc::clone(&key), flight.clone());
        let forwarder = self.clone();
        self.0.tasks.spawn(async move {
            let asking = course.group.resolve(&question, &course.guard);
            let result = tokio::select! {
                // Cancel-safe: nobody waits any more.
                () = forwarder.0.stop.cancelled() => return,
                result = asking => result,
            };
            let entry = forwarder.keep(&key, result);
            lock(&forwarder.0.flights).remove(&key);
            // Those who asked may have gone.
            land.send(Some(entry)).ok();
        });
        flight
    }

    /// Keeps what came of asking, and says what is to be answered.
    fn keep(&self, key: &Arc<[u8]>, result: Result<(Entry, usize), Option<Ede>>) -> Arc<Entry> {
        let now = Instant::now();
        let mut cache = lock(&self.0.cache);
        let entry = match result {
            Ok((entry, denied)) => {
                self.0.counts.rebind_dropped.fetch_add(denied as u64, Ordering::Relaxed);
                Arc::new(entry.born(now))
            }
            Err(ede) => {
                let before = cache.get(key).cloned();
                match before {
                    // It was asked ahead of time: what is kept is still good.
                    Some(before) if before.age(now) != Age::Expired => return before,
                    before => Arc::new(Entry::failed(before.as_ref(), ede, now)),
                }
            }
        };
        if entry.is_lasting() {
            cache.insert(key, Arc::clone(&entry));
        }
        entry
    }
}

impl Flight {
    /// Whether a question is our own, come back to us: it has its letters in the case that was chosen at random.
    pub(super) fn is_echo(&self, query: &Query<'_>) -> bool {
        let name = &self.question.bytes[..self.question.bytes.len() - 4];
        let letters = || name.iter().filter(|byte| byte.is_ascii_alphabetic());
        let upper = letters().filter(|letter| letter.is_ascii_uppercase()).count();
        let all = letters().count();
        all >= LETTERS_MIN && upper > 0 && upper < all && *self.question.bytes == *query.question
    }
}
