//! Foreign names, answered late by an answerer of the test's own, over real sockets.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket as Client};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::{Bound, Cluster, Desk, Foreign, Wire, Worker, bind, serve_tcp, tcp};
use super::*;
use crate::access::Access;
use crate::answer::Rcode;
use crate::status::{Counters, Published, Writers};
use crate::tap::Tap;
use crate::testing::{self, query};
use crate::zone::Owner;

/// Far beyond what anything here takes.
const BOUND: Duration = Duration::from_secs(10);

/// A running listener. Names below `late.` are answered when the test allows it, other foreign names at once.
struct Running {
    addr: SocketAddr,
    allow: Arc<Semaphore>,
    counters: Arc<[Counters]>,
    token: CancellationToken,
    tasks: JoinSet<()>,
    /// Kept where it does not run, so that the queue stays.
    idle: Option<Slow>,
}

#[derive(PartialEq, Eq)]
enum Runs {
    All,
    /// All but the slow path.
    Fast,
}

impl Running {
    fn start(listen: &str, runs: &Runs) -> Self {
        let allow = Arc::new(Semaphore::new(0));
        let (queue, slow) = slow(answerer(Arc::clone(&allow)));
        let zone = testing::zone([testing::service("casa", "api"), testing::container("a", "casa/api", "10.210.0.1")]);
        let now = tokio::time::Instant::now();
        let published = Published { zone, built: now, took: Duration::ZERO, stale_since: None };
        let published = Arc::new(ArcSwap::from_pointee(published));
        let counters: Arc<[Counters]> = (0..3).map(|_| Counters::new(1, Writers::Many)).collect();
        let desk = |mine| Desk {
            tap: Tap::default(),
            published: Arc::clone(&published),
            all: Arc::clone(&counters),
            mine,
            worker: (mine == 0).then_some(0),
            access: Arc::new(ArcSwap::from_pointee(Access::new(
                ["127.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap()),
            ))),
            cluster: Cluster::Heard,
            connections: tcp::seats(),
            cookies: testing::COOKIES,
            rate: None,
            slow: Some(queue.clone()),
            foreign: Foreign::Forwarded,
            front: None,
        };
        let Bound { addr, udp, tcp } = bind(listen.parse().unwrap(), 1.try_into().unwrap()).unwrap();
        let (token, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for socket in udp {
            let (worker, stop) = (Worker::start(socket, desk(0), None).unwrap(), token.clone());
            tasks.spawn(async move { worker.run(stop).await.unwrap() });
        }
        let (for_tcp, stop) = (desk(1), token.clone());
        tasks.spawn(async move { serve_tcp(tcp, Wire::Plain, for_tcp, stop).await.unwrap() });
        let mut idle = Some(slow);
        if let Some(slow) = idle.take_if(|_| *runs == Runs::All) {
            let (for_slow, stop) = (desk(2), token.clone());
            tasks.spawn(async move { slow.run(for_slow, stop).await.unwrap() });
        }
        Self { addr, allow, counters, token, tasks, idle }
    }

    async fn stop(mut self) {
        self.token.cancel();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        };
        timeout(BOUND, all).await.expect("stops within the bound");
        drop(self.idle);
        UdpSocket::bind(self.addr).unwrap();
    }
}

fn answerer(allow: Arc<Semaphore>) -> Answerer {
    Answerer::new(move |question| {
        let allow = Arc::clone(&allow);
        async move {
            assert!(question.worker().is_some() == (question.asked().transport == Transport::Udp));
            let mut reply = Message::from_vec(question.asked().query).unwrap();
            if reply.queries[0].name().to_string().starts_with("late.") {
                allow.acquire().await.unwrap().forget();
            }
            reply.metadata.response_code = ResponseCode::NXDomain;
            let tally = Tally { owner: Owner::Nobody, qtype: 1, rcode: Rcode::NxDomain };
            Some(Replied { reply: reply.to_vec().unwrap(), tally, from: Basis::Forward })
        }
    })
}

async fn client(server: SocketAddr) -> Client {
    let client = Client::bind(SocketAddr::new(server.ip(), 0)).await.unwrap();
    client.connect(server).await.unwrap();
    client
}

async fn send(client: &Client, id: u16, name: &str) {
    let mut message = query(name, "A");
    message.metadata.id = id;
    client.send(&message.to_vec().unwrap()).await.unwrap();
}

async fn receive(client: &Client) -> Message {
    let mut buffer = [0; 4096];
    let len = timeout(BOUND, client.recv(&mut buffer)).await.expect("an answer within the bound").unwrap();
    testing::decode(&buffer[..len])
}

#[tokio::test]
async fn a_late_answer_holds_up_no_other_one() {
    let running = Running::start("127.0.0.1:0", &Runs::All);
    let client = client(running.addr).await;
    send(&client, 1, "late.example").await;
    send(&client, 2, "casa-api.internal").await;
    assert_eq!(receive(&client).await.answers.len(), 1);
    send(&client, 3, "www.example").await;
    assert_eq!(receive(&client).await.metadata.id, 3);
    running.allow.add_permits(1);
    let late = receive(&client).await;
    assert_eq!((late.metadata.id, late.metadata.response_code), (1, ResponseCode::NXDomain));
    assert_eq!(running.counters[2].counted(&Tally { owner: Owner::Nobody, qtype: 1, rcode: Rcode::NxDomain }), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_late_answer_comes_from_the_address_asked() {
    for (listen, asked) in [("0.0.0.0:0", "127.0.0.3"), ("[::]:0", "::1")] {
        let running = Running::start(listen, &Runs::All);
        let server = SocketAddr::new(asked.parse().unwrap(), running.addr.port());
        // Connected: an answer from any other address does not arrive.
        let client = client(server).await;
        send(&client, 7, "www.example").await;
        assert_eq!(receive(&client).await.metadata.id, 7);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_flood_of_foreign_names_is_refused_at_the_bound_and_own_names_are_answered() {
    let running = Running::start("127.0.0.1:0", &Runs::Fast);
    let client = client(running.addr).await;
    for id in 0..QUEUE_MAX as u16 {
        send(&client, id, "www.example").await;
        // Now and then, so that no datagram is lost on the way.
        if id % 64 == 0 {
            send(&client, 5000, "casa-api.internal").await;
            assert_eq!(receive(&client).await.metadata.id, 5000);
        }
    }
    let mut one_more = query("www.example", "A");
    one_more.set_edns(hickory_proto::op::Edns::new());
    client.send(&one_more.to_vec().unwrap()).await.unwrap();
    let refused = receive(&client).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    let ede = refused.edns.unwrap().option(15.into()).cloned();
    assert_eq!(ede, Some(hickory_proto::rr::rdata::opt::EdnsOption::Unknown(15, vec![0, 23])));
    send(&client, 5001, "casa-api.internal").await;
    assert_eq!(receive(&client).await.answers.len(), 1);
    assert_eq!(running.counters[0].overflows.load(std::sync::atomic::Ordering::Relaxed), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_connection_answers_in_the_order_in_which_answers_are_there() {
    let running = Running::start("127.0.0.1:0", &Runs::All);
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    // More late ones than may wait: those behind them are read when some are answered.
    let names = (0..2 * 64).map(|_| "late.example").chain(["casa-api.internal"]);
    let mut wire = Vec::new();
    for (id, name) in ["casa-api.internal", "late.example", "www.example"].into_iter().chain(names).enumerate() {
        let mut message = query(name, "A");
        message.metadata.id = id as u16;
        let bytes = message.to_vec().unwrap();
        wire.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        wire.extend_from_slice(&bytes);
    }
    stream.write_all(&wire).await.unwrap();
    // Who says that it has no more to ask still gets its answers.
    stream.shutdown().await.unwrap();
    let mut ids = Vec::new();
    while ids.len() < 132 {
        let length = timeout(BOUND, stream.read_u16()).await.expect("an answer within the bound").unwrap();
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.unwrap();
        ids.push(testing::decode(&bytes).metadata.id);
        if ids == [0, 2] {
            running.allow.add_permits(129);
        }
    }
    assert_eq!(ids[..2], [0, 2]);
    ids.sort_unstable();
    assert_eq!(ids, (0..132).collect::<Vec<_>>());
    assert_eq!(timeout(BOUND, stream.read(&mut [0])).await.unwrap().unwrap(), 0);
    running.stop().await;
}
