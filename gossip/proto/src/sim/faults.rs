//! What goes wrong, drawn by the seed: each run has some faults and not others, so that they do not drown each other.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use super::world::{Event, World, site_id};
use super::{Disks, Sabotage};

/// What a power cut may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Nothing that was acknowledged.
    Full,
    /// What was acknowledged since the last sync. Peers are told nothing of it before that.
    Normal,
}

#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) durability: Durability,
    /// Delays of frames, in milliseconds.
    pub(super) delay_ms: (u64, u64),
    /// Per frame sent: the stream breaks.
    pub(super) reset: f64,
    /// Per frame sent: it is dropped, and the stream goes on.
    pub(super) drop: f64,
    /// Per frame that arrives: it arrives twice.
    pub(super) duplicate: f64,
    /// Per pull: it is refused, or its answer breaks off.
    pub(super) pull: f64,
    /// Per restart: the numbers of own versions go on above a hole.
    pub(super) hole: f64,
    /// Per commit: the replica hears of it by the heads only.
    pub(super) unheard_commit: f64,
    /// Time between transactions of a node, in milliseconds, on average.
    write_ms: u64,
    /// Time between strikes, in milliseconds, on average.
    strike_ms: u64,
    cuts: bool,
    crashes: bool,
    stores: bool,
}

impl Faults {
    pub(super) fn draw(rng: &mut SmallRng) -> Self {
        let mut maybe = |most: f64| if rng.random_bool(0.5) { rng.random_range(0.0..most) } else { 0.0 };
        let (reset, drop, duplicate) = (maybe(0.03), maybe(0.2), maybe(0.5));
        let (pull, hole, unheard_commit) = (maybe(0.5), maybe(1.0), maybe(0.2));
        Self {
            durability: if rng.random_bool(0.5) { Durability::Full } else { Durability::Normal },
            delay_ms: (rng.random_range(0..3), [5, 40, 150, 400][rng.random_range(0..4)]),
            reset,
            drop,
            duplicate,
            pull,
            hole,
            unheard_commit,
            write_ms: rng.random_range(60..600),
            strike_ms: rng.random_range(150..1_000),
            cuts: rng.random_bool(0.7),
            crashes: rng.random_bool(0.7),
            stores: rng.random_bool(0.5),
        }
    }

    fn calm(&mut self) {
        (self.reset, self.drop, self.duplicate, self.pull, self.hole, self.unheard_commit) =
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
        self.delay_ms = (0, 20);
    }
}

enum Strike {
    Cut,
    Partition,
    Mend,
    Crash,
    Restart,
    Slow,
    Full,
    Disk,
}

impl World {
    pub(super) fn write_delay(&mut self) -> Duration {
        let mean = self.faults.write_ms;
        self.between(0, 2 * mean)
    }

    pub(super) fn strike(&mut self) {
        if self.healed.is_some() {
            return;
        }
        let mut kinds = Vec::new();
        if self.faults.cuts {
            kinds.extend([Strike::Cut, Strike::Cut, Strike::Partition, Strike::Mend, Strike::Mend]);
        }
        if self.faults.crashes {
            kinds.extend([Strike::Crash, Strike::Restart]);
        }
        if self.faults.stores {
            kinds.extend([Strike::Slow, Strike::Full]);
        }
        if self.config.disks == Disks::SetBack {
            kinds.extend([Strike::Disk, Strike::Disk, Strike::Disk]);
        }
        kinds.push(Strike::Restart);
        let node = self.rng.random_range(0..self.nodes.len());
        let until = self.now + self.between(50, 4_000);
        match kinds.swap_remove(self.rng.random_range(0..kinds.len())) {
            Strike::Cut => {
                let other = self.rng.random_range(0..self.nodes.len());
                self.cut(node, other);
                if self.rng.random_bool(0.5) {
                    self.cut(other, node);
                }
            }
            Strike::Partition => self.partition(),
            Strike::Mend => self.mend(),
            Strike::Crash => self.crash(node),
            Strike::Restart => {
                let down: Vec<_> = (0..self.nodes.len()).filter(|&node| !self.nodes[node].running).collect();
                if let Some(node) = down.into_iter().choose(&mut self.rng) {
                    self.start(node);
                }
            }
            Strike::Disk => self.strike_disk(node),
            Strike::Slow => {
                self.note(|world| format!("{}'s store is slow until {until:?}", world.nodes[node].id));
                self.nodes[node].slow_until = until;
            }
            Strike::Full => {
                self.note(|world| format!("{}'s disk is full until {until:?}", world.nodes[node].id));
                self.nodes[node].full_until = until;
            }
        }
        let mean = self.faults.strike_ms;
        let next = self.between(0, 2 * mean);
        self.after(next, Event::Strike);
    }

    fn partition(&mut self) {
        let side: Vec<bool> = self.nodes.iter().map(|_| self.rng.random()).collect();
        self.note(|_| format!("partition {side:?}"));
        for from in 0..side.len() {
            for to in 0..side.len() {
                if side[from] != side[to] {
                    self.cut(from, to);
                }
            }
        }
    }

    fn crash(&mut self, node: usize) {
        if !self.nodes[node].running {
            return;
        }
        self.report.crashes += 1;
        self.stop(node);
        let power = self.rng.random_bool(0.5);
        let hole = self.rng.random_bool(self.faults.hole);
        self.note(|world| format!("{} crashes", world.nodes[node].id));
        let rename = self.rng.random_bool(0.3) && !self.sabotaged(Sabotage::PublishBeforeSync);
        let it = &mut self.nodes[node];
        if power && self.faults.durability == Durability::Normal {
            let site = it.store.site();
            it.store = it.disk.clone();
            let kept = it.store.heads().head(site);
            let lost: Vec<_> = self.history.range((site, kept + 1)..=(site, u64::MAX)).map(|(&at, _)| at).collect();
            self.report.lost += u64::try_from(lost.len()).unwrap_or(u64::MAX);
            for at in lost {
                self.history.remove(&at);
            }
            it.store.leave_hole(kept + 1_000);
            if rename {
                it.store.become_site(site_id(u8::try_from(node).expect("a simulated cluster is small"), it.sites));
                it.sites += 1;
                it.books.fresh = true;
            }
        } else if hole {
            let site = it.store.site();
            let head = it.store.heads().head(site);
            it.store.leave_hole(head + 100);
        }
        it.disk = it.store.clone();
        self.hurt_again(node);
    }

    /// What was in memory is gone.
    pub(super) fn stop(&mut self, node: usize) {
        self.abandon_conns(node);
        let it = &mut self.nodes[node];
        it.running = false;
        it.jobs.clear();
        it.busy = false;
        it.timer = None;
        it.unreported = 0;
        it.unsynced.clear();
        it.links.clear();
        it.heard.clear();
    }

    /// The end of the first phase.
    pub(super) fn heal(&mut self) {
        self.note(|_| "everything heals".to_owned());
        self.healed = Some(self.now);
        self.faults.calm();
        self.mend();
        self.set_clock();
        for node in 0..self.nodes.len() {
            self.nodes[node].slow_until = Duration::ZERO;
            self.nodes[node].full_until = Duration::ZERO;
            if !self.nodes[node].running {
                self.start(node);
            }
        }
        self.after(Duration::ZERO, Event::Check);
    }
}
