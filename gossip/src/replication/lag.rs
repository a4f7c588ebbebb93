//! How long versions of peers are under way within this node: from the frame to the synced store, by our own clock.
//!
//! Not from the commit at their site, which would compare two hosts' clocks.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kith_gossip_proto::{SiteId, Vector};

/// Versions whose arrival is remembered. Beyond it, lag is taken from some of them only.
const UNDER_WAY: usize = 10_000;

/// How long an arrival is remembered. The replica gives a version up that waits for longer, and pulls instead.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// Samples that the percentile is taken from, and how long each counts.
const SAMPLES: usize = 1024;
const RECENT: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Lag {
    arrived: BTreeMap<(SiteId, u64), Duration>,
    samples: VecDeque<(Duration, Duration)>,
}

impl Lag {
    /// A version has arrived at time `now`. One that comes again was under way since it first came.
    pub(super) fn arrived(&mut self, site: SiteId, version: u64, now: Duration) {
        if self.arrived.len() < UNDER_WAY {
            self.arrived.entry((site, version)).or_insert(now);
        }
    }

    /// The store has these heads at time `now`. What has waited for long will not come any more.
    pub(super) fn stored(&mut self, heads: &Vector, now: Duration) {
        let samples = &mut self.samples;
        self.arrived.retain(|&(site, version), &mut at| {
            let waits = version > heads.head(site);
            if !waits {
                samples.push_back((now, now.saturating_sub(at)));
            }
            waits && now.saturating_sub(at) < FORGOTTEN
        });
        let surplus = samples.len().saturating_sub(SAMPLES);
        samples.drain(..surplus);
    }

    /// Versions that have arrived and are not stored.
    pub(super) fn under_way(&self) -> usize {
        self.arrived.len()
    }

    /// The 99th percentile of the last minutes.
    pub(super) fn p99(&mut self, now: Duration) -> Duration {
        while self.samples.front().is_some_and(|&(at, _)| now.saturating_sub(at) > RECENT) {
            self.samples.pop_front();
        }
        let mut lags: Vec<_> = self.samples.iter().map(|&(_, lag)| lag).collect();
        lags.sort_unstable();
        lags.get(lags.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_from_the_first_arrival_to_the_store_and_forgotten_after_minutes() {
        let (site, ms) = (SiteId::new([1; 16]), Duration::from_millis);
        let mut lag = Lag::default();
        assert_eq!(lag.p99(ms(0)), ms(0));
        lag.arrived(site, 1, ms(10));
        lag.arrived(site, 1, ms(20));
        lag.arrived(site, 2, ms(20));
        lag.stored(&[(site, 1)].into_iter().collect(), ms(40));
        assert_eq!((lag.under_way(), lag.p99(ms(40))), (1, ms(30)));
        lag.stored(&[(site, 9)].into_iter().collect(), ms(1020));
        assert_eq!((lag.under_way(), lag.p99(ms(1020))), (0, ms(30)));
        for version in 10..5000 {
            lag.arrived(site, version, ms(2000));
        }
        lag.stored(&[(site, 5000)].into_iter().collect(), ms(2005));
        assert_eq!((lag.samples.len(), lag.p99(ms(2005))), (SAMPLES, ms(5)));
        assert_eq!(lag.p99(ms(2005) + RECENT + ms(1)), ms(0));
        lag.arrived(site, 9000, ms(3000));
        lag.stored(&Vector::default(), ms(3000) + FORGOTTEN);
        assert_eq!(lag.under_way(), 0, "one that is never stored is given up");
    }
}
