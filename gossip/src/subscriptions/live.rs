//! One query that is followed: who runs it again, and when.
//!
//! ```text
//! commit ──► wanted (what to look at, merged while a look runs) ──► look ──► differences ──► feed ──► readers
//! ```
//! One task owns the rows. There is no timer that polls: a commit wakes it, and commits that come while it works are taken
//! together. Looks in quick succession are spread out ([`pause`]); the first change after a pause is never delayed, and the
//! last one never left out.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kith_gossip_proto::Name;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use super::Counters;
use super::analysis::{Analysts, Plan};
use super::budget::{Share, TOTAL_BYTES};
use super::feed::{Feed, Reader, Start};
use super::look::{Leash, LookError, look};
use super::pace::pause;
use super::rows::{Difference, ResultRows};
use super::shape::Reach;
use super::told::{Known, Told};
use super::wanted::{Extent, Wanted};
use crate::store::{Keys, QueryError, Statement, Store, Touched};

/// A look that takes longer ends the query: it holds one of few readers.
const LOOK_TIME: Duration = Duration::from_secs(60);
/// Between giving up waiting for a reader, which takes seconds by itself, and waiting again: those who wait do not spin.
const READER_PAUSE: Duration = Duration::from_millis(100);
/// How long a query is kept with nobody listening.
const KEPT_IDLE: Duration = Duration::from_secs(600);
/// Requests for the rows that may wait while a look runs. Beyond it the askers wait in their own tasks.
pub(super) const REQUESTS: usize = 64;

/// The rows at one point, and the reader of what comes after.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) rows: Vec<(u64, Bytes)>,
    pub(super) change: u64,
    pub(super) reader: Reader,
}

/// A request for the rows.
pub(super) type Request = oneshot::Sender<Snapshot>;

/// A query that is followed.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: Uuid,
    pub(super) identity: String,
    pub(super) columns: Vec<String>,
    pub(super) feed: Arc<Feed>,
    pub(super) requests: mpsc::Sender<Request>,
    /// Read at each commit, replaced when the schema changes.
    plan: Mutex<Arc<Plan>>,
    wanted: Wanted,
    woken: Notify,
    end: OnceLock<End>,
}

/// What a look is for.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Everything,
    /// What commits have asked for.
    Wanted,
}

/// What all queries have in common, and what one has of it.
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) analysts: Analysts,
    pub(super) counters: Arc<Counters>,
    pub(super) told: Arc<Told>,
    pub(super) share: Share,
}

/// The task that owns a query's rows.
pub(super) struct Follower {
    live: Arc<Live>,
    statement: Statement,
    parts: Parts,
    /// Locked by a look while it runs on a reader, and by this task while none does.
    rows: Arc<Mutex<ResultRows>>,
    /// No look before this.
    ready: Instant,
}

impl Live {
    pub(super) fn new(plan: Plan, requests: mpsc::Sender<Request>) -> Self {
        Self {
            id: Uuid::new_v4(),
            identity: plan.identity.clone(),
            columns: plan.columns.clone(),
            feed: Arc::new(Feed::new()),
            requests,
            plan: Mutex::new(Arc::new(plan)),
            wanted: Wanted::default(),
            woken: Notify::new(),
            end: OnceLock::new(),
        }
    }

    /// Takes note that a commit changed a table, and of it what matters here at most in these rows.
    pub(super) fn offer(&self, commit: u64, table: &Name, touched: &Touched, keys: &Keys) {
        let plan = self.plan();
        if !plan.reads.get(table).is_some_and(|columns| columns.meet(&touched.columns)) {
            return;
        }
        let extent = match (keys, plan.reach) {
            (Keys::These(keys), Reach::Own) => Extent::Keys([(table.clone(), keys.clone())].into()),
            (Keys::These(_) | Keys::Many, _) => Extent::All,
        };
        self.wanted.look(extent, commit);
        self.woken.notify_one();
    }

    /// What to look at in a snapshot as of this commit. It is known only when everybody was told of all that the snapshot
    /// holds; until then one waits, but no longer than looking at everything takes.
    fn worth(&self, told: &Told, commit: u64, rows: &ResultRows) -> Extent {
        let known = told.wait(commit, rows.whole_took);
        match (known, self.wanted.take(commit)) {
            (Known::All, extent) => extent.if_worth_it(self.plan().parts.len(), rows.len()),
            (Known::NotAll, _) => Extent::All,
        }
    }

