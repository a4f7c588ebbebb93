//! What outlives a runner that is killed. The processes that it starts die with it, but not those that they have started: the
//! parent-death signal is for children alone. So all carry a mark in their environment, which what they start inherits, and the next
//! runner of the store ends whoever carries it. The lock of the store says that no other runner lives whose they are.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::blocking::blocking;

/// The variable. It is not one of those by which Kith is configured, for one of these processes may be a Kith.
pub(crate) const VARIABLE: &str = "KITH_RUNNER";
/// How long what is killed may take to be gone. What hangs in a call of the kernel cannot be ended, and is said.
const END: Duration = Duration::from_secs(5);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(20);

/// A process that was left behind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Leftover {
    pid: i32,
    name: String,
}

/// Ends all that carry this mark, and waits until they are gone.
pub(crate) async fn end(mark: &str) {
    let wanted = format!("{VARIABLE}={mark}");
    let until = Instant::now() + END;
    let mut told: Vec<Leftover> = Vec::new();
    loop {
        let wanted = wanted.clone();
        let found = blocking(move || carriers(Path::new("/proc"), &wanted)).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what an earlier runner has left behind is not known");
            Vec::new()
        });
        for leftover in &found {
            let killed = kill(Pid::from_raw(leftover.pid), Signal::SIGKILL);
            let Leftover { pid, name } = leftover;
            match killed {
                Ok(()) | Err(Errno::ESRCH) if told.contains(leftover) => {}
                Ok(()) | Err(Errno::ESRCH) => tracing::warn!(pid, name, "left behind by an earlier runner, and ended"),
                Err(error) => {
                    tracing::warn!(pid, name, %error, "left behind by an earlier runner, and not to be ended");
                }
            }
        }
        if found.is_empty() {
            return;
        }
        if Instant::now() >= until {
            tracing::error!(left = found.len(), "processes of an earlier runner do not end");
            return;
        }
        told = found;
        sleep(AGAIN).await;
    }
}

/// Who has this in its environment, by what is mounted at `proc`. One that has ended has none any more.
fn carriers(proc: &Path, wanted: &str) -> io::Result<Vec<Leftover>> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir(proc)? {
        let entry = entry?;
        let (name, folder) = (entry.file_name(), entry.path());
        let Some(pid) = name.to_str().filter(|name| **name != *own).and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Those of others are not ours to read, and none of ours.
        let environment = fs::read(folder.join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            let name = fs::read_to_string(folder.join("comm")).unwrap_or_default().trim().to_owned();
            found.push(Leftover { pid, name });
        }
    }
    Ok(found)
}
