//! A version: one transaction of one site, as it travels.

use std::collections::BTreeMap;

use crate::{Cell, Hlc, Key, Name, Row, SiteId, Stamp, Value, Vector};

/// One transaction: a record per row it changed, taken at commit.
///
/// A version is applied whole, after all earlier versions of its site and once the receiver's heads cover
/// [`Version::needs`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Who committed it.
    pub site: SiteId,
    /// Its number among the site's, from 1, without holes.
    pub version: u64,
    /// When, by the site's hybrid logical clock. One reading for the whole transaction.
    pub hlc: Hlc,
    /// One per changed row; the position is the `seq` of the row's stamp.
    pub changes: Vec<Change>,
}

/// What a version did to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The row's table.
    pub table: Name,
    /// The row's primary key.
    pub key: Key,
    /// The row's causal length after the change.
    pub cl: u64,
    /// What happened to the row as such.
    pub life: Life,
    /// The cells written: all stamped columns for a create, the differing ones for an update, none for a delete.
    pub cells: BTreeMap<Name, Value>,
}

/// Which change the row's own stamp comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// This one: the row was created (odd causal length) or deleted (even).
    Changed,
    /// An earlier one: the row was updated. The receiver must have applied that version, or it would show a row that has
    /// only the cells of this update.
    Since(Stamp),
}

impl Change {
    /// What [`Row::join`] takes of it.
    pub fn row(&self, stamp: Stamp) -> Row {
        let rs = match self.life {
            Life::Changed => stamp,
            Life::Since(rs) => rs,
        };
        let cell = |(column, value): (&Name, &Value)| (column.clone(), Cell { stamp, value: value.clone() });
        Row { cl: self.cl, rs, cells: self.cells.iter().map(cell).collect() }
    }
}

impl Version {
    /// The stamp of this version's `seq`-th change.
    pub fn stamp(&self, seq: u32) -> Stamp {
        Stamp { hlc: self.hlc, site: self.site, version: self.version, seq }
    }

    /// The changes as what [`Row::join`] takes, each with its stamp.
    pub fn rows(&self) -> impl Iterator<Item = (&Change, Row)> + '_ {
        self.changes.iter().zip(0..).map(|(change, seq)| (change, change.row(self.stamp(seq))))
    }

    /// The heads a receiver must have before it applies this version: its site's previous version, and the versions that
    /// created the rows it updates.
    pub fn needs(&self) -> Vector {
        let own = (self.site, self.version.saturating_sub(1));
        let rows = self.changes.iter().filter_map(|change| match change.life {
            Life::Changed => None,
            Life::Since(rs) if rs.site == self.site => None,
            Life::Since(rs) => Some((rs.site, rs.version)),
        });
        rows.chain([own]).collect()
    }

    /// About how many bytes of memory the version takes, for what bounds queues of versions.
    pub fn size(&self) -> usize {
        let value = |value: &Value| match value {
            Value::Null | Value::Integer(_) | Value::Real(_) => 0,
            Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
        };
        let cells = |change: &Change| change.cells.values().map(|v| CELL_BYTES + value(v)).sum::<usize>();
        let change = |change: &Change| size_of::<Change>() + change.key.as_bytes().len() + cells(change);
        size_of::<Self>() + self.changes.iter().map(change).sum::<usize>()
    }
}

/// A column's entry in the ordered map of a change, with its share of the map's nodes.
const CELL_BYTES: usize = size_of::<(Name, Value)>() * 3 / 2;
