//! A cluster of `kith agent` processes.
//!
//! A node must come back after a kill where it was, so its ports are chosen before it starts: free ones of a loopback address
//! that belongs to this test process and node alone (127.64.0.0/10, made from the process id), where nobody else binds.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::authority::{Authority, Files};
use super::binary::{clear_environment, kith};
use super::http::{Api, Reply, get_by};
use super::links::Links;
use super::process::Process;
use super::resolve::{Answer, opened, resolve_from, socket};
use super::wait::eventually;

/// From start to ready, with other tests beside it on a small machine.
const STARTING: Duration = Duration::from_secs(30);
/// The API's Unix socket in the folder of a node.
const SOCKET: &str = "api.sock";
/// Lines of its log that a failed test shows of each node.
const SHOWN: usize = 40;

/// A folder with the files of some nodes.
#[derive(Debug)]
pub struct Lab {
    folder: TempDir,
    cluster: String,
}

/// What a node listens on.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// HTTP API, TCP.
    pub api: SocketAddr,
    /// DNS, UDP and TCP.
    pub dns: SocketAddr,
    /// Between nodes, UDP.
    pub gossip: SocketAddr,
}

/// One `kith agent`, running or not.
#[derive(Debug)]
pub struct Node {
    /// Its node id.
    pub name: String,
    /// Where it listens, also after a restart.
    pub at: Addresses,
    folder: PathBuf,
    process: Option<Process>,
    api: Api,
    /// What of `kith` it runs: all parts, or one alone.
    parts: &'static str,
    /// Where it runs, if not on this host's own network.
    namespace: Option<String>,
    /// A capability that it does not have.
    without: Option<&'static str>,
    /// Values of its configuration that are given at its start.
    settings: Vec<String>,
    environment: Vec<(&'static str, OsString)>,
}

impl Lab {
    /// An empty lab for the cluster called `cluster`.
    ///
    /// # Panics
    /// If no temporary folder can be made.
    #[must_use]
    pub fn new(cluster: &str) -> Lab {
        let folder = tempfile::Builder::new().prefix("kith-lab-").tempdir().expect("a temporary folder can be made");
        Lab { folder, cluster: cluster.to_owned() }
    }

    /// Nodes of `names`, at most four in a test process, each with all others as seeds; not started. Their certificates
    /// come from `authority`.
    ///
    /// # Panics
    /// If their files cannot be written.
    #[must_use]
    pub fn nodes(&self, authority: &Authority, names: &[&str]) -> Vec<Node> {
        let places: Vec<_> = names.iter().map(|name| (*name, Addresses::choose(name))).collect();
        let node = |(name, at): &(&str, Addresses)| {
            let seeds: Vec<_> = places.iter().filter(|(other, _)| other != name).map(|(_, at)| at.gossip).collect();
            self.node(authority, name, *at, &seeds)
        };
        places.iter().map(node).collect()
    }

    /// A node with seeds of the test's choice; not started.
    ///
    /// # Panics
    /// If its files cannot be written.
    #[must_use]
    pub fn node(&self, authority: &Authority, name: &str, at: Addresses, seeds: &[SocketAddr]) -> Node {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).expect("the lab's folder can be written");
        let files = authority.issue(name, &folder);
        fs::write(folder.join("boot_id"), format!("boot-{name}\n")).expect("the lab's folder can be written");
        fs::write(folder.join("kith.toml"), configuration(&self.cluster, name, at, seeds, &folder, &files))
            .expect("the lab's folder can be written");
        Node {
            name: name.to_owned(),
            at,
            folder,
            process: None,
            api: Api::new(at.api),
            parts: "agent",
            namespace: None,
            without: None,
            settings: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Nodes of `names`, each in the namespace of its number, with all others as seeds; not started.
    ///
    /// # Panics
    /// If their files cannot be written.
    #[must_use]
    pub fn nodes_apart(&self, authority: &Authority, names: &[&str], links: &Links) -> Vec<Node> {
        let places: Vec<_> = (1..).zip(names).map(|(number, name)| (number, *name, links.addresses(number))).collect();
        let node = |&(number, name, at): &(u8, &str, Addresses)| {
            let seeds: Vec<_> = places.iter().filter(|place| place.0 != number).map(|place| place.2.gossip).collect();
            let mut node = self.node(authority, name, at, &seeds);
            node.api = Api::unix(&node.folder.join(SOCKET));
            node.namespace = Some(links.namespace(number));
            node
        };
        places.iter().map(node).collect()
    }
}

impl Lab {
    /// The folder of the node called `name`.
    #[must_use]
    pub fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The node whose configuration `kith init` or `kith join` has written into its folder, as `kith.toml`; not started.
    /// Where it would serve this host, it is given addresses of its own, as a person would: in the file.
    ///
    /// # Panics
    /// If there is no such file, or it does not offer these keys.
    #[must_use]
    pub fn made(&self, name: &str, at: Addresses) -> Node {
        let folder = self.folder(name);
        let path = folder.join("kith.toml");
        let mut text = fs::read_to_string(&path).expect("a configuration was written");
        for (offered, own) in [("127.0.0.1:31220", at.api), ("127.0.0.1:53", at.dns)] {
            let start = format!("# listen = [\"{offered}\"");
            let line = text.lines().find(|line| line.starts_with(&start)).map(str::to_owned);
            let line = line.unwrap_or_else(|| panic!("no `{start}` in:\n{text}"));
            text = text.replace(&line, &format!("listen = [\"{own}\"]"));
        }
        fs::write(&path, text).expect("the lab's folder can be written");
        Node {
            name: name.to_owned(),
            at,
            folder,
            process: None,
            api: Api::new(at.api),
            parts: "agent",
            namespace: None,
            without: None,
            settings: Vec::new(),
            environment: Vec::new(),
        }
    }
}

impl Addresses {
    /// Free ports on the loopback address of this process and `name`.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn choose(name: &str) -> Addresses {
        // 20 bits of the process id and 2 of the name: enough for the processes that run at one time.
        let process = std::process::id() & 0x000f_ffff;
        let place = name.bytes().fold(0, |sum: u32, byte| sum.wrapping_add(u32::from(byte))) & 3;
        let ip = IpAddr::V4(Ipv4Addr::from_bits(0x7f40_0000 | process << 2 | place));
        let port = || {
            let free = || -> std::io::Result<SocketAddr> {
                let tcp = TcpListener::bind((ip, 0))?;
                UdpSocket::bind(tcp.local_addr()?)?.local_addr()
            };
            free().expect("the loopback network has a free port")
        };
        Addresses { api: port(), dns: port(), gossip: port() }
    }

