//! Putting damaged rows right, from what a sound peer holds of their buckets. One transaction, so readers see it whole, and
//! writers wait for as long as it takes to read all rows twice: it is rare.
//!
//! Nothing here believes the log, the digest or an index, and of a row only what no peer has heard of: rows are replaced by
//! what is [`proven`], and everything else is made anew from the rows. What stood in a row's place before is written to a file
//! beside the store.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use kith_gossip_proto::buckets::Bucket;
use kith_gossip_proto::frame::{Answered, PulledRow};
use kith_gossip_proto::repair::{Seal, proven};
use kith_gossip_proto::{Key, Name, Purged, Row, Value, Vector};
use rusqlite::{Connection, params_from_iter};

use super::aside::Aside;
use super::commit::{SchemaChange, Touched};
use super::error::{ApplyError, ExecuteError};
use super::group::{Sum, run};
use super::ledger::{Ledger, Spot, readable};
use super::merge::{Merge, place_values};
use super::open::{Durability, set_durability};
use super::replaced::Replaced;
use super::snapshot::{Damage, Snapshot, each, key};
use super::stamps::Stamps;
use super::statement::{Sql, value};
use super::table::{Table, quote, rows_of, tombs_of};
use super::verify::{Indexes, Log, examine, is_sealed};
use super::writer::Core;

/// What a sound peer holds, and where to put it.
#[derive(Debug, Default)]
pub struct Cure {
    /// The buckets of which all the peer's rows are here.
    pub buckets: BTreeSet<Bucket>,
    /// These, and all that is above our heads.
    pub rows: Vec<PulledRow>,
    /// The peer's heads in the read snapshot that the rows are of.
    pub heads: Vector,
    /// What it had purged.
    pub purged: Purged,
    /// Tables whose indexes are not what they say.
    pub indexes: BTreeSet<Name>,
}

/// What a repair has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The heads after it, synced.
    pub heads: Vector,
    /// Rows that were replaced, brought back or taken away.
    pub rows: u64,
}

/// The peer's rows of the buckets, until they are put in their place.
type Theirs = BTreeMap<(Name, Key), Row>;

/// All that we have of a key, sound or not.
#[derive(Debug, Default)]
struct Found {
    /// Where a live row lies.
    spot: Option<Spot>,
    /// Its state, if it can be read.
    state: Option<(Row, Seal)>,
    /// What stood in the row, sound or not.
    stood: Vec<Value>,
}

impl Core {
    /// Repairs. After an error the store is as it was.
    pub(crate) fn repair(&mut self, cure: Cure) -> Result<Repaired, ApplyError> {
        if self.is_forked(&cure.heads) {
            return Err(ApplyError::Forked);
        }
        let before = self.ledger.clone();
        let mut sum = Sum::default();
        // Whoever is told the heads may take them for synced.
        set_durability(&self.conn, Durability::Full)?;
        let repaired = self.repaired(cure, &mut sum);
        match &repaired {
            Ok(_) => self.tell_commit(sum, SchemaChange::Same),
            Err(_) => {
                self.roll_back();
                self.ledger = before;
            }
        }
        set_durability(&self.conn, self.durability)?;
        let rows = repaired?;
        Ok(Repaired { heads: Vector::clone(self.ledger.sites.heads()), rows })
    }

