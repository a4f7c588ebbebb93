//! Where the `kith` binary is, and commands of it that end by themselves.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

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
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (out, err) = (folder.path().join("stdout"), folder.path().join("stderr"));
        let file = |path| std::fs::File::create(path).expect("the lab's folder can be written");
        let mut command = Command::new(kith());
        command.args(arguments).current_dir(folder.path()).stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
        clear_environment(&mut command);
        let mut process = Process::spawn(command);
        let status =
            eventually("the command ends", PATIENCE, async || process.ended().ok_or("it runs".to_owned())).await;
        let text = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        Run { code: status.code(), stdout: text(&out), stderr: text(&err) }
    }
}

/// Takes out what the environment would say to `kith`.
pub(super) fn clear_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KITH_")) {
        command.env_remove(name);
    }
}
