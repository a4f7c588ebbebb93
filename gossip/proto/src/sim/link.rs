//! Streams between nodes: each in order until it breaks, none in step with another.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use rand::RngExt;

use super::world::{Event, Life, World};
use crate::replica::{Input, Stream};
use crate::{Frame, NodeId};

/// How long a connection bears that nothing comes through.
const IDLE: Duration = Duration::from_secs(5);

/// Which end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Opener,
    Acceptor,
}

/// A stream that one node opened to another.
pub(super) struct Conn {
    ends: [Life; 2],
    /// What each end has heard of it.
    seen: [Seen; 2],
    broken: bool,
    /// What travels to each end, with the time of its arrival.
    inbox: [VecDeque<(Duration, Rc<[u8]>)>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Open,
    Closed,
}

/// Since when nothing goes from one node to another.
#[derive(Default)]
pub(super) struct Cuts(BTreeMap<(usize, usize), Duration>);

impl Cuts {
    pub(super) fn passes(&self, from: usize, to: usize) -> bool {
        !self.0.contains_key(&(from, to))
    }
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::Opener => Self::Acceptor,
            Self::Acceptor => Self::Opener,
        }
    }

    fn at(self) -> usize {
        match self {
            Self::Opener => 0,
            Self::Acceptor => 1,
        }
    }

    fn stream(self) -> Stream {
        match self {
            Self::Opener => Stream::Ours,
            Self::Acceptor => Stream::Theirs,
        }
    }
}

impl World {
    /// How long something is under way.
    pub(super) fn delay(&mut self) -> Duration {
        let (least, most) = self.faults.delay_ms;
        self.between(least, least + most)
    }

    pub(super) fn cut(&mut self, from: usize, to: usize) {
        if from != to && self.cuts.passes(from, to) {
            self.note(|world| format!("nothing goes from {} to {}", world.nodes[from].id, world.nodes[to].id));
            self.cuts.0.insert((from, to), self.now);
            self.after(IDLE, Event::Lapsed(from, to, self.now));
        }
    }

    pub(super) fn mend(&mut self) {
        self.note(|_| "all cuts mend".to_owned());
        self.cuts.0.clear();
    }

    pub(super) fn lapse(&mut self, from: usize, to: usize, since: Duration) {
        if self.cuts.0.get(&(from, to)) != Some(&since) {
            return;
        }
        let between = |conn: &Conn| {
            let [a, b] = conn.ends.map(|end| end.node);
            (a, b) == (from, to) || (a, b) == (to, from)
        };
        let lapsed: Vec<_> = self.conns.iter().filter(|(_, conn)| between(conn)).map(|(&id, _)| id).collect();
        for id in lapsed {
            self.break_conn(id);
        }
    }

    pub(super) fn dial(&mut self, from: usize, to: usize) {
        let it = &self.nodes[from];
        if !it.links.contains(&to) || it.ours.contains_key(&to) {
            return;
        }
        let reached = self.nodes[to].running && self.cuts.passes(from, to) && self.cuts.passes(to, from);
        if !reached {
            let patience = self.between(100, 1_000);
            self.after(patience, Event::Dial(self.life(from), to));
            return;
        }
        let id = self.next_id();
        let ends = [self.life(from), self.life(to)];
        let inbox = [VecDeque::new(), VecDeque::new()];
        self.conns.insert(id, Conn { ends, seen: [Seen::Nothing; 2], broken: false, inbox });
        self.nodes[from].ours.insert(to, id);
        for end in [End::Opener, End::Acceptor] {
            let delay = self.delay();
            self.after(delay, Event::Opened(id, end));
        }
    }

