//! Copies of a store, as typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Configured, Output, Store};

/// A copy to make.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file to write
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}

/// A copy to go back to.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where a store is there already, keep it aside under another name
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) configured: Configured,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// About the store itself.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    pub(crate) action: StoreAction,
}

/// What about it.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreAction {
    /// Make log and digest anew from the rows, and say where they differ from what is kept
    #[command(after_help = "\
Without a file, of the running node at --api. Exit code 1 if anything is wrong.

Examples:
  kith store verify
  kith store verify /var/backups/kith.db --json")]
    Verify {
        /// A backup, or the kith.db of a node that does not run
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        store: Store,
    },
}
