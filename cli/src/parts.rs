//! The parts of Kith, each behind the same small face, and how one is kept running.
//!
//! ```text
//!             build fails at the very start: the process ends at once, with the reason
//!                 ▲
//!   Starting ── build ─► Running ── ends, fails or panics ─► Waiting ── delay ─► Starting …
//!                          │                                   │
//!                          └── told to stop ─► Stopped         └── too often, and no other part runs: the process ends
//! ```
//! While another part runs, one that fails too often is started again now and then: with a dead disk there is no store, and
//! names are still answered.

pub(crate) mod daemon;
pub(crate) mod dns;
pub(crate) mod gossip;
pub(crate) mod nats;
pub(crate) mod presence;
mod report;

pub(crate) use report::{report, report_metrics, report_soon};

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::exit::{Exit, Failure};
use crate::retry::Retry;

/// How far back ends are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// A part that ends more often than this within [`WINDOW`] will not get better by being started again, until it was well once. With the delays
/// of [`Retry`], a part that fails at once is given up after about 25 s, one that lives for 6 s each time never.
const MOST_ENDS: usize = 10;
/// How long such a part waits while others go on: it will not get better soon, and each attempt is a line in the log.
const SELDOM: Duration = Duration::from_secs(30);
/// A part that ran this long was well: the next delay is a short one.
const WELL: Duration = Duration::from_secs(30);

/// Something that can be built and run, again and again.
pub(crate) trait Part: Send + 'static {
    /// Its name, for logs and status.
    fn name(&self) -> &'static str;

    /// How long it may take to stop, where the agent's own bound is too short: whoever depends on it is to be sent away first.
    fn stops_within(&self) -> Option<Duration> {
        None
    }

    /// Binds what it listens on, or says why it cannot. A part that was built once must be given the same ports again,
    /// also where it was free to choose.
    fn build(&mut self) -> BoxFuture<'_, Result<Built, Failure>>;
}

/// A part that is ready to run.
pub(crate) struct Built {
    /// Where it listens, for people: (what, address).
    pub(crate) listens: Vec<(&'static str, String)>,
    /// Runs until the token is cancelled. Ending earlier is a failure, whatever it returns.
    pub(crate) run: Run,
}

/// The running of a part.
pub(crate) type Run = Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, anyhow::Result<()>> + Send>;

/// How a part is, for status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PartState {
    /// What it does.
    pub(crate) phase: Phase,
    /// How often it was started again.
    pub(crate) restarts: u64,
    /// Why it last ended.
    pub(crate) last_error: Option<String>,
}

/// What a part does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// It runs.
    Running,
    /// It ended, and is started again after a delay.
    Waiting,
    /// It ended as it was told to.
    Stopped,
}

impl PartState {
    /// A part that has been built.
    pub(crate) fn started() -> PartState {
        PartState { phase: Phase::Running, restarts: 0, last_error: None }
    }
}

/// What follows from the end of a part: pure, so that it can be tested without one.
#[derive(Debug)]
struct Policy {
    ends: VecDeque<Instant>,
    started: Instant,
    retry: Retry,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    RestartAfter(Duration),
    GiveUp,
}

impl Policy {
    fn new(now: Instant) -> Policy {
        Policy { ends: VecDeque::new(), started: now, retry: Retry::new() }
    }

    fn started(&mut self, now: Instant) {
        self.started = now;
    }

    fn ended(&mut self, now: Instant) -> Verdict {
        if now.duration_since(self.started) >= WELL {
            self.retry.succeeded();
            self.ends.clear();
        }
        if self.ends.len() <= MOST_ENDS {
            self.ends.retain(|end| now.duration_since(*end) < WINDOW);
            self.ends.push_back(now);
        }
        if self.ends.len() > MOST_ENDS { Verdict::GiveUp } else { Verdict::RestartAfter(self.retry.delay()) }
    }
}

