//! Live queries: SQL in, a stream of lines out, from one commit to the next.
//!
//! ```text
//! {"columns":[…]}  {"row":[id,[…]]}…  {"eoq":{…,"change_id":n}}  {"change":[kind,id,[…],n+1]}…  {"error":"…"}
//! ```
//! Equal queries with equal parameters are one: one task holds their rows, looks again when a commit touches what they
//! read, and renders what differs once for all who listen. Change ids count from 1 without holes; those who come back say
//! the last one they saw.
//!
//! Never silently wrong: what cannot be followed is refused (functions of chance or of the clock, tables that are not
//! replicated, local row numbers); a query that fails later, or whose columns a migration changes, ends with a line that
//! says so. A date function over a *column* that holds the text `now` is the one clock that goes unseen.
//!
//! Rows come in the order in which they entered the result; for the first who asks, that is the query's own ORDER BY.
//!
//! Reading order: `line` renders, `shape` reads the text, `equality` what it demands of one column, `analysis` asks SQLite what it means, `wanted` is what commits ask for, `look` runs it, `pace` says how often, `rows`
//! compares by what `identity` tells rows apart, `told` says what a snapshot holds, `feed` keeps and shares changes, `live` ties them together, `interest` finds whom a commit concerns, `attached` is what one listener reads.

pub(crate) mod line;

mod shape;

mod equality;

mod analysis;

mod identity;

mod rows;

mod told;

mod budget;

mod wanted;

mod look;

mod pace;

mod feed;

mod live;

mod interest;

mod attached;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

pub use analysis::QueryRefused;
pub use attached::Attached;

use crate::store::{Commit, QueryError, SchemaChange, Statement, Store};
use analysis::Analysts;
use budget::{Budget, TOTAL_BYTES};
use feed::{AttachError, Start};
use interest::Interests;
use live::{End, Follower, Live, Parts, REQUESTS};
use told::Told;

/// Queries followed at once. Each costs a task and its result's rows; at the bound the one that nobody has listened to for
/// longest makes room, and if all have listeners the next one is refused.
const QUERIES_MAX: usize = 1_000;

/// All live queries of a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Subscriptions(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    analysts: Analysts,
    registry: Mutex<Registry>,
    tasks: TaskTracker,
    token: CancellationToken,
    counters: Arc<Counters>,
    told: Arc<Told>,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Registry {
    by_id: BTreeMap<Uuid, Following>,
    by_identity: BTreeMap<String, Uuid>,
    interests: Interests,
    cut: u64,
}

#[derive(Debug)]
struct Following {
    live: Arc<Live>,
    token: CancellationToken,
}

#[derive(Debug, Default)]
struct Counters {
    looks: AtomicU64,
    looks_whole: AtomicU64,
    events: AtomicU64,
    damaged: AtomicU64,
}

/// Figures for the status and the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionFigures {
    /// Queries followed.
    pub queries: u64,
    /// Readers of them.
    pub listeners: u64,
    /// Times a query was run again, since start.
    pub looks: u64,
    /// Times of these that all its rows were looked at, since start.
    pub looks_whole: u64,
    /// Change events made, since start; each counts once however many listen.
    pub events: u64,
    /// Readers that were cut off for being slow, since start.
    pub cut: u64,
    /// Queries that ended because the database is damaged, since start.
    pub damaged: u64,
    /// Bytes that the results and the changes kept take.
    pub bytes: u64,
}

/// Where to begin and what to leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Changes after this one only, without the rows. `None` and 0: from the rows.
    pub from: Option<u64>,
    /// Whether to begin with the rows.
    pub rows: SnapshotRows,
    /// Whether to say where commits end.
    pub marks: Marks,
}

/// Whether a line follows the changes of each look that says that they are those of whole commits. Changes travel in pieces, and
/// who shows them to others must not show half of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Marks {
    /// Clients that do not ask do not know the line.
    #[default]
    Omitted,
    /// It does: `{"commit":{"change_id":N}}`.
    Sent,
}

/// Whether a stream begins with the columns, rows and end of query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotRows {
    /// It does.
    #[default]
    Sent,
    /// It begins with the next change.
    Skipped,
}

