//! Up to which commit the queries have been told what concerns them.
//!
//! A look reads a snapshot that may hold more commits than the one that woke it. Whoever then looks at some rows only must
//! know of all that the snapshot changed, or half of a transaction would be seen.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A look waits no longer than this: it holds one of few readers.
const WAIT_MAX: Duration = Duration::from_millis(200);

/// The number of the last commit that everybody was told of.
#[derive(Debug)]
pub(super) struct Told {
    last: Mutex<u64>,
    more: Condvar,
}

/// Whether everybody has been told of all that a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    All,
    NotAll,
}

impl Told {
    pub(super) fn new(last: u64) -> Self {
        Self { last: Mutex::new(last), more: Condvar::new() }
    }

    /// Everybody has been told of this commit.
    pub(super) fn raise(&self, number: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = number.max(*last);
        drop(last);
        self.more.notify_all();
    }

    /// Waits until everybody was told of this commit, for so long at most. It is synced first, which takes as long as a disk
    /// does. Blocking.
    pub(super) fn wait(&self, number: u64, at_most: Duration) -> Known {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.more.wait_timeout_while(last, at_most.min(WAIT_MAX), |last| *last < number);
        let (last, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *last < number { Known::NotAll } else { Known::All }
    }
}
