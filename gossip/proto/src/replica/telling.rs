//! What peers were told of our heads, and when they are told again.

use std::time::Duration;

use crate::Vector;

/// Heads are told at most this often.
pub const HEADS_EVERY: Duration = Duration::from_millis(10);

/// How long after heads rose they are told whole. What rose is told at once, but a frame may be lost on a stream that
/// lives on (a full queue), and the head of a site that falls silent would not be told again.
pub const WHOLE_HEADS_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Telling {
    told: Vector,
    told_at: Option<Duration>,
    whole_due: Option<Duration>,
}

impl Telling {
    pub(super) fn new(heads: Vector) -> Self {
        Self { told: heads, told_at: None, whole_due: None }
    }

    /// The heads to tell now, if any: all of them or those that rose.
    pub(super) fn due(&mut self, heads: &Vector, now: Duration) -> Option<Vector> {
        let whole = self.whole_due.is_some_and(|due| due <= now);
        let rose = self.told != *heads && self.told_at.is_none_or(|at| at + HEADS_EVERY <= now);
        if !whole && !rose {
            return None;
        }
        let tell = if whole { heads.clone() } else { heads.above(&self.told) };
        self.whole_due = if whole { None } else { self.whole_due.or(Some(now + WHOLE_HEADS_AFTER)) };
        self.told = heads.clone();
        self.told_at = Some(now);
        Some(tell)
    }

    pub(super) fn deadline(&self, heads: &Vector) -> Option<Duration> {
        let rose = self.told_at.filter(|_| self.told != *heads).map(|at| at + HEADS_EVERY);
        rose.into_iter().chain(self.whole_due).min()
    }
}
