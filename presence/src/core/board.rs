//! The board: all users as one node knows them, and what it does with everything that happens.
//!
//! What is asked of it is a plan first, and in force once the shell has made it durable ([`Board::plan`],
//! [`Board::commit`]). What other nodes say ([`Board::hear`]) and what time brings ([`Board::tick`]) is in force at once.
//! After each, [`Board::drain`] says what is to be published, stored and shown.

mod answer;
mod doubt;
mod forget;
mod watch;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use kith_gossip_proto::clocks::Clocks;
use kith_gossip_proto::{HybridClock, NodeId};

use super::Now;
use super::events::{Event, Events};
use super::fact::{Fact, Life};
use super::id::{SessionName, UserId};
use super::owner::{Ends, Owner};
use super::peer::{Changes, Peer, Steps};
use super::says::{FACTS, Says};
use super::sight::{Heard, STALE_AFTER, Sight};
use super::tail::Tail;
use super::user::User;
use super::version::Version;

pub use write::{Plan, Refusal, SESSIONS, What, Write};

/// Other nodes that are followed. One more is not heard at all.
const PEERS: usize = 1_024;

/// How far beyond the time an epoch may be, in milliseconds: a hundred years, more than any clock by which a node was started
/// and few enough that all epochs of a node can be counted on from there. What names a later one is nonsense: who believed
/// it would be silenced by it for good.
const EPOCHS_AHEAD: u64 = 100 * 366 * 86_400_000;

/// Facts that are kept in one go: with all of one more user, who may have as many sessions as there are, they fit in a message.
const KEPT: usize = FACTS - SESSIONS - 2;

/// All users as one node knows them.
#[derive(Debug)]
pub struct Board {
    me: NodeId,
    /// The last change of ours that is in force.
    head: Version,
    /// The last number that was given to a change.
    numbered: u64,
    /// Whose writes are being made durable; nobody's: no plan is under way. Until it is in force nothing of theirs ends, and
    /// nobody is answered who asks what we said, in which those may come before what is in force by now.
    planned: BTreeSet<UserId>,
    users: BTreeMap<UserId, Arc<User>>,
    owner: Owner,
    tail: Tail,
    peers: BTreeMap<NodeId, Peer>,
    clocks: Clocks,
    clock: HybridClock,
    sight: Arc<Sight>,
    sweeps: VecDeque<watch::Sweep>,
    forgetting: Option<forget::Forget>,
    /// Who may be forgotten of too many is not looked for before this.
    look_at: Duration,
    events: Events,
    beat_at: Duration,
    /// Users of whom it is time to tell when they were seen.
    tell: BTreeMap<UserId, u64>,
    /// Who asked while a plan was under way, and what he knows: answered once it is not.
    asking: BTreeMap<NodeId, Option<Version>>,
    /// Sessions of which the log may say something else.
    doubted: BTreeSet<(UserId, SessionName)>,
    out: Out,
}

/// What followed from what happened. Order within a list is the order in which it is to be done.
#[derive(Debug, Default)]
pub struct Out {
    /// To publish.
    pub say: Vec<(To, Says)>,
    /// Facts of ours that are in force, and are to be made durable when that is possible.
    pub store: Vec<(UserId, Fact)>,
    /// Users of whom something else is known; none: he is forgotten.
    pub users: Vec<(UserId, Option<Arc<User>>)>,
    /// Users of whom readers see something else.
    pub events: Vec<Event>,
    /// Set if the others are seen in another way.
    pub sight: Option<Arc<Sight>>,
    dirty: BTreeSet<UserId>,
}

/// Who is to hear something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    /// All nodes.
    All,
    /// One.
    Node(NodeId),
}

/// Counts of what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Users of whom anything is known.
    pub users: usize,
    /// Sessions of this node.
    pub sessions: usize,
    /// Other nodes that are heard.
    pub peers: usize,
    /// The last change of this node.
    pub head: Version,
}

impl Board {
    /// A board that knows nobody. `epoch` is greater than that of every start of this node before.
    pub fn new(me: NodeId, epoch: u64, now: Now) -> Self {
        let mut clocks = Clocks::default();
        clocks.read(now.wall_ms, now.mono);
        let sight = Sight { me: me.clone(), latest: clocks.latest(now.mono), nodes: BTreeMap::new() };
        Self {
            me,
            head: Version { epoch, seq: 0 },
            numbered: 0,
            planned: BTreeSet::new(),
            users: BTreeMap::new(),
            owner: Owner::default(),
            tail: Tail::default(),
            peers: BTreeMap::new(),
            clocks,
            clock: HybridClock::default(),
            sight: Arc::new(sight),
            sweeps: VecDeque::new(),
            forgetting: None,
            look_at: Duration::ZERO,
            events: Events::default(),
            beat_at: now.mono,
            tell: BTreeMap::new(),
            asking: BTreeMap::new(),
            doubted: BTreeSet::new(),
            out: Out::default(),
        }
    }

