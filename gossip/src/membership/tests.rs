use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use chitchat::transport::{RecvOutcome, SendOutcome, Socket, Transport};
use chitchat::{ChitchatEnvelope, ChitchatHandle, ChitchatMessage, NodeState};
use prometheus_client::metrics::counter::Counter;
use tokio::net::UdpSocket;

use std::time::Instant;

use kith_gossip_proto::{Day, Digest};

use super::codec::{Codec, CodecError};
use super::facts::StoreHash;
use super::*;
use crate::identity::DevAuthority;
use crate::net::tests::{TestNet, within};

fn message() -> ChitchatEnvelope {
    ChitchatEnvelope { version: ProtocolVersion::V1, message: ChitchatMessage::BadCluster }
}

#[tokio::test]
async fn the_codec_ignores_datagrams_of_others() {
    let foreign = Counter::default();
    let mut codec = Codec::open(foreign.clone()).await.unwrap();
    let bytes = codec.encode(message()).await.unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // A well-formed message of a stranger, and junk; both are in the queue before ours.
    stranger.send_to(&bytes, codec.inner_address()).await.unwrap();
    stranger.send_to(b"junk", codec.inner_address()).await.unwrap();
    assert_eq!(codec.decode(&bytes).await.unwrap(), message());
    assert_eq!(foreign.get(), 1);
    stranger.send_to(&bytes, codec.inner_address()).await.unwrap();
    assert!(matches!(codec.decode(b"no message").await, Err(CodecError::Lost)));
    assert_eq!(foreign.get(), 2);
}

/// Joins two chitchats in memory, with every message through a codec.
struct ThroughCodec {
    peers: BTreeMap<SocketAddr, mpsc::Sender<RecvOutcome>>,
    inbox: std::sync::Mutex<Option<(SocketAddr, mpsc::Receiver<RecvOutcome>)>>,
    longest: Arc<AtomicUsize>,
}

struct CodecSocket {
    address: SocketAddr,
    codec: Codec,
    peers: BTreeMap<SocketAddr, mpsc::Sender<RecvOutcome>>,
    inbox: mpsc::Receiver<RecvOutcome>,
    longest: Arc<AtomicUsize>,
}

#[async_trait]
impl Transport for ThroughCodec {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (address, inbox) = self.inbox.lock().unwrap().take().unwrap();
        let codec = Codec::open(Counter::default()).await?;
        let (peers, longest) = (self.peers.clone(), Arc::clone(&self.longest));
        Ok(Box::new(CodecSocket { address, codec, peers, inbox, longest }))
    }
}

#[async_trait]
impl Socket for CodecSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.address)
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let bytes = self.codec.encode(envelope).await?;
        self.longest.fetch_max(bytes.len(), Ordering::Relaxed);
        let envelope = self.codec.decode(&bytes).await?;
        let received = RecvOutcome { from_addr: self.address, envelope, num_bytes_received: bytes.len() };
        if let Some(peer) = self.peers.get(&to) {
            peer.send(received).await?;
        }
        Ok(SendOutcome { num_bytes_sent: bytes.len() })
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        match self.inbox.recv().await {
            Some(received) => Ok(received),
            None => std::future::pending().await,
        }
    }
}

