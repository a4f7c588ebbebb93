//! A child process that cannot be forgotten.

use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::eventually;

/// From SIGTERM to the end: twice what `kith` promises, for a busy machine.
const STOPPING: Duration = Duration::from_secs(5);

/// A running child, ended by SIGKILL when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// # Panics
    /// If the program cannot be started.
    pub(super) fn spawn(mut command: Command) -> Process {
        let child = command.spawn().unwrap_or_else(|e| panic!("{:?} does not start: {e}", command.get_program()));
        Process { child }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    ///
    /// # Panics
    /// If the system does not know our child.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// SIGKILL: what a crash looks like from outside.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub(super) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids fit");
        kill(Pid::from_raw(id), signal).expect("our own child can be signalled");
    }

    /// SIGTERM, and how it ended then.
    ///
    /// # Panics
    /// If it does not end within 5 s.
    pub async fn stop(&mut self) -> ExitStatus {
        if self.ended().is_none() {
            self.signal(Signal::SIGTERM);
        }
        eventually("it ends after SIGTERM", STOPPING, async || self.ended().ok_or("it runs".to_owned())).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child that has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
