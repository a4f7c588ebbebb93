//! Places for answers: how many of a kind are given at the same time, and to whom.
//!
//! An answer holds a read snapshot, or a copy of the store, for as long as its asker takes to read it. So each kind has places
//! of its own, and no asker has all of them: one that reads slowly, on purpose or not, is in nobody's way but its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kith_gossip_proto::NodeId;

use crate::store::COPIES;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// All above a vector. Holds a read connection and its snapshot.
    Pull,
    /// A comparison, or the rows of buckets. Reads every row of the store, which takes a core for a while.
    Repair,
    /// A copy of the store.
    Snapshot,
}

impl Kind {
    /// Answers at the same time, to all and to one asker. Who comes on top is told so, and asks another node. A node asks
    /// once at a time; it may have a second pull only while an earlier one, which it gave up, is not yet seen to be gone.
    fn bounds(self) -> (usize, usize) {
        match self {
            Self::Pull => (4, 2),
            Self::Repair => (2, 1),
            Self::Snapshot => (COPIES, 1),
        }
    }
}

/// Who is answered what, and how many times at the moment.
type Taken = BTreeMap<(Kind, NodeId), usize>;

/// All places.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(Arc<Mutex<Taken>>);

impl Answers {
    /// A place, for as long as it is held. None while they are taken.
    pub(super) fn place(&self, kind: Kind, asker: &NodeId) -> Option<Place> {
        let (most, of_one) = kind.bounds();
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.iter().filter(|((of, _), _)| *of == kind).map(|(_, count)| count).sum();
        let key = (kind, asker.clone());
        if all >= most || taken.get(&key).is_some_and(|&count| count >= of_one) {
            return None;
        }
        *taken.entry(key.clone()).or_default() += 1;
        drop(taken);
        Some(Place { answers: self.clone(), key })
    }
}

/// A place that is taken. It is free when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    answers: Answers,
    key: (Kind, NodeId),
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.answers.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn repairs_take_no_place_of_pulls_and_an_asker_never_all_of_its_kind() {
        let answers = Answers::default();
        let place = |kind, name| answers.place(kind, &node(name));
        let repairs = [place(Kind::Repair, "a"), place(Kind::Repair, "b")];
        assert!(repairs.iter().all(Option::is_some));
        assert!(place(Kind::Repair, "c").is_none(), "both places are taken");
        let pulls: Vec<_> = (0..9).filter_map(|_| place(Kind::Pull, "a")).collect();
        assert_eq!(pulls.len(), 2);
        let others = ["b", "c", "d"].map(|name| place(Kind::Pull, name));
        assert_eq!(others.iter().flatten().count(), 2, "four in all");
        let copy = place(Kind::Snapshot, "a");
        assert!(copy.is_some() && place(Kind::Snapshot, "a").is_none() && place(Kind::Snapshot, "b").is_some());
        drop(repairs);
        let again = place(Kind::Repair, "c");
        assert!(again.is_some() && place(Kind::Repair, "c").is_none());
        drop((pulls, others, copy, again));
        assert_eq!(*answers.0.lock().unwrap(), Taken::new());
    }
}
