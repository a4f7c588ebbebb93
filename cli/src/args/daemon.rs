//! The daemon, alone, and setting up the host around it: the command line.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::{Configured, Output, Store};

/// The reconcilers without a store beside them.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DaemonAlone {
    #[command(flatten)]
    pub(crate) configured: Configured,
    #[command(flatten)]
    pub(crate) store: Store,
    #[command(subcommand)]
    pub(crate) action: Option<DaemonAction>,
}

/// What is set up by hand.
#[derive(Debug, Subcommand)]
pub(crate) enum DaemonAction {
    /// Have Docker's containers ask Kith for names
    #[command(after_help = "\
Puts the host's address in the containers' range in front of `dns`, the zones in front of `dns-search` and ndots:1 into `dns-opts`.
Docker reads its configuration when it starts, and containers have theirs from when they were started: those that would stop, and
those that still ask as before, are named. Nothing is restarted without --restart.

Examples:
  kith daemon setup-docker --dry-run
  kith daemon setup-docker --apply
  kith daemon setup-docker --restart")]
    SetupDocker(SetupDocker),
    /// Have this host itself ask Kith for the cluster's names
    #[command(after_help = "\
Where systemd-resolved answers, it is told which zones are Kith's, and started again. Elsewhere it is said what to write.

Examples:
  kith daemon setup-host --dry-run
  kith daemon setup-host --apply")]
    SetupHost(SetupHost),
}

/// Docker's configuration.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("how").required(true).args(["dry_run", "apply", "restart"])))]
pub(crate) struct SetupDocker {
    /// Say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write the file, and leave Docker as it runs
    #[arg(long)]
    pub(crate) apply: bool,
    /// Write the file and restart Docker
    #[arg(long)]
    pub(crate) restart: bool,
    /// Docker's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/docker/daemon.json")]
    pub(crate) file: PathBuf,
    /// The name server (default: this server's own, in its containers' range)
    #[arg(long, value_name = "ADDR")]
    pub(crate) dns: Option<Ipv4Addr>,
    #[command(flatten)]
    pub(crate) configured: Configured,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}

/// The host's resolver.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("how").required(true).args(["dry_run", "apply"])))]
pub(crate) struct SetupHost {
    /// Say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do it
    #[arg(long)]
    pub(crate) apply: bool,
    /// Where systemd-resolved reads it
    #[arg(long, value_name = "FILE", default_value = kith_daemon::setup::host::DROP_IN)]
    pub(crate) file: PathBuf,
    /// Who answers for the host
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub(crate) resolver: PathBuf,
    #[command(flatten)]
    pub(crate) configured: Configured,
}

/// Taking Kith off a host.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("how").required(true).args(["dry_run", "apply"])))]
pub(crate) struct Uninstall {
    /// Say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do it
    #[arg(long)]
    pub(crate) apply: bool,
    /// Also this server's configuration, certificate and store
    #[arg(long)]
    pub(crate) purge: bool,
    /// Where `scripts/install` put it
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
    #[command(flatten)]
    pub(crate) configured: Configured,
}
