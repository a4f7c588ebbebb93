//! Store snapshots: a whole store, sent as the bytes of one file, for who lacks too much for an answer.
//!
//! ```text
//! asker                      answerer
//!  stream of its kind ─►      copies its store; chunks of nothing meanwhile
//!                      ◄─     snapshot (length), chunk, chunk …, snapshot end (hash)
//!  checks, takes over
//! ```
//! What comes is written to a file beside the store and is nothing until it is whole, sound and taken over in one
//! transaction. A stream that breaks, a peer that dies, a full disk or a damaged file cost the file and nothing else; the
//! replica asks another peer.

use std::io::{self, Read};
use std::pin::pin;
use std::time::Duration;

use kith_gossip_proto::replica::{PULL_STALL, PullOutcome};
use kith_gossip_proto::{Frame, Hlc, NodeId, Vector};
use quinn::{RecvStream, SendStream};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use xxhash_rust::xxh3::Xxh3;

use super::Event;
use super::answers::{self, Answers};
use super::pull::forked;
use super::storage::Storage;
use crate::chain::Chain;
use crate::net::frames::{self, FrameError, Patience};
use crate::net::{Close, Kind, Net, PeerStream};
use crate::store::{CopyError, Incoming, InstallError};

/// Bytes of a chunk: some hundred of them make the snapshot of a hundred thousand rows.
const CHUNK: usize = 256 << 10;

/// The greatest file that is taken: a hundred million rows of a usual size. A peer that promises more is not believed.
const SNAPSHOT_MAX: u64 = 64 << 30;

/// Below the streams of versions (0), so that a snapshot never holds up what is being written.
const PRIORITY: i32 = -1;

/// How often the asker is told that its snapshot is still being copied: in good time before it takes us for dead.
const STILL_COPYING: Duration = Duration::from_millis(500);

/// How long an asker may take none of what we send.
const UNREAD: Duration = Duration::from_secs(10);

