use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use kith_gossip_proto::buckets::Bucket;
use kith_gossip_proto::clocks::{reading, stamped_from};
use kith_gossip_proto::frame::{Answered, PulledRow};
use kith_gossip_proto::version::Life;
use kith_gossip_proto::{
    Change, Day, Digest, Hlc, HybridClock, Key, Name, Past, Purged, Row, SiteId, Stamp, Start, Value, Version,
};
use tokio::sync::{broadcast, watch};

use super::purge::heads_of;
use super::*;
use crate::identity::DevAuthority;
use crate::membership::facts::StoreHash;
use crate::membership::{Membership, MembershipConfig, Servers, StoreFacts};
use crate::net::tests::{TestNet, within};
use crate::store::{
    ApplyError, Collected, CopyError, Cure, Due, Heard, Highest, Incoming, InstallError, Known, Looked, Met, Pace,
    QueryError, Renounced, Repaired, StoreCopy, Survey,
};

mod answers;
mod clocks;

/// A store in memory: rows by the join of `kith_gossip_proto`, versions strictly in order, faults on demand.
#[derive(Clone)]
struct MemoryStore {
    state: Arc<Mutex<State>>,
    commits: broadcast::Sender<(Vec<Arc<Version>>, Arc<Vector>)>,
    changed: watch::Sender<u64>,
    broken: Arc<AtomicBool>,
    /// It never comes to the end of its rows.
    endless: Arc<AtomicBool>,
    /// It takes every peer for a copy.
    wary: Arc<AtomicBool>,
    /// It never says what it takes a peer for.
    stalled: Arc<AtomicBool>,
    looked: watch::Sender<Option<Arc<Looked>>>,
    /// How far its clock is ahead, in milliseconds.
    ahead: Arc<AtomicU64>,
}

struct State {
    site: SiteId,
    boot: u64,
    clock: HybridClock,
    highest: Option<Highest>,
    heads: Vector,
    rows: BTreeMap<(Name, Key), Row>,
}

