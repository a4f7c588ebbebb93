//! From the tables that are to those that are declared, by additions only.
//!
//! A column that is no longer declared stays where it is, and is still replicated: another node may still write it. What
//! cannot be reached by adding is refused, and then nothing is changed.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::error::SchemaError;
use super::outline;
use super::schema::{ColumnDef, Declared, InKey, Kind, TableDef, define};
use super::stamps::COLUMNS_MAX;
use super::table::{quote, rows_of, tombs_of};

/// Whether a migration is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Migration {
    Kept,
    /// Run to see what it would do, and rolled back.
    Tried,
}

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize)]
pub struct Migrated {
    /// Tables that were not there before.
    pub tables: Vec<String>,
    /// Columns that were not there before, as `table.column`.
    pub columns: Vec<String>,
    /// Indexes that were made, or made anew because their declaration changed.
    pub indexes: Vec<String>,
}

impl Migrated {
    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.columns.is_empty() && self.indexes.is_empty()
    }
}

/// Makes the database hold what is declared. Runs within the caller's transaction, which an error must roll back.
pub(crate) fn migrate(conn: &Connection, declared: &Declared) -> Result<Migrated, SchemaError> {
    let mut done = Migrated::default();
    for table in &declared.tables {
        if exists(conn, "table", &table.name)? {
            extend(conn, table, &mut done)?;
        } else {
            conn.execute_batch(&table.sql)?;
            done.tables.push(table.name.clone());
        }
        enrol(conn, &table.name)?;
    }
    for index in &declared.indexes {
        let known: Option<String> = conn
            .query_row("SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?1", [&index.name], |row| {
                row.get(0)
            })
            .optional()?;
        if known.as_deref().is_some_and(|known| without_if(known) == without_if(&index.sql)) {
            continue;
        }
        conn.execute_batch(&format!("DROP INDEX IF EXISTS {}", quote(&index.name)))?;
        conn.execute_batch(&index.sql).map_err(|error| SchemaError::Syntax {
            origin: index.origin.clone(),
            message: super::error::text(&error),
        })?;
        done.indexes.push(index.name.clone());
    }
    outline::seal(conn)?;
    Ok(done)
}

fn exists(conn: &Connection, kind: &str, name: &str) -> rusqlite::Result<bool> {
    conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = ?1 AND name = ?2 COLLATE NOCASE)",
        [kind, name],
        |row| row.get(0),
    )
}

/// SQLite keeps an index's text without IF NOT EXISTS.
fn without_if(sql: &str) -> String {
    let words: Vec<_> = sql.split_whitespace().collect();
    words.join(" ").to_ascii_lowercase().replacen("if not exists ", "", 1)
}

/// Adds the columns that a table lacks.
fn extend(conn: &Connection, wanted: &TableDef, done: &mut Migrated) -> Result<(), SchemaError> {
    let refuse =
        |subject: String, reason: String| Err(SchemaError::Refused { origin: wanted.origin.clone(), subject, reason });
    let live = define(conn, &wanted.origin, &wanted.name)?;
    if live.name != wanted.name {
        let reason = format!("it exists as {}: spell it alike", live.name);
        return refuse(format!("table {}", wanted.name), reason);
    }
    if live.shape != wanted.shape {
        let reason =
            format!("it exists with ({}), and is declared with ({}): this cannot be changed", live.shape, wanted.shape);
        return refuse(format!("table {}", wanted.name), reason);
    }
    for column in &wanted.columns {
        let subject = || format!("table {}, column {}", wanted.name, column.name);
        match live.columns.iter().find(|known| known.name.eq_ignore_ascii_case(&column.name)) {
            Some(known) if known.agrees(column) => {}
            Some(known) => {
                let reason = format!(
                    "it exists as {}, and is declared as {}: add a column instead",
                    known.definition, column.definition
                );
                return refuse(subject(), reason);
            }
            None => {
                if column.kind == Kind::Stored && !can_be_added(column) {
                    return refuse(subject(), "a column that is added must be nullable or have a DEFAULT".to_owned());
                }
                let sql = format!("ALTER TABLE {} ADD COLUMN {}", quote(&wanted.name), column.definition);
                conn.execute_batch(&sql).map_err(|error| SchemaError::Syntax {
                    origin: format!("{}: table {}, column {}", wanted.origin, wanted.name, column.name),
                    message: super::error::text(&error),
                })?;
                done.columns.push(format!("{}.{}", wanted.name, column.name));
            }
        }
    }
    // SQLite has the last word on what was added.
    let reached = define(conn, &wanted.origin, &wanted.name)?;
    for column in &wanted.columns {
        if !reached.columns.iter().any(|known| known.agrees(column)) {
            return refuse(
                format!("table {}, column {}", wanted.name, column.name),
                "it could not be added as declared".to_owned(),
            );
        }
    }
    Ok(())
}

fn can_be_added(column: &ColumnDef) -> bool {
    let definition = column.definition.to_ascii_uppercase();
    column.in_key == InKey::No && (!definition.contains("NOT NULL") || definition.contains("DEFAULT"))
}

/// Gives a table and its columns their numbers, and the tables that stand beside it.
fn enrol(conn: &Connection, name: &str) -> Result<(), SchemaError> {
    let id: i64 = conn.query_row(
        "INSERT INTO __kith_table (name, live) VALUES (?1, 1) ON CONFLICT (name) DO UPDATE SET live = 1 RETURNING tid",
        [name],
        |row| row.get(0),
    )?;
    let without_rowid: bool =
        conn.query_row("SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1", [name], |row| {
            row.get(0)
        })?;
    let (rows, tombs) = (quote(&rows_of(&name.into())), quote(&tombs_of(&name.into())));
    let (place, kind) = if without_rowid { ("BLOB", " WITHOUT ROWID") } else { ("INTEGER", "") };
    conn.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {rows} (k {place} NOT NULL PRIMARY KEY, st BLOB NOT NULL){kind};
         CREATE TABLE IF NOT EXISTS {tombs} (pk BLOB NOT NULL PRIMARY KEY, st BLOB NOT NULL) WITHOUT ROWID;"
    ))?;
    let mut known = BTreeMap::<String, i64>::new();
    let mut statement = conn.prepare("SELECT name, cid FROM __kith_col WHERE tid = ?1")?;
    let mut found = statement.query([id])?;
    while let Some(row) = found.next()? {
        known.insert(row.get(0)?, row.get(1)?);
    }
    let mut statement =
        conn.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0 AND pk = 0 ORDER BY cid")?;
    let columns: Vec<String> = statement.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for column in columns.iter().filter(|column| !known.contains_key(*column)).collect::<Vec<_>>() {
        let next = known.values().max().map_or(0, |last| last + 1);
        if next >= i64::try_from(COLUMNS_MAX).expect("128 is a small number") {
            return Err(SchemaError::Refused {
                origin: "the schema".to_owned(),
                subject: format!("table {name}"),
                reason: format!("{COLUMNS_MAX} columns beside the key is the most a table can have, in all its life"),
            });
        }
        conn.execute("INSERT INTO __kith_col (tid, cid, name) VALUES (?1, ?2, ?3)", params![id, next, column])?;
        known.insert(column.clone(), next);
    }
    Ok(())
}
