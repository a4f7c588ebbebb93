//! WireGuard between whole servers (G10): `kith agent` in network namespaces, with wireguard-go where the kernel has none. Packets
//! go from one to the other by their management addresses; needs root.
//!
//! wireguard-go has its sockets in one folder of the host whatever the namespace, so each server's interface has a name of its own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kith_tests::lab::{Authority, Lab, Links, Node, eventually};
use kith_tests::skip::skip;
use serde_json::{Value, json};

/// For a busy machine; what is promised is said where it is measured.
const BOUND: Duration = Duration::from_secs(30);
/// Within this of its start a server that joins carries packets.
const JOINED: Duration = Duration::from_secs(5);
/// How long a tombstone is seen here before its peer goes.
const HOLD: Duration = Duration::from_secs(3);

/// Servers with tunnels. Their interfaces go with them, and with those the processes behind.
struct Mesh {
    nodes: Vec<Node>,
    _links: Links,
    _lab: Lab,
}

impl Mesh {
    fn of(test: &str, count: u8) -> Option<Mesh> {
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
            node.set(format!("daemon.interface={}", interface(number)));
            node.set(format!("daemon.endpoints={}:31820", links.addresses(number).gossip.ip()));
            node.set(format!("daemon.remove_after_ms={}", HOLD.as_millis()));
        }
        Some(Mesh { nodes, _links: links, _lab: lab })
    }

    /// Starts these, each with its number in its row, as an invitation enters it.
    async fn start(&mut self, numbers: impl IntoIterator<Item = u8> + Clone) {
        for number in numbers.clone() {
            self.nodes[usize::from(number) - 1].launch();
        }
        for number in numbers {
            let node = &mut self.nodes[usize::from(number) - 1];
            node.ready().await;
            invite(node, number).await;
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for (number, node) in (1..).zip(&self.nodes) {
            // Without its interface wireguard-go ends. One that was never made is no failure.
            drop(node.inside("ip").args(["link", "del", &interface(number)]).output());
        }
    }
}

fn interface(number: u8) -> String {
    format!("kw{}n{number}", std::process::id())
}

async fn invite(node: &Node, number: u8) {
    let sql = "INSERT INTO servers (id, subnet) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET subnet = excluded.subnet";
    let row = json!([format!("n{number}"), format!("10.210.{number}.0/24")]);
    node.api().execute(sql, &row).await.expect("it is written");
}

/// The management address in a server's row, as `node` has it.
async fn management(node: &Node, of: u8) -> Result<String, String> {
    let rows = node.api().query(&format!("SELECT management_ip FROM servers WHERE id = 'n{of}'")).await?;
    let address = rows.first().and_then(|row| row[0].as_str()).unwrap_or_default();
    if address.is_empty() { Err(format!("{rows:?}")) } else { Ok(address.to_owned()) }
}

/// One packet there and back.
fn ping(from: &Node, to: &str) -> Result<(), String> {
    let output = from.inside("ping").args(["-n", "-c", "1", "-W", "1", to]).output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
}

async fn eventually_reached(from: &Node, of: u8) -> Duration {
    let begun = Instant::now();
    eventually(&format!("{} reaches n{of} by its tunnel", from.name), BOUND, async || {
        ping(from, &management(from, of).await?)
    })
    .await;
    begun.elapsed()
}

