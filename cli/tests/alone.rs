//! `kith gossip` and `kith dns` as two processes, joined by the API's Unix socket: the store may crash and come back
//! while DNS answers on.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kith_gossip::DevAuthority;
use kith_gossip_client::{Client, Endpoint};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// For a part to start, or a fact to arrive.
const BOUND: Duration = Duration::from_secs(20);

/// How DNS marks an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Fresh,
    Stale,
}

/// A node's folder and configuration.
struct Node {
    folder: tempfile::TempDir,
    dns: String,
}

impl Node {
    fn new() -> Node {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let dns = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port").to_string();
        let name = "n1".parse().expect("a node id");
        let files = DevAuthority::new("alone").and_then(|authority| authority.write(&name, folder.path()));
        let files = files.expect("certificates can be written");
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        let text = format!(
            "[node]\nname = \"n1\"\ndata_dir = {data}\n[gossip]\nlisten = \"127.0.0.1:0\"\nca = {ca}\ncert = {cert}\nkey = {key}\n\
             [api]\nlisten = []\nunix = {unix}\n[dns]\nlisten = [\"{dns}\"]\n",
            data = quoted(&folder.path().join("data")),
            ca = quoted(&files.ca),
            cert = quoted(&files.cert),
            key = quoted(&files.key),
            unix = quoted(&folder.path().join("api.sock")),
        );
        std::fs::write(folder.path().join("kith.toml"), text).expect("it can be written");
        Node { folder, dns }
    }

    fn start(&self, part: &str) -> Process {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).expect("a log can be written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KITH_")) {
            command.env_remove(name);
        }
        command.arg(part).arg("--config").arg(self.folder.path().join("kith.toml"));
        Process(command.stdin(Stdio::null()).stderr(log).spawn().expect("kith can be started"))
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn client(&self) -> Client {
        Client::new(Endpoint::unix(self.folder.path().join("api.sock")), None).expect("a client")
    }

    /// Writes, as soon as the store is there.
    async fn write(&self, sql: &str) {
        let client = self.client();
        let until = Instant::now() + BOUND;
        while let Err(error) = client.execute(&[sql.into()]).await {
            assert!(Instant::now() < until, "{error}");
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the store's `/metrics` has a line that begins so, with a number above 0 behind it.
    async fn counts(&self, series: &str) {
        let (client, until) = (self.client(), Instant::now() + BOUND);
        loop {
            let metrics = client.metrics().await.expect("the store's metrics");
            let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
            if value.is_some_and(|value: f64| value > 0.0) {
                return;
            }
            assert!(Instant::now() < until, "{series} is {value:?} in\n{metrics}");
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the status has an alarm that begins so.
    async fn alarms(&self, begins: &str) {
        let (client, until) = (self.client(), Instant::now() + BOUND);
        loop {
            let status = client.status().await.expect("the store's status");
            let texts = status["alarms"].as_array().into_iter().flatten().filter_map(|alarm| alarm["text"].as_str());
            if texts.into_iter().any(|text| text.starts_with(begins)) {
                return;
            }
            assert!(Instant::now() < until, "{begins} is not in {}", status["alarms"]);
            tokio::task::yield_now().await;
        }
    }

    /// What DNS says to a name; null if it says nothing.
    fn answer(&self, name: &str) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_kith"))
            .args(["resolve", name, "--json", "--server", &self.dns])
            .output()
            .expect("kith can be started");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Waits until DNS gives the name this address, marked as this old.
    fn answers(&self, name: &str, address: &str, age: Age) {
        let until = Instant::now() + BOUND;
        loop {
            let answer = self.answer(name);
            // RFC 8914: 3 is a stale answer.
            let marked = if answer["extended_errors"][0]["code"] == 3 { Age::Stale } else { Age::Fresh };
            if answer["answers"][0]["value"] == address && marked == age {
                return;
            }
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(Instant::now() < until, "{name}: {answer}, not {address} and {age:?}\n{log}");
        }
    }
}

/// A process of ours, ended with its value.
struct Process(Child);

impl Process {
    fn signal(&mut self, signal: Signal) -> Option<i32> {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("it runs");
        self.0.wait().expect("it ends").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn dns_answers_on_while_the_store_is_away_and_follows_it_again_when_it_is_back() {
    let node = Node::new();
    // In the wrong order: DNS waits for its store.
    let mut dns = node.start("dns");
    let mut gossip = node.start("gossip");
    node.write("INSERT INTO services (project, name) VALUES ('casa', 'api')").await;
    node.write(
        "INSERT INTO containers (id, project, service, server_id, ip, instance_id) \
         VALUES ('3f2a3f2a3f2a', 'casa', 'api', 'n1', '10.210.128.7', 'a')",
    )
    .await;
    node.answers("casa-api.internal", "10.210.128.7", Age::Fresh);
    node.counts(r#"kith_dns_queries_total{zone="internal",type="A",rcode="NOERROR"}"#).await;
    node.counts(r#"kith_dns_query_duration_seconds_count{path="at_once"}"#).await;

    node.write("INSERT INTO services (project, name) VALUES ('p', 'q-r'), ('p-q', 'r')").await;
    node.alarms("service p-q/r: name p-q-r is taken by p/q-r").await;

    gossip.signal(Signal::SIGKILL);
    node.answers("casa-api.internal", "10.210.128.7", Age::Stale);

    let mut gossip = node.start("gossip");
    node.answers("casa-api.internal", "10.210.128.7", Age::Fresh);
    node.write("UPDATE containers SET ip = '10.210.128.8'").await;
    node.answers("casa-api.internal", "10.210.128.8", Age::Fresh);

    // A stop in good order is no different to DNS.
    assert_eq!(gossip.signal(Signal::SIGTERM), Some(0));
    node.answers("casa-api.internal", "10.210.128.8", Age::Stale);
    assert_eq!(dns.signal(Signal::SIGTERM), Some(0));
    let log = std::fs::read_to_string(node.log()).expect("a log");
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

#[test]
fn dns_alone_keeps_what_binds_low_ports_and_no_other_capability() {
    /// CAP_NET_BIND_SERVICE, as a bit of a set (capability.h).
    const LOW_PORTS: u64 = 1 << 10;
    let of = |status: &str, set: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(set)).expect("a line of each set");
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).expect("a set in hexadecimal")
    };
    let ours = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let kept = of(&ours, "CapPrm") & LOW_PORTS;
    let node = Node::new();
    let dns = node.start("dns");
    let until = Instant::now() + BOUND;
    while node.answer("a.internal").is_null() {
        assert!(Instant::now() < until, "DNS does not answer");
    }
    let tasks = std::fs::read_dir(format!("/proc/{}/task", dns.0.id())).expect("it runs");
    let threads: Vec<_> = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
        .map(|status| ["CapPrm", "CapEff", "CapInh", "CapAmb", "NoNewPrivs"].map(|set| of(&status, set)))
        .collect();
    assert!(threads.len() > 2, "{threads:?}");
    assert!(threads.iter().all(|sets| *sets == [kept, kept, 0, 0, 1]), "{threads:x?}");
}
