//! A store in memory with the contract of the one in SQLite, for tests: what the real one must equal.
//!
//! Small enough to be believed by reading. It keeps what the real one keeps (rows, heads, log, digest), incrementally,
//! and can recompute what is derived ([`Store::verify`]). [`fold`] says the same once more without [`Row::join`], so that
//! the merge itself has a witness.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

mod damage;

pub use damage::{Keep, PROVEN};

use crate::frame::PulledRow;
use crate::purged::{Away, Purged, away};
use crate::version::Life;
use crate::{
    Cell, Change, Digest, Digests, Hlc, HybridClock, Key, Name, Part, Replay, Row, SiteId, Stamp, Value, Vector,
    Version,
};

/// A row's table and primary key.
pub type RowId = (Name, Key);

/// Where a stamp stands: site, version, position within the version.
pub type LogId = (SiteId, u64, u32);

/// What readers see of a row: its columns, or that there is none.
pub type Image = Option<BTreeMap<Name, Value>>;

/// A replicated store.
#[derive(Clone, Debug)]
pub struct Store {
    site: SiteId,
    /// Its earlier sites.
    was: BTreeSet<SiteId>,
    clock: HybridClock,
    heads: Vector,
    /// The site's next version is above this.
    reserved: u64,
    rows: BTreeMap<RowId, Row>,
    log: BTreeMap<LogId, RowId>,
    digests: Digests,
    purged: Purged,
    /// Per row the sum of its terms, kept like the digest: what the store in SQLite keeps some bits of.
    seals: BTreeMap<RowId, Digest>,
}

/// A statement of a local transaction, on one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `INSERT OR REPLACE`: these are the row's columns afterwards. Others that it had become NULL.
    Put(RowId, BTreeMap<Name, Value>),
    /// `UPDATE` of these columns. Nothing if there is no such row.
    Update(RowId, BTreeMap<Name, Value>),
    /// `DELETE`. Nothing if there is no such row.
    Delete(RowId),
    /// `UPDATE OR REPLACE` of the primary key. Nothing if there is no such row.
    Rekey(RowId, Key),
}

/// What a peer that pulls is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Every row with a stamp above the asked heads, whole.
    pub rows: Vec<PulledRow>,
    /// The heads of the store that answered.
    pub heads: Vector,
    /// What it has purged.
    pub purged: Purged,
}

/// What a store kept does not follow from its rows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    /// The digest that was kept is not that of the rows.
    #[error("digest {kept} was kept, the rows have {rows}")]
    Digest {
        /// As kept, change by change.
        kept: Digest,
        /// As recomputed.
        rows: Digest,
    },
    /// The log does not name exactly the stamps that survive.
    #[error("the log lacks {missing:?} and has {extra:?} too many")]
    Log {
        /// Stamps of rows that the log does not name.
        missing: Vec<LogId>,
        /// Entries that no row carries.
        extra: Vec<LogId>,
    },
    /// A row carries a stamp beyond the heads.
    #[error("the row {0:?} carries {1:?}, which is above the heads")]
    Ahead(RowId, Stamp),
}

impl Store {
    /// An empty store of this site.
    pub fn new(site: SiteId) -> Self {
        Self {
            site,
            was: BTreeSet::new(),
            clock: HybridClock::default(),
            heads: Vector::default(),
            reserved: 0,
            rows: BTreeMap::new(),
            log: BTreeMap::new(),
            digests: Digests::default(),
            purged: Purged::default(),
            seals: BTreeMap::new(),
        }
    }

    /// Commits a transaction: one change per row that differs at its end from its beginning, all under one stamp. `None`
    /// if nothing differs.
    pub fn transact(&mut self, wall_ms: u64, statements: &[Statement]) -> Option<Version> {
        let mut images = BTreeMap::new();
        for statement in statements {
            self.execute(statement, &mut images);
        }
        let changes: Vec<_> = images.into_iter().filter_map(|(id, image)| self.change(id, image)).collect();
        if changes.is_empty() {
            return None;
        }
        let number = self.heads.head(self.site).max(self.reserved) + 1;
        let version = Version { site: self.site, version: number, hlc: self.clock.tick(wall_ms), changes };
        self.apply_unchecked(&version);
        Some(version)
    }

