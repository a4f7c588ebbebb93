//! Names that are not ours, asked of an upstream on loopback that does what the test says: over real sockets, both ways.
#![allow(clippy::unwrap_used, reason = "a test's functions are tests as well")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use kith_dns::feed::{Cell, Event, Table};
use kith_dns::forward::{Domain, ForwardStatus, Forwarding, Rebind, Upstream, Upstreams};
use kith_dns::zone::Freshness;
use kith_dns::{Config, Dns, RunError, StatusHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here takes; a test that meets it has found something.
const BOUND: Duration = Duration::from_secs(10);

/// What an upstream does with a question.
enum Act {
    Answer(Message),
    /// These datagrams, one after the other.
    Datagrams(Vec<Vec<u8>>),
    /// Nothing until the gate opens, and then this.
    Wait(watch::Receiver<bool>, Message),
    Nothing,
}

/// How a question came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    Datagram,
    Stream,
}

/// An upstream on loopback; it ends when dropped.
struct Fake {
    addr: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Fake {
    async fn start(script: impl Fn(&Message, Came) -> Act + Send + Sync + 'static) -> Self {
        let script = Arc::new(script);
        let asked = Arc::new(AtomicUsize::new(0));
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let addr = udp.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let (count, by_udp) = (Arc::clone(&asked), Arc::clone(&script));
        tasks.spawn(async move {
            let mut waiting = JoinSet::new();
            let mut buffer = [0; 4096];
            loop {
                let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let question = Message::from_vec(&buffer[..len]).unwrap();
                match by_udp(&question, Came::Datagram) {
                    Act::Answer(answer) => drop(udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap()),
                    Act::Datagrams(all) => {
                        for one in all {
                            udp.send_to(&one, from).await.unwrap();
                        }
                    }
                    Act::Wait(mut gate, answer) => {
                        let udp = Arc::clone(&udp);
                        waiting.spawn(async move {
                            gate.wait_for(|open| *open).await.unwrap();
                            udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                        });
                    }
                    Act::Nothing => {}
                }
            }
        });
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let Ok(length) = stream.read_u16().await else { continue };
                let mut question = vec![0; length.into()];
                stream.read_exact(&mut question).await.unwrap();
                if let Act::Answer(answer) = script(&Message::from_vec(&question).unwrap(), Came::Stream) {
                    let answer = answer.to_vec().unwrap();
                    stream.write_all(&[&(answer.len() as u16).to_be_bytes(), &*answer].concat()).await.unwrap();
                }
            }
        });
        Self { addr, asked, _tasks: tasks }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn upstream(&self) -> Upstream {
        Upstream::plain(self.addr)
    }
}

/// An answer to this question, of these records: `name ttl type data`.
fn reply(question: &Message, rcode: ResponseCode, answers: &[&str], authorities: &[&str]) -> Message {
    let mut message = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    message.metadata.response_code = rcode;
    message.add_query(question.queries[0].clone());
    message.add_answers(answers.iter().map(|text| record(text)));
    message.add_authorities(authorities.iter().map(|text| record(text)));
    message
}

fn record(text: &str) -> Record {
    let mut words = text.splitn(4, ' ');
    let mut word = || words.next().unwrap();
    let (name, ttl, rtype, data) = (word(), word(), word(), word());
    let data = RData::try_from_str(RecordType::from_str(rtype).unwrap(), data).unwrap();
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl.parse().unwrap(), data)
}

/// One address for every name, with this TTL.
fn one_address(question: &Message, ttl: u32) -> Message {
    let name = question.queries[0].name().to_ascii();
    reply(question, ResponseCode::NoError, &[&format!("{name} {ttl} A 192.0.2.1")], &[])
}

/// A running server with a whole, empty zone `internal`.
struct Running {
    addr: SocketAddr,
    status: StatusHandle,
    feed: mpsc::UnboundedSender<Event>,
    token: CancellationToken,
    task: JoinSet<Result<(), RunError>>,
}

impl Running {
    async fn start(forward: Forwarding) -> Self {
        Self::with_files(forward, Vec::new()).await
    }

    async fn with_files(forward: Forwarding, files: Vec<PathBuf>) -> Self {
        let ranges = vec!["10.210.0.0/16".parse().unwrap()];
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        Self::by(Config { listen, ranges, forward, files, ..Config::new("s1") }).await
    }

    async fn by(config: Config) -> Self {
        let (feed, events) = mpsc::unbounded_channel();
        for event in Table::ALL.map(Event::Reset).into_iter().chain(Table::ALL.map(Event::Synced)) {
            feed.send(event).unwrap();
        }
        let dns = Dns::build(config, UnboundedReceiverStream::new(events)).await.unwrap();
        let (addr, status, token) = (dns.addrs()[0], dns.status(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(dns.run(token.clone()));
        let running = Self { addr, status, feed, token, task };
        running.until("loaded", || running.status.get().generation > 0).await;
        running
    }

    /// Forwards everything to these.
    async fn to(upstreams: &[&Fake]) -> Self {
        let upstreams = upstreams.iter().map(|fake| fake.upstream()).collect();
        Self::start(Forwarding { upstreams: Upstreams::These(upstreams), ..Forwarding::refused() }).await
    }

    async fn until(&self, what: &str, is: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < BOUND, "not {what}, but {:?}", self.status.get());
            tokio::task::yield_now().await;
        }
    }

