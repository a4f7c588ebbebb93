//! Upstreams that are asked for the same names: which first, when another one as well, and what is believed of each.
//!
//! The first that works is asked, and the next one beside it as soon as an answer is late; the first good answer wins.
//! One that failed goes to the end of the line, and is asked beside another one now and then, until it answers again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::clean::Failed;
use super::entry::Entry;
use super::exchange::{ExchangeError, Question, Secure, Trust, ask};
use super::rebind::Guard;
use super::settings::Upstream;
use crate::answer::message::Ede;

/// How long a question may take, whatever is tried. Programs wait for 5 s and try again; half of them ask twice first.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// When an answer is late: most take less than a tenth of it, also across oceans.
const LATE: Duration = Duration::from_millis(400);
/// Most messages sent for one question.
const TRIES_MAX: usize = 6;
/// How often one that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Some upstreams.
#[derive(Debug, Default)]
pub(crate) struct Group {
    peers: Vec<Arc<Peer>>,
}

/// One upstream, with what is known of it.
#[derive(Debug)]
pub(crate) struct Peer {
    upstream: Upstream,
    secure: Secure,
    /// When it failed, or was tried again since; `None` if its last answer was one.
    down: Mutex<Option<Instant>>,
    counts: [AtomicU64; RESULTS.len()],
}

/// What comes of asking an upstream, in the order of [`Peer::counts`].
pub(crate) const RESULTS: [&str; 6] = ["answered", "late", "unreachable", "servfail", "refused", "malformed"];

impl Peer {
    pub(crate) fn new(upstream: Upstream, trust: &Arc<Trust>) -> Self {
        Self { upstream, secure: Secure::new(Arc::clone(trust)), down: Mutex::new(None), counts: Default::default() }
    }

    pub(crate) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// How often each result came.
    pub(crate) fn counts(&self) -> [u64; RESULTS.len()] {
        self.counts.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn settle(&self, result: &str, down: Option<Instant>) {
        let place = RESULTS.iter().position(|name| *name == result).expect("one of them");
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        let mut was = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        match (was.is_some(), down.is_some()) {
            (false, true) => tracing::info!(upstream = %self.upstream, result, "upstream does not answer"),
            (true, false) => tracing::info!(upstream = %self.upstream, "upstream answers again"),
            (true, true) | (false, false) => {}
        }
        *was = down;
    }

    /// Whether it is time to try one again that failed; then it counts as tried.
    fn is_due(&self, now: Instant) -> bool {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let due = down.is_some_and(|since| now.saturating_duration_since(since) >= RETRY);
        if due {
            *down = Some(now);
        }
        due
    }
}

impl Group {
    pub(crate) fn new(peers: Vec<Arc<Peer>>) -> Self {
        Self { peers }
    }

    pub(crate) fn peers(&self) -> &[Arc<Peer>] {
        &self.peers
    }

    /// Asks until somebody answers or [`PATIENCE`] is over: the answer, and how many records were denied in it.
    pub(crate) async fn resolve(&self, question: &Question, guard: &Guard) -> Result<(Entry, usize), Option<Ede>> {
        // Nothing would end the wait: nobody is asked.
        if self.peers.is_empty() {
            return Err(Some(Ede::NetworkError));
        }
        let begun = Instant::now();
        let (mut line, beside) = self.line(begun);
        let mut running = FuturesUnordered::new();
        let mut open: Vec<(Arc<Peer>, Instant)> = Vec::new();
        let start = |peer: Arc<Peer>, open: &mut Vec<(Arc<Peer>, Instant)>| {
            open.push((Arc::clone(&peer), Instant::now()));
            async move {
                let result = ask(&peer.upstream, &peer.secure, question, guard).await;
                (peer, result)
            }
        };
        for peer in beside.into_iter().chain(line.pop_front()) {
            running.push(start(peer, &mut open));
        }
        let mut late = begun + LATE;
        loop {
            tokio::select! {
                // Cancel-safe, all three: what is running stays in `running`, and the others are points in time.
                Some((peer, result)) = running.next() => {
                    let failure = match result {
                        Ok(answer) => {
                            peer.settle("answered", None);
                            let slow = |(_, since): &&(Arc<Peer>, Instant)| since.elapsed() >= LATE;
                            let others = open.iter().filter(slow).filter(|(other, _)| !Arc::ptr_eq(other, &peer));
                            others.for_each(|(other, _)| other.settle("late", Some(Instant::now())));
                            return Ok(answer);
                        }
                        Err(error) => said(&peer, &error),
                    };
                    open.retain(|(other, _)| !Arc::ptr_eq(other, &peer));
                    line.retain(|other| !Arc::ptr_eq(other, &peer));
                    match line.pop_front() {
                        Some(next) => running.push(start(next, &mut open)),
                        None if running.is_empty() => return Err(failure),
                        None => {}
                    }
                    late = Instant::now() + LATE;
                }
                () = sleep_until(late), if !line.is_empty() => {
                    running.extend(line.pop_front().map(|next| start(next, &mut open)));
                    late += LATE;
                }
                () = sleep_until(begun + PATIENCE) => {
                    open.iter().for_each(|(peer, _)| peer.settle("late", Some(Instant::now())));
                    return Err(Some(Ede::NetworkError));
                }
            }
        }
    }

    /// Who is asked one after the other, and who beside the first.
    fn line(&self, now: Instant) -> (VecDeque<Arc<Peer>>, Option<Arc<Peer>>) {
        let (down, up): (Vec<_>, Vec<_>) = self.peers.iter().cloned().partition(|peer| peer.is_down());
        let beside = down.iter().find(|peer| !up.is_empty() && peer.is_due(now)).cloned();
        let round = up.into_iter().chain(down);
        let round: Vec<_> =
            round.filter(|peer| beside.as_ref().is_none_or(|beside| !Arc::ptr_eq(beside, peer))).collect();
        // Once more each: a datagram may be lost.
        (round.iter().chain(&round).take(TRIES_MAX).cloned().collect(), beside)
    }
}

/// Counts a failure: what is told of it to the asker.
fn said(peer: &Peer, error: &ExchangeError) -> Option<Ede> {
    let now = Some(Instant::now());
    match error {
        ExchangeError::Io(error) => {
            tracing::debug!(upstream = %peer.upstream, %error, "upstream cannot be reached");
            peer.settle("unreachable", now);
        }
        // It works; it has no answer to this question.
        ExchangeError::Failed(Failed::ServFail | Failed::NotUnderstood) => peer.settle("servfail", None),
        // One name may be refused and all others answered. Who refuses all of them costs a round trip.
        ExchangeError::Failed(Failed::Refused) => peer.settle("refused", None),
        ExchangeError::Failed(Failed::Malformed) => peer.settle("malformed", None),
    }
    match error {
        ExchangeError::Failed(Failed::ServFail | Failed::NotUnderstood) => None,
        ExchangeError::Io(_) | ExchangeError::Failed(Failed::Refused | Failed::Malformed) => Some(Ede::NetworkError),
    }
}
