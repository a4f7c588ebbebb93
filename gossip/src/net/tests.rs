use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::MakeWriter;

use super::frames::Patience;
use super::*;
use crate::identity::DevAuthority;
use crate::membership::Servers;

/// An endpoint at work on a free port.
pub(crate) struct TestNet {
    pub(crate) net: Net,
    pub(crate) inbound: Inbound,
    pub(crate) token: CancellationToken,
    released: Released,
    tasks: JoinSet<()>,
}

impl TestNet {
    pub(crate) fn start(authority: &DevAuthority, node: &str, cluster_id: &str) -> Self {
        Self::start_at(authority, node, cluster_id, ([127, 0, 0, 1], 0).into())
    }

    pub(crate) fn start_at(authority: &DevAuthority, node: &str, cluster_id: &str, listen: SocketAddr) -> Self {
        let identity = authority.issue(&node.parse().unwrap()).unwrap();
        let removed = Removed::new(watch::channel(Servers::default()).1);
        let newcomers = Newcomers::Refused;
        let config = NetConfig { cluster_id, identity: &identity, listen, removed, newcomers };
        let (net, driver, inbound, released) = Net::bind(&config).unwrap();
        let token = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run(token.clone()));
        Self { net, inbound, token, released, tasks }
    }

    /// Ends it and waits until the port is free.
    pub(crate) async fn stop(mut self) -> SocketAddr {
        let address = self.net.local_addr();
        self.token.cancel();
        within("the driver ends", async { while self.tasks.join_next().await.is_some() {} }).await;
        drop(self.net);
        self.released.wait().await;
        address
    }
}

/// Awaits something that must come soon.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(Duration::from_secs(10), future).await {
        Ok(value) => value,
        Err(_) => panic!("not within 10 s: {what}"),
    }
}

