//! Nodes, links, clients, and the record of what was promised to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kith_gossip_proto::NodeId;

use crate::core::board::{To, What, Write};
use crate::core::board_test::{end, put, say};
use crate::core::owner::Beat;
use crate::core::{Board, Fact, Life, Now, Says, SessionName, Status, User, UserId};

/// Of every session here.
pub(super) const TTL_MS: u64 = 15_000;
/// A message is this late at most.
const LATEST_MS: u64 = 40;
/// After a link or a node is back it is heard with the next beat, and asked and answered at once; one try may be lost.
const SETTLED_MS: u64 = 4_500;
const WALL: u64 = 1_700_000_000_000;

/// A small generator, so that a seed means the same for ever (`SplitMix64`).
pub(super) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// How far clocks are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skew {
    Small,
    OneDayAhead,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) board: Option<Board>,
    /// What survives a crash.
    log: Vec<(UserId, Fact)>,
    starts: u64,
    skew_ms: u64,
    set_back_ms: u64,
    up_since: u64,
}

#[derive(Clone)]
enum Event {
    Deliver { to: usize, says: Says },
    Tick { node: usize, start: u64 },
    Client { user: usize },
    Check,
    Fault,
}

/// What a client does.
struct Client {
    id: UserId,
    node: usize,
    /// Whether it sends heartbeats.
    alive: bool,
}

/// What was promised of a session: it lives until then at least, and was known since.
#[derive(Clone, Copy, Debug)]
struct Promise {
    since: u64,
    heard: u64,
}

pub(super) struct Cluster {
    pub(super) now: u64,
    pub(super) rng: Rng,
    queue: BTreeMap<(u64, u64), Event>,
    count: u64,
    pub(super) nodes: Vec<Node>,
    /// Since when each pair hears each other.
    linked: BTreeMap<(usize, usize), u64>,
    cut: BTreeMap<(usize, usize), u64>,
    clients: Vec<Client>,
    promised: BTreeMap<(usize, usize), Promise>,
    lossy: bool,
}

impl Cluster {
    pub(super) fn new(seed: u64, nodes: usize, users: usize, skew: Skew) -> Self {
        let mut cluster = Self {
            now: 0,
            rng: Rng(seed),
            queue: BTreeMap::new(),
            count: 0,
            nodes: Vec::new(),
            linked: BTreeMap::new(),
            cut: BTreeMap::new(),
            clients: Vec::new(),
            promised: BTreeMap::new(),
            lossy: false,
        };
        for at in 0..nodes {
            let id = format!("n{at}").parse().unwrap();
            let skew_ms = if at == 0 && skew == Skew::OneDayAhead { 86_400_000 } else { cluster.rng.below(500) };
            cluster.nodes.push(Node {
                id,
                board: None,
                log: Vec::new(),
                starts: 0,
                skew_ms,
                set_back_ms: 0,
                up_since: 0,
            });
        }
        (0..nodes).for_each(|node| cluster.start(node));
        for at in 0..users {
            let id = UserId::try_from(format!("u{at}")).unwrap();
            let node = at % nodes;
            cluster.clients.push(Client { id, node, alive: true });
            let begins = cluster.rng.below(5_000);
            cluster.at(begins, Event::Client { user: at });
        }
        cluster.at(250, Event::Check);
        cluster
    }

    fn at(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.queue.insert((at, self.count), event);
    }

    pub(super) fn time(&self, node: usize) -> Now {
        Now { mono: Duration::from_millis(self.now), wall_ms: WALL + self.now + self.nodes[node].skew_ms }
    }

    pub(super) fn start(&mut self, node: usize) {
        let now = self.time(node);
        let this = &mut self.nodes[node];
        let logged = this.log.iter().filter_map(|(_, fact)| fact.version()).map(|version| version.epoch).max();
        let epoch = now.wall_ms - this.set_back_ms;
        let mut board = Board::new(this.id.clone(), epoch.max(logged.unwrap_or(0) + 1), now);
        board.restore(this.log.iter().cloned(), now);
        this.board = Some(board);
        this.starts += 1;
        this.up_since = self.now;
        // A restored session lives for another ttl; those of a lost log are over.
        let held: BTreeSet<UserId> = self.held(node);
        for (at, client) in self.clients.iter().enumerate() {
            if held.contains(&client.id) {
                let promise = self.promised.entry((at, node)).or_insert(Promise { since: self.now, heard: self.now });
                promise.heard = self.now;
            } else {
                self.promised.remove(&(at, node));
            }
        }
        (0..self.nodes.len()).for_each(|other| self.relink(node, other));
        self.tick(node);
    }

