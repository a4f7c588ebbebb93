//! The delays before a pass that failed is made again: exponential with jitter, bounded. The only module that names the
//! library.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::exponential::ExponentialBackoff;
use backoff::{ExponentialBackoffBuilder, SystemClock};

/// First delay: a store that restarts on the same host is back in about this time.
const FIRST: Duration = Duration::from_millis(100);
/// Longest delay. A container that became unhealthy while the store was away is to be out of answers soon after.
pub(crate) const LONGEST: Duration = Duration::from_secs(2);

/// A sequence of delays. It has no last element: a reconciler tries for ever.
#[derive(Debug)]
pub(crate) struct Retry(ExponentialBackoff<SystemClock>);

impl Retry {
    /// A sequence at its start.
    pub(crate) fn new() -> Retry {
        Retry(
            ExponentialBackoffBuilder::new()
                .with_initial_interval(FIRST)
                .with_multiplier(2.0)
                .with_randomization_factor(0.3)
                .with_max_interval(LONGEST)
                .with_max_elapsed_time(None)
                .build(),
        )
    }

    /// How long to wait before the next attempt.
    pub(crate) fn delay(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(LONGEST).min(LONGEST)
    }

    /// Starts over after an attempt that held.
    pub(crate) fn succeeded(&mut self) {
        self.0.reset();
    }
}
