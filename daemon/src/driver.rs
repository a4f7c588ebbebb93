//! The driver: runs one reconciler, on a wake and on its period, and shows how it goes.
//!
//! ```text
//!   ┌─► observe ─► plan ─► apply each step ─┐      a step that fails ends the pass: the next one looks anew
//!   │                                       ▼
//!   └── wake, period, or a delay after ◄── wait    stamps a beat every few seconds
//!       a failure
//! ```
//!
//! An empty plan applies nothing. A pass is dropped where it stands when the daemon stops or the pass takes too long: steps are
//! idempotent, so the next one mends what is half done.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::beat::{Beat, Doing};
use crate::clock::{Clock, Now};
use crate::error::Error;
use crate::retry::Retry;
use crate::status::{Alarm, Board, Shown};
use crate::wake::Wake;

/// Longest pass. The store gives a statement longer; who waits for it so long is shown as failing, and tries again.
pub(crate) const PASS: Duration = Duration::from_secs(20);
/// How often a loop that waits stamps its beat.
const BEAT: Duration = Duration::from_secs(5);

/// One concern.
pub(crate) trait Reconciler: Send + 'static {
    /// Its name, in logs and status.
    const NAME: &'static str;
    /// All that a plan is made of, beside what the reconciler remembers.
    type Observed: Send + Sync;
    /// Something to do, as a person reads it. Applying it twice is applying it once.
    type Step: Display + Send + Sync;

    /// Looks at everything, and remembers what ages are counted by.
    fn observe(&mut self, now: Now) -> impl Future<Output = Result<Self::Observed, Error>> + Send;

    /// What is to be done: pure and complete, nothing is left to decide.
    fn plan(&self, observed: &Self::Observed, now: Now) -> Vec<Self::Step>;

    /// Does it.
    fn apply(&mut self, step: Self::Step, now: Now) -> impl Future<Output = Result<(), Error>> + Send;

    /// How long until the next pass, if nothing wakes it.
    fn period(&self, now: Now) -> Duration;

    /// What else its status shows.
    fn detail(&self, _now: Now) -> Value {
        Value::Null
    }

    /// What somebody has to see to.
    fn alarms(&self, _now: Now) -> Vec<Alarm> {
        Vec::new()
    }
}

/// A reconciler with what it is run by.
pub(crate) struct Driver<R> {
    reconciler: R,
    clock: Clock,
    wake: Wake,
    beat: Arc<Beat>,
    board: Board,
    retry: Retry,
    failing: Option<String>,
}

impl<R: Reconciler> Driver<R> {
    /// Driven by `wake` and its period; `alarmed` is woken when its alarms change.
    pub(crate) fn new(reconciler: R, clock: Clock, wake: Wake, alarmed: Wake) -> Driver<R> {
        let (beat, board) = (Beat::new(R::NAME), Board::new(alarmed));
        Driver { reconciler, clock, wake, beat, board, retry: Retry::new(), failing: None }
    }

    /// Its beat, for the watchdog.
    pub(crate) fn beat(&self) -> Arc<Beat> {
        self.beat.clone()
    }

    /// Where its status is noted.
    pub(crate) fn board(&self) -> (&'static str, Board) {
        (R::NAME, self.board.clone())
    }

    /// Runs it until the token is cancelled.
    #[tracing::instrument(name = "reconciler", skip_all, fields(name = R::NAME))]
    pub(crate) async fn run(mut self, token: CancellationToken) {
        // A pass or wait that is dropped loses nothing that the next start does not see.
        token.run_until_cancelled(self.go_on()).await;
    }

    async fn go_on(&mut self) {
        loop {
            let delay = self.pass().await;
            self.wait(delay).await;
        }
    }

    /// One pass, and how long to wait after it.
    async fn pass(&mut self) -> Duration {
        let begun = Instant::now();
        let ended = timeout(PASS, self.steps()).await.unwrap_or(Err(Error::Late));
        let now = self.clock.now();
        let error = ended.err().map(|error| error.chain());
        self.log(error.as_deref());
        let shown = Shown { detail: self.reconciler.detail(now), alarms: self.reconciler.alarms(now) };
        self.board.passed(now.at - begun, error.clone(), shown, now.at);
        self.beat.stamp(Doing::Waiting);
        let period = self.reconciler.period(now);
        self.failing = error;
        if self.failing.is_some() {
            return self.retry.delay().min(period);
        }
        self.retry.succeeded();
        period
    }

    async fn steps(&mut self) -> Result<(), Error> {
        self.beat.stamp(Doing::Observing);
        let now = self.clock.now();
        let observed = self.reconciler.observe(now).await?;
        self.beat.stamp(Doing::Planning);
        let now = self.clock.now();
        let steps = self.reconciler.plan(&observed, now);
        if !steps.is_empty() {
            self.board.planned(&steps, now.at);
        }
        for step in steps {
            self.beat.stamp(Doing::Applying);
            tracing::debug!(%step, "applying");
            self.reconciler.apply(step, self.clock.now()).await?;
        }
        Ok(())
    }

    /// A failure is told when it begins or changes, and when it is over; its repetitions are for whoever looks closer.
    fn log(&self, error: Option<&str>) {
        match (&self.failing, error) {
            (Some(before), Some(error)) if before == error => tracing::debug!(error, "pass failed again"),
            (_, Some(error)) => tracing::warn!(error, "pass failed, trying again"),
            (Some(_), None) => tracing::info!("passes succeed again"),
            (None, None) => {}
        }
    }

    async fn wait(&mut self, delay: Duration) {
        let until = Instant::now() + delay;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            // A sleep that is dropped is begun anew, and a poke that comes meanwhile stays noted.
            tokio::select! {
                () = self.wake.poked() => return,
                () = sleep(left.min(BEAT)) => self.beat.stamp(Doing::Waiting),
            }
        }
    }
}

#[cfg(test)]
mod tests;
