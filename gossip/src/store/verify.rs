//! Recomputes what the ledger keeps, from the rows.

use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::{Digest, Digests, Key, Part};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::QueryError;
use super::ledger::{Spot, signed};
use super::read::trouble;
use super::snapshot::Snapshot;
use super::table::{Table, quote, rows_of, tombs_of};

/// Findings that are told one by one; a damaged file may have as many as rows.
const WRONG_MAX: usize = 100;

/// What a store holds, and where its bookkeeping is not what its rows say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Live rows in tables.
    pub rows: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Rows that are set aside whole.
    pub set_aside: u64,
    /// Stamps that the log must list.
    pub stamps: u64,
    /// The digests, summed anew.
    pub digests: Digests,
    /// One sentence per contradiction, the first hundred. Empty in a sound store.
    pub wrong: Vec<String>,
}

pub(crate) fn verify(conn: &Connection) -> Result<Findings, QueryError> {
    Snapshot::begin(conn).and_then(|snapshot| examine(&snapshot)).map_err(|error| trouble(&error))
}

fn examine(snapshot: &Snapshot<'_>) -> rusqlite::Result<Findings> {
    let mut found = Findings::default();
    for table in snapshot.tables.iter() {
        live_rows(snapshot, table, &mut found)?;
        tombstones(snapshot, table, &mut found)?;
    }
    set_aside(snapshot, &mut found)?;
    let listed = snapshot.conn.query_row("SELECT count(*) FROM __kith_log", [], |row| row.get::<_, i64>(0))?;
    if listed.cast_unsigned() != found.stamps {
        found.wrong(format!("the log lists {listed} stamps, and the rows carry {}", found.stamps));
    }
    if snapshot.ledger.digests != found.digests {
        let (kept, rows) = (&snapshot.ledger.digests, &found.digests);
        found.wrong(format!("the digests kept are {kept:?}, and those of the rows {rows:?}"));
    }
    Ok(found)
}

impl Findings {
    /// The digest of the rows.
    pub fn digest(&self) -> Digest {
        self.digests.total()
    }

    fn wrong(&mut self, finding: String) {
        if self.wrong.len() < WRONG_MAX {
            self.wrong.push(finding);
        }
    }

    /// Takes a row into the sums, and looks its stamps up in the log and the heads.
    fn take(&mut self, snapshot: &Snapshot<'_>, table: i64, spot: &Spot, row: &PulledRow) -> rusqlite::Result<()> {
        self.digests.add(Part::of(row.row.cl, row.row.rs), Digest::of(&row.table, &row.key, &row.row));
        let mut log = snapshot
            .conn
            .prepare_cached("SELECT tid = ?4 AND k = ?5 FROM __kith_log WHERE site = ?1 AND ver = ?2 AND seq = ?3")?;
        for stamp in row.row.stamps() {
            self.stamps += 1;
            let at = params![snapshot.ledger.sites.ord(stamp.site), signed(stamp.version), stamp.seq, table, spot];
            match log.query_row(at, |row| row.get::<_, bool>(0)).optional()? {
                Some(true) => {}
                Some(false) => self.wrong(format!("{} {:?}: the log has {stamp:?} elsewhere", row.table, row.key)),
                None => self.wrong(format!("{} {:?}: the log lacks {stamp:?}", row.table, row.key)),
            }
            if stamp.version > snapshot.ledger.sites.heads().head(stamp.site) {
                self.wrong(format!("{} {:?}: {stamp:?} is above its site's head", row.table, row.key));
            }
        }
        Ok(())
    }
}

fn live_rows(snapshot: &Snapshot<'_>, table: &Table, found: &mut Findings) -> rusqlite::Result<()> {
    let mut statement = snapshot.conn.prepare(&table.sql.all)?;
    let mut rows = statement.query([])?;
    let mut stamped = 0;
    while let Some(row) = rows.next()? {
        let values = table.values(row, 1)?;
        let key = match table.key_of(&values) {
            Ok(key) => key,
            Err(error) => {
                found.wrong(format!("table {}: a row's key is unsound: {error}", table.name));
                continue;
            }
        };
        found.rows += 1;
        let spot = if table.by_key() { Spot::Key(key.clone()) } else { Spot::Row(row.get(0)?) };
        let Some(stamps) = snapshot.ledger.stamps(snapshot.conn, table, &spot)? else {
            found.wrong(format!("{} {key:?}: the row has no stamps", table.name));
            continue;
        };
        stamped += 1;
        if !stamps.is_alive() {
            found.wrong(format!("{} {key:?}: the row is there, and its causal length is {}", table.name, stamps.cl));
        }
        if stamps.mask() & !table.mask() != 0 {
            found.wrong(format!("{} {key:?}: a stamp is of a column that is not there", table.name));
        }
        if snapshot.ledger.tomb(snapshot.conn, table, &key)?.is_some() {
            found.wrong(format!("{} {key:?}: the row is there, and has a tombstone", table.name));
        }
        let row = snapshot.assemble(table, &stamps, values)?;
        found.take(snapshot, table.id, &spot, &row)?;
    }
    let sql = format!("SELECT count(*) FROM {}", quote(&rows_of(&table.name)));
    let kept: i64 = snapshot.conn.query_row(&sql, [], |row| row.get(0))?;
    if kept != stamped {
        found.wrong(format!("table {}: {kept} rows have stamps, and {stamped} of them are there", table.name));
    }
    Ok(())
}

fn tombstones(snapshot: &Snapshot<'_>, table: &Table, found: &mut Findings) -> rusqlite::Result<()> {
    let sql = format!("SELECT pk, st FROM {}", quote(&tombs_of(&table.name)));
    let mut statement = snapshot.conn.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let stamps = snapshot.ledger.unpack(row.get_ref(1)?)?;
        let Ok(key) = Key::from_bytes(&row.get::<_, Vec<u8>>(0)?) else {
            found.wrong(format!("table {}: the key of a tombstone is unsound", table.name));
            continue;
        };
        found.tombstones += 1;
        if stamps.is_alive() || stamps.mask() != 0 {
            found.wrong(format!("{} {key:?}: a tombstone says that the row is alive", table.name));
        }
        let row = kith_gossip_proto::Row::tombstone(stamps.cl, stamps.rs());
        let spot = Spot::Key(key.clone());
        found.take(snapshot, table.id, &spot, &PulledRow { table: table.name.clone(), key, row })?;
    }
    Ok(())
}

/// Cells of live rows that are set aside came with their rows.
fn set_aside(snapshot: &Snapshot<'_>, found: &mut Findings) -> rusqlite::Result<()> {
    let mut statement = snapshot.conn.prepare("SELECT DISTINCT tid, pk FROM __kith_unknown")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let Ok(key) = Key::from_bytes(&row.get::<_, Vec<u8>>(1)?) else {
            found.wrong("the key of a row that is set aside is unsound".to_owned());
            continue;
        };
        if snapshot.ledger.aside(snapshot.conn, id, &key)?.own.is_none() {
            continue;
        }
        found.set_aside += 1;
        match snapshot.at(id, rusqlite::types::ValueRef::Blob(key.as_bytes()))? {
            Some(row) => found.take(snapshot, id, &Spot::Key(key), &row)?,
            None => found.wrong(format!("{key:?} is set aside of a table without a name")),
        }
    }
    Ok(())
}