    pub(super) fn conn_opened(&mut self, id: u64, end: End) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (life, peer) = (conn.ends[end.at()], conn.ends[end.other().at()].node);
        if conn.seen[end.at()] != Seen::Nothing || !self.is_alive(life) {
            return;
        }
        if conn.broken {
            self.after(Duration::ZERO, Event::Closed(id, end));
            return;
        }
        let other = conn.ends[end.other().at()];
        if !self.meets(life.node, other) {
            self.break_conn(id);
            return;
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.seen[end.at()] = Seen::Open;
        }
        if end == End::Acceptor {
            self.nodes[life.node].theirs.insert(peer, id);
        }
        // As the peer's hello says it.
        let clock = Frame::Clock(self.wall_ms(peer));
        let peer = self.nodes[peer].id.clone();
        self.feed(life.node, Input::Opened(peer.clone(), end.stream()));
        self.feed(life.node, Input::Received(peer, clock));
    }

    /// Sends on the stream that the frame belongs on, if that is open as far as the sender knows.
    pub(super) fn send(&mut self, from: usize, to: &NodeId, frame: &Frame, bytes: Rc<[u8]>) {
        let to = self.index(to);
        let (conn, end) = match frame {
            Frame::Versions(_) => (self.nodes[from].ours.get(&to), End::Opener),
            _ => (self.nodes[from].theirs.get(&to), End::Acceptor),
        };
        let Some(&id) = conn else { return };
        if self.rng.random_bool(self.faults.drop) {
            self.note(|_| "   dropped".to_owned());
            return;
        }
        if self.rng.random_bool(self.faults.reset) {
            self.break_conn(id);
            return;
        }
        let arrival = self.now + self.delay();
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.broken && conn.seen[end.at()] == Seen::Open)
        else {
            return;
        };
        let inbox = &mut conn.inbox[end.other().at()];
        let arrival = inbox.back().map_or(arrival, |&(last, _)| last.max(arrival));
        inbox.push_back((arrival, bytes));
        self.at(arrival, Event::Arrive(id, end.other()));
    }

    pub(super) fn arrive(&mut self, id: u64, end: End) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.broken) else { return };
        let (life, peer) = (conn.ends[end.at()], conn.ends[end.other().at()].node);
        if !self.cuts.passes(peer, life.node) || conn.seen[end.at()] == Seen::Nothing {
            // Resent until it comes through, or until the connection has lapsed.
            self.after(Duration::from_millis(40), Event::Arrive(id, end));
            return;
        }
        let Some((_, bytes)) = conn.inbox[end.at()].pop_front() else { return };
        if conn.seen[end.at()] == Seen::Closed || !self.is_alive(life) {
            return;
        }
        let frame = match Frame::decode(&bytes) {
            Ok(frame) => frame,
            Err(error) => return self.fail(format!("a frame cannot be read: {error}")),
        };
        let peer = self.nodes[peer].id.clone();
        if self.rng.random_bool(self.faults.duplicate) {
            self.receive(life.node, peer.clone(), frame.clone());
        }
        self.receive(life.node, peer, frame);
    }

    /// Breaks a stream. What travels on it is lost, and each end notices when it does.
    pub(super) fn break_conn(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.broken) else { return };
        conn.broken = true;
        conn.inbox.iter_mut().for_each(VecDeque::clear);
        self.report.breaks += 1;
        for end in [End::Opener, End::Acceptor] {
            let notices = if self.rng.random_bool(0.2) { self.between(1_000, 5_000) } else { self.delay() };
            self.after(notices, Event::Closed(id, end));
        }
    }

    pub(super) fn conn_closed(&mut self, id: u64, end: End) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let seen = std::mem::replace(&mut conn.seen[end.at()], Seen::Closed);
        let (life, peer) = (conn.ends[end.at()], conn.ends[end.other().at()].node);
        if conn.seen == [Seen::Closed; 2] {
            self.conns.remove(&id);
        }
        if seen == Seen::Closed || !self.is_alive(life) {
            return;
        }
        let node = &mut self.nodes[life.node];
        match end {
            End::Opener => {
                node.ours.remove(&peer);
                let patience = self.between(0, 500);
                self.after(patience, Event::Dial(life, peer));
            }
            // A later stream may have taken its place.
            End::Acceptor if node.theirs.get(&peer) == Some(&id) => drop(node.theirs.remove(&peer)),
            End::Acceptor => {}
        }
        if seen == Seen::Open {
            let peer = self.nodes[peer].id.clone();
            self.feed(life.node, Input::Closed(peer, end.stream()));
        }
    }

    pub(super) fn unlink(&mut self, from: usize, to: &NodeId) {
        let to = self.index(to);
        self.nodes[from].links.remove(&to);
        if let Some(&id) = self.nodes[from].ours.get(&to) {
            self.break_conn(id);
        }
    }

    /// The node is no more: its peers notice, sooner or later.
    pub(super) fn abandon_conns(&mut self, node: usize) {
        let life = self.life(node);
        let its: Vec<_> = self.conns.iter().filter(|(_, conn)| conn.ends.contains(&life)).map(|(&id, _)| id).collect();
        for id in its {
            self.break_conn(id);
        }
        self.nodes[node].ours.clear();
        self.nodes[node].theirs.clear();
    }
}
