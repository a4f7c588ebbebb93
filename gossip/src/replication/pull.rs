//! Pulls: all that is above a vector, asked for, answered, and joined in one transaction.
//!
//! The parts of an answer are held in memory until the end has come, because they must be joined together: half of an
//! answer would show half of a transaction. Hence the bounds, beyond which a node takes a [`snapshot`](super::snapshot).

use std::collections::BTreeSet;
use std::time::Duration;

use kith_gossip_proto::buckets::Bucket;
use kith_gossip_proto::clocks::from_the_future;
use kith_gossip_proto::frame::{Answered, PART_BYTES, PulledRow, Question, row_frames};
use kith_gossip_proto::purged::Away;
use kith_gossip_proto::replica::{PULL_STALL, PullOutcome};
use kith_gossip_proto::{Frame, Hlc, NodeId, Past, Purged, Stamp, Value, Vector};
use quinn::{RecvStream, SendStream};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::answers::{self, Answers};
use super::storage::Storage;
use super::{Event, repair};
use crate::chain::Chain;
use crate::net::frames::{self, FrameError, Patience};
use crate::net::{Close, Kind, Net, PeerStream};
use crate::store::{ApplyError, QueryError};

/// How long an asker may leave its answer unread before we stop: its store may be joining something large, and we hold a
/// read snapshot open meanwhile, which keeps the file from being tidied.
const UNREAD: Duration = Duration::from_secs(10);

/// The most memory an answer may take: some two million rows of a usual size.
const ANSWER_MAX: usize = 512 << 20;

/// Stamps above which an asker is told to take a snapshot: one that has nothing would spend more on joining so many rows
/// than on the file, one that has something joins the file's rows all the same, and only saves the memory of the answer.
const STAMPS_OF_EMPTY: u64 = 10_000;
const STAMPS: u64 = 500_000;

