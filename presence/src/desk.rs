//! The desk: the one task that owns the board, and does in order what is asked of it.
//!
//! ```text
//!   writes ─► queue ─► plan ─► journal ─► commit ─► shown, hub, link ─► answers
//!                       ▲ one batch at a time: what comes meanwhile is the next one (group commit)
//!   heartbeats, other nodes, time ─► board ─► shown, hub, link, journal (later)
//! ```

mod compact;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::core::board::{Counts, SESSIONS, To, What};
use crate::core::owner::Beat;
use crate::core::{Board, Now, Plan, Refusal, Says, SessionName, UserId, Write};
use crate::hub::Hub;
use crate::journal::{Facts, Journal, JournalError};
use crate::shown::Shown;

use compact::Compacting;

/// Requests that wait. With more the node is overloaded, and says so at once.
const WAITING: usize = 4_096;
/// Facts in one batch. One takes 3 KB at most, with every byte of it escaped, and a message of NATS 1 MB.
const BATCH: usize = 240;
/// Facts that are in force and wait for the journal. With more the oldest are dropped: after a restart such a session
/// would live for another ttl. Three for each of 100,000 that end together.
const UNSTORED: usize = 300_000;
/// When somebody was last seen is kept for 90 days, and looked at now and then.
const SEEN_MS: u64 = 90 * 86_400_000;
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Users that are known. Of more, those who are gone are forgotten, who were seen the longest ago first: they are shown as
/// offline, and no longer when they were seen. Who is here is never forgotten.
const USERS: usize = 1_000_000;
/// What a node says waits for the link at most like this; what is dropped is found by the next beat.
pub(crate) const SAID: usize = 4_096;

/// Where a writer waits.
type Answer = oneshot::Sender<Result<(), WriteError>>;

/// What is asked of the desk.
#[derive(Debug)]
enum Asked {
    Write(Write, Answer),
    Beats(Vec<(UserId, SessionName)>, oneshot::Sender<Vec<bool>>),
    Counts(oneshot::Sender<Counts>),
}

/// Why a write is not done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum WriteError {
    /// Too much is asked, or the node is stopping or has not begun.
    #[error("the node is busy")]
    Busy,
    /// It is not durable.
    #[error(transparent)]
    Journal(JournalError),
    /// It is not to be done.
    #[error(transparent)]
    Refused(Refusal),
}

/// Where to ask.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    asked: mpsc::Sender<Asked>,
}

/// What the desk works with.
pub(crate) struct Tools {
    pub(crate) board: Board,
    pub(crate) clock: Clock,
    pub(crate) shown: Arc<Shown>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) journal: Arc<dyn Journal>,
    /// How many facts the journal holds.
    pub(crate) kept: usize,
    /// How many of them still say something.
    pub(crate) said: usize,
    /// To other nodes.
    pub(crate) say: mpsc::Sender<(To, Says)>,
    /// From them.
    pub(crate) heard: mpsc::Receiver<Says>,
    pub(crate) tally: Arc<Tally>,
    /// When what other nodes say is known, as far as it can be: from then on reads are answered.
    pub(crate) filled_at: Duration,
}

/// What the desk counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) batches: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) beats: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) unsaid: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// What is there, as it was last looked at: before the desk works, nothing is.
    pub(crate) sessions: AtomicUsize,
    pub(crate) peers: AtomicUsize,
    pub(crate) head: AtomicU64,
}

impl Desk {
    /// A desk, and what is asked of it.
    pub(crate) fn new() -> (Self, Requests) {
        let (asked, requests) = mpsc::channel(WAITING);
        (Self { asked }, Requests(requests))
    }

    /// Writes, and returns once that is durable on this node.
    pub(crate) async fn write(&self, write: Write) -> Result<(), WriteError> {
        let (answer, answered) = oneshot::channel();
        self.asked.try_send(Asked::Write(write, answer)).map_err(|_| WriteError::Busy)?;
        answered.await.unwrap_or(Err(WriteError::Busy))
    }

    /// Extends sessions; says of each whether there is one.
    pub(crate) async fn beats(&self, beats: Vec<(UserId, SessionName)>) -> Result<Vec<bool>, WriteError> {
        let (answer, answered) = oneshot::channel();
        self.asked.try_send(Asked::Beats(beats, answer)).map_err(|_| WriteError::Busy)?;
        answered.await.map_err(|_| WriteError::Busy)
    }

    /// What is there.
    pub(crate) async fn counts(&self) -> Option<Counts> {
        let (answer, answered) = oneshot::channel();
        self.asked.try_send(Asked::Counts(answer)).ok()?;
        answered.await.ok()
    }
}

/// What is asked of the desk, for the task that does it.
pub(crate) struct Requests(mpsc::Receiver<Asked>);

/// A batch that is being made durable.
struct Batch {
    plan: Option<(Plan, Vec<Answer>)>,
    /// Facts that were in force before.
    stored: Facts,
    done: BoxFuture<'static, Result<(), JournalError>>,
}

