//! Nodes that speak to each other over real nats-servers: a center and two leaves, killed and back.

#![allow(clippy::unwrap_used, reason = "a test's functions are tests as well")]

#[path = "nats/disk.rs"]
mod disk;
#[path = "nats/elsewhere.rs"]
mod elsewhere;
#[path = "nats/seconds.rs"]
mod seconds;
#[path = "wire/servers.rs"]
mod servers;
#[path = "nats/tokens.rs"]
mod tokens;
mod wire;

use std::path::Path;
use std::time::{Duration, Instant};

use kith_presence::Writes;
use servers::{Link, NatsServer, binary};
use tempfile::TempDir;
use wire::{Events, Running, ask, config, put, shown, token, until};

/// A center and two leaves, with a node of presence each.
struct Cluster {
    dir: TempDir,
    servers: Vec<NatsServer>,
    nodes: Vec<Option<Running>>,
    link: Option<Link>,
}

const NAMES: [&str; 3] = ["center", "one", "two"];

impl Cluster {
    async fn start(test: &str) -> Option<Self> {
        let binary = binary(test)?;
        let dir = tempfile::tempdir().unwrap();
        let center = NatsServer::start(&binary, dir.path(), "center", None);
        let port = center.leaf_port;
        Some(Self::with_leaves(&binary, dir, center, [port; 2], None).await)
    }

    /// The link of the first leaf can be cut.
    async fn start_cuttable(test: &str) -> Option<Self> {
        let binary = binary(test)?;
        let dir = tempfile::tempdir().unwrap();
        let center = NatsServer::start(&binary, dir.path(), "center", None);
        let link = Link::to(center.leaf_port).await;
        let ports = [link.port, center.leaf_port];
        Some(Self::with_leaves(&binary, dir, center, ports, Some(link)).await)
    }

    async fn with_leaves(
        binary: &Path,
        dir: TempDir,
        center: NatsServer,
        [one, two]: [u16; 2],
        link: Option<Link>,
    ) -> Self {
        let leaf = |name, port| NatsServer::start(binary, dir.path(), name, Some(port));
        let (one, two) = (leaf("one", one), leaf("two", two));
        let mut cluster = Self { dir, servers: vec![center, one, two], nodes: vec![None, None, None], link };
        for at in 0..3 {
            cluster.begin(at).await;
        }
        cluster
    }

    fn cut(&mut self) {
        self.link.as_mut().expect("it can be cut").cut();
    }

    async fn mend(&mut self) {
        self.link.as_mut().expect("it can be cut").mend().await;
    }

    async fn begin(&mut self, at: usize) {
        let dir = self.dir.path().join(format!("node-{}", NAMES[at]));
        std::fs::create_dir_all(&dir).unwrap();
        self.nodes[at] = Some(node(&dir, NAMES[at], &self.servers[at]).await.ready().await);
    }

    fn addr(&self, at: usize) -> std::net::SocketAddr {
        self.nodes[at].as_ref().expect("it runs").addr
    }

    async fn shows(&self, at: usize, user: &str, status: &str) {
        until(&format!("{} shows {user} as {status}", NAMES[at]), async || shown(self.addr(at), user).await == status)
            .await;
    }

    async fn all_show(&self, user: &str, status: &str) {
        for at in (0..3).filter(|at| self.nodes[*at].is_some()) {
            self.shows(at, user, status).await;
        }
    }
}

async fn node(dir: &Path, name: &str, server: &NatsServer) -> Running {
    Running::start(config(dir, name, server.nats())).await
}

