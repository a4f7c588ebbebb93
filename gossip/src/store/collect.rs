//! What a peer lacks: every row with a stamp above its vector, from one snapshot.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use kith_gossip_proto::buckets::Bucket;
use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::{Purged, Stamp, Vector};
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use super::capture::weight;
use super::error::QueryError;
use super::ledger::signed;
use super::outlet::{Outlet, Unwanted};
use super::read::{Pool, trouble};
use super::snapshot::{Damage, Snapshot, each};

/// A part of an answer ends at this many rows or bytes: small enough that a part is a fraction of a frame, large enough
/// that handing it on costs little.
const PART_ROWS: usize = 256;
const PART_BYTES: usize = 256 << 10;

/// Parts that wait for a slow peer; then the reading waits.
const PARTS_AHEAD: usize = 4;

/// Up to here one counts how much is asked for: more than any answer holds.
pub(crate) const STAMPS_MAX: u64 = 1_000_000;

/// The answer to a pull.
#[derive(Debug)]
pub struct Collected {
    /// The heads in the snapshot the rows are read from.
    pub heads: Vector,
    /// What is purged in it.
    pub purged: Arc<Purged>,
    /// How many stamps lie above the vector: no fewer than there are rows to come. Not counted beyond a million.
    pub stamps: u64,
    /// The rows, in parts. The channel closes at the end; an error is the last item. Dropping it ends the reading.
    pub rows: mpsc::Receiver<Result<Vec<PulledRow>, QueryError>>,
}

pub(crate) async fn collect(
    pool: &Arc<Pool>,
    above: Vector,
    buckets: BTreeSet<Bucket>,
) -> Result<Collected, QueryError> {
    let (head, begun) = oneshot::channel();
    let (parts, rows) = mpsc::channel(PARTS_AHEAD);
    let (parts, health) = (pool.outlet(parts), pool.health());
    pool.start(move |conn| {
        let began = conn.and_then(|conn| Snapshot::begin(conn).map_err(|error| trouble(&error)));
        match began {
            Err(error) => drop(head.send(Err(health.note(error)))),
            Ok(snapshot) => {
                let (heads, purged) =
                    (Vector::clone(snapshot.ledger.sites.heads()), Arc::clone(&snapshot.ledger.purged));
                let counted = count(&snapshot, &above).map_err(|error| health.note(trouble(&error)));
                if head.send(counted.map(|stamps| (heads, purged, stamps))).is_err() {
                    return;
                }
                let mut out = Part { parts, rows: Vec::new(), bytes: 0 };
                match walk(&snapshot, &above, |row| out.add(row))
                    .and_then(|()| besides(&snapshot, &above, &buckets, &mut out))
                {
                    // That nobody takes the last part is no error of ours.
                    Ok(()) => drop(out.flush()),
                    Err(error) => drop(out.parts.put(Err(health.note(trouble(&error))))),
                }
            }
        }
    })
    .await?;
    let ended = |_| Err(QueryError::Failed("the reader ended early".to_owned()));
    let (heads, purged, stamps) = begun.await.unwrap_or_else(ended)?;
    Ok(Collected { heads, purged, stamps, rows })
}

fn count(snapshot: &Snapshot<'_>, above: &Vector) -> rusqlite::Result<u64> {
    let mut log = snapshot
        .conn
        .prepare("SELECT count(*) FROM (SELECT 1 FROM __kith_log WHERE site = ?1 AND ver > ?2 LIMIT ?3)")?;
    let mut stamps = 0;
    for (ord, site) in snapshot.ledger.sites.ords() {
        let left = signed(STAMPS_MAX - stamps);
        stamps +=
            log.query_row(params![ord, signed(above.head(site)), left], |row| row.get::<_, i64>(0))?.cast_unsigned();
    }
    Ok(stamps)
}

/// Goes through the log above the vector, site by site. A row is given at the first of its stamps that the walk meets, so
/// each row comes once, without a list of those that came.
pub(crate) fn walk(
    snapshot: &Snapshot<'_>,
    above: &Vector,
    mut each: impl FnMut(PulledRow) -> ControlFlow<()>,
) -> rusqlite::Result<()> {
    let sites = &snapshot.ledger.sites;
    let order = |stamp: &Stamp| (sites.ord(stamp.site), stamp.version, stamp.seq);
    let conn: &Connection = snapshot.conn;
    let mut log =
        conn.prepare("SELECT ver, seq, tid, k FROM __kith_log WHERE site = ?1 AND ver > ?2 ORDER BY ver, seq")?;
    for (ord, site) in sites.ords() {
        let mut rows = log.query(params![ord, signed(above.head(site))])?;
        while let Some(row) = rows.next()? {
            let (version, seq): (i64, u32) = (row.get(0)?, row.get(1)?);
            let Some(found) = snapshot.at(row.get(2)?, row.get_ref(3)?)? else { continue };
            let stamps = found.row.stamps();
            let first = stamps.iter().filter(|stamp| stamp.version > above.head(stamp.site)).map(order).min();
            if first == Some((Some(ord), version.cast_unsigned(), seq)) && each(found).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Goes through the rows of some buckets that are not above the vector.
fn besides(
    snapshot: &Snapshot<'_>,
    above: &Vector,
    buckets: &BTreeSet<Bucket>,
    out: &mut Part,
) -> rusqlite::Result<()> {
    if buckets.is_empty() {
        return Ok(());
    }
    let wanted = |row: &PulledRow| {
        let came = |stamp: &Stamp| stamp.version > above.head(stamp.site);
        buckets.contains(&Bucket::of(&row.table, &row.key)) && !row.row.stamps().iter().any(came)
    };
    each(snapshot, Damage::Fails, |_, _, row| Ok(if wanted(&row) { out.add(row) } else { ControlFlow::Continue(()) }))
}

struct Part {
    parts: Outlet<Result<Vec<PulledRow>, QueryError>>,
    rows: Vec<PulledRow>,
    bytes: usize,
}

impl Part {
    fn add(&mut self, row: PulledRow) -> ControlFlow<()> {
        self.bytes += row.key.as_bytes().len() + row.row.cells.values().map(|cell| weight(&cell.value)).sum::<usize>();
        self.rows.push(row);
        if self.rows.len() >= PART_ROWS || self.bytes >= PART_BYTES { self.flush() } else { ControlFlow::Continue(()) }
    }

    fn flush(&mut self) -> ControlFlow<()> {
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return ControlFlow::Continue(());
        }
        match self.parts.put(Ok(rows)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(Unwanted) => ControlFlow::Break(()),
        }
    }
}
