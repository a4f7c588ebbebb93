//! What becomes of a process, as a pure machine: what happened and the time go in, what to do comes out. It starts nothing, signals
//! nobody and reads no clock.
//!
//! ```text
//!           Start            Spawned                Exited, or not spawned
//!   Idle ─────────► Starting ───────► Running ───────────────► Waiting ── timer ─► Starting …
//!                      │                 │ timer: a minute         │
//!                      │                 └─► it counts as well     │
//!     StopRequested ───┴─────────────────┬─────────────────────────┴──► Stopped
//!                                        ▼
//!                                     Ending ── Exited ─► Stopped, or Starting if it was to be started again
//!                                        └── deadline, or told again ─► SIGKILL
//! ```
//!
//! At most one timer runs: what is scheduled replaces what was.

use std::time::Duration;

use crate::retry::Retry;

/// A process that ran this long was well: what failed before is forgotten.
pub(crate) const STABLE: Duration = Duration::from_secs(60);
/// So many failures in a row, none of them a stable minute after the last, and it is said to be crash-looping. With the delays of
/// [`Retry`] that takes about 12 s where it ends at once.
pub(crate) const LOOPING: u32 = 8;
/// How long it is left alone then. Whoever repairs what is wrong does not want to wait for longer.
pub(crate) const SLOW: Duration = Duration::from_secs(30);

/// Time since some moment that the caller chose once.
pub(crate) type Time = Duration;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// It is wanted.
    Start,
    /// It runs.
    Spawned,
    /// It could not be started.
    NotSpawned,
    /// It ended.
    Exited,
    /// What was scheduled last is due.
    Timer,
    /// It is not wanted any more.
    StopRequested(Stop),
    /// It is to be another process of the same kind.
    RestartRequested(Stop),
    /// It does not answer any more, though it runs.
    Hung,
}

/// How a process is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    /// The first word.
    pub(crate) signal: Signal,
    /// Then it is killed.
    pub(crate) within: Duration,
}

/// The signals that are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGUSR2: lame duck.
    Drain,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Start it, and say [`Input::Spawned`] or [`Input::NotSpawned`].
    Spawn,
    /// Send it.
    Signal(Signal),
    /// Say [`Input::Timer`] after this long; nothing else is due any more.
    Schedule(Duration),
    /// Nothing is due any more.
    Unschedule,
    /// Its state has changed.
    Report(Report),
}

/// What there is to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// It runs.
    Running,
    /// It ended by itself, having run for so long, and is started again after a delay.
    Failed {
        /// How long it ran.
        ran: Duration,
        /// How long it is waited.
        delay: Duration,
        /// Whether it counts as crash-looping.
        looping: bool,
    },
    /// It ran for a stable minute after failures.
    Well,
    /// It was asked to end.
    Ending(Signal),
    /// It did not end in time, or was told twice, or hung.
    Killed,
    /// It ended, as it was to, and is started again.
    Restarting,
    /// It is gone, and stays so.
    Stopped,
}

/// Where a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody wants it yet.
    Idle,
    /// It is being started; told to stop by then, it is killed as soon as it runs.
    Starting(Wanted),
    /// It runs since then.
    Running(Time),
    /// It was asked to end.
    Ending(Wanted),
    /// It ended, and is started again when the timer is due.
    Waiting,
    /// It is gone for good.
    Stopped,
}

/// What is to come after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Another process.
    Again,
    /// None.
    Gone,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    phase: Phase,
    /// In a row.
    failures: u32,
    retry: Retry,
}

impl Machine {
    /// A process that nobody wants yet.
    pub(crate) fn new() -> Machine {
        Machine { phase: Phase::Idle, failures: 0, retry: Retry::new() }
    }

    /// Where it is.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it counts as crash-looping.
    pub(crate) fn is_looping(&self) -> bool {
        self.failures >= LOOPING
    }

    /// Takes in what happened.
    pub(crate) fn handle(&mut self, input: &Input, now: Time) -> Vec<Output> {
        match input {
            Input::Start => self.start(),
            Input::Spawned => self.spawned(now),
            Input::NotSpawned => self.not_spawned(),
            Input::Exited => self.exited(now),
            Input::Timer => self.timer(),
            Input::StopRequested(stop) => self.stop(*stop),
            Input::RestartRequested(stop) => self.restart(*stop),
            Input::Hung => self.hung(),
        }
    }

    fn start(&mut self) -> Vec<Output> {
        match self.phase {
            Phase::Idle => self.spawn(),
            Phase::Starting(_) | Phase::Running(_) | Phase::Ending(_) | Phase::Waiting | Phase::Stopped => Vec::new(),
        }
    }

