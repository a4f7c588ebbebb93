//! What is kept beside the rows: their stamps, tombstones, the log, the digest, the clock.
//!
//! The invariants, which [`verify`](super::verify) recomputes: a row has stamps exactly while it is alive, and a
//! tombstone exactly while it is deleted; a log row exists exactly while some cell, or the row itself, carries its stamp;
//! the digest is the sum over all of it; every head covers every stamp of its site.

use std::collections::BTreeMap;
use std::sync::Arc;

use kith_gossip_proto::{Day, Digest, Digests, Hlc, HybridClock, Key, Purged, SiteId, Stamp};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, params};

use super::forgotten;
use super::sites::Sites;
use super::stamps::{Damaged, Stamps};
use super::table::Table;

/// The part of the bookkeeping that is held in memory. Cloned before anything that may be rolled back.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pub(crate) sites: Sites,
    pub(crate) clock: HybridClock,
    pub(crate) digests: Digests,
    /// The digests as the file has them.
    kept: Digests,
    /// What is left of tombstones that were purged.
    pub(crate) purged: Arc<Purged>,
    kept_purged: Arc<Purged>,
    /// The last own version that was used.
    pub(crate) version: u64,
    /// The last commit.
    pub(crate) commits: u64,
    /// Per table: how much is set aside in `__kith_unknown`. Tables with nothing there are absent.
    pub(crate) aside: BTreeMap<i64, u64>,
}

/// Where a row is, as the log says it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spot {
    /// A live row of a table with rowids.
    Row(i64),
    /// A live row of a table without, a tombstone, or a row that is set aside.
    Key(Key),
}

impl Spot {
    /// Reads what [`ToSql`](rusqlite::ToSql) writes.
    pub(crate) fn read(k: ValueRef<'_>) -> Option<Self> {
        match k {
            ValueRef::Integer(rowid) => Some(Self::Row(rowid)),
            ValueRef::Blob(bytes) => Key::from_bytes(bytes).ok().map(Self::Key),
            ValueRef::Null | ValueRef::Real(_) | ValueRef::Text(_) => None,
        }
    }
}

impl rusqlite::ToSql for Spot {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Row(rowid) => ValueRef::Integer(*rowid),
            Self::Key(key) => ValueRef::Blob(key.as_bytes()),
        }))
    }
}

/// A row's place and the stamps it carries there.
pub(crate) type Logged<'a> = (&'a Spot, &'a [Stamp]);

impl Ledger {
    /// The bookkeeping as the file has it. The next own version is above all that were reserved, so one that a power cut
    /// took from the file, and that a peer may hold, is never given out again.
    pub(crate) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let sites = Sites::load(conn)?;
        let (version, hlc, digest, commits): (i64, i64, [u8; 16], i64) =
            conn.query_row("SELECT reserved_ver, reserved_hlc, digest, commits FROM __kith_meta", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        let clock = HybridClock::new(Hlc::from_bits(hlc.cast_unsigned()).max(sites.hlc()));
        let version = version.cast_unsigned().max(sites.heads().head(sites.own()));
        let digests = Digests::new(bits(digest), days(conn)?);
        let purged = Arc::new(forgotten::load(conn)?);
        let (aside, commits) = (Self::count_aside(conn)?, commits.cast_unsigned());
        let (kept, kept_purged) = (digests.clone(), Arc::clone(&purged));
        Ok(Self { aside, sites, clock, kept, digests, purged, kept_purged, version, commits })
    }

    pub(crate) fn own(&self) -> SiteId {
        self.sites.own()
    }

    /// The stamps of a live row.
    pub(crate) fn stamps(&self, conn: &Connection, table: &Table, spot: &Spot) -> rusqlite::Result<Option<Stamps>> {
        self.one(conn, &table.sql.stamps, spot)
    }

    /// The tombstone of a key.
    pub(crate) fn tomb(&self, conn: &Connection, table: &Table, key: &Key) -> rusqlite::Result<Option<Stamps>> {
        self.one(conn, &table.sql.tomb, key.as_bytes())
    }

    fn one(&self, conn: &Connection, sql: &str, at: impl rusqlite::ToSql) -> rusqlite::Result<Option<Stamps>> {
        let mut statement = conn.prepare_cached(sql)?;
        statement.query_row([at], |row| self.unpack(row.get_ref(0)?)).optional()
    }

    pub(crate) fn unpack(&self, bytes: ValueRef<'_>) -> rusqlite::Result<Stamps> {
        let unpacked = match bytes {
            ValueRef::Blob(bytes) => Stamps::unpack(bytes, |ord| self.sites.id(ord)),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Text(_) => Err(Damaged),
        };
        unpacked.map_err(damaged)
    }

    pub(crate) fn pack(&mut self, stamps: &Stamps) -> Vec<u8> {
        stamps.pack(|stamp| self.sites.intern(stamp))
    }

    pub(crate) fn put_stamps(
        &mut self,
        conn: &Connection,
        table: &Table,
        spot: &Spot,
        stamps: &Stamps,
    ) -> rusqlite::Result<()> {
        let bytes = self.pack(stamps);
        conn.prepare_cached(&table.sql.put_stamps)?.execute(params![spot, bytes]).map(drop)
    }

    pub(crate) fn drop_stamps(&self, conn: &Connection, table: &Table, spot: &Spot) -> rusqlite::Result<()> {
        conn.prepare_cached(&table.sql.drop_stamps)?.execute([spot]).map(drop)
    }

