//! nats-server, kept running by what [`Follow`] says of its configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::binary::Binary;
use crate::blocking::blocking;
use crate::board::Board;
use crate::chain::Chain;
use crate::config::Ending;
use crate::follow::{Change, Follow, Prepared, Reloaded};
use crate::identity;
use crate::monitor::{Monitor, MonitorError};
use crate::status::Phase;
use crate::supervise::{self, Event, Process, Report, Signal, Stop};
use crate::trouble::{Met, NAMESAKE, Trouble};
use crate::turn::{Order, Reason};

/// How often it is asked whether it lives until it does: a start takes some tenths of a second.
const SOON: Duration = Duration::from_millis(100);
/// How often afterwards. Its end is seen at once in any case; this finds one that hangs.
const PERIOD: Duration = Duration::from_secs(5);
/// One that runs and does not even answer that it is unwell for this long is killed: nothing else gets it back. Its monitoring port is open
/// before it recovers its streams, so that a long recovery is not taken for it.
const HUNG: Duration = Duration::from_secs(30);
/// How long a reload may take to be said. It takes milliseconds; one that is never answered is taken for refused.
const RELOAD: Duration = Duration::from_secs(10);
/// How long it may take to end: half a minute to send its clients away, and what it has to write.
const END: Duration = Duration::from_secs(45);
/// How long it may take where nobody depends on it.
const END_SOON: Duration = Duration::from_secs(1);
/// Bytes that the disk takes before a server that has given up writing is started again.
const ROOM: usize = 1 << 20;
/// How long that may take.
const PROBE: Duration = Duration::from_secs(5);
/// How long it may take to say whether it has clients.
const CLIENTS: Duration = Duration::from_secs(1);
/// The account by which the runner is a client itself.
pub(crate) const SYSTEM: &str = "$SYS";

/// nats-server and what is known of it.
pub(crate) struct Server<F> {
    pub(crate) process: Process,
    pub(crate) binary: Binary,
    pub(crate) monitor: Monitor,
    pub(crate) follow: F,
    /// Where a restart is ordered that waits for its turn.
    pub(crate) orders: mpsc::Sender<Order>,
    /// Where streams are kept.
    pub(crate) store: PathBuf,
    pub(crate) board: Board,
    pub(crate) ending: Ending,
}

/// What the loop remembers between two events.
struct Course {
    /// It is to be started, and there is nothing yet to start it with.
    waiting: bool,
    /// When it last answered, or was started.
    answered: Instant,
    /// Until when a reload is to be answered.
    reload: Option<Instant>,
    ask: Interval,
    trouble: Trouble,
}

impl Course {
    fn new(now: Instant) -> Course {
        Course { waiting: false, answered: now, reload: None, ask: every(SOON), trouble: Trouble::none(now) }
    }
}