    fn execute(&self, statement: &Statement, images: &mut BTreeMap<RowId, Image>) {
        let now =
            |images: &BTreeMap<RowId, Image>, id: &RowId| images.get(id).cloned().unwrap_or_else(|| self.image(id));
        match statement {
            Statement::Put(id, columns) => {
                let image = replaced(now(images, id), columns.clone());
                images.insert(id.clone(), Some(image));
            }
            Statement::Update(id, columns) => {
                if let Some(mut image) = now(images, id) {
                    image.extend(columns.clone());
                    images.insert(id.clone(), Some(image));
                }
            }
            Statement::Delete(id) => {
                images.insert(id.clone(), None);
            }
            Statement::Rekey(id, key) => {
                let target = (id.0.clone(), key.clone());
                if let Some(image) = now(images, id).filter(|_| target != *id) {
                    let image = replaced(now(images, &target), image);
                    images.insert(id.clone(), None);
                    images.insert(target, Some(image));
                }
            }
        }
    }

    /// The change from the row as it is to the row as readers shall see it.
    fn change(&self, id: RowId, after: Image) -> Option<Change> {
        let before = self.image(&id);
        let row = self.rows.get(&id);
        let cl = row.map_or(0, |row| row.cl);
        // Above every length that the key may have had: one without state may be one whose tombstone is gone.
        let next = (cl.max(self.purged.length(&id.0)) + 1) | 1;
        let (cl, life, cells) = match (before, after) {
            (None, None) => return None,
            (None, Some(after)) => (next, Life::Changed, after),
            (Some(_), None) => (cl + 1, Life::Changed, BTreeMap::new()),
            (Some(before), Some(mut after)) => {
                after.retain(|column, value| before.get(column) != Some(value));
                if after.is_empty() {
                    return None;
                }
                (cl, Life::Since(row.map_or(Stamp::ZERO, |row| row.rs)), after)
            }
        };
        let (table, key) = id;
        Some(Change { table, key, cl, life, cells })
    }

