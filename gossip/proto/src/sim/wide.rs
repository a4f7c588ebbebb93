//! Clusters of a thousand nodes: who sends what to whom, and how much of it. Faults and rows are the other simulation's.
//!
//! A node is its [`Replica`] alone: its store takes what it is handed after [`STORE`], and a pull brings the other's heads.
//! Links have one delay and lose nothing. Gossip is as chitchat would have it: a node hears of each other node at a moment
//! of its own within [`HEARD_WITHIN`], and no longer of one that is killed some seconds after that. Every frame is
//! weighed as it is encoded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::frame::{Answered, Question};
use crate::replica::{Input, Output, PullOutcome, Stream};
use crate::version::Life;
use crate::{Change, Frame, Hlc, Key, NodeId, Replica, SiteId, Value, Vector, Version};

/// From being handed a version to having it synced.
const STORE: Duration = Duration::from_millis(5);
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// The death of a node: its connections lapse, then gossip calls it silent.
const LAPSED: Duration = Duration::from_secs(5);
const SILENT: Duration = Duration::from_secs(10);

/// All clocks show this at time zero.
const WALL_MS: u64 = 1_760_000_000_000;

/// A version of one row, as bytes of its frame.
pub const VERSION_BYTES: usize = 120;

/// What was sent, in bytes of frames with their length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Versions.
    pub versions: usize,
    /// Heads and clocks.
    pub heads: usize,
    /// Grafts and prunes.
    pub tree: usize,
    /// Pulls and their answers.
    pub pulls: usize,
}

impl Traffic {
    /// All of it.
    pub fn sum(&self) -> usize {
        self.versions + self.heads + self.tree + self.pulls
    }
}

enum Event {
    Timer(usize),
    Feed(usize, Input),
    Open(usize, usize),
    Arrive { from: usize, to: usize, frame: Arc<Frame> },
    Pulled { asker: usize, from: usize },
    Write(usize, Duration),
}

/// A cluster and its time.
pub struct Wide {
    now: Duration,
    delay: Duration,
    rng: SmallRng,
    nodes: Vec<Node>,
    queue: BTreeMap<(Duration, u64), Event>,
    ids: u64,
    /// Streams that are open, by opener and acceptor.
    open: BTreeSet<(usize, usize)>,
    traffic: Traffic,
    weighed: Option<(Arc<Frame>, usize)>,
}

struct Node {
    replica: Replica,
    alive: bool,
    timer: Option<Duration>,
    wanted: BTreeSet<usize>,
}

impl Wide {
    /// So many nodes that hear of each other, over links of this delay.
    pub fn new(nodes: usize, delay: Duration, seed: u64) -> Self {
        let node = |number: usize| {
            let replica = Replica::new(name(number), Vector::default(), seed + number as u64, Duration::ZERO);
            Node { replica, alive: true, timer: None, wanted: BTreeSet::new() }
        };
        let mut wide = Self {
            now: Duration::ZERO,
            delay,
            rng: SmallRng::seed_from_u64(seed),
            nodes: (0..nodes).map(node).collect(),
            queue: BTreeMap::new(),
            ids: 0,
            open: BTreeSet::new(),
            traffic: Traffic::default(),
            weighed: None,
        };
        for me in 0..nodes {
            for other in (0..nodes).filter(|&other| other != me) {
                let heard = wide.rng.random_range(Duration::ZERO..HEARD_WITHIN);
                wide.at(heard, Event::Feed(me, Input::MemberUp(name(other))));
            }
        }
        wide
    }

    /// Lets every node commit a version this often, from now on.
    pub fn write_every(&mut self, pause: Duration) {
        for node in 0..self.nodes.len() {
            let first = self.now + self.rng.random_range(Duration::ZERO..pause);
            self.at(first, Event::Write(node, pause));
        }
    }

