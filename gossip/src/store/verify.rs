//! Recomputes what the ledger keeps, from the rows; and looks at each row whether it is what was written.

use std::collections::BTreeSet;

use kith_gossip_proto::buckets::{Bucket, Buckets};
use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::{Digest, Digests, Key, Name, Part, Stamp, Vector};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row as Found, params};

use super::error::QueryError;
use super::ledger::{Spot, readable, signed};
use super::read::trouble;
use super::snapshot::{Snapshot, key};
use super::stamps::Stamps;
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
    /// The latest of them.
    pub newest: Option<Stamp>,
    /// The heads of the read snapshot that all of it is of.
    pub heads: Vector,
    /// The digests, summed anew.
    pub digests: Digests,
    /// The same by bucket.
    pub buckets: Buckets,
    /// Buckets of rows that are not what was written, and of rows whose state cannot be read, which count in no sum.
    pub broken: BTreeSet<Bucket>,
    /// One sentence per contradiction, the first hundred. Empty in a sound store.
    pub wrong: Vec<String>,
    /// Those of them over which SQLite itself stumbles.
    pub malformed: Vec<String>,
    /// Tables whose indexes are not what they say.
    pub indexes: BTreeSet<Name>,
    /// Whether the log lists exactly the stamps of the rows.
    pub(crate) log: Log,
}

/// Whether the log lists exactly the stamps of the rows, each where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Log {
    #[default]
    Right,
    Wrong,
}

/// What stores compare when their rows may differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The heads of the read snapshot that the rest is of.
    pub heads: Vector,
    /// The digests of the buckets.
    pub buckets: Buckets,
    /// Buckets of rows that are not what was written.
    pub broken: BTreeSet<Bucket>,
    /// Tables whose indexes are not what they say.
    pub indexes: BTreeSet<Name>,
    /// The first thing that is wrong, if anything is.
    pub wrong: Option<String>,
}

impl From<Findings> for Survey {
    fn from(found: Findings) -> Self {
        let Findings { heads, buckets, broken, indexes, wrong, .. } = found;
        Self { heads, buckets, broken, indexes, wrong: wrong.into_iter().next() }
    }
}

/// Whether the indexes are held against their tables, which takes about as long as all the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Indexes {
    Checked,
    Trusted,
}

pub(crate) fn verify(conn: &Connection, indexes: Indexes) -> Result<Findings, QueryError> {
    Snapshot::begin(conn).and_then(|snapshot| examine(&snapshot, indexes)).map_err(|error| trouble(&error))
}

