//! Beginning anew: a store that was away for longer than deletions are remembered takes a peer's copy for its own.
//!
//! ```text
//! the store ── copied ──► kith.db.away-…       as it was
//!     │ what only it has
//!     ▼ written again, as another site, where it would win
//! the copy of the peer ── page by page, one transaction ──► the store
//! ```
//! What would be written to rows that were deleted meanwhile is listed in `kith.db.lost-…`. Until the last step nothing in
//! the store has changed; a crash leaves files, and the next attempt makes others.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::{Cell, Key, Name, Replay, Row, SiteId, Stamp, Vector};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::collect::walk;
use super::copy::{copy, with};
use super::error::InstallError;
use super::install::Signature;
use super::ledger::{Ledger, signed};
use super::merge::{Live, Merge, Ours};
use super::replaced::{literal, shown};
use super::restore::keep_few;
use super::snapshot::Snapshot;
use super::table::{Table, TableSet};
use super::wall::wall_ms;
use super::writer::Core;

/// The names of such files, behind the store's.
const AWAY: &str = "away";
const LOST: &str = "lost";

/// Rows whose writes are listed. They are all in the store that is kept aside.
const LISTED_MAX: usize = 10_000;

/// What became of what only the old store had.
#[derive(Debug, Default)]
struct Replayed {
    rows: u32,
    lost: Vec<PulledRow>,
    left_out: u64,
}

impl Core {
    /// Begins anew with a copy that is sound.
    pub(crate) fn begin_anew(&mut self, mut theirs: Connection) -> Result<(), InstallError> {
        let path = self.shared.health.path().to_owned();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let [aside, list] = [AWAY, LOST].map(|what| with(&path, &format!(".{what}-{now:013}")));
        let site = SiteId::new(self.conn.query_row("SELECT randomblob(16)", [], |row| row.get(0))?);
        let begun = self.give_way(&mut theirs, site, &aside, &list);
        if self.ledger.own() != site {
            // The store is as it was: it is tried again, and each attempt would leave a copy.
            [aside, list].iter().for_each(|file| remove(file));
            return begun;
        }
        self.unreserve();
        for what in [AWAY, LOST] {
            if let Err(error) = keep_few(&path, what) {
                tracing::warn!(%error, "stores that were kept aside earlier are not taken away");
            }
        }
        begun
    }

    fn give_way(
        &mut self,
        theirs: &mut Connection,
        site: SiteId,
        aside: &Path,
        list: &Path,
    ) -> Result<(), InstallError> {
        copy(&self.conn, aside, || false)?;
        self.sign(theirs, Signature { site, version: 0 })?;
        let replayed = self.replay(theirs)?;
        let lost = replayed.lost.len() as u64 + replayed.left_out;
        if lost > 0 {
            replayed.list(list)?;
        }
        self.take_pages(theirs)?;
        tracing::warn!(
            %site, aside = %aside.display(), written_again = replayed.rows, lost,
            "this node was away for longer than deletions are remembered: it begins anew with the rows of a peer"
        );
        Ok(())
    }

