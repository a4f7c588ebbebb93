//! One bound over what all queries hold together. Each has bounds of its own, but there may be a thousand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The results of all queries, and the changes kept for those who come back, may take this much memory together.
pub(super) const TOTAL_BYTES: usize = 1 << 30;

/// What is held by all together.
#[derive(Debug)]
pub(super) struct Budget {
    total: usize,
    shares: Mutex<BTreeMap<u64, Held>>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    over: CancellationToken,
}

/// What one query holds of it. Given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    number: u64,
    over: CancellationToken,
}

impl Budget {
    /// All together may hold this many bytes.
    pub(super) fn new(total: usize) -> Self {
        Self { total, shares: Mutex::default() }
    }

    /// What all together hold, in bytes.
    pub(super) fn held(&self) -> usize {
        self.lock().values().map(|held| held.bytes).sum()
    }

    /// A share that holds nothing yet.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        let over = CancellationToken::new();
        let mut shares = self.lock();
        let number = shares.last_key_value().map_or(0, |(last, _)| last + 1);
        shares.insert(number, Held { bytes: 0, over: over.clone() });
        Share { budget: Arc::clone(self), number, over }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Held>> {
        // Nothing in between leaves it half changed.
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// From now on it is this much. While all together hold too much, whoever holds most is to end, not whoever happened to
    /// grow; of equals the last to come.
    pub(super) fn hold(&self, bytes: usize) {
        let mut shares = self.budget.lock();
        if let Some(held) = shares.get_mut(&self.number) {
            held.bytes = bytes;
        }
        // What was told to end gives its part back as soon as it notices.
        let stays = |held: &&Held| !held.over.is_cancelled();
        let mut left: usize = shares.values().filter(stays).map(|held| held.bytes).sum();
        while left > self.budget.total {
            let Some(largest) = shares.values().filter(stays).max_by_key(|held| held.bytes) else { return };
            left -= largest.bytes;
            largest.over.cancel();
        }
    }

    /// Cancelled when this one is to end.
    pub(super) fn over(&self) -> CancellationToken {
        self.over.clone()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_most_ends_where_all_together_hold_too_much() {
        let budget = Arc::new(Budget::new(100));
        let [large, middle, small] = [60, 30, 10].map(|bytes| {
            let share = budget.share();
            share.hold(bytes);
            share
        });
        let ended = || [&large, &middle, &small].map(|share| share.over().is_cancelled());
        assert_eq!((budget.held(), ended()), (100, [false; 3]));
        small.hold(11);
        assert_eq!(ended(), [true, false, false], "the largest, though it was there first and did not grow");
        small.hold(50);
        assert_eq!(ended(), [true, false, false], "what is told to end counts no more");
        small.hold(90);
        assert_eq!(ended(), [true, false, true], "the one that grew, as the largest of those that are left");
        drop(large);
        assert_eq!(budget.held(), 120);
        drop(small);
        middle.hold(100);
        assert_eq!((budget.held(), middle.over().is_cancelled()), (100, false));
    }
}
