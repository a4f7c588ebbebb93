//! The rows: stock SQLite with a CRDT layer of ours.
//!
//! Clients write plain SQL into plain tables. What a transaction changed is found at its end (`capture`, `flush`) and
//! written beside the rows, in the same transaction: one packed stamp per row (`stamps`), one log row per surviving change,
//! tombstones, a digest (`ledger`). So each transaction is a version that other nodes can take (`apply`), and whoever
//! is behind can be given all that lies above its vector (`collect`).
//!
//! One thread writes (`writer`, `group`); a few connections read (`read`). Everything else asks them through
//! [`Store`], a cheap handle. State has that one writer; readers get a snapshot swapped whole, or a stream.

mod statement;

mod schema;

mod rules;

mod migrate;
mod open;
mod outline;
mod table;

mod capture;
mod flush;
mod guard;

mod aside;
mod forgotten;
mod ledger;
mod sites;
pub(crate) mod stamps;

mod group;
mod publish;
mod wall;
mod writer;

mod anew;
mod apply;
mod collect;
mod copy;
mod install;
mod known;
mod meet;
mod merge;
mod outlet;
mod pace;
mod presence;
mod purge;
mod read;
mod renounce;
mod repair;
mod replaced;
mod restore;
mod snapshot;
mod verify;
mod views;
mod watched;

mod commit;
mod error;
mod health;
mod shared;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kith_gossip_proto::agreement::Fingerprint;
use kith_gossip_proto::buckets::Bucket;
use kith_gossip_proto::frame::{Answered, PulledRow};
use kith_gossip_proto::{Day, Hlc, Key, SiteId, Vector, Version};
use rusqlite::Connection;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};

pub use collect::Collected;
pub use commit::{Commit, Keys, SchemaChange, StoreState, Touched};
pub(crate) use copy::COPIES;
pub use copy::{Incoming, StoreCopy};
pub use error::{ApplyError, CopyError, ExecuteError, InstallError, OpenError, QueryError, RestoreError, SchemaError};
pub use guard::Used;
pub use health::Looked;
pub use known::{Heard, Known};
pub use meet::Met;
pub use migrate::Migrated;
pub use open::{Durability, StoreConfig};
pub use pace::Pace;
pub use presence::Presence;
pub use purge::Due;
pub(crate) use read::trouble;
pub use read::{Examined, Rows};
pub use renounce::Renounced;
pub use repair::{Cure, Repaired};
pub use restore::{Existing, Restored, restore, verify_file};
pub use schema::SchemaSource;
pub use statement::{Executed, Params, Statement, StatementResult};
pub(crate) use table::Affinity;
pub use table::{Table, TableSet};
pub use verify::{Findings, Survey};
pub(crate) use views::Other;
pub use wall::Highest;
pub(crate) use watched::Watched;

use commit::Own;
use group::{Job, deadline};
use guard::Switch;
use health::Health;
use migrate::Migration;
use open::Began;
use read::Pool;
use shared::Shared;
use verify::Indexes;
use wall::wall_ms;
use writer::{Command, Core, QUEUE};

/// The writer's stack. SQLite's parser and machine need little; a row's values are on the heap.
const WRITER_STACK: usize = 1 << 20;

/// An open store. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    commands: mpsc::Sender<Command>,
    writer: Mutex<Option<JoinHandle<()>>>,
    switch: Arc<Switch>,
    pool: Arc<Pool>,
    copies: Arc<Semaphore>,
    shared: Arc<Shared>,
    boot: u64,
    nonce: u64,
}

impl Store {
    /// Opens the store like [`open`](Self::open); a file that is damaged is kept aside, and a new store begun in its place.
    /// For a node that has peers: they have its rows, but for what it had told nobody.
    pub fn open_or_begin_anew(config: StoreConfig) -> Result<Self, OpenError> {
        let opened = match Self::open(config.clone()) {
            Err(OpenError::Damaged { path, detail }) => {
                let failed = |error: std::io::Error| OpenError::Sqlite {
                    path: path.clone(),
                    source: rusqlite::Error::ToSqlConversionFailure(Box::new(error)),
                };
                let aside = restore::set_aside(&path, "damaged").map_err(failed)?.unwrap_or_default();
                health::clear(&path).map_err(failed)?;
                tracing::error!(
                    path = %path.display(), aside = %aside.display(), detail,
                    "the store is damaged: it is kept aside, and its rows are fetched from the peers"
                );
                Self::open(config)
            }
            opened => opened,
        };
        opened.inspect(|store| store.inner.shared.health.may_begin_anew())
    }

