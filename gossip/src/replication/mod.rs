//! The shell around the replica: streams, the store and a timer, none of which decides anything.
//!
//! One task owns the [`Replica`]. Whatever happens comes to it as an event, in order; what it wants done is done without
//! waiting. So there is no lock, and no timer between a commit here and its frame on the wire, or between a frame and the
//! store.
//!
//! ```text
//! store ── commits ──────────────┐                       ┌─► outboxes ─► streams of versions and heads
//! links ── opened, frames, end ──┼─► replica (one task) ─┼─► applier ──► store, in order ──┐
//! members ── up, down, hashes ───┤                       └─► pulls ────► store, joined ────┤
//!                                └─────────────────────── heads that rose ◄────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kith_gossip_proto::agreement::Agreement;
use kith_gossip_proto::frame::Hello;
use kith_gossip_proto::past::is_outgrown;
use kith_gossip_proto::replica::{Input, Output, PullOutcome, Stream};
use kith_gossip_proto::soundness::{Mended, Soundness};
use kith_gossip_proto::{Frame, NodeId, Replica, SiteId, Vector};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::api::MemberState;
use crate::membership::{Hashes, Members};
use crate::net::frames;
use crate::net::{Kind, Net, PeerStream};
use crate::store::{Due, Highest, Looked};

mod answers;
mod apply;
mod clocks;
mod fork;
mod lag;
mod link;
mod outbox;
mod pull;
mod purge;
mod remedy;
mod repair;
mod snapshot;
pub(crate) mod storage;

pub use clocks::{ClockStatus, RefusedSite};
pub(crate) use fork::alarm as fork_alarm;
pub use purge::WINDOW;

use answers::Answers;
use apply::Work;
use lag::Lag;
use link::Links;
use outbox::{Full, Outbox};
use purge::Passes;
use storage::{Commits, Next, Storage};

#[cfg(test)]
mod tests;

/// Events that wait for the replica. Each costs it microseconds; when it is full the links stop reading, and their peers
/// stop sending.
const EVENTS: usize = 1024;

/// Groups of versions that wait for the store; the replica bounds their bytes. When it is full the group is forgotten,
/// and pulled when the store is faster.
const APPLIES: usize = 1024;

/// What happens to the replica.
enum Event {
    Opened {
        node: NodeId,
        stream: Stream,
        /// The peer's.
        hello: Hello,
        slot: Slot,
    },
    Received {
        node: NodeId,
        stream: Stream,
        id: u64,
        frame: Frame,
    },
    Closed {
        node: NodeId,
        stream: Stream,
        id: u64,
    },
    Applied {
        heads: Vector,
        outcome: apply::Outcome,
    },
    Pulled {
        node: NodeId,
        outcome: PullOutcome,
        heads: Option<Vector>,
    },
    /// The nodes that are known.
    Known(Vec<NodeId>),
    /// What a node has applied that was asked.
    Told(NodeId, Vector),
    /// Tombstones that may go.
    Due(Due),
    /// Our rows could not be looked through.
    NotLooked,
    /// Rows were compared with a peer's, and put right; the heads after it if they were.
    Repaired {
        mended: Mended,
        heads: Option<Vector>,
    },
    /// The node has met another store of this site, which was opened so often.
    Forked {
        node: NodeId,
        site: SiteId,
        boot: u64,
    },
    /// The node says so, and we keep our site.
    Shunned(NodeId),
}

/// How often the status is published at most.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);

/// How replication stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationStatus {
    /// Our applied and synced heads.
    pub heads: Vector,
    /// Versions that wait for earlier ones, in bytes.
    pub parked_bytes: usize,
    /// Versions of peers that have arrived and are not stored.
    pub queued: u64,
    /// From arrival to the synced store, the 99th percentile of the last minutes.
    pub lag_p99: Duration,
    /// Whether this node has once held all that some peer had.
    pub caught_up: CaughtUp,
    /// What is wrong with our own rows, where a look through them has found something.
    pub damage: Option<String>,
    /// Whose clock is wrong.
    pub clocks: ClockStatus,
    /// The nodes that take this one for a copy of another store, and nothing from it, while it keeps its site.
    pub shunned_by: BTreeSet<NodeId>,
    /// By node, what joins us with it.
    pub peers: BTreeMap<NodeId, PeerStatus>,
}

