//! The one thread that writes, and all it holds.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use kith_gossip_proto::{Hlc, NodeId, SiteId, Stamp, Start, Vector};
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::Null;
use tokio::sync::{mpsc, oneshot};

use super::capture::{Capture, KEY_FUNCTION, SharedCapture};
use super::commit::{SchemaChange, StoreState};
use super::error::{ApplyError, ExecuteError, InstallError, SchemaError, Trouble};
use super::group::{Answers, Broken, Job, Sum, run};
use super::guard::{self, Switch};
use super::known::{self, Heard, Known};
use super::ledger::{Ledger, signed};
use super::migrate::{Migrated, Migration, migrate};
use super::open::{Began, Durability, Opened, set_durability};
use super::publish::{Published, Teller, Told, Unsynced};
use super::renounce::Renounced;
use super::repair::{Cure, Repaired};
use super::schema::{SchemaSource, read};
use super::shared::Shared;
use super::table::{Place, TableSet, quote};

/// Commands that wait for the writer. A caller beyond it waits for room, which slows down whoever writes too fast.
pub(crate) const QUEUE: usize = 1_024;

/// Members of one group. Each may be as large as a transaction can be, so this also bounds what a group holds in memory.
const GROUP_MAX: usize = 128;

/// Own versions that are reserved at once. After a crash the numbers left of a block are skipped.
const VERSIONS_AHEAD: u64 = 1_000;

/// How far ahead of the wall clock readings are reserved. After a crash the clock starts there; small against the 60 s
/// from which on a clock counts as wrong.
const MS_AHEAD: u64 = 5_000;

/// Steps of SQLite's machine between two looks at the deadline: some tens of microseconds.
const LOOK_EVERY: i32 = 4_000;

/// What the writer is told to do.
#[derive(Debug)]
pub(crate) enum Command {
    Job(Job),
    Migrate {
        sources: Vec<SchemaSource>,
        kind: Migration,
        reply: oneshot::Sender<Result<Migrated, SchemaError>>,
    },
    /// Take note of nodes that were heard of.
    Heard {
        heard: Heard,
        reply: oneshot::Sender<Result<Known, ApplyError>>,
    },
    /// Take over a copy that is known to be sound.
    Install {
        copy: Connection,
        newest: Option<Stamp>,
        reply: oneshot::Sender<Result<Vector, InstallError>>,
    },
    /// Put damaged rows right.
    Repair {
        cure: Box<Cure>,
        reply: oneshot::Sender<Result<Repaired, ApplyError>>,
    },
    /// Give up the store's site but for its versions below one, and none whose stamp is later than this.
    Renounce {
        /// Nothing is done if it has another one by then.
        site: SiteId,
        /// By site, and where none is the store's or was it, nothing is done.
        refused: Vector,
        latest: Hlc,
        reply: oneshot::Sender<Result<Option<Renounced>, ApplyError>>,
    },
    /// Remember which start of a peer's store was met.
    Remember {
        node: NodeId,
        site: SiteId,
        start: Start,
        reply: oneshot::Sender<Result<(), ExecuteError>>,
    },
    /// Another store of the same site was met elsewhere: give the site up but for what this start began with.
    BeginAgain {
        /// As above.
        site: SiteId,
        boot: u64,
        reply: oneshot::Sender<Result<Option<Renounced>, ApplyError>>,
    },
    /// Finish: everything sent before is done already.
    Close,
    /// What was committed cannot be synced: end.
    Unsynced,
}

/// The writer's state. Lives on its thread.
pub(crate) struct Core {
    pub(crate) conn: Connection,
    pub(crate) ledger: Ledger,
    pub(crate) tables: Arc<TableSet>,
    pub(crate) capture: SharedCapture,
    pub(crate) switch: Arc<Switch>,
    pub(crate) durability: Durability,
    pub(super) shared: Arc<Shared>,
    /// Up to here versions and readings may be used.
    pub(super) reserved: (u64, Hlc),
    wal: PathBuf,
    teller: Teller,
    disk: Disk,
    pub(super) began: Began,
    /// Held until the thread ends.
    pub(super) lock: File,
}