    /// One commit at this node. Returns how long it takes until all have it, or nothing if that is longer than the bound.
    pub fn spread(&mut self, node: usize, bound: Duration) -> Option<Duration> {
        self.commit(node);
        let (site, began) = (site(node), self.now);
        let head = self.nodes[node].replica.heads().head(site);
        while self.now <= began + bound {
            let reached = |node: &Node| !node.alive || node.replica.heads().head(site) >= head;
            if self.nodes.iter().all(reached) {
                return Some(self.now - began);
            }
            self.run(Duration::from_millis(5));
        }
        None
    }

    /// Lets time pass. Returns what was sent meanwhile.
    pub fn run(&mut self, time: Duration) -> Traffic {
        let (before, end) = (self.traffic, self.now + time);
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.take(event);
        }
        self.now = end;
        let Traffic { versions, heads, tree, pulls } = self.traffic;
        Traffic {
            versions: versions - before.versions,
            heads: heads - before.heads,
            tree: tree - before.tree,
            pulls: pulls - before.pulls,
        }
    }

    /// Ends this node without a word.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].alive = false;
        let broken: Vec<_> = self.open.iter().filter(|&&(a, b)| a == node || b == node).copied().collect();
        for (opener, acceptor) in broken {
            self.open.remove(&(opener, acceptor));
            let (peer, stream) = if opener == node { (acceptor, Stream::Theirs) } else { (opener, Stream::Ours) };
            self.at(self.now + LAPSED, Event::Feed(peer, Input::Closed(name(node), stream)));
        }
        for other in 0..self.nodes.len() {
            let silent = self.now + SILENT + self.rng.random_range(Duration::ZERO..HEARD_WITHIN);
            self.at(silent, Event::Feed(other, Input::MemberDown(name(node))));
        }
    }

    /// The most streams that one node keeps.
    pub fn most_streams(&self) -> usize {
        self.nodes.iter().map(|node| node.wanted.len()).max().unwrap_or(0)
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.ids += 1;
        self.queue.insert((at, self.ids), event);
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Timer(node) => {
                self.nodes[node].timer = None;
                if self.nodes[node].replica.deadline() <= self.now {
                    self.feed(node, Input::Tick);
                } else {
                    self.set_timer(node);
                }
            }
            Event::Feed(node, input) => self.feed(node, input),
            Event::Open(from, to) => {
                if self.nodes[from].wanted.contains(&to) && self.nodes[to].alive && self.open.insert((from, to)) {
                    self.feed(from, Input::Opened(name(to), Stream::Ours));
                    self.feed(to, Input::Opened(name(from), Stream::Theirs));
                }
            }
            Event::Arrive { from, to, frame } => {
                if self.open.contains(&stream(from, to, &frame)) {
                    self.feed(to, Input::Received(name(from), Arc::unwrap_or_clone(frame)));
                }
            }
            Event::Pulled { asker, from } => self.pulled(asker, from),
            Event::Write(node, pause) => {
                self.commit(node);
                self.at(self.now + pause, Event::Write(node, pause));
            }
        }
    }

    fn feed(&mut self, node: usize, input: Input) {
        if !self.nodes[node].alive {
            return;
        }
        for output in self.nodes[node].replica.handle(input, self.now) {
            match output {
                Output::Link(to) => {
                    let to = number(&to);
                    self.nodes[node].wanted.insert(to);
                    // A handshake, and the hellos.
                    self.at(self.now + 4 * self.delay, Event::Open(node, to));
                }
                Output::Unlink(to) => {
                    let peer = number(&to);
                    self.nodes[node].wanted.remove(&peer);
                    if self.open.remove(&(node, peer)) {
                        self.at(self.now, Event::Feed(node, Input::Closed(to, Stream::Ours)));
                        let noticed = self.now + self.delay;
                        self.at(noticed, Event::Feed(peer, Input::Closed(name(node), Stream::Theirs)));
                    }
                }
                Output::Send(to, frame) => self.send(node, number(&to), frame),
                Output::Apply(versions) => {
                    let heads = versions.iter().map(|version| (version.site, version.version)).collect();
                    self.at(self.now + STORE, Event::Feed(node, Input::Stored(heads)));
                }
                Output::Pull(from, above) => {
                    self.traffic.pulls += weight(&Frame::Pull(Question { above, ..Question::default() }));
                    let from = number(&from);
                    self.at(self.now + 2 * self.delay, Event::Pulled { asker: node, from });
                }
                // Nobody says here that too much is missing, or who is known.
                Output::Snapshot(_) | Output::AskHeads(_) | Output::Purge(_) | Output::Renounce(..) => {}
                Output::ReadClock => {
                    let wall_ms = WALL_MS + u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX);
                    self.feed(node, Input::Clock { wall_ms, held: Hlc::from_ms(WALL_MS) });
                }
            }
        }
        self.set_timer(node);
    }

    fn send(&mut self, from: usize, to: usize, frame: Arc<Frame>) {
        if !self.open.contains(&stream(from, to, &frame)) {
            return;
        }
        // One frame goes to all peers: it is weighed once.
        let bytes = match &self.weighed {
            Some((last, bytes)) if Arc::ptr_eq(last, &frame) => *bytes,
            _ => weight(&frame),
        };
        self.weighed = Some((Arc::clone(&frame), bytes));
        match &*frame {
            Frame::Versions(_) => self.traffic.versions += bytes,
            Frame::Heads(_) | Frame::Clock(_) => self.traffic.heads += bytes,
            _ => self.traffic.tree += bytes,
        }
        self.at(self.now + self.delay, Event::Arrive { from, to, frame });
    }

    /// The answer is of the instant it arrives, which is later than it would be, and no less than the asker hears of.
    fn pulled(&mut self, asker: usize, from: usize) {
        let outcome = if self.nodes[from].alive {
            let heads = self.nodes[from].replica.heads().clone();
            let missing = usize::try_from(self.nodes[asker].replica.heads().lag(&heads)).unwrap_or(usize::MAX);
            let end = Frame::Pulled(Answered { heads: heads.clone(), ..Answered::default() });
            self.traffic.pulls += weight(&end) + missing * VERSION_BYTES;
            self.feed(asker, Input::Stored(heads));
            PullOutcome::Joined
        } else {
            PullOutcome::Failed
        };
        self.feed(asker, Input::Pulled(name(from), outcome));
    }

    fn commit(&mut self, node: usize) {
        let number = self.nodes[node].replica.heads().head(site(node)) + 1;
        self.feed(node, Input::Committed(Arc::new(version(node, number))));
    }

    fn set_timer(&mut self, node: usize) {
        let deadline = self.nodes[node].replica.deadline();
        if self.nodes[node].timer.is_none_or(|timer| deadline < timer) {
            self.nodes[node].timer = Some(deadline);
            self.at(deadline, Event::Timer(node));
        }
    }
}

