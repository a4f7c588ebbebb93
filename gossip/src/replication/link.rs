//! The streams that versions and heads travel on.
//!
//! ```text
//! ours    we open it:      hello ─►  hello ◄─   versions ─►  heads ◄─
//! theirs  the peer opens:  hello ◄─  hello ─►   versions ◄─  heads ─►
//! ```
//! Whoever hears a hello of a store that is not the one which wrote its site before says so, and the stream ends.
//! A stream's two directions live in one task; it ends when either does, and its end is always reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kith_gossip_proto::frame::{Hello, WIRE_VERSION};
use kith_gossip_proto::replica::Stream;
use kith_gossip_proto::{Frame, NodeId, SiteId};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::outbox::Outbox;
use super::storage::Storage;
use super::{Event, Slot};
use crate::chain::Chain;
use crate::membership::label::label;
use crate::net::frames::{self, FrameError, Patience};
use crate::net::{Close, Kind, Net, PeerStream};
use crate::retry::Retry;
use crate::store::Met;

/// How long hellos may take.
const HELLO: Duration = Duration::from_secs(5);

/// The first and the longest wait before a stream that ended is opened again.
const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(2);

/// A stream that ended sooner counts as a failed attempt.
const SETTLED: Duration = Duration::from_secs(5);

/// What every link needs.
#[derive(Clone)]
pub(super) struct Links<S> {
    pub(super) net: Net,
    pub(super) store: S,
    pub(super) events: mpsc::Sender<Event>,
    /// Numbers streams, so that what is reported of one that was replaced is told apart.
    pub(super) ids: Arc<AtomicU64>,
}

/// A stream with its hellos exchanged.
struct Open {
    send: SendStream,
    recv: RecvStream,
    /// The peer's.
    hello: Hello,
}

