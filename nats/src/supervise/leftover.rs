//! What outlives a runner that is killed. The processes that it starts die with it, but not those that they have started: the
//! parent-death signal is for children alone. So all carry a mark in their environment, which what they start inherits, and the next
//! runner of the store ends whoever carries it. The lock of the store says that no other runner lives whose they are.

use std::collections::BTreeMap;
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
    let signal = |pid| kill(Pid::from_raw(pid), Signal::SIGKILL);
    end_in(Path::new("/proc"), mark, signal).await;
}

/// Those that are mounted at `proc`, by this signal. Of each it is said once what becomes of it.
async fn end_in(proc: &Path, mark: &str, signal: impl Fn(i32) -> nix::Result<()>) {
    let wanted = format!("{VARIABLE}={mark}");
    let until = Instant::now() + END;
    let mut told: BTreeMap<Leftover, Option<Errno>> = BTreeMap::new();
    loop {
        let (proc, wanted) = (proc.to_owned(), wanted.clone());
        let found = blocking(move || carriers(&proc, &wanted)).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what is left behind is not known");
            Vec::new()
        });
        for leftover in &found {
            let failed = signal(leftover.pid).err().filter(|error| *error != Errno::ESRCH);
            if told.insert(leftover.clone(), failed) == Some(failed) {
                continue;
            }
            let Leftover { pid, name } = leftover;
            match failed {
                None => tracing::warn!(pid, name, "left behind, and ended"),
                Some(error) => tracing::warn!(pid, name, %error, "left behind, and not to be ended"),
            }
        }
        if found.is_empty() {
            return;
        }
        if Instant::now() >= until {
            tracing::error!(left = found.len(), "processes that are left behind do not end");
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logged::Log;

    /// A process of this id, as /proc has it.
    fn process(proc: &Path, pid: i32, name: &str) {
        let folder = proc.join(pid.to_string());
        fs::create_dir(&folder).expect("room");
        fs::write(folder.join("environ"), format!("HOME=/\0{VARIABLE}=1:2\0")).expect("room");
        fs::write(folder.join("comm"), format!("{name}\n")).expect("room");
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_of_a_process_is_said_once_also_where_it_is_not_to_be_ended() {
        let (log, _guard) = Log::of_warnings();
        let proc = tempfile::tempdir().expect("a folder");
        process(proc.path(), 7, "theirs");
        process(proc.path(), 8, "hangs");
        let signal = |pid| if pid == 7 { Err(Errno::EPERM) } else { Ok(()) };
        let begun = Instant::now();
        end_in(proc.path(), "1:2", signal).await;
        assert!(begun.elapsed() >= END, "{:?}", begun.elapsed());
        let text = log.text();
        let told = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        let counts = (told("left behind, and not to be ended"), told("left behind, and ended"), told("do not end"));
        assert_eq!((counts, text.lines().count()), ((1, 1, 1), 3), "{text}");
    }
}
