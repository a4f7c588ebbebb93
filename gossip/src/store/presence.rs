//! Which rows are there.

use kith_gossip_proto::Key;
use rusqlite::{Connection, params_from_iter};

use super::statement::Sql;
use super::table::Table;

/// Whether a table has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has.
    Here,
    /// It has not, or no longer.
    Gone,
}

pub(crate) fn of(conn: &Connection, table: &Table, keys: Vec<Key>) -> rusqlite::Result<Vec<(Key, Presence)>> {
    let mut statement = conn.prepare_cached(&table.sql.there)?;
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let values = key.decode().ok().filter(|values| values.len() == table.key.len());
        let here = match values {
            Some(values) => statement.query_row(params_from_iter(values.iter().map(Sql)), |row| row.get(0))?,
            None => false,
        };
        found.push((key, if here { Presence::Here } else { Presence::Gone }));
    }
    Ok(found)
}
