//! The end of this node's history: what a peer that missed little is told, without all the rest.

use std::collections::VecDeque;

use super::fact::Fact;
use super::id::UserId;

/// Changes that are kept: some seconds of the most that a node is meant to write. Whoever missed more is told the state.
const KEPT: usize = 65_536;

/// The last changes of this node, in order.
#[derive(Debug, Default)]
pub struct Tail {
    changes: VecDeque<(u64, UserId, Fact)>,
    /// All changes above this are here.
    since: u64,
}

impl Tail {
    /// Nothing, of a history that is at `seq`.
    pub fn since(seq: u64) -> Self {
        Self { changes: VecDeque::new(), since: seq }
    }

    /// A change was made.
    pub fn push(&mut self, seq: u64, user: UserId, fact: Fact) {
        if self.changes.len() == KEPT
            && let Some((dropped, ..)) = self.changes.pop_front()
        {
            self.since = dropped;
        }
        self.changes.push_back((seq, user, fact));
    }

    /// All changes above `seq`, or none if some of them are no longer here.
    pub fn after(&self, seq: u64) -> Option<Vec<(UserId, Fact)>> {
        if seq < self.since {
            return None;
        }
        let from = self.changes.partition_point(|(at, ..)| *at <= seq);
        Some(self.changes.range(from..).map(|(_, user, fact)| (user.clone(), fact.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_longer_kept_is_not_told_in_part() {
        let (mut tail, ann) = (Tail::default(), UserId::try_from("ann").unwrap());
        for seq in 1..=KEPT as u64 + 10 {
            tail.push(seq, ann.clone(), Fact::Seen(seq));
        }
        assert_eq!(tail.after(9), None);
        assert_eq!(tail.after(10).map(|changes| changes.len()), Some(KEPT));
        assert_eq!(tail.after(KEPT as u64 + 10), Some(vec![]));
    }
}
