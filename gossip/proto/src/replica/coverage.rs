//! What every known node has applied: deletions among it can be forgotten.
//!
//! That all have applied a deletion is not enough: what a node wrote before it heard of it may still be on its way to us.
//! So first it is noted what each has applied ([`Asked`]), and once we have applied all of that too, what they wrote
//! before can no longer come.

use crate::Vector;

#[derive(Debug, Default)]
pub(super) struct Coverage(Option<Asked>);

#[derive(Debug)]
struct Asked {
    /// What all had applied.
    all: Vector,
    /// What any of them had.
    any: Vector,
}

impl Coverage {
    /// Looks at what each known node has told; returns what is covered, if that can be said.
    pub(super) fn look<'a>(
        &mut self,
        ours: &Vector,
        known: impl Iterator<Item = Option<&'a Vector>>,
    ) -> Option<Vector> {
        let mut latest = Asked { all: ours.clone(), any: ours.clone() };
        for told in known {
            let told = told?;
            latest.all.meet(told);
            latest.any.join(told);
        }
        // While it is not reached it stands: what they have by now is always a little more than what we have. What nobody
        // tells any more will never be reached: a power cut took it, or its node began anew.
        self.0.take_if(|asked| !ours.covers(&asked.any) && !latest.any.covers(&asked.any));
        let Some(Asked { all: mut covered, .. }) = self.0.take_if(|asked| ours.covers(&asked.any)) else {
            self.0.get_or_insert(latest);
            return None;
        };
        // Somebody may have become known since.
        covered.meet(&latest.all);
        self.0 = Some(latest);
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

    #[test]
    fn what_all_have_applied_is_covered_once_we_have_applied_what_they_had() {
        let mut coverage = Coverage::default();
        let (a, b) = (heads(&[(1, 5), (2, 9)]), heads(&[(1, 7), (2, 4)]));
        assert_eq!(coverage.look(&heads(&[(1, 7), (2, 8)]), [Some(&a), Some(&b)].into_iter()), None);
        // The ninth of the second site was written by somebody who may not have heard of what all have by now.
        assert_eq!(coverage.look(&heads(&[(1, 8), (2, 8)]), [Some(&a), Some(&b)].into_iter()), None);
        let ours = heads(&[(1, 8), (2, 9)]);
        assert_eq!(coverage.look(&ours, [Some(&a), Some(&b)].into_iter()), Some(heads(&[(1, 5), (2, 4)])));
    }

    #[test]
    fn who_has_told_nothing_or_becomes_known_late_covers_nothing() {
        let mut coverage = Coverage::default();
        let (ours, late) = (heads(&[(1, 5)]), heads(&[(1, 2)]));
        assert_eq!(coverage.look(&ours, [Some(&ours), None].into_iter()), None);
        assert_eq!(coverage.look(&ours, [Some(&ours)].into_iter()), None);
        assert_eq!(coverage.look(&ours, [Some(&ours), None].into_iter()), None);
        assert_eq!(coverage.look(&ours, [Some(&ours), Some(&late)].into_iter()), Some(late));
    }

    #[test]
    fn what_is_lost_is_not_waited_for() {
        let mut coverage = Coverage::default();
        let (ours, lost) = (heads(&[(1, 5)]), heads(&[(1, 5), (2, 9)]));
        assert_eq!(coverage.look(&ours, [Some(&lost)].into_iter()), None);
        assert_eq!(coverage.look(&ours, [Some(&ours)].into_iter()), None);
        assert_eq!(coverage.look(&ours, [Some(&ours)].into_iter()), Some(ours.clone()));
    }

    #[test]
    fn a_node_alone_needs_nobody() {
        let (mut coverage, ours) = (Coverage::default(), heads(&[(1, 5)]));
        assert_eq!(coverage.look(&ours, std::iter::empty()), None);
        assert_eq!(coverage.look(&ours, std::iter::empty()), Some(ours));
    }
}
