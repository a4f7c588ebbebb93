//! What was measured.

use std::fmt;
use std::time::Duration;

/// Times of requests.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    micros: Vec<u32>,
    refused: u64,
    pub(crate) took: Duration,
}

impl Figures {
    pub(crate) fn add(&mut self, time: Duration, status: u16) {
        self.micros.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
        self.refused += u64::from(status != 200);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.micros.extend(other.micros);
        self.refused += other.refused;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut micros = self.micros.clone();
        micros.sort_unstable();
        let at = |share: usize| micros.get(micros.len() * share / 1_000).map_or(0.0, |micros| f64::from(*micros) / 1e3);
        let rate = micros.len() as f64 / self.took.as_secs_f64().max(1e-9);
        let last = micros.last().map_or(0.0, |micros| f64::from(*micros) / 1e3);
        write!(
            f,
            "{} in {:.1} s: {rate:.0}/s, p50 {:.2} ms, p99 {:.2} ms, p999 {:.2} ms, longest {last:.2} ms, refused {}",
            micros.len(),
            self.took.as_secs_f64(),
            at(500),
            at(990),
            at(999),
            self.refused
        )
    }
}
