//! The tasks of the endpoint: accepting connections, and serving each until it ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kith_gossip_proto::NodeId;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::refusal::{By, Refusal, Why};
use super::registry::Arrival;
use super::{Ask, Asker, Close, Counters, DialError, HANDSHAKE, Kind, Net, PeerStream, tls};
use crate::chain::Chain;

/// Handshakes of strangers under way. A cluster of a hundred nodes that all come at once fits; beyond it newcomers are
/// not answered, and dial again.
const HANDSHAKES: usize = 128;

/// From this many on, an address that is not known to receive what we send it has to prove that first (RFC 9000 §8.1.2), so
/// that a flood of invented addresses holds nothing here.
const MANY: usize = 32;

/// Newcomers who may take their time to say what they want. They are strangers and a person waits for each, so few; others
/// are told to come again, and the places of nodes' handshakes stay free.
pub(super) const NEWCOMERS: usize = 16;

/// What a newcomer is told for whom there is no place.
pub(crate) const BUSY: &[u8] = b"too many wish to join at once: try again in a minute";

/// The most bytes of a chitchat message: what fits in the UDP datagram chitchat thinks it is.
pub(crate) const GOSSIP_MAX: usize = 65_507;

/// How long a peer may take from opening a stream to its first byte, and for a whole chitchat message.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// How long closed connections may take to say so to their peers.
const GOODBYE: Duration = Duration::from_millis(300);

/// Runs the endpoint. Dropping it closes the endpoint without a word.
pub(crate) struct Driver {
    net: Net,
    endpoint: Endpoint,
    arrived: mpsc::Receiver<Arrival>,
    inlets: Inlets,
}

/// Where what arrives goes.
#[derive(Clone)]
pub(super) struct Inlets {
    pub(super) gossip: mpsc::Sender<(NodeId, Bytes)>,
    pub(super) streams: mpsc::Sender<PeerStream>,
    pub(super) asks: mpsc::Sender<Ask>,
    /// Places for newcomers.
    pub(super) newcomers: Arc<Semaphore>,
    pub(super) counters: Counters,
}

impl Driver {
    pub(super) fn new(net: Net, endpoint: Endpoint, arrived: mpsc::Receiver<Arrival>, inlets: Inlets) -> Self {
        Self { net, endpoint, arrived, inlets }
    }

    /// Accepts and serves until the token is cancelled; then says goodbye and lets go of the port.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut handshakes = JoinSet::new();
        let mut served = JoinSet::new();
        let mut removed = self.net.shared.removed.clone();
        loop {
            // Every arm is cancel-safe: accept and recv leave in their queue what was not taken, join_next keeps its tasks,
            // changed only waits.
            tokio::select! {
                () = token.cancelled() => break,
                () = removed.changed() => self.net.expel(),
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) if handshakes.len() >= MANY && !incoming.remote_address_validated() => {
                        self.inlets.counters.addresses_doubted.inc();
                        // Fails only for an address that has proven itself.
                        drop(incoming.retry());
                    }
                    Some(incoming) if handshakes.len() < HANDSHAKES => {
                        handshakes.spawn(answer(self.net.clone(), incoming, self.inlets.clone()));
                    }
                    Some(incoming) => incoming.ignore(),
                    None => break,
                },
                Some(arrival) = self.arrived.recv() => {
                    self.inlets.counters.connections.inc();
                    served.spawn(serve(self.net.clone(), arrival, self.inlets.clone()));
                }
                Some(joined) = handshakes.join_next(), if !handshakes.is_empty() => report(joined),
                Some(joined) = served.join_next(), if !served.is_empty() => report(joined),
            }
        }
        self.endpoint.close(Close::Shutdown.into(), b"shutting down");
        self.net.shared.registry.clear();
        handshakes.shutdown().await;
        served.shutdown().await;
        if timeout(GOODBYE, self.endpoint.wait_idle()).await.is_err() {
            tracing::debug!("not every peer has heard our goodbye");
        }
    }
}

/// A task of one peer that panicked must not take the others' with it; it is a bug all the same.
pub(crate) fn report(joined: Result<(), tokio::task::JoinError>) {
    if let Err(error) = joined
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

async fn answer(net: Net, incoming: Incoming, inlets: Inlets) {
    let address = incoming.remote_address();
    let connection = match timeout(HANDSHAKE, incoming.into_future()).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            net.complain(address, &error);
            tracing::debug!(%address, %error, "handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(%address, "handshake timed out");
            return;
        }
    };
    if tls::is_newcomer(&connection) {
        return welcome(connection, inlets).await;
    }
    let (why, error) = match net.admit(connection).await {
        Ok(_) | Err(DialError::Ourselves | DialError::Closed) => return,
        Err(error @ DialError::NoCertificate) => (Why::NoCertificate, error),
        Err(error @ DialError::Removed(_)) => (Why::Removed, error),
        Err(error @ DialError::Name(_)) => (Why::NoName, error),
        // Of dialling, which was done by the other side.
        Err(DialError::Address(_) | DialError::Timeout | DialError::Connection(_)) => return,
    };
    net.refused(Refusal { by: By::Us, why }, address, &Chain(&error));
}

