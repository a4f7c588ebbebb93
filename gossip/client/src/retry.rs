//! The delays between attempts: exponential with jitter, bounded. The only module that names the library.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::exponential::ExponentialBackoff;
use backoff::{ExponentialBackoffBuilder, SystemClock};

/// First delay: a store that restarts on the same host is back in about this time.
const FIRST: Duration = Duration::from_millis(50);
/// Longest delay. What is cut off from its store must notice within seconds that it is back; an attempt on a local
/// socket costs microseconds, so waiting longer would save nothing.
const LONGEST: Duration = Duration::from_secs(2);

/// A sequence of delays. It has no last element: who retries decides when to give up.
#[derive(Debug)]
pub(crate) struct Retry(ExponentialBackoff<SystemClock>);

impl Retry {
    /// A sequence at its start.
    pub(crate) fn new() -> Retry {
        Retry(
            ExponentialBackoffBuilder::new()
                .with_initial_interval(FIRST)
                .with_multiplier(2.0)
                .with_randomization_factor(0.5)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_stay_bounded_and_start_over() {
        let mut retry = Retry::new();
        let first = retry.delay();
        assert!((FIRST / 2..=FIRST * 3 / 2).contains(&first), "{first:?}");
        let later = (0..50).map(|_| retry.delay()).collect::<Vec<_>>();
        assert!(later.iter().all(|d| *d <= LONGEST), "{later:?}");
        assert!(later[10..].iter().all(|d| *d >= LONGEST / 2), "{later:?}");
        retry.succeeded();
        assert!(retry.delay() <= FIRST * 3 / 2);
    }
}