impl<F: Follow> Server<F> {
    /// Runs it until the token is cancelled and it has ended.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut course = Course::new(Instant::now());
        self.process.start();
        let mut told = false;
        loop {
            // The process keeps its events and the configuration its changes; a tick that is dropped comes again, and an answer that is
            // dropped is asked for anew.
            tokio::select! {
                event = self.process.next() => match event {
                    Event::Spawn => self.spawn(&mut course).await,
                    Event::Report(report) => {
                        self.report(&mut course, &report);
                        if report == Report::Stopped {
                            return;
                        }
                    }
                    Event::Reload(outcome) => self.reloaded(&mut course, outcome.map_or_else(Reloaded::Refused, |()| Reloaded::Taken)).await,
                    Event::Namesake => self.namesake(&mut course),
                },
                change = self.follow.changed() => self.change(&mut course, change).await,
                () = token.cancelled(), if !told => {
                    told = true;
                    self.stop(&mut course).await;
                }
                _ = course.ask.tick() => self.ask(&mut course).await,
            }
        }
    }

    /// Starts it, if there is something to start it with.
    async fn spawn(&mut self, course: &mut Course) {
        course.waiting = false;
        match self.follow.before_start().await {
            Ok(Prepared::File(path)) => self.process.spawn(command(&self.binary, &path)).await,
            Ok(Prepared::Waiting(why)) => {
                tracing::info!(why, "nats-server waits");
                course.waiting = true;
                self.board.phase(Phase::WaitingForPeers, Some(why));
            }
            Err(error) => self.process.not_spawned(Chain(&error).to_string()),
        }
    }

    fn report(&self, course: &mut Course, report: &Report) {
        if matches!(report, Report::Running | Report::Failed { .. } | Report::Restarting) {
            // Another process reads the file as it is: nobody says any more what became of a reload.
            course.reload = None;
        }
        match report {
            Report::Running => {
                course.answered = Instant::now();
                course.ask = every(SOON);
                course.trouble.started();
                tracing::info!(pid = self.process.pid(), "nats-server started");
                self.board.started(self.process.pid());
            }
            Report::Failed { ran, delay, looping } => {
                let end = self.end();
                tracing::error!(end, ?ran, ?delay, looping, "nats-server ended, starting it again");
                let phase = if *looping { Phase::CrashLooping } else { Phase::Restarting };
                self.board.phase(phase, Some(end));
            }
            Report::Well => tracing::info!("nats-server is stable again"),
            Report::Ending(signal) => {
                tracing::info!(?signal, "nats-server is told to end");
                let draining = *signal == Signal::Drain;
                self.board.phase(Phase::Ending, draining.then(|| "its clients are sent away".to_owned()));
            }
            Report::Killed => tracing::warn!("nats-server is killed"),
            Report::Restarting => tracing::info!(end = self.end(), "nats-server ended, to be started again"),
            Report::Stopped => {
                tracing::info!(end = self.end(), "nats-server is gone");
                self.board.phase(Phase::Stopped, None);
            }
        }
        let (pid, last_end) = (self.process.pid(), self.process.last_end().map(ToString::to_string));
        let again = matches!(report, Report::Failed { .. } | Report::Restarting);
        self.board.write(|status| {
            (status.pid, status.last_end) = (pid, last_end);
            status.restarts += u64::from(again);
        });
    }

    /// How it last ended, for people.
    fn end(&self) -> String {
        self.process.last_end().map_or_else(String::new, ToString::to_string)
    }

    async fn change(&mut self, course: &mut Course, change: Change) {
        match change {
            Change::Start if course.waiting => self.spawn(course).await,
            Change::Start | Change::TakenBack => {}
            // One that runs no more, or is about to end, has the file from its next start.
            Change::Reload { .. } if !matches!(self.process.phase(), supervise::Phase::Running(_)) => {}
            Change::Reload { what } => {
                tracing::info!(what, class = "reload", "configuration changed");
                self.process.reload();
                course.reload = Some(Instant::now() + RELOAD);
            }
            Change::Restart { what } => {
                tracing::info!(what, class = "restart", "configuration changed");
                let stop = self.ending().await;
                self.process.restart(stop);
            }
        }
    }

    async fn reloaded(&mut self, course: &mut Course, outcome: Reloaded) {
        if course.reload.take().is_none() {
            // Somebody else sent it a signal: the file is the one that it had.
            return;
        }
        if let Reloaded::Refused(why) = &outcome {
            tracing::error!(why, "nats-server refuses the changed configuration and goes on with the one it has");
        }
        self.follow.reloaded(outcome).await;
    }

    /// Asks whether it lives, and what is overdue.
    async fn ask(&mut self, course: &mut Course) {
        if course.reload.is_some_and(|until| Instant::now() > until) {
            let why = format!("nothing was said of it for {} s", RELOAD.as_secs());
            self.reloaded(course, Reloaded::Refused(why)).await;
        }
        let supervise::Phase::Running(_) = self.process.phase() else { return };
        match self.monitor.live().await {
            Ok(()) => {
                course.answered = Instant::now();
                if course.ask.period() != PERIOD {
                    course.ask = every(PERIOD);
                    course.ask.reset();
                }
                self.look(course).await;
                let now = Instant::now();
                self.board.write(|status| status.namesake = course.trouble.has_namesake(now));
                self.board.phase(Phase::Running, course.trouble.reason(now));
            }
            Err(error @ (MonitorError::Unwell(_) | MonitorError::Foreign { .. } | MonitorError::Long(_))) => {
                course.answered = Instant::now();
                self.board.phase(Phase::Unwell, Some(Chain(&error).to_string()));
            }
            Err(error @ MonitorError::Silent { .. }) if course.answered.elapsed() < HUNG => {
                // It is normal while it starts.
                if course.ask.period() == PERIOD {
                    self.board.phase(Phase::Unwell, Some(Chain(&error).to_string()));
                }
            }
            Err(MonitorError::Silent { .. }) => {
                tracing::error!(silent = ?course.answered.elapsed(), "nats-server hangs");
                self.process.hung();
            }
        }
    }

    /// Looks whether it has given up writing streams, and has it restarted in its turn once that may help.
    async fn look(&self, course: &mut Course) {
        let Course { trouble, .. } = course;
        if !trouble.is_due(Instant::now()) {
            return;
        }
        match self.monitor.ready().await {
            Ok(()) => trouble.said(None, Instant::now()),
            Err(MonitorError::Unwell(why)) => trouble.said(Some(&why), Instant::now()),
            // It answered a moment ago; the next look tells more.
            Err(MonitorError::Silent { .. } | MonitorError::Foreign { .. } | MonitorError::Long(_)) => return,
        }
        if !trouble.takes_a_restart(Instant::now()) {
            return;
        }
        let folder = identity::folder(&self.store);
        match timeout(PROBE, blocking(move || identity::probe(&folder, ROOM))).await {
            Ok(Err(_)) => {}
            Ok(Ok(())) => {
                if self.orders.try_send(Order::Restart(Reason::Store)).is_ok() {
                    trouble.restarts(Instant::now());
                }
            }
            // A disk that holds whoever asks it is asked as rarely as one that no restart has mended.
            Err(_) => trouble.restarts(Instant::now()),
        }
    }

    fn namesake(&self, course: &mut Course) {
        if course.trouble.met_namesake(Instant::now()) == Met::First {
            tracing::error!("{NAMESAKE}");
        }
    }

    async fn stop(&mut self, course: &mut Course) {
        let stop = self.ending().await;
        self.process.stop(stop);
        if std::mem::take(&mut course.waiting) {
            self.process.not_spawned("told to end before it was started".to_owned());
        }
    }

    /// How it is to be ended: its clients are sent away if it has any.
    async fn ending(&self) -> Stop {
        if self.ending == Ending::AtOnce {
            return Stop { signal: Signal::Terminate, within: END_SOON };
        }
        let clients = timeout(CLIENTS, self.monitor.has_clients(SYSTEM)).await;
        let signal = if matches!(clients, Ok(Ok(true))) { Signal::Drain } else { Signal::Terminate };
        Stop { signal, within: END }
    }
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn command(binary: &Binary, file: &Path) -> Command {
    let mut command = Command::new(&binary.path);
    command.arg("-c").arg(file);
    command
}
