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
