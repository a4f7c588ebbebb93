//! Queries: a few read-only connections, opened when they are needed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kith_gossip_proto::Value;
use rusqlite::hooks::AuthContext;
use rusqlite::{Connection, OpenFlags};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{QueryError, Trouble, text};
use super::guard::{Lookout, Used};
use super::health::Health;
use super::ledger::is_damage;
use super::open::both;
use super::outlet::Outlet;
use super::pace::Pace;
use super::statement::{Statement, value};
use super::views::Others;

/// Connections at once. Each is opened once and kept; its caches grow to about 1 MiB with use.
const READERS: usize = 8;

/// How long one waits for a connection.
pub(crate) const POOL_WAIT: Duration = Duration::from_secs(5);

/// Rows that wait for a slow reader; then the query waits.
const ROWS_AHEAD: usize = 64;

/// Steps of SQLite's machine between two looks at the deadline and at whether anybody still listens.
const LOOK_EVERY: i32 = 4_000;

/// The rows of a query as they are found.
#[derive(Debug)]
pub struct Rows {
    /// Names of the result's columns.
    pub columns: Vec<String>,
    /// One item per row, or an error, after which nothing comes. The channel closes at the end. Dropping it ends the query.
    pub rows: mpsc::Receiver<Result<Vec<Value>, QueryError>>,
}

/// The connections that read.
#[derive(Debug)]
pub(crate) struct Pool {
    path: PathBuf,
    /// What the views show of other nodes.
    pub(crate) others: Others,
    health: Arc<Health>,
    idle: Mutex<Vec<Reading>>,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Ends what runs.
    closing: CancellationToken,
}

/// A connection, and who watches what it prepares.
#[derive(Debug)]
struct Reading {
    conn: Connection,
    lookout: Arc<Lookout>,
}

/// A statement that was prepared, and not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Names of the result's columns.
    pub columns: Vec<String>,
    /// The tables, columns and functions it uses.
    pub used: Used,
    /// Its text with the parameters written into it.
    pub expanded: String,
}

/// A connection, for as long as it is needed.
pub(crate) struct Reader {
    pool: Arc<Pool>,
    reading: Option<Reading>,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn new(path: &Path, health: Arc<Health>) -> Self {
        Self {
            path: path.to_owned(),
            others: Others::default(),
            health,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(READERS)),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    /// Runs something with a connection on a thread that may block.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        let permit = self.permit().await?;
        let pool = Arc::clone(self);
        let (done, result) = oneshot::channel();
        self.tasks.spawn_blocking(move || {
            let ran = Reader::open(pool, permit).map(|mut reader| work(&mut reader.reading().conn));
            drop(done.send(ran));
        });
        result.await.unwrap_or_else(|_| Err(QueryError::Failed("the reader ended early".to_owned())))
    }

    /// Runs a query and streams its rows.
    pub(crate) async fn query(
        self: &Arc<Self>,
        statement: Statement,
        deadline: Option<Instant>,
    ) -> Result<Rows, QueryError> {
        let permit = self.permit().await?;
        let pool = Arc::clone(self);
        let (head, columns) = oneshot::channel();
        let (out, rows) = mpsc::channel(ROWS_AHEAD);
        let out = self.outlet(out);
        self.tasks.spawn_blocking(move || match Reader::open(pool, permit) {
            Ok(mut reader) => {
                let health = Arc::clone(&reader.pool.health);
                stream(reader.reading(), &statement, deadline, head, &out, &health);
            }
            Err(error) => drop(head.send(Err(error))),
        });
        let failed = |_| Err(QueryError::Failed("the reader ended early".to_owned()));
        Ok(Rows { columns: columns.await.unwrap_or_else(failed)?, rows })
    }

