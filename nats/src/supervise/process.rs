//! One process and its machine: the thin shell that starts, signals and listens.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal as Unix, kill, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::{Instant, sleep_until};

use super::lines::{Line, Lines};
use super::machine::{Input, Machine, Output, Phase, Report, Signal, Stop};
use super::said::{self, Weight};
use super::spawner::Spawn;

/// How long what a process wrote last is waited for after its end: whoever it has left behind may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Bytes of a line that are kept as the reason of an end.
const REASON: usize = 400;

/// Something that the owner of a process has to know or do.
#[derive(Debug)]
pub(crate) enum Event {
    /// It is to be started: [`Process::spawn`] or [`Process::not_spawned`].
    Spawn,
    /// Its state has changed.
    Report(Report),
    /// It said what became of a reload.
    Reload(Result<(), String>),
    /// It said that it has met another of its name.
    Namesake,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// Its status, in words.
    pub(crate) how: String,
    /// What it said last that explains it.
    pub(crate) why: Option<String>,
}

/// A process that is kept running.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    machine: Machine,
    begun: Instant,
    spawn: Spawn,
    running: Option<Running>,
    due: Option<Instant>,
    /// A handful for each input, and told before the next input is taken.
    events: VecDeque<Event>,
    last_end: Option<End>,
    last_word: LastWord,
}

#[derive(Debug)]
struct Running {
    child: Child,
    pid: Pid,
    out: Option<Lines<ChildStdout>>,
    err: Option<Lines<ChildStderr>>,
    /// How it ended, until what it wrote last is read.
    ended: Option<Ended>,
}

#[derive(Debug)]
struct Ended {
    status: io::Result<ExitStatus>,
    /// Until when its last words are waited for.
    until: Instant,
}

/// The line that best explains an end.
#[derive(Debug, Default)]
struct LastWord(Option<(Weight, String)>);

impl Process {
    /// A process of this name, not wanted yet.
    pub(crate) fn new(name: &str, spawn: Spawn) -> Process {
        Process {
            name: name.to_owned(),
            machine: Machine::new(),
            begun: Instant::now(),
            spawn,
            running: None,
            due: None,
            events: VecDeque::new(),
            last_end: None,
            last_word: LastWord::default(),
        }
    }

    /// Its id while it runs.
    pub(crate) fn pid(&self) -> Option<i32> {
        // Of one that has ended the id may be another's by now.
        self.running.as_ref().filter(|running| running.ended.is_none()).map(|running| running.pid.as_raw())
    }

    /// Where it is.
    pub(crate) fn phase(&self) -> Phase {
        self.machine.phase()
    }

    /// How it last ended, or could not be started.
    pub(crate) fn last_end(&self) -> Option<&End> {
        self.last_end.as_ref()
    }

    /// Wants it to run.
    pub(crate) fn start(&mut self) {
        self.handle(&Input::Start);
    }

    /// Wants it to end; told twice, at once.
    pub(crate) fn stop(&mut self, stop: Stop) {
        self.handle(&Input::StopRequested(stop));
    }

    /// Wants another one in its place.
    pub(crate) fn restart(&mut self, stop: Stop) {
        self.handle(&Input::RestartRequested(stop));
    }

    /// It runs, and does not answer.
    pub(crate) fn hung(&mut self) {
        self.last_word = LastWord(Some((Weight::Fatal, "it ran and did not answer".to_owned())));
        self.handle(&Input::Hung);
    }

    /// Has it read its configuration again. Nothing, if it does not run.
    pub(crate) fn reload(&self) {
        if let Some(pid) = self.pid() {
            self.send(Pid::from_raw(pid), Unix::SIGHUP);
        }
    }

    /// Starts it, upon [`Event::Spawn`].
    pub(crate) async fn spawn(&mut self, command: Command) {
        match self.spawn.start(command).await {
            Ok(child) => self.spawned(child),
            Err(error) => self.not_spawned(format!("it cannot be started: {error}")),
        }
    }

    /// Says why it cannot be started, upon [`Event::Spawn`].
    pub(crate) fn not_spawned(&mut self, why: String) {
        self.last_end = Some(End { how: "not started".to_owned(), why: Some(why) });
        self.handle(&Input::NotSpawned);
    }

