//! Where the `kith` binary is, and commands of it that end by themselves.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::wait::eventually;

/// A command that ends by itself is given this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The `kith` binary: the one named by `KITH_BIN`, else the one of this build, beside the folder of the test programs.
///
/// # Panics
/// If it is not there: a run of this package alone does not build it.
#[must_use]
pub fn kith() -> PathBuf {
    if let Some(path) = std::env::var_os("KITH_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running program has a path");
    let built = test.parent().and_then(|deps| deps.parent()).expect("test programs lie in target/PROFILE/deps");
    let path = built.join("kith");
    assert!(
        path.is_file(),
        "there is no {}: first `cargo build --package kith`, or name it by KITH_BIN",
        path.display()
    );
    path
}

/// What a command of `kith` said and how it ended.
#[derive(Debug)]
pub struct Run {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Run {
    /// Runs `kith` with `arguments` to its end, with no configuration but what they name.
    ///
    /// # Panics
    /// If it cannot be started, or does not end within 30 s.
    pub async fn of<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Run {
        let mut running = Background::of(arguments);
        let code = running.end(PATIENCE).await;
        Run { code, stdout: running.stdout(), stderr: running.stderr() }
    }
}

/// A command of `kith` that runs beside the test; ended by SIGKILL when it is dropped.
#[derive(Debug)]
pub struct Background {
    folder: TempDir,
    process: Process,
}

impl Background {
    /// Starts `kith` with `arguments`, with no configuration but what they name.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn of<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Background {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = |name| std::fs::File::create(folder.path().join(name)).expect("the lab's folder can be written");
        let mut command = Command::new(kith());
        command
            .args(arguments)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"));
        clear_environment(&mut command);
        Background { process: Process::spawn(command), folder }
    }

    /// Its exit code, when it has ended by itself; none if a signal ended it.
    ///
    /// # Panics
    /// If it does not end within that time.
    pub async fn end(&mut self, within: Duration) -> Option<i32> {
        eventually("the command ends", within, async || self.process.ended().ok_or("it runs".to_owned())).await.code()
    }

    /// Its standard output until now.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.text("stdout")
    }

    /// Its standard error until now.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.text("stderr")
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.path().join(name)).unwrap_or_default()).into_owned()
    }
}

/// Takes out what the environment would say to `kith`.
pub(super) fn clear_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KITH_")) {
        command.env_remove(name);
    }
}
