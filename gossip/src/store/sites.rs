//! The sites this store has met: small numbers for 16-byte ids, and how far each has been applied.
//!
//! A number (`ord`) is given once and never means another site, so stamps on disk stay true.
//!
//! Every row is sealed with a hash of all of it. A head that a disk has raised would be the worst of all damage: peers
//! would take it over, and skip the versions up to it when they come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kith_gossip_proto::{Hlc, SiteId, Stamp, Vector};
use rusqlite::{Connection, params};
use xxhash_rust::xxh3::xxh3_64;

use super::ledger::damaged;
use super::stamps::Damaged;

/// All sites by number and by id. Cloned at the start of every group of transactions and put back when it fails, so the
/// maps are shared until they change.
#[derive(Clone, Debug)]
pub(crate) struct Sites {
    own: SiteId,
    known: Arc<Known>,
    heads: Arc<Vector>,
    /// The greatest reading seen of any site, our own included.
    hlc: BTreeMap<u32, Hlc>,
    /// Whose row in `__kith_site` is behind.
    dirty: BTreeSet<u32>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    ids: BTreeMap<u32, SiteId>,
    ords: BTreeMap<SiteId, u32>,
}

impl Sites {
    /// Draws an id for the store's own site where there is none, and gives it the number 1.
    pub(crate) fn found(conn: &Connection) -> rusqlite::Result<()> {
        conn.execute_batch(
            "INSERT INTO __kith_site (ord, id, head, hlc, state) VALUES (1, randomblob(16), 0, 0, 0)
             ON CONFLICT (ord) DO NOTHING",
        )
    }

    /// Gives the store a site of its own, which has written nothing. For a file that nobody has in memory.
    pub(crate) fn anew(conn: &Connection) -> rusqlite::Result<()> {
        conn.execute_batch(
            "INSERT INTO __kith_site (ord, id, head, hlc, state) SELECT max(ord) + 1, randomblob(16), 0, 0, 0 FROM __kith_site;
             UPDATE __kith_site SET state = 1 WHERE ord = (SELECT self FROM __kith_meta);
             DELETE FROM __kith_known;
             UPDATE __kith_meta SET self = (SELECT max(ord) FROM __kith_site), nonce = random(), reserved_ver = 0, listened = 0;",
        )
    }

