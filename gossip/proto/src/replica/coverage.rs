//! What every known node has applied: deletions among it can be forgotten.
//!
//! That all have applied a deletion is not enough: what a node wrote before it heard of it may still be on its way to us.
//! So first it is noted what each has applied ([`Asked`]), and once we have applied all of that too, what they wrote
//! before can no longer come.

use std::collections::BTreeSet;

use crate::{NodeId, Vector};

#[derive(Debug, Default)]
pub(super) struct Coverage {
    round: Option<Round>,
    asked: Option<Asked>,
}

/// What known nodes have told since the round began. Who has a stream with us tells at once; above 30 nodes most have none,
/// and are asked one after the other. What one had applied when it told, it has applied for good.
#[derive(Debug)]
struct Round {
    latest: Asked,
    told: BTreeSet<NodeId>,
}

#[derive(Clone, Debug)]
struct Asked {
    /// What all had applied.
    all: Vector,
    /// What any of them had.
    any: Vector,
}

impl Asked {
    fn hear(&mut self, heads: &Vector) {
        self.all.meet(heads);
        self.any.join(heads);
    }
}

impl Coverage {
    /// A node that was asked has told its heads. Those of a round that is over say nothing.
    pub(super) fn hear(&mut self, node: &NodeId, heads: &Vector) {
        if let Some(round) = &mut self.round {
            round.latest.hear(heads);
            round.told.insert(node.clone());
        }
    }

    /// The known ones, and what those with a stream have told. Returns who is to be asked.
    pub(super) fn ask<'a>(
        &mut self,
        ours: &Vector,
        known: impl Iterator<Item = (&'a NodeId, Option<&'a Vector>)>,
    ) -> Vec<NodeId> {
        let begin = || Round { latest: Asked { all: ours.clone(), any: ours.clone() }, told: BTreeSet::new() };
        let round = self.round.get_or_insert_with(begin);
        let mut ask = Vec::new();
        for (node, told) in known {
            match told {
                Some(heads) => {
                    round.latest.hear(heads);
                    round.told.insert(node.clone());
                }
                None if !round.told.contains(node) => ask.push(node.clone()),
                None => {}
            }
        }
        ask
    }

    /// All known nodes have told: returns what is covered, if that can be said.
    pub(super) fn look(&mut self, ours: &Vector) -> Option<Vector> {
        let Round { latest, .. } = self.round.take()?;
        // While it is not reached it stands: what they have by now is always a little more than what we have. What nobody
        // tells any more will never be reached: a power cut took it, or its node began anew.
        self.asked.take_if(|asked| !ours.covers(&asked.any) && !latest.any.covers(&asked.any));
        let Some(Asked { all: mut covered, .. }) = self.asked.take_if(|asked| ours.covers(&asked.any)) else {
            self.asked.get_or_insert(latest);
            return None;
        };
        // Somebody may have become known since.
        covered.meet(&latest.all);
        self.asked = Some(latest);
        Some(covered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SiteId;

    fn heads(heads: &[(u8, u64)]) -> Vector {
        heads.iter().map(|&(site, head)| (SiteId::new([site; 16]), head)).collect()
    }

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    /// A pass in which all but `None` tell; nobody may be left to ask for it to be covered.
    fn pass(coverage: &mut Coverage, ours: &Vector, told: &[Option<&Vector>]) -> Option<Vector> {
        let names: Vec<_> = (0..told.len()).map(|number| node(&format!("n{number}"))).collect();
        let ask = coverage.ask(ours, names.iter().zip(told.iter().copied()));
        if ask.is_empty() { coverage.look(ours) } else { None }
    }

    #[test]
    fn what_all_have_applied_is_covered_once_we_have_applied_what_they_had() {
        let mut coverage = Coverage::default();
        let (a, b) = (heads(&[(1, 5), (2, 9)]), heads(&[(1, 7), (2, 4)]));
        assert_eq!(pass(&mut coverage, &heads(&[(1, 7), (2, 8)]), &[Some(&a), Some(&b)]), None);
        // The ninth of the second site was written by somebody who may not have heard of what all have by now.
        assert_eq!(pass(&mut coverage, &heads(&[(1, 8), (2, 8)]), &[Some(&a), Some(&b)]), None);
        let ours = heads(&[(1, 8), (2, 9)]);
        assert_eq!(pass(&mut coverage, &ours, &[Some(&a), Some(&b)]), Some(heads(&[(1, 5), (2, 4)])));
    }

    #[test]
    fn who_has_told_nothing_or_becomes_known_late_covers_nothing() {
        let mut coverage = Coverage::default();
        let (ours, late) = (heads(&[(1, 5)]), heads(&[(1, 2)]));
        assert_eq!(pass(&mut coverage, &ours, &[Some(&ours), None]), None);
        assert_eq!(pass(&mut coverage, &ours, &[Some(&ours)]), None);
        assert_eq!(pass(&mut coverage, &ours, &[Some(&ours), None]), None);
        assert_eq!(pass(&mut coverage, &ours, &[Some(&ours), Some(&late)]), Some(late));
    }

    #[test]
    fn who_tells_nothing_by_itself_is_asked_once_a_round_until_it_answers() {
        let mut coverage = Coverage::default();
        let (ours, theirs, asked) = (heads(&[(1, 5), (2, 3)]), heads(&[(1, 4), (2, 3)]), node("far"));
        let known = [(&asked, None)];
        assert_eq!(coverage.ask(&ours, known.into_iter()), std::slice::from_ref(&asked));
        assert_eq!(coverage.ask(&ours, known.into_iter()), std::slice::from_ref(&asked), "no answer came");
        coverage.hear(&asked, &theirs);
        assert!(coverage.ask(&ours, known.into_iter()).is_empty());
        assert_eq!(coverage.look(&ours), None);
        assert_eq!(coverage.ask(&ours, known.into_iter()), std::slice::from_ref(&asked), "another round");
        coverage.hear(&asked, &theirs);
        assert!(coverage.ask(&ours, known.into_iter()).is_empty());
        assert_eq!(coverage.look(&ours), Some(theirs));
    }

    #[test]
    fn what_is_lost_is_not_waited_for() {
        let mut coverage = Coverage::default();
        let (ours, lost) = (heads(&[(1, 5)]), heads(&[(1, 5), (2, 9)]));
        assert_eq!(pass(&mut coverage, &ours, &[Some(&lost)]), None);
        assert_eq!(pass(&mut coverage, &ours, &[Some(&ours)]), None);
        assert_eq!(pass(&mut coverage, &ours, &[Some(&ours)]), Some(ours.clone()));
    }

    #[test]
    fn a_node_alone_needs_nobody() {
        let (mut coverage, ours) = (Coverage::default(), heads(&[(1, 5)]));
        assert_eq!(pass(&mut coverage, &ours, &[]), None);
        assert_eq!(pass(&mut coverage, &ours, &[]), Some(ours));
    }
}
