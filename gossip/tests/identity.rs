//! Who may belong: joining, renewing, removing, with real handshakes and a clock that is turned by hand.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use kith_gossip::api::ApiConfig;
use kith_gossip::identity::{Clock, Enrolment, Fingerprint, Grant, Identity, Invites, JoinError, NewKey, Token, join};
use kith_gossip::store::{Durability, SchemaSource};
use kith_gossip::{Config, DevAuthority, Gossip, RunError};
use kith_gossip_proto::NodeId;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const DAY: Duration = Duration::from_secs(86_400);

/// The wall clock of a whole cluster, that a test puts forward.
#[derive(Clone, Default)]
struct Wall(Arc<AtomicU64>);

impl Wall {
    fn clock(&self) -> Clock {
        let ahead = Arc::clone(&self.0);
        Clock::turned(move || SystemTime::now() + Duration::from_secs(ahead.load(Ordering::Relaxed)))
    }

    fn forward(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

/// A cluster whose authority's key is on the node `one`.
struct Cluster {
    authority: DevAuthority,
    wall: Wall,
    dir: TempDir,
}

struct Node {
    api: SocketAddr,
    gossip: SocketAddr,
    token: CancellationToken,
    tasks: JoinSet<Result<(), RunError>>,
    client: reqwest::Client,
}

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

impl Cluster {
    fn found() -> Self {
        let wall = Wall::default();
        let authority = DevAuthority::by("test", wall.clock()).unwrap();
        Self { authority, wall, dir: tempfile::tempdir().unwrap() }
    }

    fn invites(&self) -> Invites {
        Invites::new(self.dir.path().join("invites"))
    }

    async fn founder(&self) -> Node {
        self.founder_as(self.authority.issue(&id("one")).unwrap()).await
    }

    async fn founder_as(&self, identity: Identity) -> Node {
        let enrolment = Enrolment {
            authority: self.authority.authority(),
            invites: self.invites(),
            cluster: "test".into(),
            subnets: "10.210.0.0/16".parse().unwrap(),
        };
        Node::start(Config { enrolment: Some(enrolment), ..config(identity, self.dir.path(), &[]) }).await
    }

    async fn node(&self, name: &str, seeds: &[SocketAddr]) -> Node {
        Node::start(config(self.authority.issue(&id(name)).unwrap(), self.dir.path(), seeds)).await
    }

    /// A token for this name, at this address.
    fn invite(&self, name: &str, address: SocketAddr) -> Token {
        let invite = self.invites().issue(&id(name), &Default::default(), self.wall.clock().now()).unwrap();
        Token {
            node: id(name),
            number: invite.number,
            cluster: "test".into(),
            addresses: vec![address.to_string()],
            authority: Fingerprint::of(self.authority.authority().certificate()),
            secret: invite.secret,
        }
    }

    async fn join(&self, token: &Token) -> Result<(Grant, NewKey), JoinError> {
        let key = NewKey::generate().unwrap();
        let grant = join(token, &key, "host", &self.wall.clock()).await?;
        Ok((grant, key))
    }
}

fn config(identity: Identity, dir: &Path, seeds: &[SocketAddr]) -> Config {
    let node = identity.node().clone();
    Config {
        dir: dir.join(node.as_str()),
        boot_id: format!("boot-of-{node}"),
        node,
        identity,
        region: "ams".into(),
        schema: vec![SchemaSource::builtin()],
        durability: Durability::Normal,
        cluster_id: "test".into(),
        enrolment: None,
        listen: LOOPBACK,
        advertise: None,
        seeds: seeds.iter().map(ToString::to_string).collect(),
        api: ApiConfig { listen: vec![LOOPBACK], ..ApiConfig::default() },
    }
}

impl Node {
    async fn start(config: Config) -> Self {
        let gossip = Gossip::build(config).await.unwrap();
        let (addrs, token) = (gossip.addrs(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(gossip.run(token.clone()));
        Self { api: addrs.api[0], gossip: addrs.gossip, token, tasks, client: reqwest::Client::new() }
    }

    async fn post(&self, path: &str, body: &Value) -> String {
        let request = self.client.post(format!("http://{}{path}", self.api)).body(body.to_string());
        let response = request.header("content-type", "application/json").send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{status}: {text}");
        text
    }

    async fn get(&self, path: &str) -> String {
        self.client.get(format!("http://{}{path}", self.api)).send().await.unwrap().text().await.unwrap()
    }

    async fn execute(&self, sql: &str) {
        self.post("/v1/transactions", &json!([sql])).await;
    }

    async fn first(&self, sql: &str) -> Value {
        let lines = self.post("/v1/queries", &json!(sql)).await;
        let row = lines.lines().nth(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
        row.map_or(Value::Null, |row| row["row"][1][0].clone())
    }

    /// Waits until the query's first cell is this.
    async fn says(&self, sql: &str, wanted: &Value) {
        eventually(async || {
            let seen = self.first(sql).await;
            if seen == *wanted { Ok(()) } else { Err(format!("{sql}: {seen}")) }
        })
        .await;
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/v1/status").await).unwrap()
    }

    /// Waits until there is an alarm of this name, and returns its text.
    async fn alarm(&self, name: &str) -> String {
        eventually(async || {
            let alarms = self.status().await["alarms"].clone();
            let text = alarms.as_array().unwrap().iter().find(|alarm| alarm["name"] == name);
            text.map(|alarm| alarm["text"].as_str().unwrap().to_owned()).ok_or(alarms)
        })
        .await
    }

    async fn counts(&self, metric: &str) -> u64 {
        let text = self.get("/metrics").await;
        let line = text.lines().find(|line| line.starts_with(&format!("kith_{metric} ")));
        let line = line.unwrap_or_else(|| panic!("no {metric} in {text}"));
        line.split(' ').next_back().unwrap().parse().unwrap()
    }

    async fn stop(mut self) {
        self.token.cancel();
        timeout(Duration::from_secs(5), self.tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    }
}

async fn eventually<T, E: std::fmt::Debug>(attempt: impl AsyncFn() -> Result<T, E>) -> T {
    let began = Instant::now();
    let mut period = tokio::time::interval(Duration::from_millis(20));
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(seen) if began.elapsed() > Duration::from_secs(20) => panic!("not within 20 s: {seen:?}"),
            Err(_) => drop(period.tick().await),
        }
    }
}

#[tokio::test]
async fn a_token_brings_a_node_in_with_its_number_and_nobody_sees_its_key() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    one.says("SELECT subnet FROM servers WHERE id = 'one'", &json!("10.210.1.0/24")).await;
    let token = cluster.invite("two", one.gossip);
    let (grant, key) = cluster.join(&token).await.unwrap();
    assert_eq!((grant.cluster.as_str(), grant.cidr.as_str()), ("test", "10.210.0.0/16"));
    assert_eq!(grant.seeds, [one.gossip.to_string()]);
    one.says("SELECT hostname FROM servers WHERE id = 'two'", &json!("host")).await;

    let dir = cluster.dir.path();
    let files = ["ca.pem", "node.pem", "node.key"].map(|name| dir.join(name));
    for (file, text) in files.iter().zip([&grant.authority, &grant.certificate, &key.pem()]) {
        kith_gossip::identity::write_new(file, text.as_bytes()).unwrap();
    }
    let identity = Identity::from_files(&files[0], &files[1], &files[2]).unwrap();
    let two = Node::start(config(identity, dir, &[one.gossip])).await;
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('a', 'b')").await;
    two.says("SELECT value FROM cluster_metadata WHERE key = 'a'", &json!("b")).await;
    eventually(async || {
        let peer = one.status().await["replication"]["peers"]["two"].clone();
        if peer == json!({ "behind": 0, "ahead": 0, "queued_bytes": 0 }) { Ok(()) } else { Err(peer) }
    })
    .await;
    assert_eq!((one.counts("gossip_joins_total").await, one.counts("gossip_joins_refused_total").await), (1, 0));
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_token_that_is_used_late_or_by_another_name_is_refused_on_both_sides() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    let refused = |token: Token| {
        let cluster = &cluster;
        async move {
            match cluster.join(&token).await.map(|_| ()) {
                Err(JoinError::Refused(reason)) => reason,
                other => panic!("{other:?}"),
            }
        }
    };
    let token = cluster.invite("two", one.gossip);
    let other = Token { node: id("three"), ..token.clone() };
    assert!(refused(other).await.contains("is for two"));
    cluster.join(&token).await.unwrap();
    assert!(refused(token).await.contains("used already"));
    let late = cluster.invite("late", one.gossip);
    cluster.wall.forward(Duration::from_secs(16 * 60));
    assert!(refused(late).await.contains("expired"));
    let gone = cluster.invite("gone", one.gossip);
    one.execute("INSERT INTO servers (id, removed_at) VALUES ('gone', 1)").await;
    assert!(refused(gone).await.contains("kith server remove gone --undo"));
    assert_eq!(one.counts("gossip_joins_refused_total").await, 4);
    // Ten attempts a minute: six are left.
    let token = cluster.invite("four", one.gossip);
    let wrong = Token { node: id("five"), ..token.clone() };
    for _ in 0..5 {
        assert!(refused(wrong.clone()).await.contains("is for four"));
    }
    assert!(refused(wrong).await.contains("too many attempts"));
    one.stop().await;
}

#[tokio::test]
async fn a_newcomer_believes_no_other_authority_and_no_clock_far_off() {
    let (cluster, other) = (Cluster::found(), Cluster::found());
    let (one, two) = (cluster.founder().await, cluster.node("two", &[]).await);
    // The right token at somebody else's door: what it holds is not shown there.
    let stranger = other.founder().await;
    let token = cluster.invite("new", stranger.gossip);
    let error = cluster.join(&token).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, JoinError::OtherAuthority { .. }), "{error}");
    // A node of ours that has not the authority's key, and nobody at all.
    let nowhere = std::net::UdpSocket::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let token = Token { addresses: vec![two.gossip.to_string()], ..token };
    let error = cluster.join(&token).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("the authority's key is not there"), "{error}");
    // The next address is tried; a clock that is behind has the token left for later.
    let token = Token { addresses: vec![nowhere.to_string(), one.gossip.to_string()], ..token };
    let key = NewKey::generate().unwrap();
    let slow = Clock::turned(|| SystemTime::now() - Duration::from_secs(200));
    let wall = cluster.wall.clone();
    wall.forward(Duration::from_secs(200));
    let error = join(&token, &key, "", &slow).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("s behind ours"), "{error}");
    let ancient = Clock::turned(|| SystemTime::now() - 30 * DAY);
    let error = join(&token, &key, "", &ancient).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, JoinError::Clock { .. }), "{error}");
    cluster.join(&token).await.unwrap();
    for node in [one, two, stranger] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_removed_node_is_shut_out_told_why_and_can_come_back() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    let two = cluster.node("two", &[one.gossip]).await;
    let three = cluster.node("three", &[one.gossip]).await;
    two.execute("INSERT INTO cluster_metadata (key, value) VALUES ('before', '1')").await;
    for node in [&one, &three] {
        node.says("SELECT value FROM cluster_metadata WHERE key = 'before'", &json!("1")).await;
    }
    one.execute("INSERT INTO servers (id, removed_at) VALUES ('two', 1) ON CONFLICT DO UPDATE SET removed_at = 1")
        .await;
    assert!(two.alarm("removed").await.contains("removed from the cluster"));
    for node in [&one, &three] {
        eventually(async || {
            let refused = node.counts("gossip_refusals_removed_total").await;
            if refused > 0 { Ok(()) } else { Err(refused) }
        })
        .await;
    }
    // What it writes stays with it, for as long as it is removed; to the others goes what they write.
    two.execute("INSERT INTO cluster_metadata (key, value) VALUES ('during', '1')").await;
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('among us', '1')").await;
    three.says("SELECT value FROM cluster_metadata WHERE key = 'among us'", &json!("1")).await;
    assert_eq!(two.first("SELECT value FROM cluster_metadata WHERE key = 'among us'").await, Value::Null);
    for node in [&one, &three] {
        assert_eq!(node.first("SELECT value FROM cluster_metadata WHERE key = 'during'").await, Value::Null);
    }
    one.execute("UPDATE servers SET removed_at = NULL WHERE id = 'two'").await;
    for node in [&one, &three] {
        node.says("SELECT value FROM cluster_metadata WHERE key = 'during'", &json!("1")).await;
    }
    two.says("SELECT removed_at FROM servers WHERE id = 'two'", &Value::Null).await;
    for node in [one, two, three] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_before_its_end_without_a_new_connection() {
    let cluster = Cluster::found();
    let identity = cluster.authority.issue(&id("two")).unwrap();
    cluster.wall.forward(61 * DAY);
    let one = cluster.founder().await;
    let two = Node::start(config(identity.clone(), cluster.dir.path(), &[one.gossip])).await;
    eventually(async || {
        let days = two.status().await["certificate"]["days_left"].as_u64();
        if days == Some(89) { Ok(()) } else { Err(days) }
    })
    .await;
    assert_eq!(two.status().await["alarms"], json!([]));
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('n', '1')").await;
    two.says("SELECT value FROM cluster_metadata WHERE key = 'n'", &json!("1")).await;
    assert_eq!(two.counts("gossip_connections_total").await, 1);
    assert_eq!((two.counts("gossip_renewals_total").await, one.counts("gossip_renewals_given_total").await), (1, 1));
    // The renewed one is shown from here on: by day 100 the first would be over.
    one.stop().await;
    two.stop().await;
    cluster.wall.forward(39 * DAY);
    let one = cluster.founder().await;
    let two = Node::start(config(identity, cluster.dir.path(), &[one.gossip])).await;
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('m', '1')").await;
    two.says("SELECT value FROM cluster_metadata WHERE key = 'm'", &json!("1")).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_renewed_is_alarmed_until_it_can() {
    let cluster = Cluster::found();
    let [first, identity] = ["one", "two"].map(|name| cluster.authority.issue(&id(name)).unwrap());
    let mut days = 0;
    for (day, said) in [(61, "ends in 28 days"), (84, "ends in 5 days"), (89, "less than a day"), (91, "is over")] {
        cluster.wall.forward((day - days) * DAY);
        days = day;
        let two = Node::start(config(identity.clone(), cluster.dir.path(), &[])).await;
        let text = two.alarm("certificate").await;
        assert!(text.contains(said), "after {day} days: {text}");
        assert!(two.counts("gossip_renewals_failed_total").await > 0);
        two.stop().await;
    }
    // The same age, and with the authority's key: that node renews itself, whatever the time away.
    let one = cluster.founder_as(first).await;
    eventually(async || {
        let days = one.status().await["certificate"]["days_left"].as_u64();
        if days == Some(89) { Ok(()) } else { Err(days) }
    })
    .await;
    assert_eq!(one.status().await["alarms"], json!([]));
    one.stop().await;
}

/// Passes datagrams between one dialler and a node, and keeps what the dialler sent.
async fn recorder(target: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>, JoinSet<()>) {
    let (front, back) = (UdpSocket::bind(LOOPBACK).await.unwrap(), UdpSocket::bind(LOOPBACK).await.unwrap());
    back.connect(target).await.unwrap();
    let (address, kept) = (front.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let (record, mut task) = (Arc::clone(&kept), JoinSet::new());
    task.spawn(async move {
        let (mut dialler, mut there, mut back_buffer) = (None, [0; 2_048], [0; 2_048]);
        loop {
            // Cancel-safe: a datagram that is not taken stays in its socket.
            tokio::select! {
                Ok((size, from)) = front.recv_from(&mut there) => {
                    dialler = Some(from);
                    record.lock().unwrap().push(there[..size].to_vec());
                    back.send(&there[..size]).await.unwrap();
                }
                Ok(size) = back.recv(&mut back_buffer) => {
                    if let Some(dialler) = dialler {
                        front.send_to(&back_buffer[..size], dialler).await.unwrap();
                    }
                }
            }
        }
    });
    (address, kept, task)
}

#[tokio::test]
async fn a_handshake_that_is_sent_again_lets_nobody_in() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    let (address, kept, _passing) = recorder(one.gossip).await;
    let two = cluster.node("two", &[address]).await;
    eventually(async || match one.counts("gossip_connections_total").await {
        0 => Err("nobody came"),
        _ => Ok(()),
    })
    .await;
    two.stop().await;
    let before = one.counts("gossip_connections_total").await;
    let recorded = kept.lock().unwrap().clone();
    assert!(recorded.len() >= 3 && recorded[0].len() >= 1_200, "no handshake was recorded");
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    // Until it answers, as it would anybody who begins a handshake: once it has forgotten the first one.
    eventually(async || {
        for datagram in &recorded {
            socket.send_to(datagram, one.gossip).await.unwrap();
        }
        timeout(Duration::from_millis(100), socket.recv(&mut [0; 2_048])).await
    })
    .await
    .unwrap();
    let three = cluster.node("three", &[one.gossip]).await;
    eventually(async || match one.counts("gossip_connections_total").await {
        seen if seen > before => Ok(()),
        seen => Err(seen),
    })
    .await;
    assert_eq!(one.counts("gossip_connections_total").await, before + 1);
    one.stop().await;
    three.stop().await;
}

#[tokio::test]
async fn the_end_of_a_certificate_cuts_nothing_and_lets_nobody_connect_anew() {
    let cluster = Cluster::found();
    let identity = cluster.authority.issue(&id("two")).unwrap();
    let one = cluster.founder().await;
    let two = Node::start(config(identity.clone(), cluster.dir.path(), &[one.gossip])).await;
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('n', '1')").await;
    two.says("SELECT value FROM cluster_metadata WHERE key = 'n'", &json!("1")).await;
    cluster.wall.forward(91 * DAY);
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('m', '1')").await;
    two.says("SELECT value FROM cluster_metadata WHERE key = 'm'", &json!("1")).await;
    assert_eq!(two.counts("gossip_connections_total").await, 1);
    // One that has a certificate of today does not believe one that is over, and says so; neither way round.
    let three = cluster.node("three", &[two.gossip]).await;
    eventually(async || {
        let refused = three.counts("gossip_refusals_not_in_force_total").await;
        if refused > 0 { Ok(()) } else { Err(refused) }
    })
    .await;
    two.stop().await;
    let two = Node::start(config(identity, cluster.dir.path(), &[three.gossip])).await;
    assert!(two.alarm("certificate").await.contains("is over"));
    assert_eq!(
        (two.counts("alarms{alarm=\"certificate\"}").await, two.counts("certificate_left_seconds").await),
        (1, 0)
    );
    eventually(async || {
        let refused = two.counts("gossip_refusals_not_in_force_total").await;
        if refused > 0 { Ok(()) } else { Err(refused) }
    })
    .await;
    for node in [one, two, three] {
        node.stop().await;
    }
}
