//! NATS servers of a fleet: each a whole agent in a namespace of its own, which find each other by our DNS and nothing else.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kith_tests::fetched::nats_server;
use kith_tests::lab::{Authority, Lab, Links, Node, eventually};
use kith_tests::skip::skip;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// For a busy machine; what is promised is said where it is measured.
const BOUND: Duration = Duration::from_secs(120);
/// The regions of the servers, the first of which is home.
const REGIONS: [&str; 8] = ["fra", "fra", "fra", "ams", "ams", "iad", "iad", "sin"];
/// How long DNS says nothing.
const NOTHING: Duration = Duration::from_secs(20);
/// How long a server must be out of DNS before it leaves the routes; one pass may have begun before it was.
const HELD: Duration = Duration::from_secs(85);

/// Servers, and the network between them.
struct Fleet {
    nodes: Vec<Node>,
    /// The daemons that enter the servers' rows, each a process of its own, so that it can end while the rest goes on.
    daemons: Vec<Node>,
    _links: Links,
    _lab: Lab,
}

impl Fleet {
    /// A center with a server in each of these regions, and so many leaves behind it; made, and not started.
    fn new(test: &str, regions: &[&str], leaves: usize) -> Option<Fleet> {
        let server = nats_server(test)?;
        let count = u8::try_from(regions.len() + leaves).expect("a handful");
        let links = Links::up(test, count)?;
        let lab = Lab::new("nats");
        let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (mut nodes, mut daemons) = (Vec::new(), Vec::new());
        for (at, mut node) in lab.nodes_apart(&Authority::new("nats"), &names, &links).into_iter().enumerate() {
            let address = links.addresses(u8::try_from(at + 1).expect("a handful")).gossip.ip();
            let store = node.data().join("nats");
            let stands = regions.get(at).map_or("nats.role=leaf", |_| "nats.servers=3");
            for setting in [
                "daemon.docker=none".to_owned(),
                "daemon.network=false".to_owned(),
                "dns.ranges=10.78.0.0/24".to_owned(),
                "nats.enabled=true".to_owned(),
                "nats.resolvers=127.0.0.1:53".to_owned(),
                stands.to_owned(),
                format!("node.region={}", regions.get(at).unwrap_or(&"edge")),
                format!("nats.ip={address}"),
                format!("nats.bin={}", server.display()),
                format!("nats.store_dir={}", store.display()),
            ] {
                node.set(setting);
            }
            let [agent, daemon] = node.alone(["agent", "daemon"]);
            nodes.push(agent);
            daemons.push(daemon);
        }
        Some(Fleet { nodes, daemons, _links: links, _lab: lab })
    }

    fn launch(&mut self, which: std::ops::Range<usize>) {
        for at in which {
            self.nodes[at].launch();
            self.daemons[at].launch();
        }
    }

    /// Waits until these are one JetStream of `size`, by the word of each.
    async fn joined(&self, size: usize) -> String {
        let mut leader = String::new();
        for node in self.nodes.iter().take(size) {
            leader = eventually(&format!("{} is one of {size}", node.name), BOUND, async || {
                let jsz = asked(node, 8222, "/jsz").await?;
                let meta = &jsz["meta_cluster"];
                let leader = meta["leader"].as_str().unwrap_or_default();
                if meta["cluster_size"] == size && !leader.is_empty() {
                    return Ok(leader.to_owned());
                }
                Err(format!("{meta}, {}", asked(node, 5500, "/status").await?))
            })
            .await;
        }
        leader
    }

    /// Waits until the DNS of each names all of them.
    async fn named(&self, size: usize) {
        for node in self.nodes.iter().take(size) {
            eventually(&format!("the DNS of {} names {size}", node.name), BOUND, async || {
                let named = named(node).await?;
                if named.len() == size { Ok(()) } else { Err(format!("{named:?}")) }
            })
            .await;
        }
    }

