//! Time, as it comes in from outside: a plan is given a [`Now`] and asks nobody.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// One moment, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// On the monotonic clock: what ages are counted by.
    pub at: Instant,
    /// Milliseconds since 1970: what is written into rows, for people.
    pub wall_ms: i64,
}

/// Where moments come from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The host's clocks.
    pub fn system() -> Clock {
        Clock::with_wall(SystemTime::now)
    }

    /// The host's monotonic clock, and another's wall time.
    pub fn with_wall(wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(wall))
    }

    /// This moment.
    pub fn now(&self) -> Now {
        let since = (self.0)().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { at: Instant::now(), wall_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