/// Why subscriptions did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The store gave no reader.
    #[error("the store cannot be read")]
    Store(#[from] QueryError),
    /// The store has no file.
    #[error("live queries need a store in a file")]
    NoFile,
    /// The file did not open a second time.
    #[error("the store's file cannot be opened for analysis")]
    Open(#[from] rusqlite::Error),
}

/// Why there is no stream.
#[derive(Debug, Error)]
pub enum SubscribeError {
    /// The statement cannot be followed.
    #[error(transparent)]
    Refused(#[from] QueryRefused),
    /// Changes after some change were asked for of a query that nobody follows.
    #[error("there is no such subscription to continue: subscribe without `from`")]
    NothingToContinue,
    /// No query has this id: it never had, or was given up, or the server started anew.
    #[error("could not find subscription with id {0}")]
    Unknown(Uuid),
    /// Too many queries have listeners.
    #[error("{QUERIES_MAX} different queries are followed already: end some")]
    TooMany,
    /// The query could not be run, or the server is shutting down.
    #[error("{0}")]
    Failed(String),
}

impl Subscriptions {
    /// Begins to follow the store's commits, in a task of `tasks`, until `token` is cancelled.
    pub async fn start(store: Store, tasks: TaskTracker, token: CancellationToken) -> Result<Self, StartError> {
        Self::within(TOTAL_BYTES, store, tasks, token).await
    }

    /// The same, where all queries together may hold this many bytes.
    async fn within(
        total: usize,
        store: Store,
        tasks: TaskTracker,
        token: CancellationToken,
    ) -> Result<Self, StartError> {
        let commits = store.commits();
        let path = store.read(|conn| conn.path().map(PathBuf::from)).await?.filter(|path| !path.as_os_str().is_empty());
        let analysts = Analysts::open(&path.ok_or(StartError::NoFile)?)?;
        let counters = Arc::default();
        let told = Arc::new(Told::new(store.state().commits));
        let shared = Shared {
            store,
            analysts,
            registry: Mutex::default(),
            tasks,
            token,
            counters,
            told,
            budget: Arc::new(Budget::new(total)),
        };
        let subscriptions = Self(Arc::new(shared));
        let follower = subscriptions.clone();
        subscriptions.0.tasks.spawn(async move { follower.follow(commits).await });
        Ok(subscriptions)
    }

    /// Joins the query that equals this statement, or begins to follow it.
    pub async fn subscribe(&self, statement: Statement, options: AttachOptions) -> Result<Attached, SubscribeError> {
        // A query may end between being found and being joined: for want of listeners, or because a migration changed what
        // it means. Then it is followed anew. One that ended for another reason would end again, and whoever asks is told
        // the reason.
        for _ in 0..3 {
            let plan = self.0.analysts.analyse(statement.clone(), self.0.store.tables()).await?;
            let live = match (self.find(&plan.identity), options.from) {
                (Some(live), _) => live,
                (None, Some(1..)) => return Err(SubscribeError::NothingToContinue),
                (None, None | Some(0)) => self.follow_query(&statement, plan)?,
            };
            if let Some(attached) = attach(&live, options).await {
                return Ok(attached);
            }
            self.forget(&live);
            match live.ended() {
                Some(end) if end.may_begin_anew() => {}
                Some(end) => return Err(SubscribeError::Failed(end.to_string())),
                // Its task panicked.
                None => break,
            }
        }
        Err(SubscribeError::Failed("the query could not be run".to_owned()))
    }

    /// Joins a query by its id.
    pub async fn attach(&self, id: Uuid, options: AttachOptions) -> Result<Attached, SubscribeError> {
        let live = self.registry().by_id.get(&id).map(|following| Arc::clone(&following.live));
        match live {
            Some(live) => attach(&live, options).await.ok_or(SubscribeError::Unknown(id)),
            None => Err(SubscribeError::Unknown(id)),
        }
    }

    /// How many queries, listeners and events there are.
    pub fn figures(&self) -> SubscriptionFigures {
        let registry = self.registry();
        let lives = || registry.by_id.values().map(|following| &following.live);
        SubscriptionFigures {
            queries: registry.by_id.len() as u64,
            listeners: lives().map(|live| live.feed.readers() as u64).sum(),
            looks: self.0.counters.looks.load(Ordering::Relaxed),
            looks_whole: self.0.counters.looks_whole.load(Ordering::Relaxed),
            events: self.0.counters.events.load(Ordering::Relaxed),
            cut: registry.cut + lives().map(|live| live.feed.cut()).sum::<u64>(),
            damaged: self.0.counters.damaged.load(Ordering::Relaxed),
            bytes: self.0.budget.held() as u64,
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Held for look-ups and insertions only, which leave it whole.
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, identity: &str) -> Option<Arc<Live>> {
        let registry = self.registry();
        let id = registry.by_identity.get(identity)?;
        registry.by_id.get(id).map(|following| Arc::clone(&following.live))
    }

    /// Begins to follow a query, unless somebody did meanwhile.
    fn follow_query(&self, statement: &Statement, plan: analysis::Plan) -> Result<Arc<Live>, SubscribeError> {
        if self.0.token.is_cancelled() {
            return Err(SubscribeError::Failed("the server is shutting down".to_owned()));
        }
        let mut registry = self.registry();
        if let Some(following) = registry.by_identity.get(&plan.identity).and_then(|id| registry.by_id.get(id)) {
            return Ok(Arc::clone(&following.live));
        }
        registry.make_room()?;
        let (requests, asked) = mpsc::channel(REQUESTS);
        let live = Arc::new(Live::new(plan, requests));
        let token = self.0.token.child_token();
        // Registered before its first look, so that no commit falls between.
        registry.by_identity.insert(live.identity.clone(), live.id);
        registry.interests.add(&live, &live.plan());
        registry.by_id.insert(live.id, Following { live: Arc::clone(&live), token: token.clone() });
        self.0.store.watch(registry.interests.watched());
        drop(registry);
        let shared = &self.0;
        let parts = Parts {
            store: shared.store.clone(),
            analysts: shared.analysts.clone(),
            counters: Arc::clone(&shared.counters),
            told: Arc::clone(&shared.told),
            share: shared.budget.share(),
        };
        let follower = Follower::new(Arc::clone(&live), statement.clone(), parts);
        let this = self.clone();
        self.0.tasks.spawn(async move {
            let ended = follower.run(asked, token).await;
            this.forget(&ended);
        });
        Ok(live)
    }

    fn forget(&self, live: &Live) {
        let mut registry = self.registry();
        registry.remove(live.id);
        self.0.store.watch(registry.interests.watched());
    }

    /// Tells every query of every commit.
    async fn follow(self, mut commits: broadcast::Receiver<Arc<Commit>>) {
        loop {
            // Both arms are cancel-safe: a receiver that is dropped in between has taken nothing.
            let received = tokio::select! {
                () = self.0.token.cancelled() => return,
                received = commits.recv() => received,
            };
            match received {
                Ok(commit) => {
                    match commit.schema {
                        SchemaChange::Changed => self.each(Live::offer_anything),
                        SchemaChange::Same => self.registry().interests.tell(&commit),
                    }
                    self.0.told.raise(commit.number);
                }
                Err(RecvError::Lagged(missed)) => {
                    warn!(missed, "commits came faster than they were followed: every query is run again");
                    self.each(Live::offer_anything);
                }
                Err(RecvError::Closed) => {
                    if !self.0.token.is_cancelled() {
                        error!("the store ended: live queries end with it");
                    }
                    self.each(|live| live.end(End::Store));
                    return;
                }
            }
        }
    }

    fn each(&self, tell: impl Fn(&Live)) {
        self.registry().by_id.values().for_each(|following| tell(&following.live));
    }
}

impl Registry {
    fn remove(&mut self, id: Uuid) {
        if let Some(following) = self.by_id.remove(&id) {
            following.token.cancel();
            self.interests.remove(id, &following.live.plan());
            self.cut += following.live.feed.cut();
            if self.by_identity.get(&following.live.identity) == Some(&id) {
                self.by_identity.remove(&following.live.identity);
            }
        }
    }

    fn make_room(&mut self) -> Result<(), SubscribeError> {
        if self.by_id.len() < QUERIES_MAX {
            return Ok(());
        }
        let idle = self.by_id.iter().filter_map(|(id, following)| Some((following.live.feed.idle_since()?, *id)));
        let (_, longest) = idle.min().ok_or(SubscribeError::TooMany)?;
        if let Some(following) = self.by_id.get(&longest) {
            // Before its task is cancelled, which it takes for the server's end.
            following.live.end(End::Room);
        }
        self.remove(longest);
        Ok(())
    }
}

/// `None` if the query has ended meanwhile.
async fn attach(live: &Arc<Live>, options: AttachOptions) -> Option<Attached> {
    let hash = xxh3_64(live.identity.as_bytes());
    match (options.from, options.rows) {
        (Some(from @ 1..), _) => match live.feed.attach(Start::After(from)) {
            Ok((reader, _)) => Some(Attached::resumed(live.id, hash, reader.with(options.marks), from)),
            Err(AttachError::OutOfReach { min }) => Some(Attached::out_of_reach(live.id, hash, from, min)),
            Err(AttachError::Ended) => None,
        },
        (None | Some(0), rows) => {
            // Also without the rows: what a query's first look finds is no change, so who listened before it would miss
            // whatever was written between the answer and that look.
            let (answer, asked) = oneshot::channel();
            live.requests.send(answer).await.ok()?;
            let started = std::time::Instant::now();
            let mut snapshot = asked.await.ok()?;
            snapshot.reader = snapshot.reader.with(options.marks);
            Some(match rows {
                SnapshotRows::Sent => Attached::with_rows(live.id, hash, &live.columns, snapshot, started.elapsed()),
                SnapshotRows::Skipped => Attached::following(live.id, hash, snapshot.reader),
            })
        }
    }
}