/// Why a pull failed.
#[derive(Debug, Error)]
pub(super) enum PullError {
    #[error("the node is not connected")]
    Unconnected,
    #[error("the stream failed")]
    Frame(#[from] FrameError),
    #[error("the peer refused: {0}")]
    Refused(String),
    #[error("the answer is over {} MiB, and a snapshot is needed", ANSWER_MAX >> 20)]
    TooLarge,
    #[error("the peer says that a snapshot is needed")]
    NeedsSnapshot,
    #[error("this node was away for too long, and needs a snapshot")]
    Behind,
    #[error("the answer holds a stamp from the future: {0:?}")]
    FromFuture(Stamp),
    #[error("the rows cannot be stored")]
    Join(#[source] ApplyError),
    #[error("the rows cannot be read")]
    Collect(#[source] QueryError),
}

impl From<quinn::WriteError> for PullError {
    fn from(error: quinn::WriteError) -> Self {
        Self::Frame(error.into())
    }
}

/// What is asked of a node.
pub(super) struct Asked {
    pub(super) node: NodeId,
    /// All above this.
    pub(super) above: Vector,
    /// Stamps later than this are from the future, and the answer is refused.
    pub(super) latest: Hlc,
}

/// Asks, joins the answer, and reports how that ended, once.
pub(super) async fn ask<S: Storage>(net: Net, store: S, events: mpsc::Sender<Event>, asked: Asked) {
    net.counters().pulls.inc();
    let Asked { node, above, latest } = asked;
    let question = Frame::Pull(Question { above, purged: store.purged().through.clone() });
    let (outcome, heads) = match fetch(&net, &node, question, latest).await {
        Ok((rows, answered)) => match join(&net, &store, rows, answered).await {
            Ok(heads) => (PullOutcome::Joined, Some(heads)),
            Err(error @ PullError::Behind) => {
                tracing::debug!(peer = %node, error = %error, "pull gives way to a snapshot");
                (PullOutcome::NeedsSnapshot, None)
            }
            Err(PullError::Join(ApplyError::Forked)) => {
                forked(&store, &events, &node).await;
                (PullOutcome::Failed, None)
            }
            // It is about to begin anew, and says so itself.
            Err(PullError::Join(error @ ApplyError::PeerBehind)) => {
                tracing::debug!(peer = %node, %error, "pulled rows not stored");
                (PullOutcome::Failed, None)
            }
            Err(error) => {
                if net.trouble_is_due(&node) {
                    tracing::warn!(peer = %node, error = %Chain(&error), "pulled rows not stored");
                }
                (PullOutcome::Failed, None)
            }
        },
        Err(error @ (PullError::TooLarge | PullError::NeedsSnapshot)) => {
            tracing::debug!(peer = %node, error = %error, "pull gives way to a snapshot");
            (PullOutcome::NeedsSnapshot, None)
        }
        Err(PullError::FromFuture(stamp)) => {
            tracing::debug!(peer = %node, ?stamp, "pull refused: a stamp from the future");
            (PullOutcome::FromFuture(stamp), None)
        }
        Err(error) => {
            tracing::debug!(peer = %node, error = %Chain(&error), "pull failed");
            (PullOutcome::Failed, None)
        }
    };
    if matches!(outcome, PullOutcome::Failed | PullOutcome::FromFuture(_)) {
        net.counters().pulls_failed.inc();
    }
    // Fails only at shutdown.
    drop(events.send(Event::Pulled { node, outcome, heads }).await);
}

/// What a peer holds says that another store has written our site.
pub(super) async fn forked<S: Storage>(store: &S, events: &mpsc::Sender<Event>, node: &NodeId) {
    let Past { site, start, .. } = store.past();
    // Fails only at shutdown.
    drop(events.send(Event::Forked { node: node.clone(), site, boot: start.boot }).await);
}

async fn join<S: Storage>(net: &Net, store: &S, rows: Vec<PulledRow>, answered: Answered) -> Result<Vector, PullError> {
    // Most pulls are the random ones of a quiet cluster; they need no transaction.
    let ours = store.heads();
    if rows.is_empty() && ours.covers(&answered.heads) {
        return Ok(ours);
    }
    net.counters().rows_pulled.inc_by(rows.len() as u64);
    store.join(rows, answered).await.map_err(|error| match error {
        ApplyError::Behind => PullError::Behind,
        error => PullError::Join(error),
    })
}

/// An answer that holds a stamp later than `latest` is refused.
pub(super) async fn fetch(
    net: &Net,
    node: &NodeId,
    question: Frame,
    latest: Hlc,
) -> Result<(Vec<PulledRow>, Answered), PullError> {
    let mut recv = ask_for(net, node, &question).await?;
    let (mut rows, mut size) = (Vec::new(), 0);
    loop {
        let frame = frames::read(&mut recv, Patience::Stall(PULL_STALL)).await?;
        match frame {
            Some(Frame::Rows(part)) => {
                if let Some(stamp) = from_the_future(&part, latest) {
                    drop(recv.stop(Close::Unwanted.into()));
                    return Err(PullError::FromFuture(stamp));
                }
                size += part.iter().map(memory).sum::<usize>();
                if size > ANSWER_MAX {
                    drop(recv.stop(Close::Unwanted.into()));
                    return Err(PullError::TooLarge);
                }
                rows.extend(part);
            }
            Some(Frame::Pulled(answered)) => return Ok((rows, answered)),
            Some(Frame::Refused(reason)) => return Err(PullError::Refused(reason)),
            Some(Frame::NeedsSnapshot) => return Err(PullError::NeedsSnapshot),
            // Of a repair: the rows are on their way, and looked through meanwhile.
            Some(Frame::Chunk(nothing)) if nothing.is_empty() => {}
            Some(Frame::Unknown(_)) => {}
            Some(
                Frame::Hello(_)
                | Frame::Versions(_)
                | Frame::Heads(_)
                | Frame::Pull(_)
                | Frame::Forked(..)
                | Frame::Snapshot(_)
                | Frame::Chunk(_)
                | Frame::SnapshotEnd(_)
                | Frame::Compare
                | Frame::Buckets(..)
                | Frame::Repair(..)
                | Frame::Graft(_)
                | Frame::Prune(_)
                | Frame::Clock(_)
                | Frame::FromFuture(_),
            ) => {
                return Err(FrameError::Unexpected("a frame of another stream").into());
            }
            None => return Err(FrameError::Unexpected("an answer without its end").into()),
        }
    }
}

/// Opens a stream and asks on it.
pub(super) async fn ask_for(net: &Net, node: &NodeId, question: &Frame) -> Result<RecvStream, PullError> {
    let connection = net.connection(node).ok_or(PullError::Unconnected)?;
    let (mut send, recv) = timeout(PULL_STALL, connection.open_bi())
        .await
        .map_err(|_| FrameError::Timeout("allow a stream"))?
        .map_err(FrameError::Connection)?;
    let asking = async {
        send.write_all(&[Kind::Pull as u8]).await?;
        send.write_chunk(frames::encode(question)?).await?;
        // Fails only for a stream that is already closed; reading it then says why.
        drop(send.finish());
        Ok::<_, PullError>(())
    };
    timeout(PULL_STALL, asking).await.map_err(|_| FrameError::Timeout("take the question"))??;
    Ok(recv)
}

/// Answers a pull, or a part of a repair, that a peer asks.
pub(super) async fn answer<S: Storage>(net: Net, store: S, answers: Answers, stream: PeerStream) {
    let PeerStream { node, mut send, mut recv, .. } = stream;
    let answered = answer_one(&store, &answers, &node, &mut send, &mut recv).await;
    match answered {
        Ok(()) => {
            net.counters().pulls_answered.inc();
        }
        Err(error @ PullError::Collect(_)) => {
            if net.trouble_is_due(&node) {
                tracing::warn!(peer = %node, error = %Chain(&error), "pull not answered");
            }
            drop(send.reset(Close::Unwanted.into()));
        }
        Err(error) => {
            tracing::debug!(peer = %node, error = %Chain(&error), "pull not answered");
            drop(send.reset(Close::Unwanted.into()));
        }
    }
}

async fn refuse(send: &mut SendStream, reason: String) -> Result<(), PullError> {
    write(send, &Frame::Refused(reason)).await?;
    drop(send.finish());
    Ok(())
}

/// Who asks nothing holds a stream, of which it has few, and no place.
async fn answer_one<S: Storage>(
    store: &S,
    answers: &Answers,
    asker: &NodeId,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<(), PullError> {
    let question = frames::read(recv, Patience::Stall(UNREAD)).await?;
    let kind = match &question {
        Some(Frame::Heads(_)) => return tell_heads(store, send).await,
        Some(Frame::Pull(_)) => answers::Kind::Pull,
        Some(Frame::Compare | Frame::Repair(..)) => answers::Kind::Repair,
        _ => return Err(FrameError::Unexpected("something else than a pull").into()),
    };
    let Some(_place) = answers.place(kind, asker) else {
        return refuse(send, "busy with other answers".into()).await;
    };
    match question {
        Some(Frame::Pull(question)) => tell_rows(store, send, question, BTreeSet::new()).await,
        Some(Frame::Repair(above, buckets)) => {
            let question = Question { above, ..Question::default() };
            tell_rows(store, send, question, buckets.into_iter().collect()).await
        }
        _ => repair::answer(store, send).await,
    }
}

async fn tell_rows<S: Storage>(
    store: &S,
    send: &mut SendStream,
    question: Question,
    buckets: BTreeSet<Bucket>,
) -> Result<(), PullError> {
    let most = if question.above.is_empty() { STAMPS_OF_EMPTY } else { STAMPS };
    let repairs = !buckets.is_empty();
    let mut collected = match store.collect(question.above.clone(), buckets).await {
        Ok(collected) => collected,
        Err(error) => {
            refuse(send, "the store cannot be read".into()).await?;
            return Err(PullError::Collect(error));
        }
    };
    let answered = Answered { heads: collected.heads, purged: Purged::clone(&collected.purged) };
    let away = answered.away(&question);
    if away == Away::We {
        return refuse(send, "away for longer than deletions are remembered".into()).await;
    }
    if away == Away::They || collected.stamps > most {
        write(send, &Frame::NeedsSnapshot).await?;
        drop(send.finish());
        return Ok(());
    }
    while let Some(rows) = collected.rows.recv().await {
        for frame in row_frames(rows.map_err(PullError::Collect)?, PART_BYTES) {
            write(send, &frame).await?;
        }
    }
    // What a repair does not hold is taken for deleted there. So after its rows, which are the rows of a moment ago, all are
    // looked through: what went missing by damage is not told as gone.
    if repairs && repair::survey(store, send).await?.wrong.is_some() {
        return refuse(send, repair::DAMAGED.into()).await;
    }
    write(send, &Frame::Pulled(answered)).await?;
    drop(send.finish());
    Ok(())
}

/// What we have applied, for a node that no stream of ours tells it.
async fn tell_heads<S: Storage>(store: &S, send: &mut SendStream) -> Result<(), PullError> {
    write(send, &Frame::Heads(store.heads())).await?;
    drop(send.finish());
    Ok(())
}

pub(super) async fn write(send: &mut SendStream, frame: &Frame) -> Result<(), PullError> {
    let bytes = frames::encode(frame)?;
    timeout(UNREAD, send.write_chunk(bytes)).await.map_err(|_| FrameError::Timeout("read the answer"))??;
    Ok(())
}

/// About how much memory a row takes.
fn memory(row: &PulledRow) -> usize {
    let value = |value: &Value| match value {
        Value::Null | Value::Integer(_) | Value::Real(_) => 0,
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
    };
    let cells = row.row.cells.values().map(|cell| size_of_val(cell) + 32 + value(&cell.value));
    size_of::<PulledRow>() + row.key.as_bytes().len() + cells.sum::<usize>()
}
