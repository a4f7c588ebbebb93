//! The delays before a process is started again: exponential with jitter, bounded. The only module that names the library.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::exponential::ExponentialBackoff;
use backoff::{ExponentialBackoffBuilder, SystemClock};

/// First delay. A nats-server that was killed is to be back in service within 2 s, and takes half a second itself.
pub(crate) const FIRST: Duration = Duration::from_millis(100);
/// Longest delay before a process counts as one that will not get better.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);

/// A sequence of delays. It has no last element.
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