/// Takes the one stream of a newcomer. It counts as a handshake until then, so that many who say nothing are few.
async fn welcome(connection: Connection, inlets: Inlets) {
    let Ok(_place) = inlets.newcomers.try_acquire() else {
        inlets.counters.joins_refused.inc();
        connection.close(Close::Done.into(), BUSY);
        return;
    };
    let Ok(Ok((send, recv))) = timeout(FIRST_BYTE, connection.accept_bi()).await else {
        connection.close(Close::Done.into(), b"nothing was asked");
        return;
    };
    let ask = Ask { who: Asker::Newcomer, send, recv, connection: connection.clone() };
    if inlets.asks.try_send(ask).is_err() {
        inlets.counters.joins_refused.inc();
        connection.close(Close::Done.into(), BUSY);
    }
}

async fn serve(net: Net, arrival: Arrival, inlets: Inlets) {
    let Arrival { node, connection } = arrival;
    tracing::debug!(peer = %node, address = %connection.remote_address(), "connected");
    let mut streams = JoinSet::new();
    let end = loop {
        // Cancel-safe: accept_* leave a stream that was not taken with the connection.
        tokio::select! {
            uni = connection.accept_uni() => match uni {
                Ok(recv) => drop(streams.spawn(take_uni(node.clone(), recv, inlets.clone()))),
                Err(error) => break error,
            },
            bidi = connection.accept_bi() => match bidi {
                Ok((send, recv)) => {
                    let taken = take_bidi(node.clone(), connection.clone(), (send, recv), inlets.clone());
                    drop(streams.spawn(taken));
                }
                Err(error) => break error,
            },
            Some(joined) = streams.join_next(), if !streams.is_empty() => report(joined),
        }
    };
    streams.shutdown().await;
    net.shared.registry.remove(&node, &connection);
    net.complain(connection.remote_address(), &end);
    tracing::debug!(peer = %node, address = %connection.remote_address(), reason = %end, "disconnected");
}

/// One chitchat message. Its sender is whom the connection's certificate names, whatever is written inside.
async fn take_uni(node: NodeId, mut recv: RecvStream, inlets: Inlets) {
    let message = match timeout(FIRST_BYTE, recv.read_to_end(GOSSIP_MAX + 1)).await {
        Ok(Ok(message)) => message,
        Ok(Err(error)) => {
            tracing::debug!(peer = %node, %error, "stream not read");
            return;
        }
        Err(_) => return,
    };
    if message.first().copied().and_then(Kind::from_byte) != Some(Kind::Gossip) {
        tracing::debug!(peer = %node, "stream of an unknown kind");
        return;
    }
    // Chitchat repeats itself every 300 ms, so a message that finds the queue full is lost like a datagram.
    if inlets.gossip.try_send((node, Bytes::from(message).slice(1..))).is_err() {
        inlets.counters.messages_dropped.inc();
    }
}

async fn take_bidi(
    node: NodeId,
    connection: Connection,
    (mut send, mut recv): (SendStream, RecvStream),
    inlets: Inlets,
) {
    let mut first = [0];
    let kind = match timeout(FIRST_BYTE, recv.read_exact(&mut first)).await {
        Ok(Ok(())) => Kind::from_byte(first[0]).filter(|&kind| kind != Kind::Gossip),
        Ok(Err(_)) | Err(_) => None,
    };
    let Some(kind) = kind else {
        tracing::debug!(peer = %node, byte = first[0], "stream of an unknown kind");
        // Both fail only for a stream that is already closed.
        drop((send.reset(Close::Protocol.into()), recv.stop(Close::Protocol.into())));
        return;
    };
    if kind == Kind::Renewal {
        let Some(certificate) = tls::peer_certificate(&connection) else { return };
        // Full: the stream ends with the ask, and the peer asks again in an hour.
        drop(inlets.asks.try_send(Ask { who: Asker::Node(certificate), send, recv, connection }));
        return;
    }
    // Waits while replication is busy; the peer's flow control then holds it back. Fails only at shutdown.
    drop(inlets.streams.send(PeerStream { node, kind, send, recv }).await);
}

impl Net {
    /// Sends one chitchat message on a stream of its own. Whether it arrives is not known.
    pub(crate) async fn send_gossip(&self, connection: &Connection, message: Bytes) -> Result<(), quinn::WriteError> {
        let mut stream = connection.open_uni().await?;
        stream.write_all_chunks(&mut [Bytes::from_static(&[Kind::Gossip as u8]), message]).await?;
        // Fails only for a stream that is already finished.
        drop(stream.finish());
        Ok(())
    }
}
