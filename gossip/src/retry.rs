//! How long to wait before trying again: the one place that knows the `backoff` crate, so that it can be replaced.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::ExponentialBackoffBuilder;
use backoff::backoff::Backoff;

/// Delays that grow by half from `first` to `cap`, each off by up to 30 % either way so that nodes which lost each other
/// at one moment do not all come back at one moment. They never end: what we retry here is a peer that may be away for
/// days.
#[derive(Debug)]
pub(crate) struct Retry {
    delays: ExponentialBackoff,
    cap: Duration,
}

impl Retry {
    /// Delays from `first` to about `cap`.
    pub(crate) fn new(first: Duration, cap: Duration) -> Self {
        let delays = ExponentialBackoffBuilder::new()
            .with_initial_interval(first)
            .with_max_interval(cap)
            .with_multiplier(1.5)
            .with_randomization_factor(0.3)
            .with_max_elapsed_time(None)
            .build();
        Self { delays, cap }
    }

    /// The next delay.
    pub(crate) fn delay(&mut self) -> Duration {
        self.delays.next_backoff().unwrap_or(self.cap)
    }

    /// Begins again at the first delay: what was tried has worked for long enough to count.
    pub(crate) fn reset(&mut self) {
        self.delays.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_never_end() {
        let (first, cap) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut retry = Retry::new(first, cap);
        let delays: Vec<_> = (0..100).map(|_| retry.delay()).collect();
        assert!(delays[0] >= first.mul_f64(0.69) && delays[0] <= first.mul_f64(1.31), "{:?}", delays[0]);
        assert!(delays.iter().all(|&delay| delay <= cap.mul_f64(1.31)), "{delays:?}");
        assert!(delays[99] >= cap.mul_f64(0.69), "{:?}", delays[99]);
        retry.reset();
        assert!(retry.delay() <= first.mul_f64(1.31));
    }
}
