//! A check: a question with a time-out of its own, and what came of it.

use std::fmt;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

/// How long a check may take. Whoever asks waits for all of them together, and the inherited askers wait 10 s.
const LONGEST: Duration = Duration::from_secs(3);

/// What came of a check: what there is to say, whether it is well or not.
pub(crate) type Found = Result<String, String>;

/// A check that is about to be made.
pub(crate) struct Check<'a> {
    name: &'static str,
    ask: BoxFuture<'a, Found>,
}

/// One that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// What was asked.
    pub(crate) name: String,
    /// Whether it is well.
    pub(crate) ok: bool,
    /// How long it took, in milliseconds.
    pub(crate) ms: f64,
    /// For people.
    pub(crate) message: String,
}

impl<'a> Check<'a> {
    /// A check of this name.
    pub(crate) fn new(name: &'static str, ask: impl Future<Output = Found> + Send + 'a) -> Check<'a> {
        Check { name, ask: Box::pin(ask) }
    }

    async fn make(self) -> Outcome {
        let begun = Instant::now();
        let silent = || Err(format!("no answer within {} s", LONGEST.as_secs()));
        let found = timeout(LONGEST, self.ask).await.unwrap_or_else(|_| silent());
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        let (ok, message) = found.map_or_else(|message| (false, message), |message| (true, message));
        Outcome { name: self.name.to_owned(), ok, ms, message }
    }
}

/// Makes them side by side.
pub(crate) async fn all(checks: Vec<Check<'_>>) -> Vec<Outcome> {
    join_all(checks.into_iter().map(Check::make)).await
}

impl fmt::Display for Outcome {
    /// The inherited line: `[✓] name: message (duration)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.ok { '✓' } else { '✗' };
        let took = Duration::from_secs_f64(self.ms / 1e3);
        write!(f, "[{mark}] {}: {} ({took:.2?})", self.name, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_keeps_no_other_and_has_its_own_end() {
        let checks = vec![
            Check::new("good", async { Ok("well".to_owned()) }),
            Check::new("hangs", std::future::pending()),
            Check::new("bad", async { Err("broken".to_owned()) }),
            Check::new("hangs too", std::future::pending()),
        ];
        let begun = Instant::now();
        let made = all(checks).await;
        assert_eq!(begun.elapsed(), LONGEST);
        let said: Vec<String> = made.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        [✓] good: well (0.00ns)
        [✗] hangs: no answer within 3 s (3.00s)
        [✗] bad: broken (0.00ns)
        [✗] hangs too: no answer within 3 s (3.00s)
        ");
    }
}
