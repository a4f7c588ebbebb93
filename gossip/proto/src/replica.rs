//! Who sends what to whom, and when: replication as a value.
//!
//! [`Replica::handle`] takes what happened and the time, and returns what to do; [`Replica::deadline`] says when to call
//! again if nothing happens. It holds no rows. The contract of the outputs, in the order they are returned:
//!
//! - `Apply` goes to the store, in order; late is fine. What the store did not apply of it is answered with
//!   [`Input::ApplyFailed`].
//! - `Send` may be lost: whoever misses a version sees it in a vector and pulls.
//! - `Pull` and `Snapshot` are answered with exactly one [`Input::Pulled`].
//! - Nothing is sent before it is synced: heads rise only by [`Input::Stored`] and [`Input::Committed`], which the store
//!   says after its sync.
//!
//! Up to 30 nodes all are joined to all, and a version goes straight from its site to everybody. Above that each is
//! joined to a few neighbours, and versions are forwarded along trees that heal (`overlay`, `tree`).
//!
//! Two streams join a pair of nodes, one opened by each. A node pushes its versions on the stream it opened, and hears on
//! it how far the peer has applied; on the other it is the other way round.
//!
//! ```text
//! version received ── known ──────────────► dropped
//!        │ new
//!        ▼            predecessor and needs handed on, room
//!     parked ───────────────────────────────► handed to the store ── Stored ──► part of our heads, told to peers
//!        │ over the bound: dropped, pulled             │ ApplyFailed: forgotten, pulled
//! ```
//! A version whose stamp is [from the future](crate::clocks) is dropped as well, its sender told, and pulled once it is due.

use std::sync::Arc;
use std::time::Duration;

use crate::clocks::{self, Clocks, TELL_EVERY};
use crate::{Frame, Hlc, NodeId, SiteId, Stamp, Vector, Version};

mod coverage;
mod future;
mod handed;
mod member;
mod members;
mod overlay;
mod parked;
mod pull;
mod purge;
mod telling;
mod tree;

use coverage::Coverage;
use future::Refusals;
use handed::Handed;
use member::{Member, Way};
use members::Members;
use overlay::{Mode, Overlay};
use parked::Parked;
use pull::Pulls;
use telling::Telling;
use tree::{GRAFT_AGAIN, Tree};

pub use future::Refusal;
pub use overlay::Sizes;
pub use pull::{PULL_AFTER, PULL_EVERY, PULL_RETRY, PULL_STALL};
pub use telling::{HEADS_EVERY, WHOLE_HEADS_AFTER};
pub use tree::GRAFT_AFTER;

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Gossip sees the node.
    MemberUp(NodeId),
    /// Gossip no longer sees the node, or it was removed. What gossip said of it is forgotten.
    MemberDown(NodeId),
    /// A stream is ready: hellos went both ways. Where a stream follows one that broke, the end of the old one may be
    /// reported after the beginning of the new one, but it is reported.
    Opened(NodeId, Stream),
    /// A stream that was ready has ended. One for each [`Input::Opened`].
    Closed(NodeId, Stream),
    /// Gossip carried the hash of the node's vector. May be repeated.
    Gossiped(NodeId, u64),
    /// A frame arrived on a stream: versions on theirs, all else on ours.
    Received(NodeId, Frame),
    /// The store committed a version of our own, synced.
    Committed(Arc<Version>),
    /// The store's heads, synced: after a commit, an apply or a joined pull.
    Stored(Vector),
    /// The store did not apply all that it was handed: its disk is full or dead, or it keeps a version aside. Its heads
    /// stand; those that rose were said by [`Input::Stored`] before.
    ApplyFailed,
    /// All nodes that belong to the cluster and were heard of lately enough for their knowledge to be waited for. Said now
    /// and then; may be answered by [`Output::Purge`], or by [`Output::AskHeads`] before that.
    Known(Vec<NodeId>),
    /// The node was asked for its heads, and told these.
    Told(NodeId, Vector),
    /// Tombstones of these versions and earlier ones are about to be purged from the store: said before that, as from here
    /// on nothing is taken of who may not know them. Also once after the start, of all that ever were.
    Purging(Vector),
    /// The pull from this node ended: joined whole, or not at all.
    Pulled(NodeId, PullOutcome),
    /// This host's clock was read: at the start, and whenever [`Output::ReadClock`] asks for it.
    Clock {
        /// What it shows, in milliseconds since 1970.
        wall_ms: u64,
        /// The latest reading of the store's own clock.
        held: Hlc,
    },
    /// The deadline passed.
    Tick,
}