struct Work {
    tools: Tools,
    queue: VecDeque<(Write, Answer)>,
    /// In force, and not in the journal.
    unstored: VecDeque<(UserId, crate::core::Fact)>,
    /// What was not stored is tried again then.
    retry_at: Duration,
    /// Who was not seen for long is looked for then.
    forget_at: Duration,
    /// The journal is being compacted.
    compacting: Option<Compacting>,
    compact_at: Duration,
}

/// Does what is asked until the token is cancelled; then the batch under way is still done, and who else waits is told that
/// the node is busy.
pub(crate) async fn work(tools: Tools, mut requests: Requests, token: CancellationToken) {
    let mut work = Work {
        tools,
        queue: VecDeque::new(),
        unstored: VecDeque::new(),
        retry_at: Duration::ZERO,
        forget_at: Duration::ZERO,
        compacting: None,
        compact_at: Duration::ZERO,
    };
    let mut batch: Option<Batch> = None;
    work.after();
    loop {
        work.fill();
        // A piece in each turn, whatever else there is to do: nobody's session ends the later because others are written to.
        work.tick_if_due();
        if batch.is_none() {
            work.compact();
            batch = work.next_batch();
        }
        let now = work.tools.clock.now();
        let due = work.due(now.mono);
        if due <= now.mono {
            // While many sessions end together others have the thread between two pieces.
            tokio::task::yield_now().await;
        }
        let due = work.tools.clock.instant(due);
        // Receiving is cancel-safe; the batch is polled again; a timer is made anew.
        tokio::select! {
            biased;
            done = async { batch.as_mut().expect("guarded").done.as_mut().await }, if batch.is_some() => {
                let finished = batch.take().expect("it was there");
                work.finish(finished, done);
            }
            () = token.cancelled() => break,
            asked = requests.0.recv() => match asked {
                Some(asked) => {
                    work.take(asked);
                    // What came together is done together.
                    while let Ok(asked) = requests.0.try_recv() {
                        work.take(asked);
                    }
                }
                None => break,
            },
            Some(says) = work.tools.heard.recv() => {
                let now = work.tools.clock.now();
                work.tools.board.hear(says, now);
                work.after();
            }
            () = tokio::time::sleep_until(due.into()) => {}
            compacted = async { work.compacting.as_mut().expect("guarded").done().await }, if work.compacting.is_some() => {
                work.compacted(compacted);
            }
        }
    }
    if let Some(mut batch) = batch {
        let done = batch.done.as_mut().await;
        work.finish(batch, done);
    }
}

/// How many facts may follow from a write.
fn most_facts(write: &Write) -> usize {
    match write.what {
        What::End { session: None } => 2 * SESSIONS + 2,
        What::End { session: Some(_) } | What::Put { .. } => 3,
    }
}

impl Work {
    /// Reads are answered once all is known that can be.
    fn fill(&self) {
        let shown = &self.tools.shown;
        if !shown.is_filled() && self.tools.clock.now().mono >= self.tools.filled_at {
            shown.filled();
        }
    }

    /// When there is something to do next.
    fn due(&self, now: Duration) -> Duration {
        let board = self.tools.board.next(self.tools.clock.now());
        let filled = (!self.tools.shown.is_filled()).then_some(self.tools.filled_at);
        let retry = (!self.unstored.is_empty() && self.retry_at > now).then_some(self.retry_at);
        [Some(board), filled, retry].into_iter().flatten().min().unwrap_or(board)
    }

    /// Time went on.
    fn tick(&mut self) {
        let now = self.tools.clock.now();
        self.forget(now);
        self.tools.board.tick(now);
        self.after();
    }

    fn tick_if_due(&mut self) {
        let now = self.tools.clock.now();
        if self.tools.board.next(now) <= now.mono {
            self.tick();
        }
    }

    fn take(&mut self, asked: Asked) {
        match asked {
            Asked::Write(_, answer) if self.queue.len() >= WAITING => drop(answer.send(Err(WriteError::Busy))),
            Asked::Write(_, answer) if !self.tools.journal.is_up() => {
                drop(answer.send(Err(WriteError::Journal(JournalError::Away))));
            }
            Asked::Write(write, answer) => {
                self.tools.board.arrived(&write, self.tools.clock.now());
                self.tools.shown.until(&write.user, self.tools.board.ends(&write.user));
                self.queue.push_back((write, answer));
            }
            Asked::Beats(beats, answer) => {
                let now = self.tools.clock.now();
                let known = beats.iter().map(|(user, session)| {
                    let extended = self.tools.board.heartbeat(user, session, now) != Beat::Unknown;
                    if extended {
                        self.tools.shown.seen(user, now.wall_ms, self.tools.board.ends(user));
                    }
                    extended
                });
                let known: Vec<_> = known.collect();
                self.tools.tally.beats.fetch_add(known.len() as u64, Ordering::Relaxed);
                drop(answer.send(known));
            }
            Asked::Counts(answer) => drop(answer.send(self.tools.board.counts())),
        }
    }