/// By node, the last version of this site that it has told to be stored and synced there.
pub(crate) type Acknowledged = BTreeMap<NodeId, u64>;

/// What others see of replication.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) status: watch::Receiver<Arc<ReplicationStatus>>,
    pub(crate) acknowledged: watch::Receiver<Acknowledged>,
}

/// What joins us with a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// The stream on which we push is open.
    pub pushing: Open,
    /// The stream on which the peer pushes is open.
    pub receiving: Open,
    /// Versions that the peer has, by what it told last, and we have not.
    pub behind: u64,
    /// Versions that we have and the peer, by what it told last, has not; None before it told.
    pub ahead: Option<u64>,
    /// Bytes that wait to be sent to it.
    pub queued_bytes: usize,
    /// Whether it holds the same rows, as of the last time that it had applied the same versions.
    pub agreement: Agreement,
    /// How long it has not.
    pub differs_for: Option<Duration>,
    /// How far its clock is ahead of ours, in milliseconds; negative where it is behind.
    pub clock_ms: Option<i64>,
}

/// Whether this node has once held all that some peer had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaughtUp {
    /// Not since its start.
    #[default]
    NotYet,
    /// It has.
    Once,
}

/// Whether a stream is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Open {
    /// It is not.
    #[default]
    No,
    /// It is.
    Yes,
}

/// Why replication ended.
#[derive(Debug, Error)]
pub enum ReplicationError {
    /// The store has ended.
    #[error("the store has ended")]
    Store,
    /// The network has ended.
    #[error("the network has ended")]
    Net,
    /// The store has given up its site. Who follows from the old one's heads what peers lack, and what they have told of
    /// them, would be wrong; so all begins anew.
    #[error("the store has another site id, so the node begins anew")]
    Renamed,
    /// One of its tasks failed.
    #[error("a task of replication failed")]
    Task(#[source] JoinError),
}

/// Replication at work.
pub(crate) struct Replication<S: Storage> {
    links: Links<S>,
    events: mpsc::Receiver<Event>,
    streams: mpsc::Receiver<PeerStream>,
    members: Members,
    commits: S::Commits,
    /// The store's site when this began. It ends when that is another.
    site: SiteId,
    replica: Replica,
    /// What the store was told of the peers' clocks.
    highest: Option<i64>,
    started: Instant,
    /// The streams that are open, by whose they are.
    open: BTreeMap<(NodeId, Stream), Slot>,
    /// Stops keeping a stream of ours open.
    kept: BTreeMap<NodeId, CancellationToken>,
    /// What the replica was told last of each member.
    told: Arc<Hashes>,
    applies: mpsc::Sender<Work>,
    passes: Passes,
    answers: Answers,
    lag: Lag,
    caught_up: CaughtUp,
    soundness: Soundness,
    looks: watch::Receiver<Option<Arc<Looked>>>,
    /// Gives up the site.
    beginning_again: Option<AbortHandle>,
    shunned_by: BTreeSet<NodeId>,
    status: watch::Sender<Arc<ReplicationStatus>>,
    acknowledged: watch::Sender<Acknowledged>,
    /// When to publish the status next, if anything has happened since.
    publish: Option<Duration>,
    tasks: JoinSet<()>,
}

/// One open stream. Its end is reported with the same id.
struct Slot {
    id: u64,
    outbox: Arc<Outbox>,
    stop: CancellationToken,
}

impl<S: Storage> Replication<S> {
    /// Takes the store's commits from now on; nothing is sent before [`Replication::run`]. The seed decides which peers
    /// the random pulls go to; the window is how long deletions are remembered.
    pub(crate) fn start(
        net: Net,
        store: S,
        members: Members,
        streams: mpsc::Receiver<PeerStream>,
        seed: u64,
        window: Duration,
    ) -> (Self, Published) {
        let (sender, events) = mpsc::channel(EVENTS);
        let (status, published) = watch::channel(Arc::default());
        let (acknowledged, heads) = watch::channel(Acknowledged::new());
        let published = Published { status: published, acknowledged: heads };
        let started = Instant::now();
        // The commits first: what is committed in between is in both.
        let commits = store.commits();
        let site = store.past().site;
        let looks = store.looks();
        let mut replica = Replica::new(net.node().clone(), store.heads(), seed, started.elapsed());
        // To this it has no answer.
        replica.handle(Input::Purging(store.purged().through.clone()), started.elapsed());
        let mut tasks = JoinSet::new();
        let (applies, queued) = mpsc::channel(APPLIES);
        tasks.spawn(apply::run(store.clone(), queued, sender.clone(), net.counters().clone()));
        let links = Links { net, store, events: sender, ids: Arc::new(AtomicU64::new(1)) };
        let (open, kept, told) = Default::default();
        let replication = Self {
            links,
            events,
            streams,
            members,
            commits,
            site,
            replica,
            highest: None,
            started,
            open,
            kept,
            told,
            applies,
            passes: Passes::new(window, started.elapsed()),
            answers: Answers::default(),
            lag: Lag::default(),
            caught_up: CaughtUp::NotYet,
            soundness: Soundness::new(seed, started.elapsed()),
            looks,
            beginning_again: None,
            shunned_by: BTreeSet::new(),
            status,
            acknowledged,
            publish: None,
            tasks,
        };
        (replication, published)
    }

