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
    /// Take the streams of a server that was alone into the cluster that it is to belong to
    #[command(after_help = "\
Stop the runner, say servers = \"3\" in its configuration, run this, and start the runner: its streams are put aside, and each is copied into
the cluster as soon as there is one. Ended half way, run it again. What was put aside stays, as the backup, in the folder that is named last.

With accounts it has to sign on at each that has streams: FILE holds user:password, or NATS credentials.

Examples:
  kith nats grow
  kith nats grow --replicas 3
  kith nats grow --login APP=/etc/kith/app.login --json")]
    Grow(NatsGrow),
}

/// A growth.
#[derive(Debug, Args)]
pub(crate) struct NatsGrow {
    #[command(flatten)]
    pub(crate) configured: Configured,
    /// Give each stream so many replicas; as they were, if it is not said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(crate) replicas: Option<u8>,
    /// How to sign on at an account
    #[arg(long, value_name = "ACCOUNT=FILE")]
    pub(crate) login: Vec<String>,
    #[command(flatten)]
    pub(crate) output: Output,
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
