//! Which nodes the store waits for before it forgets a deletion: those that were heard of lately.
//!
//! No wall clock decides it, which may jump, and no time that this node was away itself: it counts for how long it has
//! listened without hearing of a node. A store that is new, or that was copied from a peer, has listened to nobody yet.

use std::collections::BTreeSet;
use std::time::Duration;

use kith_gossip_proto::NodeId;
use rusqlite::{Connection, TransactionBehavior, params};

use super::ledger::signed;

/// What was heard since the last time.
#[derive(Clone, Debug)]
pub struct Heard {
    /// How long it was listened.
    pub listened: Duration,
    /// The nodes that were heard of.
    pub nodes: BTreeSet<NodeId>,
    /// The nodes that do not belong to the cluster any more.
    pub removed: BTreeSet<NodeId>,
    /// How long a node that is not heard of is known.
    pub window: Duration,
}

/// The nodes that are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It cannot be said yet: there may be some that were not heard of.
    NotYet,
    /// All that there are.
    These(Vec<NodeId>),
}

/// Takes note of what was heard. Its own transaction: it is no part of what is replicated.
pub(crate) fn note(conn: &mut Connection, heard: &Heard) -> rusqlite::Result<Known> {
    let ms = |duration: Duration| signed(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX >> 1));
    let (listened, window) = (ms(heard.listened), ms(heard.window));
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let total: i64 = tx.query_row(
        "UPDATE __kith_meta SET listened = min(listened + ?1, ?2) RETURNING listened",
        [listened, window],
        |row| row.get(0),
    )?;
    tx.execute("UPDATE __kith_known SET unheard = unheard + ?1", [listened])?;
    for node in &heard.nodes {
        tx.prepare_cached(
            "/*kith*/ INSERT INTO __kith_known (node, unheard) VALUES (?1, 0) ON CONFLICT (node) DO UPDATE SET unheard = 0",
        )?
        .execute([node.as_str()])?;
    }
    for node in &heard.removed {
        tx.prepare_cached("/*kith*/ DELETE FROM __kith_known WHERE node = ?1")?.execute([node.as_str()])?;
    }
    tx.execute("DELETE FROM __kith_known WHERE unheard >= ?1", params![window])?;
    let known = if total < window { Known::NotYet } else { Known::These(read(&tx)?) };
    tx.commit()?;
    Ok(known)
}

fn read(conn: &Connection) -> rusqlite::Result<Vec<NodeId>> {
    let mut statement = conn.prepare_cached("/*kith*/ SELECT node FROM __kith_known ORDER BY node")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    // A name that is none was written by nobody.
    Ok(names.into_iter().filter_map(|name| name.parse().ok()).collect())
}