    /// Writes into the copy what only we have.
    fn replay(&self, theirs: &mut Connection) -> Result<Replayed, InstallError> {
        let tx = theirs.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (mut ledger, tables) = (Ledger::load(&tx)?, TableSet::load(&tx)?);
        let known = Vector::clone(ledger.sites.heads());
        let ours = self.sites()?;
        let unsent = |stamp: Stamp| ours.contains(&stamp.site) && stamp.version > known.head(stamp.site);
        let old = Snapshot::begin(&self.conn)?;
        // What others wrote comes from them.
        let head = |(site, head)| (site, if ours.contains(&site) { known.head(site) } else { head });
        let above = old.ledger.sites.heads().iter().map(head).collect();
        let mut stamp = Stamp {
            hlc: ledger.clock.tick(wall_ms(self.shared.highest())),
            site: ledger.own(),
            version: ledger.version + 1,
            seq: 0,
        };
        let (mut replayed, mut failed) = (Replayed::default(), None);
        walk(&old, &above, |pulled| {
            stamp.seq = replayed.rows;
            match (Merge { conn: &tx, ledger: &mut ledger }).replay(&tables, &pulled, stamp, unsent) {
                Ok(Written::Again) => replayed.rows += 1,
                Ok(Written::There) => {}
                Ok(Written::Lost) if replayed.lost.len() < LISTED_MAX => replayed.lost.push(pulled),
                Ok(Written::Lost) => replayed.left_out += 1,
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(()), Err)?;
        if replayed.rows > 0 {
            ledger.sites.raise(stamp.site, stamp.version);
            tx.execute("UPDATE __kith_meta SET reserved_ver = ?1", [signed(stamp.version)])?;
        }
        ledger.save(&tx)?;
        tx.commit()?;
        Ok(replayed)
    }

    /// The store's site, and those that it had before.
    fn sites(&self) -> rusqlite::Result<BTreeSet<SiteId>> {
        let mut statement = self.conn.prepare("SELECT id FROM __kith_site WHERE state = 1")?;
        let earlier = statement.query_map([], |row| row.get(0).map(SiteId::new))?;
        earlier.chain([Ok(self.ledger.own())]).collect()
    }
}

impl Replayed {
    fn list(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        for PulledRow { table, key, row } in &self.lost {
            let key = key.decode().map_or_else(|_| "without a sound key".to_owned(), |values| shown(&values));
            let cells: Vec<_> =
                row.cells.iter().map(|(name, cell)| format!("{name} = {}", literal(&cell.value))).collect();
            writeln!(file, "{table} {key}: {}", cells.join(", "))?;
        }
        if self.left_out > 0 {
            writeln!(file, "and {} more", self.left_out)?;
        }
        file.sync_all()
    }
}

fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %file.display(), %error, "a file that is not needed any more stays");
    }
}

/// The lists of what was lost that nobody has taken away yet.
pub(crate) fn lists(store: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (store.parent(), store.file_name()) else { return Vec::new() };
    let prefix = format!("{}.{LOST}-", name.to_string_lossy());
    // A folder that cannot be read is reported by the store in it.
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut lists: Vec<_> =
        files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))).collect();
    lists.sort();
    lists
}

/// What became of a row's writes.
enum Written {
    Again,
    /// They are there, or were overwritten.
    There,
    Lost,
}

impl Merge<'_> {
    fn replay(
        &mut self,
        tables: &TableSet,
        pulled: &PulledRow,
        stamp: Stamp,
        unsent: impl Fn(Stamp) -> bool,
    ) -> rusqlite::Result<Written> {
        let PulledRow { table, key, row } = pulled;
        let known = tables.get(table.as_str());
        let new = match known {
            Some(table) => self.held(table, key)?,
            None => self.held_aside(table, key)?,
        };
        let change = match Replay::of(row, new.as_ref(), unsent) {
            Replay::Lost => return Ok(Written::Lost),
            replay => replay.change(table, key, new.as_ref(), self.ledger.purged.length(table)),
        };
        let Some(change) = change else { return Ok(Written::There) };
        match known {
            Some(table) => drop(self.row(table, key, change.row(stamp))?),
            None => self.unknown(table, key, change.row(stamp))?,
        }
        Ok(Written::Again)
    }

    /// All that is held of a key.
    fn held(&self, table: &Table, key: &Key) -> rusqlite::Result<Option<Row>> {
        Ok(match self.load(table, key)? {
            Ours::Nothing => None,
            Ours::Tomb(stamps) => Some(Row::tombstone(stamps.cl, stamps.rs())),
            Ours::Aside(aside) => aside.row(),
            Ours::Live(live) => Some(live.row(table)),
        })
    }

    fn held_aside(&self, table: &Name, key: &Key) -> rusqlite::Result<Option<Row>> {
        let mut statement = self.conn.prepare_cached("/*kith*/ SELECT tid FROM __kith_table WHERE name = ?1")?;
        let id = statement.query_row([table.as_str()], |row| row.get(0)).optional()?;
        id.map_or(Ok(None), |id| Ok(self.ledger.aside(self.conn, id, key)?.row()))
    }
}

impl Live {
    fn row(self, table: &Table) -> Row {
        let (cl, rs, mut cells) = (self.stamps.cl, self.stamps.rs(), self.aside.cells);
        for ((name, value), cid) in table.columns.iter().zip(self.values).zip(&table.cid) {
            if let Some(stamp) = cid.and_then(|cid| self.stamps.cell(cid)) {
                cells.insert(name.clone(), Cell { stamp, value });
            }
        }
        Row { cl, rs, cells }
    }
}
