//! Tombstones that are purged, and nodes that were away for longer than they are kept.

use std::time::Duration;

use super::Sabotage;
use super::world::{Event, World, site_id};
use crate::model::Answer;
use crate::purged::Away;
use crate::replica::Input;
use crate::{Hlc, NodeId, Vector};

use super::store::Job;

/// How often each node looks for tombstones to purge.
const PASS: Duration = Duration::from_millis(300);

/// Heard of within this time counts as heard of in this pass: a little more than gossip takes.
const LATELY: Duration = Duration::from_secs(1);

impl World {
    pub(super) fn begin_to_purge(&mut self, node: usize) {
        if self.config.window.is_none() {
            return;
        }
        let through = self.nodes[node].store.purged().through.clone();
        if !self.sabotaged(Sabotage::JoinWhoWasAway) {
            self.feed(node, Input::Purging(through));
        }
        self.after(PASS, Event::Purge(self.life(node)));
    }

    pub(super) fn look_for_tombstones(&mut self, node: usize) {
        let Some(window) = self.config.window else { return };
        let now = self.now;
        let mut known = Vec::new();
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            let id = self.nodes[other].id.clone();
            let it = &mut self.nodes[node];
            let heard = it.heard.get(&other).is_some_and(|&at| at + LATELY > now);
            let unheard = it.unheard.entry(other).or_default();
            *unheard = if heard { Duration::ZERO } else { *unheard + PASS };
            if *unheard < window {
                known.push(id);
            }
        }
        if self.sabotaged(Sabotage::PurgeAtOnce) {
            self.purge_at_once(node, &known);
        } else {
            self.feed(node, Input::Known(known));
        }
        self.after(PASS, Event::Purge(self.life(node)));
    }

    /// What they had applied and synced when they were asked, told later, if they can be reached and reach us.
    pub(super) fn ask_heads(&mut self, node: usize, of: &[NodeId]) {
        for id in of {
            let other = self.index(id);
            let reached = self.cuts.passes(node, other) && self.cuts.passes(other, node);
            if !reached || !self.nodes[other].running {
                continue;
            }
            let heads = self.nodes[other].replica.heads().clone();
            let there_and_back = self.delay() + self.delay();
            self.after(there_and_back, Event::Told(self.life(node), id.clone(), heads));
        }
    }

    fn purge_at_once(&mut self, node: usize, known: &[NodeId]) {
        let mut covered = self.nodes[node].store.heads().clone();
        for id in known {
            let Some(heads) = self.nodes[node].replica.heads_of(id) else { return };
            covered.meet(heads);
        }
        self.purge_covered(node, &covered);
    }

    /// The replica says what may go; what is old enough goes, and the replica is told before it does.
    pub(super) fn purge_covered(&mut self, node: usize, covered: &Vector) {
        let Some(window) = self.config.window else { return };
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let before = Hlc::from_ms(self.wall_ms(node).saturating_sub(window_ms));
        let due = self.nodes[node].store.due(covered, before);
        if due.is_empty() {
            return;
        }
        if !self.sabotaged(Sabotage::JoinWhoWasAway) {
            self.feed(node, Input::Purging(due.clone()));
        }
        self.enqueue(node, Job::Purge(due));
    }

    pub(super) fn purge(&mut self, node: usize, through: &Vector) {
        let store = &mut self.nodes[node].store;
        let before = store.rows().len();
        store.purge(through);
        self.report.purged += (before - store.rows().len()) as u64;
        self.note(|world| format!("{} has purged {:?}", world.nodes[node].id, world.nodes[node].store.purged()));
    }

    /// Takes the rows of an answer, if they may be.
    pub(super) fn take_rows(&mut self, node: usize, answer: &mut Answer) -> Away {
        if self.sabotaged(Sabotage::ForgetLengths) {
            answer.purged.lengths.clear();
        }
        if self.sabotaged(Sabotage::JoinWhoWasAway) {
            self.nodes[node].store.join(answer.rows.clone(), &answer.heads);
            return Away::Nobody;
        }
        let away = self.nodes[node].store.take(answer.clone());
        if away == Away::Nobody && self.config.window.is_some() {
            self.feed(node, Input::Purging(answer.purged.through.clone()));
        }
        away
    }

    /// The node was away for too long: its store is another one from here on, and it starts anew.
    pub(super) fn begin_anew(&mut self, node: usize, answer: Answer) {
        self.report.anew += 1;
        let wall_ms = self.wall_ms(node);
        let it = &mut self.nodes[node];
        let site = site_id(u8::try_from(node).expect("a simulated cluster is small"), it.sites);
        it.sites += 1;
        let (version, lost) = it.store.begin_anew(answer, site, wall_ms);
        self.given_up.extend(it.store.was().iter().map(|&site| (site, 0)));
        self.note(|world| format!("{} begins anew, with {version:?}; lost {lost:?}", world.nodes[node].id));
        if let Some(version) = version {
            self.report.replayed += 1;
            self.history.insert((version.site, version.version), version.into());
        }
        self.stop(node);
        self.nodes[node].disk = self.nodes[node].store.clone();
        self.check_node(node);
        self.start(node);
    }
}