/// How many peers an interface has, by the interface itself.
fn peers(number: u8) -> usize {
    let path = format!("/var/run/wireguard/{}.sock", interface(number));
    let mut socket = UnixStream::connect(path).expect("wireguard-go answers");
    socket.write_all(b"get=1\n\n").expect("it can be asked");
    let mut answer = String::new();
    let mut bytes = [0; 4096];
    while !answer.contains("errno=") {
        let read = socket.read(&mut bytes).expect("it answers");
        assert_ne!(read, 0, "it went away: {answer}");
        answer.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    answer.lines().filter(|line| line.starts_with("public_key=")).count()
}

async fn status(node: &Node) -> Result<Value, String> {
    let status = node.api().get("/v1/status").await?.json();
    let peers = status["parts"]["daemon"]["reconcilers"]["peers"].clone();
    if peers.is_object() { Ok(peers) } else { Err(status["parts"].to_string()) }
}

#[tokio::test]
async fn g10_servers_find_each_other_by_rows_and_only_a_removal_takes_a_tunnel_away() {
    let test = "g10_servers_find_each_other_by_rows_and_only_a_removal_takes_a_tunnel_away";
    let Some(mut mesh) = Mesh::of(test, 3) else { return };
    mesh.start([1, 2]).await;
    eventually_reached(&mesh.nodes[0], 2).await;
    assert!(ping(&mesh.nodes[1], "10.210.1.1").is_ok(), "the server's own address is behind its tunnel");

    // One that joins: its number is entered before it starts.
    invite(&mesh.nodes[0], 3).await;
    mesh.nodes[2].launch();
    let begun = Instant::now();
    mesh.nodes[2].ready().await;
    let ready = begun.elapsed();
    let to = eventually_reached(&mesh.nodes[2], 1).await;
    let all = to.max(eventually_reached(&mesh.nodes[1], 3).await);
    eprintln!("joiner: ready {ready:?} after its start, carried packets {all:?} after that");
    assert!(all <= JOINED, "carried packets {all:?} after it was ready");

    // Its key is where it belongs and nowhere else.
    let secret = std::fs::read_to_string(mesh.nodes[0].data().join("wireguard.key")).expect("a key");
    assert!(!mesh.nodes[0].log().contains(secret.trim()), "the private key is in the log");
    eventually("both peers are shown, and the key is not", BOUND, async || {
        let shown = status(&mesh.nodes[0]).await?;
        assert!(!shown.to_string().contains(secret.trim()), "{shown}");
        let whole = shown["error"].is_null() && shown["detail"]["peers"].as_array().map(Vec::len) == Some(2);
        if whole { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;

    // Restarted, it cuts nothing: a packet every 100 ms the whole time.
    let to = management(&mesh.nodes[0], 2).await.expect("an address");
    let mut pings = mesh.nodes[0].inside("ping");
    let pings =
        pings.args(["-n", "-q", "-i", "0.1", "-c", "80", "-W", "1", &to]).stdout(Stdio::piped()).spawn().expect("ping");
    mesh.nodes[1].stop().await;
    mesh.nodes[1].start().await;
    eventually("n2 has looked again", BOUND, async || status(&mesh.nodes[1]).await.map(drop)).await;
    let pings = pings.wait_with_output().expect("ping ends");
    let said = String::from_utf8_lossy(&pings.stdout).into_owned();
    assert!(said.contains(" 0% packet loss"), "while n2 was restarted: {said}");

    // Rows that somebody deletes take nothing away.
    mesh.nodes[0].api().execute("DELETE FROM servers", &json!([])).await.expect("it is written");
    let whole = async |node: &Node| {
        let sql = "SELECT id FROM servers WHERE wireguard_pubkey <> '' AND subnet <> '' AND endpoints <> '[]'";
        let rows = node.api().query(sql).await?;
        assert_eq!((peers(1), peers(2), peers(3)), (2, 2, 2), "rows are gone, peers stay");
        ping(&mesh.nodes[0], &to)?;
        if rows.len() == 3 { Ok(()) } else { Err(format!("{rows:?}")) }
    };
    eventually("all rows are back", BOUND, async || whole(&mesh.nodes[0]).await).await;

    // An operator's word does, after its time.
    let begun = Instant::now();
    let sql = "UPDATE servers SET removed_at = 5 WHERE id = 'n3'";
    mesh.nodes[0].api().execute(sql, &json!([])).await.expect("it is written");
    eventually("n3 is a peer of nobody", BOUND, async || {
        let left = (peers(1), peers(2));
        assert!(left == (2, 2) || begun.elapsed() >= HOLD, "gone after {:?}: {left:?}", begun.elapsed());
        if left == (1, 1) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    eprintln!("removed: gone after {:?}, of which {HOLD:?} are waited", begun.elapsed());
    assert!(ping(&mesh.nodes[0], &to).is_ok(), "the others' tunnel stays");
}

#[tokio::test]
async fn g10_tunnels_stay_while_the_store_is_away_and_the_daemon_is_restarted_without_it() {
    let test = "g10_tunnels_stay_while_the_store_is_away_and_the_daemon_is_restarted_without_it";
    let Some(mut mesh) = Mesh::of(test, 2) else { return };
    mesh.start([1, 2]).await;
    eventually_reached(&mesh.nodes[0], 2).await;
    let to = management(&mesh.nodes[0], 2).await.expect("an address");
    mesh.nodes[0].stop().await;
    assert!(ping(&mesh.nodes[0], &to).is_ok(), "nobody is there, and the tunnel is");

    // The interface goes, as in a reboot; the daemon comes back alone, with nothing but its peer cache.
    let gone = mesh.nodes[0].inside("ip").args(["link", "del", &interface(1)]).output().expect("ip");
    assert!(gone.status.success() && ping(&mesh.nodes[0], &to).is_err());
    let node = mesh.nodes.remove(0);
    let [mut daemon] = node.alone(["daemon"]);
    daemon.launch();
    let begun = Instant::now();
    eventually("the tunnel is back without a store", BOUND, async || ping(&daemon, &to)).await;
    eprintln!("daemon alone: tunnel back after {:?}", begun.elapsed());
    assert_eq!(peers(1), 1);
    daemon.stop().await;
    mesh.nodes.insert(0, daemon);
}

#[tokio::test]
async fn an_interface_that_somebody_else_made_is_reported_and_left_alone() {
    let test = "an_interface_that_somebody_else_made_is_reported_and_left_alone";
    let Some(mut mesh) = Mesh::of(test, 1) else { return };
    let made =
        mesh.nodes[0].inside("ip").args(["tuntap", "add", "dev", &interface(1), "mode", "tun"]).output().expect("ip");
    if !made.status.success() {
        return skip(test, "no link of another kind can be made here");
    }
    let look = |node: &Node| {
        let shown = node.inside("ip").args(["addr", "show", &interface(1)]).output().expect("ip");
        String::from_utf8_lossy(&shown.stdout).into_owned()
    };
    let before = look(&mesh.nodes[0]);
    mesh.start([1]).await;
    eventually("it is reported", BOUND, async || {
        let shown = status(&mesh.nodes[0]).await?;
        let error = shown["error"].as_str().unwrap_or_default();
        if error.contains("is no WireGuard interface") { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    assert_eq!(look(&mesh.nodes[0]), before);
}
