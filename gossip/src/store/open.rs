//! Opening the file: is it ours, is it sound, what does it hold; and the first transaction of every start.

use std::fs::{File, TryLockError};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::copy;
use super::error::{OpenError, SchemaError, text};
use super::health::{Mark, clear, marked};
use super::ledger::{Ledger, is_damage, signed};
use super::migrate::migrate;
use super::outline;
use super::schema::{SchemaSource, read};
use super::sites::Sites;
use super::table::TableSet;

/// The layout this release writes. A greater number in a file is a later release's.
const FORMAT: i64 = 1;

/// SQLite's application id: "Kith" in ASCII, so that `file` and we know the database.
const APPLICATION_ID: i32 = 0x4B69_7468;

/// Heap of all SQLite connections of the process together. A query that needs more fails; without a bound one sort of a
/// large join could take the process down. 64 MiB would do for every query that Kith itself runs.
const HEAP_MAX: i64 = 256 << 20;

/// The longest value or row, in bytes. A transaction brings at most 1 MiB, so a row of a few columns stays below.
const LENGTH_MAX: i32 = 16 << 20;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The database file. It and its folder must be writable; `-wal`, `-shm` and `-lock` stand beside it.
    pub path: PathBuf,
    /// What declares the tables. Tables of earlier schemas stay.
    pub schema: Vec<SchemaSource>,
    /// What an acknowledged transaction survives.
    pub durability: Durability,
}

/// What an acknowledged transaction survives. Both survive the end of the process, however sudden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// A power cut: acknowledged once synced.
    #[default]
    Full,
    /// The end of the process only: acknowledged before the sync. Peers and subscriptions hear of it after the sync all
    /// the same, so a power cut loses nothing that another node knows of.
    Normal,
}

/// A store's file, opened and migrated.
pub(crate) struct Opened {
    pub(crate) conn: Connection,
    pub(crate) ledger: Ledger,
    pub(crate) tables: Arc<TableSet>,
    pub(crate) began: Began,
    pub(crate) lock: File,
}

/// What a start began with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began {
    /// How often the store was opened.
    pub(crate) boot: u64,
    /// Drawn at this start.
    pub(crate) nonce: u64,
    /// The last version of the own site.
    pub(crate) head: u64,
    /// Whether the own site was drawn at this start, or at the end of the last one.
    pub(crate) site_is_new: bool,
    /// Sites that this store has given up.
    pub(crate) renounced: u64,
}

/// Opens the file, makes it if there is none, brings it to the schema and counts the start.
pub(crate) fn open(config: &StoreConfig) -> Result<Opened, OpenError> {
    let path = config.path.as_path();
    let lock = lock(path)?;
    let last = last_boot(&lock);
    copy::sweep(path);
    let sqlite = |error| failed(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    check(&conn, path)?;
    prepare(&conn).map_err(sqlite)?;
    let declared = read(&config.schema, &conn).map_err(OpenError::Schema)?;

    // Everything a start changes is one transaction, and synced whatever the durability: a boot must never count twice.
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(sqlite)?;
    tx.execute_batch(LAYOUT).map_err(sqlite)?;
    Sites::found(&tx).map_err(sqlite)?;
    let began = start(&tx, last, &place(path)).map_err(sqlite)?;
    migrate(&tx, &declared).map_err(|error| match error {
        SchemaError::Sqlite(error) => failed(path, error),
        refused => OpenError::Schema(refused),
    })?;
    tx.commit().map_err(sqlite)?;
    note_boot(&lock, began.boot)
        .map_err(|error| failed(path, rusqlite::Error::ToSqlConversionFailure(Box::new(error))))?;

    set_durability(&conn, config.durability).map_err(sqlite)?;
    let tables = Arc::new(TableSet::load(&conn).map_err(sqlite)?);
    let ledger = Ledger::load(&conn).map_err(sqlite)?;
    let began = Began { head: ledger.sites.heads().head(ledger.own()), ..began };
    Ok(Opened { conn, ledger, tables, began, lock })
}

/// Two processes with one store would write with one clock and one site.
pub(crate) fn lock(path: &Path) -> Result<File, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push("-lock");
    let failed = |error: std::io::Error| OpenError::Sqlite {
        path: path.to_owned(),
        source: rusqlite::Error::ToSqlConversionFailure(Box::new(error)),
    };
    let file = File::options().create(true).truncate(false).read(true).write(true).open(name).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The last boot of the store beside this lock: also of one that is gone. A store that takes its place must not count from
/// 1 again, or peers take what it says for old.
fn last_boot(lock: &File) -> u64 {
    let mut text = [0; 20];
    let read = lock.read_at(&mut text, 0).unwrap_or(0);
    std::str::from_utf8(&text[..read]).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Of a fixed width, so that a number never mixes with a longer one before it.
pub(crate) fn note_boot(lock: &File, boot: u64) -> std::io::Result<()> {
    lock.write_all_at(format!("{boot:020}").as_bytes(), 0)?;
    lock.sync_data()
}

/// Looks before anything is written.
pub(crate) fn check(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |error| failed(path, error);
    let has = |sql| conn.query_row(sql, [], |row| row.get::<_, bool>(0)).map_err(sqlite);
    if has("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '__kith_meta')")? {
        let found: i64 = conn.query_row("SELECT format FROM __kith_meta", [], |row| row.get(0)).map_err(sqlite)?;
        if found > FORMAT {
            return Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT });
        }
        if !outline::is_sealed(conn).map_err(sqlite)? {
            let detail = "its tables are not what was declared".to_owned();
            return Err(OpenError::Damaged { path: path.to_owned(), detail });
        }
    } else if has("SELECT EXISTS (SELECT 1 FROM sqlite_schema)")? {
        // With our name on it, it is ours, and has lost its first table.
        return Err(match has(&format!("SELECT application_id = {APPLICATION_ID} FROM pragma_application_id"))? {
            true => OpenError::Damaged { path: path.to_owned(), detail: "it has lost its bookkeeping".to_owned() },
            false => OpenError::Foreign { path: path.to_owned() },
        });
    }
    // The quick one passes over what indexes say, and is enough as long as nothing has shown otherwise.
    let looks = match marked(path) {
        Mark::None => "PRAGMA quick_check(1)",
        Mark::Suspect => "PRAGMA integrity_check(1)",
        Mark::Hopeless => {
            return Err(OpenError::Damaged {
                path: path.to_owned(),
                detail: "its rows cannot be put right".to_owned(),
            });
        }
    };
    let verdict: String = conn.query_row(looks, [], |row| row.get(0)).map_err(sqlite)?;
    if verdict == "ok" {
        clear(path).map_err(|error| sqlite(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))
    } else {
        Err(OpenError::Damaged { path: path.to_owned(), detail: verdict.replace('\n', " ") })
    }
}

