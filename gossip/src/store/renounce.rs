//! Giving up the store's site: for a store whose past others know otherwise than it does itself, or whose stamps they
//! do not take. These may be of a site that it gave up before, for another reason.
//!
//! What the site wrote above some version is written again under a site that nobody has met, with a fresh reading; what
//! readers see stays as it is. The old site becomes one like any other: its head goes back to that version, and what peers
//! have of it above comes by a pull.
//!
//! No version is made of it that could be pushed. A row may have cells of others beside the ones that are written again,
//! and only a whole row, as a pull brings it, says that truly. Peers see the new head, and pull.

use std::collections::BTreeMap;
use std::sync::Arc;

use kith_gossip_proto::{Digest, Hlc, HybridClock, Key, Name, Part, SiteId, Stamp, Vector};
use rusqlite::{OptionalExtension, params};

use super::commit::SchemaChange;
use super::error::ExecuteError;
use super::flush::all_stamps;
use super::group::{Sum, run};
use super::ledger::{Spot, damaged, signed};
use super::merge::{Merge, Ours};
use super::open::{Durability, set_durability};
use super::stamps::{Damaged, Stamps};
use super::table::Table;
use super::wall::wall_ms;
use super::writer::Core;

/// Entries of the log that are looked at in one go.
const PAGE: u32 = 1_000;

/// What became of the store's site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renounced {
    /// The site that was given up.
    pub old: SiteId,
    /// The last of its versions that stand.
    pub kept: u64,
    /// The store's site from here on.
    pub site: SiteId,
    /// Rows that were stamped anew.
    pub rows: u64,
}

/// An entry of the log: version and position of a stamp, and where it says that the row is.
type Entry = ((u64, u32), i64, Spot);

/// The stamps of some sites, each above a version.
#[derive(Clone, Debug)]
pub(crate) struct Above(BTreeMap<SiteId, u64>);

impl Above {
    pub(crate) fn holds(&self, stamp: Stamp) -> bool {
        self.0.get(&stamp.site).is_some_and(|&version| stamp.version > version)
    }
}

impl Core {
    /// Whoever wants a site given up means this one. Two peers may ask for it, and what they say is of no other.
    pub(crate) fn still(&self, site: SiteId) -> Result<(), ExecuteError> {
        let gone = || ExecuteError::Failed("the store has given up this site already".to_owned());
        (site == self.ledger.own()).then_some(()).ok_or_else(gone)
    }

    /// Gives up the store's site if peers take none of its versions from these numbers on, or none of a site that it had
    /// before. What of others' sites they take is not for it to say.
    pub(crate) fn renounce_refused(
        &mut self,
        refused: &Vector,
        latest: Hlc,
    ) -> Result<Option<Renounced>, ExecuteError> {
        let kept = refused.head(self.ledger.own()).checked_sub(1);
        let ours = kept.is_some() || self.earlier_until(latest)?.keys().any(|&site| refused.head(site) > 0);
        ours.then(|| self.renounce(kept.unwrap_or(u64::MAX), latest)).transpose()
    }

    /// Gives up the store's site but for its versions up to `kept`, and of those that it had before what is later than
    /// `latest`. Synced, whatever the durability: whoever takes up the
    /// old site again after a power cut has learnt nothing.
    pub(crate) fn renounce(&mut self, kept: u64, latest: Hlc) -> Result<Renounced, ExecuteError> {
        let (before, reserved) = (self.ledger.clone(), self.reserved);
        set_durability(&self.conn, Durability::Full)?;
        let done = self.renounced(kept, latest);
        if done.is_ok() {
            self.tell_commit(Sum::default(), SchemaChange::Same);
        } else {
            self.roll_back();
            (self.ledger, self.reserved) = (before, reserved);
        }
        set_durability(&self.conn, self.durability)?;
        done
    }

