//! A center and two leaves on loopback, started for the measurement and ended with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kith_presence::{AuthConfig, Nats, Writes};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use super::client::{Client, connect};
use super::node::Node;
use super::process::{cpu, filesystem};
use super::rows::Sizes;
use super::servers::NatsServer;

/// For processes to start and find each other.
const STARTING: Duration = Duration::from_secs(60);
/// For the center to keep what a hundred thousand users said.
const SETTLED: Duration = Duration::from_secs(600);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
const NAMES: [&str; 3] = ["center", "one", "two"];
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// All of it: the center first.
pub(crate) struct Stage {
    pub(crate) sizes: Sizes,
    pub(crate) token: String,
    pub(crate) servers: Vec<NatsServer>,
    nodes: Vec<Running>,
    /// How many users are known to be online at the first leaf.
    pub(crate) filled: usize,
    dir: TempDir,
}

struct Running {
    child: Child,
    addr: SocketAddr,
}

impl Stage {
    pub(crate) async fn start(binary: &Path, sizes: Sizes) -> Result<Self, String> {
        raise_descriptors();
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        std::fs::write(dir.path().join("secret"), SECRET).map_err(|e| e.to_string())?;
        let center = NatsServer::start(binary, dir.path(), NAMES[0], None);
        let leaf = |name| NatsServer::start(binary, dir.path(), name, Some(center.leaf_port));
        let (one, two) = (leaf(NAMES[1]), leaf(NAMES[2]));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let token = kith_presence::sign(SECRET, "load", now + 86_400, Writes::Any, &AuthConfig::default());
        let token = token.map_err(|e| e.to_string())?;
        let mut stage = Self { sizes, token, servers: vec![center, one, two], nodes: Vec::new(), filled: 0, dir };
        for at in 0..NAMES.len() {
            let node = stage.begin(at).await?;
            stage.nodes.push(node);
        }
        for at in 0..NAMES.len() {
            stage.heard(at).await?;
        }
        Ok(stage)
    }

    async fn begin(&self, at: usize) -> Result<Running, String> {
        let Nats::Server(server) = self.servers[at].nats() else { return Err("no nats-server".to_owned()) };
        let secret = self.dir.path().join("secret");
        let node = Node { name: NAMES[at].to_owned(), url: server.url, role: server.role, secret };
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new(program);
        command.args(node.words()).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("it is piped")?;
        BufReader::new(stdout).read_line(&mut line).await.map_err(|e| e.to_string())?;
        let addr = line.trim().parse().map_err(|_| format!("node {} does not start", NAMES[at]))?;
        Ok(Running { child, addr })
    }

    /// Waits until a node answers, and hears all others.
    async fn heard(&self, at: usize) -> Result<(), String> {
        let others = (NAMES.len() - 1) as u64;
        until(STARTING, &format!("{} hears the others", NAMES[at]), async || {
            Ok(self.figure(at, "ready").await? == 1 && self.figure(at, "peers").await? == others)
        })
        .await
    }

    /// Waits until the center keeps all that was said: what is measured is not to share the disk with what was before.
    pub(crate) async fn settled(&self) -> Result<(), String> {
        for (at, name) in NAMES.iter().enumerate() {
            until(SETTLED, &format!("the center keeps what {name} said"), async || {
                Ok(self.figure(at, "unforwarded").await? == 0)
            })
            .await?;
        }
        Ok(())
    }

    /// Where it is measured: cores, which the load shares, and what the streams are stored on.
    pub(crate) fn place(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        format!("{cores} cores, shared by the load; streams are stored on {}", filesystem(self.dir.path()))
    }

    pub(crate) fn addr(&self, at: usize) -> SocketAddr {
        self.nodes[at].addr
    }

    /// The id of a node's process.
    pub(crate) fn id(&self, at: usize) -> u32 {
        self.nodes[at].child.id().unwrap_or(0)
    }