    /// Reads them.
    pub(crate) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let own: [u8; 16] =
            conn.query_row("SELECT s.id FROM __kith_meta m JOIN __kith_site s ON s.ord = m.self", [], |row| {
                row.get(0)
            })?;
        let mut sites = Self {
            own: SiteId::new(own),
            known: Arc::default(),
            heads: Arc::default(),
            hlc: BTreeMap::new(),
            dirty: BTreeSet::new(),
        };
        let mut statement = conn.prepare("SELECT ord, id, head, hlc, seal FROM __kith_site")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (ord, id, head, hlc) = (row.get(0)?, SiteId::new(row.get(1)?), row.get(2)?, row.get(3)?);
            let kept: Option<i64> = row.get(4)?;
            // A site that nothing was heard of yet has no seal.
            if kept.map_or((head, hlc) != (0, 0), |kept| kept != seal(ord, id, head, hlc)) {
                return Err(damaged(Damaged));
            }
            sites.learn(ord, id);
            Arc::make_mut(&mut sites.heads).raise(id, head.cast_unsigned());
            sites.hlc.insert(ord, Hlc::from_bits(hlc.cast_unsigned()));
        }
        Ok(sites)
    }

    fn learn(&mut self, ord: u32, id: SiteId) {
        let known = Arc::make_mut(&mut self.known);
        known.ids.insert(ord, id);
        known.ords.insert(id, ord);
    }

    pub(crate) fn own(&self) -> SiteId {
        self.own
    }

    pub(crate) fn heads(&self) -> &Arc<Vector> {
        &self.heads
    }

    /// The greatest reading seen.
    pub(crate) fn hlc(&self) -> Hlc {
        self.hlc.values().copied().max().unwrap_or(Hlc::ZERO)
    }

    /// The greatest reading seen of one site.
    pub(crate) fn hlc_of(&self, site: SiteId) -> Hlc {
        self.ord(site).and_then(|ord| self.hlc.get(&ord)).copied().unwrap_or(Hlc::ZERO)
    }

    pub(crate) fn id(&self, ord: u32) -> Option<SiteId> {
        self.known.ids.get(&ord).copied()
    }

    pub(crate) fn ord(&self, id: SiteId) -> Option<u32> {
        self.known.ords.get(&id).copied()
    }

    pub(crate) fn ords(&self) -> impl Iterator<Item = (u32, SiteId)> + '_ {
        self.known.ids.iter().map(|(&ord, &id)| (ord, id))
    }

    /// The number of a site, which is given one when it has none. Also takes note of the reading.
    pub(crate) fn intern(&mut self, stamp: Stamp) -> u32 {
        let ord = self.number(stamp.site);
        let seen = self.hlc.entry(ord).or_default();
        if *seen < stamp.hlc {
            *seen = stamp.hlc;
            self.dirty.insert(ord);
        }
        ord
    }

    /// The number of a site, which is given one when it has none.
    pub(crate) fn number(&mut self, site: SiteId) -> u32 {
        self.ord(site).unwrap_or_else(|| {
            let ord = self.known.ids.last_key_value().map_or(1, |(&ord, _)| ord + 1);
            self.learn(ord, site);
            self.dirty.insert(ord);
            ord
        })
    }

    pub(crate) fn raise(&mut self, site: SiteId, version: u64) {
        if version > self.heads.head(site) {
            Arc::make_mut(&mut self.heads).raise(site, version);
            let ord = self.number(site);
            self.dirty.insert(ord);
        }
    }

    /// Makes a site that nobody has met the store's own. Returns its number.
    pub(crate) fn begin(&mut self, site: SiteId) -> u32 {
        self.own = site;
        self.number(site)
    }

    /// Takes back a head, for a site that was given up.
    pub(crate) fn set_back(&mut self, site: SiteId, version: u64) {
        Arc::make_mut(&mut self.heads).set_back(site, version);
        let ord = self.number(site);
        self.dirty.insert(ord);
    }

    /// Has all of them written with the next [`Sites::save`], whatever the file has.
    pub(crate) fn rewrite(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.dirty.extend(self.known.ids.keys());
        conn.execute("DELETE FROM __kith_site", []).map(drop)
    }

    /// Forgets readings that are later than this one.
    pub(crate) fn bound(&mut self, latest: Hlc) {
        for (&ord, hlc) in &mut self.hlc {
            if *hlc > latest {
                *hlc = latest;
                self.dirty.insert(ord);
            }
        }
    }

    /// Forgets of a site that its readings were later than this one.
    pub(crate) fn turn_back(&mut self, site: SiteId, latest: Hlc) {
        let ord = self.number(site);
        if let Some(hlc) = self.hlc.get_mut(&ord).filter(|hlc| **hlc > latest) {
            *hlc = latest;
            self.dirty.insert(ord);
        }
    }

    /// Writes what changed since the last time.
    pub(crate) fn save(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let mut statement = conn.prepare_cached(
            "/*kith*/ INSERT INTO __kith_site (ord, id, head, hlc, state, seal) VALUES (?1, ?2, ?3, ?4, 0, ?5)
             ON CONFLICT (ord) DO UPDATE SET head = ?3, hlc = ?4, seal = ?5",
        )?;
        for ord in std::mem::take(&mut self.dirty) {
            let id = self.known.ids[&ord];
            let hlc = self.hlc.get(&ord).copied().unwrap_or(Hlc::ZERO);
            let (head, hlc) = (self.heads.head(id).cast_signed(), hlc.to_bits().cast_signed());
            statement.execute(params![ord, id.as_bytes(), head, hlc, seal(ord, id, head, hlc)])?;
        }
        Ok(())
    }
}

fn seal(ord: u32, id: SiteId, head: i64, hlc: i64) -> i64 {
    let bytes = [&ord.to_le_bytes()[..], id.as_bytes(), &head.to_le_bytes(), &hlc.to_le_bytes()].concat();
    xxh3_64(&bytes).cast_signed()
}
