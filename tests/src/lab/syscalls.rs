//! System calls of a running process that fail or take long, by strace.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::skip::skip;

/// Calls that sync a file.
const SYNCS: &str = "fsync,fdatasync";

/// What is done to each of them.
#[derive(Clone, Copy, Debug)]
pub enum Syncs {
    /// It fails with EIO.
    Fail,
    /// It takes so many milliseconds longer.
    Take(u32),
}

/// A process that is tampered with, until this is dropped.
#[derive(Debug)]
pub struct Tampering {
    strace: Child,
    /// Kept open: it says a line for each thread that comes, and would end by SIGPIPE if nobody could hear it.
    _said: BufReader<ChildStderr>,
}

impl Tampering {
    /// From here on the syncs of the process `id` are like this. None, said aloud in the name of `test`, where this host does
    /// not let us.
    ///
    /// # Panics
    /// If strace ends without a word.
    #[must_use]
    pub fn with(test: &str, id: u32, syncs: Syncs) -> Option<Tampering> {
        if !geteuid().is_root() {
            skip(test, "tracing a process needs root");
            return None;
        }
        let fault = match syncs {
            Syncs::Fail => "error=EIO".to_owned(),
            Syncs::Take(ms) => format!("delay_exit={}", u64::from(ms) * 1_000),
        };
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-p", &id.to_string(), "-e", &format!("trace={SYNCS}")]);
        strace.args(["-e", &format!("inject={SYNCS}:{fault}")]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = match strace.spawn() {
            Ok(child) => child,
            Err(error) => {
                skip(test, &format!("`strace` cannot be run: {error}"));
                return None;
            }
        };
        let mut said = String::new();
        let mut pipe = BufReader::new(child.stderr.take().expect("it is piped"));
        pipe.read_line(&mut said).expect("strace speaks text");
        assert!(!said.is_empty(), "strace said nothing");
        let tampering = Tampering { strace: child, _said: pipe };
        if said.contains("attached") {
            return Some(tampering);
        }
        skip(test, &format!("no process can be traced here: {}", said.trim()));
        None
    }
}

impl Drop for Tampering {
    fn drop(&mut self) {
        // By SIGTERM it lets go of the process in good order. It may have ended with it.
        let id = i32::try_from(self.strace.id()).expect("process ids fit");
        if let Err(error) = kill(Pid::from_raw(id), Signal::SIGTERM) {
            eprintln!("strace of a node is left: {error}");
        }
        drop(self.strace.wait());
    }
}
