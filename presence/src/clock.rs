//! The clocks of this host: the one place where they are read.

use std::cell::Cell;
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
        Now { mono: BEFORE + self.started.elapsed(), wall_ms: wall_ms() }
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

/// The time as a head of HTTP writes it (RFC 9110 §5.6.7). Written once a second by each thread.
pub(crate) fn http_date() -> [u8; 29] {
    thread_local! {
        static LAST: Cell<(u64, [u8; 29])> = const { Cell::new((u64::MAX, [0; 29])) };
    }
    let secs = wall_ms() / 1_000;
    let (known, date) = LAST.get();
    if known == secs {
        return date;
    }
    let date = imf_fixdate(secs);
    LAST.set((secs, date));
    date
}

fn imf_fixdate(secs: u64) -> [u8; 29] {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, of_day) = ((secs / 86_400).min(LAST_DAY), secs % 86_400);
    let (year, month, day) = civil(days);
    let name = |names: &[&'static str], at: u64| names[usize::try_from(at).unwrap_or(0) % names.len()];
    let (weekday, month) = (name(&DAYS, days), name(&MONTHS, month - 1));
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let text = format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT");
    text.as_bytes().try_into().expect("it has 29 bytes until the year 9999")
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
        assert_eq!(&imf_fixdate(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&imf_fixdate(253_402_300_799), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
