//! One `kith nats`: a runner with its nats-server, on a loopback address of its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::binary::{clear_environment, kith};
use super::http::Api;
use super::process::Process;
use super::wait::eventually;

/// From start to an answer, with other tests beside it on a small machine.
const STARTING: Duration = Duration::from_secs(30);
/// Lines of its log that a failed test shows.
const SHOWN: usize = 60;

/// A runner, running or not.
#[derive(Debug)]
pub struct Runner {
    /// Where its nats-server and it itself listen.
    pub address: Ipv4Addr,
    folder: TempDir,
    process: Option<Process>,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Runner {
    /// The `number`th of this test process, whose nats-server is this one.
    ///
    /// # Panics
    /// If the lab's folder cannot be made.
    #[must_use]
    pub fn new(number: u8, server: &Path) -> Runner {
        // 127.128.0.0/10, made from the process id as those of nodes are: nobody else binds there, and every port is free.
        let process = std::process::id() & 0x000f_ffff;
        let address = Ipv4Addr::from_bits(0x7f80_0000 | process << 2 | u32::from(number & 3));
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut runner = Runner { address, folder, process: None, settings: Vec::new(), environment: Vec::new() };
        runner.set(&format!("nats.ip={address}"));
        runner.set(&format!("nats.monitor={address}:8222"));
        runner.set(&format!("nats.health={address}:5500"));
        runner.set(&format!("nats.store_dir={}", runner.store().display()));
        runner.set(&format!("nats.bin={}", server.display()));
        runner.set(&format!("node.name=n{number}"));
        runner
    }

    /// Sets a key of its configuration, from its next start on.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// Sets a variable of its environment, from its next start on.
    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Its folder of streams, and of what is made once.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// A program of the test's making in the place of nats-server: the text of a shell script, which is `$1` to `--version`.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("nats-server");
        let version = "case \"$*\" in --version) echo nats-server: v2.15.1; exit;; '-t '*) exit;; esac";
        fs::write(&path, format!("#!/bin/sh\n{version}\n{text}\n")).expect("the lab's folder can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        path
    }

    /// Starts it, and does not wait.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn launch(&mut self) {
        let file = |name: &str| {
            let path = self.folder.path().join(name);
            fs::File::options().create(true).append(true).open(path).expect("the lab's folder can be written")
        };
        // A file that is there and empty: the host's own is not for tests.
        drop(file("kith.toml"));
        let mut command = Command::new(kith());
        command.arg("nats").arg("--config").arg(self.folder.path().join("kith.toml"));
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("log"));
        clear_environment(&mut command);
        for name in ["NATS_STORE_DIR", "NATS_SERVER_BIN", "NATS_APPEND_CONFIG"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn(command));
    }

    /// Starts it and waits until its nats-server answers; says what it then says of itself.
    ///
    /// # Panics
    /// If that takes longer than 30 s.
    pub async fn start(&mut self) -> Value {
        self.launch();
        self.phase("running").await
    }

    /// Waits until it is in this phase.
    ///
    /// # Panics
    /// If that takes longer than 30 s.
    pub async fn phase(&mut self, phase: &str) -> Value {
        eventually(&format!("the runner is {phase}"), STARTING, async || {
            let ended = self.ended();
            assert!(ended.is_none(), "kith nats ended: {ended:?}\n{}", self.log());
            let status = self.status().await?;
            if status["phase"] == phase { Ok(status) } else { Err(status.to_string()) }
        })
        .await
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<Value, String> {
        Ok(self.health().get("/status").await?.json())
    }

    /// Where it answers about health.
    #[must_use]
    pub fn health(&self) -> Api {
        Api::new(SocketAddr::new(IpAddr::V4(self.address), 5500))
    }

    /// Its nats-server's monitoring port.
    #[must_use]
    pub fn monitor(&self) -> Api {
        Api::new(SocketAddr::new(IpAddr::V4(self.address), 8222))
    }

    /// The process id of the runner itself.
    ///
    /// # Panics
    /// If it was not started.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("it was started").id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// SIGKILL to the runner itself.
    ///
    /// # Panics
    /// If it was not started.
    pub fn kill(&mut self) {
        self.process.as_mut().expect("it was started").kill();
    }

    /// Sends the runner a signal.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it was started").signal(signal);
    }

    /// Sends its nats-server a signal, as if it did so itself.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn signal_server(&self, signal: Signal) {
        let status = self.status().await.expect("the runner answers");
        let pid = status["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("nats-server runs");
        kill(Pid::from_raw(pid), signal).expect("a child of our child can be signalled");
    }

    /// SIGTERM, and how it ended within that time.
    ///
    /// # Panics
    /// If it does not end by then.
    pub async fn stop(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.end(within).await
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end by then.
    pub async fn end(&mut self, within: Duration) -> ExitStatus {
        eventually("kith nats ends", within, async || self.ended().ok_or("it runs".to_owned())).await
    }

    /// All it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "the log of kith nats at {}:\n{}",
                self.address,
                lines[lines.len().saturating_sub(SHOWN)..].join("\n")
            );
        }
    }
}
