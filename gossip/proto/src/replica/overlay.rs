//! With whom streams are kept: with everybody while there are few, above that with a few neighbours.
//!
//! Every node finds its neighbours alone, from the names gossip sees: each ring orders the names by a hash of its own, and
//! a node's neighbours are those before and after it on each. So who sees the same members chooses the same pairs from
//! both ends, a member that comes or goes moves two links a ring, and rings that have nothing to do with each other make
//! every node few steps away from every other.
//!
//! ```text
//!         more than `tree_above` nodes
//! Whole ────────────────────────────────► Tree
//!       ◄────────────────────────────────
//!         no more than `whole_up_to`
//! ```

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Output;
use crate::NodeId;

/// Rings, so up to six neighbours: five to go on if one fails. Among 1,000 nodes that is about five steps to the furthest.
const RINGS: u64 = 3;

/// How many nodes, this one among them, are how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// So many keep streams to all: each version goes straight from its site, and none is forwarded.
    pub whole_up_to: usize,
    /// More than so many make a tree. The room between the two keeps a cluster at the edge from changing to and fro.
    pub tree_above: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { whole_up_to: 30, tree_above: 34 }
    }
}

/// Who forwards what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nobody anything: each site pushes to all.
    Whole,
    /// Everybody what is new to it.
    Tree,
}

/// The members that gossip sees, and those of them that streams are kept to.
#[derive(Debug)]
pub(super) struct Overlay {
    me: NodeId,
    sizes: Sizes,
    mode: Mode,
    up: BTreeSet<NodeId>,
    rings: Vec<BTreeSet<(u64, NodeId)>>,
    kept: BTreeSet<NodeId>,
}

impl Overlay {
    pub(super) fn new(me: NodeId, sizes: Sizes) -> Self {
        let rings = (0..RINGS).map(|ring| BTreeSet::from([place(ring, &me)])).collect();
        let mode = if sizes.tree_above == 0 { Mode::Tree } else { Mode::Whole };
        Self { me, sizes, mode, up: BTreeSet::new(), rings, kept: BTreeSet::new() }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn come_up(&mut self, node: NodeId, out: &mut Vec<Output>) {
        for (number, ring) in (0..).zip(&mut self.rings) {
            ring.insert(place(number, &node));
        }
        self.up.insert(node);
        self.choose(out);
    }

    pub(super) fn go_down(&mut self, node: &NodeId, out: &mut Vec<Output>) {
        for (number, ring) in (0..).zip(&mut self.rings) {
            ring.remove(&place(number, node));
        }
        self.up.remove(node);
        self.choose(out);
    }

    fn choose(&mut self, out: &mut Vec<Output>) {
        let nodes = self.up.len() + 1;
        if nodes > self.sizes.tree_above {
            self.mode = Mode::Tree;
        } else if nodes <= self.sizes.whole_up_to {
            self.mode = Mode::Whole;
        }
        let wanted = match self.mode {
            Mode::Whole => self.up.clone(),
            Mode::Tree => self.neighbours(),
        };
        out.extend(self.kept.difference(&wanted).cloned().map(Output::Unlink));
        out.extend(wanted.difference(&self.kept).cloned().map(Output::Link));
        self.kept = wanted;
    }

    fn neighbours(&self) -> BTreeSet<NodeId> {
        let mut chosen = BTreeSet::new();
        for (number, ring) in (0..).zip(&self.rings) {
            let here = place(number, &self.me);
            let after = ring.range(&here..).nth(1).or_else(|| ring.first());
            let before = ring.range(..&here).next_back().or_else(|| ring.last());
            chosen.extend(after.into_iter().chain(before).map(|(_, node)| node.clone()));
        }
        chosen.remove(&self.me);
        chosen
    }
}

/// Where a node stands on a ring: the same on every node, of every release.
fn place(ring: u64, node: &NodeId) -> (u64, NodeId) {
    (xxh3_64_with_seed(node.as_str().as_bytes(), ring), node.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn name(number: usize) -> NodeId {
        format!("n{number}").parse().unwrap()
    }

    /// Whom each of so many nodes links to, each having heard of the others in an order of its own.
    fn links(nodes: usize, gone: &BTreeSet<usize>) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
        let linked = |me: usize| {
            let (mut overlay, mut out) = (Overlay::new(name(me), Sizes::default()), Vec::new());
            (0..nodes)
                .map(|n| (n + 7 * me) % nodes)
                .filter(|&n| n != me)
                .for_each(|n| overlay.come_up(name(n), &mut out));
            gone.iter().for_each(|&n| overlay.go_down(&name(n), &mut out));
            let mut kept = BTreeSet::new();
            for output in out {
                match output {
                    Output::Link(node) => assert!(kept.insert(node)),
                    Output::Unlink(node) => assert!(kept.remove(&node)),
                    _ => panic!("{output:?}"),
                }
            }
            (name(me), kept)
        };
        (0..nodes).filter(|me| !gone.contains(me)).map(linked).collect()
    }

    /// How many steps it takes to reach everybody from the first node.
    fn steps(links: &BTreeMap<NodeId, BTreeSet<NodeId>>) -> usize {
        let mut reached: BTreeSet<_> = links.keys().take(1).collect();
        for step in 0.. {
            let further: BTreeSet<_> = reached.iter().flat_map(|node| &links[*node]).chain(reached.clone()).collect();
            if further.len() == reached.len() {
                assert_eq!(reached.len(), links.len(), "not everybody is reached");
                return step;
            }
            reached = further;
        }
        unreachable!("each step reaches somebody or ends")
    }

    #[test]
    fn up_to_thirty_nodes_all_are_linked() {
        assert!(links(30, &BTreeSet::new()).values().all(|kept| kept.len() == 29));
    }

    #[test]
    fn above_that_links_are_few_mutual_and_reach_everybody() {
        for (nodes, furthest) in [(40, 4), (300, 6), (1_000, 7)] {
            let links = links(nodes, &BTreeSet::new());
            assert!(links.values().all(|kept| (2..=6).contains(&kept.len())));
            for (node, kept) in &links {
                assert!(kept.iter().all(|peer| links[peer].contains(node)), "{node} is not linked from both ends");
            }
            assert!(steps(&links) <= furthest, "{nodes} nodes: {} steps", steps(&links));
        }
    }

    #[test]
    fn links_heal_when_members_go() {
        let gone: BTreeSet<_> = (0..300).filter(|n| n % 3 == 0).collect();
        let links = links(300, &gone);
        for (node, kept) in &links {
            assert!(kept.iter().all(|peer| links[peer].contains(node)));
        }
        assert!(steps(&links) <= 6);
    }

    #[test]
    fn a_cluster_at_the_edge_does_not_change_to_and_fro() {
        let (mut overlay, mut out) = (Overlay::new(name(0), Sizes::default()), Vec::new());
        (1..34).for_each(|n| overlay.come_up(name(n), &mut out));
        assert_eq!((overlay.mode(), overlay.kept.len()), (Mode::Whole, 33));
        overlay.come_up(name(34), &mut out);
        assert_eq!(overlay.mode(), Mode::Tree);
        (31..35).for_each(|n| overlay.go_down(&name(n), &mut out));
        assert_eq!(overlay.mode(), Mode::Tree);
        overlay.go_down(&name(30), &mut out);
        assert_eq!((overlay.mode(), overlay.kept.len()), (Mode::Whole, 29));
    }
}
