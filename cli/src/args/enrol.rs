//! Founding a cluster, inviting, joining: the command line of how servers come to be one.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use kith_gossip::identity::Subnets;
use kith_gossip_proto::NodeId;

use super::{Configured, Output};
use crate::config::{ClusterId, Region, Seed};

/// What is to be made of this server.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The configuration that is written
    #[arg(long, value_name = "FILE", default_value = crate::config::DEFAULT_FILE)]
    pub(crate) config: PathBuf,
    /// Where the store, the certificate and its key are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kith")]
    pub(crate) data_dir: PathBuf,
    /// The UDP address for the other servers
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:31280")]
    pub(crate) listen: SocketAddr,
    /// Where the other servers reach this one, if not at the address that it sends from
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: Option<SocketAddr>,
    /// Region code, for {region}.APP names
    #[arg(long, value_name = "CODE")]
    pub(crate) region: Option<Region>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// The first server.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The cluster's name
    #[arg(long, value_name = "NAME", default_value = "kith")]
    pub(crate) cluster: ClusterId,
    /// This server's name; default the host's
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<NodeId>,
    /// The range of all servers; server N has the Nth /24 of it
    #[arg(long, value_name = "A.B.0.0/16", default_value = "10.210.0.0/16")]
    pub(crate) cidr: Subnets,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Who may come.
#[derive(Debug, Args)]
pub(crate) struct Invite {
    /// The new server's name, which is to be in its certificate
    pub(crate) name: NodeId,
    /// Where the new server reaches this one, HOST:PORT; repeatable (default: where the other servers do)
    #[arg(long, value_name = "ADDR")]
    pub(crate) address: Vec<Seed>,
    #[command(flatten)]
    pub(crate) configured: Configured,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// One more server.
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// What `kith invite` has printed; - to read it from stdin, where no list of processes shows it
    pub(crate) token: String,
    /// This server has joined before: only its certificate is made anew, for the key that is here
    #[arg(long)]
    pub(crate) again: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}
