//! Real nats-servers, without a runner: what Kith takes for granted of them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::http::Api;
use super::process::Process;
use super::wait::eventually;

/// From a signal to what is said of it, on a busy machine.
const RELOADING: Duration = Duration::from_secs(10);

/// The `number`th loopback address of this test process, 0 to 7, for servers of its own: 127.192.0.0/10, made from the
/// process id as those of nodes are.
#[must_use]
pub fn nats_address(number: u8) -> Ipv4Addr {
    let process = std::process::id() & 0x0007_ffff;
    Ipv4Addr::from_bits(0x7fc0_0000 | process << 3 | u32::from(number & 7))
}

/// What `nats-server -t` says of a file: why it refuses it.
///
/// # Errors
/// If it refuses it.
///
/// # Panics
/// If it cannot be run.
pub fn nats_check(binary: &Path, file: &Path) -> Result<(), String> {
    let output = Command::new(binary).arg("-t").arg("-c").arg(file).output().expect("nats-server runs");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// One nats-server, running or not.
#[derive(Debug)]
pub struct NatsServer {
    binary: PathBuf,
    address: Ipv4Addr,
    folder: PathBuf,
    process: Option<Process>,
}

impl NatsServer {
    /// In a folder of its own below `folder`.
    ///
    /// # Panics
    /// If the folder cannot be made.
    #[must_use]
    pub fn new(binary: &Path, folder: &Path, number: u8) -> Self {
        let folder = folder.join(number.to_string());
        fs::create_dir_all(&folder).expect("room for a folder");
        Self { binary: binary.to_owned(), address: nats_address(number), folder, process: None }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Starts it with this configuration, to which its address, monitor and store are added.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&mut self, configuration: &str) {
        self.write(configuration);
        let log = fs::File::options().create(true).append(true).open(self.log_file()).expect("room for a log");
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(self.folder.join("nats.conf")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(Process::spawn(command));
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Has it read this configuration; what it says to that.
    ///
    /// # Panics
    /// If it does not run, or says nothing.
    pub async fn reload(&mut self, configuration: &str) -> Result<(), String> {
        self.write(configuration);
        let before = self.log().lines().count();
        self.process.as_ref().expect("it runs").signal(Signal::SIGHUP);
        eventually("it says what became of the reload", RELOADING, async || {
            let log = self.log();
            for line in log.lines().skip(before) {
                if line.contains("Reloaded server configuration") {
                    return Ok(Ok(()));
                }
                if let Some((_, reason)) = line.split_once("Failed to reload server configuration: ") {
                    return Ok(Err(reason.to_owned()));
                }
            }
            Err("nothing".to_owned())
        })
        .await
    }

    /// What its monitor says; null while it says nothing.
    pub async fn monitor(&self, path: &str) -> Value {
        let api = Api::new(SocketAddr::new(self.address.into(), 8222));
        api.get(path).await.map_or(Value::Null, |reply| reply.json())
    }

    /// All that it has written.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| process.ended().is_some())
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn write(&self, configuration: &str) {
        let own = format!(
            "listen: \"{0}:4222\"\nhttp: \"{0}:8222\"\njetstream {{ store_dir: \"{1}\", max_file_store: 100MB, max_memory_store: 10MB, domain: center }}\n",
            self.address,
            self.folder.display()
        );
        fs::write(self.folder.join("nats.conf"), own + configuration).expect("room for a file");
    }
}