    /// Takes note that commits were missed, or the schema is another: anything may have changed.
    pub(super) fn offer_anything(&self) {
        self.wanted.analysis();
        self.woken.notify_one();
    }

    /// Ends the feed, for a reason that whoever comes too late can ask for. Only the first counts.
    pub(super) fn end(&self, end: End) {
        let end = self.end.get_or_init(|| end);
        self.feed.end(&end.to_string());
    }

    /// Why the query is no longer followed.
    pub(super) fn ended(&self) -> Option<&End> {
        self.end.get()
    }

    pub(super) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a query is no longer followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the server is shutting down")]
    Shutdown,
    #[error("nobody listened for 10 minutes")]
    Idle,
    #[error("nobody listened, and other queries needed the room")]
    Room,
    #[error("the store ended")]
    Store,
    #[error("the schema changed and with it the columns: subscribe again")]
    Columns,
    #[error("the live queries together hold more than {} MiB, and it the most: ask for less, or end some", TOTAL_BYTES >> 20)]
    TooMuch,
    #[error("the query can no longer be followed: {0}")]
    Refused(String),
    #[error(
        "the database of this server is damaged: it is read anew and put right; subscribe again, here in a while or at another server"
    )]
    Damaged,
    #[error("the query failed: {0}")]
    Failed(String),
}

impl End {
    /// Whether the same statement may be followed again: nobody listened, or it has other columns by now.
    pub(super) fn may_begin_anew(&self) -> bool {
        match self {
            Self::Idle | Self::Room | Self::Columns => true,
            Self::Shutdown | Self::Store | Self::TooMuch | Self::Refused(_) | Self::Damaged | Self::Failed(_) => false,
        }
    }
}

impl Follower {
    pub(super) fn new(live: Arc<Live>, statement: Statement, parts: Parts) -> Self {
        Self { live, statement, parts, rows: Arc::default(), ready: Instant::now() }
    }

