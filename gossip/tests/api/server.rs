//! A running API with a store of its own, and what is asked of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kith_gossip::api::{Alone, Api, ApiConfig, BindError, Membership, Parts, Tokens};
use kith_gossip::store::{Durability, SchemaSource, Store, StoreConfig};
use kith_gossip::subscriptions::Subscriptions;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SCHEMA: &str = "CREATE TABLE svc (id TEXT NOT NULL PRIMARY KEY, port, note TEXT);";
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// A running API with a store of its own, stopped by [`Server::stop`].
pub(crate) struct Server {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    tasks: TaskTracker,
    token: CancellationToken,
    running: JoinHandle<()>,
    pub(crate) addr: SocketAddr,
    pub(crate) client: Client,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(ApiConfig::default(), Arc::new(Alone::default())).await
    }

    /// One that wants tokens.
    pub(crate) async fn start_with_tokens(tokens: &str) -> Self {
        let config = ApiConfig { tokens: Some(tokens.parse::<Tokens>().unwrap()), ..ApiConfig::default() };
        Self::start_with(config, Arc::new(Alone::default())).await
    }

    pub(crate) async fn start_with(mut config: ApiConfig, membership: Arc<dyn Membership>) -> Self {
        config.listen.push("127.0.0.1:0".parse().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let schema = vec![SchemaSource { name: "test".to_owned(), sql: SCHEMA.to_owned() }];
        let path = dir.path().join("kith.db");
        let store = Store::open(StoreConfig { path, schema, durability: Durability::Full }).unwrap();
        let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
        let subscriptions = Subscriptions::start(store.clone(), tasks.clone(), token.clone()).await.unwrap();
        let (node, release) = ("fra-1".parse().unwrap(), "0.1.0".to_owned());
        let parts = Parts { store: store.clone(), subscriptions, membership, node, release };
        let api = Api::bind(config, parts).await.unwrap();
        let addr = api.addrs().tcp[0];
        let running = tasks.spawn(api.run(token.clone()));
        Self { dir, store, tasks, token, running, addr, client: Client::new() }
    }

    pub(crate) async fn stop(self) -> tempfile::TempDir {
        self.token.cancel();
        self.running.await.unwrap();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await;
        self.dir
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.post_raw(path, body.to_string()).await
    }

    pub(crate) async fn post_raw(&self, path: &str, body: String) -> Response {
        self.request(path, body).send().await.unwrap()
    }

    /// A POST that is not sent yet.
    pub(crate) fn request(&self, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.client.post(self.url(path)).header("content-type", "application/json").body(body)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) {
        let response = self.post("/v1/transactions", &json!([sql])).await;
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    }
}

/// Status and body, with times and this store's id left out.
pub(crate) async fn shown(response: Response) -> String {
    let status = response.status().as_u16();
    format!("{status} {}", steady(&response.text().await.unwrap()))
}

pub(crate) fn steady(text: &str) -> String {
    let mut rest = text;
    let mut out = String::new();
    while let Some(at) = ["\"time\":", "\"actor_id\":"].iter().filter_map(|k| Some(rest.find(k)? + k.len())).min() {
        out.push_str(&rest[..at]);
        rest = rest[at..].trim_start_matches(|c: char| !matches!(c, ',' | '}'));
        out.push('~');
    }
    out + rest
}

/// Lines of a stream.
pub(crate) struct Lines {
    pieces: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) fn of(response: Response) -> Self {
        Self { pieces: Box::pin(response.bytes_stream()), buffer: Vec::new() }
    }

    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(steady(std::str::from_utf8(&line[..end]).unwrap()));
            }
            let piece = tokio::time::timeout(BOUND, self.pieces.next()).await;
            match piece.expect("the stream said nothing for 20 s") {
                Some(piece) => self.buffer.extend_from_slice(&piece.unwrap()),
                None => return None,
            }
        }
    }

    pub(crate) async fn take(&mut self, count: usize) -> String {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.next().await.unwrap_or_else(|| panic!("the stream ended after {lines:?}")));
        }
        lines.join("\n")
    }
}

/// Binds an API over a store of its own, and gives up the store.
pub(crate) async fn bind(config: ApiConfig) -> Result<PathBuf, BindError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kith.db");
    let store = Store::open(StoreConfig { path, schema: Vec::new(), durability: Durability::Full }).unwrap();
    let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
    let subscriptions = Subscriptions::start(store.clone(), tasks.clone(), token.clone()).await.unwrap();
    let (membership, node) = (Arc::new(Alone::default()), "fra-1".parse().unwrap());
    let parts = Parts { store: store.clone(), subscriptions, membership, node, release: String::new() };
    let bound = Api::bind(config, parts).await.map(|api| api.addrs().unix.clone().unwrap_or_default());
    token.cancel();
    tasks.close();
    tasks.wait().await;
    store.close().await;
    bound
}
