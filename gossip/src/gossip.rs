//! The whole: a store, what keeps it equal to the others, and what serves it.
//!
//! Start order, each part resting on those before it; they stop in the reverse order, each before the next is told to.
//!
//! ```text
//! store ─► network ─► membership ─► replication ─► subscriptions, API
//! ```
//! A part that ends by itself ends the whole, with its error: half a node is worse than none. Whoever runs it starts it
//! anew.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use futures_util::FutureExt;
use kith_gossip_proto::NodeId;
use kith_gossip_proto::agreement::DIFFERS_FOR;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{
    self, Alarm, Api, Certificate, Count, Holding, Member, Membership as ShownMembership, Parts, PeerFigures,
    RefusedFigures, ReplicationFigures,
};
use crate::chain::Chain;
use crate::config::Config;
use crate::identity::Identity;
use crate::identity::desk::Desk;
use crate::identity::keeper::Keeper;
use crate::identity::standing::Standing;
use crate::membership::{Members, Membership, MembershipConfig, MembershipError, Servers, StoreFacts, servers};
use crate::net::{self, Counters, Driver, Net, NetConfig, Newcomers, Released, Removed};
use crate::replication::{
    self, CaughtUp, Open, PeerStatus, Published, Replication, ReplicationError, ReplicationStatus,
};
use crate::store::{OpenError, Store, StoreConfig};
use crate::subscriptions::{StartError, Subscriptions};

/// The release, as members and clients see it.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// How long a node may take to stop. What is not done by then is cut off.
const STOP: Duration = Duration::from_secs(2);

/// How long closing the store may take: a checkpoint of its log.
const CLOSE: Duration = Duration::from_millis(500);

/// How long a node that cannot reach anybody is not ready: longer than a start takes, since a peer that is there is
/// reached within a second.
const ALONE: Duration = Duration::from_secs(15);

/// A node, bound and open, and not yet at work.
pub struct Gossip {
    config: Config,
    addrs: Addrs,
    store: Store,
    net: Net,
    driver: Driver,
    released: Released,
    servers: watch::Sender<Servers>,
    membership: Membership,
    replication: Replication<Store>,
    keeper: Keeper,
    subscriptions: Background,
    api: Api,
    view: View,
}

/// Where a node is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addrs {
    /// UDP, between nodes.
    pub gossip: SocketAddr,
    /// TCP addresses of the API.
    pub api: Vec<SocketAddr>,
    /// Unix socket of the API.
    pub unix: Option<PathBuf>,
}

