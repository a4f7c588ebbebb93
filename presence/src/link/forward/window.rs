//! How many puts are in flight: more as long as they are kept at once, fewer when it takes long, half when one is lost.
//!
//! A put takes as long as the way to the center and back, and each is synced there. With a number that is fixed a center far
//! away keeps little, and one that is slow gets more than it keeps in time, which is then all sent again.

use std::time::Duration;

use super::Landed;

/// At first.
const FIRST: usize = 64;
/// What flies to a center that loses them.
const FEWEST: usize = 16;
/// What flies at most: 20,000 a second are kept 50 ms away, and half a megabyte is under way.
const MOST: usize = 1_024;
/// A put that is kept later than this waited at the center for others of ours: a quarter of what it may take.
const SLOW: Duration = Duration::from_millis(500);

/// How many puts may be in flight.
#[derive(Debug)]
pub(super) struct Window(usize);

impl Default for Window {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Window {
    /// Whether one more may be, beside so many.
    pub(super) fn is_open(&self, flying: usize) -> bool {
        flying < self.0
    }

    /// A put came to its end, after so long.
    pub(super) fn landed(&mut self, landed: Landed, took: Duration) {
        self.0 = match landed {
            Landed::Kept if took < SLOW => MOST.min(self.0 + 1),
            Landed::Kept => FEWEST.max(self.0 - 1),
            Landed::Lost => FEWEST.max(self.0 / 2),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many fly to a center that is this far away and keeps so many a second, after ten seconds.
    fn flying(away: Duration, per_second: u32) -> usize {
        let mut window = Window::default();
        let mut passed = Duration::ZERO;
        while passed < Duration::from_secs(10) {
            let flying = u32::try_from(window.0).unwrap();
            let took = away.max(Duration::from_secs(1) * flying / per_second);
            window.landed(Landed::Kept, took);
            passed += took / flying;
        }
        window.0
    }

    #[test]
    fn a_center_far_away_is_sent_many_at_once_and_a_slow_one_what_it_keeps_in_time() {
        assert_eq!(flying(Duration::from_millis(50), 100_000), MOST);
        assert_eq!(flying(Duration::from_millis(1), 5_000), MOST);
        let slow = flying(Duration::from_millis(1), 300);
        assert!((145..=155).contains(&slow), "{slow}: what it keeps in half a second");
        assert_eq!(flying(Duration::from_millis(1), 10), FEWEST);
    }

    #[test]
    fn what_is_lost_halves_it() {
        let mut window = Window::default();
        (0..10).for_each(|_| window.landed(Landed::Lost, SLOW));
        assert!(window.is_open(FEWEST - 1) && !window.is_open(FEWEST));
    }
}