pub(crate) fn failed(path: &Path, source: rusqlite::Error) -> OpenError {
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            OpenError::Damaged { path: path.to_owned(), detail: text(&source) }
        }
        _ if is_damage(&source) => OpenError::Damaged { path: path.to_owned(), detail: text(&source) },
        _ => OpenError::Sqlite { path: path.to_owned(), source },
    }
}

/// Settings of the connection that writes.
fn prepare(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID};
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA journal_size_limit = 8388608;
         PRAGMA hard_heap_limit = {HEAP_MAX};"
    ))?;
    // A writer's working set is the rows and log pages of a few transactions.
    both(conn, 2_048)?;
    conn.set_prepared_statement_cache_capacity(256);
    Ok(())
}

/// A connection to a file that no other one uses: a copy of a store.
pub(crate) fn alone(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    both(&conn, 1_024)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// Settings of every connection. `cache` is in KiB.
pub(crate) fn both(conn: &Connection, cache: u32) -> rusqlite::Result<()> {
    conn.execute_batch(&format!(
        "PRAGMA busy_timeout = 5000;
         PRAGMA foreign_keys = OFF;
         PRAGMA trusted_schema = OFF;
         PRAGMA recursive_triggers = OFF;
         PRAGMA cell_size_check = ON;
         PRAGMA mmap_size = 0;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -{cache};"
    ))?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    let limits = [
        (Limit::SQLITE_LIMIT_LENGTH, LENGTH_MAX),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 64 << 10),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
    ];
    limits.into_iter().try_for_each(|(limit, value)| conn.set_limit(limit, value).map(drop))
}

pub(crate) fn set_durability(conn: &Connection, durability: Durability) -> rusqlite::Result<()> {
    conn.execute_batch(match durability {
        Durability::Full => "PRAGMA synchronous = FULL",
        Durability::Normal => "PRAGMA synchronous = NORMAL",
    })
}

