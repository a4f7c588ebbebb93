//! Servers with tunnels between them: `kith agent` in network namespaces, with wireguard-go where the kernel has no WireGuard.
//!
//! wireguard-go has its sockets in one folder of the host whatever the namespace, so each server's interface has a name of its own.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::wait::eventually;
use super::{Authority, Lab, Links, Node};
use crate::skip::skip;

/// For a busy machine; what is promised is said where it is measured.
const BOUND: Duration = Duration::from_secs(30);

/// The servers, n1, n2 …. Their interfaces go with them, and with those the processes behind.
#[derive(Debug)]
pub struct Mesh {
    // Dropped first: a failed test shows their logs.
    /// The first is number 1.
    pub nodes: Vec<Node>,
    /// What lies between them.
    pub links: Links,
    _lab: Lab,
}

impl Mesh {
    /// How long a tombstone is seen here before its peer goes.
    pub const HOLD: Duration = Duration::from_secs(3);

    /// That many, none of which runs yet; none, said aloud in the name of `test`, where this machine does not let us.
    ///
    /// # Panics
    /// If they cannot be made though it does.
    #[must_use]
    pub fn of(test: &str, count: u8) -> Option<Mesh> {
        if Command::new("wireguard-go").arg("--version").output().is_err() {
            skip(test, "wireguard-go is not installed");
            return None;
        }
        let links = Links::up(test, count)?;
        let lab = Lab::new("mesh");
        let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut nodes = lab.nodes_apart(&Authority::new("mesh"), &names, &links);
        for (number, node) in (1..).zip(&mut nodes) {
            node.set("daemon.enabled=true");
            node.set("daemon.docker=none");
            node.set("daemon.wireguard=true");
            node.set(format!("daemon.interface={}", Mesh::interface(number)));
            node.set(format!("daemon.endpoints={}:31820", links.addresses(number).gossip.ip()));
            node.set(format!("daemon.remove_after_ms={}", Mesh::HOLD.as_millis()));
        }
        Some(Mesh { nodes, links, _lab: lab })
    }

    /// Starts these, each with its number in its row, as an invitation enters it.
    ///
    /// # Panics
    /// If one is not ready within 30 s.
    pub async fn start(&mut self, numbers: impl IntoIterator<Item = u8> + Clone) {
        for number in numbers.clone() {
            self.nodes[usize::from(number) - 1].launch();
        }
        for number in numbers {
            let node = &mut self.nodes[usize::from(number) - 1];
            node.ready().await;
            Mesh::invite(node, number).await;
        }
    }

    /// Enters a server's number, at `node`.
    ///
    /// # Panics
    /// If it is not written.
    pub async fn invite(node: &Node, number: u8) {
        let sql =
            "INSERT INTO servers (id, subnet) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET subnet = excluded.subnet";
        let row = json!([format!("n{number}"), format!("10.210.{number}.0/24")]);
        node.api().execute(sql, &row).await.expect("it is written");
    }

    /// The interface of a server.
    #[must_use]
    pub fn interface(number: u8) -> String {
        format!("kw{}n{number}", std::process::id())
    }

    /// The management address in a server's row, as `node` has it.
    ///
    /// # Errors
    /// When there is none yet.
    pub async fn management(node: &Node, of: u8) -> Result<String, String> {
        let rows = node.api().query(&format!("SELECT management_ip FROM servers WHERE id = 'n{of}'")).await?;
        let address = rows.first().and_then(|row| row[0].as_str()).unwrap_or_default();
        if address.is_empty() { Err(format!("{rows:?}")) } else { Ok(address.to_owned()) }
    }

    /// One packet there and back.
    ///
    /// # Errors
    /// With what `ping` says.
    pub fn ping(from: &Node, to: &str) -> Result<(), String> {
        let output = from.inside("ping").args(["-n", "-c", "1", "-W", "1", to]).output().map_err(|e| e.to_string())?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
    }

