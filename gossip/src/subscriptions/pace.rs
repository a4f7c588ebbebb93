//! How far apart two looks at one query are.
//!
//! A query holds one of few readers while it is looked at. So that no query works on one for more than a quarter of the time,
//! a look is followed by a pause of three times its work, however long that is: a query that takes a second is looked at
//! every four. That it waited before, until it knew what a commit has changed, does not count: that is bounded by itself. What
//! commits ask for meanwhile is merged, and looked at when the pause ends; the last change is never left out.

use std::time::Duration;

use super::shape::Reach;

/// Frames of a busy query are coalesced by it, and nobody sees 2 ms.
const KEYS: Duration = Duration::from_millis(2);
/// A query that is run again whole is expensive for each change, however small that is.
const WHOLE: Duration = Duration::from_millis(100);
/// A pause is this many times as long as the look before.
const FACTOR: u32 = 3;

/// The pause after a look that took so long.
pub(super) fn pause(reach: Reach, took: Duration) -> Duration {
    let least = match reach {
        Reach::Own => KEYS,
        Reach::Whole => WHOLE,
    };
    (took * FACTOR).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_takes_a_quarter_of_a_reader_at_most_however_slow_it_is() {
        for took in [0, 1, 30, 200, 5_000, 60_000].map(Duration::from_millis) {
            for (reach, least) in [(Reach::Own, KEYS), (Reach::Whole, WHOLE)] {
                let pause = pause(reach, took);
                assert!(pause >= least && (took + pause) >= 4 * took, "{reach:?} after {took:?}: {pause:?}");
            }
        }
        assert_eq!(pause(Reach::Own, Duration::from_micros(50)), KEYS, "a quick one is not held back");
    }
}
