//! What the daemon is told at its start.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use kith_gossip_proto::NodeId;

use crate::peers::MeshRange;
use crate::public::Source;

/// How long a tombstone must have been seen. Who removed a server by mistake has as long to take it back.
pub const SWEEP_AFTER: Duration = Duration::from_secs(3600);

/// Where WireGuard listens, UDP.
pub const PORT: u16 = 31820;
/// The interface of the tunnels.
pub const TUNNEL: &str = "kith0";

/// Docker's network, which the daemon makes.
#[derive(Debug, Clone)]
pub struct Network {
    /// All servers' ranges.
    pub cluster: Ipv4Net,
    /// The interface of the tunnels.
    pub tunnel: String,
}

/// What the public address is made of.
#[derive(Debug, Clone)]
pub struct Public {
    /// Who is asked as what they see us.
    pub sources: Vec<Source>,
    /// Where gossip is said to be reached, if somebody has said so.
    pub advertised: Option<IpAddr>,
    /// Endpoints that come first.
    pub endpoints: Vec<SocketAddr>,
    /// Where WireGuard listens.
    pub port: u16,
    /// All servers' ranges, inside which no tunnel can end.
    pub cluster: Option<Ipv4Net>,
}

/// How long a tombstone must have been seen before its peer goes.
pub const REMOVE_AFTER: Duration = crate::peers::HOLD;

/// The daemon's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// This server.
    pub node: NodeId,
    /// The host's own name, for people.
    pub hostname: String,
    /// Region code; may be empty.
    pub region: String,
    /// The version of Kith that runs.
    pub release: String,
    /// The folder of what is remembered over restarts. It must exist.
    pub dir: PathBuf,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Docker's socket; none: containers are nobody's business here.
    pub docker: Option<PathBuf>,
    /// Docker's network for containers that others reach; none: somebody else makes it.
    pub network: Option<Network>,
    /// Where others reach this server's tunnels; none: somebody else says so.
    pub public: Option<Public>,
    /// How long a tombstone must have been seen before what its server ran is swept.
    pub sweep_after: Duration,
    /// WireGuard; none: it is nobody's business here.
    pub wireguard: Option<Wireguard>,
    /// Where the runner of nats-server says how it is. Where none answers there is no row.
    pub nats: SocketAddr,
}

/// What concerns WireGuard.
#[derive(Debug, Clone)]
pub struct Wireguard {
    /// The interface's name.
    pub interface: String,
    /// Where it listens, UDP.
    pub port: u16,
    /// Where others reach it, most useful first; none: where [`Public`] finds that they do.
    pub endpoints: Vec<SocketAddr>,
    /// The ranges of the cluster.
    pub mesh: MeshRange,
    /// How long a tombstone must have been seen before its peer is removed.
    pub remove_after: Duration,
}
