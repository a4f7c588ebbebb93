//! The runner of nats-server: the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Configured, Output};

/// The runner alone, or a question to it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct NatsAlone {
    #[command(flatten)]
    pub(crate) configured: Configured,
    /// The nats-server to run (NATS_SERVER_BIN), over nats.bin
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_bin: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) action: Option<NatsAction>,
}

/// What is asked.
#[derive(Debug, Subcommand)]
pub(crate) enum NatsAction {
    /// Show how the runner of this server and its nats-server are
    #[command(after_help = "Examples:\n  kith nats status\n  kith nats status --json --health 127.0.0.1:5500")]
    Status(NatsStatus),
    /// Restart this server's nats-server when no other server restarts
    #[command(after_help = "\
A turn is a lease of JetStream's: without a leader of it nobody has one. `kith nats status` says whose turn it is.

Examples:
  kith nats restart
  kith nats restart --no-lease")]
    Restart(NatsRestart),
    /// Remove a server that is gone for good from JetStream's group
    #[command(after_help = "\
What only that server held is lost. Refused while it is up, and while those that are up are no majority.

Example:
  kith nats peer-remove fra-3-9f2c01aa")]
    PeerRemove(NatsPeerRemove),
}

/// A restart.
#[derive(Debug, Args)]
pub(crate) struct NatsRestart {
    #[command(flatten)]
    pub(crate) configured: Configured,
    /// At once, whatever other servers do: for a group that has no leader
    #[arg(long)]
    pub(crate) no_lease: bool,
}

/// A removal.
#[derive(Debug, Args)]
pub(crate) struct NatsPeerRemove {
    #[command(flatten)]
    pub(crate) configured: Configured,
    /// Its name, as `kith nats status` there and /jsz say it, or its id in the group
    pub(crate) name: String,
}

/// Which runner.
#[derive(Debug, Args)]
pub(crate) struct NatsStatus {
    /// Where it answers (KITH_NATS_HEALTH; default 127.0.0.1:5500)
    #[arg(long, value_name = "ADDR")]
    pub(crate) health: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) output: Output,
}