impl MemoryStore {
    fn new(number: u8) -> Self {
        let state = State {
            site: SiteId::new([number; 16]),
            boot: 1,
            clock: HybridClock::default(),
            highest: None,
            heads: Vector::default(),
            rows: BTreeMap::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            commits: broadcast::Sender::new(256),
            changed: watch::Sender::new(0),
            broken: Arc::default(),
            endless: Arc::default(),
            wary: Arc::default(),
            stalled: Arc::default(),
            looked: watch::Sender::default(),
            ahead: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn tick(&self, state: &mut State) -> Hlc {
        let highest = state.highest.map(|highest| reading(highest.ms, highest.at.elapsed()));
        state.clock.tick(stamped_from(clocks::wall_ms() + self.ahead.load(Ordering::Relaxed), highest))
    }

    /// Commits a version that inserts one row of its own.
    fn commit(&self) -> Vector {
        let mut state = self.state();
        let number = state.heads.head(state.site) + 1;
        let key = Key::encode(&[Value::Blob(state.site.as_bytes()[..].into()), Value::Integer(number.cast_signed())]);
        let change = Change {
            table: Name::from("t"),
            key: key.unwrap(),
            cl: 1,
            life: Life::Changed,
            cells: [(Name::from("c"), Value::Text(vec![b'x'; 100].into()))].into(),
        };
        let hlc = self.tick(&mut state);
        let version = Version { site: state.site, version: number, hlc, changes: vec![change] };
        apply(&mut state, &version);
        let heads = state.heads.clone();
        drop(self.commits.send((vec![Arc::new(version)], Arc::new(heads.clone()))));
        drop(state);
        self.changed.send_modify(|count| *count += 1);
        heads
    }

    fn commits_of(&self, count: usize) -> Vector {
        (1..count).for_each(|_| drop(self.commit()));
        self.commit()
    }

    async fn reaches(&self, what: &str, wanted: &Vector) {
        let mut changes = self.changed.subscribe();
        let reached = async {
            while !self.state().heads.covers(wanted) {
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), reached).await.is_err() {
            panic!("{what}: wanted {wanted:?}, last seen {:?}", self.state().heads);
        }
    }

    fn stored(&self) -> Vector {
        let heads = self.state().heads.clone();
        drop(self.commits.send((Vec::new(), Arc::new(heads.clone()))));
        self.changed.send_modify(|count| *count += 1);
        heads
    }
}

fn apply(state: &mut State, version: &Version) {
    for (change, row) in version.rows() {
        join(state, (change.table.clone(), change.key.clone()), row);
    }
    state.clock.observe(version.hlc);
    state.heads.raise(version.site, version.version);
}

fn join(state: &mut State, id: (Name, Key), row: Row) {
    state.rows.entry(id).or_insert_with(|| Row { cl: 0, ..row.clone() }).join(row);
}

struct MemoryCommits(broadcast::Receiver<(Vec<Arc<Version>>, Arc<Vector>)>);

impl Commits for MemoryCommits {
    async fn next(&mut self) -> Next {
        match self.0.recv().await {
            Ok((versions, heads)) => Next::Commit { versions, heads },
            Err(broadcast::error::RecvError::Lagged(_)) => Next::Lagged,
            Err(broadcast::error::RecvError::Closed) => Next::Closed,
        }
    }
}

impl Storage for MemoryStore {
    type Commits = MemoryCommits;

    fn past(&self) -> Past {
        let state = self.state();
        Past { site: state.site, start: Start { boot: state.boot, nonce: 0 }, head: 0, first: None }
    }

    async fn meet(&self, _: &NodeId, past: Past) -> Result<Met, QueryError> {
        if self.stalled.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let wary = self.wary.load(Ordering::Relaxed);
        Ok(if wary { Met::Forked(past.start.boot) } else { Met::Itself })
    }

    async fn begin_again(&self, _: u64) -> Result<Option<Renounced>, ApplyError> {
        Ok(None)
    }

    fn compare_from(&self, _: Day) {}

    fn heads(&self) -> Vector {
        self.state().heads.clone()
    }

    fn held(&self) -> Hlc {
        self.state().clock.last()
    }

    fn correct_clock(&self, highest: Option<Highest>) {
        self.state().highest = highest;
    }

    fn fingerprint(&self) -> StoreHash {
        StoreHash { vector: self.state().heads.hash(), floor: Day(0), digest: Digest::default() }
    }

    async fn look(&self, _: Pace) -> Result<(), QueryError> {
        self.looked.send_replace(Some(Arc::new(Looked { at: SystemTime::now(), wrong: Vec::new() })));
        Ok(())
    }

    fn looks(&self) -> watch::Receiver<Option<Arc<Looked>>> {
        self.looked.subscribe()
    }

    async fn survey(&self) -> Result<Survey, QueryError> {
        if self.endless.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Err(QueryError::ShuttingDown)
    }

    fn begin_anew(&self) {}

    /// Its rows are its own alone.
    async fn renounce(&self, refused: Vector, latest: Hlc) -> Result<Option<Renounced>, ApplyError> {
        let mut state = self.state();
        let (old, site) = (state.site, SiteId::new([100; 16]));
        let Some(kept) = refused.head(old).checked_sub(1) else { return Ok(None) };
        (state.site, state.clock) = (site, HybridClock::default());
        let hlc = self.tick(&mut state);
        assert!(hlc <= latest);
        let mut given_up: Vec<_> = state.rows.values_mut().collect();
        given_up.retain(|row| row.rs.site == old && row.rs.version > kept);
        for (row, seq) in given_up.into_iter().zip(0..) {
            row.rs = Stamp { hlc, site, version: 1, seq };
            row.cells.values_mut().for_each(|cell| cell.stamp = row.rs);
        }
        state.heads.set_back(old, kept);
        state.heads.raise(site, 1);
        drop(state);
        self.stored();
        Ok(Some(Renounced { old, kept, site, rows: 0 }))
    }

    async fn repair(&self, _: Cure) -> Result<Repaired, ApplyError> {
        Err(ApplyError::ShuttingDown)
    }

    fn commits(&self) -> MemoryCommits {
        MemoryCommits(self.commits.subscribe())
    }

    async fn apply(&self, versions: Vec<Version>) -> Result<Vector, ApplyError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(ApplyError::DiskFull);
        }
        let mut state = self.state();
        for version in versions {
            if version.version == state.heads.head(version.site) + 1 && state.heads.covers(&version.needs()) {
                apply(&mut state, &version);
            }
        }
        drop(state);
        Ok(self.stored())
    }

    fn purged(&self) -> Arc<Purged> {
        Arc::default()
    }

    async fn heard(&self, _: Heard) -> Result<Known, ApplyError> {
        Ok(Known::NotYet)
    }

