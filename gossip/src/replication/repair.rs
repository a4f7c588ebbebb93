//! A repair: our buckets compared with a peer's, and the rows of those that differ taken from it.
//!
//! ```text
//! asker                                answerer
//!  looks through its rows               
//!  compare (stream of a pull) ─►        looks through its rows; chunks of nothing meanwhile
//!                              ◄─       its heads, the digests of its buckets; refused, if it is damaged itself
//!  repair (another such stream) ─►      
//!                              ◄─       rows of the buckets that differ, and all above our heads
//!                                       looks through its rows again; chunks of nothing meanwhile
//!                              ◄─       its heads; refused, if it is damaged by then
//!  puts them in place, or joins them
//! ```
//! Both sides go on committing meanwhile, and neither waits until they have applied the same: a bucket that differs for
//! that reason costs its rows and changes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use kith_gossip_proto::buckets::{Bucket, Buckets};
use kith_gossip_proto::frame::{Answered, Question};
use kith_gossip_proto::purged::Away;
use kith_gossip_proto::replica::PULL_STALL;
use kith_gossip_proto::soundness::{Mended, Trust};
use kith_gossip_proto::{Frame, Hlc, NodeId, Vector};
use quinn::SendStream;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Event;
use super::pull::{self, PullError, write};
use super::storage::Storage;
use crate::chain::Chain;
use crate::net::Net;
use crate::net::frames::{self, FrameError, Patience};
use crate::store::{ApplyError, Cure, QueryError, Survey};

/// Buckets of one repair: a sixteenth of all. What is left is the next one's.
const BUCKETS_AT_ONCE: usize = 64;

/// How often the asker is told that its answer is still being made: in good time before it takes us for dead.
const STILL_LOOKING: Duration = Duration::from_millis(500);

/// Why a node repairs nobody.
pub(super) const DAMAGED: &str = "our own rows are damaged";

/// Why a repair did not come about.
#[derive(Debug, Error)]
enum RepairError {
    #[error("our own rows cannot be read")]
    Survey(#[source] QueryError),
    #[error("our own rows are damaged")]
    Damaged,
    #[error("one of the two was away for longer than deletions are remembered")]
    Away,
    #[error("the peer's rows are ours")]
    Nothing,
    #[error("the peer's rows did not come")]
    Pull(#[from] PullError),
    #[error("the stream failed")]
    Frame(#[from] FrameError),
    #[error("the rows cannot be stored")]
    Apply(#[from] ApplyError),
}

/// Compares with a node, takes from it what differs, unless a stamp of it is later than `latest`, and reports that it has
/// ended, once.
pub(super) async fn ask<S: Storage>(
    net: Net,
    store: S,
    events: mpsc::Sender<Event>,
    node: NodeId,
    trust: Trust,
    latest: Hlc,
) {
    net.counters().repairs.inc();
    let (mended, heads) = match mend(&net, &store, &node, trust, latest).await {
        Ok((heads, rows)) => {
            net.counters().rows_repaired.inc_by(rows);
            tracing::warn!(peer = %node, rows, "rows were compared with a peer's, and damaged ones replaced by them");
            (Mended::Stored, Some(heads))
        }
        Err(error) => {
            net.counters().repairs_failed.inc();
            tracing::warn!(peer = %node, error = %Chain(&error), "rows were not put right");
            if let RepairError::Apply(ApplyError::Forked) = error {
                pull::forked(&store, &events, &node).await;
            }
            let mended = match error {
                RepairError::Apply(_) => Mended::NotStored,
                RepairError::Survey(_)
                | RepairError::Damaged
                | RepairError::Away
                | RepairError::Nothing
                | RepairError::Pull(_)
                | RepairError::Frame(_) => Mended::Away,
            };
            (mended, None)
        }
    };
    // Fails only at shutdown.
    drop(events.send(Event::Repaired { mended, heads }).await);
}

/// Returns the heads after it, and how many rows are other than before.
async fn mend<S: Storage>(
    net: &Net,
    store: &S,
    node: &NodeId,
    trust: Trust,
    latest: Hlc,
) -> Result<(Vector, u64), RepairError> {
    let ours = match (store.survey().await, trust) {
        (Ok(ours), Trust::Theirs) => ours,
        (Ok(ours), Trust::Both) if ours.wrong.is_none() => ours,
        (Ok(_), Trust::Both) => return Err(RepairError::Damaged),
        // Not even the bookkeeping can be read: it is written anew from memory, and the next survey says more.
        (Err(QueryError::Broken(_)), Trust::Theirs) => Survey::default(),
        (Err(error), _) => return Err(RepairError::Survey(error)),
    };
    let theirs = compare(net, node).await?;
    let differing = ours.buckets.differing(&theirs).chain(ours.broken.iter().copied());
    let buckets: BTreeSet<Bucket> = differing.collect::<BTreeSet<_>>().into_iter().take(BUCKETS_AT_ONCE).collect();
    if trust == Trust::Both && buckets.is_empty() {
        return Err(RepairError::Nothing);
    }
    let question = Frame::Repair(store.heads(), buckets.iter().copied().collect());
    let (rows, answered) = pull::fetch(net, node, question, latest).await?;
    let asker = Question { above: store.heads(), purged: store.purged().through.clone() };
    if answered.away(&asker) != Away::Nobody {
        return Err(RepairError::Away);
    }
    match trust {
        Trust::Theirs => {
            let Answered { heads, purged } = answered;
            let cure = Cure { buckets, rows, heads, purged, indexes: ours.indexes };
            let repaired = store.repair(cure).await?;
            Ok((repaired.heads, repaired.rows))
        }
        // What of it is news, the digests say from here on.
        Trust::Both => Ok((store.join(rows, answered).await?, 0)),
    }
}

/// The digests of a peer's buckets.
async fn compare(net: &Net, node: &NodeId) -> Result<Buckets, RepairError> {
    let mut recv = pull::ask_for(net, node, &Frame::Compare).await?;
    loop {
        match frames::read(&mut recv, Patience::Stall(PULL_STALL)).await? {
            Some(Frame::Buckets(_, buckets)) => return Ok(buckets),
            Some(Frame::Refused(reason)) => return Err(PullError::Refused(reason).into()),
            Some(Frame::Chunk(nothing)) if nothing.is_empty() => {}
            Some(Frame::Unknown(_)) => {}
            Some(_) => return Err(FrameError::Unexpected("something else than buckets").into()),
            None => return Err(FrameError::Unexpected("an answer without its end").into()),
        }
    }
}

/// Answers a peer that compares.
pub(super) async fn answer<S: Storage>(store: &S, send: &mut SendStream) -> Result<(), PullError> {
    let survey = survey(store, send).await?;
    let frame = match survey.wrong {
        None => Frame::Buckets(survey.heads, survey.buckets),
        Some(_) => Frame::Refused(DAMAGED.to_owned()),
    };
    write(send, &frame).await?;
    drop(send.finish());
    Ok(())
}

/// Looks through all rows, and tells who asked that it is not forgotten meanwhile.
pub(super) async fn survey<S: Storage>(store: &S, send: &mut SendStream) -> Result<Survey, PullError> {
    let mut looking = std::pin::pin!(store.survey());
    loop {
        match timeout(STILL_LOOKING, &mut looking).await {
            Ok(survey) => return survey.map_err(PullError::Collect),
            Err(_) => write(send, &Frame::Chunk([].into())).await?,
        }
    }
}
