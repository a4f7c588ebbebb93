//! What may be set. Whoever builds this has checked what can be checked without the host; the rest fails in
//! [`Gossip::build`](crate::Gossip::build).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use kith_gossip_proto::NodeId;

use crate::api::ApiConfig;
use crate::identity::{Enrolment, Identity};
use crate::store::{Durability, SchemaSource};

/// A node's store, its replication and its API.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node; the name in its certificate must be the same.
    pub node: NodeId,
    /// Where it stands, for status; what the cluster knows of it is in its `servers` row.
    pub region: String,
    /// Where its files are: the database is `kith.db` in it.
    pub dir: PathBuf,
    /// The tables; [`SchemaSource::builtin`] are Kith's own.
    pub schema: Vec<SchemaSource>,
    /// What an acknowledged transaction survives.
    pub durability: Durability,
    /// How long deletions are remembered, and nodes that are not heard of waited for: [`WINDOW`](crate::replication::WINDOW)
    /// but in tests. On all nodes the same.
    pub remember: Duration,
    /// The cluster. Nodes of another one are refused even if one authority issued the certificates of both.
    pub cluster_id: String,
    /// The UDP address for everything between nodes; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where other nodes dial this one; `listen` if absent. Port 0 stands for the port that was taken.
    pub advertise: Option<SocketAddr>,
    /// Addresses of nodes to begin with, as `host:port`; looked up again and again. This node's own may be among them.
    pub seeds: Vec<String>,
    /// The node's certificate and key, and the cluster's authority.
    pub identity: Identity,
    /// The authority's key and who may join, on the one node that has them.
    pub enrolment: Option<Enrolment>,
    /// The HTTP API.
    pub api: ApiConfig,
    /// The boot of this host, as the kernel numbers it.
    pub boot_id: String,
}
