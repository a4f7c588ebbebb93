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
Where daemons keep tunnels, a fifth of all peers goes in ten minutes at most, lest a mistake take
them all; with --sure this one goes beside any number of others, also if it was removed before.

Examples:
  kith server remove fra-2
  kith server remove fra-2 --undo
  kith server remove fra-2 --sure"
    )]
    Remove {
        /// The server's name
        #[arg(value_name = "ID")]
        server: NodeId,
        /// Take it back
        #[arg(long)]
        undo: bool,
        /// Its peer may go beside any number of others
        #[arg(long, conflicts_with = "undo")]
        sure: bool,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        store: Store,
    },
    /// Keep new work away from a server: no name is answered with what runs there
    #[command(after_help = "\
What runs there goes on, and connections that are open stay. Services that run nowhere else are named.

Examples:
  kith server drain fra-2
  kith server undrain fra-2")]
    Drain {
        /// The server's name
        #[arg(value_name = "ID")]
        server: NodeId,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        store: Store,
    },
    /// Answer with what runs on a server again
    #[command(after_help = "Example:\n  kith server undrain fra-2")]
    Undrain {
        /// The server's name
        #[arg(value_name = "ID")]
        server: NodeId,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        store: Store,
    },
}
