//! One bound over what all queries hold together. Each has bounds of its own, but there may be a thousand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The results of all queries, and the changes kept for those who come back, may take this much memory together.
pub(super) const TOTAL_BYTES: usize = 1 << 30;

/// What is held by all together.
#[derive(Debug, Default)]
pub(super) struct Budget(AtomicUsize);

/// What one query holds of it. Given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    held: usize,
}

/// All together hold too much.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Over;

impl Budget {
    /// What all together hold, in bytes.
    pub(super) fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Share {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, held: 0 }
    }

    /// From now on it is this much. Whoever grows while there is too much is to give up, not those who were there before.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), Over> {
        let grows = bytes > self.held;
        self.budget.0.fetch_add(bytes, Ordering::Relaxed);
        self.budget.0.fetch_sub(self.held, Ordering::Relaxed);
        self.held = bytes;
        if grows && self.budget.held() > TOTAL_BYTES { Err(Over) } else { Ok(()) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_grows_beyond_the_bound_gives_up() {
        let budget = Arc::new(Budget::default());
        let [mut one, mut other] = [0; 2].map(|_| Share::new(Arc::clone(&budget)));
        assert_eq!((one.hold(TOTAL_BYTES - 1), other.hold(1)), (Ok(()), Ok(())));
        assert_eq!((other.hold(2), one.hold(TOTAL_BYTES - 2)), (Err(Over), Ok(())));
        assert_eq!(budget.held(), TOTAL_BYTES);
        drop(other);
        assert_eq!((budget.held(), one.hold(TOTAL_BYTES)), (TOTAL_BYTES - 2, Ok(())));
    }
}