    /// A figure of a node.
    pub(crate) async fn figure(&self, at: usize, name: &str) -> Result<u64, String> {
        let text = get(self.addr(at), "/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("presence_{name} ")));
        line.and_then(|value| value.parse().ok()).ok_or_else(|| format!("no {name} in {text}"))
    }

    /// How many puts the center's bucket has taken.
    pub(crate) async fn puts(&self) -> Result<u64, String> {
        let addr = SocketAddr::from(([127, 0, 0, 1], self.servers[0].monitor));
        let text = read_to_end(addr, "/jsz?streams=true").await?;
        let jsz: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let accounts = jsz["account_details"].as_array().into_iter().flatten();
        let mut streams = accounts.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
        let bucket = streams.find(|stream| stream["name"] == "KV_presence");
        bucket.and_then(|stream| stream["state"]["last_seq"].as_u64()).ok_or_else(|| format!("no bucket in {text}"))
    }

    /// SIGKILL to the center's node and its nats-server, which took what it took until then.
    pub(crate) async fn kill_center(&mut self, meter: &mut Meter) -> Result<(), String> {
        self.nodes[0].child.kill().await.map_err(|e| e.to_string())?;
        if let Some(id) = self.servers[0].id() {
            meter.nats.leave(id);
        }
        self.servers[0].kill();
        Ok(())
    }

    /// Starts the center's nats-server again, and counts it.
    pub(crate) fn center_up(&mut self, meter: &mut Meter) {
        self.servers[0].up();
        if let Some(id) = self.servers[0].id() {
            meter.nats.come(id);
        }
    }

    /// Starts the center's node again, and waits until it hears the others.
    pub(crate) async fn center_node_up(&mut self) -> Result<(), String> {
        self.nodes[0] = self.begin(0).await?;
        self.heard(0).await
    }

    /// Whether the nats-server of a leaf is connected to the center's.
    pub(crate) async fn is_linked(&self, at: usize) -> bool {
        let addr = SocketAddr::from(([127, 0, 0, 1], self.servers[at].monitor));
        let text = get(addr, "/leafz").await.unwrap_or_default();
        let leafz: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        leafz["leafnodes"] == 1
    }

    /// Begins to count what a node and all nats-servers take.
    pub(crate) fn meter(&self, at: usize) -> Meter {
        let nats = Taken::since(self.servers.iter().filter_map(NatsServer::id));
        Meter { begun: Instant::now(), node: Taken::since([self.id(at)]), nats }
    }
}

/// Counts CPU.
pub(crate) struct Meter {
    begun: Instant,
    node: Taken,
    nats: Taken,
}

impl Meter {
    /// Cores since then: of the node, and of the nats-servers.
    pub(crate) fn cores(&self) -> [f64; 2] {
        let took = self.begun.elapsed().as_secs_f64().max(1e-9);
        [&self.node, &self.nats].map(|taken| taken.sum().as_secs_f64() / took)
    }
}

/// The CPU time of processes that come and go.
struct Taken {
    /// What each that runs had taken when it began to be counted.
    before: BTreeMap<u32, Duration>,
    /// Of those that are gone.
    gone: Duration,
}

impl Taken {
    fn since(ids: impl IntoIterator<Item = u32>) -> Self {
        Self { before: ids.into_iter().map(|id| (id, cpu(id))).collect(), gone: Duration::ZERO }
    }

    /// A process that was just started.
    fn come(&mut self, id: u32) {
        self.before.insert(id, Duration::ZERO);
    }

    /// A process that is about to be killed: once it is, nobody can tell any more.
    fn leave(&mut self, id: u32) {
        if let Some(before) = self.before.remove(&id) {
            self.gone += cpu(id).saturating_sub(before);
        }
    }

    fn sum(&self) -> Duration {
        // One by one: a process that ended by itself counts for nothing, and takes nothing from the others.
        let running: Duration = self.before.iter().map(|(id, before)| cpu(*id).saturating_sub(*before)).sum();
        self.gone + running
    }
}

/// What a path answers, once.
async fn get(addr: SocketAddr, path: &str) -> Result<String, String> {
    let mut client = Client::connect(addr).await?;
    client.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await?;
    Ok(String::from_utf8_lossy(client.body()).into_owned())
}

/// What a path of a server answers that does not say how long that is.
async fn read_to_end(addr: SocketAddr, path: &str) -> Result<String, String> {
    let mut stream = connect(addr).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.map_err(|e| e.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.map_err(|e| e.to_string())?;
    Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// Waits until something holds.
pub(crate) async fn until(
    bound: Duration,
    what: &str,
    mut holds: impl AsyncFnMut() -> Result<bool, String>,
) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let seen = holds().await;
        if seen == Ok(true) {
            return Ok(());
        }
        if begun.elapsed() > bound {
            return Err(format!("not within {bound:?}: {what} ({seen:?})"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// As many descriptors as the system gives. With fewer, whoever connects says so.
fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap_or_default();
    }
}
