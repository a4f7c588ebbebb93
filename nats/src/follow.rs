//! The seam between what nats-server is to be configured with and the process that runs with it.
//!
//! ```text
//!   before_start ─► file ─► process starts ─► changed: Reload ─► SIGHUP ─► reloaded
//!        ▲                                        └── Restart ─► the process is ended and started again
//!        └──────────────────── every start, also after a crash ◄──────────┘
//! ```
//! Whoever implements it writes the file; the runner alone signals, ends and starts the process.

use std::path::PathBuf;

use futures_util::future::BoxFuture;

/// What there is for a process that is about to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// The file is written and checked.
    File(PathBuf),
    /// It is not known yet with whom it is to form a cluster: one line for people. Asked again when [`Follow::changed`] returns.
    Waiting(String),
}

/// What a change asks of the process that runs. A change that asks for nothing is not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// There is something to start with: what was waited for has come.
    Start,
    /// The file has changed so that the process can take it over while it runs.
    Reload {
        /// What has changed, for people.
        what: String,
    },
    /// The process has to be started again to take it over, when it is this server's turn.
    Restart {
        /// What has changed, for people.
        what: String,
    },
    /// What [`Change::Restart`] was told for is as the process has it again: where that restart has not begun, it is not needed.
    TakenBack,
}

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The process runs by the file.
    Taken,
    /// It goes on as before, and says why.
    Refused(String),
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// It cannot be written.
    #[error("{path} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Whoever follows has ended.
    #[error("the configuration is not followed any more")]
    Ended,
    /// nats-server does not take it, and says why.
    #[error("nats-server refuses its configuration: {0}")]
    Refused(String),
}

/// Where the configuration comes from.
pub trait Follow: Send + 'static {
    /// Writes the file that a process which starts now is to read, or says what it waits for.
    fn before_start(&mut self) -> BoxFuture<'_, Result<Prepared, FollowError>>;

    /// Waits for the next change, by what the process that runs was started with. Nothing is lost when the wait is dropped: what
    /// was found by then is found again.
    fn changed(&mut self) -> BoxFuture<'_, Change>;

    /// Says what became of [`Change::Reload`].
    fn reloaded(&mut self, outcome: Reloaded) -> BoxFuture<'_, ()>;
}
