//! Columns whose cells somebody wants to see in commits, as they were and as they are.
//!
//! Whoever follows queries of the form `column = constant` watches those columns, and finds the queries that a commit may
//! concern by the values in it, instead of asking each. What nobody watches costs nothing.

use std::collections::{BTreeMap, BTreeSet};

use kith_gossip_proto::{Key, Name, Value};

use super::capture::weight;
use super::table::Table;

/// The columns, by table.
pub(crate) type Watched = BTreeMap<Name, BTreeSet<Name>>;

/// Pairs of values and keys that one commit lists of a column; beyond it the commit says nothing of the column.
const CELLS_MAX: usize = 2_048;

/// A longer value is not listed: commits are kept in memory for those who are behind.
const VALUE_BYTES_MAX: usize = 256;

/// What one row held and holds in its table's watched columns.
#[derive(Debug, Default)]
pub(crate) struct Images {
    values: Vec<(Name, Vec<Value>)>,
}

/// The values of one column in changed rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cells {
    rows: usize,
    listed: usize,
    by_value: Listing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Listing {
    These(BTreeMap<Value, BTreeSet<Key>>),
    Many,
}

impl Images {
    /// Of a row that was `old` and is `new`; either may be no row. Both have the values of all columns, in the table's order.
    pub(crate) fn of(watched: &Watched, table: &Table, old: Option<&[Value]>, new: Option<&[Value]>) -> Self {
        let Some(columns) = watched.get(&table.name) else { return Self::default() };
        let image = |column: &Name| {
            let at = table.columns.iter().position(|known| known == column)?;
            let mut values: Vec<Value> = [old, new].into_iter().flatten().map(|row| row[at].clone()).collect();
            values.dedup();
            Some((column.clone(), values))
        };
        Self { values: columns.iter().filter_map(image).collect() }
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = (&Name, &[Value])> {
        self.values.iter().map(|(column, values)| (column, &values[..]))
    }
}

impl Default for Cells {
    fn default() -> Self {
        Self { rows: 0, listed: 0, by_value: Listing::These(BTreeMap::new()) }
    }
}

impl Cells {
    pub(crate) fn row(&mut self, key: &Key, values: &[Value]) {
        self.rows += 1;
        values.iter().for_each(|value| self.list(value.clone(), key.clone()));
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        match other.by_value {
            Listing::Many => self.by_value = Listing::Many,
            Listing::These(more) => {
                for (value, keys) in more {
                    keys.into_iter().for_each(|key| self.list(value.clone(), key));
                }
            }
        }
    }

    /// The listing, if it tells of that many rows.
    pub(crate) fn of_all(&self, rows: usize) -> Option<&BTreeMap<Value, BTreeSet<Key>>> {
        match &self.by_value {
            Listing::These(values) if self.rows == rows => Some(values),
            Listing::These(_) | Listing::Many => None,
        }
    }

    fn list(&mut self, value: Value, key: Key) {
        let Listing::These(values) = &mut self.by_value else { return };
        if self.listed == CELLS_MAX || weight(&value) > VALUE_BYTES_MAX {
            self.by_value = Listing::Many;
            return;
        }
        self.listed += 1;
        values.entry(value).or_default().insert(key);
    }
}