    fn renounced(&mut self, kept: u64, latest: Hlc) -> Result<Renounced, ExecuteError> {
        run(&self.conn, "/*kith*/ BEGIN IMMEDIATE")?;
        let old = self.ledger.own();
        let kept = kept.min(self.ledger.sites.heads().head(old)).min(self.last_until(old, latest)?);
        let mut above = self.earlier_until(latest)?;
        above.insert(old, kept);
        let above = Above(above);
        self.turn_back(&above, latest);
        let site = self.conn.query_row("SELECT randomblob(16)", [], |row| row.get(0))?;
        let ord = self.ledger.sites.begin(SiteId::new(site));
        self.ledger.version = 0;
        let rows = self.restamp(&above)?;
        for (&site, &kept) in &above.0 {
            // The stamps that went were met once more.
            self.ledger.sites.turn_back(site, latest);
            self.ledger.sites.set_back(site, kept);
            self.ledger.purged_up_to(&self.conn, site, kept)?;
        }
        self.ledger.save(&self.conn)?;
        // What it wrote up to there may be known to nobody else.
        self.conn.execute("UPDATE __kith_site SET state = 1 WHERE id = ?1", [old.as_bytes()])?;
        // Nothing is reserved of the new site, and of readings no more than there were or the clock was set back to.
        self.reserved = (self.ledger.version, self.reserved.1.min(self.ledger.clock.last()));
        self.conn.execute(
            "UPDATE __kith_meta SET self = ?1, reserved_ver = 0, reserved_hlc = ?2, fresh = 1, renounced = renounced + 1",
            [i64::from(ord), signed(self.reserved.1.to_bits())],
        )?;
        run(&self.conn, "/*kith*/ COMMIT")?;
        Ok(Renounced { old, kept, site: self.ledger.own(), rows })
    }

    /// Sets the clock back, if it is later: to what others have written, or we in good time.
    fn turn_back(&mut self, above: &Above, latest: Hlc) {
        if self.ledger.clock.last() > latest {
            above.0.keys().for_each(|&site| self.ledger.sites.turn_back(site, latest));
            self.ledger.clock = HybridClock::new(self.ledger.sites.hlc());
        }
    }

    /// The sites that it had before and that stamped later than this, each with its last version below all of these.
    fn earlier_until(&mut self, latest: Hlc) -> Result<BTreeMap<SiteId, u64>, ExecuteError> {
        let earlier = {
            let mut statement = self.conn.prepare_cached("/*kith*/ SELECT id FROM __kith_site WHERE state = 1")?;
            let earlier = statement.query_map([], |row| row.get(0).map(SiteId::new))?;
            earlier.collect::<rusqlite::Result<Vec<_>>>()?
        };
        let late = earlier.into_iter().filter(|&site| self.ledger.sites.hlc_of(site) > latest).collect::<Vec<_>>();
        late.into_iter()
            .map(|site| Ok((site, self.last_until(site, latest)?.min(self.ledger.sites.heads().head(site)))))
            .collect()
    }

    /// The last version of an own site below all of its stamps that are later than this. They rise with its versions.
    fn last_until(&mut self, own: SiteId, latest: Hlc) -> Result<u64, ExecuteError> {
        if self.ledger.sites.hlc_of(own) <= latest {
            return Ok(u64::MAX);
        }
        let (mut last, mut first) = ((i64::MAX.cast_unsigned(), u32::MAX), u64::MAX);
        loop {
            let page = self.page_below(own, last)?;
            let Some(&(at, ..)) = page.last() else { return Ok(first.saturating_sub(1)) };
            last = at;
            for (at, table, spot) in page {
                let stamps = self.stamps_at(table, &spot)?;
                let found =
                    stamps.into_iter().find(|stamp| (stamp.site, stamp.version, stamp.seq) == (own, at.0, at.1));
                match found {
                    Some(stamp) if stamp.hlc <= latest => return Ok(first.saturating_sub(1)),
                    Some(_) => first = at.0,
                    None => {}
                }
            }
        }
    }