    /// Takes up again what this node said before it was started, from its own log, in any order: each session that was not
    /// over lives for another ttl.
    pub fn restore(&mut self, facts: impl IntoIterator<Item = (UserId, Fact)>, now: Now) {
        let mut restored = BTreeSet::new();
        for (user, fact) in facts {
            self.out.dirty.insert(user.clone());
            Arc::make_mut(self.users.entry(user.clone()).or_default()).join(&self.me, fact);
            restored.insert(user);
        }
        for id in restored {
            let Some(user) = self.users.get_mut(&id) else { continue };
            let user = Arc::make_mut(user);
            user.compact(&self.me);
            self.clock.observe(user.stamp().min(self.sight.latest));
            for (_, name, session) in user.sessions().filter(|(node, ..)| **node == self.me) {
                if let Life::Live { ttl, .. } = session.life {
                    self.owner.hold(&id, name, ttl, now, None);
                }
            }
        }
    }

    /// Takes in what is stored of another node, which may be old: it holds until that node is heard, and goes with it.
    pub fn load(&mut self, node: &NodeId, facts: impl IntoIterator<Item = (UserId, Fact)>, now: Now) {
        if *node == self.me || self.peers.get(node).is_some_and(|peer| peer.head().is_some()) {
            return;
        }
        self.meet(node, now.mono.saturating_sub(STALE_AFTER), Heard::Stale);
        if !self.peers.contains_key(node) {
            return;
        }
        self.take_in(node, facts, now);
    }

    /// Another node says something.
    pub fn hear(&mut self, says: Says, now: Now) {
        if *says.node() == self.me || says.epoch() > self.sight.latest.ms().saturating_add(EPOCHS_AHEAD) {
            return;
        }
        match says {
            Says::Beat { node, head, wall_ms } => {
                let Some(peer) = self.heard(&node, now) else { return };
                let differs = peer.differs(head, now.mono);
                self.clocks.hear(&node, wall_ms, now.mono);
                if differs {
                    self.ask(&node);
                }
            }
            Says::Changes { node, prev, head, facts } => {
                let Some(peer) = self.heard(&node, now) else { return };
                let (steps, ask) = peer.changed(Changes { prev, head, facts }, now.mono);
                self.follow(&node, steps, now);
                if ask {
                    self.ask(&node);
                }
            }
            Says::Ask { node, known } => self.answer(&node, known),
            Says::Answer(answer) => {
                let node = answer.node.clone();
                let Some(peer) = self.heard(&node, now) else { return };
                let steps = peer.answered(answer, now.mono);
                self.follow(&node, steps, now);
            }
        }
    }

    fn heard(&mut self, node: &NodeId, now: Now) -> Option<&mut Peer> {
        self.meet(node, now.mono, Heard::Live);
        let peer = self.peers.get_mut(node)?;
        peer.hear(now.mono);
        Some(peer)
    }

    /// Knows of a node from now on, unless there are too many.
    fn meet(&mut self, node: &NodeId, at: Duration, heard: Heard) {
        if !self.peers.contains_key(node) && self.peers.len() < PEERS {
            self.peers.insert(node.clone(), Peer::new(at, heard));
            let mut sight = Sight::clone(&self.sight);
            sight.nodes.insert(node.clone(), heard);
            self.sight = Arc::new(sight);
            self.out.sight = Some(Arc::clone(&self.sight));
        }
    }

    fn ask(&mut self, node: &NodeId) {
        let known = self.peers.get(node).and_then(Peer::head);
        self.out.say.push((To::Node(node.clone()), Says::Ask { node: self.me.clone(), known }));
    }

    /// Applies what follows in a peer's history.
    fn follow(&mut self, node: &NodeId, steps: Steps, now: Now) {
        if let Some(whole) = steps.whole {
            self.replace(node, whole, now);
        }
        self.take_in(node, steps.changes, now);
    }

    /// All that a peer says is this: what else it said is over.
    fn replace(&mut self, node: &NodeId, whole: Vec<(UserId, Fact)>, now: Now) {
        let mut said = by_user(whole);
        let known = self.users.iter().filter(|(_, user)| user.is_known_by(node));
        for (id, _) in known {
            said.entry(id.clone()).or_default();
        }
        for (id, facts) in said {
            self.join(node, &id, facts, now, |user| user.forget_node(node));
        }
    }