    /// Applies those versions that are next of their site and need nothing unknown, each whole; skips the others.
    /// Returns the heads after it.
    pub fn apply<'a>(&mut self, versions: impl IntoIterator<Item = &'a Version>) -> &Vector {
        for version in versions {
            if !self.may_have_forgotten(version) {
                self.apply_next(version);
            }
        }
        &self.heads
    }

    /// Applies a version, if that is its turn, whatever was purged. For [`Store::apply`], and to show what its last rule is for.
    pub fn apply_next(&mut self, version: &Version) {
        let known = version.version <= self.heads.head(version.site);
        if !known && self.heads.covers(&version.needs()) {
            self.apply_unchecked(version);
        }
    }

    /// Whether it changes a row without state whose deletion may be what was purged here: its writer may not have heard of
    /// that. The rows of whoever has applied the version say what became of it.
    fn may_have_forgotten(&self, version: &Version) -> bool {
        version.changes.iter().any(|change| {
            let id = (change.table.clone(), change.key.clone());
            change.cl <= self.purged.length(&change.table) && !self.rows.contains_key(&id)
        })
    }

    /// Applies a version whatever it needs. For own ones, and for tests that show what the rule of [`Store::apply`] is for.
    pub fn apply_unchecked(&mut self, version: &Version) {
        for (change, row) in version.rows() {
            self.merge((change.table.clone(), change.key.clone()), row);
        }
        self.heads.raise(version.site, version.version);
        self.clock.observe(version.hlc);
    }

    /// Every row that carries a stamp above these heads, from the log.
    pub fn collect(&self, above: &Vector) -> Answer {
        let unknown = |site: SiteId| (site, above.head(site) + 1, 0)..=(site, u64::MAX, u32::MAX);
        let ids: BTreeSet<_> =
            self.heads.iter().flat_map(|(site, _)| self.log.range(unknown(site))).map(|(_, id)| id).collect();
        let row = |id: &RowId| {
            let row = self.rows.get(id)?.clone();
            Some(PulledRow { table: id.0.clone(), key: id.1.clone(), row })
        };
        let (heads, purged) = (self.heads.clone(), self.purged.clone());
        Answer { rows: ids.into_iter().filter_map(row).collect(), heads, purged }
    }

    /// Joins an answer, in one transaction.
    pub fn join(&mut self, rows: impl IntoIterator<Item = PulledRow>, heads: &Vector) -> &Vector {
        for PulledRow { table, key, row } in rows {
            row.stamps().iter().for_each(|stamp| self.clock.observe(stamp.hlc));
            self.merge((table, key), row);
        }
        self.heads.join(heads);
        &self.heads
    }

    /// Takes an answer of a peer, if neither has been away for too long: then nothing changes.
    pub fn take(&mut self, answer: Answer) -> Away {
        let Answer { rows, heads, purged } = answer;
        let away = away(&self.heads, &self.purged.through, &heads, &purged.through);
        if away == Away::Nobody {
            self.join(rows, &heads);
            self.purged.join(&purged);
        }
        away
    }

    /// Begins anew as another site, with what a peer has: a store that was away for too long. What it alone had is written
    /// again, as one version; returns that, and the rows whose writes are lost.
    pub fn begin_anew(&mut self, answer: Answer, site: SiteId, wall_ms: u64) -> (Option<Version>, Vec<RowId>) {
        let old = std::mem::replace(self, Self::new(site));
        self.was = old.was.into_iter().chain([old.site]).collect();
        self.clock = old.clock;
        self.join(answer.rows, &answer.heads);
        self.purged = answer.purged;
        let (heads, was) = (self.heads.clone(), self.was.clone());
        let unsent = |stamp: Stamp| was.contains(&stamp.site) && stamp.version > heads.head(stamp.site);
        let (mut changes, mut lost) = (Vec::new(), Vec::new());
        for (id, row) in &old.rows {
            let new = self.rows.get(id);
            match Replay::of(row, new, unsent) {
                Replay::Lost => lost.push(id.clone()),
                replay => changes.extend(replay.change(&id.0, &id.1, new, self.purged.length(&id.0))),
            }
        }
        if changes.is_empty() {
            return (None, lost);
        }
        let version = Version { site, version: 1, hlc: self.clock.tick(wall_ms), changes };
        self.apply_unchecked(&version);
        (Some(version), lost)
    }

    /// The versions, per site the last one, of tombstones that were made before this reading and are covered.
    pub fn due(&self, covered: &Vector, before: Hlc) -> Vector {
        let dead = self.rows.values().filter(|row| !row.is_alive() && row.rs.hlc < before);
        let due = dead.map(|row| (row.rs.site, row.rs.version));
        due.filter(|&(site, version)| version <= covered.head(site)).collect()
    }

    /// Forgets the tombstones of these versions and earlier ones.
    pub fn purge(&mut self, through: &Vector) {
        let due = |row: &Row| !row.is_alive() && row.rs.version <= through.head(row.rs.site);
        for (id, row) in self.rows.extract_if(.., |_, row| due(row)) {
            self.digests.take(Part::of(row.cl, row.rs), Digest::of(&id.0, &id.1, &row));
            self.log.remove(&log_id(row.rs));
            self.purged.note(&id.0, row.cl, row.rs);
        }
    }

    fn merge(&mut self, id: RowId, theirs: Row) {
        let after = match self.rows.get(&id) {
            Some(ours) => {
                let mut row = ours.clone();
                row.join(theirs);
                row
            }
            None => theirs,
        };
        self.put(id, after);
    }

    /// Puts a row in the place of what is there.
    fn put(&mut self, id: RowId, after: Row) {
        let came = Digest::of(&id.0, &id.1, &after);
        let mut seal = came;
        if let Some(before) = self.rows.remove(&id) {
            let went = Digest::of(&id.0, &id.1, &before);
            if before.cl == after.cl {
                // Change by change, so that what was broken before is broken after.
                seal = self.seals.get(&id).copied().unwrap_or_default();
                seal -= went;
                seal += came;
            }
            self.digests.take(Part::of(before.cl, before.rs), went);
            before.stamps().iter().for_each(|stamp| drop(self.log.remove(&log_id(*stamp))));
        }
        self.digests.add(Part::of(after.cl, after.rs), came);
        self.log.extend(after.stamps().into_iter().map(|stamp| (log_id(stamp), id.clone())));
        self.seals.insert(id.clone(), seal);
        self.rows.insert(id, after);
    }

    /// Takes another site id, and stamps what the old one wrote above `kept` anew: one change per row, in the order of the
    /// log. The old site's head goes back.
    pub fn renounce(&mut self, kept: u64, site: SiteId, hlc: Hlc) {
        self.give_up(&[(self.site, kept)].into(), site, hlc);
    }

    /// The same of several sites, the store's own and some that it had before, each but for its versions up to one.
    fn give_up(&mut self, above: &BTreeMap<SiteId, u64>, site: SiteId, hlc: Hlc) {
        self.become_site(site);
        let logged =
            above.iter().flat_map(|(&old, &kept)| self.log.range((old, kept + 1, 0)..=(old, u64::MAX, u32::MAX)));
        let mut met = BTreeSet::new();
        let ids: Vec<_> = logged.map(|(_, id)| id.clone()).filter(|id| met.insert(id.clone())).collect();
        for (id, seq) in ids.into_iter().zip(0..) {
            let mut row = self.rows[&id].clone();
            let given_up = |stamp: &&mut Stamp| above.get(&stamp.site).is_some_and(|&kept| stamp.version > kept);
            let stamps = row.cells.values_mut().map(|cell| &mut cell.stamp).chain([&mut row.rs]);
            stamps.filter(given_up).for_each(|stamp| *stamp = Stamp { hlc, site, version: 1, seq });
            self.put(id, row);
            self.heads.raise(site, 1);
        }
        above.iter().for_each(|(&old, &kept)| self.heads.set_back(old, kept));
        self.clock.observe(hlc);
    }

    /// The same for a store whose clock was ahead, and whose versions peers refuse from these numbers on: what its site, or
    /// one that it had before, stamped later than `latest` is given up, too, and its clock goes back to that, or to what
    /// others have stamped. Returns the sites that were given up, each with its last version that stands, and what was
    /// stamped anew, as the version that it would be in a history. None where nothing that is refused is of its own.
    pub fn renounce_later(
        &mut self,
        refused: &Vector,
        latest: Hlc,
        site: SiteId,
        wall_ms: u64,
    ) -> Option<(BTreeMap<SiteId, u64>, Option<Version>)> {
        let stamps: Vec<_> = self.rows.values().flat_map(Row::stamps).collect();
        let late = |site: SiteId| stamps.iter().filter(move |stamp| stamp.site == site && stamp.hlc > latest);
        let sound = |site: SiteId| late(site).map(|stamp| stamp.version - 1).min();
        let earlier = self.was.iter().filter_map(|&site| Some((site, sound(site)?)));
        let mut above: BTreeMap<_, _> = earlier.collect();
        let own = refused.head(self.site).checked_sub(1);
        if own.is_none() && !above.keys().any(|&site| refused.head(site) > 0) {
            return None;
        }
        let kept = own.unwrap_or(u64::MAX).min(sound(self.site).unwrap_or(u64::MAX)).min(self.heads.head(self.site));
        above.insert(self.site, kept);
        if self.clock.last() > latest {
            let others = stamps.iter().filter(|stamp| !above.contains_key(&stamp.site)).map(|stamp| stamp.hlc);
            self.clock = HybridClock::new(others.fold(latest, Hlc::max));
        }
        let hlc = self.clock.tick(wall_ms);
        self.give_up(&above, site, hlc);
        let anew = self.log.range((site, 1, 0)..=(site, 1, u32::MAX)).map(|(_, id)| self.stamped_by(id, site));
        let changes: Vec<_> = anew.collect();
        Some((above, (!changes.is_empty()).then_some(Version { site, version: 1, hlc, changes })))
    }

    /// What of a row is this site's.
    fn stamped_by(&self, id: &RowId, site: SiteId) -> Change {
        let Row { cl, rs, cells } = &self.rows[id];
        let life = if rs.site == site { Life::Changed } else { Life::Since(*rs) };
        let own = cells.iter().filter(|(_, cell)| cell.stamp.site == site);
        let cells = own.map(|(name, cell)| (name.clone(), cell.value.clone())).collect();
        Change { table: id.0.clone(), key: id.1.clone(), cl: *cl, life, cells }
    }

    /// Takes another site id, as a store must that may have lost versions which others have seen. What the old site had
    /// committed comes back from them like anyone's.
    pub fn become_site(&mut self, site: SiteId) {
        self.was.insert(std::mem::replace(&mut self.site, site));
        self.reserved = 0;
    }

    /// Goes on numbering above `version`, as a store that reserves numbers in blocks does after it was killed. Nobody may
    /// have seen what was in the hole.
    pub fn leave_hole(&mut self, version: u64) {
        self.reserved = version;
    }

    /// Recomputes from the rows what is kept change by change.
    pub fn verify(&self) -> Result<(), Damage> {
        let mut rows = Digests::default();
        let mut log = BTreeSet::new();
        for (id, row) in &self.rows {
            rows.add(Part::of(row.cl, row.rs), Digest::of(&id.0, &id.1, row));
            for stamp in row.stamps() {
                log.insert((log_id(stamp), id));
                if stamp.version > self.heads.head(stamp.site) {
                    return Err(Damage::Ahead(id.clone(), stamp));
                }
            }
        }
        if rows != self.digests {
            return Err(Damage::Digest { kept: self.digests.total(), rows: rows.total() });
        }
        let kept: BTreeSet<_> = self.log.iter().map(|(&at, id)| (at, id)).collect();
        let names = |set: BTreeSet<(LogId, &RowId)>| set.into_iter().map(|(at, _)| at).collect();
        if kept == log { Ok(()) } else { Err(Damage::Log { missing: names(&log - &kept), extra: names(&kept - &log) }) }
    }

    /// Whether the version would change nothing here: it was applied, or all of it was overwritten since.
    pub fn holds(&self, version: &Version) -> bool {
        version.rows().all(|(change, row)| {
            let ours = self.rows.get(&(change.table.clone(), change.key.clone()));
            ours.is_some_and(|ours| {
                let mut joined = ours.clone();
                joined.join(row);
                joined == *ours
            })
        })
    }

    /// Whose store it is.
    pub fn site(&self) -> SiteId {
        self.site
    }

    /// Whose it was.
    pub fn was(&self) -> &BTreeSet<SiteId> {
        &self.was
    }

    /// What was purged.
    pub fn purged(&self) -> &Purged {
        &self.purged
    }

    /// The latest reading of its clock.
    pub fn held(&self) -> Hlc {
        self.clock.last()
    }

    /// The heads.
    pub fn heads(&self) -> &Vector {
        &self.heads
    }

    /// The rows' states, tombstones included.
    pub fn rows(&self) -> &BTreeMap<RowId, Row> {
        &self.rows
    }

    /// Which row each surviving stamp is in.
    pub fn log(&self) -> &BTreeMap<LogId, RowId> {
        &self.log
    }

    /// The digest, as kept.
    pub fn digest(&self) -> Digest {
        self.digests.total()
    }

    /// Its parts, as kept.
    pub fn digests(&self) -> &Digests {
        &self.digests
    }

    /// What readers see of a row.
    pub fn image(&self, id: &RowId) -> Image {
        let row = self.rows.get(id).filter(|row| row.is_alive())?;
        Some(row.cells.iter().map(|(column, cell)| (column.clone(), cell.value.clone())).collect())
    }
}