/// The stream that a frame goes on, by opener and acceptor.
fn stream(from: usize, to: usize, frame: &Frame) -> (usize, usize) {
    if matches!(frame, Frame::Versions(_)) { (from, to) } else { (to, from) }
}

fn weight(frame: &Frame) -> usize {
    4 + frame.encode().len()
}

fn name(number: usize) -> NodeId {
    format!("n{number}").parse().expect("a letter and digits")
}

fn number(node: &NodeId) -> usize {
    node.as_str()[1..].parse().expect("replicas only name nodes that they were told of")
}

fn site(node: usize) -> SiteId {
    let mut bytes = [0xA5; 16];
    bytes[..8].copy_from_slice(&node.to_be_bytes());
    SiteId::new(bytes)
}

/// A row with as much in it as makes the frame [`VERSION_BYTES`].
fn version(node: usize, number: u64) -> Version {
    const REST: usize = 69;
    let change = Change {
        table: "containers".into(),
        key: Key::encode([&Value::Integer(7)]).expect("an integer is a key"),
        cl: 1,
        life: Life::Changed,
        cells: [("state".into(), Value::Blob(vec![0; VERSION_BYTES - REST].into()))].into(),
    };
    Version { site: site(node), version: number, hlc: Hlc::from_ms(WALL_MS), changes: vec![change] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_the_size_that_the_table_is_made_for() {
        assert_eq!(weight(&Frame::Versions(vec![Arc::new(version(3, 100))])), VERSION_BYTES);
    }
}
