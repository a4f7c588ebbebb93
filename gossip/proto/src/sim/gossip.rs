//! Membership, as gossip would give it: who is heard by whatever way, and the hash of its vector, seconds old.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;

use super::world::{Event, World};
use crate::agreement::Fingerprint;
use crate::replica::Input;

/// Shorter than the real ones, so that members go and come back, and hashes are of all ages, within a run.
const SILENT_AFTER: Duration = Duration::from_secs(3);
const PUBLISHED_EVERY: Duration = Duration::from_secs(4);

impl World {
    pub(super) fn gossip(&mut self, node: usize) {
        if self.settled.is_none() && self.rng.random_bool(0.25) {
            self.check_fold(node);
        }
        let now = self.now;
        let holds = self.fingerprint(node);
        let published = &mut self.nodes[node].published;
        if published.is_none_or(|(at, _)| at + PUBLISHED_EVERY <= now) {
            *published = Some((now, holds));
        }
        for other in self.heard_by(node) {
            let id = self.nodes[other].id.clone();
            if self.nodes[node].heard.insert(other, now).is_none() {
                self.feed(node, Input::MemberUp(id.clone()));
            }
            if let Some((_, Fingerprint { vector, .. })) = self.nodes[other].published {
                self.feed(node, Input::Gossiped(id, vector));
            }
        }
        let silent = self.nodes[node].heard.iter().filter(|&(_, &at)| at + SILENT_AFTER <= now);
        let silent: Vec<_> = silent.map(|(&other, _)| other).collect();
        for other in silent {
            self.nodes[node].heard.remove(&other);
            let id = self.nodes[other].id.clone();
            self.feed(node, Input::MemberDown(id));
        }
        self.tend(node);
        let next = self.between(300, 600);
        self.after(next, Event::Gossip(self.life(node)));
    }

    /// Whose words reach the node, over whatever others.
    fn heard_by(&self, node: usize) -> BTreeSet<usize> {
        let mut heard = BTreeSet::from([node]);
        let mut ask = vec![node];
        while let Some(to) = ask.pop() {
            for from in 0..self.nodes.len() {
                if self.nodes[from].running && self.cuts.passes(from, to) && heard.insert(from) {
                    ask.push(from);
                }
            }
        }
        heard.remove(&node);
        heard
    }
}
