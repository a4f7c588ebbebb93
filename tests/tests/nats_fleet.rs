//! NATS servers of a fleet: each a whole agent in a namespace of its own, which find each other by our DNS and nothing else.

use std::process::Stdio;
use std::time::{Duration, Instant};

use kith_tests::fetched::nats_server;
use kith_tests::lab::{Authority, Lab, Links, Node, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// For a busy machine; what is promised is said where it is measured.
const BOUND: Duration = Duration::from_secs(120);
/// The regions of the servers, the first of which is home.
const REGIONS: [&str; 8] = ["fra", "fra", "fra", "ams", "ams", "iad", "iad", "sin"];

/// Servers, and the network between them.
struct Fleet {
    nodes: Vec<Node>,
    _links: Links,
    _lab: Lab,
}

impl Fleet {
    /// Made, and not started.
    fn new(test: &str, count: u8) -> Option<Fleet> {
        let server = nats_server(test)?;
        let links = Links::up(test, count)?;
        let lab = Lab::new("nats");
        let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut nodes = lab.nodes_apart(&Authority::new("nats"), &names, &links);
        for (at, node) in nodes.iter_mut().enumerate() {
            let address = links.addresses(u8::try_from(at + 1).expect("a handful")).gossip.ip();
            let store = node.data().join("nats");
            for setting in [
                "daemon.enabled=true".to_owned(),
                "daemon.docker=none".to_owned(),
                "daemon.network=false".to_owned(),
                "dns.ranges=10.78.0.0/24".to_owned(),
                "nats.enabled=true".to_owned(),
                "nats.servers=3".to_owned(),
                "nats.resolvers=127.0.0.1:53".to_owned(),
                format!("node.region={}", REGIONS[at]),
                format!("nats.ip={address}"),
                format!("nats.bin={}", server.display()),
                format!("nats.store_dir={}", store.display()),
            ] {
                node.set(setting);
            }
        }
        Some(Fleet { nodes, _links: links, _lab: lab })
    }

    /// Waits until these are one JetStream of `size`, by the word of each.
    async fn joined(&self, size: u64) -> String {
        let mut leader = String::new();
        for node in self.nodes.iter().take(usize::try_from(size).expect("a handful")) {
            leader = eventually(&format!("{} is one of {size}", node.name), BOUND, async || {
                let jsz = asked(node, 8222, "/jsz")?;
                let meta = &jsz["meta_cluster"];
                let leader = meta["leader"].as_str().unwrap_or_default();
                let whole = meta["cluster_size"] == size && !leader.is_empty();
                if whole { Ok(leader.to_owned()) } else { Err(format!("{meta}, {}", asked(node, 5500, "/status")?)) }
            })
            .await;
        }
        leader
    }

    /// How often the processes of these were told something, and which they are.
    fn told(&self, count: usize) -> Vec<(usize, Value)> {
        let told = |node: &Node| {
            let signals = node.log().matches("configuration changed").count();
            (signals, asked(node, 5500, "/status").expect("it answers")["pid"].clone())
        };
        self.nodes.iter().take(count).map(told).collect()
    }
}

/// What a server says at a port of its own loopback.
fn asked(node: &Node, port: u16, path: &str) -> Result<Value, String> {
    let mut curl = node.inside("curl");
    curl.args(["-s", "--max-time", "5"]).arg(format!("http://127.0.0.1:{port}{path}")).stdin(Stdio::null());
    let output = curl.output().map_err(|error| error.to_string())?;
    serde_json::from_slice(&output.stdout).map_err(|_| format!("{port}{path}: {output:?}"))
}

#[tokio::test]
async fn seven_servers_in_three_regions_join_and_an_eighth_in_a_fourth_with_no_signal_to_them() {
    let Some(mut fleet) = Fleet::new("seven_servers_in_three_regions", 8) else { return };
    for node in fleet.nodes.iter_mut().take(7) {
        node.launch();
    }
    let begun = Instant::now();
    let leader = fleet.joined(7).await;
    eprintln!(
        "seven servers in three regions are one JetStream {:?} after the last start; {leader} leads",
        begun.elapsed()
    );

    let before = fleet.told(7);
    fleet.nodes[7].launch();
    let begun = Instant::now();
    fleet.joined(8).await;
    eprintln!("an eighth in a fourth region belongs {:?} after its start", begun.elapsed());
    assert_eq!(fleet.told(7), before, "signals to the others, and their processes");

    let killed = before[1].1.as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("it runs");
    kill(Pid::from_raw(killed), Signal::SIGKILL).expect("a child of our child can be killed");
    let begun = Instant::now();
    eventually("the second server is back", BOUND, async || {
        let status = asked(&fleet.nodes[1], 5500, "/status")?;
        let is_back = status["phase"] == "running" && status["pid"] != before[1].1;
        if is_back { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    eprintln!("one that was killed answers again after {:?}", begun.elapsed());
    fleet.joined(8).await;
}