    fn spawned(&mut self, mut child: Child) {
        // Without an id there is nobody to be signalled: 0 would be our own group.
        let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw) else {
            return self.not_spawned("it has no process id".to_owned());
        };
        let (out, err) = (child.stdout.take().map(Lines::new), child.stderr.take().map(Lines::new));
        self.last_word = LastWord::default();
        self.running = Some(Running { child, pid, out, err, ended: None });
        self.handle(&Input::Spawned);
    }

    /// Waits for the next event. A wait that is dropped loses nothing: ends, lines and timers stay where they are, and what is
    /// heard is taken in without a further wait.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let heard = hear(self.running.as_mut(), self.due).await;
            match heard {
                Heard::Line(line) => self.said(&line),
                Heard::Ended(status) => {
                    if let Some(running) = &mut self.running {
                        running.ended = Some(Ended { status, until: Instant::now() + LAST_WORDS });
                    }
                }
                Heard::Silent => self.exited(),
                Heard::Due => {
                    self.due = None;
                    self.handle(&Input::Timer);
                }
            }
        }
    }

    fn handle(&mut self, input: &Input) {
        for output in self.machine.handle(input, self.begun.elapsed()) {
            match output {
                Output::Spawn => self.events.push_back(Event::Spawn),
                Output::Signal(signal) => self.signal(signal),
                Output::Schedule(after) => self.due = Some(Instant::now() + after),
                Output::Unschedule => self.due = None,
                Output::Report(report) => self.events.push_back(Event::Report(report)),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let Some(pid) = self.pid().map(Pid::from_raw) else { return };
        match signal {
            Signal::Drain => self.send(pid, Unix::SIGUSR2),
            Signal::Terminate => self.send(pid, Unix::SIGTERM),
            // With all it has started.
            Signal::Kill => self.told(Unix::SIGKILL, killpg(pid, Unix::SIGKILL)),
        }
    }

    fn send(&self, pid: Pid, signal: Unix) {
        self.told(signal, kill(pid, signal));
    }

    /// It may be gone without our having heard of it yet; then its end is what comes next.
    fn told(&self, signal: Unix, result: nix::Result<()>) {
        if let Err(error) = result {
            tracing::debug!(process = self.name, %signal, %error, "signal not delivered");
        }
    }

    fn said(&mut self, line: &Line) {
        let (weight, text) = said::read(&line.text);
        if text.is_empty() && line.more == 0 {
            return;
        }
        let (process, more) = (&self.name, line.more);
        match weight {
            Weight::Detail => tracing::debug!(process, text, more, "output"),
            Weight::Fact => tracing::info!(process, text, more, "output"),
            Weight::Warning => tracing::warn!(process, text, more, "output"),
            Weight::Fatal => tracing::error!(process, text, more, "output"),
        }
        self.last_word.hear(weight, text);
        if let Some(outcome) = said::reload(&line.text) {
            self.events.push_back(Event::Reload(outcome));
        }
        if said::is_of_a_namesake(&line.text) {
            self.events.push_back(Event::Namesake);
        }
    }

    /// It has ended, and said all that it had to say.
    fn exited(&mut self) {
        let Some(Running { pid, ended: Some(Ended { status, .. }), .. }) = self.running.take() else { return };
        // What it has started itself is not to outlive it: it may hold the ports that the next one needs.
        self.told(Unix::SIGKILL, killpg(pid, Unix::SIGKILL));
        self.last_end = Some(match status {
            Ok(status) => End { how: in_words(status), why: self.last_word.take().why(status) },
            Err(error) => End { how: format!("lost: {error}"), why: None },
        });
        self.handle(&Input::Exited);
    }
}

/// What is heard of a process.
enum Heard {
    Line(Line),
    Ended(io::Result<ExitStatus>),
    /// Of one that has ended: nothing comes any more.
    Silent,
    Due,
}

/// Each arm may be dropped: an end is told again, what was read of a line is kept, and a time stays due.
async fn hear(running: Option<&mut Running>, due: Option<Instant>) -> Heard {
    let timer = async {
        match due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    };
    let Some(running) = running else {
        timer.await;
        return Heard::Due;
    };
    if let Some(until) = running.ended.as_ref().map(|ended| ended.until) {
        return tokio::select! {
            // Whoever holds its output open may write without end.
            biased;
            () = sleep_until(until) => Heard::Silent,
            line = running.line() => line.map_or(Heard::Silent, Heard::Line),
        };
    }
    let Running { child, out, err, .. } = running;
    tokio::select! {
        () = timer => Heard::Due,
        Some(line) = next(out), if out.is_some() => Heard::Line(line),
        Some(line) = next(err), if err.is_some() => Heard::Line(line),
        status = child.wait() => Heard::Ended(status),
    }
}

impl Running {
    /// The next line of either stream, until both have ended.
    async fn line(&mut self) -> Option<Line> {
        let Running { out, err, .. } = self;
        tokio::select! {
            Some(line) = next(out), if out.is_some() => Some(line),
            Some(line) = next(err), if err.is_some() => Some(line),
            else => None,
        }
    }
}

/// The next line; a stream that has ended, or fails, is gone.
async fn next<R: tokio::io::AsyncRead + Unpin>(lines: &mut Option<Lines<R>>) -> Option<Line> {
    let line = lines.as_mut()?.next().await.unwrap_or(None);
    if line.is_none() {
        *lines = None;
    }
    line
}

impl LastWord {
    /// A fatal line explains an end, and nothing that is said after it does; without one the last line may.
    fn hear(&mut self, weight: Weight, text: &str) {
        let is_explained = matches!(self.0, Some((Weight::Fatal, _))) && weight != Weight::Fatal;
        if !is_explained && !text.is_empty() {
            self.0 = Some((weight, text.chars().take(REASON).collect()));
        }
    }

    fn take(&mut self) -> LastWord {
        std::mem::take(self)
    }

    /// What explains this end. One that came by a signal has nothing to say for itself.
    fn why(self, status: ExitStatus) -> Option<String> {
        let (weight, text) = self.0?;
        (status.code().is_some() || weight == Weight::Fatal).then_some(text)
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => Unix::try_from(signal).map_or(format!("signal {signal}"), |name| name.to_string()),
        (None, None) => status.to_string(),
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(f, "{}: {why}", self.how),
            None => f.write_str(&self.how),
        }
    }
}

#[cfg(test)]
mod tests;