    fn repaired(&mut self, cure: Cure, sum: &mut Sum) -> Result<u64, ExecuteError> {
        run(&self.conn, "/*kith*/ BEGIN IMMEDIATE")?;
        // An index that lacks a row does not let it be deleted.
        for table in &cure.indexes {
            self.conn.execute_batch(&format!("/*kith*/ REINDEX {}", quote(table.as_str())))?;
        }
        let (mut theirs, mut rest) = (Theirs::new(), Vec::new());
        for PulledRow { table, key, row } in cure.rows {
            row.stamps().iter().for_each(|stamp| self.ledger.clock.observe(stamp.hlc));
            if cure.buckets.contains(&Bucket::of(&table, &key)) {
                // A large row came in pieces.
                theirs.entry((table, key)).and_modify(|piece| piece.join(row.clone())).or_insert(row);
            } else {
                rest.push(PulledRow { table, key, row });
            }
        }
        let mut replaced = Replaced::default();
        let tables = Arc::clone(&self.tables);
        for table in tables.iter() {
            let rows = self.repair_table(table, &cure.buckets, &mut theirs, &cure.heads, &mut replaced)?;
            if rows > 0 {
                sum.touch([(table.name.clone(), Touched::anything(table.columns.iter().cloned().collect()))].into());
            }
        }
        forget_keys(&self.conn, "__kith_unknown", "pk", |_| Ok(true))?;
        self.repair_homeless(&cure.buckets, &mut theirs, &cure.heads, &mut replaced)?;
        // What is left, we have not at all: it has gone, or it is above our heads.
        let heads = Arc::clone(self.ledger.sites.heads());
        for ((table, key), row) in theirs {
            if !row.is_alive() && row.rs.version <= self.ledger.purged.through.head(row.rs.site) {
                // A tombstone that was purged here before it was there.
                continue;
            }
            if row.rs.version <= heads.head(row.rs.site) {
                replaced.note(&table, Some(&key), (&[], None), Some(&row));
            }
            rest.push(PulledRow { table, key, row });
        }
        self.join(&rest, &Answered { heads: cure.heads, purged: cure.purged }, sum)?;
        self.recount()?;
        self.ledger.save(&self.conn)?;
        replaced.keep(self.shared.health.path());
        run(&self.conn, "/*kith*/ COMMIT")?;
        Ok(replaced.rows())
    }

    fn repair_table(
        &mut self,
        table: &Table,
        buckets: &BTreeSet<Bucket>,
        theirs: &mut Theirs,
        their_heads: &Vector,
        replaced: &mut Replaced,
    ) -> Result<u64, ExecuteError> {
        let before = replaced.rows();
        let our_heads = Arc::clone(self.ledger.sites.heads());
        for (key, found) in self.found(table, buckets)? {
            let Found { spot, state, stood } = found;
            let (key, kept) = match key {
                // No table of a sound peer has such a key.
                None => (None, None),
                Some(key) => {
                    let their = theirs.remove(&(table.name.clone(), key.clone()));
                    (Some(key), proven(state.clone(), their, &our_heads, their_heads))
                }
            };
            match (&state, &kept) {
                (Some((row, Seal::Whole)), Some(kept)) if row == kept => continue,
                _ => {}
            }
            let was = state.as_ref().map(|(row, seal)| (row, *seal));
            replaced.note(&table.name, key.as_ref(), (&stood, was), kept.as_ref());
            self.take_away(table, spot.as_ref(), key.as_ref())?;
            if let (Some(key), Some(row)) = (key, kept) {
                Merge { conn: &self.conn, ledger: &mut self.ledger }.row(table, &key, row)?;
            }
        }
        self.drop_orphans(table)?;
        forget_keys(&self.conn, &quote(&tombs_of(&table.name)), "pk", |_| Ok(true))?;
        Ok(replaced.rows() - before)
    }