    /// Opens the store, makes it if there is none, and brings it to the schema. Blocks; to be called at start.
    pub fn open(config: StoreConfig) -> Result<Self, OpenError> {
        let opened = open::open(&config)?;
        let StoreConfig { path, durability, .. } = config;
        let Began { boot, nonce, head, renounced, .. } = opened.began;
        let tables = Arc::clone(&opened.tables);
        let state = StoreState {
            site: opened.ledger.own(),
            boot,
            own: Own { head, first: None },
            heads: Arc::clone(opened.ledger.sites.heads()),
            digests: opened.ledger.digests.clone(),
            purged: Arc::clone(&opened.ledger.purged),
            hlc: opened.ledger.clock.last(),
            commits: opened.ledger.commits,
            schema: tables.hash(),
            set_aside: opened.ledger.aside.values().sum(),
            renounced,
        };
        let health = Arc::new(Health::new(&path));
        let shared = Arc::new(Shared::new(state, Arc::clone(&tables), Arc::clone(&health)));
        let mut core =
            Core::new(opened, &path, durability, Arc::clone(&shared)).map_err(|source| open::failed(&path, source))?;
        let switch = Arc::clone(&core.switch);
        let (commands, queue) = mpsc::channel(QUEUE);
        core.sync_apart(commands.downgrade()).map_err(OpenError::Thread)?;
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .stack_size(WRITER_STACK)
            .spawn(move || core.work(queue))
            .map_err(OpenError::Thread)?;
        let pool = Arc::new(Pool::new(&path, health));
        Ok(Self {
            inner: Arc::new(Inner {
                commands,
                writer: Mutex::new(Some(writer)),
                switch,
                pool,
                copies: Arc::new(Semaphore::new(copy::COPIES)),
                shared,
                boot,
                nonce,
            }),
        })
    }

    /// The store's identity in stamps, as of its last commit.
    pub fn site(&self) -> SiteId {
        self.state().site
    }

    /// How often the store was opened.
    pub fn boot(&self) -> u64 {
        self.inner.boot
    }

    /// Drawn when the store was opened.
    pub fn nonce(&self) -> u64 {
        self.inner.nonce
    }

    /// Runs the statements as one transaction, all or none; returns once it is as durable as configured. With a timeout
    /// it is interrupted, and nothing is kept, unless it was being committed by then. Waits while the queue is full.
    ///
    /// Dropping the future does not undo anything: the transaction may or may not be kept.
    pub async fn execute(
        &self,
        statements: Vec<Statement>,
        timeout: Option<Duration>,
    ) -> Result<Executed, ExecuteError> {
        if statements.is_empty() {
            return Err(ExecuteError::Empty);
        }
        let (reply, answer) = oneshot::channel();
        let job = Job::Execute { statements, deadline: deadline(timeout), reply };
        self.send(Command::Job(job)).await.map_err(|Closed| ExecuteError::ShuttingDown)?;
        answer.await.unwrap_or(Err(ExecuteError::ShuttingDown))
    }

    /// Runs one read-only statement. The rows come as the reader takes them.
    pub async fn query(&self, statement: Statement, timeout: Option<Duration>) -> Result<Rows, QueryError> {
        self.inner.pool.query(statement, deadline(timeout)).await
    }

    /// Prepares one read-only statement without running it, and says which tables, columns and functions it uses.
    pub async fn examine(&self, statement: Statement) -> Result<Examined, QueryError> {
        self.inner.pool.examine(statement).await
    }

    /// Adds the tables, columns and indexes that the sources declare and the store lacks. All or nothing.
    pub async fn migrate(&self, sources: Vec<SchemaSource>) -> Result<Migrated, SchemaError> {
        self.migration(sources, Migration::Kept).await
    }

    /// What [`migrate`](Self::migrate) would do, and what it would refuse; nothing is changed.
    pub async fn try_migration(&self, sources: Vec<SchemaSource>) -> Result<Migrated, SchemaError> {
        self.migration(sources, Migration::Tried).await
    }

