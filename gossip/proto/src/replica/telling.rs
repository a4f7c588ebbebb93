//! What peers were not told of our heads yet, and when they are.

use std::time::Duration;

use super::overlay::Mode;
use crate::Vector;

/// Heads are told at most this often.
pub const HEADS_EVERY: Duration = Duration::from_millis(10);

/// Heads are told at most this often above 30 nodes, where they rise with every version of anybody: ten frames a second to
/// each neighbour, and a lost version is noticed a tenth of a second later.
const TREE_HEADS_EVERY: Duration = Duration::from_millis(100);

/// How long after heads rose they are told whole. What rose is told at once, but a frame may be lost on a stream that
/// lives on (a full queue), and the head of a site that falls silent would not be told again.
pub const WHOLE_HEADS_AFTER: Duration = Duration::from_secs(1);

/// So many sites are told whole at that pace. More are in a tree, where each version costs little more than itself, and
/// repeating all heads each second would cost ten times that: they are told ten times slower, and in proportion.
const SITES: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Telling {
    rose: Vector,
    told_at: Option<Duration>,
    whole_due: Option<Duration>,
}

impl Telling {
    pub(super) fn rose(&mut self, heads: &Vector) {
        self.rose.join(heads);
    }

    /// The heads to tell now, if any: all of them or those that rose.
    pub(super) fn due(&mut self, heads: &Vector, mode: Mode, now: Duration) -> Option<Vector> {
        let whole = self.whole_due.is_some_and(|due| due <= now);
        let rose = self.rose_due(mode).is_some_and(|due| due <= now);
        if !whole && !rose {
            return None;
        }
        let rose = std::mem::take(&mut self.rose);
        let tell = if whole { heads.clone() } else { rose };
        self.whole_due = if whole { None } else { self.whole_due.or(Some(now + whole_after(heads.len()))) };
        self.told_at = Some(now);
        Some(tell)
    }

    pub(super) fn deadline(&self, mode: Mode) -> Option<Duration> {
        self.rose_due(mode).into_iter().chain(self.whole_due).min()
    }

    fn rose_due(&self, mode: Mode) -> Option<Duration> {
        let pace = match mode {
            Mode::Whole => HEADS_EVERY,
            Mode::Tree => TREE_HEADS_EVERY,
        };
        let ready = self.told_at.map_or(Duration::ZERO, |at| at + pace);
        (!self.rose.is_empty()).then_some(ready)
    }
}

fn whole_after(sites: usize) -> Duration {
    match sites.div_ceil(SITES) {
        0 | 1 => WHOLE_HEADS_AFTER,
        times => WHOLE_HEADS_AFTER * 10 * u32::try_from(times).unwrap_or(u32::MAX / 10),
    }
}