    /// Whether every port can be bound again.
    ///
    /// # Errors
    /// With the address that cannot.
    pub fn are_free(&self) -> Result<(), String> {
        for address in [self.api, self.dns] {
            TcpListener::bind(address).map_err(|e| format!("{address}/tcp: {e}"))?;
        }
        for address in [self.dns, self.gossip] {
            UdpSocket::bind(address).map_err(|e| format!("{address}/udp: {e}"))?;
        }
        Ok(())
    }
}

impl Node {
    /// The same node in two processes, its store and its DNS; of a node that does not run.
    ///
    /// # Panics
    /// If it runs.
    #[must_use]
    pub fn split(self) -> [Node; 2] {
        self.alone(["gossip", "dns"])
    }

    /// The same node in a process for each of these parts; of a node that does not run.
    ///
    /// # Panics
    /// If it runs.
    #[must_use]
    pub fn alone<const N: usize>(self, parts: [&'static str; N]) -> [Node; N] {
        assert!(self.process.is_none(), "{} runs already", self.name);
        parts.map(|parts| Node {
            name: format!("{} ({parts})", self.name),
            at: self.at,
            folder: self.folder.clone(),
            process: None,
            api: self.api.clone(),
            parts,
            namespace: self.namespace.clone(),
            without: self.without,
            settings: self.settings.clone(),
            environment: self.environment.clone(),
        })
    }

    /// Starts it, and waits until it says that it is ready.
    ///
    /// # Panics
    /// If it runs already, ends at once, or is not ready within 30 s.
    pub async fn start(&mut self) {
        self.launch();
        self.ready().await;
    }

    /// Starts it and does not wait.
    ///
    /// # Panics
    /// If it runs already.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let log = fs::File::options().create(true).append(true).open(self.log_file()).expect("its log can be written");
        let out = log.try_clone().expect("a file can be shared");
        let mut command = match &self.namespace {
            None => Command::new(kith()),
            Some(namespace) => {
                let mut inside = Command::new("nsenter");
                // It becomes the program, so that signals reach it. `ip netns exec` would give it mounts of its own too,
                // and a disk that is unmounted here would go on there.
                inside.arg(format!("--net=/run/netns/{namespace}"));
                if let Some(capability) = self.without {
                    inside.args(["setpriv", "--bounding-set", &format!("-{capability}")]);
                }
                inside.arg(kith());
                inside
            }
        };
        command.args([self.parts, "--config"]).arg(self.folder.join("kith.toml"));
        command.stdin(Stdio::null()).stdout(out).stderr(log);
        command.args(self.settings.iter().flat_map(|setting| ["--set", setting]));
        clear_environment(&mut command);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn(command));
    }

    /// Waits until it says that it is ready.
    ///
    /// # Panics
    /// If it ends, or is not ready within 30 s.
    pub async fn ready(&mut self) {
        let what = format!("{} is ready", self.name);
        eventually(&what, STARTING, async || {
            let ended = self.process.as_mut().and_then(Process::ended);
            assert!(ended.is_none(), "{} ended: {ended:?}\n{}", self.name, self.log());
            let reply = self.api.get("/ready").await?;
            if reply.status == 200 { Ok(()) } else { Err(format!("{} {}", reply.status, reply.body)) }
        })
        .await;
    }

