//! The HTTP API over real sockets, as its clients meet it: bodies, status codes, streams, limits, shutdown.
#![allow(clippy::unwrap_used, reason = "the lint knows test functions, not what they call")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kith_gossip::api::{Alone, Api, ApiConfig, BindError, Member, MemberState, Membership, Parts, ReplicationFigures};
use kith_gossip::store::{Durability, SchemaSource, Store, StoreConfig};
use kith_gossip::subscriptions::Subscriptions;
use kith_gossip_proto::{NodeId, SiteId};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SCHEMA: &str = "CREATE TABLE svc (id TEXT NOT NULL PRIMARY KEY, port, note TEXT);";
const BOUND: Duration = Duration::from_secs(20);

/// A running API with a store of its own, stopped by [`Server::stop`].
struct Server {
    dir: tempfile::TempDir,
    store: Store,
    tasks: TaskTracker,
    token: CancellationToken,
    running: JoinHandle<()>,
    addr: SocketAddr,
    client: Client,
}

impl Server {
    async fn start() -> Self {
        Self::start_with(ApiConfig::default(), Arc::new(Alone::default())).await
    }

    async fn start_with(mut config: ApiConfig, membership: Arc<dyn Membership>) -> Self {
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

    async fn stop(self) -> tempfile::TempDir {
        self.token.cancel();
        self.running.await.unwrap();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await;
        self.dir
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        self.post_raw(path, body.to_string()).await
    }

    async fn post_raw(&self, path: &str, body: String) -> Response {
        let request = self.client.post(self.url(path)).header("content-type", "application/json").body(body);
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    async fn execute(&self, sql: &str) {
        let response = self.post("/v1/transactions", &json!([sql])).await;
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    }
}

/// Status and body, with times and this store's id left out.
async fn shown(response: Response) -> String {
    let status = response.status().as_u16();
    format!("{status} {}", steady(&response.text().await.unwrap()))
}

fn steady(text: &str) -> String {
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
struct Lines {
    pieces: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    buffer: Vec<u8>,
}

impl Lines {
    fn of(response: Response) -> Self {
        Self { pieces: Box::pin(response.bytes_stream()), buffer: Vec::new() }
    }

    async fn next(&mut self) -> Option<String> {
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

    async fn take(&mut self, count: usize) -> String {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.next().await.unwrap_or_else(|| panic!("the stream ended after {lines:?}")));
        }
        lines.join("\n")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_answered_in_its_envelope() {
    let server = Server::start().await;
    let statements = json!([
        ["INSERT INTO svc (id, port) VALUES (?, ?)", ["a", 80]],
        {"query": "INSERT INTO svc (id, port) VALUES (:id, :port)", "named_params": {":id": "b", ":port": 81}},
        "UPDATE svc SET port = 82",
        ["DELETE FROM svc WHERE id = :id", {":id": "nobody"}],
    ]);
    let response = server.post("/v1/transactions", &statements).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    let actor = body["actor_id"].as_str().unwrap();
    assert!(actor.len() == 32 && actor.bytes().all(|b| b.is_ascii_hexdigit()), "{actor}");
    assert_eq!(actor, server.store.site().to_string());
    assert!(body["time"].as_f64().unwrap() > 0.0 && body["results"][0]["time"].is_f64());
    insta::assert_snapshot!(steady(&body.to_string()), @r#"{"actor_id":~,"results":[{"rows_affected":1,"time":~},{"rows_affected":1,"time":~},{"rows_affected":2,"time":~},{"rows_affected":0,"time":~}],"time":~,"version":1}"#);

    let none = server.post("/v1/transactions", &json!(["UPDATE svc SET port = port WHERE id = 'nobody'"])).await;
    insta::assert_snapshot!(shown(none).await, @r#"200 {"results":[{"rows_affected":0,"time":~}],"time":~,"version":null,"actor_id":~}"#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_comes_back_as_it_went() {
    let server = Server::start().await;
    let sent = json!([null, true, -9007199254740993i64, 1.0, 0.1, "tä\"\n", [0, 255], [], [256], {"b": 1}]);
    let columns: Vec<_> = (0..10).map(|n| format!("?{}", n + 1)).collect();
    let query = json!([format!("SELECT {}", columns.join(",")), sent]);
    let text = server.post("/v1/queries", &query).await.text().await.unwrap();
    assert_eq!(
        text.lines().nth(1).unwrap(),
        r#"{"row":[1,[null,1,-9007199254740993,1.0,0.1,"tä\"\n",[0,255],[],"[256]","{\"b\":1}"]]}"#
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_columns_rows_and_an_end() {
    let server = Server::start().await;
    server.execute("INSERT INTO svc (id, port) VALUES ('a', 80), ('b', 81.5)").await;
    let response = server.post("/v1/queries", &json!(["SELECT id, port FROM svc WHERE port > ?", [1]])).await;
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    insta::assert_snapshot!(shown(response).await, @r#"
    200 {"columns":["id","port"]}
    {"row":[1,["a",80]]}
    {"row":[2,["b",81.5]]}
    {"eoq":{"time":~}}
    "#);
    let none = server.post("/v1/queries", &json!("SELECT id FROM svc WHERE 0")).await;
    insta::assert_snapshot!(shown(none).await, @r#"
    200 {"columns":["id"]}
    {"eoq":{"time":~}}
    "#);
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n";
    let text = server.post("/v1/queries", &json!(many)).await.text().await.unwrap();
    assert_eq!(text.lines().count(), 20_002);
    assert_eq!(text.lines().nth(20_000), Some(r#"{"row":[20000,[20000]]}"#));
    let late = "SELECT abs(id) FROM (SELECT 1 AS id UNION ALL SELECT -9223372036854775807 - 1)";
    insta::assert_snapshot!(shown(server.post("/v1/queries", &json!(late)).await).await, @r#"
    200 {"columns":["abs(id)"]}
    {"row":[1,[1]]}
    {"error":"integer overflow"}
    "#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_its_status_and_one_line() {
    let server = Server::start().await;
    let mut answers = String::new();
    let posts = [
        ("/v1/transactions", "[["),
        ("/v1/transactions", "{\"query\": 1}"),
        ("/v1/transactions", "[]"),
        ("/v1/transactions", "[\"INSERT INTO nowhere VALUES (1)\"]"),
        ("/v1/transactions", "[\"UPDATE svc SET port = 1; DELETE FROM svc\"]"),
        ("/v1/transactions", "[\"SELECT 1\"]"),
        ("/v1/transactions", "[[\"DELETE FROM svc WHERE id = ?\", []]]"),
        ("/v1/transactions", "[[\"DELETE FROM svc WHERE id = :a\", {\":b\": 1}]]"),
        ("/v1/transactions?timeout=-1", "[\"DELETE FROM svc\"]"),
        ("/v1/transactions?replicas=1", "[\"DELETE FROM svc\"]"),
        ("/v1/queries", "\"DELETE FROM svc\""),
        ("/v1/queries", "\"SELECT * FROM nowhere\""),
        ("/v1/queries", "[\"SELECT ?\", []]"),
        ("/v1/queries", ""),
        ("/v1/queries", "[1]"),
        ("/v1/subscriptions", "\"DELETE FROM svc\""),
        ("/v1/subscriptions", "\"SELECT * FROM nowhere\""),
        ("/v1/subscriptions", "\"SELECT random()\""),
        ("/v1/subscriptions?from=7", "\"SELECT id FROM svc\""),
        ("/v1/subscriptions?from=x", "\"SELECT id FROM svc\""),
        ("/v1/migrations", "[]"),
        ("/v1/table_stats", "[]"),
        ("/v1/nothing", "[]"),
        ("/v1/health", "{}"),
    ];
    for (path, body) in posts {
        let answer = shown(server.post_raw(path, body.to_owned()).await).await;
        answers.push_str(&format!("{path} {body} -> {answer}\n"));
    }
    for path in [
        "/v1/subscriptions/not-a-uuid",
        "/v1/subscriptions/ba247cbc-2a7f-486b-873c-8a9620e72182",
        "/v1/transactions",
        "/v1/health?failure_status=9",
    ] {
        answers.push_str(&format!("GET {path} -> {}\n", shown(server.get(path).await).await));
    }
    let plain = server.client.post(server.url("/v1/queries")).body("\"SELECT 1\"").send().await.unwrap();
    answers.push_str(&format!("no content type -> {}\n", shown(plain).await));
    let large = server.post_raw("/v1/transactions", format!("[\"{}\"]", "x".repeat(1 << 20))).await;
    answers.push_str(&format!("a body over 1 MiB -> {}\n", shown(large).await));
    insta::assert_snapshot!(answers, @r#"
    /v1/transactions [[ -> 400 {"error":"not JSON: EOF while parsing a list at line 1 column 2"}
    /v1/transactions {"query": 1} -> 422 {"error":"the body does not fit: invalid type: map, expected a sequence at line 1 column 0"}
    /v1/transactions [] -> 400 {"results":[{"error":"at least 1 statement is required"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions ["INSERT INTO nowhere VALUES (1)"] -> 500 {"results":[{"error":"no such table: nowhere"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions ["UPDATE svc SET port = 1; DELETE FROM svc"] -> 500 {"results":[{"error":"Multiple statements provided"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions ["SELECT 1"] -> 500 {"results":[{"error":"a statement that returns rows is not for a transaction"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions [["DELETE FROM svc WHERE id = ?", []]] -> 500 {"results":[{"error":"the statement has 1 parameters, and 0 were given"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions [["DELETE FROM svc WHERE id = :a", {":b": 1}]] -> 500 {"results":[{"error":"the statement has no parameter :b"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions?timeout=-1 ["DELETE FROM svc"] -> 400 {"error":"timeout must be a number of seconds, 0 for none"}
    /v1/transactions?replicas=1 ["DELETE FROM svc"] -> 400 {"error":"replicas=1: there are 0 other nodes, so nothing was done"}
    /v1/queries "DELETE FROM svc" -> 400 {"error":"the statement is not a read-only query"}
    /v1/queries "SELECT * FROM nowhere" -> 400 {"error":"no such table: nowhere"}
    /v1/queries ["SELECT ?", []] -> 500 {"error":"the statement has 1 parameters, and 0 were given"}
    /v1/queries  -> 400 {"error":"not JSON: EOF while parsing a value at line 1 column 0"}
    /v1/queries [1] -> 422 {"error":"the body does not fit: invalid type: integer `1`, expected a string at line 1 column 2"}
    /v1/subscriptions "DELETE FROM svc" -> 400 {"error":"a subscription takes a SELECT: this statement returns no rows or does more than read"}
    /v1/subscriptions "SELECT * FROM nowhere" -> 400 {"error":"no such table: nowhere"}
    /v1/subscriptions "SELECT random()" -> 400 {"error":"random() gives another answer each time: a subscription would go wrong without any change"}
    /v1/subscriptions?from=7 "SELECT id FROM svc" -> 400 {"error":"there is no such subscription to continue: subscribe without `from`"}
    /v1/subscriptions?from=x "SELECT id FROM svc" -> 400 {"error":"Failed to deserialize query string: from: invalid digit found in string"}
    /v1/migrations [] -> 400 {"results":[{"error":"at least 1 statement is required"}],"time":~,"version":null,"actor_id":~}
    /v1/table_stats [] -> 422 {"error":"the body does not fit: invalid length 0, expected struct Body with 1 element at line 1 column 2"}
    /v1/nothing [] -> 404 {"error":"there is no POST /v1/nothing"}
    /v1/health {} -> 405 {"error":"/v1/health is not for POST"}
    GET /v1/subscriptions/not-a-uuid -> 400 {"error":"\"not-a-uuid\" is not a UUID"}
    GET /v1/subscriptions/ba247cbc-2a7f-486b-873c-8a9620e72182 -> 404 {"error":"could not find subscription with id ba247cbc-2a7f-486b-873c-8a9620e72182"}
    GET /v1/transactions -> 405 {"error":"/v1/transactions is not for GET"}
    GET /v1/health?failure_status=9 -> 400 {"error":"failure_status must be a status code from 200 to 999"}
    no content type -> 415 {"error":"the body must be JSON: send content-type: application/json"}
    a body over 1 MiB -> 413 {"error":"the body is over 1 MiB: split it"}
    "#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_streams_rows_then_changes_and_is_resumed() {
    let server = Server::start().await;
    server.execute("INSERT INTO svc (id, port) VALUES ('a', 80)").await;
    let query = json!("SELECT id, port FROM svc");
    let response = server.post("/v1/subscriptions", &query).await;
    let id = response.headers()["corro-query-id"].to_str().unwrap().to_owned();
    assert_eq!(response.headers()["corro-query-hash"].len(), 16);
    let mut lines = Lines::of(response);
    insta::assert_snapshot!(lines.take(3).await, @r#"
    {"columns":["id","port"]}
    {"row":[1,["a",80]]}
    {"eoq":{"time":~,"change_id":0}}
    "#);
    // Commits that come together are looked at together, and a row that came and went between two looks is no event:
    // each event is read before the next commit.
    for (sql, event) in [
        ("INSERT INTO svc (id, port) VALUES ('b', 81)", r#"{"change":["insert",2,["b",81],1]}"#),
        ("UPDATE svc SET port = 82 WHERE id = 'b'", r#"{"change":["update",2,["b",82],2]}"#),
        ("DELETE FROM svc WHERE id = 'b'", r#"{"change":["delete",2,["b",82],3]}"#),
    ] {
        server.execute(sql).await;
        assert_eq!(lines.next().await.unwrap(), event);
    }
    drop(lines);

    let mut again = Lines::of(server.get(&format!("/v1/subscriptions/{id}?from=1")).await);
    server.execute("INSERT INTO svc (id, port) VALUES ('c', 83)").await;
    let mut resumed = again.next().await.unwrap();
    while !resumed.contains("\"c\"") {
        resumed = again.next().await.unwrap();
    }
    let last: Value = serde_json::from_str(&resumed).unwrap();

    let skipped = server.post("/v1/subscriptions?skip_rows=true", &query).await;
    assert_eq!(skipped.headers()["corro-query-id"], id.as_str(), "equal queries are one");
    let mut skipped = Lines::of(skipped);
    server.execute("DELETE FROM svc WHERE id = 'c'").await;
    let next = last["change"][3].as_u64().unwrap() + 1;
    assert_eq!(
        skipped.next().await.unwrap(),
        format!(r#"{{"change":["delete",{},["c",83],{next}]}}"#, last["change"][1])
    );
    assert_eq!(
        again.next().await.unwrap(),
        format!(r#"{{"change":["delete",{},["c",83],{next}]}}"#, last["change"][1])
    );

    let mut beyond = Lines::of(server.get(&format!("/v1/subscriptions/{id}?from=99")).await);
    insta::assert_snapshot!(beyond.next().await.unwrap(), @r#"{"error":"changes after 99 are not kept: subscribe anew, min change id: 0"}"#);
    assert_eq!(beyond.next().await, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_with_prior_knowledge_is_spoken_on_the_same_port() {
    let server = Server::start().await;
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let post = |path: &str, body: Value| {
        client.post(server.url(path)).header("content-type", "application/json").body(body.to_string()).send()
    };
    let response = post("/v1/subscriptions", json!("SELECT id FROM svc")).await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    let mut lines = Lines::of(response);
    lines.take(2).await;
    let response = post("/v1/transactions", json!(["INSERT INTO svc (id) VALUES ('two')"])).await.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    assert_eq!(lines.next().await.unwrap(), r#"{"change":["insert",1,["two"],1]}"#);
    drop(lines);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unix_socket_is_for_its_group_and_a_stale_one_is_replaced() {
    let path = tempfile::tempdir().unwrap().keep().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let config = || ApiConfig { unix: Some(path.clone()), ..ApiConfig::default() };
    let server = Server::start_with(config(), Arc::new(Alone::default())).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let client = Client::builder().unix_socket(path.clone()).build().unwrap();
    assert_eq!(client.get("http://kith/live").send().await.unwrap().text().await.unwrap(), r#"{"live":true}"#);

    assert!(matches!(bind(config()).await, Err(BindError::SocketInUse { .. })));
    server.stop().await;
    assert!(!path.exists(), "the socket's file is removed at the end");
    std::fs::write(&path, "a file").unwrap();
    assert!(matches!(bind(config()).await, Err(BindError::NotASocket { .. })));
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

/// Binds an API over a store of its own, and gives up the store.
async fn bind(config: ApiConfig) -> Result<PathBuf, BindError> {
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

#[tokio::test(flavor = "multi_thread")]
async fn an_open_address_needs_a_token_and_a_taken_one_is_named() {
    let open = ApiConfig { listen: vec!["0.0.0.0:0".parse().unwrap()], ..ApiConfig::default() };
    let error = bind(open.clone()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the API would be open to the network at 0.0.0.0:0 without a token: set one, or listen on loopback"
    );
    let tokens = Some("0123456789abcdef".parse().unwrap());
    assert!(bind(ApiConfig { tokens, ..open }).await.is_ok());

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = vec![taken.local_addr().unwrap()];
    let error = bind(ApiConfig { listen: listen.clone(), ..ApiConfig::default() }).await.unwrap_err().to_string();
    assert_eq!(error, format!("the API cannot listen on {}", listen[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_wants_the_token() {
    let tokens = Some("0123456789abcdef".parse().unwrap());
    let config = ApiConfig { tokens, ..ApiConfig::default() };
    let server = Server::start_with(config, Arc::new(Alone::default())).await;
    for (authorization, status) in [
        (None, 401),
        (Some("Bearer 0123456789abcdee"), 401),
        (Some("0123456789abcdef"), 401),
        (Some("Basic 0123456789abcdef"), 401),
        (Some("Bearer 0123456789abcdef"), 200),
        (Some("bearer 0123456789abcdef"), 200),
    ] {
        let mut request = server.client.get(server.url("/v1/status"));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{authorization:?}");
        assert_eq!(response.text().await.unwrap().is_empty(), status == 401);
    }
    assert_eq!(server.get("/nowhere").await.status(), 401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_its_scope_says() {
    let [read, write, admin] = ["read-aaaaaaaaaaaa", "write-bbbbbbbbbbb", "admin-ccccccccccc"];
    let tokens = Some(format!("read {read}\nwrite {write}\nadmin {admin}").parse().unwrap());
    let server = Server::start_with(ApiConfig { tokens, ..ApiConfig::default() }, Arc::new(Alone::default())).await;
    let post = async |token: &str, path: &str, body: Value| {
        let request = server.client.post(server.url(path)).bearer_auth(token);
        let request = request.header("content-type", "application/json").body(body.to_string());
        shown(request.send().await.unwrap()).await
    };
    let (insert, table) =
        (json!(["INSERT INTO svc (id) VALUES ('a')"]), json!(["CREATE TABLE m (id TEXT NOT NULL PRIMARY KEY)"]));
    assert!(post(read, "/v1/queries", json!("SELECT 1")).await.starts_with("200"));
    let refused = post(read, "/v1/transactions", insert.clone()).await;
    assert_eq!(refused, r#"403 {"error":"this token may read, and write is needed"}"#);
    assert!(post(write, "/v1/transactions", insert).await.starts_with("200"));
    let refused = post(write, "/v1/migrations", table.clone()).await;
    assert_eq!(refused, r#"403 {"error":"this token may write, and admin is needed"}"#);
    assert!(post(admin, "/v1/migrations", table).await.starts_with("200"));
    assert!(post(admin, "/v1/queries", json!("SELECT * FROM m")).await.starts_with("200"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_of_what_is_there() {
    let server = Server::start().await;
    let document: Value = server.get("/openapi.json").await.text().await.unwrap().parse().unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in paths {
        let real = path
            .replace("{id}", "ba247cbc-2a7f-486b-873c-8a9620e72182")
            .replace("{table}", "svc")
            .replace("{part}", "x");
        for (method, described) in methods.as_object().unwrap() {
            // Without a body, so that nothing is done; a stream that begins is dropped.
            let request = server.client.request(method.to_uppercase().parse().unwrap(), server.url(&real));
            let status = request.send().await.unwrap().status().as_u16();
            assert!(
                described["responses"][status.to_string()].is_object(),
                "{method} {path}: {status} is not described"
            );
            assert_ne!(status, 405, "{method} {path}");
        }
        let other = if methods.get("get").is_some() { "DELETE" } else { "GET" };
        let request = server.client.request(other.parse().unwrap(), server.url(&real));
        assert_eq!(request.send().await.unwrap().status(), 405, "{other} {path} is not described");
    }
    // Whatever a route answers is described.
    for (path, body, query) in [
        ("/v1/transactions", "[[", ""),
        ("/v1/transactions", "{}", ""),
        ("/v1/transactions", "[]", ""),
        ("/v1/transactions", "[\"SELECT 1\"]", ""),
        ("/v1/transactions", "[\"DELETE FROM svc\"]", "?replicas=1"),
        ("/v1/queries", "\"SELECT\"", ""),
        ("/v1/queries", "\"SELECT 1\"", "?timeout=x"),
        ("/v1/subscriptions", "\"SELECT random()\"", ""),
        ("/v1/migrations", "[\"CREATE TABLE u (id TEXT NOT NULL PRIMARY KEY, v UNIQUE)\"]", ""),
        ("/v1/table_stats", "[]", ""),
    ] {
        let status = server.post_raw(&format!("{path}{query}"), body.to_owned()).await.status().as_u16();
        let described = &paths[path]["post"]["responses"][status.to_string()];
        assert!(described.is_object(), "{path}{query} {body}: {status} is not described");
    }
    let named: Vec<_> =
        paths["/v1/transactions"]["post"]["parameters"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    assert_eq!(named, ["timeout", "replicas"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_takes_128_requests_at_once_and_streams_do_not_count() {
    let server = Server::start().await;
    let mut streams = Vec::new();
    for _ in 0..130 {
        streams.push(server.post("/v1/subscriptions", &json!("SELECT id FROM svc")).await);
    }
    assert!(streams.iter().all(|stream| stream.status() == 200));
    // A request whose body does not come is in flight.
    let head = "POST /v1/queries HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n";
    let begin = || {
        let mut connection = TcpStream::connect(server.addr).unwrap();
        connection.write_all(head.as_bytes()).unwrap();
        connection
    };
    let mut waiting: Vec<_> = (0..128).map(|_| begin()).collect();
    let deadline = Instant::now() + BOUND;
    loop {
        let answer = shown(server.post("/v1/queries", &json!("SELECT 1")).await).await;
        if answer.starts_with("503") {
            assert_eq!(answer, r#"503 {"error":"max concurrency limit reached"}"#);
            break;
        }
        assert!(Instant::now() < deadline, "still answered: {answer}");
        // One of them may have been refused because of the question just answered.
        waiting.push(begin());
    }
    assert_eq!(server.get("/live").await.status(), 200, "other routes are not concerned");
    drop(waiting);
    let deadline = Instant::now() + BOUND;
    while server.post("/v1/queries", &json!("SELECT 1")).await.status() != 200 {
        assert!(Instant::now() < deadline, "permits did not come back");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_a_line_at_shutdown_and_the_port_is_free() {
    let server = Server::start().await;
    let addr = server.addr;
    let mut subscription = Lines::of(server.post("/v1/subscriptions", &json!("SELECT id FROM svc")).await);
    subscription.take(2).await;
    let mut members = Lines::of(server.get("/v1/members?watch=true").await);
    assert_eq!(members.next().await.unwrap(), r#"{"eom":{}}"#);
    // One that reads nothing, one that has not said anything.
    let mut deaf = TcpStream::connect(addr).unwrap();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let body = json!(endless).to_string();
    let head = "POST /v1/queries HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
    write!(deaf, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let silent = TcpStream::connect(addr).unwrap();

    let started = Instant::now();
    server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let last = r#"{"error":"the server is shutting down"}"#;
    assert_eq!(subscription.next().await.as_deref(), Some(last));
    assert_eq!(members.next().await.as_deref(), Some(last));
    assert_eq!(subscription.next().await, None);
    std::net::TcpListener::bind(addr).expect("the port is free");
    drop((deaf, silent));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_changed_rows_are_told() {
    let server = Server::start().await;
    let table = "CREATE TABLE \"two parts\" (a TEXT NOT NULL, b INTEGER NOT NULL, v, PRIMARY KEY (b, a))";
    assert_eq!(server.post("/v1/migrations", &json!([table])).await.status(), 200);
    server.execute("INSERT INTO svc (id) VALUES ('before')").await;
    let response = server.post_raw("/v1/updates/svc", String::new()).await;
    let id = response.headers()["corro-query-id"].to_str().unwrap();
    assert_eq!(id.len(), 36);
    let mut lines = Lines::of(response);
    let mut others = Lines::of(server.post_raw("/v1/updates/two%20parts", String::new()).await);
    for (sql, told) in [
        (
            "INSERT INTO svc (id) VALUES ('a'), ('b')",
            "{\"notify\":[\"update\",[\"a\"]]}\n{\"notify\":[\"update\",[\"b\"]]}",
        ),
        ("UPDATE svc SET port = 1 WHERE id = 'a'", "{\"notify\":[\"update\",[\"a\"]]}"),
        ("DELETE FROM svc WHERE id = 'before'", "{\"notify\":[\"delete\",[\"before\"]]}"),
    ] {
        server.execute("INSERT INTO \"two parts\" VALUES ('x', 7, 1) ON CONFLICT DO UPDATE SET v = v + 1").await;
        assert_eq!(others.take(1).await, "{\"notify\":[\"update\",[7,\"x\"]]}", "by the key's order");
        server.execute(sql).await;
        assert_eq!(lines.take(told.lines().count()).await, told, "{sql}");
    }
    // What is too much to be listed is not left out in silence.
    let many = "INSERT INTO svc (id) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) SELECT i FROM n";
    server.execute(many).await;
    assert_eq!(lines.take(1).await, r#"{"error":"more rows changed at once than are listed: read anew"}"#);
    assert_eq!(lines.next().await, None);
    let unknown = shown(server.post_raw("/v1/updates/nothing", String::new()).await).await;
    assert_eq!(unknown, r#"400 {"error":"there is no table nothing"}"#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_cut_with_a_line_and_others_are_not() {
    let server = Server::start().await;
    let query = json!("SELECT id, note FROM svc").to_string();
    let head = "POST /v1/subscriptions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
    // A small window, set before connecting: else the kernel takes 30 MB for a reader that reads nothing.
    let slow = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    slow.set_recv_buffer_size(64 << 10).unwrap();
    slow.connect(&server.addr.into()).unwrap();
    let mut slow = TcpStream::from(slow);
    write!(slow, "{head}\r\ncontent-length: {}\r\n\r\n{query}", query.len()).unwrap();
    let mut quick = Lines::of(server.post_raw("/v1/subscriptions", query).await);
    quick.take(2).await;
    let note = "x".repeat(500_000);
    for id in 0..60 {
        let insert = json!([["INSERT INTO svc (id, note) VALUES (?, ?)", [id.to_string(), note]]]);
        let response = server.post("/v1/transactions", &insert).await;
        assert_eq!(response.status(), 200);
        assert!(quick.next().await.unwrap().starts_with(r#"{"change":["insert""#));
    }
    let last = tokio::task::spawn_blocking(move || {
        slow.set_read_timeout(Some(BOUND)).unwrap();
        let (mut reader, mut last) = (BufReader::new(slow), String::new());
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 0 && line != "0\r\n" {
            if line.contains("error") {
                last = line.trim_end().to_owned();
            }
            line.clear();
        }
        last
    });
    insta::assert_snapshot!(last.await.unwrap(), @r#"{"error":"slow consumer: more than 8 MiB or 30 s behind; read faster, or attach again from the last change"}"#);
    server.stop().await;
}

/// Members that a test changes.
#[derive(Debug)]
struct TestMembers {
    members: watch::Sender<Arc<Vec<Member>>>,
    acknowledged: watch::Sender<BTreeMap<NodeId, u64>>,
    waiting: Vec<String>,
}

impl TestMembers {
    fn new(members: &watch::Sender<Arc<Vec<Member>>>, waiting: &[&str]) -> Self {
        let waiting = waiting.iter().map(|text| (*text).to_owned()).collect();
        Self { members: members.clone(), acknowledged: watch::Sender::default(), waiting }
    }
}

impl Membership for TestMembers {
    fn members(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.subscribe()
    }

    fn acknowledged(&self) -> watch::Receiver<BTreeMap<NodeId, u64>> {
        self.acknowledged.subscribe()
    }

    fn figures(&self) -> ReplicationFigures {
        let lag_p99 = Duration::from_millis(40);
        ReplicationFigures { behind: 3, lag_p99, queued: 5, applied: 7, ..ReplicationFigures::default() }
    }

    fn waiting(&self) -> Vec<String> {
        self.waiting.clone()
    }
}

fn member(server: &str, state: MemberState) -> Member {
    Member {
        server: server.parse().unwrap(),
        number: Some(2),
        addr: "10.0.0.2:31280".parse().unwrap(),
        site: Some(SiteId::new([0xAB; 16])),
        boot_id: "b0".to_owned(),
        state,
        heard: Some(Duration::from_millis(120)),
        rtt: Some(Duration::from_micros(350)),
        release: "0.1.0".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_listed_and_watched() {
    let up = |server| member(server, MemberState::Up);
    let (members, _) = watch::channel(Arc::new(vec![up("a"), up("b")]));
    let server = Server::start_with(ApiConfig::default(), Arc::new(TestMembers::new(&members, &[]))).await;
    insta::assert_snapshot!(shown(server.get("/v1/members").await).await, @r#"
    200 {"member":{"server":"a","number":2,"addr":"10.0.0.2:31280","site":"abababababababababababababababab","boot_id":"b0","state":"up","heard_ms_ago":120,"rtt_us":350,"release":"0.1.0"}}
    {"member":{"server":"b","number":2,"addr":"10.0.0.2:31280","site":"abababababababababababababababab","boot_id":"b0","state":"up","heard_ms_ago":120,"rtt_us":350,"release":"0.1.0"}}
    {"eom":{}}
    "#);
    let sql = "SELECT hex(actor_id), address, foca_state ->> '$.state', rtt_min FROM __corro_members LIMIT 1";
    insta::assert_snapshot!(shown(server.post("/v1/queries", &json!(sql)).await).await, @r#"
    200 {"columns":["hex(actor_id)","address","foca_state ->> '$.state'","rtt_min"]}
    {"row":[1,["ABABABABABABABABABABABABABABABAB","10.0.0.2:31280","Alive",0]]}
    {"eoq":{"time":~}}
    "#);
    let mut lines = Lines::of(server.get("/v1/members?watch=true").await);
    lines.take(3).await;
    // Only that it was heard again is no change.
    members.send_replace(Arc::new(vec![Member { heard: None, ..up("a") }, up("b")]));
    members.send_replace(Arc::new(vec![Member {
        heard: None,
        site: None,
        number: None,
        rtt: None,
        ..member("a", MemberState::Silent)
    }]));
    insta::assert_snapshot!(lines.take(2).await, @r#"
    {"member":{"server":"a","number":null,"addr":"10.0.0.2:31280","site":null,"boot_id":"b0","state":"silent","heard_ms_ago":null,"rtt_us":null,"release":"0.1.0"}}
    {"member":{"server":"b","number":2,"addr":"10.0.0.2:31280","site":"abababababababababababababababab","boot_id":"b0","state":"removed","heard_ms_ago":null,"rtt_us":null,"release":"0.1.0"}}
    "#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_figures_are_told() {
    let (members, _) = watch::channel(Arc::new(vec![member("fra-1", MemberState::Up), member("b", MemberState::Up)]));
    let server = Server::start_with(
        ApiConfig::default(),
        Arc::new(TestMembers::new(&members, &["replication: 3 versions behind"])),
    )
    .await;
    server.execute("INSERT INTO svc (id) VALUES ('a'), ('b')").await;
    let mut answers = String::new();
    for path in [
        "/v1/health",
        "/v1/health?gaps=3&p99_lag=0.04&max_queue=5",
        "/v1/health?gaps=2",
        "/v1/health?p99_lag=0.039",
        "/v1/health?max_queue=4&failure_status=418",
        "/live",
        "/ready",
    ] {
        answers.push_str(&format!("{path} -> {}\n", shown(server.get(path).await).await));
    }
    let stats = server.post("/v1/table_stats", &json!({"tables": ["svc", "zz"]})).await;
    answers.push_str(&format!("/v1/table_stats -> {}\n", shown(stats).await));
    insta::assert_snapshot!(answers, @r#"
    /v1/health -> 200 {"response":{"gaps":3,"members":1,"p99_lag":0.04,"queue_size":5,"waiting":["replication: 3 versions behind"]}}
    /v1/health?gaps=3&p99_lag=0.04&max_queue=5 -> 200 {"response":{"gaps":3,"members":1,"p99_lag":0.04,"queue_size":5,"waiting":["replication: 3 versions behind"]}}
    /v1/health?gaps=2 -> 503 {"response":{"gaps":3,"members":1,"p99_lag":0.04,"queue_size":5,"waiting":["replication: 3 versions behind"]}}
    /v1/health?p99_lag=0.039 -> 503 {"response":{"gaps":3,"members":1,"p99_lag":0.04,"queue_size":5,"waiting":["replication: 3 versions behind"]}}
    /v1/health?max_queue=4&failure_status=418 -> 418 {"response":{"gaps":3,"members":1,"p99_lag":0.04,"queue_size":5,"waiting":["replication: 3 versions behind"]}}
    /live -> 200 {"live":true}
    /ready -> 503 {"ready":false,"waiting":["replication: 3 versions behind"]}
    /v1/table_stats -> 200 {"invalid_tables":["zz"],"total_row_count":2}
    "#);

    let json = async |path: &str| server.get(path).await.text().await.unwrap().parse::<Value>().unwrap();
    let status = json("/v1/status").await;
    assert_eq!((&status["node"], &status["members"]["up"]), (&json!("fra-1"), &json!(2)));
    let digest = json("/v1/digest").await;
    assert_eq!(digest["digest"], status["store"]["digest"]);
    let metrics = server.get("/metrics").await.text().await.unwrap();
    for line in [
        "kith_transactions_total{outcome=\"done\"} 1",
        "kith_members{state=\"up\"} 2",
        "kith_replication_lag_p99_seconds 0.04",
        "kith_store_commits_total 1",
        "kith_http_requests_total{route=\"/v1/transactions\",status=\"200\"} 1",
        "kith_http_request_seconds_count{route=\"/v1/transactions\"} 1",
        "# EOF",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_node_is_healthy_and_ready() {
    let server = Server::start().await;
    let health = shown(server.get("/v1/health?gaps=0&p99_lag=1&max_queue=0").await).await;
    assert_eq!(health, r#"200 {"response":{"gaps":0,"members":0,"p99_lag":0.0,"queue_size":0,"waiting":[]}}"#);
    assert_eq!(server.get("/ready").await.status(), 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_migrated_or_refused() {
    let server = Server::start().await;
    let table = "CREATE TABLE more (id INTEGER NOT NULL PRIMARY KEY, v TEXT NOT NULL DEFAULT '')";
    let tried = shown(server.post("/v1/migrations?dry_run=true", &json!([table])).await).await;
    insta::assert_snapshot!(tried, @r#"200 {"results":[{"rows_affected":0,"time":~}],"time":~,"version":null,"actor_id":~,"migrated":{"tables":["more"],"columns":[],"indexes":[]}}"#);
    let absent = server.post("/v1/transactions", &json!(["INSERT INTO more (id) VALUES (1)"])).await;
    assert!(absent.text().await.unwrap().contains("no such table"), "a dry run changes nothing");
    let answer = shown(server.post("/v1/migrations", &json!([table])).await).await;
    insta::assert_snapshot!(answer, @r#"200 {"results":[{"rows_affected":0,"time":~}],"time":~,"version":null,"actor_id":~,"migrated":{"tables":["more"],"columns":[],"indexes":[]}}"#);
    let again = shown(server.post("/v1/migrations", &json!([table])).await).await;
    assert!(again.contains(r#""migrated":{"tables":[],"columns":[],"indexes":[]}"#), "{again}");
    server.execute("INSERT INTO more (id) VALUES (1)").await;
    let unique = "CREATE TABLE worse (id INTEGER NOT NULL PRIMARY KEY, v TEXT UNIQUE)";
    let refused = server.post("/v1/migrations", &json!([unique])).await;
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("UNIQUE"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_waits_until_other_nodes_hold_it() {
    let up = |server| member(server, MemberState::Up);
    let removed = member("d", MemberState::Removed);
    let (members, _) = watch::channel(Arc::new(vec![up("fra-1"), up("b"), up("c"), removed]));
    let membership = TestMembers::new(&members, &[]);
    let acknowledged = membership.acknowledged.clone();
    let server = Server::start_with(ApiConfig::default(), Arc::new(membership)).await;
    let insert = |id: &str| json!([format!("INSERT INTO svc (id) VALUES ('{id}')")]);
    let tell = |heads: &[(&str, u64)]| {
        acknowledged.send_replace(heads.iter().map(|(node, head)| (node.parse().unwrap(), *head)).collect());
    };

    let many = shown(server.post("/v1/transactions?replicas=3", &insert("a")).await).await;
    assert_eq!(many, r#"400 {"error":"replicas=3: there are 2 other nodes, so nothing was done"}"#);
    tell(&[("b", 1)]);
    let late = server.post("/v1/transactions?replicas=2&timeout=0.2", &insert("a")).await;
    insta::assert_snapshot!(shown(late).await, @r#"504 {"results":[{"rows_affected":1,"time":~}],"time":~,"version":1,"actor_id":~,"error":"held by 1 of 2 other nodes in time: the transaction stands, and goes on to the others"}"#);
    // The second version: one node tells of it after the other, and only then comes the answer.
    let second = insert("b");
    let mut answer = Box::pin(server.post("/v1/transactions?replicas=2", &second));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut answer).await;
    assert!(early.is_err(), "nobody holds it yet");
    tell(&[("b", 2), ("c", 1)]);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut answer).await;
    assert!(early.is_err(), "one of two");
    tell(&[("b", 2), ("c", 7)]);
    assert_eq!(tokio::time::timeout(BOUND, answer).await.expect("both hold it").status(), 200);
    let nothing = server.post("/v1/transactions?replicas=2", &json!(["DELETE FROM svc WHERE id = 'z'"])).await;
    assert_eq!(nothing.status(), 200, "a transaction that changed nothing is everywhere");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_alive_serves_one_request_after_the_other_with_lengths() {
    let server = Server::start().await;
    let mut connection = TcpStream::connect(server.addr).unwrap();
    connection.set_read_timeout(Some(BOUND)).unwrap();
    let body = json!(["INSERT INTO svc (id) VALUES ('a') ON CONFLICT DO UPDATE SET port = 1"]).to_string();
    let head = "POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
    let answers = tokio::task::spawn_blocking(move || {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            write!(connection, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
            let mut reader = BufReader::new(&connection);
            let (mut line, mut length) = (String::new(), None);
            reader.read_line(&mut line).unwrap();
            statuses.push(line.trim_end().to_owned());
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim_end().parse().ok();
                }
            }
            let mut body = vec![0; length.expect("an answer that is whole has a length")];
            reader.read_exact(&mut body).unwrap();
        }
        statuses
    });
    assert_eq!(answers.await.unwrap(), ["HTTP/1.1 200 OK"; 3]);
    server.stop().await;
}