    fn forward(&self) -> ForwardStatus {
        self.status.get().forward.unwrap()
    }

    async fn ask(&self, name: &str, rtype: RecordType) -> Message {
        udp(self.addr, &query(7, name, rtype)).await
    }

    async fn stop(mut self) {
        self.token.cancel();
        let ended = timeout(BOUND, self.task.join_next()).await.expect("stops within the bound");
        ended.expect("one task").expect("no panic").expect("stops cleanly");
    }
}

fn query(id: u16, name: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    message
}

fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

async fn udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let len = timeout(BOUND, socket.recv(&mut buffer)).await.expect("an answer within the bound").unwrap();
    Message::from_vec(&buffer[..len]).unwrap()
}

async fn tcp(server: SocketAddr, messages: &[Message]) -> Vec<Message> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let mut answers = Vec::new();
    for message in messages {
        let bytes = message.to_vec().unwrap();
        stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), &*bytes].concat()).await.unwrap();
    }
    for _ in messages {
        let length = timeout(BOUND, stream.read_u16()).await.expect("an answer within the bound").unwrap();
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await.unwrap();
        answers.push(Message::from_vec(&answer).unwrap());
    }
    answers
}

/// Code, flags and data of an answer.
fn shown(message: &Message) -> String {
    let data = message.answers.iter().map(|record| format!(" {} {}", record.ttl, record.data));
    let ede = message.edns.as_ref().and_then(|edns| edns.option(EdnsCode::from(15))).map(|option| match option {
        EdnsOption::Unknown(_, bytes) => format!(" EDE {}", u16::from_be_bytes([bytes[0], bytes[1]])),
        _ => String::new(),
    });
    let flag = |set, text| if set { text } else { "" };
    let metadata = &message.metadata;
    let flags = [
        flag(metadata.authoritative, " AA"),
        flag(metadata.recursion_available, " RA"),
        flag(metadata.truncation, " TC"),
    ];
    let ede = ede.unwrap_or_default();
    format!("{}{}{}{ede}", metadata.response_code, flags.concat(), data.collect::<String>())
}

const SOA: &str = "example. 600 SOA ns.example. admin.example. 5 3600 600 86400 60";

#[tokio::test]
async fn a_foreign_name_is_asked_for_once_and_then_known() {
    let fake = Fake::start(|question, _| Act::Answer(one_address(question, 300))).await;
    let server = Running::to(&[&fake]).await;
    for name in ["www.example.", "WWW.Example.", "www.example."] {
        let answer = server.ask(name, RecordType::A).await;
        assert_eq!(shown(&answer), "No Error RA 300 192.0.2.1");
        assert_eq!(answer.metadata.id, 7);
        assert!(answer.queries[0].name().eq_case(&Name::from_ascii(name).unwrap()), "{}", answer.queries[0]);
    }
    let over_tcp = tcp(server.addr, &[query(9, "www.example.", RecordType::A)]).await;
    assert_eq!(shown(&over_tcp[0]), "No Error RA 300 192.0.2.1");
    assert_eq!(fake.asked(), 1);
    let forward = server.forward();
    assert_eq!((forward.misses, forward.hits, forward.entries), (1, 3, 1));
    assert_eq!(forward.upstreams[0].results[0], ("answered", 1));
    server.stop().await;
}