    /// Replicates until the token is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) -> Result<(), ReplicationError> {
        let ended = self.work(&token).await;
        self.tasks.shutdown().await;
        ended
    }

    async fn work(&mut self, token: &CancellationToken) -> Result<(), ReplicationError> {
        self.feed(self.clock());
        self.look_at_members();
        let mut members = self.members.hashes.clone();
        loop {
            let deadline = self.started
                + self.publish.unwrap_or(Duration::MAX).min(self.replica.deadline()).min(self.passes.next());
            // Every arm is cancel-safe: the channels keep what was not taken, the rest only waits.
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                next = self.commits.next() => match next {
                    Next::Commit { .. } | Next::Lagged if self.links.store.past().site != self.site => {
                        return Err(ReplicationError::Renamed);
                    }
                    Next::Commit { versions, heads } => {
                        versions.into_iter().for_each(|version| self.feed(Input::Committed(version)));
                        self.feed(Input::Stored(Arc::unwrap_or_clone(heads)));
                    }
                    // Versions that were not seen were not pushed either; peers see them in our heads, and pull.
                    Next::Lagged => self.feed(Input::Stored(self.links.store.heads())),
                    Next::Closed => return Err(ReplicationError::Store),
                },
                // Never None: we hold a sender.
                Some(event) = self.events.recv() => self.happened(event),
                stream = self.streams.recv() => match stream {
                    Some(stream) => self.take(stream),
                    None => return Err(ReplicationError::Net),
                },
                changed = members.changed() => {
                    if changed.is_err() {
                        token.cancelled().await;
                        return Ok(());
                    }
                    self.look_at_members();
                }
                looked = self.looks.changed() => match looked {
                    Ok(()) => self.looked(),
                    Err(_) => return Err(ReplicationError::Store),
                },
                Some(joined) = self.tasks.join_next() => if let Err(error) = joined && error.is_panic() {
                    return Err(ReplicationError::Task(error));
                },
                () = sleep_until(deadline.into()) => self.feed(Input::Tick),
            }
            self.publish_if_due();
            self.purge_if_due();
        }
    }

    /// Tells the replica what changed with the members.
    fn look_at_members(&mut self) {
        let members = Arc::clone(&self.members.hashes.borrow());
        for (node, &(state, hash)) in members.iter() {
            let before = self.told.get(node).copied();
            if before.map(|(state, _)| state) != Some(state) {
                match state {
                    MemberState::Up => {
                        self.soundness.met(node);
                        self.feed(Input::MemberUp(node.clone()));
                    }
                    MemberState::Silent | MemberState::Removed => self.feed(Input::MemberDown(node.clone())),
                }
            }
            let hash = hash.map(|hash| hash.vector);
            let known = before.and_then(|(_, hash)| hash).map(|hash| hash.vector);
            if let Some(hash) = hash.filter(|_| known != hash) {
                self.feed(Input::Gossiped(node.clone(), hash));
            }
        }
        self.shunned_by.retain(|node| members.contains_key(node));
        self.told = members;
    }

    fn take(&mut self, stream: PeerStream) {
        match stream.kind {
            Kind::Versions => drop(self.tasks.spawn(self.links.clone().serve(stream))),
            // Whoever asks sees an answer without its end, and asks another node.
            Kind::Pull | Kind::Snapshot if self.soundness.damage().is_some() => drop(stream),
            Kind::Pull => {
                let (net, store) = (self.links.net.clone(), self.links.store.clone());
                self.tasks.spawn(pull::answer(net, store, self.answers.clone(), stream));
            }
            Kind::Snapshot => {
                let (net, store) = (self.links.net.clone(), self.links.store.clone());
                self.tasks.spawn(snapshot::answer(net, store, self.answers.clone(), stream));
            }
            // The network hands those to membership, and to whoever signs.
            Kind::Gossip | Kind::Renewal => {}
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Opened { node, stream, hello, slot } => self.opened(node, stream, &hello, slot),
            Event::Received { node, stream, id, frame } => {
                if let Frame::Versions(versions) = &frame {
                    self.links.net.counters().versions_received.inc_by(versions.len() as u64);
                    let (heads, now) = (self.replica.heads(), self.started.elapsed());
                    let new = versions.iter().filter(|version| version.version > heads.head(version.site));
                    new.for_each(|version| self.lag.arrived(version.site, version.version, now));
                }
                if self.is_current(&node, stream, id) {
                    if let Frame::Heads(heads) = &frame {
                        self.compare_own_head(&node, heads);
                    }
                    let told = (!matches!(frame, Frame::Versions(_))).then(|| node.clone());
                    self.feed(Input::Received(node, frame));
                    told.into_iter().for_each(|node| self.acknowledge(node));
                }
            }
            Event::Closed { node, stream, id } => {
                if self.is_current(&node, stream, id) {
                    self.open.remove(&(node.clone(), stream));
                    self.feed(Input::Closed(node, stream));
                }
            }
            Event::Applied { heads, outcome } => {
                self.feed(Input::Stored(heads));
                match outcome {
                    apply::Outcome::All => {}
                    apply::Outcome::NotAll => self.feed(Input::ApplyFailed),
                }
            }
            Event::Pulled { node, outcome, heads } => {
                if let Some(heads) = heads {
                    // What the peer had purged came along.
                    self.feed(Input::Purging(self.links.store.purged().through.clone()));
                    self.feed(Input::Stored(heads));
                }
                self.feed(Input::Pulled(node, outcome));
            }
            Event::Forked { node, site, boot } => self.forked(node, site, boot),
            Event::Shunned(node) => {
                if self.shunned_by.insert(node.clone()) {
                    tracing::warn!(peer = %node, "a peer takes this node for a copy and nothing from it; it keeps its site");
                }
            }
            Event::Known(nodes) => self.feed(Input::Known(nodes)),
            Event::Told(node, heads) => self.feed(Input::Told(node, heads)),
            Event::Due(due) => self.purge(due),
            Event::NotLooked => self.soundness.not_looked(self.started.elapsed()),
            Event::Repaired { mended, heads } => self.repaired(mended, heads),
        }
    }

    /// Whoever waits for replicas of a transaction looks here.
    fn acknowledge(&self, node: NodeId) {
        let Some(stored) = self.replica.heads_of(&node).map(|heads| heads.head(self.links.store.past().site)) else {
            return;
        };
        self.acknowledged.send_if_modified(|all| all.insert(node, stored) != Some(stored));
    }

    /// What a peer has applied of our own site above what we have, another store wrote, or ours before its disk was set back.
    fn compare_own_head(&mut self, node: &NodeId, theirs: &Vector) {
        let store = &self.links.store;
        if is_outgrown(self.site, &store.heads(), theirs) {
            let boot = store.past().start.boot;
            self.forked(node.clone(), self.site, boot);
        }
    }

    /// Once the site is another, [`Replication::run`] ends.
    fn forked(&mut self, node: NodeId, site: SiteId, boot: u64) {
        let under_way = self.beginning_again.as_ref().is_some_and(|task| !task.is_finished());
        if site == self.site && !under_way {
            let Links { store, events, .. } = self.links.clone();
            self.beginning_again = Some(self.tasks.spawn(fork::begin_again(store, events, node, boot)));
        }
    }

    /// A stream that follows one which is not known to have ended yet replaces it.
    fn opened(&mut self, node: NodeId, stream: Stream, hello: &Hello, slot: Slot) {
        if let Some(old) = self.open.insert((node.clone(), stream), slot) {
            self.links.net.counters().links_replaced.inc();
            old.stop.cancel();
            self.feed(Input::Closed(node.clone(), stream));
        }
        // It answers our hello only if it takes us for ourselves; it says its own before it has heard ours.
        if stream == Stream::Ours {
            self.shunned_by.remove(&node);
        }
        self.feed(Input::Opened(node.clone(), stream));
        self.feed(Input::Received(node, Frame::Clock(hello.wall_ms)));
    }

    /// What this host's clock shows, and what the store's has reached.
    fn clock(&self) -> Input {
        Input::Clock { wall_ms: self.links.wall_ms(), held: self.links.store.held() }
    }

    /// The store stamps by what is known of clocks as soon as it is known.
    fn correct_clock(&mut self) {
        let highest = self.replica.clocks().highest();
        if self.highest != highest {
            self.highest = highest;
            self.links.store.correct_clock(highest.map(|ms| Highest { at: self.started, ms }));
        }
    }

    fn is_current(&self, node: &NodeId, stream: Stream, id: u64) -> bool {
        self.open.get(&(node.clone(), stream)).is_some_and(|slot| slot.id == id)
    }

    /// Feeds the replica, and does what it wants done.
    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            tracing::trace!(?input, "replica in");
            let now = self.started.elapsed();
            if let Input::Stored(heads) = &input {
                self.lag.stored(heads, now);
            }
            let outputs = self.replica.handle(input, now);
            self.correct_clock();
            // A commit goes to all peers as one frame: it is encoded once.
            let mut encoded: Option<(Arc<Frame>, Option<Bytes>)> = None;
            for output in outputs {
                tracing::trace!(?output, "replica out");
                match output {
                    Output::Link(node) => self.keep(node),
                    Output::Unlink(node) => {
                        if let Some(stop) = self.kept.remove(&node) {
                            stop.cancel();
                        }
                    }
                    Output::Send(node, frame) => {
                        let bytes = match &encoded {
                            Some((last, bytes)) if Arc::ptr_eq(last, &frame) => bytes.clone(),
                            _ => encode(&frame),
                        };
                        encoded = Some((Arc::clone(&frame), bytes.clone()));
                        if let Some(bytes) = bytes {
                            self.send(node, &frame, bytes);
                        }
                    }
                    Output::Apply(versions) => {
                        if self.applies.try_send(Work::Versions(versions)).is_err() {
                            self.links.net.counters().apply_failed.inc();
                            inputs.push_back(Input::ApplyFailed);
                        }
                    }
                    Output::Pull(node, above) => self.pull(node, Some(above), now),
                    Output::Snapshot(node) => self.pull(node, None, now),
                    Output::AskHeads(nodes) => self.ask_heads(nodes),
                    Output::Purge(covered) => self.look_for_tombstones(covered),
                    Output::Renounce(refused, latest) => self.renounce(refused, latest),
                    Output::ReadClock => inputs.push_back(self.clock()),
                }
            }
        }
    }

    /// Asks a node for all above these heads, or for a snapshot.
    fn pull(&mut self, node: NodeId, above: Option<Vector>, now: Duration) {
        let Links { net, store, events, .. } = self.links.clone();
        let latest = self.replica.latest(now);
        match above {
            Some(above) => self.tasks.spawn(pull::ask(net, store, events, pull::Asked { node, above, latest })),
            None => self.tasks.spawn(snapshot::ask(net, store, events, node, latest)),
        };
    }

    fn keep(&mut self, node: NodeId) {
        let stop = CancellationToken::new();
        self.tasks.spawn(self.links.clone().keep(node.clone(), stop.clone()));
        if let Some(before) = self.kept.insert(node, stop) {
            before.cancel();
        }
    }

    /// Queues a frame on the stream it belongs to; without that, it is lost.
    fn send(&self, node: NodeId, frame: &Frame, bytes: Bytes) {
        let stream = if matches!(frame, Frame::Versions(_)) { Stream::Ours } else { Stream::Theirs };
        let Some(slot) = self.open.get(&(node, stream)) else { return };
        if let (Frame::Versions(versions), counters) = (frame, self.links.net.counters()) {
            counters.versions_pushed.inc_by(versions.len() as u64);
        }
        if slot.outbox.push(bytes) == Err(Full) {
            self.links.net.counters().frames_dropped.inc();
            // Versions that are missing are pulled. Heads that are missing nobody would notice, since only what rose is
            // told: the stream is ended, and the next one begins with all of them.
            match stream {
                Stream::Ours => {}
                Stream::Theirs => slot.stop.cancel(),
            }
        }
    }

    /// Publishes the status some time after something has happened.
    fn publish_if_due(&mut self) {
        let now = self.started.elapsed();
        match self.publish {
            None => self.publish = Some(now + PUBLISH_EVERY),
            Some(due) if due <= now => {
                self.publish = None;
                self.compare(now);
                let status = self.status(now);
                self.caught_up = status.caught_up;
                status.clocks.log(&self.status.borrow().clocks);
                let counter = &self.links.net.counters().from_the_future;
                counter.inc_by(self.replica.refused_count().saturating_sub(counter.get()));
                self.status.send_replace(Arc::new(status));
            }
            Some(_) => {}
        }
    }

    fn status(&mut self, now: Duration) -> ReplicationStatus {
        let heads = self.replica.heads();
        let mut peers: BTreeMap<NodeId, PeerStatus> = BTreeMap::new();
        let mut caught_up = self.caught_up;
        for node in self.told.keys() {
            let told = self.replica.heads_of(node);
            let peer = peers.entry(node.clone()).or_default();
            peer.clock_ms = self.replica.clocks().offset_ms(node);
            peer.behind = told.map_or(0, |told| heads.lag(told));
            peer.ahead = told.map(|told| told.lag(heads));
            peer.agreement = self.soundness.of(node);
            peer.differs_for = peer.agreement.differs_for(now);
            if told.is_some() && peer.behind == 0 {
                caught_up = CaughtUp::Once;
            }
        }
        for ((node, stream), slot) in &self.open {
            let peer = peers.entry(node.clone()).or_default();
            peer.queued_bytes += slot.outbox.bytes();
            match stream {
                Stream::Ours => peer.pushing = Open::Yes,
                Stream::Theirs => peer.receiving = Open::Yes,
            }
        }
        ReplicationStatus {
            heads: heads.clone(),
            parked_bytes: self.replica.parked_bytes(),
            queued: self.lag.under_way() as u64,
            lag_p99: self.lag.p99(now),
            caught_up,
            damage: self.soundness.damage().map(ToOwned::to_owned),
            clocks: ClockStatus::of(&self.replica, now),
            shunned_by: self.shunned_by.clone(),
            peers,
        }
    }
}

/// None for a frame over the limit, which no transaction within its own limits makes.
fn encode(frame: &Frame) -> Option<Bytes> {
    frames::encode(frame).map_err(|error| tracing::error!(%error, "a frame cannot be sent")).ok()
}