    async fn due(&self, _: Vector, _: Hlc) -> Result<Due, QueryError> {
        Ok(Due::default())
    }

    async fn purge(&self, _: Due) -> Result<u64, ApplyError> {
        Ok(0)
    }

    async fn join(&self, rows: Vec<PulledRow>, answered: Answered) -> Result<Vector, ApplyError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(ApplyError::DiskFull);
        }
        let mut state = self.state();
        if is_outgrown(state.site, &state.heads, &answered.heads) {
            return Err(ApplyError::Forked);
        }
        for row in rows {
            row.row.stamps().iter().for_each(|stamp| state.clock.observe(stamp.hlc));
            join(&mut state, (row.table, row.key), row.row);
        }
        state.heads.join(&answered.heads);
        drop(state);
        Ok(self.stored())
    }

    async fn collect(&self, above: Vector, _: BTreeSet<Bucket>) -> Result<Collected, QueryError> {
        let state = self.state();
        let newer = |row: &Row| row.stamps().iter().any(|stamp| stamp.version > above.head(stamp.site));
        let rows = state.rows.iter().filter(|(_, row)| newer(row));
        let rows: Vec<_> = rows
            .map(|((table, key), row)| PulledRow { table: table.clone(), key: key.clone(), row: row.clone() })
            .collect();
        let (sender, receiver) = mpsc::channel(1);
        sender.try_send(Ok(rows)).unwrap();
        Ok(Collected { heads: state.heads.clone(), purged: Arc::default(), stamps: 0, rows: receiver })
    }

    async fn copy(&self) -> Result<StoreCopy, CopyError> {
        Err(CopyError::Unwanted)
    }

    fn receive(&self) -> std::io::Result<Incoming> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    async fn install(&self, _: Incoming, _: Hlc) -> Result<Vector, InstallError> {
        Err(InstallError::ShuttingDown)
    }
}

/// A node with everything but a database and an API.
struct TestNode {
    store: MemoryStore,
    net: Net,
    status: watch::Receiver<Arc<ReplicationStatus>>,
    token: CancellationToken,
    tasks: JoinSet<Result<(), ReplicationError>>,
    rest: TestNet,
}

impl TestNode {
    async fn start(authority: &DevAuthority, number: u8, seeds: &[&Self]) -> Self {
        Self::start_with(authority, number, MemoryStore::new(number), seeds).await
    }

    async fn start_with(authority: &DevAuthority, number: u8, store: MemoryStore, seeds: &[&Self]) -> Self {
        let mut rest = TestNet::start(authority, &format!("node-{number}"), "test");
        let net = rest.net.clone();
        let facts = {
            let store = store.clone();
            move || {
                let state = store.state();
                let hash = StoreHash { vector: state.heads.hash(), floor: Day(0), digest: Digest::default() };
                StoreFacts { site: state.site, schema: 1, hash }
            }
        };
        let config = MembershipConfig {
            cluster_id: "test".into(),
            generation: store.past().start.boot,
            advertise: net.local_addr(),
            boot_id: "boot".into(),
            seeds: seeds.iter().map(|seed| seed.net.local_addr().to_string()).collect(),
            store: Box::new(facts),
            servers: watch::channel(Servers::default()).1,
        };
        let received = std::mem::replace(&mut rest.inbound.gossip, mpsc::channel(1).1);
        let streams = std::mem::replace(&mut rest.inbound.streams, mpsc::channel(1).1);
        let (membership, members) = Membership::start(config, net.clone(), received).await.unwrap();
        let (replication, published) =
            Replication::start(net.clone(), store.clone(), members, streams, number.into(), WINDOW);
        let token = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let stop = token.clone();
        tasks.spawn(async move {
            membership.run(stop).await.unwrap();
            Ok(())
        });
        let stop = token.clone();
        tasks.spawn(replication.run(stop));
        Self { store, net, status: published.status, token, tasks, rest }
    }

    async fn stop(mut self) -> MemoryStore {
        self.token.cancel();
        within("the parts end", async {
            while let Some(joined) = self.tasks.join_next().await {
                joined.unwrap().unwrap();
            }
        })
        .await;
        drop((self.net, self.status));
        self.rest.stop().await;
        self.store
    }

    /// Waits until replication stands as wanted.
    async fn stands(&self, what: &str, wanted: impl FnMut(&Arc<ReplicationStatus>) -> bool) {
        let mut status = self.status.clone();
        let reached = tokio::time::timeout(Duration::from_secs(20), status.wait_for(wanted)).await.is_ok();
        assert!(reached, "{what}: last seen at {}: {:#?}", self.net.node(), self.status.borrow());
    }