    /// Prepares a statement and says what it uses.
    pub(crate) async fn examine(self: &Arc<Self>, statement: Statement) -> Result<Examined, QueryError> {
        let permit = self.permit().await?;
        let pool = Arc::clone(self);
        let (done, result) = oneshot::channel();
        self.tasks.spawn_blocking(move || {
            let examined = Reader::open(pool, permit).and_then(|mut reader| examine(reader.reading(), &statement));
            drop(done.send(examined));
        });
        result.await.unwrap_or_else(|_| Err(QueryError::Failed("the reader ended early".to_owned())))
    }

    /// Starts a task that holds a connection for long and tells its findings by itself.
    pub(crate) async fn start(
        self: &Arc<Self>,
        work: impl FnOnce(Result<&Connection, QueryError>) + Send + 'static,
    ) -> Result<(), QueryError> {
        let permit = self.permit().await?;
        let pool = Arc::clone(self);
        self.tasks.spawn_blocking(move || match Reader::open(pool, permit) {
            Ok(reader) => work(Ok(reader.conn())),
            Err(error) => work(Err(error)),
        });
        Ok(())
    }

    pub(crate) fn outlet<T>(&self, out: mpsc::Sender<T>) -> Outlet<T> {
        Outlet::new(out, self.closing.clone(), Handle::current())
    }

    /// Something that tells whether the store is closing.
    pub(crate) fn closing(&self) -> impl Fn() -> bool + Send + 'static {
        let closing = self.closing.clone();
        move || closing.is_cancelled()
    }

    /// Runs something that reads much, at this pace.
    pub(crate) async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        pace: Pace,
        work: impl FnOnce(&Connection) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let closing = self.closing.clone();
        let looked = self.run(move |conn| pace.read(conn, &closing, work)).await?;
        looked.map_err(|error| self.health.note(error))
    }

    pub(crate) fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, QueryError> {
        let permit = tokio::time::timeout(POOL_WAIT, Arc::clone(&self.permits).acquire_owned()).await;
        permit.map_err(|_| QueryError::Pool)?.map_err(|_| QueryError::ShuttingDown)
    }

    /// Ends running queries, starts no others, and closes the connections.
    pub(crate) async fn close(&self) {
        self.permits.close();
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Reader {
    fn open(pool: Arc<Pool>, permit: OwnedSemaphorePermit) -> Result<Self, QueryError> {
        let idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let reading = match idle {
            Some(reading) => reading,
            None => connect(&pool.path, &pool.others).map_err(|error| pool.health.note(trouble(&error)))?,
        };
        // A connection learns of a migration only when it runs something, and what is prepared before, `SELECT *` above
        // all, is prepared against the tables as they were.
        refresh(&reading.conn).map_err(|error| pool.health.note(trouble(&error)))?;
        Ok(Self { pool, reading: Some(reading), _permit: permit })
    }

    fn conn(&self) -> &Connection {
        &self.reading.as_ref().expect("it is only taken when the reader is dropped").conn
    }

    fn reading(&mut self) -> &mut Reading {
        self.reading.as_mut().expect("it is only taken when the reader is dropped")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // After a panic the connection may be in the middle of something; another is opened when needed.
        let sound = |reading: &Reading| reading.conn.is_autocommit() && !std::thread::panicking();
        if let Some(reading) = self.reading.take().filter(sound) {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reading);
        }
    }
}

