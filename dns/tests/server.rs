//! The part as others use it: built, run, asked over real sockets, fed, stopped.
#![allow(clippy::unwrap_used, reason = "a test's functions are tests as well")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use kith_dns::feed::{Cell, Event, Table};
use kith_dns::zone::Freshness;
use kith_dns::{BuildError, Config, Dns, RunError, Status, StatusHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here takes; a test that meets it has found something.
const BOUND: Duration = Duration::from_secs(10);

/// A running part with a feed in the test's hand.
struct Running {
    addrs: Vec<SocketAddr>,
    status: StatusHandle,
    feed: mpsc::UnboundedSender<Event>,
    token: CancellationToken,
    task: JoinSet<Result<(), RunError>>,
}

impl Running {
    async fn start(listen: &[&str]) -> Self {
        Self::with(config(listen)).await
    }

    async fn with(config: Config) -> Self {
        let (feed, events) = mpsc::unbounded_channel();
        let dns = Dns::build(config, UnboundedReceiverStream::new(events)).await.unwrap();
        let (addrs, status, token) = (dns.addrs().to_vec(), dns.status(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(dns.run(token.clone()));
        Self { addrs, status, feed, token, task }
    }

    fn feed(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.feed.send(event).unwrap();
        }
    }

    /// The status, once it is as it should be.
    async fn until(&self, what: &str, is: impl Fn(&Status) -> bool) -> Status {
        let begun = Instant::now();
        loop {
            let status = self.status.get();
            if is(&status) {
                return status;
            }
            assert!(begun.elapsed() < BOUND, "not {what}, but {status:?}");
            tokio::task::yield_now().await;
        }
    }

    async fn stop(mut self) {
        self.token.cancel();
        let ended = timeout(BOUND, self.task.join_next()).await.expect("stops within the bound");
        ended.expect("one task").expect("no panic").expect("stops cleanly");
    }
}

#[tokio::test]
async fn who_may_not_ask_is_not_heard() {
    let config = Config { allow: vec!["10.0.0.0/8".parse().unwrap()], ..config(&["127.0.0.1:0"]) };
    let dns = Running::with(config).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(dns.addrs[0]).await.unwrap();
    socket.send(&query(1, "internal", RecordType::SOA).to_vec().unwrap()).await.unwrap();
    dns.until("denied", |status| status.denied == 1).await;
    let mut stream = TcpStream::connect(dns.addrs[0]).await.unwrap();
    assert_eq!(timeout(BOUND, stream.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
    let status = dns.until("denied", |status| status.denied == 2).await;
    assert_eq!((status.queries, status.dropped), (Vec::new(), 0));
    dns.stop().await;
}

#[tokio::test]
async fn lists_of_everything_are_made_beside_the_workers() {
    let dns = Running::start(&["127.0.0.1:0"]).await;
    dns.feed(snapshot(3));
    dns.until("current", |status| status.freshness == Freshness::Current).await;
    let asked = query(1, "_instances.internal", RecordType::TXT);
    for answer in [udp(dns.addrs[0], &asked).await, tcp(dns.addrs[0], &asked).await] {
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 1));
        assert!(answer.answers[0].data.to_string().contains("app=casa-api,ip=10.210.128.0"), "{answer:?}");
    }
    // The first one found no list, the second that of the first.
    let counted = dns.until("counted", |status| status.at_once.count() + status.later.count() == 2).await;
    assert_eq!(counted.later.count(), 1);
    dns.stop().await;
}

fn config(listen: &[&str]) -> Config {
    Config {
        listen: listen.iter().map(|addr| addr.parse().unwrap()).collect(),
        threads: 3.try_into().unwrap(),
        ranges: vec!["10.210.0.0/16".parse().unwrap()],
        ..Config::new("s1")
    }
}

fn container(n: usize) -> Event {
    let cells = vec![
        format!("{n:064x}").chars().rev().collect::<String>().as_str().into(),
        "casa".into(),
        "api".into(),
        "s1".into(),
        format!("i{n}").as_str().into(),
        format!("10.210.128.{n}").as_str().into(),
        "".into(),
        "[]".into(),
        "healthy".into(),
        0.into(),
        0.into(),
    ];
    Event::Upsert { table: Table::Containers, cells }
}

/// Everything up to the last `Synced`, with one service of so many containers.
fn snapshot(containers: usize) -> Vec<Event> {
    let mut events: Vec<Event> = Table::ALL.map(Event::Reset).into();
    let service = vec!["casa".into(), "api".into(), "[]".into(), Cell::Null, 0.into()];
    events.push(Event::Upsert { table: Table::Services, cells: service });
    events.extend((0..containers).map(container));
    events.extend(Table::ALL.map(Event::Synced));
    events
}

fn query(id: u16, name: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    message
}

async fn udp(server: SocketAddr, message: &Message) -> Message {
    let local: SocketAddr = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
    let socket = UdpSocket::bind(local).await.unwrap();
    // Connected: an answer from any other address does not arrive.
    socket.connect(server).await.unwrap();
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let len = timeout(BOUND, socket.recv(&mut buffer)).await.expect("an answer within the bound").unwrap();
    Message::from_vec(&buffer[..len]).unwrap()
}

async fn send(stream: &mut TcpStream, message: &Message) {
    let wire = message.to_vec().unwrap();
    stream.write_all(&(wire.len() as u16).to_be_bytes()).await.unwrap();
    stream.write_all(&wire).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Message {
    let length = timeout(BOUND, stream.read_u16()).await.expect("an answer within the bound").unwrap();
    let mut wire = vec![0; usize::from(length)];
    stream.read_exact(&mut wire).await.unwrap();
    Message::from_vec(&wire).unwrap()
}

async fn tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    send(&mut stream, message).await;
    receive(&mut stream).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_and_tcp_answer_on_one_port_and_a_cut_answer_is_whole_by_tcp() {
    let dns = Running::start(&["127.0.0.1:0"]).await;
    dns.feed(snapshot(60));
    dns.until("current", |status| status.freshness == Freshness::Current).await;
    let asked = query(1, "casa-api.internal", RecordType::A);
    let cut = udp(dns.addrs[0], &asked).await;
    assert!(cut.metadata.truncation && cut.answers.len() < 60);
    let whole = tcp(dns.addrs[0], &asked).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 60);
    let counts = dns.until("counted", |status| status.queries.iter().map(|count| count.count).sum::<u64>() == 2).await;
    assert_eq!(
        (counts.queries[0].zone.as_str(), counts.queries[0].qtype, counts.queries[0].rcode),
        ("internal", "A", "NOERROR")
    );
    dns.stop().await;
}

#[tokio::test]
async fn before_the_first_zone_it_fails_and_says_why() {
    let dns = Running::start(&["127.0.0.1:0"]).await;
    let mut events = snapshot(1);
    let last = events.pop().unwrap();
    dns.feed(events);
    let mut asked = query(1, "casa-api.internal", RecordType::A);
    asked.set_edns(Edns::new());
    let reply = udp(dns.addrs[0], &asked).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(ede(&reply), Some(14));
    assert_eq!(dns.status.get().generation, 0);
    dns.feed([last]);
    dns.until("current", |status| status.generation == 1).await;
    assert_eq!(udp(dns.addrs[0], &asked).await.answers.len(), 1);
    dns.stop().await;
}

#[tokio::test]
async fn a_lost_feed_leaves_the_answers_and_a_new_snapshot_replaces_them() {
    let dns = Running::start(&["127.0.0.1:0"]).await;
    dns.feed(snapshot(3));
    dns.until("current", |status| status.generation == 1).await;
    dns.feed([Event::FeedLost]);
    let status = dns.until("stale", |status| status.freshness == Freshness::Stale).await;
    assert!(status.stale_since.is_some());
    let mut asked = query(1, "casa-api.internal", RecordType::A);
    asked.set_edns(Edns::new());
    let reply = udp(dns.addrs[0], &asked).await;
    assert_eq!((reply.answers.len(), ede(&reply)), (3, Some(3)));
    dns.feed(snapshot(2));
    let status = dns.until("current", |status| status.freshness == Freshness::Current).await;
    assert_eq!(status.stale_since, None);
    let reply = udp(dns.addrs[0], &asked).await;
    assert_eq!((reply.answers.len(), ede(&reply)), (2, None));
    dns.stop().await;
}

#[tokio::test]
async fn events_that_come_together_make_one_zone() {
    let dns = Running::start(&["127.0.0.1:0"]).await;
    dns.feed(snapshot(0));
    dns.until("current", |status| status.generation == 1).await;
    dns.feed((0..50).map(container));
    let status = dns.until("changed", |status| status.zones[0].names > 100).await;
    assert!(status.generation < 20, "{} zones for 50 events", status.generation);
    dns.stop().await;
}

#[tokio::test]
async fn one_connection_takes_many_queries_at_once_and_in_pieces() {
    let dns = Running::start(&["127.0.0.1:0"]).await;
    dns.feed(snapshot(1));
    dns.until("current", |status| status.generation == 1).await;
    let mut stream = TcpStream::connect(dns.addrs[0]).await.unwrap();
    for id in 0..50 {
        send(&mut stream, &query(id, "casa-api.internal", RecordType::A)).await;
    }
    for id in 0..50 {
        assert_eq!(receive(&mut stream).await.metadata.id, id);
    }
    let wire = query(99, "casa-api.internal", RecordType::A).to_vec().unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in [&(wire.len() as u16).to_be_bytes()[..], &wire].concat() {
        stream.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(receive(&mut stream).await.metadata.id, 99);
    // What is no query ends the connection, and only this one.
    stream.write_all(&[0, 0]).await.unwrap();
    assert_eq!(timeout(BOUND, stream.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert_eq!(tcp(dns.addrs[0], &query(1, "internal", RecordType::SOA)).await.answers.len(), 1);
    dns.stop().await;
}

#[tokio::test]
async fn one_source_cannot_take_all_connections() {
    let dns = Running::start(&["127.0.0.1:0", "127.0.0.1:0"]).await;
    let mut streams = Vec::new();
    // By whichever address they come.
    for n in 0..257 {
        streams.push(TcpStream::connect(dns.addrs[n % 2]).await.unwrap());
    }
    dns.until("refused", |status| status.connections_refused == 1).await;
    // The listeners take turns as they like: one of them is closed.
    let closed =
        |stream: &TcpStream| !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    let begun = Instant::now();
    while streams.extract_if(.., |stream| closed(stream)).count() == 0 {
        assert!(begun.elapsed() < BOUND, "no connection is closed");
        tokio::task::yield_now().await;
    }
    // A seat that is given up is free for the next one.
    drop(streams.pop());
    let begun = Instant::now();
    loop {
        let mut stream = TcpStream::connect(dns.addrs[0]).await.unwrap();
        let wire = query(1, "www.example.com", RecordType::A).to_vec().unwrap();
        let sent = stream.write_all(&[&(wire.len() as u16).to_be_bytes()[..], &wire].concat()).await;
        if sent.is_ok() && timeout(BOUND, stream.read_u16()).await.unwrap().is_ok() {
            break;
        }
        assert!(begun.elapsed() < BOUND, "no seat became free");
    }
    dns.stop().await;
}

#[tokio::test]
async fn of_many_askers_at_once_each_gets_its_own_answers() {
    let dns = Running::start(&["127.0.0.1:0"]).await;
    dns.feed(snapshot(1));
    dns.until("current", |status| status.generation == 1).await;
    let mut sockets = Vec::new();
    for n in 0..64 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(dns.addrs[0]).await.unwrap();
        sockets.push((n, socket));
    }
    for id in 0..8 {
        for (n, socket) in &sockets {
            // A datagram that is no query, and gets no answer, is among those that do.
            socket.send(b"?").await.unwrap();
            let name = ["casa-api.internal", "internal", "www.example.com"][n % 3];
            socket.send(&query(8 * *n as u16 + id, name, RecordType::A).to_vec().unwrap()).await.unwrap();
        }
    }
    for (n, socket) in &sockets {
        let mut ids = Vec::new();
        for _ in 0..8 {
            let mut buffer = [0; 4096];
            let len = timeout(BOUND, socket.recv(&mut buffer)).await.expect("an answer within the bound").unwrap();
            let reply = Message::from_vec(&buffer[..len]).unwrap();
            assert_eq!(reply.answers.len(), usize::from(n % 3 == 0), "{reply:?}");
            ids.push(reply.metadata.id);
        }
        assert_eq!(ids, (0..8).map(|id| 8 * *n as u16 + id).collect::<Vec<_>>());
    }
    let status = dns.until("counted", |status| status.dropped == 512).await;
    assert_eq!(status.queries.iter().map(|count| count.count).sum::<u64>(), 512);
    dns.stop().await;
}

#[tokio::test]
async fn a_part_that_is_thrown_away_leaves_no_socket_behind() {
    let mut dns = Running::start(&["127.0.0.1:0"]).await;
    udp(dns.addrs[0], &query(1, "internal", RecordType::SOA)).await;
    dns.task.shutdown().await;
    UdpSocket::bind(dns.addrs[0]).await.unwrap();
    TcpListener::bind(dns.addrs[0]).await.unwrap();
}

#[tokio::test]
async fn a_wildcard_listener_answers_from_the_address_asked() {
    for (listen, asked) in [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "::1")] {
        let dns = Running::start(&[listen]).await;
        let server = SocketAddr::new(asked.parse().unwrap(), dns.addrs[0].port());
        let reply = udp(server, &query(5, "www.example.com", RecordType::A)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        dns.stop().await;
    }
}

#[tokio::test]
async fn every_socket_can_be_bound_again_after_a_stop() {
    let dns = Running::start(&["127.0.0.1:0", "127.0.0.1:0"]).await;
    let addrs = dns.addrs.clone();
    // A connection in the middle of a message holds nothing up.
    let mut half = TcpStream::connect(addrs[0]).await.unwrap();
    half.write_all(&[0xff, 0xff, 1]).await.unwrap();
    tcp(addrs[0], &query(1, "internal", RecordType::SOA)).await;
    dns.stop().await;
    for addr in addrs {
        UdpSocket::bind(addr).await.unwrap();
        TcpListener::bind(addr).await.unwrap();
    }
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let error = Dns::build(config(&[&addr]), tokio_stream::pending()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen for DNS on {addr}"));
    assert!(matches!(Dns::build(config(&[]), tokio_stream::pending()).await, Err(BuildError::NoAddress)));
}

#[tokio::test]
async fn a_feed_that_ends_ends_the_part() {
    let mut dns = Running::start(&["127.0.0.1:0"]).await;
    let (feed, _) = mpsc::unbounded_channel();
    drop(std::mem::replace(&mut dns.feed, feed));
    let ended = timeout(BOUND, dns.task.join_next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(ended, Err(RunError::FeedEnded)), "{ended:?}");
}

fn ede(message: &Message) -> Option<u16> {
    match message.edns.as_ref()?.option(EdnsCode::from(15))? {
        EdnsOption::Unknown(15, bytes) => Some(u16::from_be_bytes([bytes[0], bytes[1]])),
        _ => None,
    }
}
