//! A small cluster in one process, whose wall clock a test turns.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use kith_gossip::api::ApiConfig;
use kith_gossip::identity::{Clock, Enrolment, Fingerprint, Grant, Identity, Invites, JoinError, NewKey, Token, join};
use kith_gossip::store::{Durability, SchemaSource};
use kith_gossip::{Config, DevAuthority, Gossip, RunError};
use kith_gossip_proto::NodeId;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// The wall clock of a whole cluster, that a test puts forward.
#[derive(Clone, Default)]
pub(crate) struct Wall(Arc<AtomicU64>);

impl Wall {
    pub(crate) fn clock(&self) -> Clock {
        let ahead = Arc::clone(&self.0);
        Clock::turned(move || SystemTime::now() + Duration::from_secs(ahead.load(Ordering::Relaxed)))
    }

    pub(crate) fn forward(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

/// A cluster whose authority's key is on the node `one`.
pub(crate) struct Cluster {
    pub(crate) authority: DevAuthority,
    pub(crate) wall: Wall,
    pub(crate) dir: TempDir,
}

pub(crate) struct Node {
    pub(crate) api: SocketAddr,
    pub(crate) gossip: SocketAddr,
    token: CancellationToken,
    tasks: JoinSet<Result<(), RunError>>,
    client: reqwest::Client,
}

pub(crate) fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

impl Cluster {
    pub(crate) fn found() -> Self {
        let wall = Wall::default();
        let authority = DevAuthority::by("test", wall.clock()).unwrap();
        Self { authority, wall, dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn invites(&self) -> Invites {
        Invites::new(self.dir.path().join("invites"))
    }

    pub(crate) async fn founder(&self) -> Node {
        self.founder_as(self.authority.issue(&id("one")).unwrap()).await
    }

    pub(crate) async fn founder_as(&self, identity: Identity) -> Node {
        let enrolment = Enrolment {
            authority: self.authority.authority(),
            invites: self.invites(),
            cluster: "test".into(),
            subnets: "10.210.0.0/16".parse().unwrap(),
        };
        Node::start(Config { enrolment: Some(enrolment), ..config(identity, self.dir.path(), &[]) }).await
    }

    pub(crate) async fn node(&self, name: &str, seeds: &[SocketAddr]) -> Node {
        Node::start(config(self.authority.issue(&id(name)).unwrap(), self.dir.path(), seeds)).await
    }

    /// A token for this name, at this address.
    pub(crate) fn invite(&self, name: &str, address: SocketAddr) -> Token {
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

    pub(crate) async fn join(&self, token: &Token) -> Result<(Grant, NewKey), JoinError> {
        let key = NewKey::generate().unwrap();
        let grant = join(token, &key, "host", &self.wall.clock()).await?;
        Ok((grant, key))
    }
}

pub(crate) fn config(identity: Identity, dir: &Path, seeds: &[SocketAddr]) -> Config {
    let node = identity.node().clone();
    Config {
        dir: dir.join(node.as_str()),
        boot_id: format!("boot-of-{node}"),
        node,
        identity,
        region: "ams".into(),
        schema: vec![SchemaSource::builtin()],
        durability: Durability::Normal,
        remember: kith_gossip::replication::WINDOW,
        cluster_id: "test".into(),
        enrolment: None,
        listen: LOOPBACK,
        advertise: None,
        seeds: seeds.iter().map(ToString::to_string).collect(),
        api: ApiConfig { listen: vec![LOOPBACK], ..ApiConfig::default() },
    }
}

impl Node {
    pub(crate) async fn start(config: Config) -> Self {
        let gossip = Gossip::build(config).await.unwrap();
        let (addrs, token) = (gossip.addrs(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(gossip.run(token.clone()));
        Self { api: addrs.api[0], gossip: addrs.gossip, token, tasks, client: reqwest::Client::new() }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> String {
        let request = self.client.post(format!("http://{}{path}", self.api)).body(body.to_string());
        let response = request.header("content-type", "application/json").send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{status}: {text}");
        text
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        self.client.get(format!("http://{}{path}", self.api)).send().await.unwrap().text().await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.post("/v1/transactions", &json!([sql])).await;
    }

    pub(crate) async fn first(&self, sql: &str) -> Value {
        let lines = self.post("/v1/queries", &json!(sql)).await;
        let row = lines.lines().nth(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
        row.map_or(Value::Null, |row| row["row"][1][0].clone())
    }

    /// Waits until the query's first cell is this.
    pub(crate) async fn says(&self, sql: &str, wanted: &Value) {
        eventually(async || {
            let seen = self.first(sql).await;
            if seen == *wanted { Ok(()) } else { Err(format!("{sql}: {seen}")) }
        })
        .await;
    }

    pub(crate) async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/v1/status").await).unwrap()
    }

    /// Waits until there is an alarm of this name, and returns its text.
    pub(crate) async fn alarm(&self, name: &str) -> String {
        eventually(async || {
            let alarms = self.status().await["alarms"].clone();
            let text = alarms.as_array().unwrap().iter().find(|alarm| alarm["name"] == name);
            text.map(|alarm| alarm["text"].as_str().unwrap().to_owned()).ok_or(alarms)
        })
        .await
    }

    pub(crate) async fn counts(&self, metric: &str) -> u64 {
        let text = self.get("/metrics").await;
        let line = text.lines().find(|line| line.starts_with(&format!("kith_{metric} ")));
        let line = line.unwrap_or_else(|| panic!("no {metric} in {text}"));
        line.split(' ').next_back().unwrap().parse().unwrap()
    }

    pub(crate) async fn stop(mut self) {
        self.token.cancel();
        timeout(Duration::from_secs(5), self.tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    }
}

pub(crate) async fn eventually<T, E: std::fmt::Debug>(attempt: impl AsyncFn() -> Result<T, E>) -> T {
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
