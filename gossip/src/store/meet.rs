//! Meeting other sites: whether a peer's store is the one that wrote its site before, as far as this one knows; and what
//! becomes of a store that is told it is not.

use kith_gossip_proto::past::is_outgrown;
use kith_gossip_proto::{Hlc, Meeting, NodeId, Past, SiteId, Start, Vector};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

use super::error::{ApplyError, ExecuteError, QueryError};
use super::group::run;
use super::ledger::signed;
use super::open::note_boot;
use super::read::trouble;
use super::renounce::Renounced;
use super::snapshot::Snapshot;
use super::wall::wall_ms;
use super::writer::{Command, Core};
use super::{Closed, Store};

/// Stamps that are looked at for something that a peer cannot know. What was written before its disk was set back has the
/// lowest numbers, so it is among the first.
const STAMPS: u32 = 10_000;

/// How much greater than our own a count of starts may be to be believed. It is part of a number of bounded size in gossip;
/// no node restarts so often between a backup and its use.
const BOOTS_AHEAD: u64 = 10_000;

/// What a peer's store is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// The store that its site was always written by, as far as we know.
    Itself,
    /// Not, or not alone, that store. The greatest count of starts that is known of it.
    Forked(u64),
    /// A store of another node than the one that this site was first met of; its own count of starts.
    OfAnother(u64),
    /// It has our own site, and a later start: it is for us to give way.
    Ours,
}

impl Store {
    /// What this store says of its site.
    pub fn past(&self) -> Past {
        let state = self.state();
        let start = Start { boot: self.boot(), nonce: self.nonce() };
        // What it writes after this was said is written from now on, whoever hears of that before of this.
        let first = state.own.first.unwrap_or_else(|| Hlc::from_ms(wall_ms(self.inner.shared.highest())));
        Past { site: state.site, start, head: state.own.head, first: Some(first) }
    }

    /// What the store of `node` is to us by what it says of its past. The start of one that is itself is remembered, and of
    /// which node it is: whatever another one says of that site, it cannot shut out the node that has it.
    pub async fn meet(&self, node: &NodeId, past: Past) -> Result<Met, QueryError> {
        let ours = self.past();
        if past.site == ours.site {
            let later = (past.start.boot, past.start.nonce) > (ours.start.boot, ours.start.nonce);
            return Ok(if later { Met::Ours } else { Met::Forked(ours.start.boot) });
        }
        let by = node.clone();
        let seen = self.read(move |conn| look(conn, &by, &past).map_err(|error| trouble(&error))).await??;
        if let Seen::First = seen {
            let (node, site, start) = (node.clone(), past.site, past.start);
            let (reply, answer) = oneshot::channel();
            self.send(Command::Remember { node, site, start, reply })
                .await
                .map_err(|Closed| QueryError::ShuttingDown)?;
            // With a full disk it is met for the first time again and again.
            if let Err(error) = answer.await.unwrap_or(Err(ExecuteError::ShuttingDown)) {
                tracing::debug!(%error, "the start of a peer is not remembered");
            }
        }
        Ok(match seen {
            Seen::Again | Seen::First => Met::Itself,
            Seen::Forked(boot) => Met::Forked(boot),
            Seen::OfAnother => Met::OfAnother(past.start.boot),
        })
    }

    /// Somebody has met another store of our site: goes on under another one, but for what it began this start with, and
    /// counts its starts on from `boot`. None if it does not believe that: its site was drawn at the end of the last start,
    /// and there can be no other. Whatever a peer says, there is at most one new site in two starts.
    pub async fn begin_again(&self, boot: u64) -> Result<Option<Renounced>, ApplyError> {
        let mut commits = self.commits();
        let (reply, answer) = oneshot::channel();
        let site = self.state().site;
        self.send(Command::BeginAgain { site, boot, reply }).await.map_err(|Closed| ApplyError::ShuttingDown)?;
        let Some(done) = answer.await.unwrap_or(Err(ApplyError::ShuttingDown))? else { return Ok(None) };
        self.told(&mut commits, done).await.map(Some)
    }
}

/// What is known of a peer's start.
enum Seen {
    Again,
    /// For the first time.
    First,
    Forked(u64),
    OfAnother,
}

