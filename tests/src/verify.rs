//! Whether the promises of the store hold while faults run.
//!
//! Every node gets a writer of numbered transactions, a sampler that reads all of their rows every second, and a follower
//! that mirrors them through a subscription. What was tried and what was acknowledged stands in a [`Book`] outside of the
//! nodes. [`Verification::finish`] says which promises held:
//!
//! - **G1** all digests become equal within the bound.
//! - **G2** what was acknowledged is there: on its own node at any time, on all nodes in the end.
//! - **G3** no read and no subscription shows part of a transaction.
//! - **G5** what was deleted stays deleted.
//! - **G6** a node never shows an older state than it has shown, nor one older than its own acknowledged writes.
//! - **G7** the mirror of a subscription has no holes and no repeats, and equals the rows in the end.

mod book;
mod chance;
mod follower;
mod nemesis;
mod report;
mod usage;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::lab::{Api, Fleet, eventually};

pub use book::{Account, Book, Breach, Promise, Sight};
pub use chance::Chance;
use follower::Follower;
pub use nemesis::{Nemesis, lasts};
pub use report::Report;
pub use usage::{EVERY, Usage};
use writer::Writer;

/// All rows of all writers.
const ROWS: &str = "SELECT key, value FROM cluster_metadata WHERE key >= 'v/' AND key < 'v0'";

/// Between two reads of a node.
const SAMPLED_EVERY: Duration = Duration::from_secs(1);

/// Acknowledged between two faults.
const BETWEEN: u64 = 30;

/// The brief one, or the one that is promised, with `KITH_FAULTS=long`.
pub fn times<T>(brief: T, long: T) -> T {
    if std::env::var_os("KITH_FAULTS").is_some_and(|value| value == "long") { long } else { brief }
}

/// Says what was measured.
///
/// # Panics
/// If a promise did not hold.
#[track_caller]
pub fn held(what: &str, report: &Report) {
    eprintln!("{what}: {report}");
    report.holds();
}

/// Writers, samplers and followers of a fleet, at work.
#[derive(Debug)]
pub struct Verification {
    shared: Arc<Shared>,
    writing: CancellationToken,
    watching: CancellationToken,
    writers: JoinSet<()>,
    watchers: JoinSet<()>,
    followers: JoinSet<Follower>,
    started: Instant,
}

/// What all tasks add to.
#[derive(Debug, Default)]
struct Shared {
    book: Mutex<Book>,
    breaches: Mutex<Vec<Breach>>,
    samples: Mutex<u64>,
}

impl Verification {
    /// Begins to write on every node, `pace` transactions a second each, and to watch.
    #[must_use]
    pub fn begin(fleet: &Fleet, pace: u32) -> Verification {
        let count = fleet.nodes.len();
        let shared = Arc::new(Shared { book: Mutex::new(Book::of(count)), ..Shared::default() });
        let (writing, watching) = (CancellationToken::new(), CancellationToken::new());
        let (mut writers, mut watchers, mut followers) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        for (i, node) in fleet.nodes.iter().enumerate() {
            let api = node.api().clone();
            writers.spawn(Writer::new(i, api.clone(), shared.clone()).run(pace, writing.clone()));
            watchers.spawn(sample(i, api.clone(), shared.clone(), watching.clone()));
            followers.spawn(Follower::new(i, api).run(watching.clone()));
        }
        Verification { shared, writing, watching, writers, watchers, followers, started: Instant::now() }
    }

    /// Waits until some more transactions of a node are acknowledged, so that there is something to lose.
    ///
    /// # Panics
    /// If none are within a minute.
    pub async fn some_more_of(&self, node: usize) {
        let before = self.acknowledged_by(node);
        eventually(&format!("writes of node {node} are acknowledged"), Duration::from_secs(60), async || {
            let since = self.acknowledged_by(node) - before;
            if since >= BETWEEN { Ok(()) } else { Err(format!("{since}")) }
        })
        .await;
    }

