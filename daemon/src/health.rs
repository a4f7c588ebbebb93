//! The health of one container: pure. What Docker says and what probes found go in, with the time; a verdict and the time of
//! the next probe come out.
//!
//! ```text
//!             first success                3 failures
//!  Starting ───────────────► Serving ─────────────────────► Failing      Starting counts as unhealthy, 1 or 2 failures
//!     ▲  probed each 250 ms     │  each 5 s   ▲              │  each 5 s  while Serving as degraded
//!     │  (1 s after a minute)   │             └──────────────┘
//!     │                         │             2 successes 1 s apart, 4, 8, 16 with each flap in 10 minutes
//!     └──── started again ── Stopped, Paused  (from every state, at once)
//! ```
//!
//! A container with a verdict of Docker's own, or that is not checked at all, has none of these states: it is what Docker
//! says, or healthy while it runs, and unknown once Docker has not answered three times.

mod probe;

pub(crate) use probe::probe;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Now;

/// How often a container that starts is probed: what is ready is answered a quarter of a second later at most.
const STARTING: Duration = Duration::from_millis(250);
/// Who has not started by then is probed more seldom.
const SLOW_START: Duration = Duration::from_secs(60);
/// How often it is probed then, and while it proves that it is well again.
const PROVING: Duration = Duration::from_secs(1);
/// How often it is probed otherwise.
const STEADY: Duration = Duration::from_secs(5);
/// Failures in a row that make it unhealthy; fewer make it degraded.
const FAILURES: u32 = 3;
/// Successes in a row that bring it back.
const SUCCESSES: u32 = 2;
/// The most that are ever asked for.
const SUCCESSES_MAX: u32 = 16;
/// How far back flaps count.
const FLAPS: Duration = Duration::from_secs(600);
/// Calls that Docker does not answer before its word counts for nothing.
const TRIES: u32 = 3;

/// How a container is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    /// By Docker, which runs the image's own check.
    Docker,
    /// It takes connections.
    Tcp(u16),
    /// It answers with 2xx or 3xx.
    Http {
        /// At this port.
        port: u16,
        /// To this.
        path: String,
    },
    /// It runs.
    Running,
}

/// What Docker says of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// It runs since then, in ms since 1970.
    Running {
        /// Since when.
        started_ms: i64,
        /// What the image's own check says, if it has one.
        verdict: Option<DockerVerdict>,
    },
    /// It is frozen.
    Paused,
    /// It does not run, or is being started again.
    Stopped,
}

/// What the image's own check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DockerVerdict {
    /// Nothing yet.
    Starting,
    /// It is well.
    Healthy,
    /// It is not.
    Unhealthy,
}

/// What a row says of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// In one word.
    pub(crate) status: Status,
    /// Why; empty if there is nothing to say.
    pub(crate) reason: String,
    /// Failed checks in a row.
    pub(crate) failures: u32,
    /// When it was last checked, in ms since 1970; 0: never.
    pub(crate) checked_ms: i64,
}

/// The words of `health_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    /// It is answered.
    Healthy,
    /// It is answered if nobody is healthy.
    Degraded,
    /// It is not answered.
    Unhealthy,
    /// Nobody knows.
    Unknown,
}

impl Status {
    /// The word in SQL.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Status::Healthy => "healthy",
            Status::Degraded => "degraded",
            Status::Unhealthy => "unhealthy",
            Status::Unknown => "unknown",
        }
    }
}

/// The health of one container.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    check: Check,
    run: Run,
    phase: Phase,
    /// When it became unhealthy while it ran: at most as many as change anything.
    flaps: VecDeque<Instant>,
    /// Calls that Docker has not answered since it last did.
    silent: u32,
    reason: String,
    checked_ms: Option<i64>,
    due: Instant,
}

/// How a container that is probed does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting { since: Instant },
    Serving { failures: u32 },
    Failing { failures: u32, successes: u32 },
}

impl Health {
    /// A container as it is first seen.
    pub(crate) fn new(check: Check, run: Run, now: Now) -> Health {
        Health {
            check,
            run,
            phase: Phase::Starting { since: now.at },
            flaps: VecDeque::new(),
            silent: 0,
            reason: String::new(),
            checked_ms: None,
            due: now.at,
        }
    }

    /// Docker's word.
    pub(crate) fn observed(&mut self, check: &Check, run: Run, now: Now) {
        self.silent = 0;
        let started = |run: Run| match run {
            Run::Running { started_ms, .. } => Some(started_ms),
            Run::Paused | Run::Stopped => None,
        };
        if *check != self.check || (started(run).is_some() && started(run) != started(self.run)) {
            *self = Health::new(check.clone(), run, now);
        }
        self.run = run;
    }