    /// The next batch, if there is anything to make durable.
    fn next_batch(&mut self) -> Option<Batch> {
        loop {
            let now = self.tools.clock.now();
            let may_store = self.tools.journal.is_up() && now.mono >= self.retry_at;
            // Half of a batch is left to who waits for an answer.
            let share = if self.queue.is_empty() { BATCH } else { BATCH / 2 };
            let stored: Facts =
                if may_store { self.unstored.drain(..self.unstored.len().min(share)).collect() } else { Vec::new() };
            let (writes, answers) = self.writes(BATCH - stored.len());
            if writes.is_empty() && stored.is_empty() {
                return None;
            }
            if writes.is_empty() {
                let done = self.tools.journal.append(stored.clone());
                return Some(Batch { plan: None, stored, done });
            }
            let plan = self.tools.board.plan(&writes, now);
            if plan.facts.is_empty() && stored.is_empty() {
                // Sessions live on, and nothing else changes.
                self.commit(plan, answers);
                continue;
            }
            let mut facts = stored.clone();
            facts.extend(plan.facts.iter().cloned());
            let done = self.tools.journal.append(facts);
            return Some(Batch { plan: Some((plan, answers)), stored, done });
        }
    }

    /// Some writes, of so many facts, each of another user: a second one of a user waits for the first to be in force.
    fn writes(&mut self, most: usize) -> (Vec<Write>, Vec<Answer>) {
        let (mut users, mut later) = (BTreeSet::new(), VecDeque::new());
        let (mut writes, mut answers) = (Vec::new(), Vec::new());
        let mut facts = 0;
        while facts < most
            && let Some((write, answer)) = self.queue.pop_front()
        {
            if users.insert(write.user.clone()) {
                facts += most_facts(&write);
                writes.push(write);
                answers.push(answer);
            } else {
                later.push_back((write, answer));
            }
        }
        later.append(&mut self.queue);
        self.queue = later;
        (writes, answers)
    }

    fn finish(&mut self, batch: Batch, done: Result<(), JournalError>) {
        self.tools.tally.batches.fetch_add(1, Ordering::Relaxed);
        match done {
            Ok(()) => {
                self.tools.kept += batch.stored.len() + batch.plan.as_ref().map_or(0, |(plan, _)| plan.facts.len());
                if let Some((plan, answers)) = batch.plan {
                    self.commit(plan, answers);
                }
            }
            Err(error) => {
                self.tools.tally.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "a batch of writes is not durable");
                self.retry_at = self.tools.clock.now().mono + Duration::from_millis(250);
                for fact in batch.stored.into_iter().rev() {
                    self.unstored.push_front(fact);
                }
                if let Some((plan, answers)) = batch.plan {
                    self.tools.board.abandon(plan);
                    self.after();
                    for answer in answers {
                        drop(answer.send(Err(WriteError::Journal(error.clone()))));
                    }
                }
            }
        }
    }

    fn commit(&mut self, mut plan: Plan, answers: Vec<Answer>) {
        let now = self.tools.clock.now();
        let results = std::mem::take(&mut plan.results);
        let written: Vec<UserId> = plan.users().cloned().collect();
        self.tools.board.commit(plan, now);
        self.after();
        for user in &written {
            self.tools.shown.seen(user, now.wall_ms, self.tools.board.ends(user));
        }
        self.tools.tally.writes.fetch_add(results.len() as u64, Ordering::Relaxed);
        for (answer, result) in answers.into_iter().zip(results) {
            // Who asked may be gone.
            drop(answer.send(result.map_err(WriteError::Refused)));
        }
    }

    /// Shows, tells and says what followed.
    fn after(&mut self) {
        let out = self.tools.board.drain();
        if let Some(sight) = out.sight {
            self.tools.shown.see(sight);
        }
        for (id, user) in out.users {
            let ends = self.tools.board.ends(&id);
            self.tools.shown.put(id, user, ends);
        }
        if !out.events.is_empty() {
            self.tools.tally.events.fetch_add(out.events.len() as u64, Ordering::Relaxed);
            self.tools.hub.publish(out.events.into_iter().map(|event| event.0));
        }
        self.unstored.extend(out.store);
        let over = self.unstored.len().saturating_sub(UNSTORED);
        self.unstored.drain(..over);
        for said in out.say {
            if self.tools.say.try_send(said).is_err() {
                self.tools.tally.unsaid.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count();
    }

    /// When somebody was last seen is kept for 90 days. The wall clock that says so is the one that the others go by, too.
    fn forget(&mut self, now: Now) {
        if now.mono >= self.forget_at {
            self.forget_at = now.mono + FORGET_EVERY;
            let believed = self.tools.board.sight().latest.ms().min(now.wall_ms);
            self.tools.board.forget_seen_before(believed.saturating_sub(SEEN_MS));
        }
        self.tools.board.bound(USERS, now);
    }

    fn count(&self) {
        let (counts, tally) = (self.tools.board.counts(), &self.tools.tally);
        tally.sessions.store(counts.sessions, Ordering::Relaxed);
        tally.peers.store(counts.peers, Ordering::Relaxed);
        tally.head.store(counts.head.seq, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