/// Why a snapshot did not come, or was not sent.
#[derive(Debug, Error)]
enum SnapshotError {
    #[error("the node is not connected")]
    Unconnected,
    #[error("the stream failed")]
    Frame(#[from] FrameError),
    #[error("the peer refused: {0}")]
    Refused(String),
    #[error("the peer announces {0} bytes")]
    TooLarge(u64),
    #[error("what came is not what was sent")]
    Hash,
    #[error("the file cannot be written or read")]
    File(#[from] io::Error),
    #[error("it cannot be taken over")]
    Install(#[from] InstallError),
    #[error("the store cannot be copied")]
    Copy(#[from] CopyError),
    #[error("a task failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Asks a node for its store, takes it over, and reports how that ended, once.
/// None that is taken over holds a stamp later than `latest`.
pub(super) async fn ask<S: Storage>(net: Net, store: S, events: mpsc::Sender<Event>, node: NodeId, latest: Hlc) {
    net.counters().snapshots.inc();
    tracing::info!(peer = %node, "taking a snapshot of the store");
    let (outcome, heads) = match take(&net, &store, &node, latest).await {
        Ok(heads) => {
            tracing::info!(peer = %node, "snapshot of the store taken over");
            (PullOutcome::Joined, Some(heads))
        }
        Err(error) => {
            net.counters().snapshots_failed.inc();
            tracing::warn!(peer = %node, error = %Chain(&error), "snapshot not taken over");
            match error {
                SnapshotError::Install(InstallError::FromFuture(stamp)) => (PullOutcome::FromFuture(stamp), None),
                SnapshotError::Install(InstallError::Forked) => {
                    forked(&store, &events, &node).await;
                    (PullOutcome::Failed, None)
                }
                _ => (PullOutcome::Failed, None),
            }
        }
    };
    // Fails only at shutdown.
    drop(events.send(Event::Pulled { node, outcome, heads }).await);
}

async fn take<S: Storage>(net: &Net, store: &S, node: &NodeId, latest: Hlc) -> Result<Vector, SnapshotError> {
    let connection = net.connection(node).ok_or(SnapshotError::Unconnected)?;
    let (mut send, mut recv) = timeout(PULL_STALL, connection.open_bi())
        .await
        .map_err(|_| FrameError::Timeout("allow a stream"))?
        .map_err(FrameError::Connection)?;
    send.write_all(&[Kind::Snapshot as u8]).await.map_err(FrameError::from)?;
    // Fails only for a stream that is already closed; reading it then says why.
    drop(send.finish());
    let taken = receive(store, &mut recv).await;
    if taken.is_err() {
        // Fails only for a stream that is already closed.
        drop(recv.stop(Close::Unwanted.into()));
    }
    Ok(store.install(taken?, latest).await?)
}

/// Writes what comes to a file.
async fn receive<S: Storage>(store: &S, recv: &mut RecvStream) -> Result<Incoming, SnapshotError> {
    let mut begins = next(recv).await?;
    while matches!(&begins, Frame::Chunk(nothing) if nothing.is_empty()) {
        begins = next(recv).await?;
    }
    let length = match begins {
        Frame::Snapshot(length) if length > SNAPSHOT_MAX => return Err(SnapshotError::TooLarge(length)),
        Frame::Snapshot(length) => length,
        Frame::Refused(reason) => return Err(SnapshotError::Refused(reason)),
        _ => return Err(FrameError::Unexpected("something else than a snapshot").into()),
    };
    let mut file = store.receive()?;
    let (mut hasher, mut left) = (Xxh3::new(), length);
    loop {
        match next(recv).await? {
            Frame::Chunk(bytes) => {
                hasher.update(&bytes);
                left = left.checked_sub(bytes.len() as u64).ok_or(SnapshotError::Hash)?;
                file = spawn_blocking(move || file.write(&bytes).map(|()| file)).await??;
            }
            Frame::SnapshotEnd(hash) if left == 0 && hash == hasher.digest128() => return Ok(file),
            Frame::SnapshotEnd(_) => return Err(SnapshotError::Hash),
            _ => return Err(FrameError::Unexpected("something else than a chunk").into()),
        }
    }
}

/// The next frame that this release knows.
async fn next(recv: &mut RecvStream) -> Result<Frame, SnapshotError> {
    loop {
        match frames::read(recv, Patience::Stall(PULL_STALL)).await? {
            Some(Frame::Unknown(_)) => {}
            Some(frame) => return Ok(frame),
            None => return Err(FrameError::Unexpected("a snapshot without its end").into()),
        }
    }
}

/// Sends our store to a peer that asks for it.
pub(super) async fn answer<S: Storage>(net: Net, store: S, answers: Answers, stream: PeerStream) {
    let PeerStream { node, mut send, .. } = stream;
    let sent = match answers.place(answers::Kind::Snapshot, &node) {
        Some(_place) => send_copy(&store, &mut send).await,
        None => write(&mut send, &Frame::Refused(CopyError::Busy.to_string())).await,
    };
    match sent {
        Ok(()) => {
            net.counters().snapshots_sent.inc();
            // Fails only for a stream that is already closed.
            drop(send.finish());
        }
        Err(error) => {
            tracing::warn!(peer = %node, error = %Chain(&error), "snapshot not sent");
            drop(send.reset(Close::Unwanted.into()));
        }
    }
}

async fn send_copy<S: Storage>(store: &S, send: &mut SendStream) -> Result<(), SnapshotError> {
    // Fails only for a stream that is already closed; writing to it then says so.
    drop(send.set_priority(PRIORITY));
    let mut copying = pin!(store.copy());
    let copy = loop {
        match timeout(STILL_COPYING, &mut copying).await {
            Ok(Err(busy @ CopyError::Busy)) => return write(send, &Frame::Refused(busy.to_string())).await,
            Ok(copied) => break copied?,
            Err(_) => write(send, &Frame::Chunk([].into())).await?,
        }
    };
    write(send, &Frame::Snapshot(copy.bytes)).await?;
    let (mut file, mut hasher, _permit) = (copy.file, Xxh3::new(), copy.permit);
    loop {
        let (chunk, rest) = spawn_blocking(move || chunk(&mut file).map(|chunk| (chunk, file))).await??;
        file = rest;
        if chunk.is_empty() {
            return write(send, &Frame::SnapshotEnd(hasher.digest128())).await;
        }
        hasher.update(&chunk);
        write(send, &Frame::Chunk(chunk.into())).await?;
    }
}

/// The next bytes of a file; none at its end.
fn chunk(file: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK);
    file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

async fn write(send: &mut SendStream, frame: &Frame) -> Result<(), SnapshotError> {
    let bytes = frames::encode(frame)?;
    let written =
        timeout(UNREAD, send.write_chunk(bytes)).await.map_err(|_| FrameError::Timeout("read the snapshot"))?;
    Ok(written.map_err(FrameError::from)?)
}