/// One of the two streams of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// The one we opened: versions out; the peer's heads, grafts and prunes in.
    Ours,
    /// The one the peer opened: versions in; our heads, grafts and prunes out.
    Theirs,
}

/// How a pull ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullOutcome {
    /// All rows joined in one transaction; [`Input::Stored`] came before this.
    Joined,
    /// Refused, broken off, stalled or not stored. Nothing changed.
    Failed,
    /// So much is missing that the peer would rather send its whole store. Nothing changed.
    NeedsSnapshot,
    /// Refused, because it brings this stamp, which is later than [`Replica::latest`] says. Nothing changed.
    FromFuture(Stamp),
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Keep a stream of ours open to this node, with patience.
    Link(NodeId),
    /// Close it and stop trying.
    Unlink(NodeId),
    /// Send a frame: versions on the stream we opened, all else on the one the peer opened. Dropped if that is not ready.
    Send(NodeId, Arc<Frame>),
    /// Apply these, each after the one before. Their predecessors and needs were handed on earlier.
    Apply(Vec<Version>),
    /// Ask the node for all that is above these heads, over the connection that its streams are on, and join the answer.
    /// One is out at a time, so fail it as soon as the connection ends or nothing came for [`PULL_STALL`].
    Pull(NodeId, Vector),
    /// Take a snapshot of the node's whole store instead, in the same way and under the same bounds.
    Snapshot(NodeId),
    /// Ask these nodes for their heads, one after the other: there is no stream on which they would tell them. What they say
    /// is said by [`Input::Told`]; who does not answer is asked again after the next [`Input::Known`].
    AskHeads(Vec<NodeId>),
    /// Tombstones that these heads cover may be purged, if they are old enough. Every known node has applied them, and we
    /// all that one could have written before.
    Purge(Vector),
    /// Where one of these sites is the store's own: its stamps that are later than this, and those of that version and above,
    /// nobody takes. Give up the site, and stamp anew what carries them.
    Renounce(Vector, Hlc),
    /// Read this host's clock and say what it shows, by [`Input::Clock`].
    ReadClock,
}

/// Replication of one node. Reads no clock; its only randomness is the seed.
#[derive(Debug)]
pub struct Replica {
    heads: Vector,
    /// What tombstones that are gone were of.
    purged: Vector,
    coverage: Coverage,
    telling: Telling,
    parked: Parked,
    handed: Handed,
    members: Members,
    overlay: Overlay,
    tree: Tree,
    pulls: Pulls,
    clocks: Clocks,
    /// When to read our own clock.
    read_clock: Duration,
    /// The latest reading of the store's clock, as of when ours was read.
    held: Hlc,
    refusals: Refusals,
}

impl Replica {
    /// This node's replica, whose store has these heads, at time `now`. The seed decides which peer the random pulls go to.
    pub fn new(me: NodeId, heads: Vector, seed: u64, now: Duration) -> Self {
        Self::with_sizes(me, heads, seed, now, Sizes::default())
    }

    /// The same, with another notion of how many nodes are many.
    pub fn with_sizes(me: NodeId, heads: Vector, seed: u64, now: Duration, sizes: Sizes) -> Self {
        Self {
            telling: Telling::default(),
            parked: Parked::default(),
            handed: Handed::new(heads.clone()),
            heads,
            purged: Vector::default(),
            coverage: Coverage::default(),
            members: Members::default(),
            overlay: Overlay::new(me, sizes),
            tree: Tree::default(),
            pulls: Pulls::new(seed, now),
            clocks: Clocks::default(),
            read_clock: now + TELL_EVERY,
            held: Hlc::ZERO,
            refusals: Refusals::default(),
        }
    }

    /// The applied and synced heads.
    pub fn heads(&self) -> &Vector {
        &self.heads
    }

    /// What a member told last of its heads; nothing before it did, and after the stream it tells them on opened anew.
    pub fn heads_of(&self, node: &NodeId) -> Option<&Vector> {
        self.members.get(node).and_then(Member::heads)
    }

    /// What is known of clocks.
    pub fn clocks(&self) -> &Clocks {
        &self.clocks
    }

    /// The latest reading that is believed at the time `now`: no pull or snapshot that brings a later one is joined.
    pub fn latest(&self, now: Duration) -> Hlc {
        self.clocks.latest(now)
    }