    async fn migration(&self, sources: Vec<SchemaSource>, kind: Migration) -> Result<Migrated, SchemaError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Migrate { sources, kind, reply }).await.map_err(|Closed| SchemaError::ShuttingDown)?;
        answer.await.unwrap_or(Err(SchemaError::ShuttingDown))
    }

    /// Applies versions of peers, those of a site in order. A version that is not the next of its site, or needs heads
    /// that are not here, is skipped. Returns the heads, synced.
    pub async fn apply(&self, versions: Vec<Version>) -> Result<Vector, ApplyError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Job(Job::Apply { versions, reply })).await.map_err(|Closed| ApplyError::ShuttingDown)?;
        answer.await.unwrap_or(Err(ApplyError::ShuttingDown))
    }

    /// Joins the whole answer to a pull, in one transaction: its rows, and what the answerer had. Returns the heads, synced.
    /// Refused if one of the two was away for longer than deletions are remembered.
    pub async fn join(&self, rows: Vec<PulledRow>, answered: impl Into<Answered>) -> Result<Vector, ApplyError> {
        let (reply, answer) = oneshot::channel();
        let answered = answered.into();
        self.send(Command::Job(Job::Join { rows, answered, reply }))
            .await
            .map_err(|Closed| ApplyError::ShuttingDown)?;
        answer.await.unwrap_or(Err(ApplyError::ShuttingDown))
    }

    /// The tombstones that these heads cover and that were made before this reading of this host's clock. Where that is far
    /// ahead of its peers' it counts by theirs: it must not forget for them.
    pub async fn due(&self, covered: Vector, before: Hlc) -> Result<Due, QueryError> {
        let ahead = wall_ms(None).saturating_sub(wall_ms(self.inner.shared.highest()));
        let before = before.min(Hlc::from_ms(before.ms().saturating_sub(ahead)).max(Hlc::ZERO));
        self.inner
            .pool
            .run(move |conn| purge::due(conn, &covered, before).map_err(|error| read::trouble(&error)))
            .await?
    }

    /// How many deletions of rows are remembered.
    pub async fn tombstones(&self) -> Result<u64, QueryError> {
        self.inner.pool.run(|conn| purge::count(conn).map_err(|error| read::trouble(&error))).await?
    }

    /// Forgets tombstones, a few in each transaction. Returns how many were there still.
    pub async fn purge(&self, due: Due) -> Result<u64, ApplyError> {
        let mut gone = 0;
        for keys in due.keys.chunks(purge::PURGED_AT_ONCE) {
            let (reply, answer) = oneshot::channel();
            let due = Due { through: due.through.clone(), keys: keys.to_vec() };
            self.send(Command::Job(Job::Purge { due, reply })).await.map_err(|Closed| ApplyError::ShuttingDown)?;
            gone += answer.await.unwrap_or(Err(ApplyError::ShuttingDown))?;
        }
        Ok(gone)
    }

    /// The lists of what was lost when the store began anew, as long as nobody has taken them away.
    pub fn lost(&self) -> Vec<std::path::PathBuf> {
        anew::lists(self.inner.pool.path())
    }

    /// Takes note of which nodes were heard of, and says which are known.
    pub async fn heard(&self, heard: Heard) -> Result<Known, ApplyError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Heard { heard, reply }).await.map_err(|Closed| ApplyError::ShuttingDown)?;
        answer.await.unwrap_or(Err(ApplyError::ShuttingDown))
    }

    /// Every row that carries a stamp above these heads, and the heads of the snapshot they are read from.
    ///
    /// They are given out once they are synced: with [`Durability::Normal`] a snapshot can hold what a power cut would
    /// still take from us, and a peer that had it already would never ask again.
    pub async fn collect(&self, above: Vector) -> Result<Collected, QueryError> {
        self.collect_with(above, BTreeSet::new()).await
    }

    /// The same, and all rows of these buckets besides.
    pub async fn collect_with(&self, above: Vector, buckets: BTreeSet<Bucket>) -> Result<Collected, QueryError> {
        let commits = self.commits();
        let collected = collect::collect(&self.inner.pool, above, buckets).await?;
        self.synced(commits, &collected.heads).await?;
        Ok(collected)
    }

    /// Waits until what was read is synced.
    async fn synced(&self, mut commits: broadcast::Receiver<Arc<Commit>>, heads: &Vector) -> Result<(), QueryError> {
        while !self.state().heads.covers(heads) {
            if let Err(RecvError::Closed) = commits.recv().await {
                return Err(QueryError::ShuttingDown);
            }
        }
        Ok(())
    }

    /// A copy of the whole store, as of one commit that is synced.
    pub async fn copy(&self) -> Result<StoreCopy, CopyError> {
        let commits = self.commits();
        let permit = Arc::clone(&self.inner.copies).try_acquire_owned().map_err(|_| CopyError::Busy)?;
        let (path, closing) = (self.inner.pool.path().to_owned(), self.inner.pool.closing());
        let copy = self.inner.pool.run(move |conn| copy::nameless(conn, &path, permit, closing)).await??;
        self.synced(commits, &copy.heads).await?;
        Ok(copy)
    }

    /// A file for a snapshot that a peer sends.
    pub fn receive(&self) -> std::io::Result<Incoming> {
        Incoming::new(self.inner.pool.path())
    }

    /// Takes over the snapshot of a peer, if it is sound and no stamp in it is later than `latest`: a store that has nothing
    /// becomes it, any other joins its rows. Readers see one commit. Returns the heads, synced; after an error the store is
    /// as it was.
    pub async fn install(&self, incoming: Incoming, latest: Hlc) -> Result<Vector, InstallError> {
        let path = incoming.beside.path.clone();
        let checked = tokio::task::spawn_blocking(move || install::sound(&path, &path)).await;
        let (copy, found) = checked.map_err(|_| InstallError::ShuttingDown)??;
        if let Some(stamp) = found.newest.filter(|stamp| stamp.hlc > latest) {
            return Err(InstallError::FromFuture(stamp));
        }
        let (reply, answer) = oneshot::channel();
        self.send(Command::Install { copy, newest: found.newest, reply })
            .await
            .map_err(|Closed| InstallError::ShuttingDown)?;
        answer.await.unwrap_or(Err(InstallError::ShuttingDown))
    }

    /// Gives up the store's site but for its versions up to `kept`: what it wrote above that is stamped anew under another
    /// site, and the old one's head goes back. For a store whose past others know otherwise, or whose stamps they do not
    /// take. What readers see stays as it is. Synced, and told to whoever follows the commits, when it returns.
    pub async fn renounce(&self, kept: u64) -> Result<Renounced, ApplyError> {
        let refused = Vector::from_iter([(self.site(), kept.saturating_add(1))]);
        let done = self.renounce_later(refused, Hlc::MAX).await?;
        Ok(done.expect("the store was told that its own site is refused"))
    }

    /// The same of a store whose clock was far ahead, and whose versions peers refuse from these numbers on: but for those
    /// that are no later than `latest` either. What the sites that it had before wrote later is stamped anew, too, and its
    /// clock goes back to that. None, and nothing happens, where nothing that is refused is of a site of its own.
    pub async fn renounce_later(&self, refused: Vector, latest: Hlc) -> Result<Option<Renounced>, ApplyError> {
        let mut commits = self.commits();
        let (reply, answer) = oneshot::channel();
        let site = self.site();
        self.send(Command::Renounce { site, refused, latest, reply })
            .await
            .map_err(|Closed| ApplyError::ShuttingDown)?;
        let Some(done) = answer.await.unwrap_or(Err(ApplyError::ShuttingDown))? else { return Ok(None) };
        self.told(&mut commits, done).await.map(Some)
    }

    /// Waits until everybody is told of the new site.
    async fn told(
        &self,
        commits: &mut broadcast::Receiver<Arc<Commit>>,
        done: Renounced,
    ) -> Result<Renounced, ApplyError> {
        while self.site() == done.old {
            if let Err(RecvError::Closed) = commits.recv().await {
                return Err(ApplyError::ShuttingDown);
            }
        }
        Ok(done)
    }

    /// Runs something of our own on a read-only connection, on a thread that may block. Never a client's text, which
    /// [`Store::query`] checks. A transaction it begins ends with it.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        self.inner.pool.run(work).await
    }

    /// Which of these rows there are, in the order given. A key that the table could not hold is of none.
    pub async fn there(&self, table: Arc<Table>, keys: Vec<Key>) -> Result<Vec<(Key, Presence)>, QueryError> {
        self.inner.pool.run(move |conn| presence::of(conn, &table, keys).map_err(|error| read::trouble(&error))).await?
    }

    /// Looks through all rows, and recomputes the log and the digest from them.
    pub async fn verify(&self, pace: Pace) -> Result<Findings, QueryError> {
        let health = &self.inner.shared.health;
        let found = self.inner.pool.look(pace, |conn| verify::verify(conn, Indexes::Checked)).await?;
        if let Some(detail) = found.malformed.first() {
            health.malformed(detail);
        }
        health.looked(found.wrong.clone());
        Ok(found)
    }

    /// Looks through all rows as fast as it goes, for who compares them with those of another store.
    pub async fn survey(&self) -> Result<Survey, QueryError> {
        let commits = self.commits();
        let found = self.inner.pool.look(Pace::AtOnce, |conn| verify::verify(conn, Indexes::Checked)).await?;
        self.synced(commits, &found.heads).await?;
        if !found.wrong.is_empty() {
            self.inner.shared.health.looked(found.wrong.clone());
        }
        Ok(found.into())
    }

    /// Puts damaged rows right, in one transaction. After an error the store is as it was.
    pub async fn repair(&self, cure: Cure) -> Result<Repaired, ApplyError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Repair { cure: Box::new(cure), reply };
        self.send(command).await.map_err(|Closed| ApplyError::ShuttingDown)?;
        answer.await.unwrap_or(Err(ApplyError::ShuttingDown))
    }

    /// Ends the store: its rows cannot be put right in the file that it has. Where it was opened so that it may begin anew,
    /// it does at its next start; where it may not, it goes on as it is.
    pub fn begin_anew(&self) {
        self.inner.shared.health.hopeless();
    }

    /// SQLite has stumbled over the file, in the hands of somebody who reads it: the store ends.
    pub(crate) fn malformed(&self, detail: &str) {
        self.inner.shared.health.malformed(detail);
    }

    /// What was found when rows were last looked at, from now on.
    pub fn looks(&self) -> watch::Receiver<Option<Arc<Looked>>> {
        self.inner.shared.health.looks()
    }

    /// From now on clients that read `__corro_members` see these.
    pub(crate) fn show_others(&self, others: &[Other]) {
        self.inner.pool.others.show(others);
    }

    /// From here on tombstones before this day are left out of the [`fingerprint`](Self::fingerprint), besides those of days
    /// that were begun to be purged here.
    pub(crate) fn compare_from(&self, day: Day) {
        self.inner.shared.compare_from(day);
    }

    /// What peers compare of it.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let state = self.state();
        let floor = self.inner.shared.compared_from().max(state.purged.floor);
        Fingerprint { vector: state.heads.hash(), floor, digest: state.digests.from(floor) }
    }

    /// The store as of its last commit.
    pub fn state(&self) -> Arc<StoreState> {
        self.inner.shared.state()
    }

    /// From the next group of transactions on, commits list what changed rows held and hold in these columns.
    pub(crate) fn watch(&self, columns: Watched) {
        self.inner.shared.watch(columns);
    }

    /// Commits from here on, in order, each after its sync. A receiver that lags is told so, and must treat everything as
    /// touched.
    pub fn commits(&self) -> broadcast::Receiver<Arc<Commit>> {
        self.inner.shared.follow()
    }

    /// From the next transaction on, stamps are not taken from this host's clock while it is far ahead of this; `None`
    /// where nobody else's clock is known.
    pub fn correct_clock(&self, highest: Option<Highest>) {
        self.inner.shared.correct_clock(highest);
    }

    /// The replicated tables.
    pub fn tables(&self) -> Arc<TableSet> {
        self.inner.shared.tables()
    }

    /// Waits until the writer has ended, or SQLite has stumbled over the file. Before [`Store::close`] either is a fault: the
    /// store is good for nothing any more, and the part that holds it is to be started anew.
    pub async fn ended(&self) {
        // Cancel-safe: both only wait.
        tokio::select! {
            () = self.inner.commands.closed() => {}
            () = self.inner.shared.health.is_malformed() => {}
        }
    }

    /// Finishes what is queued, ends what is being read, and closes the file. What is asked for later is answered with
    /// `ShuttingDown`.
    pub async fn close(&self) {
        // An error says that the writer has ended already.
        drop(self.inner.commands.send(Command::Close).await);
        self.inner.pool.close().await;
        if tokio::time::timeout(FINISH, self.inner.commands.closed()).await.is_err() {
            self.inner.switch.close();
        }
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            match tokio::task::spawn_blocking(move || writer.join()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => tracing::error!("the store's writer ended by a panic"),
            }
        }
    }

    async fn send(&self, command: Command) -> Result<(), Closed> {
        self.inner.commands.send(command).await.map_err(|_| Closed)
    }
}

/// What is queued has this long to be finished when the store closes; a statement that runs on is then interrupted.
const FINISH: Duration = Duration::from_millis(500);

/// The writer takes no more commands.
struct Closed;
