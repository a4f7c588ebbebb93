//! Conditions `column = constant` that every row of a result meets, so that a changed row with other values is none of its
//! business.
//!
//! SQLite compares in surprising ways: `'1'` equals 1 in an INTEGER column, 1 equals 1.0, and `'A'` may equal `'a'`. A
//! condition counts only where the column can hold exactly one value that equals the constant; every other is left to the
//! query itself.

use kith_gossip_proto::{Name, Value};
use rusqlite::Connection;

use crate::store::{Affinity, Table};

/// Whole numbers below this are stored in a numeric column as integers, however they are written: SQLite turns a float into
/// an integer if it is whole and within 51 bits.
const WHOLE_MAX: i64 = 1 << 51;

/// A condition as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// The table's label, unquoted; without one there is only one table.
    pub(super) label: Option<String>,
    pub(super) column: String,
    pub(super) constant: Value,
}

/// A condition that holds exactly for the rows with this value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Equality {
    pub(super) table: Name,
    pub(super) column: Name,
    pub(super) value: Value,
}

impl Equality {
    /// What the condition says of the table, if that is one value.
    pub(super) fn proven(conn: &Connection, table: &Table, written: &Written) -> Option<Self> {
        let at = table.columns.iter().position(|known| known.as_str().eq_ignore_ascii_case(&written.column))?;
        let column = table.columns[at].clone();
        let exact = match (&written.constant, table.affinity[at]) {
            (Value::Integer(number), Affinity::Numeric) => number.abs() < WHOLE_MAX,
            (Value::Text(_), Affinity::Text | Affinity::Blob) => is_binary(conn, &table.name, &column),
            (Value::Null | Value::Integer(_) | Value::Real(_) | Value::Text(_) | Value::Blob(_), _) => false,
        };
        exact.then(|| Self { table: table.name.clone(), column, value: written.constant.clone() })
    }
}

/// Whether texts in a column are equal only if their bytes are.
fn is_binary(conn: &Connection, table: &Name, column: &Name) -> bool {
    let found = conn.column_metadata(Some("main"), table.as_str(), column.as_str());
    found.is_ok_and(|(_, collation, ..)| collation.is_some_and(|name| name.to_bytes().eq_ignore_ascii_case(b"BINARY")))
}
