//! Who sends what to whom, and when: replication as a value.
//!
//! [`Replica::handle`] takes what happened and the time, and returns what to do; [`Replica::deadline`] says when to call
//! again if nothing happens. It holds no rows. The contract of the outputs, in the order they are returned:
//!
//! - `Apply` goes to the store, in order; late is fine, lost is answered with [`Input::ApplyFailed`].
//! - `Send` may be lost: whoever misses a version sees it in a vector and pulls.
//! - `Pull` is answered with exactly one [`Input::Pulled`].
//! - Nothing is sent before it is synced: heads rise only by [`Input::Stored`], which the store says after its sync.
//!
//! Two streams join a pair of nodes, one opened by each. A node pushes its versions on the stream it opened, and hears on
//! it how far the peer has applied; on the other it is the other way round.
//!
//! ```text
//! version received ── known ──────────────► dropped
//!        │ new
//!        ▼            predecessor and needs handed on
//!     parked ───────────────────────────────► handed to the store ── Stored ──► part of our heads, told to peers
//!        │ over the bound: dropped, pulled             │ ApplyFailed: forgotten, pulled
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use crate::{Frame, NodeId, Vector, Version};

mod parked;

use parked::Parked;

/// How long a peer may be ahead before we pull: longer than any push takes, short enough for a cut pair to hear of each
/// other's changes through a third node within 3 s.
pub const PULL_AFTER: Duration = Duration::from_secs(1);

/// How often one random peer is pulled from although nothing seems missing: the last resort against what no rule foresaw.
pub const PULL_EVERY: Duration = Duration::from_secs(10);

/// How long a peer whose pull failed is left alone, so that another one is asked.
pub const PULL_RETRY: Duration = Duration::from_secs(2);

/// Heads are told at most this often.
pub const HEADS_EVERY: Duration = Duration::from_millis(10);

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Gossip sees the node.
    MemberUp(NodeId),
    /// Gossip no longer sees the node, or it was removed.
    MemberDown(NodeId),
    /// A stream is ready: hellos went both ways.
    Opened(NodeId, Stream),
    /// A stream that was ready has ended.
    Closed(NodeId, Stream),
    /// Gossip carried the hash of the node's vector.
    Gossiped(NodeId, u64),
    /// A frame arrived on a stream: versions on theirs, heads on ours.
    Received(NodeId, Frame),
    /// The store committed a version of our own, synced.
    Committed(Arc<Version>),
    /// The store's heads, synced: after a commit, an apply or a joined pull.
    Stored(Vector),
    /// The store could not apply what it was handed (full or dead disk). Its heads stand.
    ApplyFailed,
    /// The pull from this node ended: joined whole, or not at all.
    Pulled(NodeId, PullOutcome),
    /// The deadline passed.
    Tick,
}

/// One of the two streams of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// The one we opened: our versions out, the peer's heads in.
    Ours,
    /// The one the peer opened: its versions in, our heads out.
    Theirs,
}

/// How a pull ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullOutcome {
    /// All rows joined in one transaction; [`Input::Stored`] came before this.
    Joined,
    /// Refused, broken off, timed out or not stored. Nothing changed.
    Failed,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Keep a stream of ours open to this node, with patience.
    Link(NodeId),
    /// Close it and stop trying.
    Unlink(NodeId),
    /// Send a frame: versions on the stream we opened, heads on the one the peer opened. Dropped if that is not ready.
    Send(NodeId, Arc<Frame>),
    /// Apply these, each after the one before. Their predecessors and needs were handed on earlier.
    Apply(Vec<Version>),
    /// Ask the node for all that is above these heads, and join the answer.
    Pull(NodeId, Vector),
}

/// Replication of one node. Reads no clock; its only randomness is the seed.
#[derive(Debug)]
pub struct Replica {
    heads: Vector,
    /// Heads that were told to peers.
    told: Vector,
    told_at: Option<Duration>,
    /// `heads` and what the store was handed on top of them.
    handed: Vector,
    parked: Parked,
    members: BTreeMap<NodeId, Member>,
    pulling: Option<NodeId>,
    next_random_pull: Duration,
    rng: SmallRng,
}

#[derive(Debug, Default)]
struct Member {
    up: bool,
    streams: BTreeSet<Stream>,
    /// What it told us on our stream.
    heads: Vector,
    /// Its vector's hash by gossip, which may be seconds old; only looked at without a stream.
    gossiped: Option<u64>,
    /// What it was ahead with, and since when.
    ahead: Option<Ahead>,
    /// Left alone until then.
    pull_again: Duration,
}