/// Whether what was committed could be synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Sound,
    /// See [`Unsynced`]: the writer ends.
    Unknown,
}

impl Core {
    /// Installs the hooks. They stay as long as the connection does.
    pub(crate) fn new(
        opened: Opened,
        path: &std::path::Path,
        durability: Durability,
        shared: Arc<Shared>,
    ) -> rusqlite::Result<Self> {
        let Opened { mut conn, ledger, tables, began, lock } = opened;
        let switch = Arc::new(Switch::default());
        let capture = Arc::new(Mutex::new(Capture::new(Arc::clone(&switch), Arc::clone(&tables))));
        install(&mut conn, &switch, &capture)?;
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let reserved = (ledger.version, ledger.clock.last());
        let wal = PathBuf::from(wal);
        let mut core = Self {
            conn,
            ledger,
            tables,
            capture,
            switch,
            durability,
            shared,
            reserved,
            wal,
            teller: Teller::AtOnce,
            disk: Disk::Sound,
            began,
            lock,
        };
        core.watch_keys()?;
        core.settle()?;
        let (ledger, shared) = (&core.ledger, &core.shared);
        shared.advance(|opened| StoreState {
            digests: ledger.digests.clone(),
            commits: ledger.commits,
            set_aside: ledger.aside.values().sum(),
            ..opened.clone()
        });
        Ok(core)
    }

    /// From here on a thread of its own syncs what is committed, if that is left to us.
    pub(crate) fn sync_apart(&mut self, writer: mpsc::WeakSender<Command>) -> std::io::Result<()> {
        if self.durability == Durability::Normal {
            self.teller = Teller::synced(self.wal.clone(), Arc::clone(&self.shared), writer)?;
        }
        Ok(())
    }

    /// Puts the triggers on the tables whose keys SQLite would choose. They are this connection's alone.
    fn watch_keys(&self) -> rusqlite::Result<()> {
        for table in self.tables.iter().filter(|table| table.place == Place::Alias) {
            let trigger = quote(&format!("__kith_key_{}", table.name));
            let (name, key) = (&table.sql.quoted, quote(table.key[0].as_str()));
            self.conn.execute_batch(&format!(
                "CREATE TEMP TRIGGER IF NOT EXISTS {trigger} BEFORE INSERT ON main.{name}
                 BEGIN SELECT {KEY_FUNCTION}(NEW.{key}); END"
            ))?;
        }
        Ok(())
    }

    /// Brings in what was set aside before the schema that the store was opened with.
    pub(crate) fn settle(&mut self) -> rusqlite::Result<()> {
        if self.ledger.aside.is_empty() {
            return Ok(());
        }
        run(&self.conn, "/*kith*/ BEGIN IMMEDIATE")?;
        let tables = Arc::clone(&self.tables);
        self.adopt(&tables, &mut Sum::default())?;
        self.ledger.save(&self.conn)?;
        run(&self.conn, "/*kith*/ COMMIT")
    }