    /// All that there is of the keys of these buckets, and rows that no table of a sound peer can have.
    fn found(&self, table: &Table, buckets: &BTreeSet<Bucket>) -> rusqlite::Result<Vec<(Option<Key>, Found)>> {
        let (mut all, mut keyless) = (BTreeMap::<Key, Found>::new(), Vec::new());
        let snapshot = self.snapshot();
        let mut live = snapshot.conn.prepare(&table.sql.all)?;
        let mut rows = live.query([])?;
        while let Some(row) = rows.next()? {
            let stood = table.values(row, 1)?;
            let key = table.key_of(&stood).ok();
            if key.as_ref().is_some_and(|key| !buckets.contains(&Bucket::of(&table.name, key))) {
                continue;
            }
            let spot = match (&key, table.by_key()) {
                (Some(key), true) => Spot::Key(key.clone()),
                // Such a key cannot be said, so it cannot be looked up.
                (None, true) => continue,
                (_, false) => Spot::Row(row.get(0)?),
            };
            let state = readable(snapshot.look(table, &spot))?.flatten().map(|(row, seal)| (row.row, seal));
            let found = Found { spot: Some(spot), state, stood };
            // Of two rows with one key, one is not what was written: both go, and the peer says which there is.
            let surplus = match key {
                None => Some(found),
                Some(key) => all.insert(key, found),
            };
            keyless.extend(surplus.map(|surplus| (None, Found { state: None, ..surplus })));
        }
        for key in hidden_keys(snapshot.conn, table)? {
            if !buckets.contains(&Bucket::of(&table.name, &key)) {
                continue;
            }
            let tomb = readable(self.ledger.tomb(&self.conn, table, &key))?;
            let aside = readable(self.ledger.aside(&self.conn, table.id, &key))?;
            match (all.get_mut(&key), tomb, aside) {
                // Cells of a live row that are set aside are in its state.
                (Some(_), Some(None), Some(aside)) if aside.own.is_none() => {}
                // Two of them cannot be.
                (Some(live), ..) => live.state = None,
                (None, tomb, aside) => {
                    let state = hidden(table, &key, tomb.flatten(), aside.unwrap_or_default());
                    all.insert(key, Found { spot: None, state, stood: Vec::new() });
                }
            }
        }
        Ok(keyless.into_iter().chain(all.into_iter().map(|(key, found)| (Some(key), found))).collect())
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::within(&self.conn, self.ledger.clone(), Arc::clone(&self.tables))
    }

    /// Takes away all that there is of a key, as if it had never been: nothing is counted, all is counted again.
    fn take_away(&mut self, table: &Table, spot: Option<&Spot>, key: Option<&Key>) -> rusqlite::Result<()> {
        if let Some(spot) = spot {
            let place = place_values(table, spot);
            self.conn.prepare_cached(&table.sql.delete)?.execute(params_from_iter(place.iter().map(Sql)))?;
            self.ledger.drop_stamps(&self.conn, table, spot)?;
        }
        if let Some(key) = key {
            self.ledger.drop_tomb(&self.conn, table, key)?;
            self.ledger.forget_aside(&self.conn, table.id, key)?;
        }
        Ok(())
    }

    /// Rows of tables that are not here: of them there is only what is set aside.
    fn repair_homeless(
        &mut self,
        buckets: &BTreeSet<Bucket>,
        theirs: &mut Theirs,
        their_heads: &Vector,
        replaced: &mut Replaced,
    ) -> Result<(), ExecuteError> {
        let our_heads = Arc::clone(self.ledger.sites.heads());
        for (id, name, key) in homeless_keys(&self.conn)? {
            if !buckets.contains(&Bucket::of(&name, &key)) {
                continue;
            }
            let aside = readable(self.ledger.aside(&self.conn, id, &key))?;
            let state = aside.and_then(|aside| aside.own.map(|(cl, rs)| Row { cl, rs, cells: aside.cells }));
            let their = theirs.remove(&(name.clone(), key.clone()));
            let whole = state.clone().map(|row| (row, Seal::Whole));
            let kept = proven(whole, their, &our_heads, their_heads);
            if state.is_some() && state == kept {
                continue;
            }
            let was = state.as_ref().map(|row| (row, Seal::Whole));
            replaced.note(&name, Some(&key), (&[], was), kept.as_ref());
            self.ledger.forget_aside(&self.conn, id, &key)?;
            if let Some(row) = kept {
                Merge { conn: &self.conn, ledger: &mut self.ledger }.homeless(id, &name, &key, row)?;
            }
        }
        Ok(())
    }

    /// Makes the log and the digests anew from the rows.
    fn recount(&mut self) -> rusqlite::Result<()> {
        self.ledger.aside = Ledger::count_aside(&self.conn)?;
        let found = examine(&self.snapshot(), Indexes::Trusted)?;
        if found.log == Log::Wrong {
            self.relog()?;
        }
        self.ledger.recounted(&self.conn, found.digests)
    }

