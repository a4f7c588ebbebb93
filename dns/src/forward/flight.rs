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

/// What comes of asking: the answer and how many records were denied in it, or what is told of the failure.
type Resolved = Result<(Entry, usize), Option<Ede>>;

/// Questions asked ahead of time at once, beside those that somebody waits for. While the upstreams are well each takes
/// milliseconds, so that these are thousands a second; while they are not, more would only keep more sockets waiting.
pub(super) const PREFETCHES_MAX: usize = 64;

/// A question that is being asked.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) question: Arc<Question>,
    pub(super) landed: watch::Receiver<Option<Arc<Entry>>>,
}

/// A place in the list of flights, given up however the asking ends: a question that stayed in it would be waited for
/// for ever, and never asked again.
struct Listed {
    forwarder: Forwarder,
    key: Arc<[u8]>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.forwarder.0.flights).remove(&self.key);
    }
}

impl Forwarder {
    /// Asks a question whose answer is in use and about to expire, for nobody in particular.
    pub(super) fn ahead(&self, key: &Key, query: &Query<'_>, course: Course) {
        let Ok(room) = Arc::clone(&self.0.ahead).try_acquire_owned() else {
            // It is asked when it has expired, by whoever wants it then and has a seat.
            count(&self.0.counts.prefetches_skipped);
            return;
        };
        count(&self.0.counts.prefetches);
        self.fly(key, query, async move |question| {
            let result = course.group.resolve(&question, &course.guard).await;
            drop(room);
            result
        });
    }

    /// The flight that asks this question: the one that is on its way, or a new one.
    pub(super) fn board(&self, key: &Key, query: &Query<'_>, course: Course) -> Flight {
        self.fly(key, query, async move |question| course.group.resolve(&question, &course.guard).await)
    }

    /// The same, with how a new one asks.
    fn fly<F: Future<Output = Resolved> + Send + 'static>(
        &self,
        key: &Key,
        query: &Query<'_>,
        ask: impl FnOnce(Arc<Question>) -> F,
    ) -> Flight {
        let mut flights = lock(&self.0.flights);
        if let Some(flight) = flights.get(key.bytes()) {
            return flight.clone();
        }
        let question = Arc::new(Question::new(query));
        let (land, landed) = watch::channel(None);
        let key: Arc<[u8]> = key.bytes().into();
        let flight = Flight { question: Arc::clone(&question), landed };
        flights.insert(Arc::clone(&key), flight.clone());
        let listed = Listed { forwarder: self.clone(), key: Arc::clone(&key) };
        let asking = ask(question);
        // At an end of the runtime the task is dropped where it is spawned, and strikes itself off.
        drop(flights);
        self.0.tasks.spawn(async move {
            let result = tokio::select! {
                // Cancel-safe: nobody waits any more.
                () = listed.forwarder.0.stop.cancelled() => return,
                result = asking => result,
            };
            let entry = listed.forwarder.keep(&key, result);
            drop(listed);
            // Those who asked may have gone.
            land.send(Some(entry)).ok();
        });
        flight
    }

    /// Keeps what came of asking, and says what is to be answered.
    fn keep(&self, key: &Arc<[u8]>, result: Resolved) -> Arc<Entry> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arc_swap::ArcSwap;

    use super::*;
    use crate::config::Config;
    use crate::forward::{Forwarding, Routes, Upstream, Upstreams};
    use crate::status::Published;
    use crate::{query, testing};

    fn forwarder(upstreams: Upstreams) -> Forwarder {
        let built = tokio::time::Instant::now();
        let published = Published { zone: testing::zone([]), built, took: Duration::ZERO, stale_since: None };
        let config = Config { forward: Forwarding { upstreams, ..Forwarding::refused() }, ..testing::config() };
        let published = Arc::new(ArcSwap::from_pointee(published));
        let access = Arc::default();
        Forwarder::new(&config, (Arc::new(Routes::default()), &published, &access), &[], 1).expect("it forwards").0
    }

    #[tokio::test]
    async fn a_question_whose_asking_panics_is_asked_again() {
        let forwarder = forwarder(Upstreams::These(Vec::new()));
        let packet = testing::query("www.example", "A").to_vec().unwrap();
        let query = query::parse(&packet).unwrap();
        let key = Key::of(&query);
        let mut flight = forwarder.fly(&key, &query, async |_| panic!("of the asking"));
        assert!(flight.landed.wait_for(Option::is_some).await.is_err());
        let course = forwarder.0.course(&query).ok().flatten().unwrap();
        let mut flight = forwarder.board(&key, &query, course);
        assert!(flight.landed.wait_for(Option::is_some).await.is_ok());
    }

    #[tokio::test]
    async fn no_more_than_so_many_questions_are_asked_ahead_of_time() {
        // It says nothing.
        let upstream = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let forwarder = forwarder(Upstreams::These(vec![Upstream::plain(upstream.local_addr().unwrap())]));
        for n in 0..PREFETCHES_MAX + 3 {
            let packet = testing::query(&format!("n{n}.example"), "A").to_vec().unwrap();
            let query = query::parse(&packet).unwrap();
            let course = forwarder.0.course(&query).ok().flatten().unwrap();
            forwarder.ahead(&Key::of(&query), &query, course);
        }
        assert_eq!(lock(&forwarder.0.flights).len(), PREFETCHES_MAX);
        let status = forwarder.status();
        assert_eq!((status.prefetches, status.prefetches_skipped), (PREFETCHES_MAX as u64, 3));
        forwarder.0.stop.cancel();
        forwarder.0.tasks.close();
        forwarder.0.tasks.wait().await;
        assert_eq!(forwarder.0.ahead.available_permits(), PREFETCHES_MAX);
    }
}
