//! Connections over a pipe, in virtual time: who does not read.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kith_gossip_proto::Hlc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};
use tokio_util::task::TaskTracker;

use super::*;
use crate::auth::AuthConfig;
use crate::clock::Clock;
use crate::core::Sight;
use crate::core::owner::Ends;
use crate::journal::InMemory;
use crate::presence::Nobody;

/// A server of which everybody is offline.
fn server() -> Server {
    let nodes = std::collections::BTreeMap::new();
    let sight = Sight { me: "n1".parse().unwrap(), latest: Hlc::MAX, nodes };
    let shown = Arc::new(Shown::new(Arc::new(sight), Clock::start()));
    shown.filled();
    let app = Arc::new(App {
        shown,
        hub: Arc::default(),
        desk: Desk::new().0,
        journal: Arc::<InMemory>::default(),
        others: Arc::new(Nobody),
        tally: Arc::default(),
        auth: Arc::new(Auth::new(AuthConfig::default()).unwrap()),
        limits: Limits::new(Rates::default()),
        start: 1,
        release: "1.2.3".to_owned(),
        page: None,
        stopping: CancellationToken::new(),
        connections: AtomicUsize::new(0),
        refused: AtomicU64::new(0),
        cut: Arc::default(),
    });
    let (router, farewells) = (router(Arc::clone(&app)), Arc::new(Semaphore::new(FAREWELLS)));
    Server { router, app, tls: None, connections: TaskTracker::new(), most: 10, farewells }
}

/// A connection to it, of which so much is buffered on the way.
fn connect(server: &Server, tasks: &mut JoinSet<()>, buffer: usize) -> DuplexStream {
    let (ours, theirs) = duplex(buffer);
    let place = server.place();
    let server = server.clone();
    tasks.spawn(async move { server.http(ours, ([127, 0, 0, 1], 1).into(), &place).await });
    theirs
}

/// A WebSocket that follows 100 users, up to its first answer, which is not read to its end.
async fn follow(client: &mut DuplexStream) {
    let head = "GET /api/v2/presence/ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(client.read_u8().await.unwrap());
    }
    let users: Vec<String> = (0..100).map(|user| format!("user-{user}")).collect();
    let text = serde_json::json!({ "op": "subscribe", "users": users }).to_string();
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    client.write_all(&frame).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_never_read_is_cut_with_a_reason_and_gives_back_its_place() {
    let (server, mut tasks) = (server(), JoinSet::new());
    let mut client = connect(&server, &mut tasks, 4_096);
    follow(&mut client).await;
    tasks.join_next().await;
    assert_eq!(server.app.connections.load(Ordering::Relaxed), 1, "its request is answered, and it stays");
    let begun = Instant::now();
    // He begins to read when it is too late, just.
    sleep(Duration::from_millis(20_500)).await;
    let mut told = Vec::new();
    client.read_to_end(&mut told).await.unwrap();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.ends_with("a message was not taken within 20 s"), "{}", &told[told.len().saturating_sub(200)..]);
    drop(client);
    server.connections.close();
    server.connections.wait().await;
    assert!(begun.elapsed() < Duration::from_secs(22), "{:?}", begun.elapsed());
    assert_eq!(server.app.connections.load(Ordering::Relaxed), 0);
    assert_eq!(server.app.cut.load(Ordering::Relaxed), 1);
    assert_eq!(server.app.hub.counts().1, 0, "it follows nobody any longer");
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_never_read_does_not_hold_up_the_end_of_the_node() {
    let (server, mut tasks) = (server(), JoinSet::new());
    let mut client = connect(&server, &mut tasks, 4_096);
    follow(&mut client).await;
    tasks.join_next().await;
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    server.app.stopping.cancel();
    server.connections.close();
    server.connections.wait().await;
    assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(server.app.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn when_nine_tenths_of_what_can_be_followed_is_new_connections_go_elsewhere() {
    let server = server();
    let mut follower = server.app.hub.follower();
    let user = |at: usize| UserId::try_from(format!("user-{at}")).unwrap();
    follower.follow((1..FOLLOWED / 10 * 9).map(user)).unwrap();
    assert!(!server.app.is_crowded());
    follower.follow([user(0)]).unwrap();
    assert!(server.app.is_crowded());
}

/// What is answered to these bytes until the other side ends, without what a date says.
async fn told(server: &Server, asked: &[&str]) -> String {
    let mut tasks = JoinSet::new();
    let mut client = connect(server, &mut tasks, 64 << 10);
    for part in asked {
        client.write_all(part.as_bytes()).await.unwrap();
        // All that there is is read before the next part comes.
        sleep(Duration::from_millis(1)).await;
    }
    client.shutdown().await.unwrap();
    let mut told = String::new();
    client.read_to_string(&mut told).await.unwrap();
    let lines = told.split_inclusive('\n').filter(|line| !line.starts_with("date: "));
    lines.collect()
}

/// A user of whom it is known that he was seen.
fn known(server: &Server, name: &str) {
    let mut user = crate::core::User::default();
    user.join(&"n1".parse().unwrap(), crate::core::Fact::Seen(1_000));
    server.app.shown.put(UserId::try_from(name).unwrap(), Some(Arc::new(user)), Ends::Never);
}

#[tokio::test(start_paused = true)]
async fn a_plain_read_is_answered_as_the_routes_answer_it() {
    let server = server();
    known(&server, "ann.o-b_c~1");
    for user in ["ann.o-b_c~1", "nobody", "a@b:c", &"x".repeat(128), &"x".repeat(129), "stream", "batch", "a%2Fb"] {
        let read = |query| format!("GET /api/v2/presence/{user}{query} HTTP/1.1\r\nHost: x\r\n\r\n");
        let plain = told(&server, &[&read("")]).await;
        let by_the_routes = told(&server, &[&read("?")]).await;
        assert!(plain.starts_with("HTTP/1.1 "), "{plain}");
        assert_eq!(plain, by_the_routes);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_in_their_order_however_they_come() {
    let server = server();
    known(&server, "ann");
    let get = |user: &str, lines: &str| format!("GET /api/v2/presence/{user} HTTP/1.1\r\nhost: x\r\n{lines}\r\n");
    let long = format!("x-long: {}\r\n", "y".repeat(3 << 10));
    let requests = [
        get("ann", ""),
        get("bob", "connection: keep-alive\r\n"),
        get("ann", "cookie: a\r\n"),
        "POST /api/v2/presence/batch HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n{\"user_ids\":[\"ann\"]}"
            .to_owned(),
        get("eve", ""),
        get("ann", &long),
    ];
    let mut apart = String::new();
    for request in &requests {
        apart += &told(&server, &[request]).await;
    }
    assert_eq!(apart.matches("HTTP/1.1 200 OK").count(), 6, "{apart}");
    let all = requests.concat();
    assert_eq!(told(&server, &[&all]).await, apart);
    let bytes: Vec<&str> = (0..all.len()).map(|at| &all[at..=at]).collect();
    assert_eq!(told(&server, &bytes).await, apart);
    assert_eq!(server.app.connections.load(Ordering::Relaxed), 0);
}