    /// Waits until streams of both directions are open to the nodes.
    async fn linked_to(&self, nodes: &[&Self]) {
        let wanted: BTreeSet<_> = nodes.iter().map(|node| node.net.node().clone()).collect();
        self.stands("links to all", |status| {
            let both = |peer: &PeerStatus| peer.pushing == Open::Yes && peer.receiving == Open::Yes;
            let linked = status.peers.iter().filter(|(_, peer)| both(peer)).map(|(node, _)| node.clone());
            linked.collect::<BTreeSet<_>>() == wanted
        })
        .await;
    }
}

async fn three(authority: &DevAuthority) -> [TestNode; 3] {
    let a = TestNode::start(authority, 1, &[]).await;
    let b = TestNode::start(authority, 2, &[&a]).await;
    let c = TestNode::start(authority, 3, &[&a]).await;
    a.linked_to(&[&b, &c]).await;
    b.linked_to(&[&a, &c]).await;
    c.linked_to(&[&a, &b]).await;
    [a, b, c]
}

fn same_rows(nodes: &[TestNode]) {
    let first = nodes[0].store.state().rows.clone();
    for node in nodes {
        assert!(node.store.state().rows == first, "{} differs", node.net.node());
    }
}

#[tokio::test]
async fn a_commit_reaches_all_nodes_without_a_pull() {
    let authority = DevAuthority::new("test").unwrap();
    let nodes = three(&authority).await;
    // What a node has when a stream opens is pulled; so each begins with something.
    let mut wanted = Vector::default();
    nodes.iter().for_each(|node| wanted.join(&node.store.commit()));
    for node in &nodes {
        node.store.reaches("the first commits", &wanted).await;
    }
    let pulled = nodes.iter().map(|node| node.net.counters().rows_pulled.get()).sum::<u64>();
    for round in 0..20 {
        let wanted = nodes[round % 3].store.commit();
        for node in &nodes {
            node.store.reaches("the commit", &wanted).await;
        }
    }
    same_rows(&nodes);
    assert_eq!(nodes.iter().map(|node| node.net.counters().rows_pulled.get()).sum::<u64>(), pulled);
    for node in nodes {
        node.stop().await;
    }
}

