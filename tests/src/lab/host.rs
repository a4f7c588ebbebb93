//! Whole servers: each has a network, process ids, mounts, an /etc and a Docker of its own, can lose power, and keeps its disk.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::unistd::geteuid;
use tempfile::TempDir;

use super::binary::{clear_environment, kith};
use super::http::Api;
use super::image;
use super::links::must;
use super::process::Process;
use super::resolve::{Answer, resolve_from, socket};
use super::wait::eventually;
use crate::skip::skip;

/// From start to ready, with other tests beside it on a small machine.
const STARTING: Duration = Duration::from_secs(30);
/// Where `kith init` and `kith join` put it.
const CONFIGURATION: &str = "/etc/kith/kith.toml";
/// What must be there for it.
const PROGRAMS: [&str; 4] = ["dockerd", "docker", "iptables", "nsenter"];

/// Some servers on one switch. All they are is gone when this is dropped.
#[derive(Debug)]
pub struct Hosts {
    prefix: String,
    folder: TempDir,
}

/// One of them. What it runs ends with it.
#[derive(Debug)]
pub struct Host {
    /// `h1`, `h2` …: also its host name.
    pub name: String,
    number: u8,
    namespace: PathBuf,
    /// What of it is seen from outside: the id of its first process, its disk with the API's socket, logs.
    folder: PathBuf,
    agent: Option<Process>,
    api: Api,
}

impl Hosts {
    /// That many servers, each with a Docker that answers and an image `lab:1`; none, said aloud in the name of `test`, where this
    /// machine does not let us.
    ///
    /// # Panics
    /// If they come up and cannot be used.
    #[must_use]
    pub fn up(test: &str, count: u8) -> Option<(Hosts, Vec<Host>)> {
        if !geteuid().is_root() {
            skip(test, "whole servers need root");
            return None;
        }
        for program in PROGRAMS {
            let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !found.is_ok_and(|status| status.success()) {
                skip(test, &format!("`{program}` cannot be run"));
                return None;
            }
        }
        let folder = tempfile::Builder::new().prefix("kith-hosts-").tempdir().expect("a temporary folder can be made");
        let hosts = Hosts { prefix: format!("kh{}", std::process::id()), folder };
        let up = hosts.command().args(["up", &count.to_string()]).output().expect("a script of ours runs");
        if !up.status.success() {
            let said = String::from_utf8_lossy(&up.stderr).into_owned();
            skip(test, &format!("no whole servers here: {}", said.lines().last().unwrap_or_default()));
            return None;
        }
        let image = hosts.folder.path().join("image.tar");
        image::pack(&image);
        let made = (1..=count).map(|number| {
            let host = hosts.host(number);
            host.docker(&["import", &image.display().to_string(), "lab:1"]);
            host
        });
        let made = made.collect();
        Some((hosts, made))
    }

    fn host(&self, number: u8) -> Host {
        let name = format!("h{number}");
        let folder = self.folder.path().join(&name);
        let namespace = Path::new("/run/netns").join(format!("{}-{name}", self.prefix));
        let api = Api::unix(&folder.join("kith/kith.sock"));
        Host { name, number, namespace, folder, agent: None, api }
    }

    /// Power loss: everything that it runs ends at once.
    pub fn kill(&self, host: &mut Host) {
        self.tool(&["kill", &host.name]);
        host.agent = None;
    }

    /// Power is back: its network is up and its Docker answers. The agent is for the caller to launch.
    pub fn start(&self, host: &Host) {
        self.tool(&["start", &host.name]);
    }

    /// Nothing passes between the two.
    pub fn cut(&self, one: &Host, other: &Host) {
        self.tool(&["cut", &one.name, &other.name]);
    }

    /// Nothing passes from the first to the second; back it does.
    pub fn cut_one_way(&self, from: &Host, to: &Host) {
        self.tool(&["cut1", &from.name, &to.name]);
    }

    /// All passes between the two.
    pub fn heal(&self, one: &Host, other: &Host) {
        self.tool(&["heal", &one.name, &other.name]);
    }

    fn tool(&self, arguments: &[&str]) {
        must("hosts.sh", self.command().args(arguments));
    }

    fn command(&self) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/hosts/hosts.sh"));
        command.env("HOSTS_PREFIX", &self.prefix).env("HOSTS_DIR", self.folder.path()).stdin(Stdio::null());
        command
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // A test that fails must not leave servers behind; if they cannot be taken down, that is said.
        match self.command().arg("down").output() {
            Ok(down) if down.status.success() => {}
            Ok(down) => eprintln!("the servers {}-… are left: {}", self.prefix, String::from_utf8_lossy(&down.stderr)),
            Err(error) => eprintln!("the servers {}-… are left: {error}", self.prefix),
        }
    }
}

