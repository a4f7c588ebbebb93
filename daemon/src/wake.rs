//! What lets a reconciler look at once: a poke without a message, so that there is nothing to believe and nothing to lose.

use std::sync::Arc;

use tokio::sync::Notify;

/// The waking of one reconciler. Clones wake the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wake(Arc<Notify>);

impl Wake {
    /// Wakes it. Any number of pokes during a pass are one further pass.
    pub(crate) fn poke(&self) {
        self.0.notify_one();
    }

    /// Waits for a poke. Dropping the wait loses none.
    pub(crate) async fn poked(&self) {
        self.0.notified().await;
    }
}
