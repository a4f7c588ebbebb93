//! Users that are gone are forgotten: who was not seen for long, and of too many those who were seen the longest ago.
//!
//! Which those are is found in one look at all; they go some at a time, between which everything else gets its turn.

use std::ops::Bound;
use std::time::Duration;

use super::Board;
use crate::core::Now;
use crate::core::id::UserId;

/// Users that are looked at in one go.
const LOOKED: usize = 2_000;
/// When there are too many users a twentieth more of them goes than must, so that the look at all is seldom.
const MORE: usize = 20;
/// Where fewer than that are gone, the rest being here, they are not looked at again before this: on each tick it would be a
/// million of them. Until then there is no bound to who comes.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A look for users that are to be forgotten.
#[derive(Debug)]
pub(super) struct Forget {
    /// Who is gone and was seen before this, in milliseconds since 1970.
    before_ms: u64,
    /// How many of them at most.
    left: usize,
    /// The last user that was looked at.
    at: Option<UserId>,
}

impl Board {
    /// Forgets users of whom nothing is known but that they were seen before `ms`, with the next ticks.
    pub fn forget_seen_before(&mut self, ms: u64) {
        if self.forgetting.is_none() {
            self.forgetting = Some(Forget { before_ms: ms, left: usize::MAX, at: None });
        }
    }

    /// If there are more than `most` users, forgets those who are gone, who were seen the longest ago first, with the next
    /// ticks. Where nearly all are here, once a minute.
    pub fn bound(&mut self, most: usize, now: Now) {
        let over = self.users.len().saturating_sub(most);
        if over == 0 || self.forgetting.is_some() || now.mono < self.look_at {
            return;
        }
        let mut seen: Vec<u64> = self.users.values().filter(|user| user.is_gone()).map(|user| user.seen_ms()).collect();
        let wanted = over + most / MORE;
        if seen.len() < wanted {
            self.look_at = now.mono + LOOK_AGAIN;
        }
        if seen.is_empty() {
            return;
        }
        let goes = wanted.min(seen.len());
        let (_, last, _) = seen.select_nth_unstable(goes - 1);
        self.forgetting = Some(Forget { before_ms: last.saturating_add(1), left: goes, at: None });
    }

    /// Whether some are still to be forgotten.
    pub(super) fn is_forgetting(&self) -> bool {
        self.forgetting.is_some()
    }

    /// Forgets some.
    pub(super) fn forget(&mut self) {
        let Some(mut forget) = self.forgetting.take() else { return };
        let from = forget.at.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut looked, mut last, mut old) = (0, None, Vec::new());
        for (id, user) in self.users.range::<UserId, _>((from, Bound::Unbounded)).take(LOOKED) {
            looked += 1;
            last = Some(id);
            if old.len() < forget.left && user.is_gone() && user.seen_ms() < forget.before_ms {
                old.push(id.clone());
            }
        }
        forget.at = last.cloned();
        forget.left -= old.len();
        for id in old {
            self.users.remove(&id);
            self.out.dirty.insert(id);
        }
        if looked == LOOKED && forget.left > 0 {
            self.forgetting = Some(forget);
        }
    }
}
