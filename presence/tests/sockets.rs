//! Connections that stay: WebSockets, readers that do not read, more of them than fit, TLS.

#![allow(clippy::unwrap_used, reason = "a test's functions are tests as well")]

mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_presence::{Nats, TlsFiles};
use nix::sys::resource::{Resource, setrlimit};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use wire::{BOUND, Running, ask, config, put, until};

async fn alone() -> (TempDir, Running) {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(config(dir.path(), "n1", Nats::Alone)).await.ready().await;
    (dir, running)
}

/// A figure of a node.
async fn figure(addr: std::net::SocketAddr, name: &str) -> u64 {
    let figures = ask(addr, "GET", "/metrics", None, "").await.body;
    let line = figures.lines().find_map(|line| line.strip_prefix(&format!("presence_{name} ")));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {figures}"))
}

/// A WebSocket, as far as these tests need one: texts, masked with zeros (RFC 6455 §5).
struct Socket(TcpStream);

impl Socket {
    async fn open(addr: std::net::SocketAddr) -> Self {
        Self::upgrade(TcpStream::connect(addr).await.unwrap()).await
    }

    async fn upgrade(mut stream: TcpStream) -> Self {
        let head = "GET /api/v2/presence/ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            read.push(timeout(BOUND, stream.read_u8()).await.expect("a head").unwrap());
        }
        assert!(read.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&read));
        Self(stream)
    }

    async fn send(&mut self, json: &Value) {
        let text = json.to_string();
        let mut frame = vec![0x81];
        match text.len() {
            short @ 0..=125 => frame.push(0x80 | u8::try_from(short).unwrap()),
            middle @ 126..=65_535 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(middle).unwrap().to_be_bytes());
            }
            long => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        self.0.write_all(&frame).await.unwrap();
    }

    /// The next text; none once the other side has closed.
    async fn next(&mut self) -> Option<Value> {
        match self.frame().await? {
            (1, payload) => Some(serde_json::from_slice(&payload).unwrap()),
            _ => None,
        }
    }

    /// Why the other side closes: the code, and its words.
    async fn closed(&mut self) -> (u16, String) {
        loop {
            let (kind, payload) = self.frame().await.expect("it says why it closes");
            if kind == 8 {
                let (code, words) = payload.split_at(2);
                return (u16::from_be_bytes([code[0], code[1]]), String::from_utf8(words.to_vec()).unwrap());
            }
        }
    }

    /// The next text, or the end: its kind and payload.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let kind = timeout(BOUND, self.0.read_u8()).await.expect("a frame").ok()? & 0x0f;
            let length = match self.0.read_u8().await.ok()? {
                126 => usize::from(self.0.read_u16().await.ok()?),
                127 => usize::try_from(self.0.read_u64().await.ok()?).unwrap(),
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.ok()?;
            if matches!(kind, 1 | 8) {
                return Some((kind, payload));
            }
        }
    }
}

