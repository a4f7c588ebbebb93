//! Chitchat's transport: its messages on our connections.
//!
//! Chitchat's loop must never wait for a peer and must never end, so `send` hands over and returns, and `recv` waits for
//! ever rather than to fail. Chitchat drops the future of `recv` at each of its ticks; taking from a channel loses nothing
//! by that. What cannot be sent is counted and lost: chitchat repeats itself every 300 ms.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::ChitchatEnvelope;
use chitchat::transport::{RecvOutcome, SendOutcome, Socket, Transport};
use kith_gossip_proto::NodeId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::codec::{Codec, CodecError};
use super::label::label;
use crate::chain::Chain;
use crate::net::{Counters, Net};

/// Messages between chitchat and the connections, each way. Chitchat sends about five per 300 ms and answers what it
/// receives; beyond the bound messages are dropped.
const QUEUE: usize = 64;

/// Messages that wait for a stream or for room on a connection.
const UNDER_WAY: usize = 128;

/// A message that could not be written by then is stale: seven newer ones are waiting.
const STALE: Duration = Duration::from_secs(2);

/// Opened once, by chitchat.
pub(crate) struct QuicTransport(Mutex<Option<QuicSocket>>);

struct QuicSocket {
    label: SocketAddr,
    codec: Codec,
    counters: Counters,
    outgoing: mpsc::Sender<(SocketAddr, Bytes)>,
    incoming: mpsc::Receiver<RecvOutcome>,
}

/// What moves messages between the socket and the connections.
pub(crate) struct Carriers {
    net: Net,
    outgoing: mpsc::Receiver<(SocketAddr, Bytes)>,
    received: mpsc::Receiver<(NodeId, Bytes)>,
    codec: Codec,
    incoming: mpsc::Sender<RecvOutcome>,
}

/// Makes the two ends. `received` are the messages as they come from peers.
pub(crate) async fn open(
    net: Net,
    received: mpsc::Receiver<(NodeId, Bytes)>,
) -> anyhow::Result<(QuicTransport, Carriers)> {
    let counters = net.counters().clone();
    let [writer, reader] =
        [Codec::open(counters.messages_foreign.clone()).await?, Codec::open(counters.messages_foreign.clone()).await?];
    let (to_outgoing, outgoing) = mpsc::channel(QUEUE);
    let (to_incoming, incoming) = mpsc::channel(QUEUE);
    let socket = QuicSocket { label: label(net.node()), codec: writer, counters, outgoing: to_outgoing, incoming };
    let carriers = Carriers { net, outgoing, received, codec: reader, incoming: to_incoming };
    Ok((QuicTransport(Mutex::new(Some(socket))), carriers))
}

#[async_trait]
impl Transport for QuicTransport {
    async fn open(&self, _listen_addr: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Box::new(socket.ok_or_else(|| anyhow::anyhow!("the transport is already open"))?))
    }
}

#[async_trait]
impl Socket for QuicSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.label)
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let num_bytes_sent = match self.codec.encode(envelope).await {
            Ok(bytes) => {
                let length = bytes.len();
                if self.outgoing.try_send((to, bytes)).is_err() {
                    self.counters.messages_dropped.inc();
                }
                length
            }
            Err(CodecError::Oversize) => {
                self.counters.messages_oversize.inc();
                tracing::error!("a gossip message is over its size limit: too many nodes, or too many restarts of one");
                0
            }
            Err(error) => {
                self.counters.messages_dropped.inc();
                tracing::debug!(error = %Chain(&error), "gossip message not encoded");
                reopen(&mut self.codec, &self.counters).await;
                0
            }
        };
        Ok(SendOutcome { num_bytes_sent })
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        match self.incoming.recv().await {
            Some(received) => Ok(received),
            // The carriers end before chitchat does; an error here would end it with one.
            None => std::future::pending().await,
        }
    }
}

/// Opens a pair anew, so that nothing late comes out of it. If that fails, the old one is tried again with the next
/// message.
async fn reopen(codec: &mut Codec, counters: &Counters) {
    match Codec::open(counters.messages_foreign.clone()).await {
        Ok(fresh) => *codec = fresh,
        Err(error) => tracing::warn!(%error, "the loopback sockets of gossip cannot be opened"),
    }
}

impl Carriers {
    /// Carries until aborted. Each direction has its own loop, so that one that waits does not hold up the other.
    pub(crate) async fn run(self) {
        let Self { net, outgoing, received, codec, incoming } = self;
        let counters = net.counters().clone();
        tokio::join!(send_all(net, outgoing), decode_all(received, codec, incoming, counters));
    }
}

async fn send_all(net: Net, mut outgoing: mpsc::Receiver<(SocketAddr, Bytes)>) {
    let mut under_way = JoinSet::new();
    while let Some((to, message)) = outgoing.recv().await {
        while under_way.try_join_next().is_some() {}
        let node = net.nodes().into_iter().find(|node| label(node) == to);
        let connection = node.and_then(|node| net.connection(&node));
        let Some(connection) = connection.filter(|_| under_way.len() < UNDER_WAY) else {
            net.counters().messages_dropped.inc();
            continue;
        };
        let net = net.clone();
        under_way.spawn(async move {
            let sent = timeout(STALE, net.send_gossip(&connection, message)).await;
            let counters = net.counters();
            if matches!(sent, Ok(Ok(()))) {
                counters.messages_sent.inc()
            } else {
                counters.messages_dropped.inc()
            };
        });
    }
}

async fn decode_all(
    mut received: mpsc::Receiver<(NodeId, Bytes)>,
    mut codec: Codec,
    incoming: mpsc::Sender<RecvOutcome>,
    counters: Counters,
) {
    while let Some((node, bytes)) = received.recv().await {
        let envelope = match codec.decode(&bytes).await {
            Ok(envelope) => envelope,
            Err(error) => {
                counters.messages_dropped.inc();
                tracing::debug!(peer = %node, error = %Chain(&error), "gossip message not decoded");
                reopen(&mut codec, &counters).await;
                continue;
            }
        };
        counters.messages_received.inc();
        let outcome = RecvOutcome { from_addr: label(&node), envelope, num_bytes_received: bytes.len() };
        if incoming.send(outcome).await.is_err() {
            return;
        }
    }
}