fn log_id(stamp: Stamp) -> LogId {
    (stamp.site, stamp.version, stamp.seq)
}

/// What is left of a row's columns once it is replaced: those not given have their default, here NULL.
fn replaced(before: Image, mut columns: BTreeMap<Name, Value>) -> BTreeMap<Name, Value> {
    for column in before.unwrap_or_default().into_keys() {
        columns.entry(column).or_insert(Value::Null);
    }
    columns
}

/// The rows that these versions amount to, whatever their order: per row the greatest causal length decides, and of the
/// changes at that length the greatest stamp of each column.
pub fn fold<'a>(versions: impl IntoIterator<Item = &'a Version>) -> BTreeMap<RowId, Row> {
    let mut written: BTreeMap<RowId, Vec<(Stamp, &Change)>> = BTreeMap::new();
    for version in versions {
        for (change, seq) in version.changes.iter().zip(0..) {
            let id = (change.table.clone(), change.key.clone());
            written.entry(id).or_default().push((version.stamp(seq), change));
        }
    }
    written.into_iter().map(|(id, changes)| (id, fold_row(changes))).collect()
}

fn fold_row(mut changes: Vec<(Stamp, &Change)>) -> Row {
    let cl = changes.iter().map(|(_, change)| change.cl).max().unwrap_or(0);
    changes.retain(|(_, change)| change.cl == cl);
    changes.sort_by_key(|&(stamp, _)| stamp);
    let rs = changes.iter().map(|&(stamp, change)| match change.life {
        Life::Changed => stamp,
        Life::Since(rs) => rs,
    });
    let rs = rs.max().unwrap_or(Stamp::ZERO);
    let mut cells = BTreeMap::new();
    for (stamp, change) in changes {
        cells.extend(change.cells.iter().map(|(name, value)| (name.clone(), Cell { stamp, value: value.clone() })));
    }
    Row { cl, rs, cells }
}
