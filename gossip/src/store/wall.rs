//! What transactions are stamped from: this host's clock, while its peers' clocks bear it out.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kith_gossip_proto::clocks::{reading, stamped_from};

/// The most that the median of this node's and its peers' clocks can be: a reading at a moment, from which it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Highest {
    /// The moment.
    pub at: Instant,
    /// What it showed then, in milliseconds since 1970. Negative where it began to run later than that.
    pub ms: i64,
}

/// Milliseconds since 1970 by this host's clock, or by its peers' where it is far ahead of them.
pub(crate) fn wall_ms(highest: Option<Highest>) -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let own = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    stamped_from(own, highest.map(|highest| reading(highest.ms, age(highest.at))))
}

fn age(at: Instant) -> Duration {
    Instant::now().saturating_duration_since(at)
}
