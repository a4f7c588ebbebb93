//! The clocks of this host: the one place where they are read.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use crate::core::Now;

/// What the monotonic clock shows at the start: what was said before it is older than what is stale.
const BEFORE: Duration = Duration::from_secs(60);

/// 31 December 9999, in days since 1970: years have four digits.
const LAST_DAY: u64 = 2_932_896;

/// Reads the clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins here.
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// The time.
    pub(crate) fn now(&self) -> Now {
        Now { mono: self.mono(), wall_ms: wall_ms() }
    }

    /// The monotonic time.
    pub(crate) fn mono(&self) -> Duration {
        BEFORE + self.started.elapsed()
    }

    /// The instant at a monotonic time.
    pub(crate) fn instant(&self, mono: Duration) -> Instant {
        self.started + mono.saturating_sub(BEFORE)
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970, written as RFC 3339 in UTC, as in the inherited API.
///
/// Each read writes three of them: digit by digit, without the machinery of formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rfc3339(pub(crate) u64);

impl Rfc3339 {
    fn text(self) -> [u8; 24] {
        let (secs, ms) = (self.0 / 1_000, self.0 % 1_000);
        let (days, secs) = ((secs / 86_400).min(LAST_DAY), secs % 86_400);
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let parts =
            [(3, year), (6, month), (9, day), (12, secs / 3_600), (15, secs / 60 % 60), (18, secs % 60), (22, ms)];
        for (last, number) in parts {
            let (mut at, mut left) = (last, number);
            while left > 0 {
                text[at] = b'0' + (left % 10) as u8;
                (at, left) = (at.saturating_sub(1), left / 10);
            }
        }
        text
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

/// Days since 1970 as year, month, day: years are counted from March, so that the odd day is the last one, in eras of
/// 400 years, which are all equally long.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let days = days.min(3_652_058) + 719_468;
    let (era, of_era) = (days / ERA, days % ERA);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_read_them() {
        assert_eq!(&Rfc3339(0).text(), b"1970-01-01T00:00:00.000Z");
        assert_eq!(&Rfc3339(951_782_399_999).text(), b"2000-02-28T23:59:59.999Z");
        assert_eq!(&Rfc3339(951_782_400_000).text(), b"2000-02-29T00:00:00.000Z");
        assert_eq!(&Rfc3339(1_767_225_599_001).text(), b"2025-12-31T23:59:59.001Z");
        assert_eq!(&Rfc3339(4_107_542_400_000).text(), b"2100-03-01T00:00:00.000Z");
        assert_eq!(&Rfc3339(253_402_300_799_999).text(), b"9999-12-31T23:59:59.999Z");
    }
}
