//! Looking into a running DNS server.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Configured, Output, Store};

/// Which DNS server is looked into.
#[derive(Debug, Args)]
pub(crate) struct DnsSocket {
    /// The DNS server's socket (KITH_DNS_SOCKET; default /var/lib/kith/dns.sock)
    #[arg(long = "socket", id = "dns_socket", value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
}

/// The busiest names.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Seconds that each table is of
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
    /// How many names
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) names: u64,
    /// End after so many tables; default 1, on a terminal never
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) socket: DnsSocket,
}

/// What else there is to a DNS server.
#[derive(Debug, Subcommand)]
pub(crate) enum DnsAction {
    /// Follow the answers to a name and to names below it, as they are given
    #[command(after_help = "\
Each line is one answer: who asked, by what, for what, the code, what it was taken from and in how many microseconds. Taken
from: rows, a file, kept (an answer of somebody else), forward (asked for, or kept elsewhere), nothing. It goes on until
stopped. While nobody follows it costs nothing; what comes faster than it can be shown is counted as lost.

Examples:
  kith dns trace casa-api.internal
  kith dns trace . --count 100 --json | jq .name")]
    Trace(Trace),
}

/// What to follow.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The name, whole; `.` for all names
    pub(crate) name: String,
    /// End after so many answers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) socket: DnsSocket,
}

/// What is looked into.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Docker's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/docker/daemon.json")]
    pub(crate) docker_file: PathBuf,
    #[command(flatten)]
    pub(crate) configured: Configured,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}