    fn spawn(&mut self) -> Vec<Output> {
        self.phase = Phase::Starting(Wanted::Again);
        vec![Output::Unschedule, Output::Spawn]
    }

    fn spawned(&mut self, now: Time) -> Vec<Output> {
        match self.phase {
            Phase::Starting(Wanted::Again) => {
                self.phase = Phase::Running(now);
                vec![Output::Schedule(STABLE), Output::Report(Report::Running)]
            }
            Phase::Starting(Wanted::Gone) => {
                self.phase = Phase::Ending(Wanted::Gone);
                vec![Output::Signal(Signal::Kill), Output::Report(Report::Killed)]
            }
            Phase::Idle | Phase::Running(_) | Phase::Ending(_) | Phase::Waiting | Phase::Stopped => Vec::new(),
        }
    }

    fn not_spawned(&mut self) -> Vec<Output> {
        match self.phase {
            Phase::Starting(Wanted::Again) => self.failed(Duration::ZERO),
            Phase::Starting(Wanted::Gone) => self.gone(),
            Phase::Idle | Phase::Running(_) | Phase::Ending(_) | Phase::Waiting | Phase::Stopped => Vec::new(),
        }
    }

    fn exited(&mut self, now: Time) -> Vec<Output> {
        match self.phase {
            Phase::Running(since) => self.failed(now.saturating_sub(since)),
            Phase::Ending(Wanted::Again) => {
                let mut outputs = vec![Output::Report(Report::Restarting)];
                outputs.extend(self.spawn());
                outputs
            }
            Phase::Ending(Wanted::Gone) => self.gone(),
            Phase::Idle | Phase::Starting(_) | Phase::Waiting | Phase::Stopped => Vec::new(),
        }
    }

    fn failed(&mut self, ran: Duration) -> Vec<Output> {
        if ran >= STABLE {
            self.well();
        }
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Waiting;
        let looping = self.is_looping();
        let delay = if looping { SLOW } else { self.retry.delay() };
        vec![Output::Schedule(delay), Output::Report(Report::Failed { ran, delay, looping })]
    }

    fn well(&mut self) {
        self.failures = 0;
        self.retry.succeeded();
    }

    fn timer(&mut self) -> Vec<Output> {
        match self.phase {
            Phase::Running(_) if self.failures > 0 => {
                self.well();
                vec![Output::Report(Report::Well)]
            }
            Phase::Waiting => self.spawn(),
            Phase::Ending(_) => vec![Output::Signal(Signal::Kill), Output::Report(Report::Killed)],
            Phase::Idle | Phase::Starting(_) | Phase::Running(_) | Phase::Stopped => Vec::new(),
        }
    }

    fn stop(&mut self, stop: Stop) -> Vec<Output> {
        match self.phase {
            Phase::Running(_) => self.end(stop, Wanted::Gone),
            // It may be on its way to another process: whoever wants none now is told once, as if it were the first time.
            Phase::Ending(Wanted::Again) => self.end(stop, Wanted::Gone),
            Phase::Ending(Wanted::Gone) => {
                vec![Output::Unschedule, Output::Signal(Signal::Kill), Output::Report(Report::Killed)]
            }
            Phase::Starting(_) => {
                self.phase = Phase::Starting(Wanted::Gone);
                Vec::new()
            }
            Phase::Idle | Phase::Waiting => self.gone(),
            Phase::Stopped => Vec::new(),
        }
    }

    fn restart(&mut self, stop: Stop) -> Vec<Output> {
        match self.phase {
            Phase::Running(_) => self.end(stop, Wanted::Again),
            // What starts next is another process anyway, and one that is to be gone stays wanted gone.
            Phase::Idle | Phase::Starting(_) | Phase::Ending(_) | Phase::Waiting | Phase::Stopped => Vec::new(),
        }
    }

    fn end(&mut self, stop: Stop, then: Wanted) -> Vec<Output> {
        self.phase = Phase::Ending(then);
        vec![Output::Schedule(stop.within), Output::Signal(stop.signal), Output::Report(Report::Ending(stop.signal))]
    }

    /// It is killed, and its end is a failure like any other.
    fn hung(&mut self) -> Vec<Output> {
        match self.phase {
            Phase::Running(_) => {
                vec![Output::Unschedule, Output::Signal(Signal::Kill), Output::Report(Report::Killed)]
            }
            Phase::Idle | Phase::Starting(_) | Phase::Ending(_) | Phase::Waiting | Phase::Stopped => Vec::new(),
        }
    }

    fn gone(&mut self) -> Vec<Output> {
        self.phase = Phase::Stopped;
        vec![Output::Unschedule, Output::Report(Report::Stopped)]
    }
}

#[cfg(test)]
mod tests;
