//! Containers: the command line of `kith ps` and `kith sweep`.

use clap::{ArgAction, Args};

use super::{Output, Store};

/// Which containers.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Those of all servers
    #[arg(long)]
    pub(crate) all: bool,
    /// Also those of this server's Docker that are not listed, with the reason
    #[arg(long)]
    pub(crate) why: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}

/// What the sweep would do.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// Say it, and do nothing: the daemon sweeps by itself
    #[arg(long, required = true, action = ArgAction::SetTrue)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}
