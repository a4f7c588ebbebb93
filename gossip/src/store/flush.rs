//! From suspects to a version: what a client's transaction changed, read from the rows as they are when it ends.
//!
//! One record per row, whatever the statements did on the way to it. A row is the same row when its key is, wherever it
//! lies: an INSERT OR REPLACE of an equal row leaves it with another rowid, which only moves its stamps and log.

use std::collections::BTreeMap;
use std::sync::Arc;

use kith_gossip_proto::{Change, Digest, Hlc, Key, Name, Part, Stamp, Value, Version, version::Life};
use rusqlite::Connection;

use super::aside::Aside;
use super::capture::{Suspects, weight};
use super::commit::Touched;
use super::error::ExecuteError;
use super::ledger::{Ledger, Spot};
use super::stamps::Stamps;
use super::statement::Sql;
use super::table::{Table, TableSet};
use super::watched::{Images, Watched};

/// Cells and tombstones one transaction may write, after coalescing.
pub(crate) const CELLS_MAX: usize = 10_000;

/// Bytes of their keys and values.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// What readers see otherwise, by table.
pub(crate) type TouchedTables = BTreeMap<Name, Touched>;

/// A row's place and values.
#[derive(Debug)]
struct Image {
    spot: Spot,
    values: Vec<Value>,
}

/// A key's row before and after the transaction.
#[derive(Debug, Default)]
struct Pair {
    old: Option<Image>,
    new: Option<Image>,
}

/// What became of a key.
#[derive(Debug)]
enum Fate {
    Moved { from: Image, to: Image },
    Created { to: Image },
    Updated { from: Image, to: Image, columns: Vec<usize> },
    Deleted { from: Image },
}

/// A transaction's changes, not yet stamped.
struct Edits<'a> {
    list: Vec<(&'a Arc<Table>, Key, Fate)>,
}

/// Stamps and logs what the suspects became. None when no row is other than it was.
pub(crate) fn flush(
    conn: &Connection,
    ledger: &mut Ledger,
    tables: &TableSet,
    watched: &Watched,
    suspects: BTreeMap<i64, Suspects>,
    wall_ms: u64,
) -> Result<Option<(Version, TouchedTables)>, ExecuteError> {
    let mut edits = Edits { list: Vec::new() };
    for (id, suspects) in suspects {
        let table = tables.by_id(id).ok_or_else(|| ExecuteError::Failed("a table is gone".to_owned()))?;
        edits.add(conn, ledger, table, suspects)?;
    }
    edits.check_size()?;
    if edits.list.is_empty() {
        return Ok(None);
    }
    let held = edits.lift(conn, ledger)?;
    // A row that only moved is no version: the clock and the number are used by the first real change.
    let mut version = Version { site: ledger.own(), version: ledger.version + 1, hlc: Hlc::ZERO, changes: Vec::new() };
    if edits.list.iter().any(|(_, _, fate)| !matches!(fate, Fate::Moved { .. })) {
        version.hlc = ledger.clock.tick(wall_ms);
    }
    let mut touched = TouchedTables::new();
    for ((table, key, fate), held) in edits.list.into_iter().zip(held) {
        let seq = u32::try_from(version.changes.len()).expect("a transaction has at most CELLS_MAX changes");
        let images = fate.images(watched, table);
        let mut writer = Writer { conn, ledger, table, key: &key, stamp: version.stamp(seq) };
        let change = match fate {
            Fate::Moved { from, to } => writer.moved(&from, &to, held).map(|()| None),
            Fate::Created { to } => writer.created(to).map(Some),
            Fate::Updated { from, to, columns } => writer.updated(&from, to, &columns, held).map(Some),
            Fate::Deleted { from } => writer.deleted(&from, held).map(Some),
        }?;
        if let Some(change) = change {
            touch(touched.entry(table.name.clone()).or_default(), table, &change, &images);
            version.changes.push(change);
        }
    }
    if version.changes.is_empty() {
        return Ok(None);
    }
    ledger.version = version.version;
    ledger.sites.raise(version.site, version.version);
    Ok(Some((version, touched)))
}

