//! Waiting for a condition.

use std::time::{Duration, Instant};

/// Between two looks. Short beside any bound, long beside the cost of a look.
const PERIOD: Duration = Duration::from_millis(20);

/// Looks until `look` returns `Ok` and returns what it holds; its `Err` says what was seen instead.
///
/// # Panics
/// When `bound` is over, with `what` was awaited and what was last seen. A look that never ends is not cut short: looks
/// carry their own time limits.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    bound: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            period.tick().await;
            match look().await {
                Ok(value) => return value,
                Err(seen) if started.elapsed() >= bound => {
                    panic!("{caller}: {what}: not within {bound:?}; last seen: {seen}")
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_true_is_returned() {
        let mut looks = 0;
        let value = eventually("three looks", Duration::from_secs(10), async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("{looks} looks")) }
        });
        assert_eq!(value.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "a miracle: not within 0ns; last seen: nothing yet")]
    async fn what_does_not_come_true_says_what_was_seen() {
        eventually("a miracle", Duration::ZERO, async || Err::<(), _>("nothing yet".to_owned())).await;
    }
}
