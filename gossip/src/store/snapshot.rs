//! All replicated state as one read transaction shows it, row by row, in the words of the wire.

use std::ops::ControlFlow;
use std::sync::Arc;

use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::repair::Seal;
use kith_gossip_proto::{Cell, Key, Name, Row, Value};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};

use super::aside::Aside;
use super::ledger::{Ledger, Spot, damaged, readable};
use super::merge::place_values;
use super::stamps::{Damaged, Stamps};
use super::statement::Sql;
use super::table::{Table, TableSet, quote, tombs_of};
use super::verify::is_sealed;

/// A transaction, and what it says of sites and tables. What the writer holds in memory may be newer.
pub(crate) struct Snapshot<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) ledger: Ledger,
    pub(crate) tables: Arc<TableSet>,
    ends: Ends,
}

/// Who ends the transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    WithThis,
    Elsewhere,
}

impl<'a> Snapshot<'a> {
    /// Begins the transaction, which ends when the snapshot is dropped.
    pub(crate) fn begin(conn: &'a Connection) -> rusqlite::Result<Self> {
        conn.execute_batch("BEGIN")?;
        let read = Ledger::load(conn).and_then(|ledger| Ok((ledger, TableSet::load(conn)?)));
        match read {
            Ok((ledger, tables)) => Ok(Self { conn, ledger, tables: Arc::new(tables), ends: Ends::WithThis }),
            Err(error) => {
                end(conn);
                Err(error)
            }
        }
    }

    /// The writer's own view, within its transaction.
    pub(crate) fn within(conn: &'a Connection, ledger: Ledger, tables: Arc<TableSet>) -> Self {
        Self { conn, ledger, tables, ends: Ends::Elsewhere }
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

    /// The live row at a place. Rows are read for peers, and what a disk has changed must not get to them.
    pub(crate) fn live(&self, table: &Table, spot: &Spot) -> rusqlite::Result<Option<PulledRow>> {
        match self.look(table, spot)? {
            Some((_, Seal::Broken)) => Err(damaged(Damaged)),
            Some((row, Seal::Whole)) => Ok(Some(row)),
            None => Ok(None),
        }
    }

    /// The live row at a place, and whether it is what was written.
    pub(crate) fn look(&self, table: &Table, spot: &Spot) -> rusqlite::Result<Option<(PulledRow, Seal)>> {
        let Some(stamps) = self.ledger.stamps(self.conn, table, spot)? else { return Ok(None) };
        let place = place_values(table, spot);
        let mut statement = self.conn.prepare_cached(&table.sql.read)?;
        let bound = rusqlite::params_from_iter(place.iter().map(Sql));
        let Some(values) = statement.query_row(bound, |row| table.values(row, 0)).optional()? else { return Ok(None) };
        let key = table.key_of(&values).map_err(|_| damaged(Damaged))?;
        let seal = if stamps.is_sealed(table.terms(&key, &stamps, &values)) { Seal::Whole } else { Seal::Broken };
        Ok(Some((self.assemble(table, &stamps, values)?, seal)))
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

/// What to do about a row that is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Fail: whoever is given the others would think that it is not there.
    Fails,
    /// Pass over it.
    PassedOver,
}

impl Damage {
    fn met(self, read: rusqlite::Result<Option<PulledRow>>) -> rusqlite::Result<Option<PulledRow>> {
        match self {
            Self::Fails => read,
            Self::PassedOver => readable(read).map(Option::flatten),
        }
    }
}

/// Goes through all rows, tombstones and rows that are set aside, each with its table's number and its place, until it is
/// enough.
pub(crate) fn each(
    snapshot: &Snapshot<'_>,
    damage: Damage,
    mut see: impl FnMut(i64, &Spot, PulledRow) -> rusqlite::Result<ControlFlow<()>>,
) -> rusqlite::Result<()> {
    for table in snapshot.tables.iter() {
        let mut live = snapshot.conn.prepare(&table.sql.all)?;
        let mut rows = live.query([])?;
        while let Some(row) = rows.next()? {
            let spot = match (table.by_key(), table.key_of(&table.values(row, 1)?)) {
                (false, _) => Spot::Row(row.get(0)?),
                (true, Ok(key)) => Spot::Key(key),
                (true, Err(_)) => continue,
            };
            if let Some(row) = damage.met(snapshot.live(table, &spot))?
                && see(table.id, &spot, row)?.is_break()
            {
                return Ok(());
            }
        }
    }
    let mut hidden = Vec::new();
    for table in snapshot.tables.iter() {
        hidden.push((table.id, format!("SELECT pk FROM {}", quote(&tombs_of(&table.name)))));
    }
    let mut aside = snapshot.conn.prepare("SELECT DISTINCT tid FROM __kith_unknown")?;
    for id in aside.query_map([], |row| row.get::<_, i64>(0))? {
        let id = id?;
        hidden.push((id, format!("SELECT DISTINCT pk FROM __kith_unknown WHERE tid = {id} AND typeof(col) = 'blob'")));
    }
    for (id, sql) in hidden {
        let mut keys = snapshot.conn.prepare(&sql)?;
        let mut rows = keys.query([])?;
        while let Some(row) = rows.next()? {
            let Some(key) = key(row.get_ref(0)?) else { continue };
            if let Some(row) = damage.met(snapshot.at(id, ValueRef::Blob(key.as_bytes())))?
                && see(id, &Spot::Key(key), row)?.is_break()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A key as the tables keep it, if it is one.
pub(crate) fn key(bytes: ValueRef<'_>) -> Option<Key> {
    bytes.as_blob().ok().and_then(|bytes| Key::from_bytes(bytes).ok())
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        match self.ends {
            Ends::WithThis => end(self.conn),
            Ends::Elsewhere => {}
        }
    }
}

fn end(conn: &Connection) {
    if let Err(error) = conn.execute_batch("ROLLBACK") {
        tracing::debug!(%error, "a read transaction had ended already");
    }
}
