//! What held, with what was seen where it did not.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::book::{Book, Breach, Promise};

/// Breaches of one promise that are shown; more of them say the same.
const SHOWN: usize = 5;

/// The end of a verification.
#[derive(Clone, Debug)]
pub struct Report {
    /// Transactions that were acknowledged.
    pub acknowledged: u64,
    /// Transactions that were tried and not acknowledged.
    pub unknown: u64,
    /// Reads that were judged.
    pub samples: u64,
    /// How long was written.
    pub wrote: Duration,
    /// How long after the last write all digests were equal.
    pub agreed: Option<Duration>,
    /// What did not hold.
    pub breaches: Vec<Breach>,
}

impl Report {
    pub(super) fn new(
        book: &Book,
        breaches: Vec<Breach>,
        samples: u64,
        wrote: Duration,
        agreed: Option<Duration>,
    ) -> Report {
        let unknown = book.accounts.iter().map(|account| account.unknown.len() as u64).sum();
        Report { acknowledged: book.acknowledged(), unknown, samples, wrote, agreed, breaches }
    }

    /// # Panics
    /// If a promise did not hold, or too little was written or seen for that to mean anything.
    #[track_caller]
    pub fn holds(&self) {
        assert!(self.acknowledged > 0 && self.samples > 0, "nothing was tried: {self}");
        assert!(self.breaches.is_empty(), "{self}");
    }

    /// For machines.
    #[must_use]
    pub fn json(&self) -> Value {
        let promises = [Promise::G1, Promise::G2, Promise::G3, Promise::G5, Promise::G6, Promise::G7];
        let held = promises.map(|promise| {
            let seen = self.breaches.iter().filter(|breach| breach.promise == promise).map(|breach| &breach.seen);
            let seen: Vec<_> = seen.collect();
            json!({ "promise": format!("{promise:?}"), "held": seen.is_empty(), "breaches": seen.len(),
                    "seen": seen.iter().take(SHOWN).collect::<Vec<_>>() })
        });
        json!({
            "acknowledged": self.acknowledged,
            "unknown": self.unknown,
            "samples": self.samples,
            "wrote_seconds": self.wrote.as_secs_f64(),
            "agreed_seconds": self.agreed.map(|agreed| agreed.as_secs_f64()),
            "promises": held,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wrote, agreed) = (self.wrote, self.agreed);
        writeln!(f, "{} acknowledged, {} unknown, in {wrote:.1?}", self.acknowledged, self.unknown)?;
        writeln!(f, "{} reads judged, digests equal after {agreed:.1?}", self.samples)?;
        for promise in self.json()["promises"].as_array().into_iter().flatten() {
            let held = if promise["held"] == true { "held" } else { "BROKEN" };
            writeln!(f, "{} {held}", promise["promise"].as_str().unwrap_or_default())?;
            for seen in promise["seen"].as_array().into_iter().flatten() {
                writeln!(f, "   {}", seen.as_str().unwrap_or_default())?;
            }
        }
        Ok(())
    }
}