    pub(crate) fn put_tomb(
        &mut self,
        conn: &Connection,
        table: &Table,
        key: &Key,
        stamps: &Stamps,
    ) -> rusqlite::Result<()> {
        let bytes = self.pack(stamps);
        conn.prepare_cached(&table.sql.put_tomb)?.execute(params![key.as_bytes(), bytes]).map(drop)
    }

    pub(crate) fn drop_tomb(&self, conn: &Connection, table: &Table, key: &Key) -> rusqlite::Result<()> {
        conn.prepare_cached(&table.sql.drop_tomb)?.execute([key.as_bytes()]).map(drop)
    }

    /// Makes the log say where the stamps of a row are: those it no longer carries go, new ones come, and when the row
    /// moved all are written again.
    pub(crate) fn log(
        &mut self,
        conn: &Connection,
        table: i64,
        before: Option<Logged<'_>>,
        after: Option<Logged<'_>>,
    ) -> rusqlite::Result<()> {
        let (was, old) = before.map_or((None, [].as_slice()), |(spot, stamps)| (Some(spot), stamps));
        let (is, new) = after.map_or((None, [].as_slice()), |(spot, stamps)| (Some(spot), stamps));
        for &stamp in old.iter().filter(|stamp| !new.contains(stamp)) {
            conn.prepare_cached(
                "/*kith*/ DELETE FROM __kith_log WHERE site = ?1 AND ver = ?2 AND seq = ?3 AND tid = ?4 AND k = ?5",
            )?
            .execute(params![self.sites.intern(stamp), signed(stamp.version), stamp.seq, table, was])?;
        }
        for &stamp in new.iter().filter(|stamp| was != is || !old.contains(stamp)) {
            conn.prepare_cached(
                "/*kith*/ INSERT INTO __kith_log (site, ver, seq, tid, k) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (site, ver, seq) DO UPDATE SET tid = ?4, k = ?5",
            )?
            .execute(params![self.sites.intern(stamp), signed(stamp.version), stamp.seq, table, is])?;
        }
        Ok(())
    }

    /// Replaces the digests by what the rows add up to, and has all else written with the next [`Ledger::save`] as it is in
    /// memory, whatever the file has.
    pub(crate) fn recounted(&mut self, conn: &Connection, digests: Digests) -> rusqlite::Result<()> {
        self.aside = Self::count_aside(conn)?;
        conn.execute("DELETE FROM __kith_day", [])?;
        self.kept = Digests::default();
        self.digests = digests;
        forgotten::clear(conn)?;
        self.kept_purged = Arc::default();
        self.sites.rewrite(conn)
    }

    /// Of what was purged nothing is said any more above this version of a site, whose versions nobody will see.
    pub(crate) fn purged_up_to(&mut self, conn: &Connection, site: SiteId, version: u64) -> rusqlite::Result<()> {
        if self.purged.through.head(site) > version {
            Arc::make_mut(&mut self.purged).through.set_back(site, version);
            forgotten::clear(conn)?;
            self.kept_purged = Arc::default();
        }
        Ok(())
    }

    /// Writes what is held in memory, as part of the transaction that is about to be committed.
    pub(crate) fn save(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.sites.save(conn)?;
        self.commits += 1;
        let live = self.digests.live().to_bits().to_le_bytes();
        conn.prepare_cached("/*kith*/ UPDATE __kith_meta SET digest = ?1, commits = ?2")?
            .execute(params![live, signed(self.commits)])?;
        if !self.digests.days().eq(self.kept.days()) {
            self.save_days(conn)?;
        }
        self.kept = self.digests.clone();
        if self.purged != self.kept_purged {
            forgotten::save(conn, &self.purged, &self.kept_purged)?;
            self.kept_purged = Arc::clone(&self.purged);
        }
        Ok(())
    }

    /// Writes the days whose sum changed. There are few: a day ends to change when its tombstones are purged.
    fn save_days(&self, conn: &Connection) -> rusqlite::Result<()> {
        let (kept, now): (BTreeMap<_, _>, BTreeMap<_, _>) = (self.kept.days().collect(), self.digests.days().collect());
        let mut forget = conn.prepare_cached("/*kith*/ DELETE FROM __kith_day WHERE day = ?1")?;
        for day in kept.keys().filter(|day| !now.contains_key(day)) {
            forget.execute([day.0])?;
        }
        let mut write = conn.prepare_cached(
            "/*kith*/ INSERT INTO __kith_day (day, sum) VALUES (?1, ?2) ON CONFLICT (day) DO UPDATE SET sum = ?2",
        )?;
        for (day, sum) in now.iter().filter(|(day, sum)| kept.get(day) != Some(sum)) {
            write.execute(params![day.0, sum.to_bits().to_le_bytes()])?;
        }
        Ok(())
    }
}

fn days(conn: &Connection) -> rusqlite::Result<Vec<(Day, Digest)>> {
    let mut statement = conn.prepare("SELECT day, sum FROM __kith_day")?;
    let rows = statement.query_map([], |row| Ok((Day(row.get(0)?), bits(row.get(1)?))))?;
    rows.collect()
}

fn bits(bytes: [u8; 16]) -> Digest {
    Digest::from_bits(u128::from_le_bytes(bytes))
}

/// SQLite's integers are signed; versions stay far below the sign.
pub(crate) fn signed(number: u64) -> i64 {
    number.cast_signed()
}

pub(crate) fn damaged(error: Damaged) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
}

/// Whether an error says that bytes of ours are not what was written, and not that SQLite failed. What we write ourselves
/// has the types that we read.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..))
}

/// What was read; none when it is damaged.
pub(crate) fn readable<T>(read: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match read {
        Err(error) if is_damage(&error) => Ok(None),
        read => read.map(Some),
    }
}