    /// From its next start, this value of the configuration: `gossip.durability=normal`.
    pub fn set(&mut self, assignment: impl Into<String>) {
        self.settings.push(assignment.into());
    }

    /// From its next start, in a namespace, without this capability: `net_admin`.
    pub fn without(&mut self, capability: &'static str) {
        self.without = Some(capability);
    }

    /// From its next start, this environment variable.
    pub fn environment(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.environment.push((name, value.into()));
    }

    /// Sends it a signal, as SIGSTOP and SIGCONT.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).signal(signal);
    }

    /// SIGKILL, as a crash.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self) {
        self.process.take().unwrap_or_else(|| panic!("{} does not run", self.name)).kill();
    }

    /// SIGTERM, and how it ended.
    ///
    /// # Panics
    /// If it does not run, or does not end within 5 s.
    pub async fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        process.stop().await
    }

    /// Its HTTP API.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// What its DNS says to `name`.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn resolve(&self, name: &str) -> Result<Answer, String> {
        self.resolve_at(self.at.dns, name).await
    }

    /// The same of a server at another address, which its host reaches.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn resolve_at(&self, server: SocketAddr, name: &str) -> Result<Answer, String> {
        let namespace = self.namespace.as_ref().map(|name| Path::new("/run/netns").join(name));
        resolve_from(socket(namespace.as_deref())?, server, name).await
    }

    /// GET of `path` at this port of its loopback.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn get(&self, port: u16, path: &str) -> Result<Reply, String> {
        let namespace = self.namespace.as_ref().map(|name| Path::new("/run/netns").join(name));
        let connection = opened(namespace.as_deref(), move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)))?;
        get_by(connection, path).await
    }

    /// A listener in its namespace, at the address of its gossip. Connections are taken by the kernel.
    ///
    /// # Panics
    /// If there can be none.
    #[must_use]
    pub fn listen(&self, port: u16) -> TcpListener {
        let namespace = self.namespace.as_ref().map(|name| Path::new("/run/netns").join(name));
        let at = SocketAddr::new(self.at.gossip.ip(), port);
        opened(namespace.as_deref(), move || TcpListener::bind(at)).unwrap_or_else(|e| panic!("{at}: {e}"))
    }

    /// A command in its namespace, to be completed with a program and its arguments, to which `resolver` is `/etc/resolv.conf`.
    ///
    /// # Panics
    /// If it has no namespace of its own.
    #[must_use]
    pub fn beside(&self, resolver: &Path) -> Command {
        let namespace =
            self.namespace.as_ref().unwrap_or_else(|| panic!("{} is on this host's own network", self.name));
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).args(["unshare", "--mount", "sh", "-c"]);
        command.arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"").arg(resolver).stdin(Stdio::null());
        command
    }

    /// A program in its namespace, to be completed with arguments.
    ///
    /// # Panics
    /// If it has no namespace of its own.
    #[must_use]
    pub fn inside(&self, program: &str) -> Command {
        let namespace =
            self.namespace.as_ref().unwrap_or_else(|| panic!("{} is on this host's own network", self.name));
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg(program).stdin(Stdio::null());
        command
    }

    /// All it has logged since it was made, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The id of its process.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    /// The folder of its database.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let shown = lines[lines.len().saturating_sub(SHOWN)..].join("\n  ");
            eprintln!("the end of the log of {}:\n  {shown}", self.name);
        }
    }
}

fn configuration(
    cluster: &str,
    name: &str,
    at: Addresses,
    seeds: &[SocketAddr],
    folder: &Path,
    files: &Files,
) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let seeds: Vec<_> = seeds.iter().map(|seed| format!("\"{seed}\"")).collect();
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes any line");
    line("[node]".to_owned());
    line(format!("name = \"{name}\""));
    line("region = \"lab\"".to_owned());
    line(format!("data_dir = {}", quoted(&folder.join("data"))));
    line(format!("boot_id_file = {}", quoted(&folder.join("boot_id"))));
    line("[cluster]".to_owned());
    line(format!("id = \"{cluster}\""));
    line("[gossip]".to_owned());
    line(format!("listen = \"{}\"", at.gossip));
    line(format!("seeds = [{}]", seeds.join(", ")));
    line(format!("ca = {}\ncert = {}\nkey = {}", quoted(&files.ca), quoted(&files.cert), quoted(&files.key)));
    line("[api]".to_owned());
    line(format!("listen = [\"{}\"]", at.api));
    line(format!("unix = {}", quoted(&folder.join(SOCKET))));
    line("[dns]".to_owned());
    line(format!("listen = [\"{}\"]", at.dns));
    // A node may run on the host's own network, whose firewall is none of a test's business.
    line("[daemon]\nnetwork = false".to_owned());
    text
}
