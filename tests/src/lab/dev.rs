//! One `kith dev`, as somebody starts it for a first look.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::binary::{clear_environment, kith};
use super::http::Api;
use super::node::Addresses;
use super::process::Process;
use super::wait::eventually;

/// From start to the line that says where everything listens.
const STARTING: Duration = Duration::from_secs(90);

/// A running `kith dev --empty --json` on free ports.
#[derive(Debug)]
pub struct Dev {
    /// Where its nodes listen, the first first.
    pub nodes: Vec<Addresses>,
    /// Where presence of each listens, if it was asked for: the center's first.
    pub presence: Vec<SocketAddr>,
    /// The secret of those who write it.
    pub secret: Option<PathBuf>,
    process: Process,
    folder: TempDir,
}

impl Dev {
    /// Starts `count` nodes that keep their data in `dir`, or nowhere, and waits until they are ready.
    ///
    /// # Panics
    /// If they are not, with what was said instead.
    pub async fn start(count: usize, dir: Option<&Path>) -> Dev {
        Dev::started(count, dir, None).await
    }

    /// Starts three nodes that keep nothing, with a NATS server each, by this nats-server.
    ///
    /// # Panics
    /// If the nodes are not ready.
    pub async fn nats(server: &Path) -> Dev {
        Dev::started(3, None, Some(("--nats", server))).await
    }

    /// Starts three nodes that keep nothing, with presence over a NATS server each, by this nats-server.
    ///
    /// # Panics
    /// If the nodes are not ready, presence and all, within a minute and a half.
    pub async fn presence(server: &Path) -> Dev {
        Dev::started(3, None, Some(("--presence", server))).await
    }

    async fn started(count: usize, dir: Option<&Path>, beside: Option<(&str, &Path)>) -> Dev {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = |name| fs::File::create(folder.path().join(name)).expect("the lab's folder can be written");
        let mut command = Command::new(kith());
        command.args(["dev", "--empty", "--json", "--nodes", &count.to_string()]);
        command.args(["--api", "127.0.0.1:0", "--dns", "127.0.0.1:0", "--gossip", "127.0.0.1:0"]);
        if let Some(dir) = dir {
            command.arg("--dir").arg(dir);
        }
        if let Some((what, server)) = beside {
            command.arg(what).env("NATS_SERVER_BIN", server);
        }
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("log"));
        clear_environment(&mut command);
        let process = Process::spawn(command);
        let mut dev = Dev { nodes: Vec::new(), presence: Vec::new(), secret: None, process, folder };
        let line = eventually("kith dev is ready", STARTING, async || {
            let ended = dev.process.ended();
            assert!(ended.is_none(), "kith dev ended: {ended:?}\n{}", dev.log());
            let said = fs::read_to_string(dev.folder.path().join("stdout")).unwrap_or_default();
            let whole = said.lines().next().filter(|_| said.contains('\n')).map(serde_json::from_str::<Value>);
            whole.and_then(Result::ok).ok_or(said)
        })
        .await;
        assert_eq!(line["ready"], true, "{line}");
        let address = |node: &Value, key: &str| -> SocketAddr {
            let text = node[key].as_str().unwrap_or_default().trim_start_matches("http://");
            text.parse().unwrap_or_else(|e| panic!("{key} of {node} is no address: {e}"))
        };
        let place = |node: &Value| Addresses {
            api: address(node, "api"),
            dns: address(node, "dns"),
            gossip: address(node, "gossip"),
        };
        let nodes = line["nodes"].as_array().expect("a list of nodes");
        dev.presence =
            nodes.iter().filter(|node| node["presence"].is_string()).map(|node| address(node, "presence")).collect();
        dev.secret = line["presence_secret_file"].as_str().map(PathBuf::from);
        dev.nodes = nodes.iter().map(place).collect();
        assert_eq!(dev.nodes.len(), count, "{line}");
        dev
    }

    /// The HTTP API of the first node.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(self.nodes[0].api)
    }

    /// The memory of its process that is in use, in MiB.
    ///
    /// # Panics
    /// If the system does not say.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("what it holds");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    }

    /// All it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("log")).unwrap_or_default()).into_owned()
    }

    /// SIGTERM, and how it ended.
    ///
    /// # Panics
    /// If it does not end within 5 s.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.stop().await
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of kith dev:\n{}", self.log());
        }
    }
}
