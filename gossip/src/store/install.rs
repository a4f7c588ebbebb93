//! Taking over a store snapshot of a peer.
//!
//! A store that has nothing yet becomes the copy: its pages replace ours in one transaction of SQLite's, through the
//! connection that writes, so readers go from nothing to everything and a crash in the middle leaves nothing. Only who we
//! are is our own in it. Any other store takes the copy's rows like the answer to a pull, from a file instead of from
//! memory: what it has itself is joined, never replaced. But one that was away for too long begins anew (`anew`).

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use kith_gossip_proto::frame::Answered;
use kith_gossip_proto::purged::Away;
use kith_gossip_proto::{Digests, Hlc, Purged, SiteId, Stamp, Vector};
use rusqlite::backup::Backup;
use rusqlite::{Connection, TransactionBehavior, params};

use super::collect::walk;
use super::commit::{SchemaChange, Touched};
use super::error::{ExecuteError, InstallError};
use super::group::{Sum, run};
use super::ledger::{Ledger, signed};
use super::migrate::migrate;
use super::open::{self, Durability, set_durability};
use super::schema::{SchemaSource, read};
use super::sites::Sites;
use super::snapshot::Snapshot;
use super::table::TableSet;
use super::verify::{Findings, Indexes, verify};
use super::writer::Core;

/// Opens a copy and makes sure that it is a sound store of a release that we know. Blocks for as long as it takes to read
/// all of it. `named` is what an error calls it.
pub(crate) fn sound(path: &Path, named: &Path) -> Result<(Connection, Findings), InstallError> {
    let conn = open::alone(path).map_err(|error| open::failed(named, error))?;
    open::check(&conn, named)?;
    let found = verify(&conn, Indexes::Trusted).map_err(|error| InstallError::Unsound(error.to_string()))?;
    match found.wrong.first() {
        Some(wrong) => Err(InstallError::Unsound(wrong.clone())),
        None => Ok((conn, found)),
    }
}

/// Whose a copy becomes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signature {
    pub(super) site: SiteId,
    /// The last version of the site that may have been used.
    pub(super) version: u64,
}

/// What the store with this ledger has, as it would say it to a peer.
fn had(ledger: &Ledger) -> Answered {
    Answered { heads: Vector::clone(ledger.sites.heads()), purged: Purged::clone(&ledger.purged) }
}

/// What the peer has noted of sites may be later than any stamp that is left of them, and no clock is to follow that.
fn bound(copy: &Connection, newest: Option<Stamp>) -> rusqlite::Result<()> {
    let mut sites = Sites::load(copy)?;
    sites.bound(newest.map_or(Hlc::ZERO, |stamp| stamp.hlc));
    sites.save(copy)
}

impl Core {
    /// Takes over a copy that is sound, and whose latest stamp is this. Returns the heads, synced.
    pub(crate) fn install(&mut self, copy: Connection, newest: Option<Stamp>) -> Result<Vector, InstallError> {
        bound(&copy, newest)?;
        let theirs = had(&Ledger::load(&copy)?);
        if self.is_forked(&theirs.heads) {
            return Err(InstallError::Forked);
        }
        match self.away(&theirs) {
            Away::Nobody if self.is_empty() => self.become_copy(copy)?,
            Away::Nobody => self.join_copy(&copy)?,
            Away::We => self.begin_anew(copy)?,
            Away::They => return Err(InstallError::PeerBehind),
        }
        Ok(Vector::clone(self.ledger.sites.heads()))
    }

    /// Whether there is nothing that a copy could take the place of.
    fn is_empty(&self) -> bool {
        self.ledger.sites.heads().is_empty()
            && self.ledger.digests == Digests::default()
            && self.ledger.aside.is_empty()
    }

    fn become_copy(&mut self, mut copy: Connection) -> Result<(), InstallError> {
        self.sign(&mut copy, Signature { site: self.ledger.own(), version: self.reserved().0 })?;
        self.take_pages(&copy)
    }