#[tokio::test]
async fn what_is_written_on_one_leaf_is_shown_on_all_and_followed() {
    let Some(cluster) = Cluster::start("what_is_written_on_one_leaf_is_shown_on_all_and_followed").await else {
        return;
    };
    let mut events = Events::open(cluster.addr(2), "ann", None).await;
    assert_eq!(events.next().await.json["data"]["ann"]["status"], "offline");
    assert_eq!(put(cluster.addr(1), "ann", r#"{"status":"busy","message":"a.b *>"}"#).await.status, 200);
    let event = events.next().await;
    assert_eq!(
        (&event.json["data"]["ann"]["status"], &event.json["data"]["ann"]["node_id"]),
        (&"busy".into(), &"one".into())
    );
    cluster.all_show("ann", "busy").await;
    let path = "/api/v2/presence/ann?durability=center";
    let answer = ask(cluster.addr(1), "PUT", path, Some(&token("ann", Writes::Own)), r#"{"status":"away"}"#).await;
    assert_eq!((answer.status, &answer.json()["durability"]), (200, &"center".into()), "{answer:?}");
    // The later word wins, wherever it was said.
    put(cluster.addr(2), "ann", r#"{"status":"online"}"#).await;
    cluster.all_show("ann", "online").await;
    let gone = ask(cluster.addr(1), "DELETE", "/api/v2/presence/ann", Some(&token("ann", Writes::Own)), "").await;
    assert_eq!(gone.json()["data"]["ann"]["status"], "offline", "the other leaf ended its session, asked by this one");
    cluster.all_show("ann", "offline").await;
}

#[tokio::test]
async fn while_the_center_is_away_leaves_go_on_and_nothing_acknowledged_is_lost() {
    let test = "while_the_center_is_away_leaves_go_on_and_nothing_acknowledged_is_lost";
    let Some(mut cluster) = Cluster::start(test).await else { return };
    put(cluster.addr(1), "before", r#"{"status":"online"}"#).await;
    cluster.all_show("before", "online").await;
    cluster.nodes[0].take().unwrap().kill();
    cluster.servers[0].kill();
    for at in [1, 2] {
        assert_eq!(put(cluster.addr(at), &format!("meanwhile-{at}"), r#"{"status":"busy"}"#).await.status, 200);
        assert_eq!(shown(cluster.addr(at), &format!("meanwhile-{at}")).await, "busy");
    }
    let path = "/api/v2/presence/before?durability=center";
    let away = ask(cluster.addr(1), "PUT", path, Some(&token("before", Writes::Own)), r#"{"status":"away"}"#).await;
    assert_eq!((away.status, &away.json()["durability"]), (503, &"local".into()), "{away:?}");
    cluster.shows(2, "before", "online stale").await;
    // The center comes back with nothing at all.
    cluster.servers[0].empty();
    cluster.servers[0].up();
    cluster.begin(0).await;
    for user in ["meanwhile-1", "meanwhile-2"] {
        cluster.all_show(user, "busy").await;
    }
    cluster.all_show("before", "away").await;
    // And is told all that holds: a node that hears nobody reads it there.
    until("the bucket is filled", async || {
        let path = "/api/v2/presence/meanwhile-2?durability=center";
        ask(cluster.addr(2), "PUT", path, Some(&token("meanwhile-2", Writes::Own)), r#"{"status":"busy"}"#).await.status
            == 200
    })
    .await;
}

/// The center is away for 12 s while both leaves are written to: what each acknowledged is shown by both, soon after.
#[tokio::test]
async fn a_center_that_is_away_for_twelve_seconds_costs_no_write() {
    let test = "a_center_that_is_away_for_twelve_seconds_costs_no_write";
    let Some(mut cluster) = Cluster::start(test).await else { return };
    cluster.nodes[0].take().unwrap().kill();
    cluster.servers[0].kill();
    let (begun, mut written) = (Instant::now(), [0, 0]);
    while begun.elapsed() < Duration::from_secs(12) {
        for leaf in [1, 2] {
            let user = format!("leaf-{leaf}-{}", written[leaf - 1] % 200);
            let body = format!(r#"{{"status":"busy","message":"{}","ttl":3600}}"#, written[leaf - 1]);
            assert_eq!(put(cluster.addr(leaf), &user, &body).await.status, 200, "writes go on");
            written[leaf - 1] += 1;
        }
        assert_eq!(shown(cluster.addr(1), "leaf-1-0").await, "busy", "reads go on");
    }
    cluster.servers[0].up();
    let back = Instant::now();
    for (leaf, other) in [(1, 2), (2, 1)] {
        let last = written[leaf - 1];
        for turn in last.max(200) - 200..last {
            let user = format!("leaf-{leaf}-{}", turn % 200);
            let what = format!("{user} is known by the other leaf");
            until(&what, async || {
                let answer = ask(cluster.addr(other), "GET", &format!("/api/v2/presence/{user}"), None, "").await;
                answer.json()["data"][&user]["message"] == turn.to_string().as_str()
            })
            .await;
        }
    }
    eprintln!("{written:?} written; agreed {:?} after the center's start", back.elapsed());
    // The leaf's own attempts to reach the center are a second apart.
    assert!(back.elapsed() < Duration::from_secs(6), "{:?}", back.elapsed());
    cluster.begin(0).await;
    cluster.all_show("leaf-1-0", "busy").await;
}

#[tokio::test]
async fn while_its_nats_server_is_down_a_leaf_reads_and_acknowledges_nothing() {
    let test = "while_its_nats_server_is_down_a_leaf_reads_and_acknowledges_nothing";
    let Some(mut cluster) = Cluster::start(test).await else { return };
    put(cluster.addr(1), "ann", r#"{"status":"online"}"#).await;
    cluster.servers[1].kill();
    until("a write is refused", async || put(cluster.addr(1), "bob", r#"{"status":"online"}"#).await.status == 503)
        .await;
    let refused = put(cluster.addr(1), "bob", r#"{"status":"online"}"#).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
    assert_eq!(shown(cluster.addr(1), "ann").await, "online");
    assert_eq!(shown(cluster.addr(1), "bob").await, "offline");
    cluster.servers[1].up();
    until("writes are taken again", async || put(cluster.addr(1), "bob", r#"{"status":"busy"}"#).await.status == 200)
        .await;
    cluster.all_show("bob", "busy").await;
    cluster.all_show("ann", "online").await;
}

#[tokio::test]
async fn what_a_leaf_acknowledged_is_there_after_it_and_its_server_were_killed() {
    let test = "what_a_leaf_acknowledged_is_there_after_it_and_its_server_were_killed";
    let Some(mut cluster) = Cluster::start(test).await else { return };
    for at in 0..40 {
        assert_eq!(put(cluster.addr(1), &format!("u{at}"), r#"{"status":"busy","ttl":600}"#).await.status, 200);
    }
    // The last word on a user is the one that holds.
    put(cluster.addr(1), "u0", r#"{"status":"away","ttl":600}"#).await;
    put(cluster.addr(1), "u1", r#"{"status":"offline"}"#).await;
    cluster.nodes[1].take().unwrap().kill();
    cluster.servers[1].kill();
    cluster.shows(2, "u5", "busy stale").await;
    cluster.servers[1].up();
    cluster.begin(1).await;
    for at in 2..40 {
        assert_eq!(shown(cluster.addr(1), &format!("u{at}")).await, "busy");
    }
    cluster.all_show("u0", "away").await;
    cluster.all_show("u1", "offline").await;
    cluster.all_show("u39", "busy").await;
}

#[tokio::test]
async fn a_node_begins_before_its_server_and_answers_once_it_knows() {
    let Some(binary) = binary("a_node_begins_before_its_server_and_answers_once_it_knows") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut server = NatsServer::start(&binary, dir.path(), "center", None);
    server.kill();
    let node = node(dir.path(), "center", &server).await;
    let any = token("tests", Writes::Any);
    for (method, path, body) in [
        ("GET", "/api/v2/presence/ann", ""),
        ("GET", "/api/v2/presence?users=ann", ""),
        ("POST", "/api/v2/presence/batch", r#"{"user_ids":["ann"]}"#),
        ("GET", "/api/v2/presence/stream?users=a", ""),
        ("GET", "/api/v2/presence/ws", ""),
        ("GET", "/health/readiness", ""),
        ("PUT", "/api/v2/presence/ann", r#"{"status":"online"}"#),
        ("DELETE", "/api/v2/presence/ann", ""),
        ("POST", "/api/v2/presence/heartbeat", r#"{"sessions":[{"user_id":"ann"}]}"#),
    ] {
        let answer = ask(node.addr, method, path, Some(&any), body).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{method} {path}");
        let told = r#"{"error":"the node has not read its users yet","success":false}"#;
        assert_eq!(answer.golden(), told, "{method} {path}");
    }
    assert_eq!(ask(node.addr, "GET", "/health/liveness", None, "").await.status, 200);
    let metrics = ask(node.addr, "GET", "/metrics", None, "").await.body;
    assert!(metrics.contains("presence_ready 0\n") && metrics.contains("presence_sessions 0\n"), "{metrics}");
    server.up();
    let node = node.ready().await;
    until("a write is taken", async || put(node.addr, "ann", r#"{"status":"online"}"#).await.status == 200).await;
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_hears_nobody_begins_with_what_the_center_keeps() {
    let test = "a_node_that_hears_nobody_begins_with_what_the_center_keeps";
    let Some(mut cluster) = Cluster::start(test).await else { return };
    let center = |user: &str| format!("/api/v2/presence/{user}?durability=center");
    for (user, body) in [("ann", r#"{"status":"busy","message":"a","ttl":600}"#), ("bob", r#"{"status":"online"}"#)] {
        let addr = cluster.addr(1);
        until(&format!("{user} is kept by the center"), async || {
            ask(addr, "PUT", &center(user), Some(&token(user, Writes::Own)), body).await.status == 200
        })
        .await;
    }
    let gone = ask(cluster.addr(1), "DELETE", &center("bob"), Some(&token("bob", Writes::Own)), "").await;
    assert_eq!((gone.status, &gone.json()["durability"]), (200, &"center".into()), "{gone:?}");
    // Both leaves are gone, and the center's node begins anew.
    for leaf in [1, 2] {
        cluster.nodes[leaf].take().unwrap().kill();
        cluster.servers[leaf].kill();
    }
    cluster.nodes[0].take().unwrap().kill();
    cluster.begin(0).await;
    let answer = ask(cluster.addr(0), "GET", "/api/v2/presence?users=ann,bob", None, "").await;
    let json = answer.json();
    let (ann, bob) = (&json["data"]["ann"], &json["data"]["bob"]);
    assert_eq!((&ann["status"], &ann["message"], &ann["stale"]), (&"busy".into(), &"a".into(), &true.into()));
    assert_eq!((&bob["status"], bob["last_seen"].is_string()), (&"offline".into(), true), "seen, and gone");
}