    /// Packets to there, until it is asked what became of them.
    ///
    /// # Panics
    /// If there is no `ping`.
    #[must_use]
    pub fn pings(from: &Node, to: &str) -> Pings {
        let mut ping = from.inside("ping");
        let ping = ping.args(["-n", "-q", "-i", "0.2", "-W", "1", to]).stdout(Stdio::piped()).stderr(Stdio::null());
        Pings(ping.spawn().expect("ping can be run"))
    }

    /// Waits until a packet to a server's management address comes back, and says how long that took.
    ///
    /// # Panics
    /// If none does within 30 s.
    pub async fn reached(from: &Node, of: u8) -> Duration {
        let begun = Instant::now();
        eventually(&format!("{} reaches n{of} by its tunnel", from.name), BOUND, async || {
            Mesh::ping(from, &Mesh::management(from, of).await?)
        })
        .await;
        begun.elapsed()
    }

    /// How many peers an interface has, by the interface itself.
    ///
    /// # Panics
    /// If there is no wireguard-go behind it.
    #[must_use]
    pub fn peers(number: u8) -> usize {
        let device = Mesh::device(number).expect("wireguard-go answers");
        device.lines().filter(|line| line.starts_with("public_key=")).count()
    }

    /// Whether an interface is there and has a key of its own, by the interface itself.
    #[must_use]
    pub fn has_key(number: u8) -> bool {
        Mesh::device(number).is_ok_and(|device| device.lines().any(|line| line.starts_with("private_key=")))
    }

    /// All that wireguard-go says of an interface.
    fn device(number: u8) -> io::Result<String> {
        let path = format!("/var/run/wireguard/{}.sock", Mesh::interface(number));
        let mut socket = UnixStream::connect(path)?;
        socket.write_all(b"get=1\n\n")?;
        let mut answer = String::new();
        let mut bytes = [0; 4096];
        while !answer.contains("errno=") {
            let read = socket.read(&mut bytes)?;
            if read == 0 {
                return Err(io::Error::other(format!("it went away: {answer}")));
            }
            answer.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        Ok(answer)
    }

    /// What a node shows of one of its reconcilers.
    ///
    /// # Errors
    /// While it shows nothing of it.
    pub async fn shown(node: &Node, reconciler: &str) -> Result<Value, String> {
        let status = node.api().get("/v1/status").await?.json();
        let shown = status["parts"]["daemon"]["reconcilers"][reconciler].clone();
        if shown.is_object() { Ok(shown) } else { Err(status["parts"].to_string()) }
    }
}

/// A packet every 200 ms, there and back.
#[derive(Debug)]
pub struct Pings(Child);

impl Pings {
    /// Ends them. How many went, and how many came back.
    ///
    /// # Panics
    /// If `ping` does not say so.
    #[must_use]
    pub fn end(mut self) -> (u64, u64) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT).expect("our own child can be signalled");
        let mut said = String::new();
        self.0
            .stdout
            .take()
            .expect("it is ours to read")
            .read_to_string(&mut said)
            .expect("it says what became of them");
        let number = |what: &str| {
            let before = said.split_once(what).unwrap_or_else(|| panic!("{what}: {said}")).0;
            before.rsplit([' ', '\n']).next().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{said}"))
        };
        (number(" packets transmitted"), number(" received"))
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        // Both fail only for a child that has ended already, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        let deletion = |(number, node): (u8, &Node)| {
            let mut deletion = node.inside("ip");
            deletion.args(["link", "del", &Mesh::interface(number)]);
            deletion
        };
        let deletions: Vec<Command> = (1..).zip(&nodes).map(deletion).collect();
        // A daemon that still runs would make its interface anew.
        drop(nodes);
        for mut deletion in deletions {
            // Without its interface wireguard-go ends. One that was never made is no failure.
            drop(deletion.output());
        }
    }
}