    /// How long after `begun` the last of their nats-servers was started.
    async fn started(&self, size: usize, begun: SystemTime) -> Duration {
        let mut last = Duration::ZERO;
        for node in self.nodes.iter().take(size) {
            let started = eventually(&format!("nats-server of {} is started", node.name), BOUND, async || {
                let status = asked(node, 5500, "/status").await?;
                status["started_at"].as_u64().filter(|at| *at > 0).ok_or_else(|| status.to_string())
            })
            .await;
            let started = UNIX_EPOCH + Duration::from_millis(started);
            last = last.max(started.duration_since(begun).unwrap_or_default());
        }
        last
    }

    /// How often the processes of these were told something, and which they are.
    async fn told(&self, count: usize) -> Vec<(usize, Value)> {
        let mut told = Vec::new();
        for node in self.nodes.iter().take(count) {
            let signals = node.log().matches("configuration changed").count();
            told.push((signals, asked(node, 5500, "/status").await.expect("it answers")["pid"].clone()));
        }
        told
    }
}

/// What a server says at a port of its own loopback.
async fn asked(node: &Node, port: u16, path: &str) -> Result<Value, String> {
    Ok(node.get(port, path).await?.json())
}

/// What nobody is to notice: the processes of the servers, and whether they were told something.
async fn calm(fleet: &Fleet, before: &[(usize, Value)]) -> Result<(), String> {
    let after = fleet.told(before.len()).await;
    if after == before { Ok(()) } else { Err(format!("{before:?}, then {after:?}")) }
}

/// What the DNS of `node` says of the center.
async fn named(node: &Node) -> Result<Vec<IpAddr>, String> {
    Ok(node.resolve("center.process.nats.internal").await?.addresses)
}

