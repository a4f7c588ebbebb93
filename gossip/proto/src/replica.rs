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

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::{Frame, NodeId, Vector, Version};

mod handed;
mod member;
mod parked;
mod pull;
mod telling;

use handed::Handed;
use member::{Member, Way};
use parked::Parked;
use pull::Pulls;
use telling::Telling;

pub use pull::{PULL_AFTER, PULL_EVERY, PULL_RETRY, PULL_STALL};
pub use telling::{HEADS_EVERY, WHOLE_HEADS_AFTER};

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
    /// A frame arrived on a stream: versions on theirs, heads on ours.
    Received(NodeId, Frame),
    /// The store committed a version of our own, synced.
    Committed(Arc<Version>),
    /// The store's heads, synced: after a commit, an apply or a joined pull.
    Stored(Vector),
    /// The store did not apply all that it was handed: its disk is full or dead, or it keeps a version aside. Its heads
    /// stand; those that rose were said by [`Input::Stored`] before.
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
    /// Refused, broken off, stalled or not stored. Nothing changed.
    Failed,
    /// So much is missing that the peer would rather send its whole store. Nothing changed.
    NeedsSnapshot,
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
    /// Ask the node for all that is above these heads, over the connection that its streams are on, and join the answer.
    /// One is out at a time, so fail it as soon as the connection ends or nothing came for [`PULL_STALL`].
    Pull(NodeId, Vector),
    /// Take a snapshot of the node's whole store instead, in the same way and under the same bounds.
    Snapshot(NodeId),
}

/// Replication of one node. Reads no clock; its only randomness is the seed.
#[derive(Debug)]
pub struct Replica {
    heads: Vector,
    telling: Telling,
    parked: Parked,
    handed: Handed,
    members: BTreeMap<NodeId, Member>,
    pulls: Pulls,
}

impl Replica {
    /// A replica whose store has these heads, at time `now`. The seed decides which peer the random pulls go to.
    pub fn new(heads: Vector, seed: u64, now: Duration) -> Self {
        Self {
            telling: Telling::new(heads.clone()),
            parked: Parked::default(),
            handed: Handed::new(heads.clone()),
            heads,
            members: BTreeMap::new(),
            pulls: Pulls::new(seed, now),
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
            Input::Gossiped(node, hash) => self.gossiped(node, hash, now),
            Input::Received(node, frame) => self.received(&node, frame, now, &mut out),
            Input::Committed(version) => self.committed(version, now, &mut out),
            Input::Stored(heads) => self.stored(&heads, now, &mut out),
            Input::ApplyFailed => self.handed.fall_back(&self.heads),
            Input::Pulled(node, outcome) => self.pulled(&node, outcome, now),
            Input::Tick => {}
        }
        self.tell_heads(now, &mut out);
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
        self.telling.deadline(&self.heads).map_or(pull, |tell| tell.min(pull))
    }

    fn member_up(&mut self, node: NodeId, out: &mut Vec<Output>) {
        if self.members.entry(node.clone()).or_default().come_up() {
            out.push(Output::Link(node));
        }
    }

    fn member_down(&mut self, node: &NodeId, out: &mut Vec<Output>) {
        if let Some(member) = self.members.get_mut(node) {
            if member.go_down() {
                out.push(Output::Unlink(node.clone()));
            }
            self.forget_if_gone(node);
        }
    }

    fn opened(&mut self, node: NodeId, stream: Stream, out: &mut Vec<Output>) {
        self.members.entry(node.clone()).or_default().opened(stream);
        if stream == Stream::Theirs {
            out.push(Output::Send(node, Arc::new(Frame::Heads(self.heads.clone()))));
        }
    }

    fn closed(&mut self, node: &NodeId, stream: Stream) {
        if let Some(member) = self.members.get_mut(node) {
            member.closed(stream);
            self.forget_if_gone(node);
        }
    }

    fn forget_if_gone(&mut self, node: &NodeId) {
        if self.members.get(node).is_some_and(Member::is_gone) {
            self.members.remove(node);
        }
    }

    fn gossiped(&mut self, node: NodeId, hash: u64, now: Duration) {
        let member = self.members.entry(node).or_default();
        member.gossiped(hash);
        member.watch(&self.heads, now);
    }

    fn received(&mut self, node: &NodeId, frame: Frame, now: Duration, out: &mut Vec<Output>) {
        match frame {
            Frame::Versions(versions) => {
                for version in versions {
                    if version.version > self.handed.heads().head(version.site) {
                        self.parked.insert(Arc::unwrap_or_clone(version), now);
                    }
                }
                self.hand_on(out);
            }
            Frame::Heads(rose) => {
                if let Some(member) = self.members.get_mut(node) {
                    member.told(&rose, &self.heads, now);
                }
            }
            // Hellos belong to the opening of a stream, pulls and answers have streams of their own, and a later
            // release's frames are for its likes.
            Frame::Hello(_)
            | Frame::Pull(_)
            | Frame::Rows(_)
            | Frame::Pulled(_)
            | Frame::Refused(_)
            | Frame::NeedsSnapshot
            | Frame::Snapshot(_)
            | Frame::Chunk(_)
            | Frame::SnapshotEnd(_)
            | Frame::Unknown(_) => {}
        }
    }

    /// Hands on what waits for nothing any more, until nothing does: one version may be what another waited for.
    fn hand_on(&mut self, out: &mut Vec<Output>) {
        let mut ready = Vec::new();
        while self.handed.has_room() {
            let Some((version, size)) = self.parked.take_ready(self.handed.heads()) else { break };
            self.handed.hand(&version, size);
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
        let frame = Arc::new(Frame::Versions(vec![version]));
        for (node, _) in self.members.iter().filter(|(_, member)| member.has(Stream::Ours)) {
            out.push(Output::Send(node.clone(), Arc::clone(&frame)));
        }
        self.stored(&head, now, out);
    }

    fn stored(&mut self, heads: &Vector, now: Duration, out: &mut Vec<Output>) {
        self.heads.join(heads);
        self.handed.stored(&self.heads);
        self.parked.forget(self.handed.heads(), now);
        self.hand_on(out);
        self.members.values_mut().for_each(|member| member.we_rose(&self.heads, now));
    }

    fn pulled(&mut self, node: &NodeId, outcome: PullOutcome, now: Duration) {
        let Some(pull) = self.pulls.ended(node) else { return };
        if let Some(member) = self.members.get_mut(node) {
            match outcome {
                PullOutcome::Joined => member.pull_joined(&pull, &self.heads, now),
                PullOutcome::Failed => member.pull_failed(now),
                PullOutcome::NeedsSnapshot => member.needs_snapshot(),
            }
        }
    }

    fn tell_heads(&mut self, now: Duration, out: &mut Vec<Output>) {
        if let Some(heads) = self.telling.due(&self.heads, now) {
            let frame = Arc::new(Frame::Heads(heads));
            for (node, _) in self.members.iter().filter(|(_, member)| member.has(Stream::Theirs)) {
                out.push(Output::Send(node.clone(), Arc::clone(&frame)));
            }
        }
    }
}
