//! A node on loopback, and a client that speaks plain HTTP/1.1 to it.

#![allow(dead_code, clippy::unwrap_used, reason = "each test takes what it needs; its functions are tests as well")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use kith_presence::{AuthConfig, Config, KeySource, Nats, Page, Presence, Rates, RunError, Writes};
use ring::hmac;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// Far more than anything here takes.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// A node that runs until it is dropped or stopped.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    stop: CancellationToken,
    task: JoinSet<Result<(), RunError>>,
}

pub(crate) fn config(dir: &Path, node: &str, nats: Nats) -> Config {
    let secret = dir.join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    Config {
        node: node.parse().unwrap(),
        release: "1.2.3".to_owned(),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        tls: None,
        auth: auth(secret, dir.join("rsa")),
        rates: Rates { token: None, address: None },
        page: Page::None,
        nats,
    }
}

/// A secret, and a public key beside it.
fn auth(secret: PathBuf, rsa: PathBuf) -> AuthConfig {
    std::fs::write(&rsa, RSA_PEM).unwrap();
    AuthConfig {
        keys: vec![KeySource::Secret(secret), KeySource::Rsa(rsa)],
        audience: Some("presence".to_owned()),
        issuer: None,
    }
}

impl Running {
    pub(crate) async fn start(config: Config) -> Self {
        let presence = Presence::build(config).await.unwrap();
        let (addr, stop) = (presence.addrs()[0], CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(presence.run(stop.clone()));
        Self { addr, stop, task }
    }

    pub(crate) async fn ready(self) -> Self {
        until("reads are answered", async || ask(self.addr, "GET", "/health/readiness", None, "").await.status == 200)
            .await;
        self
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        timeout(BOUND, self.task.join_next()).await.expect("it stops").unwrap().unwrap().unwrap();
    }

    /// As a crash ends it, as far as a task can be ended.
    pub(crate) fn kill(mut self) {
        self.task.abort_all();
    }
}

/// A token of `sub`.
pub(crate) fn token(sub: &str, writes: Writes) -> String {
    token_until(sub, writes, UNIX_EPOCH.elapsed().unwrap() + Duration::from_secs(600))
}

/// A token of `sub` that is good until then, since 1970.
pub(crate) fn token_until(sub: &str, writes: Writes, expires: Duration) -> String {
    let audience = AuthConfig { audience: Some("presence".to_owned()), ..AuthConfig::default() };
    kith_presence::sign(SECRET, sub, expires.as_secs(), writes, &audience).unwrap()
}

/// A token with any header and claims, signed by HS256 with any bytes.
fn signed(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let text = format!("{}.{}", part(header), part(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
    format!("{text}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
}

/// The public key of the tests of tokens, which a node that is configured with it must not take for a secret.
pub(crate) const RSA_PEM: &str = include_str!("../../src/auth/testdata/rsa.pem");

/// Tokens in the name of `sub` that nobody is to believe, each with what is wrong. A node is to ask for the audience
/// `presence`.
pub(crate) fn bad_tokens(sub: &str) -> Vec<(&'static str, String)> {
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    let hs256 = json!({"alg": "HS256", "typ": "JWT"});
    let with = |name: &str, value: Value| {
        let mut claims = json!({"sub": sub, "exp": now + 600, "aud": "presence"});
        claims[name] = value;
        claims
    };
    let good = with("sub", sub.into());
    let unsigned = signed(&json!({"alg": "none"}), &good, SECRET);
    vec![
        ("alg none", unsigned.rsplit_once('.').unwrap().0.to_owned() + "."),
        ("alg none, signed", unsigned),
        ("HS signed with an RS public key", signed(&hs256, &good, RSA_PEM.as_bytes())),
        ("HS said to be RS", signed(&json!({"alg": "RS256"}), &good, SECRET)),
        ("expired", signed(&hs256, &with("exp", (now - 60).into()), SECRET)),
        ("not yet valid", signed(&hs256, &with("nbf", (now + 60).into()), SECRET)),
        ("wrong audience", signed(&hs256, &with("aud", "others".into()), SECRET)),
        ("a kid with a path", signed(&json!({"alg": "HS256", "kid": "../../../../dev/null"}), &good, b"")),
        ("no token at all", "x".to_owned()),
    ]
}

/// A token of `sub` for the audience `presence`, with a claim of so many bytes.
pub(crate) fn long_token(sub: &str, bytes: usize) -> String {
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    let claims = json!({"sub": sub, "exp": now + 600, "aud": "presence", "x": "y".repeat(bytes)});
    signed(&json!({"alg": "HS256"}), &claims, SECRET)
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The body with every time as `T`.
    pub(crate) fn golden(&self) -> String {
        let mut json = self.json();
        blank(&mut json);
        json.to_string()
    }
}

fn blank(json: &mut Value) {
    match json {
        Value::String(text) if text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T' => {
            *json = "T".into();
        }
        Value::Object(map) => map.values_mut().for_each(blank),
        Value::Array(list) => list.iter_mut().for_each(blank),
        _ => {}
    }
}

/// Asks once, on a connection of its own.
pub(crate) async fn ask(addr: SocketAddr, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
    ask_with(addr, method, path, token, "", body).await
}

/// Asks with more lines in the head.
pub(crate) async fn ask_with(
    addr: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    lines: &str,
    body: &str,
) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{token}{lines}");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    // A server that has heard enough answers before it has read all.
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let (_, got) = tokio::join!(write.write_all(request.as_bytes()), timeout(BOUND, read.read_to_end(&mut answer)));
    drop(got.expect("an answer"));
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {method} {path}: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Puts a user, who is to be taken.
pub(crate) async fn put(addr: SocketAddr, user: &str, body: &str) -> Answer {
    ask(addr, "PUT", &format!("/api/v2/presence/{user}"), Some(&token("tests", Writes::Any)), body).await
}

/// The status that a node shows.
pub(crate) async fn shown(addr: SocketAddr, user: &str) -> String {
    let answer = ask(addr, "GET", &format!("/api/v2/presence/{user}"), None, "").await;
    let json = answer.json();
    let record = &json["data"][user];
    let stale = if record["stale"] == true { " stale" } else { "" };
    format!("{}{stale}", record["status"].as_str().unwrap_or("no status"))
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let bound = tokio::time::Instant::now() + BOUND;
    while !holds().await {
        assert!(tokio::time::Instant::now() < bound, "not within {BOUND:?}: {what}");
        tokio::task::yield_now().await;
    }
}

/// A stream of events.
pub(crate) struct Events {
    read: BufReader<TcpStream>,
}

/// One event: its name, its id, its data.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) json: Value,
}

impl Events {
    pub(crate) async fn open(addr: SocketAddr, users: &str, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let request = format!("GET /api/v2/presence/stream?users={users} HTTP/1.1\r\nhost: x\r\n{last}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Self { read: BufReader::new(stream) };
        assert!(events.line().await.starts_with("HTTP/1.1 200"));
        events
    }

    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(BOUND, self.read.read_line(&mut line)).await.expect("a line").unwrap();
        assert!(!line.is_empty(), "the stream ended");
        line.trim_end().to_owned()
    }

    /// The next event. Sizes of chunks and comments are passed over.
    pub(crate) async fn next(&mut self) -> Event {
        let (mut name, mut id) = (String::new(), None);
        loop {
            let line = self.line().await;
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.to_owned();
            } else if let Some(text) = line.strip_prefix("id: ") {
                id = Some(text.to_owned());
            } else if let Some(text) = line.strip_prefix("data: ") {
                return Event { name, id, json: serde_json::from_str(text).unwrap() };
            }
        }
    }
}