#[derive(Debug)]
struct Ahead {
    heads: Vector,
    gossiped: Option<u64>,
    /// When to pull, if we have not reached it by then.
    due: Duration,
}

impl Replica {
    /// A replica whose store has these heads, at time `now`. The seed decides which peer the random pulls go to.
    pub fn new(heads: Vector, seed: u64, now: Duration) -> Self {
        Self {
            told: heads.clone(),
            told_at: None,
            handed: heads.clone(),
            heads,
            parked: Parked::default(),
            members: BTreeMap::new(),
            pulling: None,
            next_random_pull: now + PULL_EVERY,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// The applied and synced heads.
    pub fn heads(&self) -> &Vector {
        &self.heads
    }

    /// What a member told last of its heads; empty before it did.
    pub fn heads_of(&self, node: &NodeId) -> Option<&Vector> {
        self.members.get(node).map(|member| &member.heads)
    }

    /// Bytes of versions that wait for earlier ones.
    pub fn parked_bytes(&self) -> usize {
        self.parked.bytes()
    }

    /// Takes one input and returns what to do, in order.
    pub fn handle(&mut self, input: Input, now: Duration) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::MemberUp(node) => self.member_up(node, &mut out),
            Input::MemberDown(node) => self.member_down(&node, &mut out),
            Input::Opened(node, stream) => self.opened(node, stream, &mut out),
            Input::Closed(node, stream) => self.closed(&node, stream),
            Input::Gossiped(node, hash) => self.members.entry(node).or_default().gossiped = Some(hash),
            Input::Received(node, frame) => self.received(&node, frame, now, &mut out),
            Input::Committed(version) => self.committed(version, &mut out),
            Input::Stored(heads) => self.stored(&heads, &mut out),
            Input::ApplyFailed => self.handed = self.heads.clone(),
            Input::Pulled(node, outcome) => self.pulled(&node, outcome, now),
            Input::Tick => {}
        }
        self.tell_heads(now, &mut out);
        self.pull_if_due(now, &mut out);
        out
    }

    /// When to call [`Replica::handle`] with [`Input::Tick`] if nothing else happens before.
    pub fn deadline(&self) -> Duration {
        let heads = self.told_at.filter(|_| self.told != self.heads).map(|at| at + HEADS_EVERY);
        let ahead = self.members.values().filter_map(|m| m.ahead.as_ref().map(|ahead| ahead.due.max(m.pull_again)));
        let pulls = ahead.filter(|_| self.pulling.is_none());
        pulls.chain(heads).chain([self.next_random_pull]).min().unwrap_or(self.next_random_pull)
    }

    fn member_up(&mut self, node: NodeId, out: &mut Vec<Output>) {
        let member = self.members.entry(node.clone()).or_default();
        if !member.up {
            member.up = true;
            out.push(Output::Link(node));
        }
    }

    fn member_down(&mut self, node: &NodeId, out: &mut Vec<Output>) {
        if let Some(member) = self.members.get_mut(node).filter(|member| member.up) {
            member.up = false;
            out.push(Output::Unlink(node.clone()));
        }
    }

    fn opened(&mut self, node: NodeId, stream: Stream, out: &mut Vec<Output>) {
        let member = self.members.entry(node.clone()).or_default();
        member.streams.insert(stream);
        match stream {
            Stream::Theirs => out.push(Output::Send(node, Arc::new(Frame::Heads(self.heads.clone())))),
            // The first heads the peer sends on it are all it has.
            Stream::Ours => member.heads = Vector::default(),
        }
    }

    fn closed(&mut self, node: &NodeId, stream: Stream) {
        if let Some(member) = self.members.get_mut(node) {
            member.streams.remove(&stream);
            if member.streams.is_empty() && !member.up {
                self.members.remove(node);
            }
        }
    }

    fn received(&mut self, node: &NodeId, frame: Frame, now: Duration, out: &mut Vec<Output>) {
        match frame {
            Frame::Versions(versions) => {
                versions.into_iter().for_each(|version| self.park(version));
                self.hand_on(out);
            }
            Frame::Heads(rose) => {
                if let Some(member) = self.members.get_mut(node) {
                    let first = member.heads.is_empty();
                    member.heads.join(&rose);
                    // What the first heads of a stream list was committed before it: no push of it is under way.
                    if first {
                        member.ahead = Some(Ahead::of(member, now));
                    }
                }
            }
            // Hellos belong to the opening of a stream, pulls and answers have streams of their own, and a later
            // release's frames are for its likes.
            Frame::Hello(_)
            | Frame::Pull(_)
            | Frame::Rows(_)
            | Frame::Pulled(_)
            | Frame::Refused(_)
            | Frame::Unknown(_) => {}
        }
    }

