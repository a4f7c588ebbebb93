//! Real nats-servers on loopback: one center, and leaves that know it.

#![allow(dead_code, reason = "each who uses it takes what it needs")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kith_presence::{Nats, Role, Server};
use tokio::task::JoinSet;

/// The binary that `scripts/setup test` fetched; none, said aloud in the name of `test`, where it was not.
pub(crate) fn binary(test: &str) -> Option<PathBuf> {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let binary = cache.join("kith/bin/nats-server");
    if binary.exists() {
        return Some(binary);
    }
    skipped(test, "no nats-server: run scripts/setup test");
    None
}

/// Says aloud that a test was skipped.
pub(crate) fn skipped(test: &str, reason: &str) {
    eprintln!("skipped {test}: {reason}");
    if let Some(path) = std::env::var_os("KITH_SKIPPED") {
        use std::io::Write;
        let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}

/// A nats-server.
pub(crate) struct NatsServer {
    binary: PathBuf,
    dir: PathBuf,
    store: PathBuf,
    port: u16,
    pub(crate) leaf_port: u16,
    /// Where it tells of itself.
    pub(crate) monitor: u16,
    domain: String,
    child: Option<Child>,
}

/// What a server's configuration has besides.
#[derive(Default)]
pub(crate) struct Secured {
    /// By itself.
    pub(crate) server: String,
    /// For leaves that connect to it.
    pub(crate) listener: String,
    /// For its connection to the center.
    pub(crate) remote: String,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl NatsServer {
    /// A center, or a leaf of the one whose leaf port this is.
    pub(crate) fn start(binary: &Path, dir: &Path, name: &str, center: Option<u16>) -> Self {
        Self::start_on(binary, dir, name, center, &dir.join(format!("nats-{name}")))
    }

    /// One that stores elsewhere.
    pub(crate) fn start_on(binary: &Path, dir: &Path, name: &str, center: Option<u16>, disk: &Path) -> Self {
        Self::secured(binary, dir, name, (center, disk), &Secured::default())
    }

    /// One with more in its configuration.
    pub(crate) fn secured(
        binary: &Path,
        dir: &Path,
        name: &str,
        (center, disk): (Option<u16>, &Path),
        more: &Secured,
    ) -> Self {
        let (port, leaf_port, monitor) = (free_port(), free_port(), free_port());
        let (domain, leaf) = match center {
            None => (
                "center".to_owned(),
                format!("listen: \"127.0.0.1:{leaf_port}\"\nno_advertise: true\n{}", more.listener),
            ),
            Some(center) => (
                format!("leaf-{name}"),
                format!("reconnect: 1\nremotes: [{{url: \"nats-leaf://127.0.0.1:{center}\"\n{}}}]", more.remote),
            ),
        };
        let dir = dir.join(format!("nats-{name}"));
        std::fs::create_dir_all(&dir).unwrap();
        let store = disk.join("store");
        // Of what a stream may take it is not asked whether the disk has it.
        let config = format!(
            "server_name: {name}\nlisten: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\njetstream {{ store_dir: \"{}\", domain: {domain}, sync_interval: always, max_file_store: 10GB }}\nleafnodes {{ {leaf} }}\n{}",
            store.display(),
            more.server,
        );
        std::fs::write(dir.join("nats.conf"), config).unwrap();
        let mut server = Self { binary: binary.to_owned(), dir, store, port, leaf_port, monitor, domain, child: None };
        server.up();
        server
    }

    /// Starts it again, with what it has stored.
    pub(crate) fn up(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(self.dir.join("nats.conf")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// The id of its process, if it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Forgets all that was stored.
    pub(crate) fn empty(&mut self) {
        assert!(self.child.is_none(), "killed before");
        std::fs::remove_dir_all(&self.store).unwrap();
    }

    /// How a node of presence is given it.
    pub(crate) fn nats(&self) -> Nats {
        let role = if self.domain == "center" { Role::Center { replicas: 1 } } else { Role::Leaf };
        let url = format!("nats://127.0.0.1:{}", self.port);
        Nats::Server(Server { url, credentials: None, ca: None, role, domain: "center".to_owned() })
    }
}

/// A link that can be cut: connections to its port go on to another one.
pub(crate) struct Link {
    pub(crate) port: u16,
    to: u16,
    carrying: JoinSet<()>,
}

impl Link {
    pub(crate) async fn to(to: u16) -> Self {
        let mut link = Self { port: free_port(), to, carrying: JoinSet::new() };
        link.mend().await;
        link
    }

    /// Ends all connections, and takes no more.
    pub(crate) fn cut(&mut self) {
        self.carrying.abort_all();
    }

    /// Takes connections again.
    pub(crate) async fn mend(&mut self) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let to = self.to;
        self.carrying.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    if let Ok(mut to) = tokio::net::TcpStream::connect(("127.0.0.1", to)).await {
                        // It ends when either side does.
                        drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
                    }
                });
            }
        });
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- {}\n{}", self.dir.display(), lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }
}
