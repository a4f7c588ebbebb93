//! The nodes, the queue of events and the loop over it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::clock::Astray;
use super::damage::Repair;
use super::faults::{Durability, Faults};
use super::link::{Conn, Cuts, End};
use super::pull::Asked;
use super::setback::{Began, Books, Image};
use super::store::Job;
use super::{Config, Damage, Disks, Failure, Report, Sabotage, Trace, Wall};
use crate::agreement::Fingerprint;
use crate::model::Store;
use crate::replica::{Input, Output};
use crate::soundness::Soundness;
use crate::{Frame, NodeId, Replica, SiteId, Vector, Version};

/// An event of a node is void once the node has crashed: it carries the life that it was meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) node: usize,
    pub(super) number: u32,
}

#[derive(Debug)]
pub(super) enum Event {
    Timer(Life),
    Write(Life),
    Stored(Life),
    Synced(Life),
    Report(Life, Input),
    Gossip(Life),
    Purge(Life),
    /// What a node had applied that was asked.
    Told(Life, NodeId, Vector),
    Dial(Life, usize),
    Opened(u64, End),
    Arrive(u64, End),
    Closed(u64, End),
    /// The node is told that another store has written its site, and the greatest count of starts that is known of it.
    Forked(Life, SiteId, u64),
    /// A cut from one node to the other that began then has lasted as long as connections bear it.
    Lapsed(usize, usize, Duration),
    Asked(u64),
    Answered(u64),
    Stalled(u64),
    Hurt,
    Astray,
    Look(Life),
    Repair(Repair),
    Strike,
    Heal,
    Check,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) life: u32,
    pub(super) running: bool,
    pub(super) skew_ms: u64,
    pub(super) store: Store,
    /// What survives a power cut, where durability is normal.
    pub(super) disk: Store,
    pub(super) books: Books,
    pub(super) began: Began,
    /// What the disk may be set back to.
    pub(super) image: Option<Image>,
    /// Results of the store that are not synced, so that nobody hears of them.
    pub(super) unsynced: Vec<Input>,
    pub(super) sites: u8,
    pub(super) jobs: VecDeque<Job>,
    pub(super) busy: bool,
    pub(super) slow_until: Duration,
    pub(super) full_until: Duration,
    pub(super) replica: Replica,
    pub(super) soundness: Soundness,
    pub(super) timer: Option<Duration>,
    /// Not before this can the store's next result be heard: results keep their order.
    pub(super) reported: Duration,
    pub(super) unreported: usize,
    pub(super) links: BTreeSet<usize>,
    pub(super) ours: BTreeMap<usize, u64>,
    pub(super) theirs: BTreeMap<usize, u64>,
    pub(super) heard: BTreeMap<usize, Duration>,
    /// How long others were not heard, while we listened. Survives a crash.
    pub(super) unheard: BTreeMap<usize, Duration>,
    pub(super) published: Option<(Duration, Fingerprint)>,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) config: Config,
    pub(super) now: Duration,
    pub(super) rng: SmallRng,
    pub(super) faults: Faults,
    pub(super) healed: Option<Duration>,
    pub(super) settled: Option<Duration>,
    pub(super) nodes: Vec<Node>,
    pub(super) cuts: Cuts,
    pub(super) conns: BTreeMap<u64, Conn>,
    pub(super) pulls: BTreeMap<u64, Asked>,
    /// What was acknowledged, but for what a power cut then took. That is nowhere, or somebody heard of it too early.
    pub(super) history: BTreeMap<(SiteId, u64), Arc<Version>>,
    /// The same where disks are set back, but for what is held by nobody any more.
    pub(super) acknowledged: Vec<Arc<Version>>,
    /// Sites that gave up what they had told nobody above these versions: it was written again by another one, or is lost.
    pub(super) given_up: BTreeMap<SiteId, u64>,
    /// The node whose wall clock is wrong by far, if there is one.
    pub(super) astray: Option<Astray>,
    /// Nodes whose store is damaged, and not known to be sound again.
    pub(super) hurt: BTreeSet<usize>,
    pub(super) numbers: i64,
    pub(super) report: Report,
    pub(super) failure: Option<String>,
    queue: BTreeMap<(Duration, u64), Event>,
    ids: u64,
    encoded: Option<(Arc<Frame>, Rc<[u8]>)>,
    trace: Vec<String>,
}

/// Wall clocks show this at time zero: a plausible number, for hybrid clocks with all their digits.
const WALL_MS: u64 = 1_760_000_000_000;