fn look(conn: &Connection, node: &NodeId, past: &Past) -> rusqlite::Result<Seen> {
    let of: Option<String> = conn
        .prepare_cached("SELECT node FROM __kith_met WHERE site = ?1")?
        .query_row([past.site.as_bytes()], |row| row.get(0))
        .optional()?;
    if of.is_some_and(|of| of != node.as_str()) {
        return Ok(Seen::OfAnother);
    }
    let known: Option<(u32, i64, i64)> = conn
        .prepare_cached("SELECT ord, boot, nonce FROM __kith_site WHERE id = ?1")?
        .query_row([past.site.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((ord, boot, nonce)) = known else { return Ok(Seen::First) };
    let known = Start { boot: boot.cast_unsigned(), nonce: nonce.cast_unsigned() };
    match past.meet(Some(known).filter(|known| known.boot > 0)) {
        Meeting::Again => return Ok(Seen::Again),
        Meeting::Later if !holds_more(conn, ord, past)? => return Ok(Seen::First),
        Meeting::Later | Meeting::Forked => {}
    }
    // Of any site: it may have been set back before, and have counted on under another one.
    let greatest: i64 = conn.query_row("SELECT max(boot) FROM __kith_site", [], |row| row.get(0))?;
    Ok(Seen::Forked(greatest.cast_unsigned().max(past.start.boot)))
}

/// Whether a row carries a stamp of the site that this start of it cannot know.
fn holds_more(conn: &Connection, ord: u32, past: &Past) -> rusqlite::Result<bool> {
    let snapshot = Snapshot::begin(conn)?;
    let mut log =
        conn.prepare_cached("SELECT tid, k FROM __kith_log WHERE site = ?1 AND ver > ?2 ORDER BY ver, seq LIMIT ?3")?;
    let mut rows = log.query(params![ord, signed(past.head), STAMPS])?;
    while let Some(row) = rows.next()? {
        let k: ValueRef<'_> = row.get_ref(1)?;
        let found = snapshot.at(row.get(0)?, k)?;
        if found.is_some_and(|found| found.row.stamps().into_iter().any(|stamp| past.cannot_know(stamp))) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Core {
    /// Remembers the start of a peer's store.
    pub(crate) fn remember(&mut self, node: &NodeId, site: SiteId, start: Start) -> Result<(), ExecuteError> {
        let before = self.ledger.clone();
        let done = self.remembered(node, site, start);
        if done.is_err() {
            self.roll_back();
            self.ledger = before;
        }
        Ok(done?)
    }

    fn remembered(&mut self, node: &NodeId, site: SiteId, start: Start) -> rusqlite::Result<()> {
        run(&self.conn, "/*kith*/ BEGIN IMMEDIATE")?;
        let ord = self.ledger.sites.number(site);
        self.ledger.save(&self.conn)?;
        self.conn
            .prepare_cached("/*kith*/ UPDATE __kith_site SET boot = ?2, nonce = ?3 WHERE ord = ?1")?
            .execute(params![ord, signed(start.boot), signed(start.nonce)])?;
        self.conn
            .prepare_cached(
                "/*kith*/ INSERT INTO __kith_met (site, node) VALUES (?1, ?2) ON CONFLICT (site) DO NOTHING",
            )?
            .execute(params![site.as_bytes(), node.as_str()])?;
        run(&self.conn, "/*kith*/ COMMIT")
    }

    /// Whether whoever has applied this has met another store of our site, so that this one has to give it up. What they have
    /// is not joined before: it would raise our head above the numbers that were given out twice, and nobody would notice
    /// any more. A site that is new is kept, so there it is joined, or the store would take nothing from anybody.
    pub(crate) fn is_forked(&self, theirs: &Vector) -> bool {
        !self.began.site_is_new && is_outgrown(self.ledger.own(), self.ledger.sites.heads(), theirs)
    }

    /// See [`Store::begin_again`].
    pub(crate) fn begin_again(&mut self, boot: u64) -> Result<Option<Renounced>, ExecuteError> {
        if self.began.site_is_new {
            return Ok(None);
        }
        let done = self.renounce(self.began.head, Hlc::MAX)?;
        // Said here, since what asked for it ends with the site.
        tracing::warn!(
            old = %done.old, kept = done.kept, site = %done.site, rows = done.rows,
            "another store has written this one's site: its disk was set back, or there is a copy of it; it goes on under \
             another site id"
        );
        let boot = boot.min(self.began.boot + BOOTS_AHEAD).max(self.began.boot);
        note_boot(&self.lock, boot).map_err(|error| ExecuteError::Failed(error.to_string()))?;
        Ok(Some(done))
    }
}