pub(crate) fn examine(snapshot: &Snapshot<'_>, indexes: Indexes) -> rusqlite::Result<Findings> {
    let mut found = Findings { heads: Vector::clone(snapshot.ledger.sites.heads()), ..Findings::default() };
    for table in snapshot.tables.iter() {
        live_rows(snapshot, table, &mut found)?;
        tombstones(snapshot, table, &mut found)?;
        match indexes {
            Indexes::Checked => found.indexes_of(snapshot.conn, table)?,
            Indexes::Trusted => {}
        }
    }
    set_aside(snapshot, &mut found)?;
    let listed = snapshot.conn.query_row("SELECT count(*) FROM __kith_log", [], |row| row.get::<_, i64>(0))?;
    if listed.cast_unsigned() != found.stamps {
        found.log(format!("the log lists {listed} stamps, and the rows carry {}", found.stamps));
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

    fn log(&mut self, finding: String) {
        self.log = Log::Wrong;
        self.wrong(finding);
    }

    /// A row that is not what was written.
    fn broken(&mut self, table: &Table, key: &Key, what: &str) {
        self.broken.insert(Bucket::of(&table.name, key));
        self.wrong(format!("{} {key:?}: {what}", table.name));
    }

    /// Takes a row and the sum of its terms into the sums, and looks its stamps up in the log and the heads.
    fn take(
        &mut self,
        snapshot: &Snapshot<'_>,
        (table, spot): (i64, &Spot),
        row: &PulledRow,
        terms: Digest,
    ) -> rusqlite::Result<()> {
        self.digests.add(Part::of(row.row.cl, row.row.rs), terms);
        self.buckets.add(Bucket::of(&row.table, &row.key), terms);
        let mut log = snapshot
            .conn
            .prepare_cached("SELECT tid = ?4 AND k = ?5 FROM __kith_log WHERE site = ?1 AND ver = ?2 AND seq = ?3")?;
        for stamp in row.row.stamps() {
            self.stamps += 1;
            self.newest = self.newest.max(Some(stamp));
            let at = params![snapshot.ledger.sites.ord(stamp.site), signed(stamp.version), stamp.seq, table, spot];
            match log.query_row(at, |row| row.get::<_, bool>(0)).optional()? {
                Some(true) => {}
                Some(false) => self.log(format!("{} {:?}: the log has {stamp:?} elsewhere", row.table, row.key)),
                None => self.log(format!("{} {:?}: the log lacks {stamp:?}", row.table, row.key)),
            }
            if stamp.version > snapshot.ledger.sites.heads().head(stamp.site) {
                self.wrong(format!("{} {:?}: {stamp:?} is above its site's head", row.table, row.key));
            }
        }
        Ok(())
    }

    /// A query that goes by an index believes it, so a flipped bit in one hides a row.
    fn indexes_of(&mut self, conn: &Connection, table: &Table) -> rusqlite::Result<()> {
        let mut statement = conn.prepare("SELECT integrity_check FROM pragma_integrity_check(?1)")?;
        let verdicts = statement.query_map([table.name.as_str()], |row| row.get::<_, String>(0))?;
        for verdict in verdicts {
            let verdict = verdict?;
            if verdict != "ok" {
                let finding = format!("table {}: {}", table.name, verdict.replace('\n', " "));
                if !is_of_structure(&verdict) {
                    self.indexes.insert(table.name.clone());
                } else if self.malformed.is_empty() {
                    self.malformed.push(finding.clone());
                }
                self.wrong(finding);
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
        stamped += i64::from(live_row(snapshot, table, row, found)? == Stamped::Yes);
    }
    let sql = format!("SELECT count(*) FROM {}", quote(&rows_of(&table.name)));
    let kept: i64 = snapshot.conn.query_row(&sql, [], |row| row.get(0))?;
    if kept != stamped {
        found.wrong(format!("table {}: {kept} rows have stamps, and {stamped} of them are there", table.name));
    }
    Ok(())
}

/// Whether there is something where the stamps of a row belong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stamped {
    Yes,
    No,
}

fn live_row(
    snapshot: &Snapshot<'_>,
    table: &Table,
    row: &Found<'_>,
    found: &mut Findings,
) -> rusqlite::Result<Stamped> {
    let values = table.values(row, 1)?;
    let key = match table.key_of(&values) {
        Ok(key) => key,
        Err(error) => {
            found.wrong(format!("table {}: a row's key is unsound: {error}", table.name));
            return Ok(Stamped::No);
        }
    };
    found.rows += 1;
    let spot = if table.by_key() { Spot::Key(key.clone()) } else { Spot::Row(row.get(0)?) };
    let stamps = match readable(snapshot.ledger.stamps(snapshot.conn, table, &spot))? {
        Some(Some(stamps)) => stamps,
        Some(None) => {
            found.broken(table, &key, "the row has no stamps");
            return Ok(Stamped::No);
        }
        None => {
            found.broken(table, &key, "the stamps of the row are damaged");
            return Ok(Stamped::Yes);
        }
    };
    let terms = table.terms(&key, &stamps, &values);
    if !stamps.is_sealed(terms) {
        found.broken(table, &key, "the row is not what was written");
    }
    if !stamps.is_alive() {
        found.broken(table, &key, &format!("the row is there, and its causal length is {}", stamps.cl));
    }
    if stamps.mask() & !table.mask() != 0 {
        found.broken(table, &key, "a stamp is of a column that is not there");
    }
    if readable(snapshot.ledger.tomb(snapshot.conn, table, &key))?.is_none_or(|tomb| tomb.is_some()) {
        found.broken(table, &key, "the row is there, and has a tombstone");
    }
    match readable(snapshot.assemble(table, &stamps, values))? {
        Some(row) => {
            let aside = snapshot.ledger.aside.contains_key(&table.id);
            let terms = if aside { Digest::of(&row.table, &row.key, &row.row) } else { terms };
            found.take(snapshot, (table.id, &spot), &row, terms)?;
        }
        None => found.broken(table, &key, "what is set aside of the row is damaged"),
    }
    Ok(Stamped::Yes)
}

fn tombstones(snapshot: &Snapshot<'_>, table: &Table, found: &mut Findings) -> rusqlite::Result<()> {
    let sql = format!("SELECT pk, st FROM {}", quote(&tombs_of(&table.name)));
    let mut statement = snapshot.conn.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(key) = key(row.get_ref(0)?) else {
            found.wrong(format!("table {}: the key of a tombstone is unsound", table.name));
            continue;
        };
        found.tombstones += 1;
        let Some(stamps) = readable(snapshot.ledger.unpack(row.get_ref(1)?))? else {
            found.broken(table, &key, "the stamps of a tombstone are damaged");
            continue;
        };
        if stamps.is_alive() || stamps.mask() != 0 {
            found.broken(table, &key, "a tombstone says that the row is alive");
        }
        let terms = Digest::row(&table.name, &key, stamps.cl, stamps.rs());
        if !stamps.is_sealed(terms) {
            found.broken(table, &key, "the tombstone is not what was written");
        }
        let row = kith_gossip_proto::Row::tombstone(stamps.cl, stamps.rs());
        let spot = Spot::Key(key.clone());
        found.take(snapshot, (table.id, &spot), &PulledRow { table: table.name.clone(), key, row }, terms)?;
    }
    Ok(())
}

/// Whether a tombstone is what was written.
pub(crate) fn is_sealed(table: &Table, key: &Key, tomb: &Stamps) -> bool {
    tomb.is_sealed(Digest::row(&table.name, key, tomb.cl, tomb.rs()))
}

/// Whether a verdict of SQLite's is about its pages, and not about what they hold: a row that an index lacks, a value of
/// another type than the column's.
fn is_of_structure(verdict: &str) -> bool {
    verdict.lines().any(|line| ["Tree ", "Page ", "Freelist"].iter().any(|what| line.starts_with(what)))
}

/// Cells of live rows that are set aside came with their rows.
fn set_aside(snapshot: &Snapshot<'_>, found: &mut Findings) -> rusqlite::Result<()> {
    let mut statement = snapshot.conn.prepare("SELECT DISTINCT tid, pk FROM __kith_unknown")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let Some(key) = key(row.get_ref(1)?) else {
            found.wrong("the key of a row that is set aside is unsound".to_owned());
            continue;
        };
        match readable(snapshot.ledger.aside(snapshot.conn, id, &key))? {
            Some(aside) if aside.own.is_none() => continue,
            Some(_) => {}
            None => {
                found.wrong(format!("what is set aside of {key:?} is damaged"));
                continue;
            }
        }
        found.set_aside += 1;
        match readable(snapshot.at(id, ValueRef::Blob(key.as_bytes())))?.flatten() {
            Some(row) => {
                let terms = Digest::of(&row.table, &row.key, &row.row);
                found.take(snapshot, (id, &Spot::Key(key)), &row, terms)?;
            }
            None => found.wrong(format!("{key:?} is set aside of a table without a name")),
        }
    }
    Ok(())
}