/// Our own tables. `self` is the `ord` of the store's own site; `reserved_ver` and `reserved_hlc` are not below any that
/// was used; `place` is which file this was at its last start, `fresh` whether the site was drawn at the end of that, and
/// `renounced` counts the sites that were given up. A site whose `state` is 1 was the store's own once; `boot` and `nonce`
/// of a site are of its last start that was met. A table that is not `live` is known by name only, from peers. In
/// `__kith_unknown` a column's name is a text, and the empty blob stands for the row's own state. `digest` is of live rows,
/// `__kith_day` has that of tombstones. `commits` says which commit a reader's snapshot is of. `__kith_purged`, `purged_cl`
/// and `purged_day` are what is left of purged tombstones; `__kith_known` and `listened` say for how many milliseconds nodes
/// were not heard, and this one has listened; `__kith_met` of which node each site was first met.
const LAYOUT: &str = "
    CREATE TABLE IF NOT EXISTS __kith_meta (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, self INTEGER NOT NULL,
        boot INTEGER NOT NULL, nonce INTEGER NOT NULL, reserved_ver INTEGER NOT NULL, reserved_hlc INTEGER NOT NULL,
        outline INTEGER, digest BLOB NOT NULL, commits INTEGER NOT NULL, purged_day INTEGER NOT NULL DEFAULT 0,
        purged_seal INTEGER, listened INTEGER NOT NULL DEFAULT 0, place TEXT NOT NULL DEFAULT '',
        fresh INTEGER NOT NULL DEFAULT 0, renounced INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE IF NOT EXISTS __kith_day (day INTEGER NOT NULL PRIMARY KEY, sum BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS __kith_purged (site BLOB NOT NULL PRIMARY KEY, ver INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS __kith_known (node TEXT NOT NULL PRIMARY KEY, unheard INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS __kith_met (site BLOB NOT NULL PRIMARY KEY, node TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS __kith_site (
        ord INTEGER NOT NULL PRIMARY KEY, id BLOB NOT NULL UNIQUE, head INTEGER NOT NULL, hlc INTEGER NOT NULL,
        state INTEGER NOT NULL, seal INTEGER, boot INTEGER NOT NULL DEFAULT 0, nonce INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE IF NOT EXISTS __kith_table (
        tid INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE, live INTEGER NOT NULL DEFAULT 0,
        purged_cl INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE IF NOT EXISTS __kith_col (
        tid INTEGER NOT NULL, cid INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (tid, cid)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS __kith_log (
        site INTEGER NOT NULL, ver INTEGER NOT NULL, seq INTEGER NOT NULL, tid INTEGER NOT NULL, k BLOB NOT NULL,
        PRIMARY KEY (site, ver, seq)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS __kith_unknown (
        tid INTEGER NOT NULL, pk BLOB NOT NULL, col BLOB NOT NULL, st BLOB NOT NULL, value,
        PRIMARY KEY (tid, pk, col)) WITHOUT ROWID;
";

/// A boot that no store reaches: what the lock says beyond it is not ours.
const BOOT_MAX: u64 = 1 << 32;

/// Counts the start, after `last` at least, and draws its nonce. In a file that is not the one of the last start it draws
/// another site: the store is a copy, and the other one may go on, or has gone on before this one was made of it.
fn start(conn: &Connection, last: u64, place: &str) -> rusqlite::Result<Began> {
    let before: Option<(String, bool)> =
        conn.query_row("SELECT place, fresh FROM __kith_meta", [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let is_copy = before.as_ref().is_some_and(|(before, _)| !before.is_empty() && before != place);
    if is_copy {
        Sites::anew(conn)?;
        conn.execute("UPDATE __kith_meta SET renounced = renounced + 1", [])?;
        tracing::warn!("the store's file is a copy of the one it was: it goes on under another site id");
    }
    conn.query_row(
        "INSERT INTO __kith_meta (one, format, self, boot, nonce, reserved_ver, reserved_hlc, digest, commits, place)
         VALUES (1, ?1, 1, ?2 + 1, random(), 0, 0, zeroblob(16), 0, ?3)
         ON CONFLICT (one) DO UPDATE SET format = ?1, boot = max(boot, ?2) + 1, nonce = random(), place = ?3, fresh = 0
         RETURNING boot, nonce, renounced",
        params![FORMAT, signed(last.min(BOOT_MAX)), place],
        |row| {
            Ok(Began {
                boot: row.get::<_, i64>(0)?.cast_unsigned(),
                nonce: row.get::<_, i64>(1)?.cast_unsigned(),
                head: 0,
                site_is_new: is_copy || before.is_some_and(|(_, fresh)| fresh),
                renounced: row.get::<_, i64>(2)?.cast_unsigned(),
            })
        },
    )
}

/// Which file this is, however it is named: its inode, and since when that has been this file. Of a file system that
/// cannot say the latter it is the inode alone. Moved within its file system, a file stays the same; copied, packed and
/// unpacked, or restored from a backup, it is another. A file system that is set back as a whole says nothing of it; the
/// peers do.
fn place(path: &Path) -> String {
    let Ok(file) = path.metadata() else { return String::new() };
    let born = file.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    format!("{} {}", file.ino(), born.as_nanos())
}
