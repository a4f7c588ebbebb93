//! Cells that no table here can take: of a table or column this node does not know, or with a value that its own rules
//! forbid. They are kept by name, merge, count in the digest and travel like others, and enter the table when they fit.

use std::collections::BTreeMap;

use kith_gossip_proto::{Cell, Digest, Key, Name, Part, Stamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};

use super::ledger::Ledger;
use super::renounce::Above;
use super::stamps::Stamps;
use super::statement::{Sql, value};

/// What is set aside of one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Aside {
    /// The row's own state, where the whole row is set aside.
    pub(crate) own: Option<(u64, Stamp)>,
    /// Cells by column.
    pub(crate) cells: BTreeMap<Name, Cell>,
}

/// The `col` of a row's own state. A blob, as names are texts: a peer may well send a column with an empty name.
const OWN_STATE: [u8; 0] = [];

impl Aside {
    pub(crate) fn is_empty(&self) -> bool {
        self.own.is_none() && self.cells.is_empty()
    }

    fn len(&self) -> u64 {
        self.cells.len() as u64 + u64::from(self.own.is_some())
    }

    /// The stamps that are set aside, each once.
    pub(crate) fn stamps(&self) -> Vec<Stamp> {
        let mut stamps: Vec<_> = self.cells.values().map(|cell| cell.stamp).chain(self.own.map(|(_, rs)| rs)).collect();
        stamps.sort_unstable();
        stamps.dedup();
        stamps
    }

    /// Puts one stamp in the place of some.
    pub(crate) fn replace(&mut self, these: &Above, stamp: Stamp) {
        let stamps = self.cells.values_mut().map(|cell| &mut cell.stamp).chain(self.own.as_mut().map(|(_, rs)| rs));
        stamps.filter(|old| these.holds(**old)).for_each(|old| *old = stamp);
    }

    /// Which part of the digest it counts in. Cells without a state of their own are a live row's.
    pub(crate) fn part(&self) -> Part {
        self.own.map_or(Part::Live, |(cl, rs)| Part::of(cl, rs))
    }

    /// The digest of all of it.
    pub(crate) fn digest(&self, table: &Name, key: &Key) -> Digest {
        let mut sum = self.own.map_or(Digest::default(), |(cl, rs)| Digest::row(table, key, cl, rs));
        for (column, cell) in &self.cells {
            sum += Digest::cell(table, key, column, &cell.value, cell.stamp);
        }
        sum
    }
}

impl Ledger {
    /// What is set aside of a row. Costs nothing for a table of which nothing is.
    pub(crate) fn aside(&self, conn: &Connection, table: i64, key: &Key) -> rusqlite::Result<Aside> {
        let mut aside = Aside::default();
        if !self.aside.contains_key(&table) {
            return Ok(aside);
        }
        let mut statement =
            conn.prepare_cached("/*kith*/ SELECT col, st, value FROM __kith_unknown WHERE tid = ?1 AND pk = ?2")?;
        let mut rows = statement.query(params![table, key.as_bytes()])?;
        while let Some(row) = rows.next()? {
            let stamps = self.unpack(row.get_ref(1)?)?;
            if let ValueRef::Blob(_) = row.get_ref(0)? {
                aside.own = Some((stamps.cl, stamps.rs()));
            } else {
                let cell = Cell { stamp: stamps.rs(), value: value(row.get_ref(2)?) };
                aside.cells.insert(row.get_ref(0)?.as_str()?.into(), cell);
            }
        }
        Ok(aside)
    }

    /// Replaces what is set aside of a row.
    pub(crate) fn set_aside(
        &mut self,
        conn: &Connection,
        table: i64,
        key: &Key,
        before: &Aside,
        after: &Aside,
    ) -> rusqlite::Result<()> {
        if before == after {
            return Ok(());
        }
        if !before.is_empty() {
            conn.prepare_cached("/*kith*/ DELETE FROM __kith_unknown WHERE tid = ?1 AND pk = ?2")?
                .execute(params![table, key.as_bytes()])?;
        }
        let mut write = conn.prepare_cached(
            "/*kith*/ INSERT INTO __kith_unknown (tid, pk, col, st, value) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        if let Some((cl, rs)) = after.own {
            let st = self.pack(&Stamps::fresh(cl, rs, 0));
            write.execute(params![table, key.as_bytes(), OWN_STATE, st, rusqlite::types::Null])?;
        }
        for (column, cell) in &after.cells {
            let st = self.pack(&Stamps::fresh(0, cell.stamp, 0));
            write.execute(params![table, key.as_bytes(), column.as_str(), st, Sql(&cell.value)])?;
        }
        let count = self.aside.entry(table).or_default();
        *count = (*count + after.len()).saturating_sub(before.len());
        if *count == 0 {
            self.aside.remove(&table);
        }
        Ok(())
    }

    /// Takes away what is set aside of a row, readable or not. Counted anew by whoever does such things.
    pub(crate) fn forget_aside(&self, conn: &Connection, table: i64, key: &Key) -> rusqlite::Result<()> {
        conn.prepare_cached("/*kith*/ DELETE FROM __kith_unknown WHERE tid = ?1 AND pk = ?2")?
            .execute(params![table, key.as_bytes()])
            .map(drop)
    }

    /// Counts what is set aside, by table.
    pub(crate) fn count_aside(conn: &Connection) -> rusqlite::Result<BTreeMap<i64, u64>> {
        let mut statement = conn.prepare("SELECT tid, count(*) FROM __kith_unknown GROUP BY tid")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
        rows.collect()
    }
}
