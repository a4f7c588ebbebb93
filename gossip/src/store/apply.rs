//! What peers sent: versions that they pushed, rows that we pulled; and what had been set aside, once a schema comes for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kith_gossip_proto::frame::{Answered, PulledRow};
use kith_gossip_proto::purged::{Away, away};
use kith_gossip_proto::{Change, Key, Name, Purged, Row, Value, Vector, Version};
use rusqlite::params;

use super::commit::Touched;
use super::error::{ApplyError, ExecuteError};
use super::group::Sum;
use super::ledger::damaged;
use super::merge::{Merge, Ours, Seen};
use super::stamps::Damaged;
use super::table::{Table, TableSet};
use super::watched::Images;
use super::writer::Core;

/// SQLite's integers are signed. A site that commits a million times a second gets there in 292,000 years.
const VERSION_MAX: u64 = i64::MAX.cast_unsigned();

/// Bytes of rows that are held between the look at what may have been forgotten and the merge. A version is no larger than
/// this, but the rows that it changes may be; what is beyond is looked up twice.
const HELD_BYTES: usize = 1 << 20;

/// What is here of the rows that a version changes, as far as that was looked up before they are merged.
#[derive(Default)]
struct Held<'a> {
    rows: BTreeMap<(&'a Name, &'a Key), Ours>,
    bytes: usize,
}

impl<'a> Held<'a> {
    fn keep(&mut self, change: &'a Change, ours: Ours) {
        let Ours::Live(live) = &ours else { return };
        let bytes = live.values.iter().map(|value| match value {
            Value::Null | Value::Integer(_) | Value::Real(_) => 0,
            Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
        });
        self.bytes += bytes.sum::<usize>();
        if self.bytes <= HELD_BYTES {
            self.rows.insert((&change.table, &change.key), ours);
        }
    }

    /// Once only: a version may name a row twice, and then it is another the second time.
    fn take(&mut self, change: &'a Change) -> Option<Ours> {
        self.rows.remove(&(&change.table, &change.key))
    }
}

/// A row of a peer.
struct Theirs<'a> {
    table: &'a Name,
    key: &'a Key,
    row: Row,
    /// What is here of it, if that was looked up.
    held: Option<Ours>,
}

/// Rows that are tried again at once when a schema came.
const ADOPT_PAGE: u32 = 1_000;

impl Core {
    /// Applies versions, each whole, in the order given. One that is not the next of its site, that updates rows we have not
    /// seen created, that is of our own site, or that changes what may have been deleted and forgotten here is skipped: it
    /// comes again, or its rows are pulled.
    pub(crate) fn apply(&mut self, versions: &[Version], sum: &mut Sum) -> Result<(), ExecuteError> {
        let tables = Arc::clone(&self.tables);
        for version in versions {
            let heads = self.ledger.sites.heads();
            let next = heads.head(version.site).checked_add(1) == Some(version.version);
            let forked = || {
                version.site == self.ledger.own()
                    && self.is_forked(&Vector::from_iter([(version.site, version.version)]))
            };
            if !next || !heads.covers(&version.needs()) || forked() {
                continue;
            }
            let Some(mut held) = self.unless_forgotten(&tables, version)? else { continue };
            for (change, row) in version.rows() {
                let theirs = Theirs { table: &change.table, key: &change.key, row, held: held.take(change) };
                self.join_row(&tables, theirs, sum)?;
            }
            self.ledger.clock.observe(version.hlc);
            self.raise(version.site, version.version);
        }
        Ok(())
    }