    /// Docker did not answer.
    pub(crate) fn unanswered(&mut self) {
        self.silent = self.silent.saturating_add(1);
    }

    /// When to probe next, if it is probed.
    pub(crate) fn due(&self) -> Option<Instant> {
        match (&self.check, self.run) {
            (Check::Tcp(_) | Check::Http { .. }, Run::Running { .. }) => Some(self.due),
            (Check::Tcp(_) | Check::Http { .. }, Run::Paused | Run::Stopped) => None,
            (Check::Docker | Check::Running, _) => None,
        }
    }

    /// What a probe found: nothing to complain of, or what.
    pub(crate) fn probed(&mut self, found: Result<(), String>, now: Now) {
        self.checked_ms = Some(now.wall_ms);
        let well = found.is_ok();
        self.reason = found.err().unwrap_or_default();
        self.phase = match (self.phase, well) {
            (Phase::Starting { .. } | Phase::Serving { .. }, true) => Phase::Serving { failures: 0 },
            (starting @ Phase::Starting { .. }, false) => starting,
            (Phase::Serving { failures }, false) if failures + 1 < FAILURES => {
                Phase::Serving { failures: failures + 1 }
            }
            (Phase::Serving { failures }, false) => {
                self.flapped(now.at);
                Phase::Failing { failures: failures + 1, successes: 0 }
            }
            (Phase::Failing { successes, .. }, true) if successes + 1 >= self.wanted(now.at) => {
                Phase::Serving { failures: 0 }
            }
            (Phase::Failing { failures, successes }, true) => Phase::Failing { failures, successes: successes + 1 },
            (Phase::Failing { failures, .. }, false) => {
                Phase::Failing { failures: failures.saturating_add(1), successes: 0 }
            }
        };
        let delay = match self.phase {
            Phase::Starting { since } if now.at.duration_since(since) < SLOW_START => STARTING,
            Phase::Starting { .. } => PROVING,
            Phase::Failing { successes: 1.., .. } => PROVING,
            Phase::Serving { .. } | Phase::Failing { successes: 0, .. } => STEADY,
        };
        self.due = now.at + delay;
    }

    /// Whether the verdict awaits the first probe since we know the container, or since it started.
    pub(crate) fn awaits_probe(&self) -> bool {
        self.checked_ms.is_none() && self.due().is_some()
    }

    /// How it is.
    pub(crate) fn verdict(&self) -> Verdict {
        let (status, reason) = match (self.run, &self.check) {
            (Run::Stopped, _) => (Status::Unhealthy, "stopped"),
            (Run::Paused, _) => (Status::Unhealthy, "paused"),
            (Run::Running { .. }, Check::Docker | Check::Running) if self.silent >= TRIES => {
                (Status::Unknown, "docker does not answer")
            }
            (Run::Running { verdict, .. }, Check::Docker) => match verdict {
                Some(DockerVerdict::Healthy) => (Status::Healthy, ""),
                Some(DockerVerdict::Unhealthy) => (Status::Unhealthy, "docker says so"),
                Some(DockerVerdict::Starting) | None => (Status::Unhealthy, "starting"),
            },
            (Run::Running { .. }, Check::Running) => (Status::Healthy, ""),
            (Run::Running { .. }, Check::Tcp(_) | Check::Http { .. }) => match self.phase {
                Phase::Starting { .. } => (Status::Unhealthy, "starting"),
                Phase::Serving { failures: 0 } => (Status::Healthy, ""),
                Phase::Serving { .. } => (Status::Degraded, self.reason.as_str()),
                Phase::Failing { successes: 1.., .. } => (Status::Unhealthy, "recovering"),
                Phase::Failing { successes: 0, .. } => (Status::Unhealthy, self.reason.as_str()),
            },
        };
        let failures = match self.phase {
            Phase::Starting { .. } => 0,
            Phase::Serving { failures } | Phase::Failing { failures, .. } => failures,
        };
        Verdict { status, reason: reason.to_owned(), failures, checked_ms: self.checked_ms.unwrap_or(0) }
    }

    fn flapped(&mut self, at: Instant) {
        self.flaps.push_back(at);
        // More than these ask for no more successes.
        if self.flaps.len() > 4 {
            self.flaps.pop_front();
        }
    }

    /// Successes in a row that bring it back.
    fn wanted(&self, now: Instant) -> u32 {
        let flaps = self.flaps.iter().filter(|at| now.duration_since(**at) < FLAPS).count();
        let doublings = u32::try_from(flaps.saturating_sub(1)).unwrap_or(0);
        SUCCESSES.saturating_mul(1 << doublings.min(8)).min(SUCCESSES_MAX)
    }
}

#[cfg(test)]
mod tests;
