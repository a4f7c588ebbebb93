//! Starts processes that die with this one.
//!
//! The kernel's parent-death signal is sent when the *thread* that forked ends, so all of them are forked by one thread, which lives as
//! long as the runner; a thread of the runtime's pool would take its children with it when the pool shrinks.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::leftover::VARIABLE;

/// Requests that wait. Each supervisor has at most one and there are a few of them, so a full queue is refused.
const REQUESTS: usize = 64;

enum Request {
    Start { command: Box<Command>, answer: oneshot::Sender<io::Result<Child>> },
    End,
}

/// The thread that starts processes. It ends, and they with it, when this is dropped.
#[derive(Debug)]
pub(crate) struct Spawner {
    requests: SyncSender<Request>,
    thread: Option<JoinHandle<()>>,
}

/// Asks the thread.
#[derive(Debug, Clone)]
pub(crate) struct Spawn(SyncSender<Request>);

impl Spawner {
    /// Starts the thread. All that it starts carry this mark.
    pub(crate) fn start(runtime: Handle, mark: &str) -> io::Result<Spawner> {
        let mark = mark.to_owned();
        let (requests, asked) = sync_channel(REQUESTS);
        let thread = Builder::new().name("nats-spawner".to_owned()).spawn(move || {
            let _entered = runtime.enter();
            while let Ok(Request::Start { mut command, answer }) = asked.recv() {
                // A child that nobody waits for any more is killed as it is dropped.
                drop(answer.send(start(command.env(VARIABLE, &mark))));
            }
        })?;
        Ok(Spawner { requests, thread: Some(thread) })
    }

    /// Somebody who may ask.
    pub(crate) fn spawn(&self) -> Spawn {
        Spawn(self.requests.clone())
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // The thread takes one request after the other, so there is room soon; it is gone only if it panicked.
        let told = self.requests.send(Request::End).is_ok();
        if let Some(thread) = self.thread.take()
            && !(told && thread.join().is_ok())
        {
            tracing::error!("the thread that starts processes has panicked");
        }
    }
}

impl Spawn {
    /// Starts a process in a group of its own, with pipes for what it writes.
    pub(crate) async fn start(&self, command: Command) -> io::Result<Child> {
        let (answer, started) = oneshot::channel();
        self.0
            .try_send(Request::Start { command: command.into(), answer })
            .map_err(|error| io::Error::other(error.to_string()))?;
        started.await.map_err(io::Error::other)?
    }
}

fn start(command: &mut Command) -> io::Result<Child> {
    let parent = getpid();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let command_of_std = command.as_std_mut();
    command_of_std.process_group(0);
    // SAFETY: between fork and exec only prctl and getppid are called, which are async-signal-safe, and nothing is allocated.
    #[allow(unsafe_code, reason = "the parent-death signal can only be asked for between fork and exec")]
    unsafe {
        command_of_std.pre_exec(move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have ended before the signal was asked for.
            if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
        });
    }
    command.spawn()
}
