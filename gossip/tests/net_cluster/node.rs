//! A whole node on loopback, and clusters of them.

use std::borrow::Borrow;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use kith_gossip::api::{ApiConfig, MemberState};
use kith_gossip::store::{Durability, SchemaSource};
use kith_gossip::{Config, DevAuthority, Gossip, RunError, StatusHandle};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// For what takes a moment on an idle machine.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    pub(crate) api: SocketAddr,
    pub(crate) gossip: SocketAddr,
    pub(crate) status: StatusHandle,
    token: CancellationToken,
    pub(crate) tasks: JoinSet<Result<(), RunError>>,
    pub(crate) client: reqwest::Client,
}

pub(crate) fn config(authority: &DevAuthority, name: &str, dir: &Path, seeds: &[SocketAddr]) -> Config {
    let node: kith_gossip_proto::NodeId = name.parse().unwrap();
    Config {
        identity: authority.issue(&node).unwrap(),
        node,
        region: "ams".into(),
        dir: dir.to_owned(),
        schema: vec![SchemaSource::builtin()],
        durability: Durability::Normal,
        remember: kith_gossip::replication::WINDOW,
        cluster_id: "test".into(),
        enrolment: None,
        listen: LOOPBACK,
        advertise: None,
        seeds: seeds.iter().map(ToString::to_string).collect(),
        api: ApiConfig { listen: vec![LOOPBACK], unix: None, tokens: None },
        boot_id: format!("boot-of-{name}"),
    }
}

impl Node {
    pub(crate) async fn start(config: Config) -> Self {
        let gossip = Gossip::build(config).await.unwrap();
        let (addrs, status, token) = (gossip.addrs(), gossip.status(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(gossip.run(token.clone()));
        let client = reqwest::Client::new();
        Self { api: addrs.api[0], gossip: addrs.gossip, status, token, tasks, client }
    }

    /// Asks for what may be refused, or does not end.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> reqwest::Response {
        let request = self.client.post(format!("http://{}{path}", self.api)).body(body.to_string());
        request.header("content-type", "application/json").send().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> String {
        let response = self.ask(path, body).await;
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{status}: {text}");
        text
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        self.client.get(format!("http://{}{path}", self.api)).send().await.unwrap().text().await.unwrap()
    }

    pub(crate) async fn write(&self, id: &str, ip: &str) {
        let sql = "INSERT INTO containers (id, ip) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET ip = excluded.ip";
        self.post("/v1/transactions", &json!([[sql, [id, ip]]])).await;
    }

    /// The address of a container, as this node answers it.
    pub(crate) async fn read(&self, id: &str) -> Option<String> {
        let lines = self.post("/v1/queries", &json!(["SELECT ip FROM containers WHERE id = ?", [id]])).await;
        let row = lines.lines().nth(1).map(|line| serde_json::from_str::<Value>(line).unwrap())?;
        row["row"][1][0].as_str().map(ToOwned::to_owned)
    }

    pub(crate) async fn reads(&self, id: &str, ip: &str) {
        eventually(|| async { (self.read(id).await.as_deref() == Some(ip)).then_some(()).ok_or(self.read(id).await) })
            .await;
    }

    pub(crate) async fn sees(&self, wanted: &[(&str, MemberState)]) {
        eventually(|| async {
            let members: Vec<_> = self.status.get().members.iter().map(|m| (m.server.to_string(), m.state)).collect();
            let seen = members.iter().map(|(name, state)| (name.as_str(), *state)).collect::<Vec<_>>();
            (seen == wanted).then_some(()).ok_or(members)
        })
        .await;
    }

    /// Waits until the node ends by itself.
    pub(crate) async fn ended(mut self) -> RunError {
        timeout(BOUND, self.tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap_err()
    }

    /// It gives its parts two seconds and its store some more; on a busy machine all of it takes what it takes.
    pub(crate) async fn stop(mut self) {
        self.token.cancel();
        let began = Instant::now();
        let stopped = timeout(BOUND, self.tasks.join_next()).await;
        let status = self.status.get();
        let stopped = stopped.unwrap_or_else(|_| panic!("{} goes on {BOUND:?} after it was stopped", status.node));
        stopped.unwrap().unwrap().unwrap();
        eprintln!("{} stopped within {:?}", status.node, began.elapsed());
    }
}

/// Tries until it succeeds, and says what was seen last if it does not.
pub(crate) async fn eventually<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(attempt: impl Fn() -> F) -> T {
    let began = Instant::now();
    let mut period = tokio::time::interval(Duration::from_millis(5));
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(seen) => assert!(began.elapsed() < BOUND, "not within {BOUND:?}, last seen: {seen:?}"),
        }
        period.tick().await;
    }
}

pub(crate) async fn cluster(authority: &DevAuthority, dirs: &[TempDir]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for (number, dir) in (1..).zip(dirs) {
        let seeds: Vec<_> = nodes.iter().map(|node| node.gossip).collect();
        nodes.push(Node::start(config(authority, &format!("node-{number}"), dir.path(), &seeds)).await);
    }
    for node in &nodes {
        eventually(|| async {
            let status = node.status.get();
            let linked = status.replication.peers.values().filter(|peer| {
                peer.pushing == kith_gossip::replication::Open::Yes
                    && peer.receiving == kith_gossip::replication::Open::Yes
            });
            (linked.count() == dirs.len() - 1).then_some(()).ok_or(status)
        })
        .await;
    }
    nodes
}

/// The digest of all, once it is one.
pub(crate) async fn one_digest(nodes: &[impl Borrow<Node>]) -> String {
    eventually(|| async {
        let digests = futures_util::future::join_all(nodes.iter().map(|node| node.borrow().get("/v1/digest"))).await;
        if digests.iter().all(|digest| *digest == digests[0]) { Ok(digests[0].clone()) } else { Err(digests) }
    })
    .await
}

pub(crate) fn dirs<const N: usize>() -> [TempDir; N] {
    std::array::from_fn(|_| tempfile::tempdir().unwrap())
}
