//! What was measured, beside what it must be.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// Times, in microseconds.
#[derive(Debug, Default, Clone)]
pub(crate) struct Times(Vec<u32>);

/// Answers of requests.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) times: Times,
    pub(crate) refused: u64,
    pub(crate) took: Duration,
}

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// In milliseconds: the time within which so many of a thousand are. 1,000: the longest.
    pub(crate) fn at(&self, of_thousand: usize) -> f64 {
        let mut micros = self.0.clone();
        micros.sort_unstable();
        let at = (micros.len() * of_thousand / 1_000).min(micros.len().saturating_sub(1));
        micros.get(at).map_or(0.0, |micros| f64::from(*micros) / 1e3)
    }

    /// The first and the second half of them, as they came.
    pub(crate) fn halves(&self) -> [Self; 2] {
        let (first, second) = self.0.split_at(self.0.len() / 2);
        [Self(first.to_vec()), Self(second.to_vec())]
    }
}

impl Answers {
    pub(crate) fn add(&mut self, time: Duration, status: u16) {
        self.times.add(time);
        self.refused += u64::from(status != 200);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.times.merge(other.times);
        self.refused += other.refused;
    }

    pub(crate) fn rate(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) target: String,
    pub(crate) measured: String,
    pub(crate) holds: bool,
    /// Cores that the node, and the nats-servers, took while it was measured.
    pub(crate) cores: [f64; 2],
    pub(crate) figures: Value,
    /// How much is wrong at any size, on any machine: what was lost, refused, or never heard.
    pub(crate) wrong: u64,
}

impl Row {
    pub(crate) fn wrong(self, wrong: u64) -> Self {
        Self { wrong, ..self }
    }

    pub(crate) const HEAD: &'static str =
        "| what | target | measured | holds | cores: node | cores: NATS |\n|---|---|---|---|---|---|";

    pub(crate) fn json(&self) -> Value {
        json!({
            "what": self.what, "target": self.target, "measured": self.measured, "holds": self.holds,
            "node_cores": self.cores[0], "nats_cores": self.cores[1], "figures": self.figures,
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = if self.holds { "yes" } else { "NO" };
        let [node, nats] = self.cores;
        write!(f, "| {} | {} | {} | {holds} | {node:.2} | {nats:.2} |", self.what, self.target, self.measured)
    }
}
