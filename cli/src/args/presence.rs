//! Presence, as typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Configured, Output};

/// Presence alone, or a question to a node of it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PresenceAlone {
    #[command(flatten)]
    pub(crate) configured: Configured,
    /// The ancestor's YAML file, whose keys are taken as those of the section `presence`; what they are called there is printed
    #[arg(long, value_name = "FILE")]
    pub(crate) legacy_config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) action: Option<PresenceAction>,
}

/// What people do with it.
#[derive(Debug, Subcommand)]
pub(crate) enum PresenceAction {
    /// Say how a user is
    #[command(after_help = "\
Needs a token of that user, or the secret that tokens are signed with.

Examples:
  kith presence set ann online --token-file ann.jwt
  kith presence set ann away --message 'at lunch' --ttl 1800 --secret-file /etc/kith/presence.secret
  kith presence set ann offline --secret-file /etc/kith/presence.secret")]
    Set(Set),
    /// Show how users are
    #[command(after_help = "Examples:\n  kith presence get ann bob\n  kith presence get ann --json")]
    Get(Get),
    /// Follow users: how they are, then every change, a line each
    #[command(after_help = "Examples:\n  kith presence watch ann bob\n  kith presence watch ann --json | jq .status")]
    Watch(Get),
    /// Show who is here, at most 200
    #[command(after_help = "Examples:\n  kith presence who\n  kith presence who --json")]
    Who(Who),
}

/// Which node is asked.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The node's address (KITH_PRESENCE)
    #[arg(long, value_name = "URL")]
    pub(crate) at: Option<String>,
}

/// `set`.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The user
    #[arg(value_name = "USER")]
    pub(crate) user: String,
    /// online, busy, away or offline
    #[arg(value_name = "STATUS")]
    pub(crate) status: String,
    /// A few words beside it
    #[arg(long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// Seconds without a heartbeat until the user is offline
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) ttl: u64,
    /// One of several sessions of the user
    #[arg(long, value_name = "NAME")]
    pub(crate) session: Option<String>,
    /// A file with a token
    #[arg(long, value_name = "FILE", conflicts_with = "secret_file")]
    pub(crate) token_file: Option<PathBuf>,
    /// A file with the secret that tokens are signed with
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `get` and `watch`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The users
    #[arg(value_name = "USER", required = true)]
    pub(crate) users: Vec<String>,
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `who`.
#[derive(Debug, Args)]
pub(crate) struct Who {
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) output: Output,
}