impl World {
    pub(super) fn new(seed: u64, config: &Config) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut faults = Faults::draw(&mut rng);
        if config.disks == Disks::SetBack {
            // Else nobody could say who holds what.
            faults.durability = Durability::Full;
        }
        // Against a window of a second or two a minute would be for ever.
        let skew_ms = match config.wall {
            _ if config.window.is_some() => 500,
            Wall::InStep => 60_000,
            // What is left of a minute is for what is stamped anew, half a minute ahead.
            Wall::OneAhead => 10_000,
        };
        let nodes = (0..config.nodes).map(|n| Node::new(n, rng.random_range(0..skew_ms))).collect();
        let mut world = Self {
            seed,
            config: config.clone(),
            now: Duration::ZERO,
            rng,
            faults,
            healed: None,
            settled: None,
            nodes,
            cuts: Cuts::default(),
            conns: BTreeMap::new(),
            pulls: BTreeMap::new(),
            history: BTreeMap::new(),
            acknowledged: Vec::new(),
            given_up: BTreeMap::new(),
            astray: None,
            hurt: BTreeSet::new(),
            numbers: 0,
            report: Report::default(),
            failure: None,
            queue: BTreeMap::new(),
            ids: 0,
            encoded: None,
            trace: Vec::new(),
        };
        match config.wall {
            Wall::InStep => {}
            Wall::OneAhead => world.lead_astray(),
        }
        for node in 0..config.nodes {
            // Some join late.
            if world.rng.random_bool(0.8) {
                world.start(node);
            }
        }
        world.at(config.chaos, Event::Heal);
        world.after(Duration::from_millis(500), Event::Strike);
        match config.damage {
            Damage::None => {}
            Damage::Some => world.after(Duration::from_secs(1), Event::Hurt),
        }
        world
    }

    pub(super) fn run(mut self) -> Result<Report, Failure> {
        let end = self.config.chaos + self.config.settle + self.config.rest;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if at > end || self.is_rested(at) {
                break;
            }
            self.now = at;
            self.report.events += 1;
            self.take(event);
            if let Some(what) = self.failure.take() {
                return Err(Failure { seed: self.seed, at, what, trace: self.trace });
            }
        }
        Ok(self.report)
    }

    fn is_rested(&self, at: Duration) -> bool {
        self.settled.is_some_and(|settled| settled + self.config.rest < at)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Timer(life) => self.if_alive(life, Self::timer),
            Event::Write(life) => self.if_alive(life, Self::write),
            Event::Stored(life) => self.if_alive(life, Self::finish_job),
            Event::Synced(life) => self.if_alive(life, Self::sync),
            Event::Gossip(life) => self.if_alive(life, Self::gossip),
            Event::Purge(life) => self.if_alive(life, Self::look_for_tombstones),
            Event::Dial(life, to) => self.if_alive(life, |world, node| world.dial(node, to)),
            Event::Report(life, input) => self.if_alive(life, |world, node| {
                world.nodes[node].unreported -= 1;
                world.feed(node, input);
            }),
            Event::Told(life, of, heads) => self.if_alive(life, |world, node| world.feed(node, Input::Told(of, heads))),
            Event::Opened(conn, end) => self.conn_opened(conn, end),
            Event::Arrive(conn, end) => self.arrive(conn, end),
            Event::Closed(conn, end) => self.conn_closed(conn, end),
            Event::Forked(life, site, boot) => self.if_alive(life, |world, node| world.forked(node, site, boot)),
            Event::Lapsed(from, to, since) => self.lapse(from, to, since),
            Event::Asked(pull) => self.answer(pull),
            Event::Answered(pull) => self.take_answer(pull),
            Event::Stalled(pull) => self.fail_pull(pull),
            Event::Hurt => self.hurt(),
            Event::Astray => self.turn_clock(),
            Event::Look(life) => self.if_alive(life, Self::look),
            Event::Repair(repair) => self.repair(&repair),
            Event::Strike => self.strike(),
            Event::Heal => self.heal(),
            Event::Check => self.check_settled(),
        }
    }

    fn if_alive(&mut self, life: Life, act: impl FnOnce(&mut Self, usize)) {
        if self.is_alive(life) {
            act(self, life.node);
        }
    }

    pub(super) fn is_alive(&self, life: Life) -> bool {
        self.nodes[life.node].running && self.nodes[life.node].life == life.number
    }

    pub(super) fn life(&self, node: usize) -> Life {
        Life { node, number: self.nodes[node].life }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub(super) fn at(&mut self, at: Duration, event: Event) {
        let id = self.next_id();
        self.queue.insert((at, id), event);
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    /// A random time from these milliseconds.
    pub(super) fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(least_ms * 1_000..=most_ms * 1_000))
    }

    pub(super) fn wall_ms(&self, node: usize) -> u64 {
        let ahead = self.astray.map_or(0, |astray| astray.ahead_ms(node));
        WALL_MS + self.nodes[node].skew_ms + ahead + u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.config.trace == Trace::On {
            let line = format!("{:>12.6} {}", self.now.as_secs_f64(), line(self));
            self.trace.push(line);
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    /// Starts a node from what its store holds.
    pub(super) fn start(&mut self, node: usize) {
        let seed = self.rng.random();
        let (now, gossip, sync) = (self.now, self.between(0, 500), self.between(0, 50));
        let sizes = self.config.sizes;
        let it = &mut self.nodes[node];
        it.running = true;
        it.life += 1;
        self.begin(node);
        let it = &mut self.nodes[node];
        it.replica = Replica::with_sizes(it.id.clone(), it.store.heads().clone(), seed, now, sizes);
        it.soundness = Soundness::new(seed, now);
        it.reported = now;
        self.note(|world| format!("{} starts with {:?}", world.nodes[node].id, world.nodes[node].store.heads()));
        self.read_clock(node);
        let life = self.life(node);
        self.after(gossip, Event::Gossip(life));
        if self.hurt.contains(&node) {
            self.look_soon(node);
        }
        self.begin_to_purge(node);
        self.after(sync, Event::Synced(life));
        let write = self.write_delay();
        self.after(write, Event::Write(life));
        self.set_timer(node);
    }

    fn read_clock(&mut self, node: usize) {
        let (wall_ms, held) = (self.wall_ms(node), self.nodes[node].store.held());
        self.feed(node, Input::Clock { wall_ms, held });
    }

    fn timer(&mut self, node: usize) {
        self.nodes[node].timer = None;
        if self.nodes[node].replica.deadline() <= self.now {
            self.feed(node, Input::Tick);
        } else {
            self.set_timer(node);
        }
    }

    /// A timer that is set for earlier than the deadline looks at it again when it fires.
    fn set_timer(&mut self, node: usize) {
        let deadline = self.nodes[node].replica.deadline();
        if self.nodes[node].timer.is_none_or(|timer| deadline < timer) {
            self.nodes[node].timer = Some(deadline);
            let life = self.life(node);
            self.at(deadline, Event::Timer(life));
        }
    }

    /// Gives the replica an input and does what it says.
    pub(super) fn feed(&mut self, node: usize, input: Input) {
        self.note(|world| format!("{} <- {input:?}", world.nodes[node].id));
        let now = self.now;
        let outputs = self.nodes[node].replica.handle(input, now);
        for output in outputs {
            self.note(|world| format!("{} -> {output:?}", world.nodes[node].id));
            match output {
                Output::Link(to) => {
                    let to = self.index(&to);
                    self.nodes[node].links.insert(to);
                    self.after(Duration::ZERO, Event::Dial(self.life(node), to));
                }
                Output::Unlink(to) => self.unlink(node, &to),
                Output::Send(to, frame) => {
                    let bytes = self.encode(&frame);
                    self.send(node, &to, &frame, bytes);
                }
                Output::Apply(versions) => self.enqueue(node, Job::Apply(versions)),
                Output::Pull(from, above) => self.ask(node, &from, Some(above)),
                Output::Snapshot(from) => self.ask(node, &from, None),
                Output::AskHeads(nodes) => self.ask_heads(node, &nodes),
                Output::Purge(covered) => self.purge_covered(node, &covered),
                Output::ReadClock => self.read_clock(node),
                Output::Renounce(refused, latest) => self.give_up(node, refused, latest),
            }
        }
        if self.nodes[node].replica.deadline() <= now {
            self.fail(format!("{} has a deadline that does not lie ahead", self.nodes[node].id));
        }
        self.set_timer(node);
    }

    /// One frame goes to all peers: encode it once.
    fn encode(&mut self, frame: &Arc<Frame>) -> Rc<[u8]> {
        if let Some((_, bytes)) = self.encoded.as_ref().filter(|(last, _)| Arc::ptr_eq(last, frame)) {
            return Rc::clone(bytes);
        }
        let bytes: Rc<[u8]> = frame.encode().into();
        self.encoded = Some((Arc::clone(frame), Rc::clone(&bytes)));
        bytes
    }

    pub(super) fn index(&self, id: &NodeId) -> usize {
        self.nodes.iter().position(|node| node.id == *id).expect("replicas only name nodes that they were told of")
    }

    pub(super) fn sabotaged(&self, sabotage: Sabotage) -> bool {
        self.config.sabotage == Some(sabotage)
    }
}

impl Node {
    fn new(number: usize, skew_ms: u64) -> Self {
        let n = u8::try_from(number).expect("a simulated cluster is small");
        let store = Store::new(site_id(n, 0));
        let id: NodeId = format!("n{n}").parse().expect("a letter and digits");
        Self {
            soundness: Soundness::new(0, Duration::ZERO),
            replica: Replica::new(id.clone(), crate::Vector::default(), 0, Duration::ZERO),
            id,
            life: 0,
            running: false,
            skew_ms,
            disk: store.clone(),
            store,
            books: Books::default(),
            began: Began::nothing(),
            image: None,
            unsynced: Vec::new(),
            sites: 1,
            jobs: VecDeque::new(),
            busy: false,
            slow_until: Duration::ZERO,
            full_until: Duration::ZERO,
            timer: None,
            reported: Duration::ZERO,
            unreported: 0,
            links: BTreeSet::new(),
            ours: BTreeMap::new(),
            theirs: BTreeMap::new(),
            heard: BTreeMap::new(),
            unheard: BTreeMap::new(),
            published: None,
        }
    }
}

/// Begins with the node and the number of the identity, so that a trace tells sites apart.
pub(super) fn site_id(node: u8, identity: u8) -> SiteId {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[node + 1, identity]);
    SiteId::new(bytes)
}
