//! What the daemon is told at its start.

use std::path::PathBuf;

use kith_gossip_proto::NodeId;

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
}
