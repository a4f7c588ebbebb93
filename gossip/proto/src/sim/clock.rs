//! A wall clock that is wrong by far: it must harm nobody but its own node, and that one no longer than it lasts.

use rand::RngExt;

use super::Sabotage;
use super::store::Job;
use super::world::{Event, World, site_id};
use crate::clocks::FUTURE_MS;
use crate::{Hlc, Vector};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// The node whose clock it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Astray {
    node: usize,
    ahead: Ahead,
    /// Whether somebody sets it at the end of the first phase.
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ahead {
    Nothing,
    Day,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Set,
    Left,
}

impl Astray {
    pub(super) fn ahead_ms(self, node: usize) -> u64 {
        match self.ahead {
            Ahead::Day if node == self.node => DAY_MS,
            Ahead::Day | Ahead::Nothing => 0,
        }
    }
}

impl World {
    /// Draws whose clock it is. It may be wrong before its node has ever met another.
    pub(super) fn lead_astray(&mut self) {
        let node = self.rng.random_range(0..self.nodes.len());
        let ahead = if self.rng.random_bool(0.5) { Ahead::Day } else { Ahead::Nothing };
        // Of two clocks nobody can tell which is wrong, and the slower is believed: what the other stamped before they met
        // waits until it is set.
        let end = if self.nodes.len() == 2 || self.rng.random_bool(0.5) { End::Set } else { End::Left };
        self.astray = Some(Astray { node, ahead, end });
        let turns = self.between(500, 6_000);
        self.after(turns, Event::Astray);
    }

    pub(super) fn turn_clock(&mut self) {
        let Some(astray) = self.astray.as_mut().filter(|_| self.healed.is_none()) else { return };
        astray.ahead = match astray.ahead {
            Ahead::Nothing => Ahead::Day,
            Ahead::Day => Ahead::Nothing,
        };
        let Astray { node, ahead, .. } = *astray;
        self.note(|world| format!("{}'s clock is ahead by: {ahead:?}", world.nodes[node].id));
        let turns = self.between(500, 12_000);
        self.after(turns, Event::Astray);
    }

    pub(super) fn set_clock(&mut self) {
        if let Some(astray) = self.astray.as_mut().filter(|astray| astray.end == End::Set) {
            astray.ahead = Ahead::Nothing;
        }
    }

    /// Nobody else holds what it stamped.
    pub(super) fn check_clock(&mut self, node: usize) {
        let Some(astray) = self.astray.filter(|astray| astray.node != node) else { return };
        let sound = (0..self.nodes.len()).filter(|&other| other != astray.node);
        let latest = sound.map(|other| self.wall_ms(other)).max().unwrap_or(0) + FUTURE_MS;
        let held = self.nodes[node].store.held();
        if held.ms() > latest {
            self.fail(format!("{} holds {held:?}, which is from the future", self.nodes[node].id));
        }
    }

    /// Peers refuse what the node has stamped: the store gives up its site, and the node starts with another.
    pub(super) fn give_up(&mut self, node: usize, refused: Vector, latest: Hlc) {
        if !self.sabotaged(Sabotage::KeepFuture) {
            self.enqueue(node, Job::Renounce(refused, latest));
        }
    }

    pub(super) fn renounce(&mut self, node: usize, refused: &Vector, latest: Hlc) {
        let wall_ms = self.stamps_from(node);
        let it = &mut self.nodes[node];
        let site = site_id(u8::try_from(node).expect("a simulated cluster is small"), it.sites);
        // Of others' sites it is for them to say.
        let Some((above, anew)) = it.store.renounce_later(refused, latest, site, wall_ms) else { return };
        it.sites += 1;
        it.books.fresh = true;
        // Nobody took those. Where no row carries their stamps any more they stand as numbers, and as nothing else.
        let bound = latest.ms().saturating_add(FUTURE_MS);
        self.history.retain(|(site, _), version| !above.contains_key(site) || version.hlc.ms() <= bound);
        self.note(|world| format!("{} gives up what is above {above:?}: {anew:?}", world.nodes[node].id));
        self.given_up.extend(above);
        self.report.renounced += 1;
        if let Some(version) = anew {
            self.report.restamped += version.changes.len() as u64;
            self.history.insert((version.site, version.version), version.into());
        }
        self.stop(node);
        self.nodes[node].disk = self.nodes[node].store.clone();
        self.check_node(node);
        self.start(node);
    }
}
