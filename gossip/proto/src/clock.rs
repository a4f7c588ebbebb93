//! The hybrid logical clock: wall time where it can be had, order where it cannot.
//!
//! Kulkarni et al., "Logical Physical Clocks" (2014), in one integer: 48 bits of milliseconds since 1970, 16 bits that
//! count within a millisecond and carry over into it. This module never reads a clock; wall time is an argument.

use std::fmt;

/// Bits that count within one millisecond. 65,536 transactions in a millisecond borrow from the next one.
const COUNTER_BITS: u32 = 16;

/// A reading of a hybrid logical clock. Ordered; zero comes before every reading.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(u64);

impl Hlc {
    /// Before every reading.
    pub const ZERO: Self = Self(0);

    /// The greatest reading, in the year 6,429: a store keeps readings as SQLite's integers, which are signed.
    pub const MAX: Self = Self(i64::MAX.cast_unsigned());

    /// The first reading within a millisecond (since 1970). Beyond the greatest it stays there.
    pub const fn from_ms(ms: u64) -> Self {
        if ms > Self::MAX.ms() { Self::MAX } else { Self(ms << COUNTER_BITS) }
    }

    /// The reading with these bits; the greatest if they are beyond it.
    pub const fn from_bits(bits: u64) -> Self {
        if bits > Self::MAX.0 { Self::MAX } else { Self(bits) }
    }

    /// All 64 bits: milliseconds above, count below.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Milliseconds since 1970.
    pub const fn ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms(), self.0 & ((1 << COUNTER_BITS) - 1))
    }
}

/// The clock of one site: never repeats, never goes back, follows what it has seen.
#[derive(Clone, Debug, Default)]
pub struct HybridClock {
    last: Hlc,
}

impl HybridClock {
    /// A clock whose next reading is above `last`.
    pub const fn new(last: Hlc) -> Self {
        Self { last }
    }

    /// The next reading: above all readings and observations before, and at least the wall clock.
    pub fn tick(&mut self, wall_ms: u64) -> Hlc {
        let base = self.last.max(Hlc::from_ms(wall_ms));
        self.last = Hlc::from_bits(base.0.saturating_add(1));
        self.last
    }

    /// Takes note of another site's reading, so that what is written next is later than what was seen.
    pub fn observe(&mut self, seen: Hlc) {
        self.last = self.last.max(seen);
    }

    /// The greatest reading given or seen.
    pub const fn last(&self) -> Hlc {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_rise_while_the_wall_clock_stands_or_falls_back() {
        let mut clock = HybridClock::default();
        let readings: Vec<_> = [5, 5, 4, 0, 6].into_iter().map(|wall| clock.tick(wall)).collect();
        assert!(readings.is_sorted_by(|a, b| a < b), "{readings:?}");
        assert_eq!(readings.iter().map(|r| r.ms()).collect::<Vec<_>>(), [5, 5, 5, 5, 6]);
    }

    #[test]
    fn what_was_seen_is_earlier_than_what_is_written_next() {
        let mut clock = HybridClock::default();
        clock.tick(10);
        clock.observe(Hlc::from_ms(1_000));
        assert!(clock.tick(11) > Hlc::from_ms(1_000));
    }

    #[test]
    fn the_end_of_time_does_not_wrap() {
        let mut clock = HybridClock::new(Hlc::from_bits(u64::MAX));
        assert_eq!(clock.tick(u64::MAX), Hlc::MAX);
        assert_eq!(Hlc::MAX.to_bits(), i64::MAX.cast_unsigned());
        assert_eq!(Hlc::from_ms(Hlc::MAX.ms() + 1), Hlc::MAX);
    }
}