    /// Writes the whole log: what is wrong in it may be where nothing finds it.
    fn relog(&mut self) -> rusqlite::Result<()> {
        run(&self.conn, "/*kith*/ DELETE FROM __kith_log")?;
        let snapshot = self.snapshot();
        let mut ledger = self.ledger.clone();
        each(&snapshot, Damage::PassedOver, |table, spot, row| {
            ledger.log(snapshot.conn, table, None, Some((spot, &row.row.stamps())))?;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Stamps without a row would be those of the next row that SQLite puts there.
    fn drop_orphans(&self, table: &Table) -> rusqlite::Result<()> {
        let stamps = quote(&rows_of(&table.name));
        if !table.by_key() {
            let (rows, rowid) = (&table.sql.quoted, table.rowid());
            let sql = format!("/*kith*/ DELETE FROM {stamps} WHERE k NOT IN (SELECT {rowid} FROM {rows})");
            return self.conn.execute_batch(&sql);
        }
        let there = |place: &Key| {
            let place = place_values(table, &Spot::Key(place.clone()));
            let mut there = self.conn.prepare_cached(&table.sql.there)?;
            there.query_row(params_from_iter(place.iter().map(Sql)), |row| row.get::<_, bool>(0))
        };
        forget_keys(&self.conn, &stamps, "k", there)
    }
}

/// Deletes what stands under no key, or under one that is not to be kept.
fn forget_keys(
    conn: &Connection,
    table: &str,
    column: &str,
    keep: impl Fn(&Key) -> rusqlite::Result<bool>,
) -> rusqlite::Result<()> {
    let mut lost = Vec::new();
    let mut all = conn.prepare(&format!("/*kith*/ SELECT {column} FROM {table}"))?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(0)?;
        if !key(bytes).map_or(Ok(false), |key| keep(&key))? {
            lost.push(value(bytes));
        }
    }
    let mut forget = conn.prepare(&format!("/*kith*/ DELETE FROM {table} WHERE {column} = ?1"))?;
    lost.iter().try_for_each(|bytes| forget.execute([Sql(bytes)]).map(drop))
}

/// Keys of tombstones and of what is set aside.
fn hidden_keys(conn: &Connection, table: &Table) -> rusqlite::Result<BTreeSet<Key>> {
    let tombs = quote(&tombs_of(&table.name));
    let mut statement =
        conn.prepare(&format!("/*kith*/ SELECT pk FROM {tombs} UNION SELECT pk FROM __kith_unknown WHERE tid = ?1"))?;
    let mut rows = statement.query([table.id])?;
    let mut keys = BTreeSet::new();
    while let Some(row) = rows.next()? {
        keys.extend(key(row.get_ref(0)?));
    }
    Ok(keys)
}

/// Keys of tables that are known by name only.
fn homeless_keys(conn: &Connection) -> rusqlite::Result<Vec<(i64, Name, Key)>> {
    let mut statement = conn.prepare(
        "/*kith*/ SELECT DISTINCT u.tid, t.name, u.pk FROM __kith_unknown u JOIN __kith_table t ON t.tid = u.tid WHERE NOT t.live",
    )?;
    let mut rows = statement.query([])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
        keys.extend(key(row.get_ref(2)?).map(|key| (id, name.as_str().into(), key)));
    }
    Ok(keys)
}

/// The state of a row that readers do not see.
fn hidden(table: &Table, key: &Key, tomb: Option<Stamps>, aside: Aside) -> Option<(Row, Seal)> {
    match (tomb, aside.own) {
        (Some(tomb), None) => {
            let seal = if is_sealed(table, key, &tomb) { Seal::Whole } else { Seal::Broken };
            Some((Row::tombstone(tomb.cl, tomb.rs()), seal))
        }
        (None, Some((cl, rs))) => Some((Row { cl, rs, cells: aside.cells }, Seal::Whole)),
        (None, None) | (Some(_), Some(_)) => None,
    }
}
