//! QUIC between nodes: one endpoint on one UDP port, for everything they say to each other.
//!
//! A connection is mutual: both ends show a certificate of the cluster's authority, whose one name is the node's id
//! (`tls`). Who dialled it does not matter afterwards, either side opens streams on it. A node keeps a connection to
//! every member and every seed (`dial`); the `registry` knows which nodes are connected. What a stream is for is its
//! first byte (`Kind`):
//!
//! ```text
//! uni   1 gossip     one chitchat message, whole          ─► membership
//! bidi  2 versions   hello, then versions ─► and heads ◄─ ─► replication
//! bidi  3 pull       pull ─►, then rows, pulled ◄─        ─► replication
//! bidi  4 snapshot   nothing ─►, then the store ◄─       ─► replication
//! bidi  8 renewal    nothing ─►, certificate ◄─           ─► identity
//! ```
//! A connection with a newcomer, who has no certificate yet, has one stream, for its wish to join (`Ask`).
//!
//! Nothing here knows what is in a message. What arrives is handed on over bounded channels; what is sent may be lost, and
//! both layers above are made for that.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kith_gossip_proto::NodeId;
use quinn::{AsyncUdpSocket, Connection, Endpoint, EndpointConfig, RecvStream, Runtime, SendStream, TokioRuntime};
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use crate::identity::{Clock, Identity, subject_key};

mod complaints;
pub(crate) mod counters;
pub(crate) mod dial;
pub(crate) mod driver;
pub(crate) mod frames;
mod refusal;
mod refused;
mod registry;
mod removed;
pub(crate) mod tls;
pub(crate) mod transport;

pub(crate) use counters::Counters;
pub(crate) use driver::Driver;
pub(crate) use removed::Removed;
pub(crate) use tls::Newcomers;

use complaints::Complaints;
use driver::Inlets;
use refused::Refused;
use registry::{Arrival, Registry};

#[cfg(test)]
pub(crate) mod tests;

/// What a stream is for: its first byte. A kind that is not known is refused on its own; the connection stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Gossip = 1,
    Versions = 2,
    Pull = 3,
    Snapshot = 4,
    Renewal = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Gossip, Self::Versions, Self::Pull, Self::Snapshot, Self::Renewal]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }
}

/// Why a connection or a stream was ended: QUIC's application error codes, seen in the peer's log.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Close {
    /// The node shuts down.
    Shutdown = 0,
    /// We dialled ourselves.
    Ourselves = 1,
    /// Another connection of the pair is used.
    Surplus = 2,
    /// The peer's certificate names no node.
    Name = 3,
    /// What came on a stream is not what its kind asks for, or is longer than it may be.
    Protocol = 4,
    /// The stream is no longer of use to the receiver.
    Unwanted = 5,
    /// An operator has removed the peer.
    Removed = 6,
    /// The peer has shown no certificate.
    NoCertificate = 7,
    /// The newcomer has its answer, or gets none.
    Done = 8,
}

impl From<Close> for quinn::VarInt {
    fn from(close: Close) -> Self {
        Self::from_u32(close as u32)
    }
}

/// How long a handshake may take: three losses of its packets, on a slow path.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Chitchat messages that wait for the membership's decoder. Three peers send one each 300 ms; what comes on top is
/// dropped, as on any lossy path.
const GOSSIP_QUEUE: usize = 256;

/// Streams that wait for replication to take them. Each node opens two or three; at the bound the connection's next
/// streams wait.
const STREAM_QUEUE: usize = 64;

/// Wishes to join or to renew that wait to be looked at. A person makes the first kind, a timer the second once in two
/// months; at the bound further ones are turned away.
const ASK_QUEUE: usize = 16;

/// What the endpoint is made of.
pub(crate) struct NetConfig<'a> {
    /// Which cluster: nodes of another one of the same authority are refused.
    pub(crate) cluster_id: &'a str,
    /// Who this node is.
    pub(crate) identity: &'a Identity,
    /// The UDP address.
    pub(crate) listen: SocketAddr,
    /// Who is refused by name.
    pub(crate) removed: Removed,
    /// Whether those may come who have no certificate.
    pub(crate) newcomers: Newcomers,
}

