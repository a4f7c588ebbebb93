//! A real Docker, in the network of one node and with nothing of this host's own: its files are in a folder of the test's, and
//! all its processes end with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::image;
use super::node::Node;
use super::process::Process;
use super::wait::eventually;
use crate::skip::skip;

/// From start to answers.
const STARTING: Duration = Duration::from_secs(30);

/// The Docker. Dropping it ends it, with every container.
#[derive(Debug)]
pub struct Dockerd {
    // Ended before its folder goes.
    process: Process,
    folder: TempDir,
}

impl Dockerd {
    /// Where a Docker in this folder listens.
    #[must_use]
    pub fn socket(folder: &Path) -> PathBuf {
        folder.join("docker.sock")
    }

    /// Starts one with its files in `folder`, in the network of `node`; none, said aloud in the name of `test`, where there is no
    /// Docker or it does not come up.
    pub async fn start(test: &str, node: &Node, folder: TempDir) -> Option<Dockerd> {
        Dockerd::run(test, node, folder, &["--iptables=false"]).await
    }

    /// The same, of a Docker that keeps its rules in the node's firewall, as an ordinary one does.
    pub async fn start_with_firewall(test: &str, node: &Node, folder: TempDir) -> Option<Dockerd> {
        Dockerd::run(test, node, folder, &[]).await
    }

    async fn run(test: &str, node: &Node, folder: TempDir, options: &[&str]) -> Option<Dockerd> {
        for program in ["dockerd", "docker"] {
            let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !found.is_ok_and(|status| status.success()) {
                skip(test, &format!("`{program}` cannot be run"));
                return None;
            }
        }
        let at = folder.path();
        let resolver = at.join("resolv.conf");
        std::fs::write(&resolver, "nameserver 127.0.0.1\n").expect("the folder can be written");
        let log = std::fs::File::create(at.join("log")).expect("the folder can be written");
        let mut command = node.beside(&resolver);
        // In process ids of its own, so that with the first process all end.
        command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "dockerd"]);
        command.args(["--bridge=none", "--ip6tables=false", "--storage-driver=vfs"]).args(options);
        command.arg(format!("--host=unix://{}", Dockerd::socket(at).display()));
        for (option, name) in [("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid")] {
            command.arg(format!("--{option}={}", at.join(name).display()));
        }
        command.stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        let mut docker = Dockerd { process: Process::spawn(command), folder };
        let up = eventually("docker answers, or ends", STARTING, async || {
            if docker.process.ended().is_some() {
                return Ok(false);
            }
            let asked = docker.command(&["version"]).output().map_err(|e| e.to_string())?;
            if asked.status.success() { Ok(true) } else { Err(String::from_utf8_lossy(&asked.stderr).into_owned()) }
        });
        if up.await {
            return Some(docker);
        }
        let log = std::fs::read_to_string(docker.folder.path().join("log")).unwrap_or_default();
        skip(test, &format!("dockerd does not run here: {}", log.lines().last().unwrap_or_default()));
        None
    }

    /// Runs `docker` with these arguments, and says what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("docker runs");
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// An image of a few of this host's programs, as `lab:1`.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn image(&self) {
        let tar = self.folder.path().join("image.tar");
        image::pack(&tar);
        self.docker(&["import", &tar.display().to_string(), "lab:1"]);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        let socket = Dockerd::socket(self.folder.path());
        command.arg("--host").arg(format!("unix://{}", socket.display())).args(arguments).stdin(Stdio::null());
        command
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // So that no control group of a container is left; the processes would end anyhow.
        if let Ok(all) = self.command(&["ps", "--all", "--quiet"]).output() {
            let ids = String::from_utf8_lossy(&all.stdout).into_owned();
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if !ids.is_empty() {
                drop(self.command(&[&["rm", "--force"], &ids[..]].concat()).output());
            }
        }
    }
}