/// Keeps a part running until the token is cancelled. An error means that it was given up, and that none of the others
/// runs.
pub(crate) async fn keep(
    mut part: Box<dyn Part>,
    first: Built,
    token: CancellationToken,
    state: watch::Sender<PartState>,
    others: Vec<watch::Receiver<PartState>>,
) -> Result<(), Failure> {
    let name = part.name();
    let mut policy = Policy::new(Instant::now());
    let mut attempt = Ok(first);
    loop {
        let reason = match attempt {
            Ok(built) => {
                policy.started(Instant::now());
                state.send_modify(|state| state.phase = Phase::Running);
                match run_once(built, &token).await {
                    Ended::AsTold => {
                        state.send_modify(|state| state.phase = Phase::Stopped);
                        return Ok(());
                    }
                    Ended::ByItself(reason) => reason,
                }
            }
            Err(failure) => Failure::chain(&failure),
        };
        let delay = match policy.ended(Instant::now()) {
            Verdict::RestartAfter(delay) => delay,
            Verdict::GiveUp if others.iter().any(|other| other.borrow().phase == Phase::Running) => SELDOM,
            Verdict::GiveUp => {
                tracing::error!(part = name, reason, "part fails again and again, giving up");
                return Err(Failure::message(Exit::Software, reason).context(format!(
                    "{name} failed {} times in {} s",
                    MOST_ENDS + 1,
                    WINDOW.as_secs()
                )));
            }
        };
        tracing::warn!(part = name, reason, ?delay, "part ended, starting it again");
        state.send_modify(|state| {
            *state = PartState { phase: Phase::Waiting, restarts: state.restarts + 1, last_error: Some(reason) };
        });
        // Both arms may be dropped half-way: a delay, and a part that is not there yet.
        attempt = tokio::select! {
            () = token.cancelled() => return Ok(()),
            built = async { sleep(delay).await; part.build().await } => built,
        };
    }
}

/// How a run ended.
enum Ended {
    AsTold,
    ByItself(String),
}

/// Runs the part in a task of its own, so that a panic is an end like any other.
async fn run_once(built: Built, token: &CancellationToken) -> Ended {
    let mut task = JoinSet::new();
    task.spawn((built.run)(token.clone()).in_current_span());
    let reason = match task.join_next().await {
        Some(Ok(Ok(()))) if token.is_cancelled() => return Ended::AsTold,
        Some(Ok(Ok(()))) | None => "it ended without being told to".to_owned(),
        Some(Ok(Err(error))) => format!("{error:#}"),
        Some(Err(panic)) => format!("it panicked: {panic}"),
    };
    if token.is_cancelled() {
        // It is over, though not in good order: nothing is left to be stopped.
        tracing::warn!(reason, "part failed while stopping");
        return Ended::AsTold;
    }
    Ended::ByItself(reason)
}

/// Where a part listens, after the first time: the same ports again.
pub(crate) fn pin(asked: &mut [SocketAddr], bound: &[SocketAddr]) {
    for (asked, bound) in asked.iter_mut().zip(bound) {
        asked.set_port(bound.port());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::LONGEST;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_fails_at_once_is_given_up_and_one_that_lives_is_not() {
        let begun = Instant::now();
        let mut policy = Policy::new(begun);
        let mut now = begun;
        let mut restarts = 0;
        while let Verdict::RestartAfter(delay) = policy.ended(now) {
            assert!(delay <= LONGEST);
            now += delay;
            policy.started(now);
            restarts += 1;
        }
        assert_eq!(restarts, MOST_ENDS);
        assert!(now - begun < WINDOW, "{:?}", now - begun);

        let mut policy = Policy::new(begun);
        for minute in 0..1000 {
            policy.started(begun + WELL * 2 * minute);
            let verdict = policy.ended(begun + WELL * (2 * minute + 1));
            assert!(
                matches!(verdict, Verdict::RestartAfter(delay) if delay < Duration::from_millis(200)),
                "{verdict:?}"
            );
        }
    }
}