#[tokio::test]
async fn own_names_and_those_that_mean_this_host_are_never_asked_for() {
    let fake = Fake::start(|question, _| Act::Answer(one_address(question, 300))).await;
    let server = Running::to(&[&fake]).await;
    assert_eq!(shown(&server.ask("api.internal.", RecordType::A).await), "Non-Existent Domain AA RA");
    assert_eq!(shown(&server.ask("localhost.", RecordType::A).await), "No Error AA RA 10800 127.0.0.1");
    assert_eq!(shown(&server.ask("1.1.168.192.in-addr.arpa.", RecordType::PTR).await), "Non-Existent Domain AA RA");
    assert_eq!(fake.asked(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_name_of_one_label_is_denied_here_and_what_leads_below_a_top_level_domain_is_asked_for() {
    let ns = |question: &Message, _| {
        let name = question.queries[0].name().to_ascii();
        Act::Answer(reply(question, ResponseCode::NoError, &[&format!("{name} 60 NS a.example.")], &[]))
    };
    let (fake, corp) = (Fake::start(ns).await, Fake::start(|asked, _| Act::Answer(one_address(asked, 60))).await);
    let server = Running::start(Forwarding {
        upstreams: Upstreams::These(vec![fake.upstream()]),
        domains: vec![Domain { suffix: "corp".parse().unwrap(), servers: vec![corp.upstream()] }],
        ..Forwarding::refused()
    })
    .await;
    for rtype in [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::TXT] {
        let over_tcp = tcp(server.addr, &[query(9, "api.", rtype)]).await;
        for answer in [&server.ask("api.", rtype).await, &over_tcp[0]] {
            assert_eq!(shown(answer), "Non-Existent Domain AA RA", "{rtype}");
            // By an SOA at or above the name it may be kept (RFC 2308 §5).
            let soa = &answer.authorities[0];
            assert_eq!((soa.name.to_ascii(), soa.ttl, soa.record_type()), (".".into(), 5, RecordType::SOA));
        }
    }
    assert_eq!(fake.asked(), 0);
    assert_eq!(shown(&server.ask("example.", RecordType::NS).await), "No Error RA 60 a.example.");
    assert_eq!(shown(&server.ask("corp.", RecordType::A).await), "No Error RA 60 192.0.2.1");
    server.stop().await;
}

#[tokio::test]
async fn an_alias_of_ours_is_followed_to_who_answers_for_its_target() {
    let fake = Fake::start(|question, _| {
        let name = question.queries[0].name().to_ascii();
        Act::Answer(match &*name.to_ascii_lowercase() {
            "away.example." => {
                let addresses = (1..40).map(|n| format!("next.example. 60 A 192.0.2.{n}"));
                let records: Vec<_> = [format!("{name} 90 CNAME next.example.")].into_iter().chain(addresses).collect();
                let records: Vec<_> = records.iter().map(String::as_str).collect();
                let some = if question.queries[0].query_type() == RecordType::A { 40 } else { 1 };
                reply(question, ResponseCode::NoError, &records[..some], if some == 1 { &[SOA] } else { &[] })
            }
            "gone.example." => reply(question, ResponseCode::NXDomain, &[], &[SOA]),
            _ => reply(question, ResponseCode::ServFail, &[], &[]),
        })
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("zone");
    let aliases = "to CNAME away.example.\non CNAME to\ngone CNAME gone.example.\ndead CNAME dead.example.\n\
        me CNAME localhost.\nalone CNAME api.\n";
    std::fs::write(&file, format!("$ORIGIN internal.\n$TTL 30\n@ SOA a b 1 2 3 4 5\n{aliases}")).unwrap();
    let forward = Forwarding { upstreams: Upstreams::These(vec![fake.upstream()]), ..Forwarding::refused() };
    let server = Running::with_files(forward, vec![file]).await;
    for name in ["to.internal.", "on.internal.", "To.Internal."] {
        let whole = &tcp(server.addr, &[query(9, name, RecordType::A)]).await[0];
        let ours = if name == "on.internal." { " 30 to.internal." } else { "" };
        let begins = format!("No Error AA RA{ours} 30 away.example. 90 next.example. 60 192.0.2.1 60 192.0.2.2");
        assert!(shown(whole).starts_with(&begins), "{}", shown(whole));
        assert!(whole.queries[0].name().eq_case(&Name::from_ascii(name).unwrap()));
        let cut = server.ask(name, RecordType::A).await;
        assert!(cut.metadata.truncation && cut.answers.len() < whole.answers.len(), "{}", shown(&cut));
    }
    assert_eq!(fake.asked(), 1, "what stands at the target is kept");
    let nothing = server.ask("to.internal.", RecordType::AAAA).await;
    assert_eq!(shown(&nothing), "No Error AA RA 30 away.example. 90 next.example.");
    assert_eq!(nothing.authorities.len(), 1);
    let denied = server.ask("gone.internal.", RecordType::A).await;
    assert_eq!((shown(&denied), denied.authorities.len()), ("Non-Existent Domain AA RA 30 gone.example.".into(), 1));
    assert_eq!(shown(&server.ask("dead.internal.", RecordType::A).await), "Server Failure RA");
    assert_eq!(shown(&server.ask("me.internal.", RecordType::A).await), "No Error AA RA 30 localhost. 10800 127.0.0.1");
    assert_eq!(shown(&server.ask("alone.internal.", RecordType::A).await), "Non-Existent Domain AA RA 30 api.");
    // Who does not want recursion, or wants the alias itself, gets that.
    let mut own = query(7, "to.internal.", RecordType::A);
    own.metadata.recursion_desired = false;
    assert_eq!(shown(&udp(server.addr, &own).await), "No Error AA RA 30 away.example.");
    assert_eq!(shown(&server.ask("to.internal.", RecordType::CNAME).await), "No Error AA RA 30 away.example.");
    server.stop().await;
}

#[tokio::test]
async fn cookies_are_answered_whoever_knows_the_answer() {
    let fake = Fake::start(|question, _| Act::Answer(one_address(question, 300))).await;
    let server = Running::to(&[&fake]).await;
    // Asked for, kept, of this host, of one label, ours.
    for name in ["www.example.", "www.example.", "localhost.", "api.", "api.internal."] {
        let mut message = with_edns(query(7, name, RecordType::A), 1232);
        let edns = message.edns.as_mut().unwrap();
        edns.options_mut().insert(EdnsOption::Unknown(10, b"a client".to_vec()));
        for answer in [udp(server.addr, &message).await, tcp(server.addr, &[message]).await.remove(0)] {
            match answer.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Cookie)) {
                Some(EdnsOption::Unknown(_, both)) => assert_eq!((both.len(), &both[..8]), (24, &b"a client"[..])),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    assert_eq!(fake.asked(), 1);
    server.stop().await;
}

#[tokio::test]
async fn the_longest_domain_has_its_own_servers_and_may_point_anywhere() {
    let inside = |question: &Message, _| {
        let name = question.queries[0].name().to_ascii();
        Act::Answer(reply(question, ResponseCode::NoError, &[&format!("{name} 60 A 10.210.0.7")], &[]))
    };
    let (corp, other) = (Fake::start(inside).await, Fake::start(inside).await);
    let domain = |suffix: &str, servers| Domain { suffix: suffix.parse().unwrap(), servers };
    let server = Running::start(Forwarding {
        upstreams: Upstreams::These(vec![other.upstream()]),
        domains: vec![domain("corp.example", vec![corp.upstream()]), domain("google.internal", Vec::new())],
        ..Forwarding::refused()
    })
    .await;
    assert_eq!(shown(&server.ask("git.corp.example.", RecordType::A).await), "No Error RA 60 10.210.0.7");
    assert_eq!((corp.asked(), other.asked()), (1, 0));
    assert_eq!(shown(&server.ask("metadata.google.internal.", RecordType::A).await), "No Error RA 60 10.210.0.7");
    assert_eq!(
        shown(&udp(server.addr, &with_edns(query(7, "a.example.", RecordType::A), 1232)).await),
        "No Error RA EDE 15"
    );
    assert_eq!((corp.asked(), other.asked()), (1, 2));
    assert_eq!(server.forward().rebind_dropped, 1);
    server.stop().await;
}

#[tokio::test]
async fn many_who_ask_the_same_wait_for_one_question() {
    let (open, gate) = watch::channel(false);
    let fake = Fake::start(move |question, _| Act::Wait(gate.clone(), one_address(question, 60))).await;
    let server = Running::to(&[&fake]).await;
    let asked = (0..20).map(|_| server.ask("www.example.", RecordType::A));
    let (answers, ()) = tokio::join!(futures_util::future::join_all(asked), async {
        server.until("all waiting", || server.forward().misses == 20).await;
        open.send(true).unwrap();
    });
    assert!(answers.iter().all(|answer| shown(answer) == "No Error RA 60 192.0.2.1"));
    // One question; if the machine was slow, it was repeated after 400 ms.
    assert!((1..=3).contains(&fake.asked()), "{}", fake.asked());
    server.stop().await;
}

#[tokio::test]
async fn a_dead_upstream_costs_no_more_than_two_seconds_and_own_names_nothing() {
    let fake = Fake::start(|_, _| Act::Nothing).await;
    let server = Running::to(&[&fake]).await;
    let begun = Instant::now();
    let asked = with_edns(query(7, "www.example.", RecordType::A), 1232);
    let foreign = async {
        let answer = udp(server.addr, &asked).await;
        (answer, begun.elapsed())
    };
    let ours = async {
        server.until("waiting", || server.forward().misses == 1).await;
        let answer = server.ask("api.internal.", RecordType::A).await;
        (answer, begun.elapsed())
    };
    let ((foreign, took), (ours, before)) = tokio::join!(foreign, ours);
    assert_eq!(
        (shown(&foreign), shown(&ours)),
        ("Server Failure RA EDE 23".into(), "Non-Existent Domain AA RA".into())
    );
    assert!(before < Duration::from_secs(1), "own name after {before:?}");
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&took), "{took:?}");
    // Kept for a moment: whoever asks again does not wait again.
    let again = Instant::now();
    assert_eq!(shown(&udp(server.addr, &asked).await), "Server Failure RA EDE 23");
    assert!(again.elapsed() < Duration::from_secs(1));
    assert!(!server.forward().upstreams[0].working);
    server.stop().await;
}

#[tokio::test]
async fn one_that_is_gone_is_passed_over_and_one_that_fails_too() {
    let gone = Fake::start(|_, _| Act::Nothing).await;
    let closed = gone.upstream();
    drop(gone);
    let failing = Fake::start(|question, _| Act::Answer(reply(question, ResponseCode::ServFail, &[], &[]))).await;
    let good = Fake::start(|question, _| Act::Answer(one_address(question, 60))).await;
    let upstreams = Upstreams::These(vec![closed, failing.upstream(), good.upstream()]);
    let server = Running::start(Forwarding { upstreams, ..Forwarding::refused() }).await;
    assert_eq!(shown(&server.ask("www.example.", RecordType::A).await), "No Error RA 60 192.0.2.1");
    assert_eq!((failing.asked(), good.asked()), (1, 1));
    server.stop().await;
}

#[tokio::test]
async fn a_lie_is_ignored_and_the_truth_behind_it_taken() {
    let fake = Fake::start(|question, _| {
        let truth = one_address(question, 60);
        let mut other_id = truth.clone();
        other_id.metadata.id ^= 1;
        let mut other_name = reply(question, ResponseCode::NoError, &["www.example. 60 A 192.0.2.66"], &[]);
        other_name.queries[0].set_name(Name::from_ascii("bank.example.").unwrap());
        let all = [other_id, other_name, truth].map(|message| message.to_vec().unwrap());
        Act::Datagrams([vec![vec![1, 2, 3]], all.into()].concat())
    })
    .await;
    let server = Running::to(&[&fake]).await;
    assert_eq!(shown(&server.ask("www.example.", RecordType::A).await), "No Error RA 60 192.0.2.1");
    server.stop().await;
}

#[tokio::test]
async fn letters_in_another_case_are_not_believed_in_a_datagram_but_in_a_stream() {
    let fake = Fake::start(|question, came| {
        let mut answer = one_address(question, 60);
        if came == Came::Datagram {
            answer.answers = vec![record("x.example. 60 A 192.0.2.66")];
        }
        let lower = answer.queries[0].name().to_lowercase();
        answer.queries[0].set_name(lower);
        Act::Answer(answer)
    })
    .await;
    let server = Running::to(&[&fake]).await;
    // Enough letters that they are not all small by chance.
    let name = "abcdefghijklmnopqrstuvwxyz.abcdefghijklmnopqrstuvwxyz.example.";
    assert_eq!(shown(&server.ask(name, RecordType::A).await), "No Error RA 60 192.0.2.1");
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_fetched_by_a_stream_and_cut_for_whom_it_is_too_long() {
    let fake = Fake::start(|question, came| {
        let name = question.queries[0].name().to_ascii();
        let all: Vec<String> = (0..100).map(|n| format!("{name} 60 A 192.0.2.{n}")).collect();
        let mut answer = reply(question, ResponseCode::NoError, &[], &[]);
        match came {
            Came::Datagram => answer.metadata.truncation = true,
            Came::Stream => drop(answer.add_answers(all.iter().map(|text| record(text)))),
        }
        Act::Answer(answer)
    })
    .await;
    let server = Running::to(&[&fake]).await;
    let asked = query(7, "big.example.", RecordType::A);
    for _ in 0..2 {
        let small = udp(server.addr, &asked).await;
        assert!(small.metadata.truncation && (20..35).contains(&small.answers.len()), "{}", small.answers.len());
        let larger = udp(server.addr, &with_edns(asked.clone(), 4096)).await;
        assert!(larger.metadata.truncation && (60..80).contains(&larger.answers.len()), "{}", larger.answers.len());
        let whole = tcp(server.addr, std::slice::from_ref(&asked)).await;
        assert!(!whole[0].metadata.truncation);
        assert_eq!(whole[0].answers.len(), 100);
    }
    assert_eq!(fake.asked(), 1);
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_remembered_by_its_soa_and_aliases_are_followed_as_they_came() {
    let fake = Fake::start(|question, _| match &*question.queries[0].name().to_lowercase().to_ascii() {
        "none.example." => Act::Answer(reply(question, ResponseCode::NXDomain, &[], &[SOA])),
        "empty.example." => Act::Answer(reply(question, ResponseCode::NoError, &[], &[SOA])),
        _ => Act::Answer(reply(
            question,
            ResponseCode::NoError,
            &["alias.example. 300 CNAME b.example.", "b.example. 200 CNAME c.example.", "c.example. 100 A 192.0.2.3"],
            &[],
        )),
    })
    .await;
    let server = Running::to(&[&fake]).await;
    for _ in 0..2 {
        let none = server.ask("none.example.", RecordType::A).await;
        assert_eq!((shown(&none), none.authorities.len()), ("Non-Existent Domain RA".into(), 1));
        assert_eq!(none.authorities[0].ttl, 60);
        let empty = server.ask("empty.example.", RecordType::A).await;
        assert_eq!((shown(&empty), empty.authorities.len()), ("No Error RA".into(), 1));
        let alias = server.ask("alias.example.", RecordType::A).await;
        assert_eq!(shown(&alias), "No Error RA 300 b.example. 200 c.example. 100 192.0.2.3");
    }
    assert_eq!(fake.asked(), 3);
    server.stop().await;
}

#[tokio::test]
async fn an_expired_answer_is_given_while_the_upstream_is_dead() {
    let dead = Arc::new(AtomicUsize::new(0));
    let by = Arc::clone(&dead);
    let fake = Fake::start(move |question, _| match by.load(Ordering::SeqCst) {
        0 => Act::Answer(one_address(question, 1)),
        _ => Act::Answer(reply(question, ResponseCode::ServFail, &[], &[])),
    })
    .await;
    let server = Running::to(&[&fake]).await;
    let asked = with_edns(query(7, "www.example.", RecordType::A), 1232);
    assert_eq!(shown(&udp(server.addr, &asked).await), "No Error RA 1 192.0.2.1");
    dead.store(1, Ordering::SeqCst);
    let begun = Instant::now();
    loop {
        let answer = shown(&udp(server.addr, &asked).await);
        if answer == "No Error RA 30 192.0.2.1 EDE 3" {
            break;
        }
        assert!(begun.elapsed() < BOUND, "{answer}");
        assert!(answer == "No Error RA 1 192.0.2.1" || answer == "No Error RA 0 192.0.2.1", "{answer}");
    }
    assert!(server.forward().stale >= 1);
    server.stop().await;
}

#[tokio::test]
async fn a_question_that_comes_back_to_us_ends_there() {
    // An upstream that asks us what we ask it.
    let (tell, told) = watch::channel(None::<SocketAddr>);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::plain(socket.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let question = Message::from_vec(&buffer[..len]).unwrap();
            let server = told.clone().wait_for(Option::is_some).await.unwrap().unwrap();
            let answer = udp(server, &question).await;
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    let forward = Forwarding { upstreams: Upstreams::These(vec![upstream]), ..Forwarding::refused() };
    let server = Running::start(forward).await;
    tell.send(Some(server.addr)).unwrap();
    let begun = Instant::now();
    assert_eq!(shown(&server.ask("a-long-name-in-a-circle.example.", RecordType::A).await), "Server Failure RA");
    assert!(begun.elapsed() < Duration::from_secs(1), "it waited for itself");
    assert_eq!((asked.load(Ordering::SeqCst), server.forward().loops), (1, 1));
    server.stop().await;
}

#[tokio::test]
async fn one_client_that_waits_for_much_does_not_take_the_seats_of_others() {
    let fake = Fake::start(|question, _| {
        let slow = question.queries[0].name().to_ascii().starts_with(['s', 'S']);
        if slow { Act::Nothing } else { Act::Answer(one_address(question, 60)) }
    })
    .await;
    let server = Running::to(&[&fake]).await;
    let names: Vec<String> = (0..80).map(|n| format!("s{n}.example.")).collect();
    let asked = names.iter().map(|name| server.ask(name, RecordType::A));
    let (answers, other) = tokio::join!(futures_util::future::join_all(asked), async {
        server.until("at the bound", || server.forward().turned_away > 0).await;
        // Another address of the same host is another source.
        let socket = UdpSocket::bind("127.0.0.9:0").await.unwrap();
        socket.connect(server.addr).await.unwrap();
        socket.send(&query(3, "fast.example.", RecordType::A).to_vec().unwrap()).await.unwrap();
        let mut buffer = [0; 512];
        let len = timeout(BOUND, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
        Message::from_vec(&buffer[..len]).unwrap()
    });
    assert_eq!(shown(&other), "No Error RA 60 192.0.2.1");
    assert!(answers.iter().all(|answer| answer.metadata.response_code == ResponseCode::ServFail));
    assert_eq!(server.forward().turned_away, 16);
    server.stop().await;
}

#[tokio::test]
async fn an_answer_in_use_is_fetched_before_it_expires() {
    let fake = Fake::start(|question, _| Act::Answer(one_address(question, 5))).await;
    let server = Running::to(&[&fake]).await;
    let begun = Instant::now();
    while server.forward().prefetches == 0 {
        assert_eq!(server.ask("www.example.", RecordType::A).await.answers.len(), 1);
        assert!(begun.elapsed() < BOUND, "{:?}", server.forward());
    }
    server.until("fetched", || fake.asked() == 2).await;
    // Nobody waited for it.
    assert_eq!(server.forward().misses, 1);
    server.stop().await;
}

#[tokio::test]
async fn private_addresses_are_dropped_where_that_is_asked_for() {
    let fake = Fake::start(|question, _| {
        let name = question.queries[0].name().to_ascii();
        let answers = [format!("{name} 60 A 192.168.1.1"), format!("{name} 60 A 192.0.2.1")];
        Act::Answer(reply(question, ResponseCode::NoError, &[&answers[0], &answers[1]], &[]))
    })
    .await;
    let upstreams = Upstreams::These(vec![fake.upstream()]);
    let strict = Forwarding { upstreams, rebind: Rebind::Private, ..Forwarding::refused() };
    let (strict, plain) = (Running::start(strict).await, Running::to(&[&fake]).await);
    assert_eq!(shown(&strict.ask("a.example.", RecordType::A).await), "No Error RA 60 192.0.2.1");
    assert_eq!(plain.ask("a.example.", RecordType::A).await.answers.len(), 2);
    strict.stop().await;
    plain.stop().await;
}

#[tokio::test]
async fn an_upstream_cannot_point_into_the_range_of_a_server_wherever_that_is() {
    let fake = Fake::start(|question, _| {
        let name = question.queries[0].name().to_ascii();
        let address = if name.starts_with(['p', 'P']) { "192.0.2.1" } else { "172.20.3.1" };
        Act::Answer(reply(question, ResponseCode::NoError, &[&format!("{name} 60 A {address}")], &[]))
    })
    .await;
    let server = Running::to(&[&fake]).await;
    let row = |subnet: &str| {
        let mut cells = ["s2", "", "", ""].map(Cell::from).to_vec();
        cells.extend([Cell::Null, Cell::Integer(0), Cell::from(""), Cell::from(subnet)]);
        Event::Upsert { table: Table::Servers, cells }
    };
    // One that would be half of the world is not believed, nor one that is somebody's.
    for (name, subnet, expected, problems) in [
        ("a.example.", "", "No Error RA 60 172.20.3.1", 0),
        ("b.example.", "172.20.3.0/24", "No Error RA EDE 15", 0),
        ("c.example.", "128.0.0.0/1", "No Error RA 60 172.20.3.1", 1),
        ("public.example.", "192.0.2.0/24", "No Error RA 60 192.0.2.1", 1),
    ] {
        let before = server.status.get().generation;
        server.feed.send(row(subnet)).unwrap();
        server.until("a zone with it", || server.status.get().generation > before).await;
        let answer = udp(server.addr, &with_edns(query(7, name, RecordType::A), 1232)).await;
        assert_eq!(shown(&answer), expected, "{subnet}");
        assert_eq!(server.status.get().problem_count, problems, "{subnet}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_upstream_cannot_point_into_the_stores_range_nor_at_a_management_address() {
    let fake = Fake::start(|question, _| {
        let name = question.queries[0].name().to_ascii();
        let address = if name.starts_with(['m', 'M']) { "AAAA fdcc::7" } else { "A 10.7.0.9" };
        Act::Answer(reply(question, ResponseCode::NoError, &[&format!("{name} 60 {address}")], &[]))
    })
    .await;
    let forward = Forwarding { upstreams: Upstreams::These(vec![fake.upstream()]), ..Forwarding::refused() };
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let server = Running::by(Config { listen, forward, ..Config::new("s1") }).await;
    let ask = async |name, rtype| shown(&udp(server.addr, &with_edns(query(7, name, rtype), 1232)).await);
    assert_eq!(ask("a.example.", RecordType::A).await, "No Error RA 60 10.7.0.9");
    let before = server.status.get().generation;
    let cells = vec![Cell::from("cluster_cidr"), Cell::from("10.7.0.0/16")];
    server.feed.send(Event::Upsert { table: Table::Metadata, cells }).unwrap();
    server.until("a zone with it", || server.status.get().generation > before).await;
    assert_eq!(ask("b.example.", RecordType::A).await, "No Error RA EDE 15");
    assert_eq!(ask("m.example.", RecordType::AAAA).await, "No Error RA EDE 15");
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_follows_an_alias_is_counted_as_ours_and_says_that_it_is_stale() {
    let fake = Fake::start(|question, _| Act::Answer(one_address(question, 60))).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("zone");
    std::fs::write(&file, "$ORIGIN internal.\n$TTL 30\n@ SOA a b 1 2 3 4 5\nto CNAME away.example.\n").unwrap();
    let forward = Forwarding { upstreams: Upstreams::These(vec![fake.upstream()]), ..Forwarding::refused() };
    let server = Running::with_files(forward, vec![file]).await;
    let question = with_edns(query(7, "to.internal.", RecordType::A), 1232);
    let expected = "No Error AA RA 30 away.example. 60 192.0.2.1";
    assert_eq!(shown(&udp(server.addr, &question).await), expected);
    server.feed.send(Event::FeedLost).unwrap();
    server.until("stale", || server.status.get().freshness == Freshness::Stale).await;
    for answer in [udp(server.addr, &question).await, tcp(server.addr, std::slice::from_ref(&question)).await.remove(0)]
    {
        assert_eq!(shown(&answer), format!("{expected} EDE 3"));
    }
    let zones: Vec<_> = server.status.get().queries.iter().map(|count| (count.zone.clone(), count.count)).collect();
    assert_eq!(zones, [("internal".to_owned(), 3)]);
    server.stop().await;
}

/// An upstream that speaks TLS, has a certificate for this name and answers so; the certificate in PEM, and how often it
/// was connected to.
async fn secure(
    name: &str,
    answer: impl Fn(&Message) -> Message + Send + 'static,
) -> (SocketAddr, String, Arc<AtomicUsize>, JoinSet<()>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            // Who does not trust the certificate goes.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            while let Ok(length) = stream.read_u16().await {
                let mut question = vec![0; length.into()];
                stream.read_exact(&mut question).await.unwrap();
                let answer = answer(&Message::from_vec(&question).unwrap()).to_vec().unwrap();
                stream.write_all(&[&(answer.len() as u16).to_be_bytes(), &*answer].concat()).await.unwrap();
            }
        }
    });
    (addr, certificate.pem(), connections, tasks)
}

#[tokio::test]
async fn an_upstream_by_tls_proves_its_name_and_its_connection_is_kept() {
    let (addr, pem, connections, _tasks) = secure("dns.example", |question| one_address(question, 60)).await;
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.pem");
    std::fs::write(&trusted, pem).unwrap();
    let to = |name: &str| Forwarding {
        upstreams: Upstreams::These(vec![format!("tls://{addr}#{name}").parse().unwrap()]),
        trusted: Some(trusted.clone()),
        ..Forwarding::refused()
    };
    let server = Running::start(to("dns.example")).await;
    for name in ["a.example.", "b.example."] {
        assert_eq!(shown(&server.ask(name, RecordType::A).await), "No Error RA 60 192.0.2.1");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    server.stop().await;
    let other = Running::start(to("other.example")).await;
    assert_eq!(shown(&other.ask("a.example.", RecordType::A).await), "Server Failure RA");
    other.stop().await;
}

#[tokio::test]
async fn certificates_that_come_later_are_read_and_a_connection_with_another_ones_answer_is_not_kept() {
    let wrong = |question: &Message| {
        let mut answer = one_address(question, 60);
        if question.queries[0].name().to_lowercase().to_ascii() == "wrong.example." {
            answer.metadata.id ^= 1;
        }
        answer
    };
    let (addr, pem, connections, _tasks) = secure("dns.example", wrong).await;
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.pem");
    let server = Running::start(Forwarding {
        upstreams: Upstreams::These(vec![format!("tls://{addr}#dns.example").parse().unwrap()]),
        trusted: Some(trusted.clone()),
        ..Forwarding::refused()
    })
    .await;
    assert_eq!(shown(&server.ask("a.example.", RecordType::A).await), "Server Failure RA");
    std::fs::write(&trusted, pem).unwrap();
    assert_eq!(shown(&server.ask("b.example.", RecordType::A).await), "No Error RA 60 192.0.2.1");
    let before = connections.load(Ordering::SeqCst);
    assert_eq!(shown(&server.ask("wrong.example.", RecordType::A).await), "Server Failure RA");
    let between = connections.load(Ordering::SeqCst);
    assert_eq!(shown(&server.ask("c.example.", RecordType::A).await), "No Error RA 60 192.0.2.1");
    assert_eq!(connections.load(Ordering::SeqCst), between + 1, "{before} before");
    server.stop().await;
}

#[tokio::test]
async fn an_upstream_that_refuses_one_name_is_asked_about_the_others() {
    let first = Fake::start(|question, _| {
        let refuses = question.queries[0].name().to_lowercase().to_ascii() == "no.example.";
        Act::Answer(match refuses {
            true => reply(question, ResponseCode::Refused, &[], &[]),
            false => one_address(question, 60),
        })
    })
    .await;
    let second = Fake::start(|question, _| Act::Answer(one_address(question, 60))).await;
    let server = Running::to(&[&first, &second]).await;
    for name in ["no.example.", "yes.example."] {
        assert_eq!(shown(&server.ask(name, RecordType::A).await), "No Error RA 60 192.0.2.1");
    }
    assert_eq!(first.asked(), 2, "the second question is its as well");
    assert!(server.forward().upstreams.iter().all(|upstream| upstream.working));
    server.stop().await;
}

#[tokio::test]
async fn where_every_upstream_is_left_out_it_is_said_at_once() {
    let server = Running::start(Forwarding { upstreams: Upstreams::These(Vec::new()), ..Forwarding::refused() }).await;
    let begun = Instant::now();
    let answer = udp(server.addr, &with_edns(query(7, "www.example.", RecordType::A), 1232)).await;
    assert_eq!(shown(&answer), "Server Failure RA EDE 23");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    server.stop().await;
}

#[tokio::test]
async fn without_upstreams_foreign_names_are_refused() {
    let server = Running::start(Forwarding::refused()).await;
    assert_eq!(shown(&server.ask("www.example.", RecordType::A).await), "Query Refused");
    assert_eq!(shown(&server.ask("api.", RecordType::A).await), "Non-Existent Domain AA");
    assert_eq!(server.status.get().forward, None);
    server.stop().await;
}