    fn page_below(&self, site: SiteId, before: (u64, u32)) -> rusqlite::Result<Vec<Entry>> {
        let mut statement = self.conn.prepare_cached(
            "/*kith*/ SELECT ver, seq, tid, k FROM __kith_log
             WHERE site = ?1 AND (ver, seq) < (?2, ?3) ORDER BY ver DESC, seq DESC LIMIT ?4",
        )?;
        let bound = params![self.ledger.sites.ord(site), signed(before.0), before.1, PAGE];
        let rows = statement.query_map(bound, entry)?;
        rows.collect()
    }

    fn stamps_at(&mut self, id: i64, spot: &Spot) -> rusqlite::Result<Vec<Stamp>> {
        let tables = Arc::clone(&self.tables);
        let merge = Merge { conn: &self.conn, ledger: &mut self.ledger };
        let table = match (tables.by_id(id), spot) {
            (Some(table), _) => table,
            (None, Spot::Key(key)) => return Ok(merge.ledger.aside(merge.conn, id, key)?.stamps()),
            (None, Spot::Row(_)) => return Ok(Vec::new()),
        };
        let Some(key) = merge.key_at(table, spot)? else { return Ok(Vec::new()) };
        Ok(match merge.load(table, &key)? {
            Ours::Nothing => Vec::new(),
            Ours::Tomb(stamps) => vec![stamps.rs()],
            Ours::Aside(aside) => aside.stamps(),
            Ours::Live(live) => all_stamps(&live.stamps, &live.aside),
        })
    }

    /// Gives every row that carries such a stamp one of the own site's next version instead. How many there are.
    fn restamp(&mut self, above: &Above) -> Result<u64, ExecuteError> {
        let mut next = Stamp { hlc: self.ledger.clock.last(), site: self.ledger.own(), version: 1, seq: 0 };
        for (&site, &version) in &above.0 {
            let mut last = (version, u32::MAX);
            loop {
                let page = self.page(site, last)?;
                let Some(&(at, ..)) = page.last() else { break };
                last = at;
                if next.seq == 0 {
                    next.hlc = self.ledger.clock.tick(wall_ms(self.shared.highest()));
                    self.ledger.version = next.version;
                    self.ledger.sites.raise(next.site, next.version);
                }
                for (_, table, spot) in page {
                    if self.restamp_row(table, &spot, above, next)? == Found::Restamped {
                        let full = || ExecuteError::Failed("more rows than a version can name".to_owned());
                        next.seq = next.seq.checked_add(1).ok_or_else(full)?;
                    }
                }
            }
        }
        Ok(u64::from(next.seq))
    }

    /// The next entries of the log.
    fn page(&self, site: SiteId, after: (u64, u32)) -> rusqlite::Result<Vec<Entry>> {
        let mut statement = self.conn.prepare_cached(
            "/*kith*/ SELECT ver, seq, tid, k FROM __kith_log
             WHERE site = ?1 AND ver >= ?2 AND (ver, seq) > (?2, ?3) ORDER BY ver, seq LIMIT ?4",
        )?;
        let bound = params![self.ledger.sites.ord(site), signed(after.0), after.1, PAGE];
        let rows = statement.query_map(bound, entry)?;
        rows.collect()
    }

    fn restamp_row(&mut self, id: i64, spot: &Spot, above: &Above, stamp: Stamp) -> rusqlite::Result<Found> {
        let tables = Arc::clone(&self.tables);
        let mut merge = Merge { conn: &self.conn, ledger: &mut self.ledger };
        match (tables.by_id(id), spot) {
            (Some(table), spot) => match merge.key_at(table, spot)? {
                Some(key) => merge.restamp(table, &key, above, stamp),
                None => Ok(Found::Nothing),
            },
            (None, Spot::Key(key)) => {
                let name: Option<String> = merge
                    .conn
                    .query_row("SELECT name FROM __kith_table WHERE tid = ?1", [id], |row| row.get(0))
                    .optional()?;
                name.map_or(Ok(Found::Nothing), |name| {
                    merge.restamp_aside(id, &name.as_str().into(), key, above, stamp)
                })
            }
            (None, Spot::Row(_)) => Ok(Found::Nothing),
        }
    }
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    let spot = Spot::read(row.get_ref(3)?).ok_or_else(|| damaged(Damaged))?;
    Ok(((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?), row.get(2)?, spot))
}

