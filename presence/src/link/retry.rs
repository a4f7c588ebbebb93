//! Delays between attempts: exponential, with jitter. The one place that knows the `backoff` crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// A nats-server that is started beside us is there within a second or two.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);

/// How long to wait after each attempt that failed.
#[derive(Debug)]
pub(super) struct Retry(ExponentialBackoff);

impl Retry {
    pub(super) fn new() -> Self {
        Self(ExponentialBackoff {
            current_interval: SHORTEST,
            initial_interval: SHORTEST,
            max_interval: LONGEST,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    pub(super) fn delay(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(LONGEST)
    }
}