fn connect(path: &Path, others: &Others) -> rusqlite::Result<Reading> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    both(&conn, 1_024)?;
    others.add_views(&conn)?;
    conn.execute_batch("PRAGMA query_only = ON")?;
    conn.set_prepared_statement_cache_capacity(32);
    let lookout = Arc::<Lookout>::default();
    let guard = Arc::clone(&lookout);
    conn.authorizer(Some(move |context: AuthContext<'_>| guard.allows(context)))?;
    Ok(Reading { conn, lookout })
}

fn refresh(conn: &Connection) -> rusqlite::Result<()> {
    conn.prepare_cached("SELECT 1 FROM sqlite_schema LIMIT 1")?.exists([]).map(drop)
}

fn stream(
    reading: &mut Reading,
    statement: &Statement,
    deadline: Option<Instant>,
    head: oneshot::Sender<Result<Vec<String>, QueryError>>,
    out: &Outlet<Result<Vec<Value>, QueryError>>,
    health: &Health,
) {
    let unwanted = out.unwanted();
    let over = move || unwanted() || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let mut head = Some(head);
    let Reading { conn, lookout } = reading;
    lookout.enter();
    let ran = conn.progress_handler(LOOK_EVERY, Some(over)).map_err(|error| trouble(&error)).and_then(|()| {
        let mut prepared = prepare(conn, statement)?;
        let mut rows = prepared.raw_query();
        // The first row is computed before the head is told, so that what fails at once fails as a whole. And only then
        // are the columns certain: SQLite finds out while it runs that a migration came since, and prepares again.
        let mut next = read(&mut rows);
        if let Err(error) = next {
            return Err(error);
        }
        let columns = match rows.as_ref() {
            Some(running) => names(running),
            None => {
                drop(rows);
                drop(head.take().map(|head| head.send(Ok(names(&prepared)))));
                return Ok(());
            }
        };
        drop(head.take().map(|head| head.send(Ok(columns))));
        while let Some(row) = next? {
            if out.put(Ok(row)).is_err() {
                return Ok(());
            }
            next = read(&mut rows);
        }
        Ok(())
    });
    drop(conn.progress_handler(0, None::<fn() -> bool>));
    lookout.leave();
    match (ran.map_err(|error| health.note(error)), head) {
        (Ok(()), _) => {}
        (Err(error), Some(head)) => drop(head.send(Err(error))),
        // The listener may be gone, which is why it failed.
        (Err(error), None) => drop(out.put(Err(error))),
    }
}

fn prepare<'a>(conn: &'a Connection, statement: &Statement) -> Result<rusqlite::Statement<'a>, QueryError> {
    let refused = |error: rusqlite::Error| match trouble(&error) {
        malformed @ QueryError::Malformed(_) => malformed,
        _ => QueryError::Prepare(text(&error)),
    };
    let mut prepared = conn.prepare(&statement.sql).map_err(refused)?;
    if !prepared.readonly() || prepared.column_count() == 0 {
        return Err(QueryError::NotReadOnly);
    }
    statement.params.bind(&mut prepared).map_err(QueryError::Bind)?;
    Ok(prepared)
}

fn examine(reading: &mut Reading, statement: &Statement) -> Result<Examined, QueryError> {
    reading.lookout.enter();
    let prepared = prepare(&reading.conn, statement)
        .map(|prepared| (names(&prepared), prepared.expanded_sql().unwrap_or_else(|| statement.sql.clone())));
    let used = reading.lookout.leave();
    prepared.map(|(columns, expanded)| Examined { columns, used, expanded })
}

fn names(statement: &rusqlite::Statement<'_>) -> Vec<String> {
    statement.column_names().map(str::to_owned).collect()
}

fn read(rows: &mut rusqlite::Rows<'_>) -> Result<Option<Vec<Value>>, QueryError> {
    match rows.next() {
        Ok(None) => Ok(None),
        Ok(Some(row)) => {
            let width = row.as_ref().column_count();
            let values = (0..width).map(|at| row.get_ref(at).map(value)).collect::<Result<_, _>>();
            values.map(Some).map_err(|error| trouble(&error))
        }
        Err(error) => Err(trouble(&error)),
    }
}

pub(crate) fn trouble(error: &rusqlite::Error) -> QueryError {
    match Trouble::of(error) {
        Trouble::Interrupted => QueryError::TimedOut,
        Trouble::Malformed(detail) => QueryError::Malformed(detail),
        _ if is_damage(error) => QueryError::Broken(text(error)),
        Trouble::DiskFull | Trouble::ReadOnly | Trouble::Disk(_) | Trouble::Sql(_) | Trouble::Store(_) => {
            QueryError::Failed(text(error))
        }
    }
}
