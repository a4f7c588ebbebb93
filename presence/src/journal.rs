//! The node's own log: what it said, so that it can say it again after it was killed.

use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use thiserror::Error;

use crate::core::{Fact, UserId};

/// Facts, in the order in which they were said.
pub(crate) type Facts = Vec<(UserId, Fact)>;

/// Where a node keeps what it said.
pub(crate) trait Journal: Send + Sync + 'static {
    /// Makes facts durable, all or none. After an error nobody knows which.
    fn append(&self, facts: Facts) -> BoxFuture<'static, Result<(), JournalError>>;

    /// Whether it can be tried at all.
    fn is_up(&self) -> bool;

    /// Everything whose append has returned is said by these as well, and is forgotten once they are kept. What is being
    /// appended meanwhile stays.
    fn compact(&self, facts: Facts) -> BoxFuture<'static, Result<(), JournalError>>;
}

/// Why facts are not durable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum JournalError {
    /// There is nobody to keep them.
    #[error("the local nats-server is away")]
    Away,
    /// It did not say in time that it kept them.
    #[error("the local nats-server did not answer in time")]
    Late,
    /// It refused.
    #[error("the local nats-server does not keep it: {0}")]
    Refused(String),
}

/// Keeps them for as long as the process lives: for tests, and for a first look.
#[derive(Debug, Default)]
pub(crate) struct InMemory {
    facts: Mutex<usize>,
}

impl Journal for InMemory {
    fn append(&self, facts: Facts) -> BoxFuture<'static, Result<(), JournalError>> {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) += facts.len();
        std::future::ready(Ok(())).boxed()
    }

    fn is_up(&self) -> bool {
        true
    }

    fn compact(&self, facts: Facts) -> BoxFuture<'static, Result<(), JournalError>> {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = facts.len();
        std::future::ready(Ok(())).boxed()
    }
}