/// What was logged on this thread.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(log.clone())
            .with_ansi(false)
            .with_max_level(tracing::Level::INFO)
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn lines(&self, with: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(with)).map(ToOwned::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn either_end_of_a_connection_serves_both_ways() {
    let authority = DevAuthority::new("test").unwrap();
    let mut a = TestNet::start(&authority, "a", "test");
    let mut b = TestNet::start(&authority, "b_2", "test");
    let found = within("a dials b", a.net.dial(b.net.local_addr())).await.unwrap();
    assert_eq!(found.as_str(), "b_2");
    let from_b = within("b knows a", b.net.connected(a.net.node())).await;
    let from_a = a.net.connection(b.net.node()).unwrap();
    a.net.send_gossip(&from_a, Bytes::from_static(b"to b")).await.unwrap();
    b.net.send_gossip(&from_b, Bytes::from(vec![7; driver::GOSSIP_MAX])).await.unwrap();
    let (sender, message) = within("b hears", b.inbound.gossip.recv()).await.unwrap();
    assert_eq!((sender.as_str(), &message[..]), ("a", &b"to b"[..]));
    let (sender, message) = within("a hears", a.inbound.gossip.recv()).await.unwrap();
    assert_eq!((sender.as_str(), message.len()), ("b_2", driver::GOSSIP_MAX));
    drop((from_a, from_b));
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_node_of_another_authority_is_refused_and_named_on_both_sides() {
    let (log, _guard) = Log::capture();
    let a = TestNet::start(&DevAuthority::new("test").unwrap(), "a", "test");
    let b = TestNet::start(&DevAuthority::new("test").unwrap(), "b", "test");
    for _ in 0..3 {
        let error = within("the dial fails", a.net.dial(b.net.local_addr())).await.unwrap_err();
        assert!(matches!(error, DialError::Connection(_)), "{error}");
    }
    within("b has refused thrice", async {
        while b.net.counters().refusals.get() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let refused = log.lines("connection refused");
    let by = |who: &str| refused.iter().filter(|line| line.contains(who)).count();
    assert_eq!((by("by=\"us\""), by("by=\"the peer\"")), (1, 1), "{refused:?}");
    assert!(refused.iter().any(|line| line.contains(&b.net.local_addr().to_string())), "{refused:?}");
    assert!(a.net.nodes().is_empty() && b.net.nodes().is_empty());
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn another_cluster_of_the_same_authority_is_refused() {
    let (log, _guard) = Log::capture();
    let authority = DevAuthority::new("test").unwrap();
    let a = TestNet::start(&authority, "a", "blue");
    let b = TestNet::start(&authority, "b", "green");
    within("the dial fails", a.net.dial(b.net.local_addr())).await.unwrap_err();
    assert!(!log.lines("connection refused").is_empty());
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_node_knows_itself_and_says_so_of_its_double() {
    let (log, _guard) = Log::capture();
    let authority = DevAuthority::new("test").unwrap();
    let a = TestNet::start(&authority, "a", "test");
    let double = TestNet::start(&authority, "a", "test");
    assert!(matches!(a.net.dial(a.net.local_addr()).await, Err(DialError::Ourselves)));
    assert!(log.lines("our name").is_empty());
    assert!(matches!(a.net.dial(double.net.local_addr()).await, Err(DialError::Ourselves)));
    assert!(!log.lines("another node has a certificate of our name").is_empty());
    a.stop().await;
    double.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_named_and_a_left_one_can_be_bound_again() {
    let authority = DevAuthority::new("test").unwrap();
    let a = TestNet::start(&authority, "a", "test");
    let b = TestNet::start(&authority, "b", "test");
    within("connect", a.net.dial(b.net.local_addr())).await.unwrap();
    let identity = authority.issue(&"c".parse().unwrap()).unwrap();
    let removed = Removed::new(watch::channel(Servers::default()).1);
    let (listen, newcomers) = (a.net.local_addr(), Newcomers::Refused);
    let config = NetConfig { cluster_id: "test", identity: &identity, listen, removed, newcomers };
    let error = Net::bind(&config).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(&a.net.local_addr().to_string()), "{error}");
    let began = Instant::now();
    let address = a.stop().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    within("b notices", async {
        let mut changes = b.net.changes();
        while !b.net.nodes().is_empty() {
            changes.changed().await.unwrap();
        }
    })
    .await;
    drop(UdpSocket::bind(address).unwrap());
    b.stop().await;
}

#[tokio::test]
async fn a_stream_of_an_unknown_kind_is_refused_and_the_connection_stays() {
    let authority = DevAuthority::new("test").unwrap();
    let a = TestNet::start(&authority, "a", "test");
    let mut b = TestNet::start(&authority, "b", "test");
    within("connect", a.net.dial(b.net.local_addr())).await.unwrap();
    let connection = a.net.connection(b.net.node()).unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[99]).await.unwrap();
    within("the stream is reset", recv.read_to_end(1)).await.unwrap_err();
    let (mut send, recv_b) = connection.open_bi().await.unwrap();
    send.write_all(&[Kind::Pull as u8]).await.unwrap();
    let stream = within("the next one arrives", b.inbound.streams.recv()).await.unwrap();
    assert_eq!((stream.node.as_str(), stream.kind), ("a", Kind::Pull));
    drop((connection, stream, send, recv, recv_b));
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn frames_cross_a_stream_whole_and_too_long_ones_end_it() {
    let authority = DevAuthority::new("test").unwrap();
    let a = TestNet::start(&authority, "a", "test");
    let mut b = TestNet::start(&authority, "b", "test");
    within("connect", a.net.dial(b.net.local_addr())).await.unwrap();
    let (mut send, recv) = a.net.connection(b.net.node()).unwrap().open_bi().await.unwrap();
    send.write_all(&[Kind::Versions as u8]).await.unwrap();
    let mut stream = within("the stream arrives", b.inbound.streams.recv()).await.unwrap();
    let frame = kith_gossip_proto::Frame::Refused("x".repeat(3 << 20));
    let bytes = frames::encode(&frame).unwrap();
    let (sent, received) = tokio::join!(send.write_all(&bytes), frames::read(&mut stream.recv, Patience::Endless));
    sent.unwrap();
    assert_eq!(received.unwrap().unwrap(), frame);
    send.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let error = within("the length is refused", frames::read(&mut stream.recv, Patience::Endless))
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, frames::FrameError::TooLarge(_)), "{error}");
    drop((stream, send, recv));
    a.stop().await;
    b.stop().await;
}