    /// What is here of the rows that it changes, as far as that had to be looked up. None if it changes a row without state
    /// whose deletion may be what was purged here: its writer may not have heard of that. The rows of whoever has applied the
    /// version say what became of it.
    fn unless_forgotten<'a>(&mut self, tables: &TableSet, version: &'a Version) -> rusqlite::Result<Option<Held<'a>>> {
        let mut held = Held::default();
        for change in &version.changes {
            if change.cl > self.ledger.purged.length(&change.table) {
                continue;
            }
            let Some(table) = tables.get(change.table.as_str()) else { continue };
            let merge = Merge { conn: &self.conn, ledger: &mut self.ledger };
            match merge.load(table, &change.key)? {
                Ours::Nothing => return Ok(None),
                ours => held.keep(change, ours),
            }
        }
        Ok(Some(held))
    }

    /// Which of us has missed what the other has forgotten.
    pub(crate) fn away(&self, theirs: &Answered) -> Away {
        let (heads, purged) = (self.ledger.sites.heads(), &self.ledger.purged.through);
        away(heads, purged, &theirs.heads, &theirs.purged.through)
    }

    /// Why rows of this state may not be joined, if they may not.
    pub(crate) fn apart(&self, theirs: &Answered) -> Option<ApplyError> {
        if self.is_forked(&theirs.heads) {
            return Some(ApplyError::Forked);
        }
        match self.away(theirs) {
            Away::Nobody => None,
            Away::We => Some(ApplyError::Behind),
            Away::They => Some(ApplyError::PeerBehind),
        }
    }

    /// Joins all rows of an answer, its heads, and what its answerer has purged.
    pub(crate) fn join(&mut self, rows: &[PulledRow], theirs: &Answered, sum: &mut Sum) -> Result<(), ExecuteError> {
        let heads = &theirs.heads;
        let tables = Arc::clone(&self.tables);
        let stamped = rows.iter().flat_map(|pulled| pulled.row.stamps()).map(|stamp| stamp.version);
        let told = heads.iter().chain(theirs.purged.through.iter()).map(|(_, version)| version);
        if told.chain(stamped).any(|version| version > VERSION_MAX) {
            return Err(ExecuteError::Failed("the answer names a version that no site can have reached".to_owned()));
        }
        for pulled in rows {
            for stamp in pulled.row.stamps() {
                self.ledger.clock.observe(stamp.hlc);
            }
            let theirs = Theirs { table: &pulled.table, key: &pulled.key, row: pulled.row.clone(), held: None };
            self.join_row(&tables, theirs, sum)?;
        }
        for (site, version) in heads.iter() {
            self.raise(site, version);
        }
        if theirs.purged != Purged::default() {
            Arc::make_mut(&mut self.ledger.purged).join(&theirs.purged);
        }
        Ok(())
    }

    /// Of a site that is kept though peers know more of it, no number is given out again.
    fn raise(&mut self, site: kith_gossip_proto::SiteId, version: u64) {
        self.ledger.sites.raise(site, version);
        if site == self.ledger.own() {
            self.ledger.version = self.ledger.version.max(version);
        }
    }

    fn join_row(&mut self, tables: &TableSet, theirs: Theirs<'_>, sum: &mut Sum) -> rusqlite::Result<()> {
        let Theirs { table: name, key, row, held } = theirs;
        let mut merge = Merge { conn: &self.conn, ledger: &mut self.ledger };
        match tables.get(name.as_str()) {
            Some(table) => {
                let old = merge.image(table, key, &sum.watched)?;
                let seen = match held {
                    Some(ours) => merge.row_onto(table, key, ours, row)?,
                    None => merge.row(table, key, row)?,
                };
                let new = merge.image(table, key, &sum.watched)?;
                let images = Images::of(&sum.watched, table, old.as_deref(), new.as_deref());
                sum.see(table, key, seen, &images);
                Ok(())
            }
            None => merge.unknown(name, key, row),
        }
    }

    /// Brings into the tables what was set aside for want of them.
    pub(crate) fn adopt(&mut self, tables: &TableSet, sum: &mut Sum) -> rusqlite::Result<()> {
        let waiting: Vec<_> = self.ledger.aside.keys().copied().collect();
        for table in waiting.into_iter().filter_map(|id| tables.by_id(id)) {
            let mut last = Vec::new();
            loop {
                let keys = self.waiting(table, &last)?;
                let Some(end) = keys.last() else { break };
                last = end.as_bytes().to_vec();
                for key in &keys {
                    let seen = Merge { conn: &self.conn, ledger: &mut self.ledger }.settle(table, key)?;
                    // With a schema comes a new look at every query, whatever the cells.
                    sum.see(table, key, seen, &Images::default());
                }
            }
        }
        Ok(())
    }

    fn waiting(&self, table: &Table, after: &[u8]) -> rusqlite::Result<Vec<Key>> {
        let mut statement = self.conn.prepare_cached(
            "/*kith*/ SELECT DISTINCT pk FROM __kith_unknown WHERE tid = ?1 AND pk > ?2 ORDER BY pk LIMIT ?3",
        )?;
        let rows = statement.query_map(params![table.id, after, ADOPT_PAGE], |row| row.get::<_, Vec<u8>>(0))?;
        rows.map(|bytes| Key::from_bytes(&bytes?).map_err(|_| damaged(Damaged))).collect()
    }
}

impl Sum {
    fn see(&mut self, table: &Table, key: &Key, seen: Seen, images: &Images) {
        let columns: Vec<_> = match seen {
            Seen::Nothing => return,
            Seen::Columns(at) => at.into_iter().map(|at| table.columns[at].clone()).collect(),
            Seen::Row => table.columns.clone(),
        };
        let touched: &mut Touched = self.touched.entry(table.name.clone()).or_default();
        touched.columns.extend(columns);
        touched.row(key, images);
    }
}