impl Fate {
    fn images(&self, watched: &Watched, table: &Table) -> Images {
        let (old, new) = match self {
            Self::Moved { from, to } | Self::Updated { from, to, .. } => (Some(from), Some(to)),
            Self::Created { to } => (None, Some(to)),
            Self::Deleted { from } => (Some(from), None),
        };
        Images::of(watched, table, old.map(|image| &*image.values), new.map(|image| &*image.values))
    }
}

fn touch(touched: &mut Touched, table: &Table, change: &Change, images: &Images) {
    touched.row(&change.key, images);
    match change.life {
        Life::Changed => touched.columns.extend(table.columns.iter().cloned()),
        Life::Since(_) => touched.columns.extend(change.cells.keys().cloned()),
    }
}

impl<'a> Edits<'a> {
    fn add(
        &mut self,
        conn: &Connection,
        ledger: &Ledger,
        table: &'a Arc<Table>,
        suspects: Suspects,
    ) -> Result<(), ExecuteError> {
        for (key, pair) in pairs(conn, ledger, table, suspects)? {
            let fate = match (pair.old, pair.new) {
                (None, None) => continue,
                (None, Some(to)) => Fate::Created { to },
                (Some(from), None) => Fate::Deleted { from },
                (Some(from), Some(to)) => {
                    let columns: Vec<_> =
                        table.cells().map(|(at, _)| at).filter(|&at| from.values[at] != to.values[at]).collect();
                    match (columns.is_empty(), from.spot == to.spot) {
                        (true, true) => continue,
                        (true, false) => Fate::Moved { from, to },
                        (false, _) => Fate::Updated { from, to, columns },
                    }
                }
            };
            self.list.push((table, key, fate));
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), ExecuteError> {
        let (mut cells, mut bytes) = (0, 0);
        for (table, key, fate) in &self.list {
            bytes += key.as_bytes().len();
            match fate {
                Fate::Moved { .. } => {}
                Fate::Created { to } => {
                    // A row of nothing but its key still counts.
                    cells += table.cells().count().max(1);
                    bytes += table.cells().map(|(at, _)| weight(&to.values[at])).sum::<usize>();
                }
                Fate::Updated { to, columns, .. } => {
                    cells += columns.len();
                    bytes += columns.iter().map(|&at| weight(&to.values[at])).sum::<usize>();
                }
                Fate::Deleted { .. } => cells += 1,
            }
        }
        if cells > CELLS_MAX {
            Err(ExecuteError::TooLarge { what: "too many cells", limit: CELLS_MAX })
        } else if bytes > BYTES_MAX {
            Err(ExecuteError::TooLarge { what: "too many bytes", limit: BYTES_MAX })
        } else {
            Ok(())
        }
    }

    /// Reads the stamps of all rows that were there, and takes away those of rows that left their place, before any is
    /// written: two rows may have changed places.
    fn lift(&self, conn: &Connection, ledger: &Ledger) -> Result<Vec<Option<Stamps>>, ExecuteError> {
        let mut held = Vec::with_capacity(self.list.len());
        for (table, _, fate) in &self.list {
            let (from, leaves) = match fate {
                Fate::Created { .. } => {
                    held.push(None);
                    continue;
                }
                Fate::Moved { from, .. } | Fate::Deleted { from } => (from, true),
                Fate::Updated { from, to, .. } => (from, from.spot != to.spot),
            };
            let stamps = ledger.stamps(conn, table, &from.spot)?;
            held.push(Some(stamps.ok_or_else(|| {
                ExecuteError::Failed(format!("table {}: a row has no stamps: run `kith store verify`", table.name))
            })?));
            if leaves {
                ledger.drop_stamps(conn, table, &from.spot)?;
            }
        }
        Ok(held)
    }
}

/// Reads what is at each suspect's place and sorts both sides by key.
fn pairs(
    conn: &Connection,
    ledger: &Ledger,
    table: &Table,
    suspects: Suspects,
) -> Result<BTreeMap<Key, Pair>, ExecuteError> {
    let key_of = |values: &[Value]| {
        table.key_of(values).map_err(|source| ExecuteError::Key { table: table.name.to_string(), source })
    };
    let mut pairs = BTreeMap::<Key, Pair>::new();
    let mut read = conn.prepare_cached(&table.sql.read)?;
    match suspects {
        Suspects::Rows(rows) => {
            for (rowid, old) in rows {
                let mut found = read.query([rowid])?;
                if let Some(row) = found.next()? {
                    let values = table.values(row, 0)?;
                    let key = key_of(&values)?;
                    pairs.entry(key).or_default().new = Some(Image { spot: Spot::Row(rowid), values });
                }
                if let Some(values) = old {
                    let key = key_of(&values)?;
                    pairs.entry(key).or_default().old = Some(Image { spot: Spot::Row(rowid), values });
                }
            }
        }
        Suspects::Keys(keys) => {
            for (shown, old) in keys {
                let mut found = read.query(rusqlite::params_from_iter(shown.iter().map(Sql)))?;
                if let Some(row) = found.next()? {
                    let values = table.values(row, 0)?;
                    let key = key_of(&values)?;
                    let spot = Spot::Key(key.clone());
                    pairs.entry(key).or_default().new = Some(Image { spot, values });
                }
                if let Some(values) = old {
                    let key = key_of(&values)?;
                    let spot = Spot::Key(key.clone());
                    // A key may be shown in two forms, before and after its affinity, and the second form's first image
                    // be one that this transaction made. Only a row with stamps was there before.
                    if ledger.stamps(conn, table, &spot)?.is_some() {
                        pairs.entry(key).or_default().old = Some(Image { spot, values });
                    }
                }
            }
        }
    }
    Ok(pairs)
}

/// Writes the bookkeeping of one changed row.
struct Writer<'a> {
    conn: &'a Connection,
    ledger: &'a mut Ledger,
    table: &'a Table,
    key: &'a Key,
    stamp: Stamp,
}