/// Why the endpoint could not be made.
#[derive(Debug, Error)]
pub enum BindError {
    /// The UDP port cannot be had.
    #[error("cannot listen on UDP {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The identity cannot be used for TLS 1.3.
    #[error("cannot use the node's certificate")]
    Tls(#[from] rustls::Error),
}

/// A handle on the endpoint and on who is connected. Cheap to clone; holds the port until the driver has ended.
#[derive(Clone)]
pub(crate) struct Net {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    removed: Removed,
    /// Who last said that we were removed, and when.
    expelled: Mutex<Option<(SocketAddr, Instant)>>,
    refused: Refused,
    local: SocketAddr,
    registry: Registry,
    complaints: Complaints<SocketAddr>,
    /// About what a peer sent and we could not keep, and the like.
    troubles: Complaints<NodeId>,
    counters: Counters,
    arrivals: mpsc::Sender<Arrival>,
}

/// What arrives from peers.
pub(crate) struct Inbound {
    /// Chitchat messages, with who sent them.
    pub(crate) gossip: mpsc::Receiver<(NodeId, Bytes)>,
    /// Streams of the kinds that go both ways.
    pub(crate) streams: mpsc::Receiver<PeerStream>,
    /// Wishes for certificates.
    pub(crate) asks: mpsc::Receiver<Ask>,
}

/// Somebody wants a certificate.
pub(crate) struct Ask {
    pub(crate) who: Asker,
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    /// A newcomer's connection ends with this.
    pub(crate) connection: Connection,
}

/// Who wants one.
pub(crate) enum Asker {
    /// Somebody without any.
    Newcomer,
    /// The node that this certificate proves.
    Node(CertificateDer<'static>),
}

/// A stream that a peer opened; its first byte is read.
pub(crate) struct PeerStream {
    pub(crate) node: NodeId,
    pub(crate) kind: Kind,
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
}

/// Knows when the port is free again.
pub(crate) struct Released(Weak<dyn AsyncUdpSocket>);

/// Why an address did not lead to a node.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    #[error("the endpoint is closed")]
    Closed,
    #[error("the address cannot be dialled")]
    Address(#[source] quinn::ConnectError),
    #[error("no answer within {} s", HANDSHAKE.as_secs())]
    Timeout,
    #[error("the connection failed")]
    Connection(#[source] quinn::ConnectionError),
    #[error("the peer's certificate names no node")]
    Name(#[source] crate::identity::NodeNameError),
    #[error("the address is our own")]
    Ourselves,
    #[error("{0} was removed from the cluster")]
    Removed(NodeId),
    #[error("the peer has shown no certificate")]
    NoCertificate,
}

impl Net {
    /// Binds the port. Nothing is dialled or answered before the driver runs.
    pub(crate) fn bind(config: &NetConfig<'_>) -> Result<(Self, Driver, Inbound, Released), BindError> {
        let (server, client) = tls::configs(config.identity, config.cluster_id, &config.removed, config.newcomers)?;
        let address = |source| BindError::Address { address: config.listen, source };
        let socket = UdpSocket::bind(config.listen).map_err(address)?;
        let socket = TokioRuntime.wrap_udp_socket(socket).map_err(address)?;
        let released = Released(Arc::downgrade(&socket));
        let local = socket.local_addr().map_err(address)?;
        let runtime = Arc::new(TokioRuntime);
        let mut endpoint = Endpoint::new_with_abstract_socket(EndpointConfig::default(), Some(server), socket, runtime)
            .map_err(address)?;
        endpoint.set_default_client_config(client);
        let (arrivals, arrived) = mpsc::channel(STREAM_QUEUE);
        let (to_gossip, gossip) = mpsc::channel(GOSSIP_QUEUE);
        let (to_streams, streams) = mpsc::channel(STREAM_QUEUE);
        let (to_asks, asks) = mpsc::channel(ASK_QUEUE);
        let shared = Shared {
            identity: config.identity.clone(),
            removed: config.removed.clone(),
            expelled: Mutex::default(),
            refused: Refused::default(),
            local,
            registry: Registry::new(endpoint.clone()),
            complaints: Complaints::default(),
            troubles: Complaints::default(),
            counters: Counters::default(),
            arrivals,
        };
        let net = Self { shared: Arc::new(shared) };
        let inlets = Inlets {
            gossip: to_gossip,
            streams: to_streams,
            asks: to_asks,
            newcomers: Arc::new(Semaphore::new(driver::NEWCOMERS)),
            counters: net.counters().clone(),
        };
        let driver = Driver::new(net.clone(), endpoint, arrived, inlets);
        Ok((net, driver, Inbound { gossip, streams, asks }, released))
    }

    /// This node.
    pub(crate) fn node(&self) -> &NodeId {
        self.shared.identity.node()
    }

    /// This host's clock.
    pub(crate) fn clock(&self) -> &Clock {
        self.shared.identity.clock()
    }

    /// The bound address, with the real port.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.shared.local
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The youngest live connection with the node: after a restart of the peer the older ones are dead, we only do not
    /// know it yet.
    pub(crate) fn connection(&self, node: &NodeId) -> Option<Connection> {
        self.shared.registry.connection(node)
    }

    /// Waits for a connection with the node. Cancel-safe: it only looks.
    pub(crate) async fn connected(&self, node: &NodeId) -> Connection {
        let mut changes = self.changes();
        loop {
            if let Some(connection) = self.connection(node) {
                return connection;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The nodes that are connected.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.shared.registry.nodes()
    }

    /// The smoothed round trip to the node, while it is connected.
    pub(crate) fn rtt(&self, node: &NodeId) -> Option<Duration> {
        self.connection(node).map(|connection| connection.rtt())
    }

    /// Changes whenever a connection comes or goes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.registry.changes()
    }

    /// Dials an address and returns the node that was found there, connected. Whoever it is: an address may be a seed, or
    /// may have gone to another node.
    pub(crate) async fn dial(&self, address: SocketAddr) -> Result<NodeId, DialError> {
        let endpoint = self.shared.registry.endpoint().ok_or(DialError::Closed)?;
        // The name is no one's: which node answers is read from its certificate.
        let connecting = endpoint.connect(address, tls::SERVER_NAME).map_err(DialError::Address)?;
        let connection = timeout(HANDSHAKE, connecting).await.map_err(|_| DialError::Timeout)?.map_err(|error| {
            self.complain(address, &error);
            DialError::Connection(error)
        })?;
        self.admit(connection).await
    }

    /// Takes an established connection in, if it is with another node.
    async fn admit(&self, connection: Connection) -> Result<NodeId, DialError> {
        let Some(certificate) = tls::peer_certificate(&connection) else {
            connection.close(Close::NoCertificate.into(), b"a node shows a certificate");
            return Err(DialError::NoCertificate);
        };
        let node = match crate::identity::node_of(&certificate) {
            Ok(node) => node,
            Err(error) => {
                connection.close(Close::Name.into(), b"the certificate names no node");
                return Err(DialError::Name(error));
            }
        };
        if node == *self.node() {
            self.meet_ourselves(&connection, &certificate);
            return Err(DialError::Ourselves);
        }
        let arrival = self.shared.registry.add(node.clone(), connection.clone());
        // Looked at after it is in the registry: of a removal that comes meanwhile, either this or the driver sees it.
        if self.shared.removed.holds(&node) {
            self.shared.registry.remove(&node, &connection);
            connection.close(Close::Removed.into(), removed::REASON);
            return Err(DialError::Removed(node));
        }
        // The driver serves it; when that has ended, so has the endpoint.
        self.shared.arrivals.send(arrival).await.map_err(|_| DialError::Closed)?;
        Ok(node)
    }

    /// Ends a connection with a node of our name: ourselves, or somebody who has a certificate like ours for another key.
    fn meet_ourselves(&self, connection: &Connection, certificate: &CertificateDer<'_>) {
        let same = subject_key(certificate) == subject_key(&self.shared.identity.certificate());
        if !same && self.shared.complaints.due(connection.remote_address()) {
            let node = self.node();
            tracing::warn!(address = %connection.remote_address(), %node, "another node has a certificate of our name");
        }
        connection.close(Close::Ourselves.into(), b"this is ourselves");
    }
}

impl Released {
    /// Waits until no task holds the socket, so that the port can be bound again. Quinn's own tasks let go of it shortly
    /// after the endpoint was closed; nothing tells when, hence the looking.
    pub(crate) async fn wait(self) {
        let gone = async {
            while self.0.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(Duration::from_secs(1), gone).await.is_err() {
            tracing::warn!("the UDP port is still held");
        }
    }
}
