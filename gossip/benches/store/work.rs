//! The rows, and what is done to them.

use kith_gossip::store::Statement;
use kith_gossip_proto::Value;

pub(crate) const SCHEMA: &str =
    "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER, b INTEGER, c TEXT, d TEXT, e INTEGER, f INTEGER, g TEXT)";

/// Columns of the table, its key included.
pub(crate) const CELLS: usize = 8;

/// Rows of one table in every scenario.
pub(crate) const ROWS: usize = 50_000;

/// Rows of one transaction, where there are several.
pub(crate) const BATCH: usize = 100;

/// What is done to one row.
pub(crate) type Unit = fn(usize) -> Statement;

/// All rows, in transactions of `batch`.
pub(crate) fn transactions(batch: usize, statement: Unit) -> Vec<Vec<Statement>> {
    range(0, ROWS, batch, statement).collect()
}

pub(crate) fn range(first: usize, end: usize, batch: usize, statement: Unit) -> impl Iterator<Item = Vec<Statement>> {
    (first..end).step_by(batch).map(move |first| (first..end.min(first + batch)).map(statement).collect())
}

pub(crate) fn insert(n: usize) -> Statement {
    Statement::with("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values(n))
}

pub(crate) fn upsert(n: usize) -> Statement {
    Statement::with(
        "INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (id) DO UPDATE SET a = ?2, b = ?3, c = ?4, d = ?5, e = ?6, f = ?7, g = ?8",
        values(n),
    )
}

pub(crate) fn update(n: usize) -> Statement {
    Statement::with("UPDATE t SET a = a + 1 WHERE id = ?", [key(n)])
}

/// Every column but the key's.
pub(crate) fn rewrite(n: usize) -> Statement {
    Statement::with("UPDATE t SET a = -1, b = -2, c = 'c', d = 'd', e = -3, f = -4, g = 'g' WHERE id = ?", [key(n)])
}

pub(crate) fn delete(n: usize) -> Statement {
    Statement::with("DELETE FROM t WHERE id = ?", [key(n)])
}

pub(crate) fn key(n: usize) -> Value {
    Value::text(&format!("row-{n:08}"))
}

fn values(n: usize) -> [Value; CELLS] {
    let [number, text] = [Value::Integer(i64::try_from(n).unwrap()), Value::text(&format!("value {n}"))];
    [key(n), number.clone(), number.clone(), text.clone(), text.clone(), number.clone(), number, text]
}
