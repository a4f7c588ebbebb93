//! When something that came to nothing is tried again: later each time, and in the end every ten minutes.

use std::time::Duration;

/// No wait is longer. What is tried here reads every row of a store, on both sides: six times an hour nobody notices it, and
/// whoever mends the cause does not wait for long.
pub const AT_MOST: Duration = Duration::from_secs(10 * 60);

/// Doublings after which every wait is the longest, whatever the first one was.
const DOUBLINGS: u32 = 16;

/// How often in a row something came to nothing, and when it is due again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    times: u32,
    due: Duration,
}

impl Retry {
    /// Whether it may be tried at the time `now`.
    pub fn is_due(self, now: Duration) -> bool {
        now >= self.due
    }

    /// It came to nothing at the time `now`; the wait after the first time is `first`. What has lain still for longer than
    /// any wait begins anew.
    pub fn put_off(&mut self, first: Duration, now: Duration) {
        if now >= self.due.saturating_add(AT_MOST) {
            self.times = 0;
        }
        self.due = now + first.saturating_mul(1 << self.times).min(AT_MOST);
        self.times = (self.times + 1).min(DOUBLINGS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_ten_minutes_and_begin_anew_after_a_quiet_time() {
        let mut retry = Retry::default();
        let mut now = Duration::from_secs(1_000);
        assert!(retry.is_due(Duration::ZERO));
        let waits = [10, 20, 40, 80, 160, 320, 600, 600].into_iter().chain(std::iter::repeat_n(600, 60));
        for wait in waits.map(Duration::from_secs) {
            retry.put_off(Duration::from_secs(10), now);
            assert!(!retry.is_due(now + wait - Duration::from_millis(1)), "{wait:?}");
            now += wait;
            assert!(retry.is_due(now), "{wait:?}");
        }
        now += AT_MOST;
        retry.put_off(Duration::from_secs(10), now);
        assert!(retry.is_due(now + Duration::from_secs(10)));
    }
}
