//! Events: what a reader could see change, at most once in 50 ms for each user.
//!
//! ```text
//!   first change ─► event at once, and the window opens
//!   changes within the window ─► wait for its end; then one event, if what is seen differs from what was; window again
//!   window ends, nothing waits ─► closed
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::id::UserId;
use super::user::Visible;

/// Changes of one user within this are one event. Less than anybody notices, and a client that flaps costs 20 events a second.
pub const WINDOW: Duration = Duration::from_millis(50);

/// Windows that are ended in one go: some milliseconds of work, between which everything else gets its turn.
const ENDED: usize = 2_000;

/// A user of whom a reader sees something else than before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event(pub UserId);

/// The open windows.
#[derive(Debug, Default)]
pub struct Events {
    /// What was seen when the first change came that waits; none while nothing waits.
    open: BTreeMap<UserId, Option<Visible>>,
    /// When each ends: all are equally long, so in the order in which they began.
    ends: VecDeque<(Duration, UserId)>,
}

impl Events {
    /// What is seen of a user changed from `before` to `after`. True: this is an event.
    pub fn changed(&mut self, user: &UserId, before: Visible, after: &Visible, now: Duration) -> bool {
        match self.open.get_mut(user) {
            Some(waiting) => {
                waiting.get_or_insert(before);
                false
            }
            None if before == *after => false,
            None => {
                self.begin(user, now);
                true
            }
        }
    }

    fn begin(&mut self, user: &UserId, now: Duration) {
        self.open.insert(user.clone(), None);
        self.ends.push_back((now + WINDOW, user.clone()));
    }

    /// Ends windows that are over, some at a time. `seen` says what is seen of a user.
    pub fn end(&mut self, now: Duration, seen: impl Fn(&UserId) -> Visible) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..ENDED {
            if self.ends.front().is_none_or(|(at, _)| *at > now) {
                break;
            }
            let Some((_, user)) = self.ends.pop_front() else { break };
            let waiting = self.open.remove(&user).flatten();
            if waiting.is_some_and(|before| before != seen(&user)) {
                self.begin(&user, now);
                events.push(Event(user));
            }
        }
        events
    }

    /// When the next window ends.
    pub fn next(&self) -> Option<Duration> {
        self.ends.front().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Status;

    fn seen(status: Status) -> Visible {
        Visible { status, message: None, stale: false }
    }

    #[test]
    fn changes_within_a_window_are_one_event_and_there_and_back_is_none() {
        use Status::{Away, Busy, Online};
        let (mut events, ann, ms) = (Events::default(), UserId::try_from("ann").unwrap(), Duration::from_millis);
        assert!(!events.changed(&ann, seen(Online), &seen(Online), ms(0)), "nothing visible");
        assert!(events.changed(&ann, seen(Online), &seen(Busy), ms(0)));
        assert!(!events.changed(&ann, seen(Busy), &seen(Away), ms(10)));
        assert!(!events.changed(&ann, seen(Away), &seen(Online), ms(20)));
        assert_eq!(events.end(ms(49), |_| seen(Online)), []);
        assert_eq!(events.end(ms(50), |_| seen(Online)), [Event(ann.clone())]);
        assert!(!events.changed(&ann, seen(Online), &seen(Busy), ms(60)));
        assert!(!events.changed(&ann, seen(Busy), &seen(Online), ms(70)));
        assert_eq!(events.end(ms(100), |_| seen(Online)), [], "there and back");
        assert_eq!(events.next(), None);
        assert!(events.changed(&ann, seen(Online), &seen(Busy), ms(101)));
    }
}
