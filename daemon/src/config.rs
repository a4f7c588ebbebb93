//! What the daemon is told at its start.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use kith_gossip_proto::NodeId;

/// How long a tombstone must have been seen. Who removed a server by mistake has as long to take it back.
pub const SWEEP_AFTER: Duration = Duration::from_secs(3600);

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
    /// How long a tombstone must have been seen before what its server ran is swept.
    pub sweep_after: Duration,
}
