//! All replicated state as one read transaction shows it, row by row, in the words of the wire.

use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::{Cell, Key, Name, Row, Value};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};

use super::aside::Aside;
use super::ledger::{Ledger, Spot, damaged};
use super::merge::place_values;
use super::stamps::{Damaged, Stamps};
use super::statement::Sql;
use super::table::{Table, TableSet};
use super::verify::is_sealed;

/// A read transaction, and what it says of sites and tables. What the writer holds in memory may be newer.
pub(crate) struct Snapshot<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) ledger: Ledger,
    pub(crate) tables: TableSet,
}

impl<'a> Snapshot<'a> {
    /// Begins the transaction, which ends when the snapshot is dropped.
    pub(crate) fn begin(conn: &'a Connection) -> rusqlite::Result<Self> {
        conn.execute_batch("BEGIN")?;
        let read = Ledger::load(conn).and_then(|ledger| Ok((ledger, TableSet::load(conn)?)));
        match read {
            Ok((ledger, tables)) => Ok(Self { conn, ledger, tables }),
            Err(error) => {
                end(conn);
                Err(error)
            }
        }
    }

    /// The row that a log row points at; none when the log is wrong.
    pub(crate) fn at(&self, table: i64, k: ValueRef<'_>) -> rusqlite::Result<Option<PulledRow>> {
        let Some(spot) = Spot::read(k) else { return Ok(None) };
        match (self.tables.by_id(table), &spot) {
            (Some(table), Spot::Row(_)) => self.live(table, &spot),
            (Some(table), Spot::Key(key)) => {
                if table.by_key()
                    && let Some(found) = self.live(table, &spot)?
                {
                    return Ok(Some(found));
                }
                if let Some(tomb) = self.ledger.tomb(self.conn, table, key)? {
                    if !is_sealed(table, key, &tomb) {
                        return Err(damaged(Damaged));
                    }
                    let row = Row::tombstone(tomb.cl, tomb.rs());
                    return Ok(Some(PulledRow { table: table.name.clone(), key: key.clone(), row }));
                }
                self.set_aside(table.id, table.name.clone(), key)
            }
            (None, Spot::Key(key)) => {
                let mut statement = self.conn.prepare_cached("SELECT name FROM __kith_table WHERE tid = ?1")?;
                let name: Option<String> = statement.query_row([table], |row| row.get(0)).optional()?;
                match name {
                    Some(name) => self.set_aside(table, name.as_str().into(), key),
                    None => Ok(None),
                }
            }
            (None, Spot::Row(_)) => Ok(None),
        }
    }

    fn live(&self, table: &Table, spot: &Spot) -> rusqlite::Result<Option<PulledRow>> {
        let Some(stamps) = self.ledger.stamps(self.conn, table, spot)? else { return Ok(None) };
        let place = place_values(table, spot);
        let mut statement = self.conn.prepare_cached(&table.sql.read)?;
        let bound = rusqlite::params_from_iter(place.iter().map(Sql));
        let Some(values) = statement.query_row(bound, |row| table.values(row, 0)).optional()? else { return Ok(None) };
        // Here rows are read for peers: what a disk has changed must not get to them.
        let key = table.key_of(&values).map_err(|_| damaged(Damaged))?;
        if !stamps.is_sealed(table.terms(&key, &stamps, &values)) {
            return Err(damaged(Damaged));
        }
        self.assemble(table, &stamps, values).map(Some)
    }

    /// A live row from its values and stamps, with what is set aside of it.
    pub(crate) fn assemble(&self, table: &Table, stamps: &Stamps, values: Vec<Value>) -> rusqlite::Result<PulledRow> {
        let key = table.key_of(&values).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        let mut cells = self.ledger.aside(self.conn, table.id, &key)?.cells;
        for ((at, value), cid) in values.into_iter().enumerate().zip(&table.cid) {
            if let Some(stamp) = cid.and_then(|cid| stamps.cell(cid)) {
                cells.insert(table.columns[at].clone(), Cell { stamp, value });
            }
        }
        Ok(PulledRow { table: table.name.clone(), key, row: Row { cl: stamps.cl, rs: stamps.rs(), cells } })
    }

    fn set_aside(&self, id: i64, table: Name, key: &Key) -> rusqlite::Result<Option<PulledRow>> {
        let Aside { own, cells } = self.ledger.aside(self.conn, id, key)?;
        Ok(own.map(|(cl, rs)| PulledRow { table, key: key.clone(), row: Row { cl, rs, cells } }))
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        end(self.conn);
    }
}

fn end(conn: &Connection) {
    if let Err(error) = conn.execute_batch("ROLLBACK") {
        tracing::debug!(%error, "a read transaction had ended already");
    }
}