    /// The sites whose versions are refused at present, because they are from the future: once for each peer that sends them.
    pub fn refused(&self) -> impl Iterator<Item = (SiteId, &Refusal)> {
        self.refusals.iter()
    }

    /// How many versions and pulls were refused since the start, because they are from the future.
    pub fn refused_count(&self) -> u64 {
        self.refusals.count()
    }

    /// Bytes of versions that wait for earlier ones, or for room in the store's queue.
    pub fn parked_bytes(&self) -> usize {
        self.parked.bytes()
    }

    /// Bytes of versions that the store was handed and has not stored.
    pub fn handed_bytes(&self) -> usize {
        self.handed.bytes()
    }

    /// Takes one input and returns what to do, in order.
    pub fn handle(&mut self, input: Input, now: Duration) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::MemberUp(node) => self.member_up(node, &mut out),
            Input::MemberDown(node) => self.member_down(&node, &mut out),
            Input::Opened(node, stream) => self.opened(node, stream, &mut out),
            Input::Closed(node, stream) => self.closed(&node, stream),
            Input::Gossiped(node, hash) => self.gossiped(&node, hash, now),
            Input::Received(node, frame) => self.received(&node, frame, now, &mut out),
            Input::Committed(version) => self.committed(version, now, &mut out),
            Input::Stored(heads) => self.stored(&heads, now, &mut out),
            Input::ApplyFailed => self.handed.fall_back(&self.heads),
            Input::Known(nodes) => self.known(&nodes, &mut out),
            Input::Told(node, heads) => self.told(&node, &heads),
            Input::Purging(through) => self.purging(&through),
            Input::Pulled(node, outcome) => self.pulled(&node, outcome, now, &mut out),
            Input::Clock { wall_ms, held } => self.clock_read(wall_ms, held, now, &mut out),
            Input::Tick => {}
        }
        if self.read_clock <= now {
            self.read_clock = now + TELL_EVERY;
            out.push(Output::ReadClock);
        }
        self.tell_heads(now, &mut out);
        self.graft_what_is_late(now, &mut out);
        if let Some(node) = self.pulls.due(&self.members, now) {
            out.push(match self.members.get_mut(&node).map_or(Way::Rows, Member::begin_pull) {
                Way::Rows => Output::Pull(node, self.heads.clone()),
                Way::Snapshot => Output::Snapshot(node),
            });
        }
        out
    }

    /// When to call [`Replica::handle`] with [`Input::Tick`] if nothing else happens before. Later than the last call.
    pub fn deadline(&self) -> Duration {
        let pull = self.pulls.deadline(&self.members);
        let grafts = self.members.connected().filter_map(|(_, member)| member.graft_at());
        let grafts = grafts.filter(|_| self.overlay.mode() == Mode::Tree);
        grafts.chain(self.telling.deadline(self.overlay.mode())).fold(pull.min(self.read_clock), Duration::min)
    }

    fn member_up(&mut self, node: NodeId, out: &mut Vec<Output>) {
        if self.members.entry(&node).come_up() {
            self.overlay.come_up(node, out);
        }
    }

    fn member_down(&mut self, node: &NodeId, out: &mut Vec<Output>) {
        if let Some(member) = self.members.get_mut(node) {
            if member.go_down() {
                self.overlay.go_down(node, out);
            }
            self.members.forget_if_gone(node);
        }
    }

    fn opened(&mut self, node: NodeId, stream: Stream, out: &mut Vec<Output>) {
        self.members.opened(&node, stream);
        match stream {
            Stream::Ours => self.tree.begin(&node),
            Stream::Theirs => out.push(Output::Send(node, Arc::new(Frame::Heads(self.heads.clone())))),
        }
    }

    fn closed(&mut self, node: &NodeId, stream: Stream) {
        self.members.closed(node, stream);
        if !self.members.get(node).is_some_and(Member::is_connected) {
            self.clocks.forget(node);
        }
    }

    /// Peers are told at once: what they hear of our clock is as old as its way.
    fn clock_read(&mut self, wall_ms: u64, held: Hlc, now: Duration, out: &mut Vec<Output>) {
        self.clocks.read(wall_ms, now);
        self.clocks.hold(held, now);
        self.held = held;
        self.refusals.review(self.latest(now), &self.heads, now);
        self.tell(Frame::Clock(wall_ms), out);
    }

    fn gossiped(&mut self, node: &NodeId, hash: u64, now: Duration) {
        let member = self.members.entry(node);
        member.gossiped(hash);
        member.watch(&self.heads, now);
    }

    fn received(&mut self, node: &NodeId, frame: Frame, now: Duration, out: &mut Vec<Output>) {
        match frame {
            Frame::Versions(versions) => {
                self.take(node, versions, now, out);
                self.hand_on(out);
            }
            Frame::Heads(rose) => {
                if let Some(member) = self.members.get_mut(node) {
                    member.told(&rose, &self.heads, &self.purged, now);
                }
            }
            Frame::Graft(wanted) => self.grafted(node, &wanted, out),
            Frame::Prune(sites) => {
                let known = sites.into_iter().filter(|&site| self.heads.head(site) > 0);
                known.for_each(|site| self.tree.prune(node, site));
            }
            // Of a node without a stream nobody would say when it is gone.
            Frame::Clock(wall_ms) if self.members.get(node).is_some_and(Member::is_connected) => {
                self.clocks.hear(node, wall_ms, now);
            }
            // One slow clock is not enough to give up anything.
            Frame::FromFuture(refused) => {
                out.extend(self.clocks.disowned(self.held, now).map(|latest| Output::Renounce(refused, latest)));
            }
            // Hellos belong to the opening of a stream, pulls and answers have streams of their own, and a later
            // release's frames are for its likes.
            Frame::Hello(_)
            | Frame::Pull(_)
            | Frame::Rows(_)
            | Frame::Pulled(_)
            | Frame::Refused(_)
            | Frame::Forked(..)
            | Frame::NeedsSnapshot
            | Frame::Snapshot(_)
            | Frame::Chunk(_)
            | Frame::SnapshotEnd(_)
            | Frame::Compare
            | Frame::Buckets(..)
            | Frame::Repair(..)
            | Frame::Clock(_)
            | Frame::Unknown(_) => {}
        }
    }

    fn take(&mut self, from: &NodeId, versions: Vec<Arc<Version>>, now: Duration, out: &mut Vec<Output>) {
        let mut repeated = Vec::new();
        let latest = self.latest(now);
        for version in versions {
            if !self.may_take(from, &version) {
                continue;
            }
            let (site, number) = (version.site, version.version);
            if self.refusals.holds_back(from, site, number) || clocks::newest(&version) > latest {
                let stamp = Stamp { hlc: clocks::newest(&version), ..version.stamp(0) };
                self.refuse(from, stamp, now, out);
                continue;
            }
            let is_new =
                number > self.handed.heads().head(site) && self.parked.insert(Arc::unwrap_or_clone(version), from, now);
            if is_new {
                self.tree.brought(site, from);
            } else if self.tree.repeated(site, from, |parent| self.members.is_open(parent, Stream::Theirs)) {
                repeated.push(site);
            }
        }
        if !repeated.is_empty() && self.overlay.mode() == Mode::Tree {
            out.push(Output::Send(from.clone(), Arc::new(Frame::Prune(repeated))));
        }
    }

    fn refuse(&mut self, from: &NodeId, stamp: Stamp, now: Duration, out: &mut Vec<Output>) {
        if let Some(told) = self.refusals.refuse(from, stamp, now) {
            out.push(Output::Send(from.clone(), Arc::new(Frame::FromFuture(told))));
        }
    }

    /// A peer lacks versions from these numbers on, and wants those that follow them, too.
    fn grafted(&mut self, node: &NodeId, wanted: &Vector, out: &mut Vec<Output>) {
        let versions: Vec<_> = wanted.iter().flat_map(|(site, first)| self.tree.graft(node, site, first)).collect();
        if !versions.is_empty() {
            out.push(Output::Send(node.clone(), Arc::new(Frame::Versions(versions))));
        }
    }

    /// Asks neighbours for what they have had for a while and nobody pushed.
    fn graft_what_is_late(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.overlay.mode() != Mode::Tree {
            return;
        }
        let late = self.members.connected().filter(|(_, member)| member.graft_at().is_some_and(|at| at <= now));
        let late: Vec<_> = late.map(|(node, _)| node.clone()).collect();
        for node in late {
            let Some(member) = self.members.get_mut(&node) else { continue };
            let ahead = member.ahead_with().into_iter().flat_map(Vector::iter);
            let lacking = ahead.filter(|&(site, head)| {
                let ours = self.handed.heads().head(site);
                head > ours && !self.refusals.holds_back(&node, site, ours + 1)
            });
            let wanted = lacking.map(|(site, _)| (site, self.handed.heads().head(site) + 1)).collect();
            let ask = self.tree.ask(&wanted, now);
            member.graft_again(now + if ask.is_empty() { GRAFT_AFTER } else { GRAFT_AFTER + GRAFT_AGAIN });
            if !ask.is_empty() {
                out.push(Output::Send(node, Arc::new(Frame::Graft(ask))));
            }
        }
    }

    /// Hands on what waits for nothing any more, until nothing does: one version may be what another waited for.
    fn hand_on(&mut self, out: &mut Vec<Output>) {
        let mut ready = Vec::new();
        while self.handed.has_room() {
            let Some((version, size, from)) = self.parked.take_ready(self.handed.heads()) else { break };
            self.handed.hand(&version, size);
            if self.overlay.mode() == Mode::Tree {
                self.forward(Arc::new(version.clone()), Some(&from), out);
            }
            ready.push(version);
        }
        if !ready.is_empty() {
            out.push(Output::Apply(ready));
        }
    }

    /// Up to 30 nodes every version goes from its site to all others directly, and none is forwarded: a pair that is cut
    /// hears of each other by pulling from a third.
    fn committed(&mut self, version: Arc<Version>, now: Duration, out: &mut Vec<Output>) {
        let head = Vector::from_iter([(version.site, version.version)]);
        match self.overlay.mode() {
            Mode::Whole => {
                let frame = Arc::new(Frame::Versions(vec![version]));
                let send = |(node, _): (&NodeId, &Member)| Output::Send(node.clone(), Arc::clone(&frame));
                out.extend(self.members.with(Stream::Ours).map(send));
            }
            Mode::Tree => self.forward(version, None, out),
        }
        self.stored(&head, now, out);
    }

    /// Sends a version to the neighbours that may not have it. It is synced where it was committed, so that it is not yet
    /// synced here delays nobody.
    fn forward(&mut self, version: Arc<Version>, from: Option<&NodeId>, out: &mut Vec<Output>) {
        let (site, number) = (version.site, version.version);
        let frame = Arc::new(Frame::Versions(vec![Arc::clone(&version)]));
        for (node, member) in self.members.with(Stream::Ours) {
            let has_it = Some(node) == from || member.heads().is_some_and(|heads| heads.head(site) >= number);
            if !has_it && self.tree.is_pushed(node, site) {
                out.push(Output::Send(node.clone(), Arc::clone(&frame)));
            }
        }
        self.tree.keep(version);
    }

    fn stored(&mut self, heads: &Vector, now: Duration, out: &mut Vec<Output>) {
        let rose = heads.above(&self.heads);
        self.heads.join(&rose);
        self.telling.rose(&rose);
        self.handed.stored(&rose);
        self.parked.forget(self.handed.heads(), now);
        self.refusals.review(self.latest(now), &self.heads, now);
        self.hand_on(out);
        self.members.we_rose(&self.heads, now);
    }

    fn pulled(&mut self, node: &NodeId, outcome: PullOutcome, now: Duration, out: &mut Vec<Output>) {
        let Some(pull) = self.pulls.ended(node) else { return };
        if let Some(member) = self.members.get_mut(node) {
            match outcome {
                PullOutcome::Joined => member.pull_joined(&pull, &self.heads, now),
                PullOutcome::Failed => member.pull_failed(now),
                PullOutcome::NeedsSnapshot => member.needs_snapshot(),
                PullOutcome::FromFuture(_) => member.pull_refused(now),
            }
        }
        if let PullOutcome::FromFuture(stamp) = outcome {
            self.refuse(node, stamp, now, out);
        }
    }

    fn tell_heads(&mut self, now: Duration, out: &mut Vec<Output>) {
        if let Some(heads) = self.telling.due(&self.heads, self.overlay.mode(), now) {
            self.tell(Frame::Heads(heads), out);
        }
    }

    /// Sends a frame to all whose stream is open.
    fn tell(&self, frame: Frame, out: &mut Vec<Output>) {
        let frame = Arc::new(frame);
        let send = |(node, _): (&NodeId, &Member)| Output::Send(node.clone(), Arc::clone(&frame));
        out.extend(self.members.with(Stream::Theirs).map(send));
    }
}
