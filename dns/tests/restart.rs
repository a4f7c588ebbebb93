//! A start without the store: the last zone from disk, marked stale, until the store is followed again.
#![allow(clippy::unwrap_used, reason = "a test's functions are tests as well")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use kith_dns::feed::{Cell, Event, Member, MemberState, Table};
use kith_dns::zone::Freshness;
use kith_dns::{Config, Dns, RunError, Status, StatusHandle};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here takes; a test that meets it has found something.
const BOUND: Duration = Duration::from_secs(20);

/// A running part, whose file is where the test has it.
struct Running {
    addr: SocketAddr,
    status: StatusHandle,
    feed: mpsc::UnboundedSender<Event>,
    token: CancellationToken,
    task: JoinSet<Result<(), RunError>>,
}

impl Running {
    async fn start(state: &Path) -> Self {
        let (feed, events) = mpsc::unbounded_channel();
        let config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            ranges: vec!["10.210.0.0/16".parse().unwrap()],
            state: Some(state.to_owned()),
            ..Config::new("s1")
        };
        let dns = Dns::build(config, UnboundedReceiverStream::new(events)).await.unwrap();
        let (addr, status, token) = (dns.addrs()[0], dns.status(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(dns.run(token.clone()));
        Self { addr, status, feed, token, task }
    }

    fn feed(&self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.feed.send(event).unwrap());
    }

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

    /// The code, the addresses and the extended error of a name.
    async fn ask(&self, name: &str) -> (ResponseCode, Vec<String>, Option<u16>) {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.set_edns(Edns::new());
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&message.to_vec().unwrap(), self.addr).await.unwrap();
        let mut buffer = [0; 4096];
        let len = timeout(BOUND, socket.recv(&mut buffer)).await.expect("an answer within the bound").unwrap();
        let reply = Message::from_vec(&buffer[..len]).unwrap();
        let error = match reply.edns.as_ref().and_then(|edns| edns.option(EdnsCode::from(15))) {
            Some(EdnsOption::Unknown(15, bytes)) => Some(u16::from_be_bytes([bytes[0], bytes[1]])),
            _ => None,
        };
        let mut addresses: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        addresses.sort();
        (reply.metadata.response_code, addresses, error)
    }

    async fn stop(mut self) {
        self.token.cancel();
        let ended = timeout(BOUND, self.task.join_next()).await.expect("stops within the bound");
        ended.expect("one task").expect("no panic").expect("stops cleanly");
    }
}

/// A container of `casa/api` on a server.
fn container(n: usize, server: &str) -> Event {
    let cells = vec![
        format!("{n:012x}").as_str().into(),
        "casa".into(),
        "api".into(),
        server.into(),
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

fn snapshot(containers: impl IntoIterator<Item = Event>) -> Vec<Event> {
    let mut events: Vec<Event> = Table::ALL.map(Event::Reset).into();
    let service = vec!["casa".into(), "api".into(), "[]".into(), Cell::Null, 0.into()];
    events.push(Event::Upsert { table: Table::Services, cells: service });
    events.extend(containers);
    events.extend(Table::ALL.map(Event::Synced));
    events
}

fn silent(server: &str) -> Event {
    let (state, boot_id) = (MemberState::Silent, String::new());
    Event::Member(Member { server: server.to_owned(), state, boot_id, heard: None, rtt: None })
}

/// A part that has run with two containers, of which one is on a silent server, and was stopped.
async fn file(dir: &Path) -> PathBuf {
    let state = dir.join("zone");
    let dns = Running::start(&state).await;
    dns.feed([silent("s2")]);
    dns.feed(snapshot([container(1, "s1"), container(2, "s2")]));
    dns.until("current", |status| status.generation == 1).await;
    dns.stop().await;
    state
}

const NAME: &str = "casa-api.internal";

#[tokio::test]
async fn a_start_without_the_store_answers_the_last_zone_and_says_that_it_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    let state = file(dir.path()).await;
    let dns = Running::start(&state).await;
    let stale = |addresses: &[&str]| {
        (ResponseCode::NoError, addresses.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>(), Some(3))
    };
    assert_eq!(dns.ask(NAME).await, stale(&["10.210.128.1"]));
    assert_eq!(dns.ask("casa-api-i2.internal").await, stale(&[]), "who was silent is");
    assert_eq!(dns.ask("nope.internal").await, (ResponseCode::NXDomain, Vec::new(), Some(19)));
    let status = dns.status.get();
    assert_eq!((status.freshness, status.generation), (Freshness::Stale, 1));
    assert!(status.stale_since.is_some());
    // Half of the tables change nothing: a name is never denied because its row is still on the way.
    let mut events = snapshot([container(2, "s2"), container(3, "s1")]);
    let last = events.pop().unwrap();
    dns.feed(events);
    assert_eq!(dns.ask(NAME).await, stale(&["10.210.128.1"]));
    dns.feed([last]);
    let status = dns.until("current", |status| status.freshness == Freshness::Current).await;
    assert_eq!(status.generation, 2, "the numbers of zones go on");
    let now = (ResponseCode::NoError, vec!["10.210.128.3".to_owned()], None);
    assert_eq!(dns.ask(NAME).await, now, "the silent server stays so until it is heard");
    assert_eq!(dns.ask("casa-api-i1.internal").await.0, ResponseCode::NXDomain, "what went meanwhile is gone");
    dns.stop().await;
}

#[tokio::test]
async fn a_zone_is_on_disk_while_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("zone");
    let dns = Running::start(&state).await;
    dns.feed(snapshot([container(1, "s1")]));
    dns.until("written", |_| state.exists()).await;
    let first = fs::read(&state).unwrap();
    dns.feed([container(2, "s1")]);
    dns.until("written again", |_| fs::read(&state).is_ok_and(|bytes| bytes != first)).await;
    dns.stop().await;
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "what was written aside has its name");
}

#[tokio::test]
async fn without_a_file_or_with_a_damaged_one_a_start_fails_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let state = file(dir.path()).await;
    let mut bytes = fs::read(&state).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&state, &bytes).unwrap();
    for path in [state, dir.path().join("none")] {
        let dns = Running::start(&path).await;
        assert_eq!(dns.ask(NAME).await, (ResponseCode::ServFail, Vec::new(), Some(14)));
        dns.stop().await;
    }
}