    fn park(&mut self, version: Version) {
        if version.version > self.handed.head(version.site) {
            self.parked.insert(version);
        }
    }

    /// Hands on what waits for nothing any more, until nothing does: one version may be what another waited for.
    fn hand_on(&mut self, out: &mut Vec<Output>) {
        let mut ready = Vec::new();
        while let Some(version) = self.parked.take_ready(&self.handed) {
            self.handed.raise(version.site, version.version);
            ready.push(version);
        }
        if !ready.is_empty() {
            out.push(Output::Apply(ready));
        }
    }

    /// Up to 30 nodes every version goes from its site to all others directly, and none is forwarded: a pair that is cut
    /// hears of each other by pulling from a third.
    fn committed(&mut self, version: Arc<Version>, out: &mut Vec<Output>) {
        self.heads.raise(version.site, version.version);
        self.handed.raise(version.site, version.version);
        let frame = Arc::new(Frame::Versions(vec![Arc::unwrap_or_clone(version)]));
        for (node, member) in &self.members {
            if member.streams.contains(&Stream::Ours) {
                out.push(Output::Send(node.clone(), Arc::clone(&frame)));
            }
        }
    }

    fn stored(&mut self, heads: &Vector, out: &mut Vec<Output>) {
        self.heads.join(heads);
        self.handed.join(heads);
        self.parked.forget(&self.handed);
        self.hand_on(out);
    }

    fn pulled(&mut self, node: &NodeId, outcome: PullOutcome, now: Duration) {
        self.pulling = None;
        if let Some(member) = self.members.get_mut(node) {
            member.ahead = None;
            if outcome == PullOutcome::Failed {
                member.pull_again = now + PULL_RETRY;
            }
        }
    }

    fn tell_heads(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.told == self.heads || self.told_at.is_some_and(|at| now < at + HEADS_EVERY) {
            return;
        }
        let frame = Arc::new(Frame::Heads(self.heads.above(&self.told)));
        for (node, member) in &self.members {
            if member.streams.contains(&Stream::Theirs) {
                out.push(Output::Send(node.clone(), Arc::clone(&frame)));
            }
        }
        self.told = self.heads.clone();
        self.told_at = Some(now);
    }

    /// One pull at a time: an answer holds all that anyone we can reach through that peer knows.
    fn pull_if_due(&mut self, now: Duration, out: &mut Vec<Output>) {
        let heads = &self.heads;
        self.members.values_mut().for_each(|member| member.watch(heads, now));
        if self.pulling.is_some() {
            return;
        }
        let behind =
            self.members.iter().find(|(_, m)| m.pull_again <= now && m.ahead.as_ref().is_some_and(|a| a.due <= now));
        let mut from = behind.map(|(node, _)| node.clone());
        if self.next_random_pull <= now {
            self.next_random_pull = now + PULL_EVERY;
            let linked = self.members.iter().filter(|(_, member)| !member.streams.is_empty());
            from = from.or_else(|| linked.choose(&mut self.rng).map(|(node, _)| node.clone()));
        }
        if let Some(node) = from {
            self.pulling = Some(node.clone());
            out.push(Output::Pull(node, self.heads.clone()));
        }
    }
}

impl Member {
    /// Starts, keeps or ends the wait for what this member has and we lack. While pushes flow, its latest heads are
    /// always a little above ours; so what counts is whether we reach the heads it had when the wait began.
    fn watch(&mut self, ours: &Vector, now: Duration) {
        self.ahead.take_if(|ahead| ahead.reached(ours));
        if self.ahead.is_none() && self.is_ahead(ours) {
            self.ahead = Some(Ahead::of(self, now + PULL_AFTER));
        }
    }

    fn is_ahead(&self, ours: &Vector) -> bool {
        if self.streams.contains(&Stream::Ours) {
            !ours.covers(&self.heads)
        } else {
            self.up && self.gossiped.is_some_and(|hash| hash != ours.hash())
        }
    }
}

impl Ahead {
    fn of(member: &Member, due: Duration) -> Self {
        let gossiped = member.gossiped.filter(|_| !member.streams.contains(&Stream::Ours));
        Self { heads: member.heads.clone(), gossiped, due }
    }

    fn reached(&self, ours: &Vector) -> bool {
        ours.covers(&self.heads) && self.gossiped.is_none_or(|hash| hash == ours.hash())
    }
}