    /// Follows the query until there is a reason not to, then tells the readers.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>, token: CancellationToken) -> Arc<Live> {
        let end = self.follow(&mut requests, &token).await;
        match &end {
            End::Shutdown | End::Idle | End::Room | End::Store | End::Columns => {
                debug!(query.id = %self.live.id, reason = %end, "subscription ended");
            }
            End::TooMuch | End::Refused(_) | End::Damaged | End::Failed(_) => {
                warn!(query.id = %self.live.id, reason = %end, "subscription ended");
            }
        }
        if let End::Damaged = end {
            self.parts.counters.damaged.fetch_add(1, Ordering::Relaxed);
        }
        self.live.end(end);
        self.live
    }

    async fn follow(&mut self, requests: &mut mpsc::Receiver<Request>, token: &CancellationToken) -> End {
        // What the first look finds is the snapshot that readers begin with, not changes.
        let first = tokio::select! {
            () = token.cancelled() => return End::Shutdown,
            // Dropped at shutdown only, which interrupts it: what it computes is of no use to anyone.
            first = self.look(Ask::Everything) => first,
        };
        let mut error = first.map(|_| self.weigh()).err();
        let over = self.parts.share.over();
        let mut changed = self.live.feed.watch();
        loop {
            if let Some(end) = error {
                return end;
            }
            let idle_end = self.live.feed.idle_since().map(|since| since + KEPT_IDLE);
            let due = self.live.wanted.is_any().then_some(self.ready);
            // Every arm but the last two takes nothing before it completes; receiving is cancel-safe by tokio's word.
            tokio::select! {
                biased;
                () = token.cancelled() => return End::Shutdown,
                () = over.cancelled() => return End::TooMuch,
                () = at(due) => error = self.catch_up(token).await.err(),
                Some(request) = requests.recv() => self.answer(request),
                () = self.live.woken.notified(), if due.is_none() => {}
                // A reader came or left: when to give up is computed again.
                _ = changed.changed() => {}
                () = at(idle_end) => return End::Idle,
            }
        }
    }

    fn answer(&self, request: Request) {
        if let Ok((reader, change)) = self.live.feed.attach(Start::Now) {
            // An asker that is gone has dropped its end; so is the reader then.
            drop(request.send(Snapshot { rows: self.rows().snapshot(), change, reader }));
        }
    }

    /// Does what commits have asked for and publishes what it finds.
    async fn catch_up(&mut self, token: &CancellationToken) -> Result<(), End> {
        if self.live.wanted.take_analysis() {
            self.analyse().await?;
        }
        let over = self.parts.share.over();
        let differences = tokio::select! {
            () = token.cancelled() => return Err(End::Shutdown),
            () = over.cancelled() => return Err(End::TooMuch),
            // As for the first look.
            differences = self.look(Ask::Wanted) => differences?,
        };
        // Before anybody can know of it.
        self.parts.counters.looks.fetch_add(1, Ordering::Relaxed);
        let events = self.live.feed.publish(&differences);
        self.weigh();
        self.parts.counters.events.fetch_add(events, Ordering::Relaxed);
        let (took, whole) = {
            let rows = self.rows();
            (rows.took, rows.whole)
        };
        self.parts.counters.looks_whole.fetch_add(whole.into(), Ordering::Relaxed);
        self.ready = Instant::now() + pause(self.live.plan().reach, took);
        Ok(())
    }

    /// Runs the query. If the schema changed under it, its meaning is found out again first, once.
    async fn look(&self, ask: Ask) -> Result<Vec<Difference>, End> {
        let mut ask = ask;
        for _ in 0..2 {
            match self.look_once(ask).await? {
                Ok(differences) => return Ok(differences),
                Err(LookError::Drift) => self.analyse().await?,
                Err(LookError::Malformed(detail)) => {
                    self.parts.store.malformed(&detail);
                    return Err(End::Damaged);
                }
                Err(error @ (LookError::TooLarge | LookError::Interrupted | LookError::Sql(_))) => {
                    return Err(End::Failed(error.to_string()));
                }
            }
            ask = Ask::Everything;
        }
        Err(End::Failed("the schema keeps changing".to_owned()))
    }

    /// Runs the query as soon as there is a reader. Slow queries of others may hold all readers for long; that is no
    /// reason to end this one, and what commits ask for meanwhile is merged, not stored. Whoever drops this ends the wait.
    async fn look_once(&self, ask: Ask) -> Result<Result<Vec<Difference>, LookError>, End> {
        loop {
            let (plan, rows) = (self.live.plan(), Arc::clone(&self.rows));
            let (live, told) = (Arc::clone(&self.live), Arc::clone(&self.parts.told));
            let leash = Leash::default();
            let _pull = leash.pull_on_drop();
            let looking = self.parts.store.read(move |conn| {
                let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                let extent = |commit, rows: &ResultRows| match ask {
                    Ask::Everything => {
                        live.wanted.take(commit);
                        Extent::All
                    }
                    Ask::Wanted => live.worth(&told, commit, rows),
                };
                look(conn, &plan, extent, &mut rows, &leash)
            });
            let looked = tokio::time::timeout(LOOK_TIME, looking).await;
            match looked.map_err(|_| End::Failed("it takes longer than 60 s".to_owned()))? {
                Ok(looked) => return Ok(looked),
                Err(QueryError::Pool) => {
                    debug!(query.id = %self.live.id, "no reader is free: waiting on");
                    tokio::time::sleep(READER_PAUSE).await;
                }
                Err(error) => return Err(End::Failed(error.to_string())),
            }
        }
    }

    /// Counts what it holds.
    fn weigh(&self) {
        let held = self.rows().bytes() + self.live.feed.bytes();
        self.parts.share.hold(held);
    }

    fn rows(&self) -> MutexGuard<'_, ResultRows> {
        // A look that panics ends the query: what it leaves behind is not read again.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out again what the query means, after the schema has changed.
    async fn analyse(&self) -> Result<(), End> {
        let plan = self.parts.analysts.analyse(self.statement.clone(), self.parts.store.tables()).await;
        let plan = plan.map_err(|error| End::Refused(error.to_string()))?;
        let before = self.live.plan();
        let same = plan.columns == self.live.columns && plan.parts == before.parts && plan.concerns_as(&before);
        if !same {
            return Err(End::Columns);
        }
        *self.live.plan.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
        Ok(())
    }
}

/// Completes at an instant, or never.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
