//! What peers sent: versions that they pushed, rows that we pulled; and what had been set aside, once a schema comes for it.

use std::sync::Arc;

use kith_gossip_proto::frame::{Answered, PulledRow};
use kith_gossip_proto::purged::{Away, away};
use kith_gossip_proto::{Change, Key, Name, Purged, Row, Version};
use rusqlite::params;

use super::commit::Touched;
use super::error::ExecuteError;
use super::group::Sum;
use super::ledger::damaged;
use super::merge::{Merge, Ours, Seen};
use super::stamps::Damaged;
use super::table::{Table, TableSet};
use super::watched::Images;
use super::writer::Core;

/// SQLite's integers are signed. A site that commits a million times a second gets there in 292,000 years.
const VERSION_MAX: u64 = i64::MAX.cast_unsigned();

/// Rows that are tried again at once when a schema came.
const ADOPT_PAGE: u32 = 1_000;

impl Core {
    /// Applies versions, each whole, in the order given. One that is not the next of its site, that updates rows we have not
    /// seen created, or that changes what may have been deleted and forgotten here is skipped: it comes again, or its rows are
    /// pulled.
    pub(crate) fn apply(&mut self, versions: &[Version], sum: &mut Sum) -> Result<(), ExecuteError> {
        let tables = Arc::clone(&self.tables);
        for version in versions {
            let heads = self.ledger.sites.heads();
            let next = heads.head(version.site).checked_add(1) == Some(version.version);
            if !next || !heads.covers(&version.needs()) || self.may_have_forgotten(&tables, version)? {
                continue;
            }
            for (change, row) in version.rows() {
                self.join_row(&tables, &change.table, &change.key, row, sum)?;
            }
            self.ledger.clock.observe(version.hlc);
            self.raise(version.site, version.version);
        }
        Ok(())
    }

    /// Whether it changes a row without state whose deletion may be what was purged here: its writer may not have heard of
    /// that. The rows of whoever has applied the version say what became of it.
    fn may_have_forgotten(&mut self, tables: &TableSet, version: &Version) -> rusqlite::Result<bool> {
        for Change { table, key, cl, .. } in &version.changes {
            if *cl > self.ledger.purged.length(table) {
                continue;
            }
            let Some(table) = tables.get(table.as_str()) else { continue };
            let ours = Merge { conn: &self.conn, ledger: &mut self.ledger }.load(table, key)?;
            if matches!(ours, Ours::Nothing) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Which of us has missed what the other has forgotten.
    pub(crate) fn away(&self, theirs: &Answered) -> Away {
        let (heads, purged) = (self.ledger.sites.heads(), &self.ledger.purged.through);
        away(heads, purged, &theirs.heads, &theirs.purged.through)
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
            self.join_row(&tables, &pulled.table, &pulled.key, pulled.row.clone(), sum)?;
        }
        for (site, version) in heads.iter() {
            self.raise(site, version);
        }
        if theirs.purged != Purged::default() {
            Arc::make_mut(&mut self.ledger.purged).join(&theirs.purged);
        }
        Ok(())
    }

    /// After a crash, peers may know more of our own versions than the file does.
    fn raise(&mut self, site: kith_gossip_proto::SiteId, version: u64) {
        self.ledger.sites.raise(site, version);
        if site == self.ledger.own() {
            self.ledger.version = self.ledger.version.max(version);
        }
    }

    fn join_row(&mut self, tables: &TableSet, name: &Name, key: &Key, row: Row, sum: &mut Sum) -> rusqlite::Result<()> {
        let mut merge = Merge { conn: &self.conn, ledger: &mut self.ledger };
        match tables.get(name.as_str()) {
            Some(table) => {
                let old = merge.image(table, key, &sum.watched)?;
                let seen = merge.row(table, key, row)?;
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