    /// Takes the pages of a copy that is signed for our own.
    pub(super) fn take_pages(&mut self, copy: &Connection) -> Result<(), InstallError> {
        set_durability(&self.conn, Durability::Full)?;
        let backup = Backup::new(copy, &mut self.conn)?;
        let done = backup.step(-1);
        drop(backup);
        // Whatever came of it, what is in memory must be what is in the file.
        let reloaded = self.reload();
        done?;
        reloaded?;
        let mut sum = Sum::default();
        self.settle()?;
        for table in self.tables.iter() {
            let columns = table.columns.iter().cloned().collect();
            sum.touch([(table.name.clone(), Touched::anything(columns))].into());
        }
        self.tell_commit(sum, SchemaChange::Changed);
        Ok(())
    }

    /// Makes the copy a store of ours: our site, this start, what we had reserved, our tables.
    pub(super) fn sign(&self, copy: &mut Connection, own: Signature) -> Result<(), InstallError> {
        let tables = self.declared()?;
        let declared = read(&[tables], copy)?;
        let place: String = self.conn.query_row("SELECT place FROM __kith_meta", [], |row| row.get(0))?;
        let tx = copy.transaction_with_behavior(TransactionBehavior::Immediate)?;
        migrate(&tx, &declared)?;
        let Signature { site, version } = own;
        tx.execute("UPDATE __kith_site SET state = 0", [])?;
        tx.execute(
            "INSERT INTO __kith_site (ord, id, head, hlc, state) SELECT max(ord) + 1, ?1, 0, 0, 0 FROM __kith_site
             WHERE true ON CONFLICT (id) DO NOTHING",
            [site.as_bytes()],
        )?;
        let (_, hlc) = self.reserved();
        let commits = self.ledger.commits + 1;
        // Whom the peer has heard of, we have not.
        tx.execute("DELETE FROM __kith_known", [])?;
        tx.execute(
            "UPDATE __kith_meta SET self = (SELECT ord FROM __kith_site WHERE id = ?1), boot = ?2, nonce = ?3,
             reserved_ver = ?4, reserved_hlc = ?5, commits = ?6, listened = 0, place = ?7, fresh = 0, renounced = ?8",
            params![
                site.as_bytes(),
                signed(self.began.boot),
                signed(self.began.nonce),
                signed(version),
                signed(hlc.to_bits()),
                signed(commits),
                place,
                signed(self.began.renounced),
            ],
        )?;
        Ok(tx.commit()?)
    }

    /// Our tables and indexes, as their declarations.
    fn declared(&self) -> rusqlite::Result<SchemaSource> {
        let mut statement = self.conn.prepare(
            "SELECT s.sql FROM sqlite_schema s JOIN __kith_table t ON t.name = s.tbl_name
             WHERE t.live AND s.sql IS NOT NULL ORDER BY s.type DESC, s.rowid",
        )?;
        let declarations = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        let sql = declarations.iter().map(|sql| format!("{sql};\n")).collect();
        Ok(SchemaSource { name: "the tables of this node".to_owned(), sql })
    }

    /// Joins all of the copy that is above our heads.
    fn join_copy(&mut self, copy: &Connection) -> Result<(), InstallError> {
        let before = self.ledger.clone();
        let mut sum = Sum::default();
        // Whoever is told the heads may take them for synced.
        set_durability(&self.conn, Durability::Full)?;
        let joined = self.joined_copy(copy, &mut sum);
        match joined {
            Ok(()) => self.tell_commit(sum, SchemaChange::Same),
            Err(_) => {
                self.roll_back();
                self.ledger = before;
            }
        }
        set_durability(&self.conn, self.durability)?;
        joined
    }

    fn joined_copy(&mut self, copy: &Connection, sum: &mut Sum) -> Result<(), InstallError> {
        run(&self.conn, "/*kith*/ BEGIN IMMEDIATE")?;
        let snapshot = Snapshot::begin(copy)?;
        let (above, theirs) = (Arc::clone(self.ledger.sites.heads()), had(&snapshot.ledger));
        let mut failed: Option<ExecuteError> = None;
        walk(&snapshot, &above, |row| match self.join(&[row], &Answered::default(), sum) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        match failed {
            Some(error) => return Err(error.into()),
            None => self.join(&[], &theirs, sum)?,
        }
        self.ledger.save(&self.conn)?;
        Ok(run(&self.conn, "/*kith*/ COMMIT")?)
    }

    /// Takes into memory what the file holds.
    fn reload(&mut self) -> rusqlite::Result<()> {
        self.ledger = Ledger::load(&self.conn)?;
        self.set_tables(TableSet::load(&self.conn)?)?;
        set_durability(&self.conn, self.durability)
    }
}
