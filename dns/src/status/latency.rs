//! How long answers take, by fixed buckets, so that those of all workers and of all servers can be added up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Writers;

/// Upper ends of the buckets in microseconds: from an answer at hand to an upstream that is waited for until the bound
/// of 2 s. A last bucket has no end.
pub const BUCKETS: [u64; 15] =
    [10, 25, 50, 100, 150, 250, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 2_500_000];

/// Answers by the time they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    /// In each of [`BUCKETS`], and at last beyond all of them.
    pub counts: [u64; BUCKETS.len() + 1],
    /// The times of all answers added up.
    pub sum: Duration,
}

impl Latency {
    /// How many answers there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time within which this part of all answers was given, as the upper end of its bucket; `None` where there were
    /// no answers, or it is beyond all buckets.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let wanted = (self.count() as f64 * part).ceil() as u64;
        let mut seen = 0;
        let within = |(count, end): (&u64, &u64)| {
            seen += count;
            (seen > 0 && seen >= wanted).then(|| Duration::from_micros(*end))
        };
        self.counts.iter().zip(&BUCKETS).find_map(within)
    }

    fn plus(mut self, other: &Times) -> Self {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more.load(Relaxed);
        }
        self.sum += Duration::from_nanos(other.nanos.load(Relaxed));
        self
    }
}

/// The buckets of one listener.
#[derive(Debug, Default)]
pub(crate) struct Times {
    counts: [AtomicU64; BUCKETS.len() + 1],
    nanos: AtomicU64,
}

impl Times {
    /// Counts so many answers that took as long.
    pub(super) fn add(&self, writers: Writers, took: Duration, answers: u64) {
        let micros = took.as_micros();
        let bucket = BUCKETS.iter().position(|end| micros <= u128::from(*end)).unwrap_or(BUCKETS.len());
        writers.add(&self.counts[bucket], answers);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        writers.add(&self.nanos, nanos.saturating_mul(answers));
    }

    /// All of these together.
    pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Times>) -> Latency {
        all.fold(Latency::default(), Latency::plus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_all_listeners_are_counted_in_the_bucket_of_their_time() {
        let (one, many) = (Times::default(), Times::default());
        one.add(Writers::One, Duration::from_micros(10), 3);
        one.add(Writers::One, Duration::from_nanos(10_900), 1);
        one.add(Writers::One, Duration::from_micros(11), 1);
        many.add(Writers::Many, Duration::from_secs(9), 2);
        let sum = Times::sum([&one, &many].into_iter());
        assert_eq!((sum.counts[0], sum.counts[1], sum.counts[BUCKETS.len()], sum.count()), (4, 1, 2, 7));
        assert_eq!(sum.sum, Duration::from_nanos(3 * 10_000 + 10_900 + 11_000 + 18_000_000_000));
    }

    #[test]
    fn a_quantile_is_the_end_of_its_bucket() {
        let times = Times::default();
        assert_eq!(Times::sum([&times].into_iter()).quantile(0.99), None);
        times.add(Writers::One, Duration::from_micros(5), 99);
        times.add(Writers::One, Duration::from_micros(700), 1);
        let latency = Times::sum([&times].into_iter());
        assert_eq!(latency.quantile(0.99), Some(Duration::from_micros(10)));
        assert_eq!(latency.quantile(1.0), Some(Duration::from_millis(1)));
        times.add(Writers::One, Duration::from_secs(5), 900);
        assert_eq!(Times::sum([&times].into_iter()).quantile(0.99), None, "beyond all buckets");
    }
}