#[tokio::test]
async fn messages_as_large_as_chitchat_makes_them_pass_the_codec() {
    let nodes: [NodeId; 2] = ["a", "b"].map(|name| name.parse().unwrap());
    let longest = Arc::new(AtomicUsize::new(0));
    let (senders, inboxes): (Vec<_>, Vec<_>) = nodes
        .iter()
        .map(|node| {
            let (sender, inbox) = mpsc::channel(64);
            ((label(node), sender), (label(node), inbox))
        })
        .unzip();
    let peers: BTreeMap<_, _> = senders.into_iter().collect();
    let mut handles: Vec<ChitchatHandle> = Vec::new();
    for (node, inbox) in nodes.iter().zip(inboxes) {
        let inbox = std::sync::Mutex::new(Some(inbox));
        let transport = ThroughCodec { peers: peers.clone(), inbox, longest: Arc::clone(&longest) };
        let mut seed = 1_u64;
        let mut noise = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{seed:016x}")
        };
        let keys = (0..5_000).map(|n| (format!("{node}-{n}"), format!("{}{}", noise(), noise()))).collect();
        let config = chitchat_config(node, 1, "test".into());
        handles.push(spawn_chitchat(config, keys, &transport).await.unwrap());
    }
    handles[0].gossip(label(&nodes[1])).unwrap();
    within("both hold all keys of the other", async {
        loop {
            let mut held = Vec::new();
            for handle in &handles {
                let chitchat = handle.chitchat();
                held.push(chitchat.lock().await.node_states().values().map(NodeState::num_key_values).sum::<usize>());
            }
            if held == [10_000, 10_000] {
                return;
            }
            handles[0].gossip(label(&nodes[1])).unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Chitchat keeps below its 65,507 bytes with some room, since it compresses as it goes.
    assert!(longest.load(Ordering::Relaxed) > 50_000, "{longest:?}");
    for handle in handles {
        handle.shutdown().await.unwrap();
    }
}

/// A node with everything up to membership.
struct TestNode {
    members: Members,
    net: Net,
    servers: watch::Sender<Servers>,
    token: CancellationToken,
    tasks: JoinSet<()>,
    rest: TestNet,
}

impl TestNode {
    async fn start(authority: &DevAuthority, node: &str, boot: u64, seeds: &[SocketAddr]) -> Self {
        Self::start_at(authority, node, boot, seeds, ([127, 0, 0, 1], 0).into()).await
    }

    async fn start_at(authority: &DevAuthority, node: &str, boot: u64, seeds: &[SocketAddr], at: SocketAddr) -> Self {
        let mut rest = TestNet::start_at(authority, node, "test", at);
        let net = rest.net.clone();
        let (servers, rows) = watch::channel(Servers::default());
        let config = MembershipConfig {
            cluster_id: "test".into(),
            generation: boot,
            advertise: net.local_addr(),
            boot_id: format!("{node}-{boot}"),
            seeds: seeds.iter().map(ToString::to_string).collect(),
            store: Box::new(|| StoreFacts {
                site: SiteId::new([7; 16]),
                schema: 1,
                hash: StoreHash { vector: 2, floor: Day(1), digest: Digest::from_bits(3) },
            }),
            servers: rows,
        };
        let received = std::mem::replace(&mut rest.inbound.gossip, mpsc::channel(1).1);
        let (membership, members) = Membership::start(config, net.clone(), received).await.unwrap();
        let token = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let stop = token.clone();
        tasks.spawn(async move { membership.run(stop).await.unwrap() });
        Self { members, net, servers, token, tasks, rest }
    }

    async fn stop(mut self) -> SocketAddr {
        self.token.cancel();
        within("membership ends", async {
            while let Some(joined) = self.tasks.join_next().await {
                joined.unwrap();
            }
        })
        .await;
        drop(self.net);
        self.rest.stop().await
    }

    /// Waits until the members are as wanted.
    async fn sees(&mut self, what: &str, wanted: impl Fn(&[Member]) -> bool) -> Vec<Member> {
        let look = async {
            loop {
                let members = self.members.list.borrow_and_update().to_vec();
                if wanted(&members) {
                    return members;
                }
                self.members.list.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), look).await {
            Ok(members) => members,
            Err(_) => panic!("{what}; last seen: {:#?}", self.members.list.borrow()),
        }
    }
}

fn up(names: &[&str]) -> impl Fn(&[Member]) -> bool {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    move |members| {
        let up = members.iter().filter(|m| m.state == MemberState::Up).map(|m| m.server.to_string());
        up.collect::<Vec<_>>() == names
    }
}

#[tokio::test]
async fn nodes_see_each_other_within_two_seconds_and_a_third_through_a_seed() {
    let authority = DevAuthority::new("test").unwrap();
    let began = Instant::now();
    let mut a = TestNode::start(&authority, "a", 1, &[]).await;
    let mut b = TestNode::start(&authority, "b", 1, &[a.net.local_addr()]).await;
    a.sees("a and b", up(&["a", "b"])).await;
    let members = b.sees("a and b", up(&["a", "b"])).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let seen = &members[0];
    assert_eq!((seen.addr, seen.boot_id.as_str()), (a.net.local_addr(), "a-1"));
    assert_eq!(
        b.members.hashes.borrow().get(a.net.node()),
        Some(&(MemberState::Up, Some(StoreHash { vector: 2, floor: Day(1), digest: Digest::from_bits(3) })))
    );
    assert!(seen.heard.is_some_and(|heard| heard < Duration::from_secs(2)), "{seen:?}");
    assert!(seen.rtt.is_some_and(|rtt| rtt < Duration::from_secs(1)), "{seen:?}");
    // c knows b only, and comes to be connected with a.
    let mut c = TestNode::start(&authority, "c", 1, &[b.net.local_addr()]).await;
    for node in [&mut a, &mut b, &mut c] {
        node.sees("a, b and c", up(&["a", "b", "c"])).await;
    }
    within("c and a are connected", c.net.connected(a.net.node())).await;
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_restarted_node_is_up_again_with_what_it_says_of_itself() {
    let authority = DevAuthority::new("test").unwrap();
    let mut a = TestNode::start(&authority, "a", 1, &[]).await;
    let mut b = TestNode::start(&authority, "b", 1, &[a.net.local_addr()]).await;
    a.sees("b", up(&["a", "b"])).await;
    b.sees("a", up(&["a", "b"])).await;
    let address = b.stop().await;
    let mut b = TestNode::start_at(&authority, "b", 2, &[a.net.local_addr()], address).await;
    a.sees("the second boot", |members| members.iter().any(|m| m.boot_id == "b-2")).await;
    b.sees("a", up(&["a", "b"])).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn an_address_that_went_to_another_node_leads_to_that_one() {
    let authority = DevAuthority::new("test").unwrap();
    let mut a = TestNode::start(&authority, "a", 1, &[]).await;
    let b = TestNode::start(&authority, "b", 1, &[a.net.local_addr()]).await;
    a.sees("b", up(&["a", "b"])).await;
    let address = b.stop().await;
    let mut c = TestNode::start_at(&authority, "c", 1, &[], address).await;
    // c has no seeds: a finds it where b was, and both know who it is.
    a.sees("c", |members| members.iter().any(|m| m.server.as_str() == "c")).await;
    let members = a.sees("b is silent", |members| members[1].state == MemberState::Silent).await;
    assert_eq!(members.iter().map(|m| m.server.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    c.sees("a", |members| members.iter().any(|m| m.server.as_str() == "a" && m.state == MemberState::Up)).await;
    a.stop().await;
    c.stop().await;
}

#[tokio::test]
async fn an_operators_word_makes_a_member_removed_and_numbers_it() {
    let authority = DevAuthority::new("test").unwrap();
    let mut a = TestNode::start(&authority, "a", 1, &[]).await;
    let b = TestNode::start(&authority, "b", 1, &[a.net.local_addr()]).await;
    a.sees("b", up(&["a", "b"])).await;
    let row = |number, belongs| ServerRow { number: Some(number), belongs };
    let [one, two]: [NodeId; 2] = ["a", "b"].map(|name| name.parse().unwrap());
    a.servers.send_replace([(one, row(1, Belongs::Yes)), (two, row(2, Belongs::Removed))].into());
    let members = a.sees("b is removed", |members| members[1].state == MemberState::Removed).await;
    assert_eq!(members.iter().map(|m| m.number).collect::<Vec<_>>(), [Some(1), Some(2)]);
    a.stop().await;
    b.stop().await;
}