impl Host {
    /// Its address on the switch.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, 10 + self.number)
    }

    /// Its address among its containers.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 210, 128 + self.number, 1)
    }

    /// A command that runs in it.
    ///
    /// # Panics
    /// If it has no power.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let first = std::fs::read_to_string(self.folder.join("init.pid"));
        let first = first.unwrap_or_else(|e| panic!("{} has no power: {e}", self.name));
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", first.trim(), "--"]).arg(program).stdin(Stdio::null());
        clear_environment(&mut command);
        command
    }

    /// What `kith` with these arguments prints in it.
    ///
    /// # Panics
    /// If it fails.
    pub fn kith(&self, arguments: &[&str]) -> String {
        said(&must(&format!("kith {arguments:?} on {}", self.name), self.command(kith()).args(arguments)))
    }

    /// What `docker` with these arguments prints in it.
    ///
    /// # Panics
    /// If it fails.
    pub fn docker(&self, arguments: &[&str]) -> String {
        said(&must(&format!("docker {arguments:?} on {}", self.name), self.command("docker").args(arguments)))
    }

    /// The same, with what runs beside it going on meanwhile.
    ///
    /// # Panics
    /// If it fails.
    pub async fn docker_meanwhile(&self, arguments: &[&str]) {
        let mut command = self.command("docker");
        command.args(arguments).stdout(Stdio::null());
        let mut process = Process::spawn(command);
        let status = eventually("docker ends", STARTING, async || process.ended().ok_or("it runs".to_owned())).await;
        assert!(status.success(), "docker {arguments:?} on {}: {status}", self.name);
    }

    /// Puts lines into sections of the configuration that `kith init` or `kith join` made.
    ///
    /// # Panics
    /// If there is none.
    pub fn configure(&self, lines: &[(&str, &str)]) {
        let mut text = said(&must("cat", self.command("cat").arg(CONFIGURATION)));
        for (section, lines) in lines {
            let head = format!("[{section}]\n");
            match text.find(&head) {
                Some(found) => text.insert_str(found + head.len(), &format!("{lines}\n")),
                None => text.push_str(&format!("\n{head}{lines}\n")),
            }
        }
        must("sh", self.command("sh").args(["-c", "printf '%s\n' \"$1\" >\"$0\"", CONFIGURATION, &text]));
    }

    /// Starts its `kith agent` with the configuration in its /etc, and does not wait.
    ///
    /// # Panics
    /// If one runs already.
    pub fn launch(&mut self) {
        assert!(self.agent.is_none(), "the agent of {} runs already", self.name);
        let log =
            std::fs::File::options().create(true).append(true).open(self.log_file()).expect("its log can be written");
        let mut command = self.command(kith());
        command.arg("agent").stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        self.agent = Some(Process::spawn(command));
    }

    /// Waits until its agent says that it is ready.
    ///
    /// # Panics
    /// If it ends, or is not ready within 30 s.
    pub async fn ready(&mut self) {
        eventually(&format!("{} is ready", self.name), STARTING, async || {
            let ended = self.agent.as_mut().and_then(Process::ended);
            assert!(ended.is_none(), "the agent of {} ended: {ended:?}\n{}", self.name, self.log());
            let reply = self.api.get("/ready").await?;
            if reply.status == 200 { Ok(()) } else { Err(format!("{} {}", reply.status, reply.body)) }
        })
        .await;
    }

    /// Ends its agent as a crash would.
    ///
    /// # Panics
    /// If none runs.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap_or_else(|| panic!("no agent runs on {}", self.name));
        // The child of `nsenter`, which alone is in the server's process ids.
        let id = agent.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        for child in children.split_whitespace() {
            must("kill", Command::new("kill").args(["-KILL", child]));
        }
        agent.kill();
    }

    /// Its HTTP API.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// What its DNS says to `name`, asked on it.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn resolve(&self, name: &str) -> Result<Answer, String> {
        resolve_from(socket(Some(&self.namespace))?, SocketAddr::from((Ipv4Addr::LOCALHOST, 53)), name).await
    }

    /// All that its agent has logged.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("agent.log")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "the end of the log of {}:\n  {}",
                self.name,
                lines[lines.len().saturating_sub(40)..].join("\n  ")
            );
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