#[tokio::test]
async fn a_socket_follows_whom_it_names_and_nobody_else() {
    let (_dir, node) = alone().await;
    put(node.addr, "ann", r#"{"status":"online"}"#).await;
    let mut socket = Socket::open(node.addr).await;
    socket.send(&json!({"op": "subscribe", "users": ["ann", "bob"]})).await;
    let snapshot = socket.next().await.unwrap();
    assert_eq!(snapshot["op"], "snapshot");
    assert_eq!(
        (&snapshot["data"]["ann"]["status"], &snapshot["data"]["bob"]["status"]),
        (&json!("online"), &json!("offline"))
    );
    put(node.addr, "eve", r#"{"status":"busy"}"#).await;
    put(node.addr, "bob", r#"{"status":"busy"}"#).await;
    let change = socket.next().await.unwrap();
    assert_eq!((&change["op"], &change["data"]["bob"]["status"]), (&json!("change"), &json!("busy")));
    assert!(change["data"].get("eve").is_none());
    // Once more with the last id: only what was missed.
    let id = change["id"].clone();
    drop(socket);
    put(node.addr, "ann", r#"{"status":"away"}"#).await;
    let mut socket = Socket::open(node.addr).await;
    socket.send(&json!({"op": "subscribe", "users": ["ann", "bob"], "since": id})).await;
    // In the answer, or right after it, if it came within the window in which changes of a user are one event.
    let mut missed = socket.next().await.unwrap();
    if missed["data"] == json!({}) {
        missed = socket.next().await.unwrap();
    }
    assert_eq!(missed["data"].as_object().unwrap().keys().collect::<Vec<_>>(), ["ann"]);
    socket.send(&json!({"op": "unsubscribe", "users": ["ann"]})).await;
    socket.send(&json!({"op": "subscribe", "users": []})).await;
    socket.next().await.unwrap();
    put(node.addr, "ann", r#"{"status":"busy"}"#).await;
    put(node.addr, "bob", r#"{"status":"online"}"#).await;
    assert!(socket.next().await.unwrap()["data"].get("bob").is_some(), "ann is followed no longer");
    node.stop().await;
    assert_eq!(socket.next().await, None, "a node that stops says so");
}

#[tokio::test]
async fn a_socket_that_asks_for_too_much_or_for_nonsense_is_told_so_and_goes_on() {
    let (_dir, node) = alone().await;
    let mut socket = Socket::open(node.addr).await;
    let many = |from: usize, n: usize| (from..from + n).map(|at| format!("u{at}")).collect::<Vec<_>>();
    for (asked, told) in [
        (json!({"op": "subscribe", "users": many(0, 1_001)}), "at most 1000 users at once"),
        (json!({"op": "subscribe", "users": [""]}), "the user id must have 1 to 128 bytes, and has 0"),
        (json!({"op": "dance"}), "not understood"),
        (json!(7), "not understood"),
    ] {
        socket.send(&asked).await;
        let answer = socket.next().await.unwrap();
        assert!(answer["error"].as_str().is_some_and(|error| error.starts_with(told)), "{answer}");
    }
    // Of 100,000 users the first 10,000 are followed.
    for thousand in 0..100 {
        socket.send(&json!({"op": "subscribe", "users": many(thousand * 1_000, 1_000)})).await;
        let answer = socket.next().await.unwrap();
        match thousand {
            0..10 => assert_eq!(answer["op"], "snapshot"),
            _ => assert_eq!(answer["error"], "at most 10000 users on one connection at once"),
        }
    }
    assert_eq!(figure(node.addr, "followed").await, 10_000);
    put(node.addr, "u99999", r#"{"status":"online"}"#).await;
    put(node.addr, "u9999", r#"{"status":"online"}"#).await;
    let change = socket.next().await.unwrap();
    assert_eq!(change["data"].as_object().unwrap().keys().collect::<Vec<_>>(), ["u9999"]);
    // All of them in one message end the connection, with a reason, and nothing else.
    socket.send(&json!({"op": "subscribe", "users": many(0, 100_000)})).await;
    assert_eq!(socket.closed().await, (1009, "a message has at most 262144 bytes".to_owned()));
    assert_eq!(socket.next().await, None);
    until("nobody is followed", async || figure(node.addr, "followed").await == 0).await;
    let mut socket = Socket::open(node.addr).await;
    socket.0.write_all(&[0xff; 16]).await.unwrap();
    assert_eq!(socket.closed().await.0, 1002);
    node.stop().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody() {
    let (_dir, node) = alone().await;
    let mut stopped = Socket::open(node.addr).await;
    stopped.send(&json!({"op": "subscribe", "users": ["ann"]})).await;
    let mut reading = Socket::open(node.addr).await;
    reading.send(&json!({"op": "subscribe", "users": ["ann"]})).await;
    reading.next().await.unwrap();
    for turn in 0..200 {
        let message = format!("{turn}{}", "m".repeat(200));
        put(node.addr, "ann", &format!(r#"{{"status":"busy","message":"{message}"}}"#)).await;
    }
    // What is told is the latest, however many changes there were.
    loop {
        let change = reading.next().await.unwrap();
        if change["data"]["ann"]["message"].as_str().is_some_and(|message| message.starts_with("199m")) {
            break;
        }
    }
    drop(stopped);
    node.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so_and_the_others_go_on() {
    // 54 connections, of which each takes two descriptors here: the client's is ours as well.
    setrlimit(Resource::RLIMIT_NOFILE, 130, 130).unwrap();
    let (_dir, node) = alone().await;
    let mut open = Vec::new();
    let mut told = None;
    while told.is_none() && open.len() < 60 {
        let mut stream = TcpStream::connect(node.addr).await.unwrap();
        let mut answer = [0; 512];
        // Who is let in hears nothing until he asks. Of those every second one becomes a WebSocket, and counts on.
        match timeout(Duration::from_millis(50), stream.read(&mut answer)).await {
            Err(_) if open.len() % 2 == 0 => open.push(Socket::upgrade(stream).await.0),
            Err(_) => open.push(stream),
            Ok(read) => told = Some(String::from_utf8_lossy(&answer[..read.unwrap()]).into_owned()),
        }
    }
    let told = told.expect("one is too many");
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("retry-after: 5"), "{told}");
    let (head, body) = told.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with(&format!("content-length: {}", body.len())), "{told}");
    assert_eq!(open.len(), 54);
    // Also who has asked already hears it.
    for _ in 0..20 {
        let refused = ask(node.addr, "GET", "/health/liveness", None, "").await;
        assert_eq!((refused.status, refused.json()["error"].as_str()), (503, Some("too many open connections")));
    }
    open.truncate(40);
    until("there is room again", async || {
        let mut stream = TcpStream::connect(node.addr).await.unwrap();
        stream.write_all(b"GET /health/liveness HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.is_ok() && answer.starts_with("HTTP/1.1 200")
    })
    .await;
    assert!(ask(node.addr, "GET", "/metrics", None, "").await.body.contains("presence_connections_refused_total"));
    node.stop().await;
}

/// A certificate for `localhost`, in files; also what a client needs to trust it.
fn certificate(files: &TlsFiles) -> Arc<rustls::ClientConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let mut trusted = rustls::RootCertStore::empty();
    trusted.add(rustls::pki_types::CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(client.with_root_certificates(trusted).with_no_client_auth())
}

/// Asks by TLS whether the node lives, if its certificate is trusted.
async fn lives(addr: std::net::SocketAddr, client: &Arc<rustls::ClientConfig>) -> std::io::Result<Vec<u8>> {
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(client));
    let stream = TcpStream::connect(addr).await?;
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    stream.write_all(b"GET /health/liveness HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = vec![0; 12];
    timeout(BOUND, stream.read_exact(&mut answer)).await.expect("an answer")?;
    Ok(answer)
}

#[tokio::test]
async fn with_a_certificate_it_speaks_tls_and_another_one_in_its_place_is_shown_soon() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    let first = certificate(&files);
    let mut config = config(dir.path(), "n1", Nats::Alone);
    config.tls = Some(files.clone());
    let node = Running::start(config).await;
    assert_eq!(lives(node.addr, &first).await.unwrap(), b"HTTP/1.1 200");
    let second = certificate(&files);
    until("the second certificate is shown", async || lives(node.addr, &second).await.is_ok()).await;
    assert!(lives(node.addr, &first).await.is_err());
    // What is none leaves it as it is, and the next that is one is shown.
    std::fs::write(&files.key, "no key").unwrap();
    let broken = Instant::now();
    until("the files were looked at, and nobody was refused", async || {
        assert_eq!(lives(node.addr, &second).await.unwrap(), b"HTTP/1.1 200");
        broken.elapsed() > Duration::from_secs(6)
    })
    .await;
    let third = certificate(&files);
    until("the third certificate is shown", async || lives(node.addr, &third).await.is_ok()).await;
    node.stop().await;
}