    /// Does what it is told until it is told to close, or nobody can tell it any more.
    pub(crate) fn work(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut next = commands.blocking_recv();
        while let Some(command) = next.take() {
            match command {
                Command::Job(job) => {
                    // What has queued up meanwhile goes along; nothing is waited for.
                    let mut group = vec![job];
                    while group.len() < GROUP_MAX && next.is_none() {
                        match commands.try_recv() {
                            Ok(Command::Job(job)) => group.push(job),
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.run_group(group);
                }
                Command::Migrate { sources, kind: Migration::Kept, reply } => drop(reply.send(self.migrate(&sources))),
                Command::Migrate { sources, kind: Migration::Tried, reply } => {
                    drop(reply.send(self.try_migration(&sources)));
                }
                Command::Heard { heard, reply } => {
                    let noted = known::note(&mut self.conn, &heard);
                    drop(reply.send(noted.map_err(|error| ExecuteError::from(error).into())));
                }
                Command::Install { copy, newest, reply } => drop(reply.send(self.install(copy, newest))),
                Command::Renounce { site, refused, latest, reply } => {
                    let done = self.still(site).and_then(|()| self.renounce_refused(&refused, latest));
                    drop(reply.send(done.map_err(ApplyError::from)));
                }
                Command::Repair { cure, reply } => drop(reply.send(self.repair(*cure))),
                Command::Remember { node, site, start, reply } => drop(reply.send(self.remember(&node, site, start))),
                Command::BeginAgain { site, boot, reply } => {
                    let done = self.still(site).and_then(|()| self.begin_again(boot));
                    drop(reply.send(done.map_err(ApplyError::from)));
                }
                Command::Unsynced => self.disk = Disk::Unknown,
                Command::Close => break,
            }
            if self.disk == Disk::Unknown {
                return;
            }
            next = next.or_else(|| commands.blocking_recv());
        }
        commands.close();
        self.finish();
    }

    /// Makes sure that `versions` more can be given numbers and readings that are on disk as used.
    pub(crate) fn reserve(&mut self, versions: u64, wall_ms: u64) -> Result<(), Broken> {
        let clock = self.ledger.clock.last().max(Hlc::from_ms(wall_ms));
        // A group takes far fewer readings than there are in a millisecond.
        let needed = Hlc::from_ms(clock.ms() + 1);
        if self.ledger.version + versions <= self.reserved.0 && needed <= self.reserved.1 {
            return Ok(());
        }
        let version = self.ledger.version + VERSIONS_AHEAD.max(versions);
        let hlc = Hlc::from_ms(clock.ms() + MS_AHEAD);
        self.keep_reserved(version, hlc)?;
        self.reserved = (version, hlc);
        Ok(())
    }

    /// The store is another one: of what is reserved the file knows no more than what is used.
    pub(crate) fn unreserve(&mut self) {
        self.reserved = (self.ledger.version, self.ledger.clock.last());
    }

    /// What is on disk as used, of versions and readings.
    pub(crate) fn reserved(&self) -> (u64, Hlc) {
        self.reserved
    }

    fn keep_reserved(&self, version: u64, hlc: Hlc) -> rusqlite::Result<()> {
        set_durability(&self.conn, Durability::Full)?;
        self.conn
            .prepare_cached("/*kith*/ UPDATE __kith_meta SET reserved_ver = ?1, reserved_hlc = ?2")?
            .execute([signed(version), signed(hlc.to_bits())])?;
        set_durability(&self.conn, self.durability)
    }

    /// What there is to tell of a commit.
    pub(crate) fn published(&self, sum: Sum, schema: SchemaChange) -> Published {
        let ledger = &self.ledger;
        Published {
            number: ledger.commits,
            sum,
            site: ledger.own(),
            heads: Arc::clone(ledger.sites.heads()),
            digests: ledger.digests.clone(),
            purged: Arc::clone(&ledger.purged),
            hlc: ledger.clock.last(),
            set_aside: ledger.aside.values().sum(),
            tables: self.tables.hash(),
            schema,
        }
    }

    /// Tells everybody of a commit that nobody waits for.
    pub(crate) fn tell_commit(&mut self, sum: Sum, schema: SchemaChange) {
        let commit = Some(self.published(sum, schema));
        self.tell(Told { commit, answers: Answers::none(self.ledger.sites.heads()) });
    }

    /// Tells everybody, once all that is committed is synced.
    pub(crate) fn tell(&mut self, told: Told) {
        if told.commit.is_none() && told.answers.is_empty() {
            return;
        }
        if let Err(Unsynced) = self.teller.tell(told, &self.shared) {
            self.disk = Disk::Unknown;
        }
    }

    fn migrate(&mut self, sources: &[SchemaSource]) -> Result<Migrated, SchemaError> {
        let declared = read(sources, &self.conn)?;
        let before = self.ledger.clone();
        let mut sum = Sum::default();
        let done = self.migrated(&declared, &mut sum);
        match done {
            Ok((migrated, tables)) => {
                self.set_tables(tables)?;
                if !migrated.is_empty() {
                    self.tell_commit(sum, SchemaChange::Changed);
                }
                Ok(migrated)
            }
            Err(error) => {
                self.roll_back();
                self.ledger = before;
                Err(full(error))
            }
        }
    }

    pub(crate) fn set_tables(&mut self, tables: TableSet) -> rusqlite::Result<()> {
        self.tables = Arc::new(tables);
        let mut capture = self.capture.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        capture.set_tables(Arc::clone(&self.tables));
        drop(capture);
        self.shared.set_tables(Arc::clone(&self.tables));
        self.watch_keys()
    }

    fn try_migration(&self, sources: &[SchemaSource]) -> Result<Migrated, SchemaError> {
        let declared = read(sources, &self.conn)?;
        run(&self.conn, "/*kith*/ BEGIN IMMEDIATE")?;
        let done = migrate(&self.conn, &declared);
        self.roll_back();
        done.map_err(full)
    }

    fn migrated(
        &mut self,
        declared: &super::schema::Declared,
        sum: &mut Sum,
    ) -> Result<(Migrated, TableSet), SchemaError> {
        run(&self.conn, "/*kith*/ BEGIN IMMEDIATE")?;
        let migrated = migrate(&self.conn, declared)?;
        let tables = TableSet::load(&self.conn)?;
        if !migrated.is_empty() {
            self.adopt(&tables, sum)?;
            self.ledger.save(&self.conn)?;
        }
        run(&self.conn, "/*kith*/ COMMIT")?;
        Ok((migrated, tables))
    }

    /// A clean end: the next start goes on with the next number, and the log is empty.
    fn finish(mut self) {
        std::mem::replace(&mut self.teller, Teller::AtOnce).finish();
        let ended = self
            .keep_reserved(self.ledger.version, self.ledger.clock.last())
            .and_then(|()| self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        if let Err(error) = ended {
            tracing::warn!(%error, "the store was not closed cleanly; the next start recovers it");
        }
    }
}

fn install(conn: &mut Connection, switch: &Arc<Switch>, capture: &SharedCapture) -> rusqlite::Result<()> {
    let side = Arc::clone(switch);
    conn.authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| match side.side() {
        guard::Side::Own => rusqlite::hooks::Authorization::Allow,
        guard::Side::Client => guard::writer(context),
    }))?;
    let (side, noted) = (Arc::clone(switch), Arc::clone(capture));
    conn.preupdate_hook(Some(move |_, _: &str, table: &str, case: &rusqlite::hooks::PreUpdateCase| {
        if side.side() == guard::Side::Client
            // A panic in an earlier call has poisoned it, and the transaction is lost already.
            && let Ok(mut capture) = noted.lock()
        {
            capture.note(table, case);
        }
    }))?;
    let noted = Arc::clone(capture);
    // Innocuous: it reads nothing and tells nothing, so that a trigger may call it though the schema is not trusted.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    conn.create_scalar_function(KEY_FUNCTION, 1, flags, move |context| {
        if let Ok(mut capture) = noted.lock() {
            capture.expect(context.get_raw(0).as_i64().ok());
        }
        Ok(Null)
    })?;
    let side = Arc::clone(switch);
    conn.progress_handler(LOOK_EVERY, Some(move || side.is_over()))
}

/// Names the full disk among SQLite's errors.
fn full(error: SchemaError) -> SchemaError {
    match error {
        SchemaError::Sqlite(error) if matches!(Trouble::of(&error), Trouble::DiskFull) => SchemaError::DiskFull,
        other => other,
    }
}

impl From<ExecuteError> for ApplyError {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::DiskFull => Self::DiskFull,
            ExecuteError::ReadOnly => Self::ReadOnly,
            ExecuteError::ShuttingDown => Self::ShuttingDown,
            ExecuteError::Failed(message) => Self::Failed(message),
            other => Self::Failed(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