/// Why a node cannot start. Nothing is left behind but its files.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The certificate is another node's.
    #[error("this node is {configured}, but its certificate is for {certified}")]
    Node {
        /// By configuration.
        configured: NodeId,
        /// By certificate.
        certified: NodeId,
    },
    /// Other nodes could not find this one.
    #[error("{0} is not an address that other nodes can dial: set the address to advertise")]
    Advertise(SocketAddr),
    /// The folder for the files.
    #[error("cannot make {path}")]
    Dir {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error("cannot open the store")]
    Store(#[from] OpenError),
    /// The UDP port.
    #[error("cannot open the network")]
    Net(#[from] net::BindError),
    /// Membership.
    #[error("cannot start membership")]
    Membership(#[from] MembershipError),
    /// Subscriptions.
    #[error("cannot start subscriptions")]
    Subscriptions(#[from] StartError),
    /// The API's sockets.
    #[error("cannot open the API")]
    Api(#[from] api::BindError),
    /// A task that blocks.
    #[error("a task failed")]
    Task(#[from] JoinError),
}

/// Why a node ended without being told to.
#[derive(Debug, Error)]
pub enum RunError {
    /// Membership.
    #[error("membership failed")]
    Membership(#[from] MembershipError),
    /// Replication.
    #[error("replication failed")]
    Replication(#[from] ReplicationError),
    /// A part ended as if it had been told to.
    #[error("the {0} ended by itself")]
    Ended(&'static str),
    /// A part panicked.
    #[error("the {0} panicked")]
    Panic(&'static str, #[source] JoinError),
}

/// How a node is doing. Cheap to clone; outlives the node, and then shows it as it was.
#[derive(Clone, Debug)]
pub struct StatusHandle {
    config: Arc<(NodeId, String)>,
    store: Store,
    view: View,
}

/// How a node is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Where it stands.
    pub region: String,
    /// How often its store was opened.
    pub boot: u64,
    /// All members, itself among them, by name.
    pub members: Vec<Member>,
    /// Replication.
    pub replication: ReplicationStatus,
    /// What the network, membership and replication have counted since the start.
    pub counts: Vec<Count>,
    /// What it waits for before its answers are complete; empty when it is ready.
    pub waiting: Vec<String>,
}

/// Tasks of subscriptions.
struct Background {
    tasks: TaskTracker,
    token: CancellationToken,
}

impl Gossip {
    /// Opens and binds everything, in order, and fails at the first that cannot be.
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        if config.node != *config.identity.node() {
            let (configured, certified) = (config.node, config.identity.node().clone());
            return Err(BuildError::Node { configured, certified });
        }
        let store = open(&config).await?;
        match Self::build_on(config, store.clone()).await {
            Ok(gossip) => Ok(gossip),
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    async fn build_on(config: Config, store: Store) -> Result<Self, BuildError> {
        let Config { cluster_id, identity, listen, seeds, .. } = &config;
        // Before the first handshake, so that nobody who was removed slips in at the start.
        let (servers, rows) = watch::channel(servers::load(&store).await);
        let removed = Removed::new(rows.clone());
        let newcomers = if config.enrolment.is_some() { Newcomers::Served } else { Newcomers::Refused };
        let net = NetConfig { cluster_id, identity, listen: *listen, removed, newcomers };
        let (net, driver, inbound, released) = Net::bind(&net)?;
        let advertise = advertised(config.advertise, net.local_addr())?;
        let membership = MembershipConfig {
            cluster_id: cluster_id.clone(),
            generation: generation(identity, store.boot()),
            advertise,
            boot_id: config.boot_id.clone(),
            seeds: seeds.clone(),
            store: facts(store.clone()),
            servers: rows.clone(),
        };
        let (membership, members) = Membership::start(membership, net.clone(), inbound.gossip).await?;
        let (replication, published) = Replication::start(
            net.clone(),
            store.clone(),
            members.clone(),
            inbound.streams,
            store.nonce(),
            config.remember,
        );
        let desk = config
            .enrolment
            .clone()
            .map(|enrolment| Desk::new(enrolment, identity.clone(), net.clone(), store.clone(), members.clone()));
        let keeper = Keeper::new(identity.clone(), net.clone(), desk, inbound.asks);
        let counters = net.counters().clone();
        let seeds = if seeds.is_empty() { Seeds::None } else { Seeds::Some };
        let standing = Standing::new(identity.clone(), keeper.alarm(), net.clone(), rows);
        let view = View {
            store: store.clone(),
            members,
            replication: published,
            counters,
            seeds,
            begun: holding(&store),
            started: Instant::now(),
            standing,
        };
        let subscriptions = Background { tasks: TaskTracker::new(), token: CancellationToken::new() };
        let api = bind_api(&config, &store, &view, &subscriptions).await?;
        let addrs = Addrs { gossip: net.local_addr(), api: api.addrs().tcp.clone(), unix: api.addrs().unix.clone() };
        Ok(Self {
            config,
            addrs,
            store,
            net,
            driver,
            released,
            servers,
            membership,
            replication,
            keeper,
            subscriptions,
            api,
            view,
        })
    }

    /// Where it is to be found, with the ports that were taken.
    pub fn addrs(&self) -> Addrs {
        self.addrs.clone()
    }

    /// How it is doing, from here on.
    pub fn status(&self) -> StatusHandle {
        let config = Arc::new((self.config.node.clone(), self.config.region.clone()));
        StatusHandle { config, store: self.store.clone(), view: self.view.clone() }
    }

    /// Works until the token is cancelled or a part ends by itself; then stops the parts in the reverse order of their
    /// start, within two seconds. Every socket is free again when this returns.
    pub async fn run(self, token: CancellationToken) -> Result<(), RunError> {
        let Self { store, net, driver, released, servers, membership, replication, keeper, subscriptions, api, .. } =
            self;
        // The node's own handle is not needed any more; each part has one.
        drop(net);
        let mut running = Running::default();
        let writer = store.clone();
        running.start("store", |stop| async move {
            // Cancel-safe: both only wait. That the writer ended first is what `running` reports.
            tokio::select! {
                () = stop.cancelled() => {}
                () = writer.ended() => {}
            }
            Ok(())
        });
        running.start("network", |stop| driver.run(stop).map(Ok));
        let follows = store.clone();
        running.start("reading of servers", |stop| servers::follow(follows, servers, stop).map(Ok));
        running.start("membership", |stop| async { Ok(membership.run(stop).await?) });
        running.start("replication", |stop| async { Ok(replication.run(stop).await?) });
        running.start("keeper of certificates", |stop| keeper.run(stop).map(Ok));
        running.start("subscriptions", |stop| async move {
            stop.cancelled_owned().await;
            subscriptions.token.cancel();
            subscriptions.tasks.close();
            subscriptions.tasks.wait().await;
            Ok(())
        });
        running.start("API", |stop| api.run(stop).map(Ok));
        // Cancel-safe: both only wait.
        let ended = tokio::select! {
            () = token.cancelled() => Ok(()),
            ended = running.ended() => Err(ended),
        };
        let deadline = Instant::now() + STOP;
        running.stop(deadline).await;
        // After a part that did not stop in time, the store is given some time all the same.
        let closed = deadline.max(Instant::now() + CLOSE);
        if timeout_at(closed.into(), store.close()).await.is_err() {
            tracing::warn!("the store is still closing");
        }
        released.wait().await;
        ended
    }
}

async fn open(config: &Config) -> Result<Store, BuildError> {
    let (dir, alone) = (config.dir.clone(), config.seeds.is_empty());
    let store = StoreConfig { path: dir.join("kith.db"), schema: config.schema.clone(), durability: config.durability };
    let opening = move || {
        // Its group may reach the API's socket in it.
        let made = DirBuilder::new().recursive(true).mode(0o750).create(&dir);
        made.map_err(|source| BuildError::Dir { path: dir, source })?;
        Ok(if alone { Store::open(store)? } else { Store::open_or_begin_anew(store)? })
    };
    tokio::task::spawn_blocking(opening).await?
}

/// What tells this start of a node from its earlier ones: the beginning of its certificate, then the boot of its store. The
/// boots alone begin anew when a node has lost its disk and has joined again, and then what it says would count as old. By
/// the authority's clock, which gives each certificate of a node a later beginning; this host's may go back.
fn generation(identity: &Identity, boot: u64) -> u64 {
    const BOOTS: u64 = 1 << 20;
    let issued = identity.validity().from.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    issued * BOOTS + boot.min(BOOTS - 1)
}

/// Joins the API to the node, which it sees through [`View`], and to nothing else of this crate but the store.
async fn bind_api(config: &Config, store: &Store, view: &View, background: &Background) -> Result<Api, BuildError> {
    let (tasks, token) = (background.tasks.clone(), background.token.clone());
    let parts = Parts {
        store: store.clone(),
        subscriptions: Subscriptions::start(store.clone(), tasks, token).await?,
        membership: Arc::new(view.clone()),
        node: config.node.clone(),
        release: RELEASE.to_owned(),
    };
    Ok(Api::bind(config.api.clone(), parts).await?)
}

/// The address that other nodes dial, if they can.
fn advertised(configured: Option<SocketAddr>, bound: SocketAddr) -> Result<SocketAddr, BuildError> {
    let mut address = configured.unwrap_or(bound);
    if address.port() == 0 {
        address.set_port(bound.port());
    }
    let usable = !address.ip().is_unspecified() && !address.ip().is_multicast();
    if usable { Ok(address) } else { Err(BuildError::Advertise(address)) }
}

/// What gossip says of the store.
fn facts(store: Store) -> Box<dyn Fn() -> StoreFacts + Send + Sync> {
    Box::new(move || {
        let state = store.state();
        StoreFacts { site: state.site, schema: state.schema, hash: store.fingerprint() }
    })
}

/// The parts at work, in the order of their start.
#[derive(Default)]
struct Running {
    tasks: JoinSet<Result<(), RunError>>,
    parts: Vec<Part>,
}

/// A part at work.
struct Part {
    name: &'static str,
    task: Id,
    stop: CancellationToken,
}

impl Running {
    fn start<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), RunError>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = self.tasks.spawn(part(stop.clone())).id();
        self.parts.push(Part { name, task, stop });
    }

    /// Waits until a part ends by itself. Cancel-safe: it only waits.
    async fn ended(&mut self) -> RunError {
        match self.tasks.join_next_with_id().await {
            Some(Ok((task, Ok(())))) => RunError::Ended(self.over(task)),
            Some(Ok((task, Err(error)))) => {
                self.over(task);
                error
            }
            Some(Err(error)) => RunError::Panic(self.over(error.id()), error),
            None => RunError::Ended("node"),
        }
    }

    /// Takes a part that has ended off the list; returns its name.
    fn over(&mut self, task: Id) -> &'static str {
        let position = self.parts.iter().position(|part| part.task == task);
        position.map_or("part", |position| self.parts.remove(position).name)
    }

    /// Stops the parts one after the other, the last one first; aborts what is left at the deadline.
    async fn stop(mut self, deadline: Instant) {
        while let Some(Part { name, task, stop }) = self.parts.last() {
            let (name, task) = (*name, *task);
            stop.cancel();
            while self.parts.iter().any(|part| part.task == task) {
                match timeout_at(deadline.into(), self.tasks.join_next_with_id()).await {
                    Ok(Some(Ok((ended, result)))) => {
                        let part = self.over(ended);
                        if let Err(error) = result {
                            tracing::warn!(part, error = %Chain(&error), "a part ended with an error");
                        }
                    }
                    Ok(Some(Err(error))) => {
                        let part = self.over(error.id());
                        tracing::error!(part, %error, "a part panicked");
                    }
                    Ok(None) => self.parts.clear(),
                    Err(_) => {
                        tracing::warn!(part = name, "a part did not stop in time");
                        self.tasks.shutdown().await;
                        return;
                    }
                }
            }
        }
    }
}

/// What the API and status show of members and replication.
#[derive(Clone, Debug)]
struct View {
    store: Store,
    members: Members,
    replication: Published,
    counters: Counters,
    seeds: Seeds,
    /// What the store held at the start.
    begun: Holding,
    started: Instant,
    standing: Standing,
}

/// Whether there is anybody to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seeds {
    None,
    Some,
}

/// What a store holds at its start.
fn holding(store: &Store) -> Holding {
    if store.state().heads.iter().all(|(_, head)| head == 0) { Holding::Nothing } else { Holding::Something }
}

impl ShownMembership for View {
    fn members(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.list.clone()
    }

    fn acknowledged(&self) -> watch::Receiver<BTreeMap<NodeId, u64>> {
        self.replication.acknowledged.clone()
    }

    fn figures(&self) -> ReplicationFigures {
        let status = self.replication.status.borrow();
        ReplicationFigures {
            // The greatest, not the sum: what one peer has and we lack, the others mostly have too.
            behind: status.peers.values().map(|peer| peer.behind).max().unwrap_or(0),
            lag_p99: status.lag_p99,
            queued: status.queued,
            applied: self.counters.versions_applied.get(),
            pushed: self.counters.versions_pushed.get(),
            pulls: self.counters.pulls.get(),
            pulls_failed: self.counters.pulls_failed.get(),
        }
    }

    fn peers(&self) -> Vec<PeerFigures> {
        let status = self.replication.status.borrow();
        let figures = |(server, peer): (&NodeId, &PeerStatus)| PeerFigures {
            server: server.clone(),
            behind: peer.behind,
            ahead: peer.ahead,
            queued_bytes: peer.queued_bytes,
            agreement: peer.agreement,
            differs_for: peer.differs_for,
            clock_ms: peer.clock_ms,
        };
        status.peers.iter().map(figures).collect()
    }

    fn waiting(&self) -> Vec<String> {
        let status = self.replication.status.borrow();
        let linked = status.peers.values().any(|peer| peer.pushing == Open::Yes);
        match status.caught_up {
            CaughtUp::Once => Vec::new(),
            CaughtUp::NotYet if self.seeds == Seeds::None => Vec::new(),
            // Cut off from all others, a node answers from what it knows.
            CaughtUp::NotYet if !linked && self.started.elapsed() >= ALONE => Vec::new(),
            CaughtUp::NotYet => vec!["replication has not caught up with any peer yet".to_owned()],
        }
    }

    fn holding(&self) -> Holding {
        match self.begun {
            Holding::Nothing if !self.waiting().is_empty() => Holding::Nothing,
            Holding::Nothing | Holding::Something => Holding::Something,
        }
    }

    fn counts(&self) -> Vec<Count> {
        self.counters.read()
    }

    fn certificate(&self) -> Option<Certificate> {
        Some(self.standing.certificate())
    }

    fn refusals(&self) -> Vec<RefusedFigures> {
        let figures = |(address, by, why)| RefusedFigures { address, by, why };
        self.standing.refusals().into_iter().map(figures).collect()
    }

    fn alarms(&self) -> Vec<Alarm> {
        let status = Arc::clone(&self.replication.status.borrow());
        let clocks = status.clocks.alarms().into_iter().map(|text| Alarm { name: "clock", text });
        let forked = replication::fork_alarm(&status.shunned_by).map(|text| Alarm { name: "forked", text });
        let rows = self.rows_alarm().into_iter().chain(self.lost_alarm());
        self.standing.alarms().into_iter().chain(rows).chain(forked).chain(clocks).collect()
    }
}

impl View {
    /// That the node was away for too long, and what it had written is not all there.
    fn lost_alarm(&self) -> Option<Alarm> {
        let lists: Vec<_> = self.store.lost().iter().map(|path| path.display().to_string()).collect();
        let text = format!(
            "this server was away for longer than deletions are remembered, and what it had written to rows that were deleted meanwhile is lost: it is listed in {}; see to it, and take the list away",
            lists.join(" and ")
        );
        (!lists.is_empty()).then_some(Alarm { name: "lost", text })
    }

    /// That rows are not what they should be, here or there.
    fn rows_alarm(&self) -> Option<Alarm> {
        let status = self.replication.status.borrow();
        if let Some(damage) = &status.damage {
            let text = format!(
                "the store is damaged ({damage}): the others get no rows from it, and it takes theirs in place of its own; if this lasts for minutes, stop Kith here and move kith.db, kith.db-wal and kith.db-shm away"
            );
            return Some(Alarm { name: "damaged", text });
        }
        let long = |peer: &PeerStatus| peer.differs_for.filter(|&time| time >= DIFFERS_FOR);
        let (node, time) = status.peers.iter().find_map(|(node, peer)| Some((node, long(peer)?)))?;
        let text = format!(
            "{node} has applied the same versions and holds other rows, for {} s: both look through theirs and take from each other what differs; if this lasts for minutes, look at its alarms, and run kith store verify on both",
            time.as_secs()
        );
        Some(Alarm { name: "digest", text })
    }
}

impl StatusHandle {
    /// How it is doing now.
    pub fn get(&self) -> Status {
        let (node, region) = &*self.config;
        Status {
            node: node.clone(),
            region: region.clone(),
            boot: self.store.boot(),
            members: self.view.members.list.borrow().to_vec(),
            replication: ReplicationStatus::clone(&self.view.replication.status.borrow()),
            counts: self.view.counts(),
            waiting: self.view.waiting(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part that ends when told to, and says so.
    async fn obedient(
        name: &'static str,
        stop: CancellationToken,
        order: watch::Sender<Vec<&'static str>>,
    ) -> Result<(), RunError> {
        stop.cancelled().await;
        order.send_modify(|order| order.push(name));
        Ok(())
    }

    fn three(order: &watch::Sender<Vec<&'static str>>) -> Running {
        let mut running = Running::default();
        for name in ["first", "second", "third"] {
            running.start(name, |stop| obedient(name, stop, order.clone()));
        }
        running
    }

    #[tokio::test(start_paused = true)]
    async fn parts_stop_in_the_reverse_order_of_their_start() {
        let order = watch::Sender::default();
        three(&order).stop(Instant::now() + STOP).await;
        assert_eq!(*order.borrow(), ["third", "second", "first"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_ends_or_panics_by_itself_is_named_and_the_others_stop_in_order() {
        let order = watch::Sender::default();
        let mut running = three(&order);
        running.start("fourth", |_| async { panic!("on purpose") });
        let ended = running.ended().await;
        assert!(matches!(ended, RunError::Panic("fourth", _)), "{ended}");
        running.start("fifth", |_| async { Ok(()) });
        let ended = running.ended().await;
        assert!(matches!(ended, RunError::Ended("fifth")), "{ended}");
        running.stop(Instant::now() + STOP).await;
        assert_eq!(*order.borrow(), ["third", "second", "first"]);
    }

    #[tokio::test]
    async fn a_part_that_does_not_stop_is_cut_off_at_the_deadline() {
        let order = watch::Sender::default();
        let mut running = three(&order);
        running.start("deaf", |_| std::future::pending());
        let began = Instant::now();
        running.stop(began + Duration::from_millis(50)).await;
        assert!(began.elapsed() < STOP, "{:?}", began.elapsed());
    }
}
