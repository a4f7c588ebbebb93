//! Who is heard: by heartbeats, on our own monotonic clock, and by nothing else.
//!
//! Each node counts its heartbeat up; gossip carries the counts by any path. A node is **up** while its count has risen
//! *here* within the last ten seconds, else **silent**. No clock of another host is looked at. A count that is seen for
//! the first time proves nothing, it may be an old one passed on; so a node is not judged before its count has risen
//! once, or ten seconds have passed without.
//!
//! ```text
//!             rises                      10 s without
//! undecided ─────────► up ─────────────────────────────► silent
//!     │                 ▲                rises             ▲ │
//!     │                 └──────────────────────────────────┼─┘
//!     └─────────────── 10 s without ───────────────────────┘
//! ```
//! A restarted node counts anew under a greater generation. This module reads no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use kith_gossip_proto::NodeId;

/// How long a node may be unheard before it is silent. Heartbeats come every 300 ms by several paths, so this is thirty
/// lost in a row; and partitions must be reported within 15 s.
pub const SILENT_AFTER: Duration = Duration::from_secs(10);

/// Generations remembered per node: the current one, and the one before it while gossip still passes it on.
const GENERATIONS: usize = 4;

/// What is known of each node's heartbeats.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    nodes: BTreeMap<NodeId, BTreeMap<u64, Pulse>>,
}

#[derive(Debug)]
struct Pulse {
    heartbeat: u64,
    first: Duration,
    risen: Option<Duration>,
}

/// The judgement on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) generation: u64,
    pub(crate) pulse: Heard,
}

/// Whether a node is heard, and when it was last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Up(Duration),
    Silent(Option<Duration>),
}

impl Liveness {
    /// Takes note of a node's count at time `now`.
    pub(crate) fn observe(&mut self, node: &NodeId, generation: u64, heartbeat: u64, now: Duration) {
        let generations = self.nodes.entry(node.clone()).or_default();
        match generations.get_mut(&generation) {
            Some(pulse) if heartbeat > pulse.heartbeat => {
                pulse.heartbeat = heartbeat;
                pulse.risen = Some(now);
            }
            Some(_) => {}
            None => {
                generations.insert(generation, Pulse { heartbeat, first: now, risen: None });
                if generations.len() > GENERATIONS {
                    generations.pop_first();
                }
            }
        }
    }

    /// What to think of a node at time `now`; None while that is undecided. Of several generations the greatest that is up
    /// counts, else the one heard last.
    pub(crate) fn judge(&self, node: &NodeId, now: Duration) -> Option<Verdict> {
        let generations = self.nodes.get(node)?;
        let up = generations.iter().rev().find_map(|(&generation, pulse)| {
            let at = pulse.risen.filter(|&at| now.saturating_sub(at) < SILENT_AFTER)?;
            Some(Verdict { generation, pulse: Heard::Up(at) })
        });
        let silent = || {
            let (&generation, pulse) =
                generations.iter().max_by_key(|(generation, pulse)| (pulse.risen, **generation))?;
            let undecided = pulse.risen.is_none() && now.saturating_sub(pulse.first) < SILENT_AFTER;
            (!undecided).then_some(Verdict { generation, pulse: Heard::Silent(pulse.risen) })
        };
        up.or_else(silent)
    }

    /// Every node that was ever observed. Nodes are not forgotten while the process lives: that a node is silent must not
    /// be lost because gossip has forgotten it.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn node() -> NodeId {
        "a".parse().unwrap()
    }

    fn verdict(generation: u64, pulse: Heard) -> Option<Verdict> {
        Some(Verdict { generation, pulse })
    }

    #[test]
    fn a_node_is_up_from_its_first_rise_until_ten_seconds_without() {
        let mut liveness = Liveness::default();
        assert_eq!(liveness.judge(&node(), s(0.0)), None);
        liveness.observe(&node(), 1, 7, s(0.0));
        assert_eq!(liveness.judge(&node(), s(9.9)), None);
        liveness.observe(&node(), 1, 8, s(1.0));
        assert_eq!(liveness.judge(&node(), s(1.0)), verdict(1, Heard::Up(s(1.0))));
        liveness.observe(&node(), 1, 8, s(10.0));
        assert_eq!(liveness.judge(&node(), s(10.9)), verdict(1, Heard::Up(s(1.0))));
        assert_eq!(liveness.judge(&node(), s(11.0)), verdict(1, Heard::Silent(Some(s(1.0)))));
        liveness.observe(&node(), 1, 9, s(60.0));
        assert_eq!(liveness.judge(&node(), s(60.0)), verdict(1, Heard::Up(s(60.0))));
    }

    #[test]
    fn a_count_that_never_rises_is_silent_after_ten_seconds() {
        let mut liveness = Liveness::default();
        liveness.observe(&node(), 1, 7, s(5.0));
        assert_eq!(liveness.judge(&node(), s(14.9)), None);
        assert_eq!(liveness.judge(&node(), s(15.0)), verdict(1, Heard::Silent(None)));
    }

    #[test]
    fn a_restarted_node_counts_anew() {
        let mut liveness = Liveness::default();
        liveness.observe(&node(), 1, 1000, s(0.0));
        liveness.observe(&node(), 1, 1001, s(1.0));
        liveness.observe(&node(), 2, 1, s(2.0));
        assert_eq!(liveness.judge(&node(), s(2.0)), verdict(1, Heard::Up(s(1.0))));
        liveness.observe(&node(), 2, 2, s(2.3));
        // What others pass on of the old generation changes nothing.
        liveness.observe(&node(), 1, 1002, s(2.4));
        assert_eq!(liveness.judge(&node(), s(2.4)), verdict(2, Heard::Up(s(2.3))));
        assert_eq!(liveness.judge(&node(), s(30.0)), verdict(1, Heard::Silent(Some(s(2.4)))));
    }

    #[test]
    fn generations_are_bounded() {
        let mut liveness = Liveness::default();
        for generation in 1..=100 {
            liveness.observe(&node(), generation, 1, s(0.0));
        }
        liveness.observe(&node(), 100, 2, s(1.0));
        assert_eq!(liveness.nodes[&node()].len(), GENERATIONS);
        assert_eq!(liveness.judge(&node(), s(1.0)), verdict(100, Heard::Up(s(1.0))));
    }
}
