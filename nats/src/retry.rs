//! The delays before something is tried again: exponential with jitter, bounded. The only module that names the library.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::exponential::ExponentialBackoff;
use backoff::{ExponentialBackoffBuilder, SystemClock};

/// First delay before a process is started again. A nats-server that was killed is to be back in service within 2 s, and takes half a
/// second itself.
pub(crate) const FIRST: Duration = Duration::from_millis(100);
/// Longest delay before a process counts as one that will not get better.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);
/// The same of what drains a server that works otherwise: a restart for the sake of its streams.
const RARE: [Duration; 2] = [Duration::from_secs(300), Duration::from_secs(3600)];

/// A sequence of delays. It has no last element.
#[derive(Debug)]
pub(crate) struct Retry {
    delays: ExponentialBackoff<SystemClock>,
    longest: Duration,
}

impl Retry {
    /// A sequence at its start, for a process that ended.
    pub(crate) fn new() -> Retry {
        Retry::between(FIRST, LONGEST)
    }

    /// One for what works, but for something that a restart may mend.
    pub(crate) fn rare() -> Retry {
        let [first, longest] = RARE;
        Retry::between(first, longest)
    }

    fn between(first: Duration, longest: Duration) -> Retry {
        let delays = ExponentialBackoffBuilder::new()
            .with_initial_interval(first)
            .with_multiplier(2.0)
            .with_randomization_factor(0.3)
            .with_max_interval(longest)
            .with_max_elapsed_time(None)
            .build();
        Retry { delays, longest }
    }

    /// How long to wait before the next attempt.
    pub(crate) fn delay(&mut self) -> Duration {
        self.delays.next_backoff().unwrap_or(self.longest).min(self.longest)
    }

    /// Starts over after an attempt that held.
    pub(crate) fn succeeded(&mut self) {
        self.delays.reset();
    }
}