    /// How many transactions were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        lock(&self.shared.book).acknowledged()
    }

    /// How many of them on one node, counted from 0.
    #[must_use]
    pub fn acknowledged_by(&self, node: usize) -> u64 {
        let account = &lock(&self.shared.book).accounts[node];
        account.tried - account.unknown.len() as u64
    }

    /// Ends the writing, waits until all nodes agree, for `bound` at most, and says what held.
    ///
    /// # Panics
    /// If a task of this verification does.
    pub async fn finish(mut self, fleet: &Fleet, bound: Duration) -> Report {
        let wrote = self.started.elapsed();
        self.writing.cancel();
        while let Some(writer) = self.writers.join_next().await {
            writer.expect("a writer does not panic");
        }
        let agreed = self.agree(fleet, bound).await;
        let book = lock(&self.shared.book).clone();
        let mut rows = Vec::new();
        for node in &fleet.nodes {
            match Sight::read(node.api(), ROWS).await {
                Ok(sight) => {
                    self.breaks(sight.lost(&node.name, &book));
                    rows.push(sight);
                }
                Err(error) => self.breaks(vec![Breach::new(Promise::G1, format!("{}: {error}", node.name))]),
            }
        }
        if rows.windows(2).any(|pair| pair[0] != pair[1]) {
            self.breaks(vec![Breach::new(Promise::G1, "nodes of one digest have different rows".to_owned())]);
        }
        self.watching.cancel();
        while let Some(watcher) = self.watchers.join_next().await {
            watcher.expect("a sampler does not panic");
        }
        while let Some(follower) = self.followers.join_next().await {
            let mut follower = follower.expect("a follower does not panic");
            follower.catch_up(&rows).await;
            self.breaks(follower.breaches);
        }
        let breaches = lock(&self.shared.breaches).clone();
        Report::new(&book, breaches, *lock(&self.shared.samples), wrote, agreed)
    }

    /// How long it takes until all digests are equal; a breach if that is longer than `bound`.
    async fn agree(&self, fleet: &Fleet, bound: Duration) -> Option<Duration> {
        let started = Instant::now();
        let last = eventually("the digests are looked at", bound * 2, async || {
            let mut digests = Vec::new();
            for node in &fleet.nodes {
                digests.push(node.api().digest().await.unwrap_or_else(|error| format!("{}: {error}", node.name)));
            }
            let equal = digests.windows(2).all(|pair| pair[0] == pair[1]);
            let seen = format!("{digests:?}");
            if equal || started.elapsed() > bound { Ok((equal, seen)) } else { Err(seen) }
        });
        let (equal, seen) = last.await;
        if !equal {
            self.breaks(vec![Breach::new(Promise::G1, format!("not equal within {bound:?}: {seen}"))]);
        }
        equal.then(|| started.elapsed())
    }

    fn breaks(&self, breaches: Vec<Breach>) {
        lock(&self.shared.breaches).extend(breaches);
    }
}

/// Reads the rows of one node every second and judges each sight. A node that does not answer is not judged.
async fn sample(observer: usize, api: Api, shared: Arc<Shared>, stop: CancellationToken) {
    let mut period = tokio::time::interval(SAMPLED_EVERY);
    let mut last: Option<Sight> = None;
    // Cancel-safe: a tick that is not taken is not missed at the end.
    while stop.run_until_cancelled(period.tick()).await.is_some() {
        let before = lock(&shared.book).clone();
        let Ok(sight) = Sight::read(&api, ROWS).await else { continue };
        let after = lock(&shared.book).clone();
        let breaches = sight.judge(observer, last.as_ref(), &before, &after);
        lock(&shared.breaches).extend(breaches);
        *lock(&shared.samples) += 1;
        last = Some(sight);
    }
}

/// What is behind the lock, also after a panic of somebody who held it: all of it are plain values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
