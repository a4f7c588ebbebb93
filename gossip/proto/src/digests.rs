//! The digest in parts that can be compared alone: live rows, and tombstones by the day they were made.
//!
//! Tombstones are purged some days after, on each node when it may. Nodes with equal vectors can hold different old
//! tombstones and be sound, so they compare live rows and the days that neither has begun to purge.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Digest, Hlc, Stamp};

/// A day, in UTC, by a stamp's hybrid logical clock: days since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Day(pub u32);

const DAY_MS: u64 = 86_400_000;

impl Day {
    /// The day of a reading.
    pub fn of(hlc: Hlc) -> Self {
        // The greatest reading is on day 1,628,906.
        Self(u32::try_from(hlc.ms() / DAY_MS).unwrap_or(u32::MAX))
    }

    /// Its beginning, in milliseconds since 1970.
    pub fn ms(self) -> u64 {
        u64::from(self.0) * DAY_MS
    }

    /// The day after.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Which part a row's terms are counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Of rows that are alive, all cells included.
    Live,
    /// Of tombstones made on a day.
    Day(Day),
}

impl Part {
    /// The part of a row by its causal length and own stamp.
    pub fn of(cl: u64, rs: Stamp) -> Self {
        if cl % 2 == 1 { Self::Live } else { Self::Day(Day::of(rs.hlc)) }
    }
}

/// The digest of all state, in parts. Shared until it changes: stores copy it with every transaction that may be rolled
/// back, and few of them delete.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    live: Digest,
    /// Days whose sum is zero are absent, so that equal states are equal here.
    days: Arc<BTreeMap<Day, Digest>>,
}

impl Digests {
    /// From parts as they were kept.
    pub fn new(live: Digest, days: impl IntoIterator<Item = (Day, Digest)>) -> Self {
        let mut digests = Self { live, days: Arc::default() };
        days.into_iter().for_each(|(day, sum)| digests.add(Part::Day(day), sum));
        digests
    }

    /// Counts terms that came.
    pub fn add(&mut self, part: Part, terms: Digest) {
        match part {
            Part::Live => self.live += terms,
            Part::Day(day) => self.change(day, |sum| *sum += terms),
        }
    }

    /// Takes away terms that went.
    pub fn take(&mut self, part: Part, terms: Digest) {
        match part {
            Part::Live => self.live -= terms,
            Part::Day(day) => self.change(day, |sum| *sum -= terms),
        }
    }

    fn change(&mut self, day: Day, change: impl FnOnce(&mut Digest)) {
        let days = Arc::make_mut(&mut self.days);
        let sum = days.entry(day).or_default();
        change(sum);
        if *sum == Digest::default() {
            days.remove(&day);
        }
    }

    /// The sum over live rows.
    pub fn live(&self) -> Digest {
        self.live
    }

    /// The sums over tombstones, by day.
    pub fn days(&self) -> impl Iterator<Item = (Day, Digest)> + '_ {
        self.days.iter().map(|(&day, &sum)| (day, sum))
    }

    /// The sum over live rows and the tombstones from this day on.
    pub fn from(&self, floor: Day) -> Digest {
        let mut sum = self.live;
        self.days.range(floor..).for_each(|(_, &day)| sum += day);
        sum
    }

    /// The sum over everything.
    pub fn total(&self) -> Digest {
        self.from(Day(0))
    }
}
