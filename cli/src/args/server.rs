//! Who belongs to the cluster: the command line of `kith server`.

use clap::{Args, Subcommand};
use kith_gossip_proto::NodeId;

use super::{Output, Store};

/// About the servers of the cluster.
#[derive(Debug, Args)]
pub(crate) struct Server {
    #[command(subcommand)]
    pub(crate) action: ServerAction,
}

/// What about them.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerAction {
    /// List the servers: their ranges, whether they are there, which were removed
    #[command(after_help = "Examples:\n  kith server ls\n  kith server ls --json | jq .server")]
    Ls {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        store: Store,
    },
    /// Remove a server: all others refuse it by name from then on
    #[command(
        alias = "rm",
        after_help = "\
Run it on any server that stays. Its connections are closed, and it is told why. Its rows stay, and so does its number.

Examples:
  kith server remove fra-2
  kith server remove fra-2 --undo"
    )]
    Remove {
        /// The server's name
        #[arg(value_name = "ID")]
        server: NodeId,
        /// Take it back
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        store: Store,
    },
}