impl Writer<'_> {
    fn moved(&mut self, from: &Image, to: &Image, held: Option<Stamps>) -> Result<(), ExecuteError> {
        let stamps = held.expect("lift reads the stamps of every row that was there");
        let aside = self.ledger.aside(self.conn, self.table.id, self.key)?;
        let all = all_stamps(&stamps, &aside);
        self.ledger.put_stamps(self.conn, self.table, &to.spot, &stamps)?;
        self.ledger.log(self.conn, self.table.id, Some((&from.spot, &all)), Some((&to.spot, &all)))?;
        Ok(())
    }

    fn created(&mut self, to: Image) -> Result<Change, ExecuteError> {
        let (conn, table, key, stamp) = (self.conn, self.table, self.key, self.stamp);
        let tomb = self.ledger.tomb(conn, table, key)?;
        let aside = self.ledger.aside(conn, table.id, key)?;
        let seen = tomb.as_ref().map_or(0, |tomb| tomb.cl).max(aside.own.map_or(0, |(cl, _)| cl));
        // The next odd length above all that is known of the key, and that it may have had before it was forgotten.
        let seen = seen.max(self.ledger.purged.length(&table.name));
        let cl = (seen + 1) | 1;
        let spot = Spot::Key(key.clone());
        let mut before = aside.stamps();
        if let Some(tomb) = &tomb {
            self.ledger.digests.take(Part::of(tomb.cl, tomb.rs()), Digest::row(&table.name, key, tomb.cl, tomb.rs()));
            self.ledger.drop_tomb(conn, table, key)?;
            before.push(tomb.rs());
        }
        self.ledger.digests.take(aside.part(), aside.digest(&table.name, key));
        self.ledger.set_aside(conn, table.id, key, &aside, &Aside::default())?;
        let mut terms = Digest::row(&table.name, key, cl, stamp);
        let mut values = to.values.into_iter().map(Some).collect::<Vec<_>>();
        let mut cells = BTreeMap::new();
        for (at, _) in table.cells() {
            let value = values[at].take().expect("each column is taken once");
            terms += Digest::cell(&table.name, key, &table.columns[at], &value, stamp);
            cells.insert(table.columns[at].clone(), value);
        }
        self.ledger.digests.add(Part::Live, terms);
        let stamps = Stamps::fresh(cl, stamp, table.mask()).sealed(terms);
        self.ledger.put_stamps(conn, table, &to.spot, &stamps)?;
        self.ledger.log(conn, table.id, Some((&spot, &before)), Some((&to.spot, &[stamp])))?;
        Ok(Change { table: table.name.clone(), key: key.clone(), cl, life: Life::Changed, cells })
    }

    fn updated(
        &mut self,
        from: &Image,
        mut to: Image,
        columns: &[usize],
        held: Option<Stamps>,
    ) -> Result<Change, ExecuteError> {
        let (conn, table, key, stamp) = (self.conn, self.table, self.key, self.stamp);
        let mut stamps = held.expect("lift reads the stamps of every row that was there");
        let aside = self.ledger.aside(conn, table.id, key)?;
        let mut kept = aside.clone();
        let before = all_stamps(&stamps, &aside);
        let (mut mask, mut went, mut came) = (0, Digest::default(), Digest::default());
        let mut cells = BTreeMap::new();
        for &at in columns {
            let (name, cid) = (&table.columns[at], table.cid[at].expect("only columns with a bit are compared"));
            mask |= 1 << cid;
            if let Some(old) = stamps.cell(cid) {
                went += Digest::cell(&table.name, key, name, &from.values[at], old);
            }
            if let Some(old) = kept.cells.remove(name) {
                self.ledger.digests.take(Part::Live, Digest::cell(&table.name, key, name, &old.value, old.stamp));
            }
            let value = std::mem::replace(&mut to.values[at], Value::Null);
            came += Digest::cell(&table.name, key, name, &value, stamp);
            cells.insert(name.clone(), value);
        }
        self.ledger.digests.take(Part::Live, went);
        self.ledger.digests.add(Part::Live, came);
        stamps.set(mask, stamp);
        stamps.reseal(went, came);
        self.ledger.set_aside(conn, table.id, key, &aside, &kept)?;
        self.ledger.put_stamps(conn, table, &to.spot, &stamps)?;
        let after = all_stamps(&stamps, &kept);
        self.ledger.log(conn, table.id, Some((&from.spot, &before)), Some((&to.spot, &after)))?;
        let life = Life::Since(stamps.rs());
        Ok(Change { table: table.name.clone(), key: key.clone(), cl: stamps.cl, life, cells })
    }

    fn deleted(&mut self, from: &Image, held: Option<Stamps>) -> Result<Change, ExecuteError> {
        let (conn, table, key, stamp) = (self.conn, self.table, self.key, self.stamp);
        let stamps = held.expect("lift reads the stamps of every row that was there");
        let aside = self.ledger.aside(conn, table.id, key)?;
        let before = all_stamps(&stamps, &aside);
        self.ledger.digests.take(Part::Live, table.terms(key, &stamps, &from.values));
        self.ledger.digests.take(aside.part(), aside.digest(&table.name, key));
        self.ledger.set_aside(conn, table.id, key, &aside, &Aside::default())?;
        let cl = stamps.cl + 1;
        let term = Digest::row(&table.name, key, cl, stamp);
        self.ledger.put_tomb(conn, table, key, &Stamps::fresh(cl, stamp, 0).sealed(term))?;
        self.ledger.digests.add(Part::of(cl, stamp), term);
        let spot = Spot::Key(key.clone());
        self.ledger.log(conn, table.id, Some((&from.spot, &before)), Some((&spot, &[stamp])))?;
        Ok(Change { table: table.name.clone(), key: key.clone(), cl, life: Life::Changed, cells: BTreeMap::new() })
    }
}

/// The stamps of a row, those of its cells that are set aside included; each once.
pub(crate) fn all_stamps(stamps: &Stamps, aside: &Aside) -> Vec<Stamp> {
    let mut all: Vec<_> = stamps.each().collect();
    all.extend(aside.stamps().into_iter().filter(|&stamp| !stamps.has(stamp)));
    all
}