    /// A node says this as well.
    fn take_in(&mut self, node: &NodeId, facts: impl IntoIterator<Item = (UserId, Fact)>, now: Now) {
        for (id, facts) in by_user(facts) {
            self.join(node, &id, facts, now, |_| ());
        }
    }

    /// All that is said of a user together is one change, as a status and its message.
    fn join(&mut self, node: &NodeId, id: &UserId, facts: Vec<Fact>, now: Now, first: impl FnOnce(&mut User)) {
        for fact in &facts {
            if let Fact::Explicit(explicit) = fact {
                self.clock.observe(explicit.stamp.min(self.sight.latest));
            }
        }
        self.change(id, now, |user| {
            first(user);
            for fact in facts {
                user.join(node, fact);
            }
            user.compact(node);
        });
    }

    /// Changes what is known of a user, and notes what readers see of it.
    fn change(&mut self, id: &UserId, now: Now, change: impl FnOnce(&mut User)) {
        let user = self.users.entry(id.clone()).or_default();
        let before = user.visible(&self.sight);
        change(Arc::make_mut(user));
        let after = user.visible(&self.sight);
        if user.is_gone() && user.seen_ms() == 0 {
            self.users.remove(id);
        }
        self.out.dirty.insert(id.clone());
        if self.events.changed(id, before, &after, now.mono) {
            self.out.events.push(Event(id.clone()));
        }
    }

    /// What followed since it was last asked.
    pub fn drain(&mut self) -> Out {
        let mut out = std::mem::take(&mut self.out);
        let dirty = std::mem::take(&mut out.dirty);
        out.users = dirty
            .into_iter()
            .map(|id| self.users.get(&id).cloned().map_or((id.clone(), None), |user| (id, Some(user))))
            .collect();
        out
    }

    /// A user.
    pub fn user(&self, id: &UserId) -> Option<&Arc<User>> {
        self.users.get(id)
    }

    /// When the sessions of a user end that this node holds.
    pub fn ends(&self, id: &UserId) -> Ends {
        self.owner.ends(id)
    }

    /// How this node sees the others.
    pub fn sight(&self) -> &Arc<Sight> {
        &self.sight
    }

    /// What is there.
    pub fn counts(&self) -> Counts {
        let peers = self.peers.values().filter(|peer| peer.heard != Heard::Silent).count();
        Counts { users: self.users.len(), sessions: self.owner.len(), peers, head: self.head }
    }

    /// What of each node is known, for people and for forwarding.
    pub fn vector(&self) -> BTreeMap<NodeId, Version> {
        let peers = self.peers.iter().filter_map(|(node, peer)| Some((node.clone(), peer.head()?)));
        peers.chain([(self.me.clone(), self.head)]).collect()
    }

    /// A piece of what a log must hold so that it says all that this node knows of itself, and when everybody was last seen:
    /// of some users after `after`, and up to whom that is; none: there are no more.
    pub fn kept_facts(&self, after: Option<&UserId>) -> (Vec<(UserId, Fact)>, Option<UserId>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut facts, mut upto) = (Vec::new(), None);
        for (id, user) in self.users.range::<UserId, _>((from, Bound::Unbounded)) {
            if facts.len() >= KEPT {
                break;
            }
            facts.extend(user.facts_of(&self.me).into_iter().map(|fact| (id.clone(), fact)));
            facts.push((id.clone(), Fact::Seen(user.seen_ms())));
            upto = Some(id);
        }
        (facts, upto.cloned())
    }

    /// How many facts that is in all.
    pub fn kept(&self) -> usize {
        self.users.values().map(|user| 1 + user.facts_of(&self.me).len()).sum()
    }

    /// All that this node says that is in force.
    pub fn own_facts(&self) -> Vec<(UserId, Fact)> {
        let mut facts = Vec::new();
        for (id, user) in &self.users {
            let own = user.facts_of(&self.me);
            if !own.is_empty() {
                facts.extend(own.into_iter().map(|fact| (id.clone(), fact)));
                facts.push((id.clone(), Fact::Seen(user.seen_ms())));
            }
        }
        facts
    }
}

/// What is said of each user, in its order.
fn by_user(facts: impl IntoIterator<Item = (UserId, Fact)>) -> BTreeMap<UserId, Vec<Fact>> {
    let mut users: BTreeMap<UserId, Vec<Fact>> = BTreeMap::new();
    for (user, fact) in facts {
        users.entry(user).or_default().push(fact);
    }
    users
}