    fn held(&self, node: usize) -> BTreeSet<UserId> {
        let mut users: BTreeMap<UserId, User> = BTreeMap::new();
        let id = &self.nodes[node].id;
        for (user, fact) in &self.nodes[node].log {
            users.entry(user.clone()).or_default().join(id, fact.clone());
        }
        users.retain(|_, user| user.sessions().any(|(_, _, session)| session.life != Life::Ended));
        users.into_keys().collect()
    }

    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].board = None;
        (0..self.nodes.len()).for_each(|other| self.unlink(node, other));
    }

    /// The log is gone, and the clock is an hour behind where it was.
    pub(super) fn lose_log(&mut self, node: usize) {
        self.nodes[node].set_back_ms += 3_600_000;
        self.nodes[node].log.clear();
    }

    fn unlink(&mut self, a: usize, b: usize) {
        let pair = (a.min(b), a.max(b));
        self.linked.remove(&pair);
        self.cut.entry(pair).or_insert(self.now);
    }

    fn relink(&mut self, a: usize, b: usize) {
        let up = |node: usize| self.nodes[node].board.is_some();
        if up(a) && up(b) {
            self.cut.remove(&(a.min(b), a.max(b)));
            self.linked.insert((a.min(b), a.max(b)), self.now);
        }
    }

    pub(super) fn cut(&mut self, side: &[usize]) {
        for a in 0..self.nodes.len() {
            for b in (0..self.nodes.len()).filter(|b| side.contains(&a) != side.contains(b)) {
                self.unlink(a, b);
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.lossy = false;
        for node in 0..self.nodes.len() {
            if self.nodes[node].board.is_none() {
                self.start(node);
            }
        }
        for (a, b) in self.cut.clone().into_keys() {
            self.relink(a, b);
        }
        self.queue.retain(|_, event| !matches!(event, Event::Fault));
    }

    pub(super) fn run_with_faults(&mut self, ms: u64) {
        self.lossy = true;
        self.at(self.now + 8_000, Event::Fault);
        self.run(ms);
    }

    pub(super) fn run(&mut self, ms: u64) {
        let until = self.now + ms;
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until {
                break;
            }
            self.now = entry.key().0;
            match entry.remove() {
                Event::Deliver { to, says } => self.deliver(to, says),
                Event::Tick { node, start } if self.nodes[node].starts == start => self.tick(node),
                Event::Tick { .. } => {}
                Event::Client { user } => self.client(user),
                Event::Check => {
                    self.check();
                    self.at(self.now + 250, Event::Check);
                }
                Event::Fault => self.fault(),
            }
        }
        self.now = until;
    }

    fn deliver(&mut self, to: usize, says: Says) {
        let now = self.time(to);
        let Some(board) = self.nodes[to].board.as_mut() else { return };
        board.hear(says, now);
        self.flush(to);
    }

    fn tick(&mut self, node: usize) {
        let (now, start) = (self.time(node), self.nodes[node].starts);
        let Some(board) = self.nodes[node].board.as_mut() else { return };
        board.tick(now);
        let next = u64::try_from(board.next(now).as_millis()).unwrap().max(self.now + 1);
        self.flush(node);
        self.at(next, Event::Tick { node, start });
    }

    /// Sends and stores what followed.
    pub(super) fn flush(&mut self, node: usize) {
        let Some(board) = self.nodes[node].board.as_mut() else { return };
        let out = board.drain();
        self.nodes[node].log.extend(out.store);
        for (to, says) in out.say {
            for other in (0..self.nodes.len()).filter(|other| *other != node) {
                let meant = matches!(&to, To::All) || matches!(&to, To::Node(id) if *id == self.nodes[other].id);
                let linked = self.linked.contains_key(&(node.min(other), node.max(other)));
                if !meant || !linked || (self.lossy && self.rng.one_in(50) && !matches!(says, Says::Beat { .. })) {
                    continue;
                }
                // As on one connection: late, and in order but for the odd one.
                let late = if self.rng.one_in(10) { self.rng.below(LATEST_MS) } else { 2 };
                self.at(self.now + 1 + late, Event::Deliver { to: other, says: says.clone() });
            }
        }
    }

    fn client(&mut self, at: usize) {
        let Client { ref id, node, alive } = self.clients[at];
        let id = id.clone();
        self.at(self.now + TTL_MS / 3, Event::Client { user: at });
        if !alive || self.nodes[node].board.is_none() {
            return;
        }
        let now = self.time(node);
        let change = self.rng.one_in(6);
        let board = self.nodes[node].board.as_mut().unwrap();
        if !change && let Beat::Extended { .. } = board.heartbeat(&id, &SessionName::default(), now) {
            if let Some(promise) = self.promised.get_mut(&(at, node)) {
                promise.heard = self.now;
            }
            return self.flush(node);
        }
        let status = [Status::Online, Status::Busy, Status::Away][self.rng.below(3) as usize];
        let (secs, word) = (TTL_MS / 1_000, format!("{}", self.now));
        let write = match self.rng.below(8) {
            0 if self.now > TTL_MS => end(&id),
            1 => say(&id, Some("phone"), status, &word, secs),
            2 | 3 => say(&id, None, status, &word, secs),
            _ => put(&id, status, secs),
        };
        self.write(at, node, &write);
    }

    /// Writes, as the shell does: durable, then in force. Sometimes that fails, and nobody knows whether it is in the log.
    pub(super) fn write(&mut self, at: usize, node: usize, write: &Write) {
        let now = self.time(node);
        let fails = self.lossy && self.rng.one_in(20);
        let logged = !fails || self.rng.one_in(2);
        let this = &mut self.nodes[node];
        let Some(board) = this.board.as_mut() else { return };
        let plan = board.plan(std::slice::from_ref(write), now);
        if logged {
            this.log.extend(plan.facts.iter().cloned());
        }
        if fails {
            board.abandon(plan);
        } else {
            board.commit(plan, now);
            let promise = self.promised.entry((at, node)).or_insert(Promise { since: self.now, heard: self.now });
            if self.now >= promise.heard + TTL_MS {
                promise.since = self.now;
            }
            promise.heard = self.now;
            if let What::End { .. } = write.what {
                promise.heard = self.now.saturating_sub(TTL_MS);
            }
        }
        self.flush(node);
    }

    fn fault(&mut self) {
        self.at(self.now + 3_000 + self.rng.0 % 12_000, Event::Fault);
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let user = self.rng.below(self.clients.len() as u64) as usize;
        match self.rng.below(8) {
            0 => self.cut(&[node]),
            1 => {
                for (a, b) in self.cut.clone().into_keys() {
                    self.relink(a, b);
                }
            }
            2 => self.kill(node),
            3 if self.nodes[node].board.is_none() => {
                if self.rng.one_in(4) {
                    self.lose_log(node);
                }
                self.start(node);
            }
            4 => self.clients[user].alive = false,
            5 => self.clients[user].alive = true,
            6 => self.clients[user].node = node,
            _ => {}
        }
    }

    /// Since when `observer` hears `node`, and since when not.
    fn hears(&self, node: usize, observer: usize) -> Result<u64, u64> {
        if node == observer {
            return Ok(self.nodes[node].up_since);
        }
        let pair = (node.min(observer), node.max(observer));
        self.linked.get(&pair).copied().ok_or_else(|| self.cut.get(&pair).copied().unwrap_or(0))
    }

    fn check(&self) {
        for observer in (0..self.nodes.len()).filter(|node| self.nodes[*node].board.is_some()) {
            for at in 0..self.clients.len() {
                self.check_one(observer, at);
            }
        }
    }

    fn check_one(&self, observer: usize, at: usize) {
        let (mut here, mut gone) = (false, true);
        for node in 0..self.nodes.len() {
            let promise = self.promised.get(&(at, node));
            match self.hears(node, observer) {
                Ok(since) if self.now >= since.max(self.nodes[observer].up_since) + SETTLED_MS => {
                    // A lost change is found with the next beat.
                    let lives = |p: &Promise| self.now < p.heard + TTL_MS && self.now >= p.since + SETTLED_MS;
                    here |= promise.is_some_and(lives);
                    gone &= promise.is_none_or(|p| self.now >= p.heard + TTL_MS + 2_000);
                }
                Ok(_) => gone = false,
                // What is told of it by then counts no more; when it was silent is known a beat later.
                Err(since) => gone &= self.now >= since + 31_500,
            }
        }
        let id = &self.clients[at].id;
        let shown = self.shown(observer, id);
        let (from, now) = (&self.nodes[observer].id, self.now);
        let told = || {
            let promises: Vec<_> = self.promised.iter().filter(|((user, _), _)| *user == at).collect();
            let heard: Vec<_> = (0..self.nodes.len()).map(|node| self.hears(node, observer)).collect();
            let known = self.nodes[observer].board.as_ref().unwrap().user(id);
            format!("promised {promises:?}, links {heard:?}, known {known:#?}")
        };
        assert!(
            !here || shown != Status::Offline,
            "{id:?} sends heartbeats and is offline on {from} at {now} ms: {}",
            told()
        );
        assert!(!gone || shown == Status::Offline, "{id:?} is silent and {shown} on {from} at {now} ms: {}", told());
    }

    pub(super) fn shown(&self, observer: usize, id: &UserId) -> Status {
        let board = self.nodes[observer].board.as_ref().unwrap();
        board.user(id).map_or(Status::Offline, |user| user.effective(board.sight()).status)
    }

    pub(super) fn must_agree(&self) {
        let first = self.nodes[0].board.as_ref().unwrap();
        for node in &self.nodes[1..] {
            let board = node.board.as_ref().unwrap();
            assert_eq!(board.vector(), first.vector(), "{} and n0 know the same", node.id);
            for client in &self.clients {
                let nobody = User::default().into();
                let of = |board: &Board| board.user(&client.id).unwrap_or(&nobody).visible(board.sight());
                assert_eq!(of(board), of(first), "{:?} on {} and n0", client.id, node.id);
            }
        }
    }
}
