//! What presence is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;

use kith_gossip_proto::NodeId;

use crate::api::Rates;
use crate::auth::AuthConfig;

/// The configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// The software's version.
    pub release: String,
    /// Where the HTTP API listens.
    pub listen: Vec<SocketAddr>,
    /// TLS for it.
    pub tls: Option<TlsFiles>,
    /// Whose writes are taken.
    pub auth: AuthConfig,
    /// How many.
    pub rates: Rates,
    /// Whether a page for people is served at `/`.
    pub page: Page,
    /// What it speaks with other nodes by.
    pub nats: Nats,
}

/// Whether a page for people is served at `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// It is: for a first look.
    Served,
    /// It is not.
    None,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// What a node speaks with others by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nats {
    /// Nothing: it is alone, and what is written is kept for as long as the process lives.
    Alone,
    /// A nats-server.
    Server(Server),
}

/// A nats-server, and what this node is among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where: `nats://host:port`, or `tls://…`. Of a name all addresses are tried, and asked for again.
    pub url: String,
    /// Credentials.
    pub credentials: Option<PathBuf>,
    /// The authority of its certificate.
    pub ca: Option<PathBuf>,
    /// What this node is.
    pub role: Role,
    /// The JetStream domain of the center; empty for none.
    pub domain: String,
}

/// What a node is among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It makes the bucket that is kept for all, in so many copies.
    Center {
        /// 1, or 3 on a cluster of three servers.
        replicas: usize,
    },
    /// It copies to that bucket.
    Leaf,
}
