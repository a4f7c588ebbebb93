//! Looking at a query again: running it on a reader and comparing.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, Row};
use thiserror::Error;

use super::analysis::{Plan, bind, bind_key};
use super::rows::{Difference, Part, Pass, ResultRows};
use super::shape::Join;
use super::wanted::{Changed, Extent, worth_of_keys};
use super::{identity, line};
use crate::store::{QueryError, trouble};

/// The rows of one query may take this much memory: about a million rows of an ordinary table. Beyond it the query ends.
const RESULT_BYTES: usize = 256 << 20;

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
    /// SQLite stumbles over the file; the message is SQLite's.
    #[error("{0}")]
    Malformed(String),
    /// SQLite failed; the message is SQLite's.
    #[error("{0}")]
    Sql(String),
}

impl From<rusqlite::Error> for LookError {
    fn from(error: rusqlite::Error) -> Self {
        match trouble(&error) {
            QueryError::Malformed(detail) => Self::Malformed(detail),
            _ => Self::Sql(error.to_string()),
        }
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

/// Runs what is wanted of the query and returns what differs. Everything is read from one snapshot, which `extent` is told
/// the commit of before it says what to look at. Blocking.
pub(super) fn look(
    conn: &mut Connection,
    plan: &Plan,
    extent: impl FnOnce(u64, &ResultRows) -> Extent,
    rows: &mut ResultRows,
    leash: &Leash,
) -> Result<Vec<Difference>, LookError> {
    leash.tie(conn)?;
    let looked = run(conn, plan, extent, rows);
    untie(conn)?;
    looked
}

fn run(
    conn: &Connection,
    plan: &Plan,
    extent: impl FnOnce(u64, &ResultRows) -> Extent,
    rows: &mut ResultRows,
) -> Result<Vec<Difference>, LookError> {
    // A statement that has begun holds the connection's snapshot for those that follow.
    let mut held = conn.prepare_cached("SELECT commits FROM __kith_meta")?;
    let mut snapshot = held.query([])?;
    let commit: i64 = snapshot.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?.get(0)?;
    let (extent, most) = (extent(commit.cast_unsigned(), rows), worth_of_keys(rows.len()));
    let began = Instant::now();
    let mut pass = rows.look();
    match extent {
        Extent::Keys(keys) => match look_at(conn, plan, &keys, most, &mut pass)? {
            Met::RowsOf(parts) => {
                let differences = pass.end_of_parts(&parts);
                (rows.took, rows.whole) = (began.elapsed(), false);
                return Ok(differences);
            }
            // Those that were met are met again below, and as the same: it is one snapshot.
            Met::TooFew => {}
        },
        Extent::All => {}
    }
    let mut statement = prepare(conn, plan, &plan.all)?;
    meet(&mut statement, plan, &mut pass)?;
    let differences = pass.end_of_all();
    (rows.took, rows.whole_took, rows.whole) = (began.elapsed(), began.elapsed(), true);
    Ok(differences)
}

/// Which result rows were met.
enum Met {
    /// All that are made of these.
    RowsOf(BTreeSet<Part>),
    /// Not all that the keys concern, which are too many to look at one by one.
    TooFew,
}

/// Meets all result rows that these keys may concern, unless that takes a look at more rows of the first table than `most`:
/// one row that many others join may concern all of a result.
fn look_at(conn: &Connection, plan: &Plan, keys: &Changed, most: usize, pass: &mut Pass<'_>) -> Result<Met, LookError> {
    let (mut looked, mut firsts) = (BTreeSet::new(), BTreeSet::new());
    for (at, table) in plan.parts.iter().enumerate() {
        let Some(keys) = keys.get(&table.table) else { continue };
        let mut statement = prepare(conn, plan, &plan.of_part(at))?;
        for key in keys {
            let values = key.decode().map_err(|error| LookError::Sql(error.to_string()))?;
            let part = (at, part_of(values.iter().map(line::borrowed)));
            bind_key(&mut statement, &values)?;
            match table.join {
                Join::Inner => {
                    meet(&mut statement, plan, pass)?;
                    looked.insert(part);
                }
                // What is, or was, made of this row may be made of none in its place, or have been.
                Join::Left => {
                    firsts.extend(pass.with_part(&part).iter().filter_map(|identity| first_part(identity)));
                    each(&mut statement, plan, |row| {
                        firsts.extend(first_part(&identity_of(plan, row)?));
                        Ok(if firsts.len() > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                    })?;
                    if firsts.len() > most {
                        return Ok(Met::TooFew);
                    }
                }
            }
        }
    }
    if !firsts.is_empty() {
        let mut statement = prepare(conn, plan, &plan.of_part(0))?;
        for part in firsts.into_iter().map(|first| (0, first)) {
            if !looked.contains(&part) {
                bind_key(&mut statement, &identity::values(&part.1))?;
                meet(&mut statement, plan, pass)?;
                looked.insert(part);
            }
        }
    }
    Ok(Met::RowsOf(looked))
}

fn prepare<'c>(conn: &'c Connection, plan: &Plan, sql: &str) -> Result<CachedStatement<'c>, LookError> {
    let mut statement = conn.prepare_cached(sql)?;
    bind(&mut statement, &plan.params).map_err(|error| LookError::Sql(error.to_string()))?;
    Ok(statement)
}

/// Feeds every row of a bound statement to the pass.
fn meet(statement: &mut CachedStatement<'_>, plan: &Plan, pass: &mut Pass<'_>) -> Result<(), LookError> {
    let mut cells = Vec::new();
    each(statement, plan, |row| {
        cells.clear();
        push_cells(&mut cells, row, plan.columns.len())?;
        if plan.parts.is_empty() {
            pass.row(None, &cells);
        } else {
            pass.row(Some(&identity_of(plan, row)?), &cells);
        }
        if pass.bytes() > RESULT_BYTES { Err(LookError::TooLarge) } else { Ok(ControlFlow::Continue(())) }
    })
}

/// Every row of a bound statement, until one is enough.
fn each(
    statement: &mut CachedStatement<'_>,
    plan: &Plan,
    mut take: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>, LookError>,
) -> Result<(), LookError> {
    let columns = plan.columns.len() + plan.parts.iter().map(|part| part.columns).sum::<usize>();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        // SQLite prepares a statement again by itself when the schema has changed under it.
        if row.as_ref().column_count() != columns {
            return Err(LookError::Drift);
        }
        if take(row)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The keys of all tables, which follow the selected columns.
fn identity_of(plan: &Plan, row: &Row<'_>) -> rusqlite::Result<Vec<u8>> {
    let (mut out, mut at) = (Vec::with_capacity(32), plan.columns.len());
    for part in &plan.parts {
        let key = (at..at + part.columns).map(|column| row.get_ref(column));
        identity::push_part(&mut out, key.collect::<rusqlite::Result<Vec<_>>>()?.into_iter());
        at += part.columns;
    }
    Ok(out)
}

fn part_of<'v>(key: impl Iterator<Item = ValueRef<'v>>) -> Vec<u8> {
    let mut part = Vec::with_capacity(32);
    identity::push_part(&mut part, key);
    part
}

/// A plain query without RIGHT or FULL JOIN has a row of its first table in every result row.
fn first_part(identity: &[u8]) -> Option<Vec<u8>> {
    identity::parts(identity).next().map(<[u8]>::to_vec)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kith_gossip_proto::{Key, Value};

    use super::super::analysis::Part as TablePart;
    use super::super::shape::Reach;
    use super::*;
    use crate::store::Params;

    fn part(table: &str, join: Join) -> TablePart {
        TablePart { table: table.into(), columns: 1, join }
    }

    /// Every row of `a`, with that of `b` which it names.
    fn plan() -> Plan {
        Plan {
            identity: String::new(),
            columns: vec!["id".to_owned(), "v".to_owned()],
            all: "SELECT a.id, b.v, a.id AS \"__kith_key_0\", b.k AS \"__kith_key_1\"
                FROM a LEFT JOIN b ON b.k = a.b"
                .to_owned(),
            parts: vec![part("a", Join::Inner), part("b", Join::Left)],
            reach: Reach::Own,
            reads: [].into(),
            equal: vec![],
            params: Params::None,
        }
    }

    #[test]
    fn a_row_that_very_many_others_join_is_no_reason_to_look_at_each_of_them() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE __kith_meta (commits); INSERT INTO __kith_meta VALUES (1);
             CREATE TABLE a (id INTEGER PRIMARY KEY, b); CREATE TABLE b (k INTEGER PRIMARY KEY, v);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                INSERT INTO a SELECT i, min(i, 1995) FROM n;",
        )
        .unwrap();
        let (plan, mut rows, leash) = (plan(), ResultRows::default(), Leash::default());
        let mut looked = |conn: &mut Connection, sql: &str, extent: Extent| {
            conn.execute_batch(sql).unwrap();
            rows.whole_took = Duration::ZERO;
            let differences = look(conn, &plan, |_, _| extent, &mut rows, &leash).unwrap();
            (differences.len(), rows.whole_took > Duration::ZERO)
        };
        let key = |k| {
            let key = Key::encode([&Value::Integer(k)]).unwrap();
            Extent::Keys([("b".into(), [key].into())].into())
        };
        assert_eq!(looked(&mut conn, "", Extent::All), (2_000, true));
        assert_eq!(looked(&mut conn, "INSERT INTO b VALUES (1995, 'x')", key(1_995)), (12, false), "few are looked at");
        conn.execute_batch("UPDATE a SET b = 1995 WHERE id > 100").unwrap();
        assert_eq!(looked(&mut conn, "UPDATE b SET v = 'y'", key(1_995)), (3_794, true), "many are not");
        assert_eq!(looked(&mut conn, "DELETE FROM b", key(1_995)), (3_800, true), "nor where the result knows them");
    }
}