#[tokio::test]
async fn seven_servers_in_three_regions_join_and_an_eighth_in_a_fourth_with_no_signal_to_them() {
    let Some(mut fleet) = Fleet::new("seven_servers_in_three_regions", &REGIONS, 0) else { return };
    fleet.launch(0..7);
    let (begun, clock) = (Instant::now(), SystemTime::now());
    fleet.named(7).await;
    let named = begun.elapsed();
    let started = fleet.started(7, clock).await;
    let leader = fleet.joined(7).await;
    eprintln!(
        "seven servers in three regions are one JetStream {:?} after the last start (promised: 10 s); \
         all DNS named all after {named:?}, the last nats-server was started after {started:?}; {leader} leads",
        begun.elapsed()
    );

    let before = fleet.told(7).await;
    fleet.launch(7..8);
    let begun = Instant::now();
    fleet.joined(8).await;
    eprintln!("an eighth in a fourth region belongs {:?} after its start", begun.elapsed());
    for node in &fleet.nodes[..7] {
        eventually(&format!("{} has seen it, and needs it at its next start only", node.name), BOUND, async || {
            let status = asked(node, 5500, "/status").await?;
            let due = &status["following"]["due"];
            if *due == "at the next start: gateways" { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }
    assert_eq!(fleet.told(7).await, before, "signals to the others, and their processes");

    let killed = before[1].1.as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("it runs");
    kill(Pid::from_raw(killed), Signal::SIGKILL).expect("a child of our child can be killed");
    let begun = Instant::now();
    eventually("the second server is back", BOUND, async || {
        let status = asked(&fleet.nodes[1], 5500, "/status").await?;
        let is_back = status["phase"] == "running" && status["pid"] != before[1].1;
        if is_back { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    eprintln!("one that was killed answers again after {:?}", begun.elapsed());
    fleet.joined(8).await;
}

#[tokio::test]
async fn two_leaves_find_the_center_and_twenty_seconds_of_empty_dns_change_nothing() {
    let Some(mut fleet) = Fleet::new("two_leaves_find_the_center", &REGIONS[..3], 2) else { return };
    fleet.launch(0..5);
    let begun = Instant::now();
    fleet.joined(3).await;
    for leaf in &fleet.nodes[3..] {
        eventually(&format!("{} is connected to the center", leaf.name), BOUND, async || {
            let varz = asked(leaf, 8222, "/varz").await?;
            if varz["leafnodes"] == 1 { Ok(()) } else { Err(varz["leafnodes"].to_string()) }
        })
        .await;
    }
    eprintln!("a center of three and two leaves are connected {:?} after the last start", begun.elapsed());

    // A leaf is connected before its row has come.
    eventually("all are in the store", BOUND, async || {
        let rows = fleet.nodes[0].api().query("SELECT id FROM nats_servers").await?;
        if rows.len() == 5 { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    let before = fleet.told(5).await;
    fleet.daemons.iter_mut().for_each(Node::kill);
    fleet.nodes[0].api().execute("DELETE FROM nats_servers", &json!([])).await.expect("the store answers");
    for node in &fleet.nodes {
        eventually(&format!("the DNS of {} has nobody", node.name), BOUND, async || {
            let named = named(node).await?;
            if named.is_empty() { Ok(()) } else { Err(format!("{named:?}")) }
        })
        .await;
    }
    let begun = Instant::now();
    eventually("the time is over", BOUND, async || {
        assert_eq!(calm(&fleet, &before).await, Ok(()), "after {:?} of empty DNS", begun.elapsed());
        let over = begun.elapsed() >= NOTHING;
        if over { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    for node in &fleet.nodes {
        eventually(&format!("{} says that DNS has nobody", node.name), BOUND, async || {
            let status = asked(node, 5500, "/status").await?;
            let trouble = status["following"]["dns"].as_str().unwrap_or_default();
            if trouble.contains("has no records") { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }
    fleet.daemons.iter_mut().for_each(Node::launch);
    for node in &fleet.nodes {
        eventually(&format!("the DNS of {} has all again", node.name), BOUND, async || {
            let named = named(node).await?;
            if named.len() == 3 { Ok(()) } else { Err(format!("{named:?}")) }
        })
        .await;
    }
    eprintln!("DNS was empty for {:?}", begun.elapsed());
    fleet.joined(3).await;
    assert_eq!(calm(&fleet, &before).await, Ok(()), "afterwards");
}

#[tokio::test]
async fn a_server_that_is_gone_for_good_leaves_the_routes_when_it_was_long_enough_out_of_dns() {
    let test = "a_server_that_is_gone_for_good";
    if std::env::var_os("KITH_FAULTS").is_none_or(|value| value != "long") {
        return skip(test, "it takes two minutes: KITH_FAULTS=long, as scripts/soak faults has it");
    }
    let Some(mut fleet) = Fleet::new(test, &REGIONS[..3], 0) else { return };
    fleet.launch(0..3);
    fleet.joined(3).await;
    let before = fleet.told(2).await;
    let gone = fleet.nodes[2].at.gossip.ip();
    let route = async |node: &Node| -> Result<bool, String> {
        let urls = asked(node, 8222, "/varz").await?["cluster"]["urls"].clone();
        let urls = urls.as_array().ok_or_else(|| urls.to_string())?.clone();
        Ok(urls.iter().any(|url| url.as_str().is_some_and(|url| url.starts_with(&gone.to_string()))))
    };
    fleet.nodes[2].kill();
    fleet.daemons[2].kill();
    let begun = Instant::now();
    eventually("it is out of DNS", BOUND, async || {
        let named = named(&fleet.nodes[0]).await?;
        if named.contains(&gone) { Err(format!("{named:?}")) } else { Ok(()) }
    })
    .await;
    let unnamed = begun.elapsed();
    assert_eq!(route(&fleet.nodes[0]).await, Ok(true), "it is still a route");
    for node in &fleet.nodes[..2] {
        eventually(&format!("it is no route of {}", node.name), BOUND, async || {
            if route(node).await? { Err("it is".to_owned()) } else { Ok(()) }
        })
        .await;
    }
    let held = begun.elapsed() - unnamed;
    eprintln!("a server that is gone is out of DNS after {unnamed:?}, and out of the routes {held:?} later");
    assert!(held > HELD, "{held:?}");
    for (node, (told, pid)) in fleet.nodes.iter().zip(&before) {
        assert_eq!(
            asked(node, 5500, "/status").await.expect("it answers")["pid"],
            *pid,
            "{} was not restarted",
            node.name
        );
        let told = node.log().matches("configuration changed").count() - told;
        assert_eq!(told, 1, "one reload of {}", node.name);
    }
}