/// As above 30 nodes, where most pairs have no stream.
#[tokio::test]
async fn a_node_that_is_asked_tells_what_it_has_applied() {
    let authority = DevAuthority::new("test").unwrap();
    let (a, b) = (TestNode::start(&authority, 1, &[]).await, TestNode::start(&authority, 2, &[]).await);
    let held = b.store.commit();
    let c = TestNode::start(&authority, 3, &[&a, &b]).await;
    c.linked_to(&[&a, &b]).await;
    assert_eq!(heads_of(&c.net, b.net.node()).await.unwrap(), held);
    assert!(heads_of(&c.net, &"stranger".parse().unwrap()).await.is_err());
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_node_that_comes_late_pulls_what_it_missed() {
    let authority = DevAuthority::new("test").unwrap();
    let a = TestNode::start(&authority, 1, &[]).await;
    // More than the broadcast holds, and more than one frame of an answer.
    let wanted = a.store.commits_of(3000);
    let b = TestNode::start(&authority, 2, &[&a]).await;
    b.store.reaches("all of a", &wanted).await;
    let nodes = [a, b];
    same_rows(&nodes);
    assert!(nodes[1].net.counters().rows_pulled.get() >= 3000);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_of_a_site_arrive_in_order_while_connections_are_reset() {
    let authority = DevAuthority::new("test").unwrap();
    let nodes = three(&authority).await;
    let mut wanted = Vector::default();
    for number in 1..=1000_usize {
        wanted = nodes[0].store.commit();
        if number % 100 == 0 {
            let from = &nodes[(number / 100) % 3];
            for node in from.net.nodes() {
                if let Some(connection) = from.net.connection(&node) {
                    connection.close(0_u32.into(), b"test");
                }
            }
        }
        if number % 25 == 0 {
            let some = [(SiteId::new([1; 16]), number as u64 - 20)].into_iter().collect();
            nodes[1].store.reaches("most of what was committed", &some).await;
        }
    }
    for node in &nodes {
        node.store.reaches("all versions", &wanted).await;
    }
    same_rows(&nodes);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn what_a_full_disk_refused_is_pulled_when_there_is_room() {
    let authority = DevAuthority::new("test").unwrap();
    let nodes = three(&authority).await;
    nodes[1].store.broken.store(true, Ordering::Relaxed);
    let wanted = nodes[0].store.commits_of(10);
    nodes[2].store.reaches("the sound node has all", &wanted).await;
    within("the full one has refused", async {
        while nodes[1].net.counters().apply_failed.get() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!nodes[1].store.heads().covers(&wanted));
    nodes[1].store.broken.store(false, Ordering::Relaxed);
    nodes[1].store.reaches("all after all", &wanted).await;
    same_rows(&nodes);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_restarted_node_catches_up_and_goes_on() {
    let authority = DevAuthority::new("test").unwrap();
    let [a, b, c] = three(&authority).await;
    b.store.commit();
    let store = c.stop().await;
    let wanted = a.store.commits_of(50);
    b.store.reaches("b has all of a", &wanted).await;
    store.state().boot += 1;
    let c = TestNode::start_with(&authority, 3, store, &[&b]).await;
    c.store.reaches("what it missed", &wanted).await;
    c.linked_to(&[&a, &b]).await;
    let wanted = c.store.commit();
    a.store.reaches("what c writes", &wanted).await;
    b.store.reaches("what c writes", &wanted).await;
    let nodes = [a, b, c];
    same_rows(&nodes);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn status_says_who_is_behind() {
    let authority = DevAuthority::new("test").unwrap();
    let nodes = three(&authority).await;
    nodes[1].store.broken.store(true, Ordering::Relaxed);
    let wanted = nodes[0].store.commit();
    nodes[2].store.reaches("the commit", &wanted).await;
    let node = nodes[1].net.node().clone();
    nodes[0]
        .stands("a knows that b lacks one", |status| {
            status.peers[&node].ahead == Some(1) && status.heads == wanted && status.caught_up == CaughtUp::Once
        })
        .await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn replication_ends_when_the_store_gives_up_its_site() {
    let authority = DevAuthority::new("test").unwrap();
    let mut node = TestNode::start(&authority, 1, &[]).await;
    node.store.commit();
    node.store.state().site = SiteId::new([9; 16]);
    node.store.stored();
    let ended = within("replication ends", node.tasks.join_next()).await.unwrap().unwrap();
    assert!(matches!(ended, Err(ReplicationError::Renamed)), "{ended:?}");
    node.stop().await;
}

/// Its site is new, so it keeps it.
#[tokio::test]
async fn a_node_that_is_taken_for_a_copy_says_by_whom_for_as_long_as_it_is() {
    let authority = DevAuthority::new("test").unwrap();
    let b = TestNode::start(&authority, 2, &[]).await;
    b.store.wary.store(true, Ordering::Relaxed);
    let a = TestNode::start(&authority, 1, &[&b]).await;
    let c = TestNode::start(&authority, 3, &[&a]).await;
    let by_b = BTreeSet::from([b.net.node().clone()]);
    a.stands("shunned by one", |status| status.shunned_by == by_b).await;
    c.stands("shunned by one", |status| status.shunned_by == by_b).await;
    assert_eq!(b.status.borrow().shunned_by, BTreeSet::new());
    b.store.wary.store(false, Ordering::Relaxed);
    a.stands("it is over", |status| status.shunned_by.is_empty()).await;
    a.linked_to(&[&b, &c]).await;
    for node in [a, b, c] {
        node.stop().await;
    }
}

/// Its disk was set back, and a peer that has seen more of it is slow to say whether it is itself.
#[tokio::test]
async fn a_pull_that_holds_more_of_the_own_site_says_that_another_store_has_written_it() {
    let authority = DevAuthority::new("test").unwrap();
    let b = TestNode::start(&authority, 2, &[]).await;
    let of_a = SiteId::new([1; 16]);
    b.store.state().heads.raise(of_a, 1);
    b.store.stalled.store(true, Ordering::Relaxed);
    let a = TestNode::start(&authority, 1, &[&b]).await;
    let by_b = BTreeSet::from([b.net.node().clone()]);
    a.stands("told by what b holds", |status| status.shunned_by == by_b).await;
    assert_eq!(a.store.heads().head(of_a), 0, "nothing of it is taken");
    for node in [a, b] {
        node.stop().await;
    }
}