impl<S: Storage> Links<S> {
    /// Keeps a stream of ours open to the node until told to stop.
    pub(super) async fn keep(self, node: NodeId, stop: CancellationToken) {
        let mut retry = Retry::new(FIRST, LONGEST);
        while !stop.is_cancelled() {
            // Cancel-safe: both only wait.
            let connection = tokio::select! {
                () = stop.cancelled() => return,
                connection = self.net.connected(&node) => connection,
            };
            let since = Instant::now();
            match self.ours(&node, &connection, &stop).await {
                Ok(()) => tracing::debug!(peer = %node, "stream of versions ended"),
                Err(error) => tracing::debug!(peer = %node, error = %Chain(&error), "stream of versions ended"),
            }
            if since.elapsed() >= SETTLED {
                retry.reset();
            }
            // Cancel-safe: both only wait.
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(retry.delay()) => {}
            }
        }
    }

    async fn ours(&self, node: &NodeId, connection: &Connection, stop: &CancellationToken) -> Result<(), FrameError> {
        let hello = async {
            let (mut send, mut recv) = connection.open_bi().await?;
            send.write_all(&[Kind::Versions as u8]).await?;
            send.write_chunk(frames::encode(&Frame::Hello(self.hello()))?).await?;
            let answer = frames::read(&mut recv, Patience::Endless).await?;
            let hello = self.meet(node, answer, &mut send).await?;
            Ok::<_, FrameError>(Open { send, recv, hello })
        };
        let open = timeout(HELLO, hello).await.map_err(|_| FrameError::Timeout("answer our hello"))??;
        self.pump(node, Stream::Ours, open, stop.child_token()).await
    }

    /// Serves a stream that the node opened until it ends.
    pub(super) async fn serve(self, stream: PeerStream) {
        let PeerStream { node, send, recv, .. } = stream;
        match self.theirs(&node, send, recv).await {
            Ok(()) => tracing::debug!(peer = %node, "the peer's stream of versions ended"),
            Err(error) => tracing::debug!(peer = %node, error = %Chain(&error), "the peer's stream of versions ended"),
        }
    }

    async fn theirs(&self, node: &NodeId, mut send: SendStream, mut recv: RecvStream) -> Result<(), FrameError> {
        let hello = async {
            let first = frames::read(&mut recv, Patience::Endless).await?;
            let hello = self.meet(node, first, &mut send).await?;
            send.write_chunk(frames::encode(&Frame::Hello(self.hello()))?).await?;
            Ok::<_, FrameError>(Open { send, recv, hello })
        };
        let open = timeout(HELLO, hello).await.map_err(|_| FrameError::Timeout("say hello"))??;
        self.pump(node, Stream::Theirs, open, CancellationToken::new()).await
    }

    fn hello(&self) -> Hello {
        Hello {
            wire: WIRE_VERSION,
            node: self.net.node().clone(),
            label: label(self.net.node()).to_string(),
            past: self.store.past(),
            wall_ms: self.wall_ms(),
        }
    }

    /// What this host's clock shows, in milliseconds since 1970.
    pub(super) fn wall_ms(&self) -> u64 {
        self.net.clock().unix().as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Looks at the first frame of a peer: a hello, of a store that is itself.
    async fn meet(&self, node: &NodeId, frame: Option<Frame>, send: &mut SendStream) -> Result<Hello, FrameError> {
        if let Some(Frame::Forked(site, boot)) = frame {
            self.forked(node, site, boot).await;
            return Err(FrameError::Forked);
        }
        let hello = heard(node, frame)?;
        match self.store.meet(node, hello.past).await.map_err(|error| FrameError::Store(Box::new(error)))? {
            Met::Itself => Ok(hello),
            Met::Forked(boot) => {
                self.net.counters().forks_met.inc();
                tracing::debug!(peer = %node, site = %hello.past.site, "another store has written this peer's site");
                tell_forked(send, hello.past.site, boot).await
            }
            Met::OfAnother(boot) => {
                self.net.counters().forks_met.inc();
                if self.net.trouble_is_due(node) {
                    tracing::warn!(peer = %node, site = %hello.past.site, "a peer gives itself the site of another node");
                }
                tell_forked(send, hello.past.site, boot).await
            }
            Met::Ours => {
                self.forked(node, hello.past.site, hello.past.start.boot).await;
                Err(FrameError::Forked)
            }
        }
    }

    /// Our site is another store's, too.
    async fn forked(&self, node: &NodeId, site: SiteId, boot: u64) {
        // Fails only at shutdown.
        drop(self.events.send(Event::Forked { node: node.clone(), site, boot }).await);
    }

    /// Moves frames both ways until either way ends, or it is told to stop.
    async fn pump(&self, node: &NodeId, stream: Stream, open: Open, stop: CancellationToken) -> Result<(), FrameError> {
        let Open { mut send, mut recv, hello } = open;
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let outbox = Arc::new(Outbox::default());
        let slot = Slot { id, outbox: Arc::clone(&outbox), stop: stop.clone() };
        let opened = Event::Opened { node: node.clone(), stream, hello, slot };
        // Fails only at shutdown.
        if self.events.send(opened).await.is_err() {
            return Ok(());
        }
        let write = async {
            loop {
                let mut frames = outbox.take().await;
                let bytes = frames.iter().map(bytes::Bytes::len).sum();
                send.write_all_chunks(&mut frames).await?;
                outbox.written(bytes);
            }
        };
        let read = async {
            while let Some(frame) = frames::read(&mut recv, Patience::Endless).await? {
                if let Frame::Forked(site, boot) = frame {
                    self.forked(node, site, boot).await;
                    return Err(FrameError::Forked);
                }
                belongs(stream, &frame)?;
                // Waits while replication is busy; the peer's flow control then holds it back.
                let event = Event::Received { node: node.clone(), stream, id, frame };
                if self.events.send(event).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        // Not cancel-safe, and need not be: after the first that ends the stream is not used again.
        let ended: Result<(), FrameError> = tokio::select! {
            ended = write => ended,
            ended = read => ended,
            () = stop.cancelled() => Ok(()),
        };
        let code = if ended.is_ok() { Close::Unwanted } else { Close::Protocol };
        // Both fail only for a stream that is already closed.
        drop((send.reset(code.into()), recv.stop(code.into())));
        drop(self.events.send(Event::Closed { node: node.clone(), stream, id }).await);
        ended
    }
}

/// Checks a hello against the connection's certificate.
fn heard(node: &NodeId, frame: Option<Frame>) -> Result<Hello, FrameError> {
    match frame {
        Some(Frame::Hello(hello)) if hello.wire == 0 => Err(FrameError::Unexpected("wire version 0")),
        Some(Frame::Hello(hello)) if hello.node != *node => Err(FrameError::Unexpected("another node's name")),
        Some(Frame::Hello(hello)) => Ok(hello),
        Some(_) => Err(FrameError::Unexpected("a frame before its hello")),
        None => Err(FrameError::Unexpected("an end before its hello")),
    }
}

/// Says that the peer's site is another store's, or another node's, and that it has to draw one.
async fn tell_forked(send: &mut SendStream, site: SiteId, boot: u64) -> Result<Hello, FrameError> {
    send.write_chunk(frames::encode(&Frame::Forked(site, boot))?).await?;
    // Fails only for a stream that is already closed; the peer reads what was sent before the end of it.
    drop(send.finish());
    drop(timeout(HELLO, send.stopped()).await);
    Err(FrameError::Forked)
}

/// Versions come on theirs; heads, and what goes beside them, on ours; frames of a later release may come anywhere.
fn belongs(stream: Stream, frame: &Frame) -> Result<(), FrameError> {
    match (stream, frame) {
        (Stream::Theirs, Frame::Versions(_)) | (_, Frame::Unknown(_)) => Ok(()),
        (
            Stream::Ours,
            Frame::Heads(_) | Frame::Graft(_) | Frame::Prune(_) | Frame::Clock(_) | Frame::FromFuture(_),
        ) => Ok(()),
        (Stream::Ours, Frame::Versions(_)) => Err(FrameError::Unexpected("versions on our stream")),
        (
            Stream::Theirs,
            Frame::Heads(_) | Frame::Graft(_) | Frame::Prune(_) | Frame::Clock(_) | Frame::FromFuture(_),
        ) => Err(FrameError::Unexpected("heads on its own stream")),
        (_, Frame::Hello(_) | Frame::Forked(..)) => Err(FrameError::Unexpected("a second hello")),
        (_, Frame::Pull(_) | Frame::Rows(_) | Frame::Pulled(_) | Frame::Refused(_) | Frame::NeedsSnapshot) => {
            Err(FrameError::Unexpected("a frame of a pull"))
        }
        (_, Frame::Snapshot(_) | Frame::Chunk(_) | Frame::SnapshotEnd(_)) => {
            Err(FrameError::Unexpected("a frame of a snapshot"))
        }
        (_, Frame::Compare | Frame::Buckets(..) | Frame::Repair(..)) => {
            Err(FrameError::Unexpected("a frame of a repair"))
        }
    }
}