/// What was where the log points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Restamped,
    /// None of the stamps that are looked for: the row has two of them and was met before, or the log is wrong.
    Nothing,
}

impl Merge<'_> {
    /// The key of the row at a place.
    fn key_at(&self, table: &Table, spot: &Spot) -> rusqlite::Result<Option<Key>> {
        match spot {
            Spot::Key(key) => Ok(Some(key.clone())),
            Spot::Row(rowid) => {
                let mut read = self.conn.prepare_cached(&table.sql.read)?;
                let values = read.query_row([rowid], |row| table.values(row, 0)).optional()?;
                Ok(values.and_then(|values| table.key_of(&values).ok()))
            }
        }
    }

    fn restamp(&mut self, table: &Table, key: &Key, above: &Above, stamp: Stamp) -> rusqlite::Result<Found> {
        let spot = Spot::Key(key.clone());
        match self.load(table, key)? {
            Ours::Nothing => Ok(Found::Nothing),
            Ours::Aside(_) => self.restamp_aside(table.id, &table.name, key, above, stamp),
            Ours::Tomb(old) if above.holds(old.rs()) => {
                let went = Digest::row(&table.name, key, old.cl, old.rs());
                let came = Digest::row(&table.name, key, old.cl, stamp);
                let new = Stamps::fresh(old.cl, stamp, 0).sealed(came);
                self.ledger.digests.take(Part::of(old.cl, old.rs()), went);
                self.ledger.digests.add(Part::of(new.cl, stamp), came);
                self.ledger.put_tomb(self.conn, table, key, &new)?;
                self.ledger.log(self.conn, table.id, Some((&spot, &[old.rs()])), Some((&spot, &[stamp])))?;
                Ok(Found::Restamped)
            }
            Ours::Tomb(_) => Ok(Found::Nothing),
            Ours::Live(mut live) => {
                let before = all_stamps(&live.stamps, &live.aside);
                if !before.iter().any(|&stamp| above.holds(stamp)) {
                    return Ok(Found::Nothing);
                }
                self.ledger.digests.take(Part::Live, live.digest(table, key));
                let held = live.aside.clone();
                let went = table.terms(key, &live.stamps, &live.values);
                live.stamps.replace(|stamp| above.holds(stamp), stamp);
                live.stamps.reseal(went, table.terms(key, &live.stamps, &live.values));
                live.aside.replace(above, stamp);
                self.ledger.digests.add(Part::Live, live.digest(table, key));
                self.ledger.set_aside(self.conn, table.id, key, &held, &live.aside)?;
                self.ledger.put_stamps(self.conn, table, &live.spot, &live.stamps)?;
                let after = all_stamps(&live.stamps, &live.aside);
                self.ledger.log(self.conn, table.id, Some((&live.spot, &before)), Some((&live.spot, &after)))?;
                Ok(Found::Restamped)
            }
        }
    }

    /// A row that is set aside whole.
    fn restamp_aside(
        &mut self,
        id: i64,
        name: &Name,
        key: &Key,
        above: &Above,
        stamp: Stamp,
    ) -> rusqlite::Result<Found> {
        let before = self.ledger.aside(self.conn, id, key)?;
        let mut after = before.clone();
        after.replace(above, stamp);
        if before == after {
            return Ok(Found::Nothing);
        }
        self.ledger.digests.take(before.part(), before.digest(name, key));
        self.ledger.digests.add(after.part(), after.digest(name, key));
        self.ledger.set_aside(self.conn, id, key, &before, &after)?;
        let spot = Spot::Key(key.clone());
        self.ledger.log(self.conn, id, Some((&spot, &before.stamps())), Some((&spot, &after.stamps())))?;
        Ok(Found::Restamped)
    }
}
