//! Looking at a query again: running it on a reader and comparing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kith_gossip_proto::Key;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection};
use thiserror::Error;

use super::analysis::{Plan, bind, bind_key};
use super::line;
use super::rows::{Difference, Pass, ResultRows};

/// The rows of one query may take this much memory: about a million rows of an ordinary table. Beyond it the query ends.
const RESULT_BYTES: usize = 256 << 20;

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Everything.
    All,
    /// The rows of these keys, for a query over one table.
    Keys(BTreeSet<Key>),
}

/// Why a look failed. The rows may be half compared then and must not be used again.
#[derive(Debug, Error)]
pub(super) enum LookError {
    /// The query no longer returns the columns it was analysed with: the schema has changed meanwhile.
    #[error("the schema changed")]
    Drift,
    /// Too much to be held.
    #[error("its result is over {} MiB: ask for less", RESULT_BYTES >> 20)]
    TooLarge,
    /// The leash was pulled.
    #[error("it was interrupted")]
    Interrupted,
    /// SQLite failed; the message is SQLite's.
    #[error("{0}")]
    Sql(String),
}

impl From<rusqlite::Error> for LookError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error.to_string())
    }
}

/// Steps of SQLite's machine between two looks at the leash: some tens of microseconds.
const LOOK_EVERY: i32 = 4_000;

/// Ends a look from outside: a query may run for ever, and its reader is one of few.
///
/// A flag that the running statement asks for, not SQLite's interrupt: that is lost if it comes before the first step.
#[derive(Clone, Debug, Default)]
pub(super) struct Leash(Arc<AtomicBool>);

/// Pulls its leash when dropped; without effect once the look has ended.
#[derive(Debug)]
pub(super) struct Pull(Leash);

impl Leash {
    /// Whoever drops this wants the look to end.
    pub(super) fn pull_on_drop(&self) -> Pull {
        Pull(self.clone())
    }

    /// From here on the connection's statements heed the leash.
    fn tie(&self, conn: &mut Connection) -> Result<(), LookError> {
        let pulled = Arc::clone(&self.0);
        if pulled.load(Ordering::Relaxed) {
            return Err(LookError::Interrupted);
        }
        Ok(conn.progress_handler(LOOK_EVERY, Some(move || pulled.load(Ordering::Relaxed)))?)
    }
}

/// The connection's next user is on no leash. After a panic the connection has none: it is thrown away.
fn untie(conn: &mut Connection) -> rusqlite::Result<()> {
    conn.progress_handler(0, None::<fn() -> bool>)
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs the query and returns what differs. Everything is read from one snapshot. Blocking.
pub(super) fn look(
    conn: &mut Connection,
    plan: &Plan,
    extent: &Extent,
    rows: &mut ResultRows,
    leash: &Leash,
) -> Result<Vec<Difference>, LookError> {
    leash.tie(conn)?;
    let looked = run(conn, plan, extent, rows);
    untie(conn)?;
    looked
}

fn run(conn: &Connection, plan: &Plan, extent: &Extent, rows: &mut ResultRows) -> Result<Vec<Difference>, LookError> {
    match (extent, &plan.one) {
        (Extent::Keys(keys), Some(one)) => {
            // A statement that has begun holds the connection's snapshot for those that follow.
            let mut held = conn.prepare_cached("SELECT 1 FROM sqlite_schema")?;
            let mut snapshot = held.query([])?;
            snapshot.next()?;
            let mut statement = conn.prepare_cached(&one.sql)?;
            let mut pass = rows.look();
            let mut identities = Vec::with_capacity(keys.len());
            for key in keys {
                let values = key.decode().map_err(|error| LookError::Sql(error.to_string()))?;
                identities.push(identity_of(values.iter().map(line::borrowed)));
                bind(&mut statement, &plan.params).map_err(|error| LookError::Sql(error.to_string()))?;
                bind_key(&mut statement, &values)?;
                step(&mut statement, plan, &mut pass)?;
            }
            Ok(pass.end_of(identities.iter().map(Vec::as_slice)))
        }
        (Extent::All | Extent::Keys(_), _) => {
            let mut statement = conn.prepare_cached(&plan.all)?;
            bind(&mut statement, &plan.params).map_err(|error| LookError::Sql(error.to_string()))?;
            let mut pass = rows.look();
            step(&mut statement, plan, &mut pass)?;
            Ok(pass.end_of_all())
        }
    }
}

/// Feeds every row of a bound statement to the pass.
fn step(statement: &mut CachedStatement<'_>, plan: &Plan, pass: &mut Pass<'_>) -> Result<(), LookError> {
    let visible = plan.columns.len();
    let hidden: usize = plan.keys.iter().sum();
    let mut cells = Vec::new();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        // SQLite prepares a statement again by itself when the schema has changed under it.
        if row.as_ref().column_count() != visible + hidden {
            return Err(LookError::Drift);
        }
        cells.clear();
        push_cells(&mut cells, row, visible)?;
        if plan.keys.is_empty() {
            pass.row(None, &cells);
        } else {
            let key: Vec<ValueRef<'_>> =
                (visible..visible + hidden).map(|i| row.get_ref(i)).collect::<rusqlite::Result<_>>()?;
            pass.row(Some(&identity_of(key.into_iter())), &cells);
        }
        if pass.bytes() > RESULT_BYTES {
            return Err(LookError::TooLarge);
        }
    }
    Ok(())
}

fn push_cells(out: &mut Vec<u8>, row: &rusqlite::Row<'_>, count: usize) -> rusqlite::Result<()> {
    out.push(b'[');
    for i in 0..count {
        if i > 0 {
            out.push(b',');
        }
        line::push_value(out, row.get_ref(i)?);
    }
    out.push(b']');
    Ok(())
}

/// The key columns of all tables as bytes, each value with its kind and length, so that different keys never have equal
/// bytes. A table that an outer join did not match is all NULL, which no key is.
fn identity_of<'v>(values: impl Iterator<Item = ValueRef<'v>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    for value in values {
        match value {
            ValueRef::Null => out.push(0),
            ValueRef::Integer(i) => {
                out.push(1);
                out.extend_from_slice(&i.to_be_bytes());
            }
            ValueRef::Real(f) => {
                out.push(2);
                out.extend_from_slice(&f.to_bits().to_be_bytes());
            }
            ValueRef::Text(bytes) => push_sized(&mut out, 3, bytes),
            ValueRef::Blob(bytes) => push_sized(&mut out, 4, bytes),
        }
    }
    out
}

fn push_sized(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}
