//! The sessions that this node holds, and when each ends: by our own monotonic clock, and by nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Now;
use super::id::{SessionName, UserId};
use super::status::Ttl;

/// How often it is told, and stored, when a user was last heard of.
pub const TELL_SEEN_MS: u64 = 60_000;
/// Entries that are looked at in one go: a hundred thousand may come up together, of sessions that heartbeats extended.
const LOOKED: usize = 2_000;

/// The sessions of this node.
#[derive(Debug, Default)]
pub struct Owner {
    held: BTreeMap<(UserId, SessionName), Held>,
    /// Exactly one entry for each session, at its [`Held::entry`]. A heartbeat moves the deadline and not the entry: an entry
    /// that comes up too early moves to where its session ends by then. So heartbeats cost nothing here.
    deadlines: BTreeSet<(Duration, UserId, SessionName)>,
}

/// A session that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// When it ends.
    pub deadline: Duration,
    /// How long it lives after a heartbeat.
    pub ttl: Ttl,
    /// When it was last heard of, by the wall clock.
    pub seen_ms: u64,
    /// When that was last told.
    pub told_ms: u64,
    /// When it is looked at next: no later than it ends.
    entry: Duration,
}

/// What a heartbeat found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// The session lives on.
    Extended {
        /// Whether it is time to tell when the user was seen.
        tell: bool,
    },
    /// No such session: it is over, or never was.
    Unknown,
}

impl Owner {
    /// Holds a session from now on, or for another ttl. `told_ms`: when it was told that the user was seen, if not now.
    pub fn hold(&mut self, user: &UserId, session: &SessionName, ttl: Ttl, now: Now, told_ms: Option<u64>) {
        let deadline = now.mono + ttl.span();
        let key = (user.clone(), session.clone());
        let before = self.held.get(&key).map(|held| held.entry);
        let entry = before.map_or(deadline, |before| before.min(deadline));
        if before != Some(entry) {
            self.forget_entry(before, &key);
            self.deadlines.insert((entry, user.clone(), session.clone()));
        }
        let told_ms = told_ms.unwrap_or(now.wall_ms);
        self.held.insert(key, Held { deadline, ttl, seen_ms: now.wall_ms, told_ms, entry });
    }

    fn forget_entry(&mut self, entry: Option<Duration>, (user, session): &(UserId, SessionName)) {
        if let Some(at) = entry {
            self.deadlines.remove(&(at, user.clone(), session.clone()));
        }
    }

    /// A heartbeat came.
    pub fn beat(&mut self, user: &UserId, session: &SessionName, now: Now) -> Beat {
        let Some(held) = self.held.get_mut(&(user.clone(), session.clone())) else { return Beat::Unknown };
        held.deadline = held.deadline.max(now.mono + held.ttl.span());
        held.seen_ms = held.seen_ms.max(now.wall_ms);
        let tell = held.seen_ms >= held.told_ms.saturating_add(TELL_SEEN_MS);
        if tell {
            held.told_ms = held.seen_ms;
        }
        Beat::Extended { tell }
    }

    /// A session is over.
    pub fn release(&mut self, user: &UserId, session: &SessionName) -> Option<Held> {
        let key = (user.clone(), session.clone());
        let held = self.held.remove(&key)?;
        self.forget_entry(Some(held.entry), &key);
        Some(held)
    }

    /// A session that is held.
    pub fn held(&self, user: &UserId, session: &SessionName) -> Option<&Held> {
        self.held.get(&(user.clone(), session.clone()))
    }

    /// All sessions of a user that are held.
    pub fn of(&self, user: &UserId) -> impl Iterator<Item = (&SessionName, &Held)> {
        let from = (user.clone(), SessionName::default());
        // The default session is the smallest name, so all of a user's are from there on.
        self.held.range(from..).take_while(move |((u, _), _)| u == user).map(|((_, name), held)| (name, held))
    }

    /// At most `limit` sessions whose time is over, the one that ended first first. They are held until released.
    pub fn due(&mut self, now: Now, limit: usize) -> Vec<(UserId, SessionName)> {
        let up = self.deadlines.iter().take_while(|(at, ..)| *at <= now.mono);
        let up: Vec<_> = up.take(LOOKED).cloned().collect();
        let mut due = Vec::new();
        for (at, user, session) in up {
            if due.len() == limit {
                break;
            }
            let key = (user, session);
            match self.held.get_mut(&key) {
                Some(held) if held.deadline > now.mono => {
                    held.entry = held.deadline;
                    let entry = held.entry;
                    self.forget_entry(Some(at), &key);
                    self.deadlines.insert((entry, key.0, key.1));
                }
                Some(_) => due.push(key),
                None => self.forget_entry(Some(at), &key),
            }
        }
        due
    }

    /// When to look again. It may turn out that nothing is over by then.
    pub fn next(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, ..)| *at)
    }

    /// How many sessions are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Now {
        Now { mono: Duration::from_secs(secs), wall_ms: 1_000_000 + secs * 1_000 }
    }

    fn user(name: &str) -> UserId {
        UserId::try_from(name).unwrap()
    }

    #[test]
    fn a_session_ends_a_ttl_after_its_last_heartbeat_and_not_before() {
        let (mut owner, ann, session) = (Owner::default(), user("ann"), SessionName::default());
        owner.hold(&ann, &session, Ttl::default(), at(0), None);
        for secs in 1..=300 {
            assert!(matches!(owner.beat(&ann, &session, at(secs)), Beat::Extended { .. }));
            assert_eq!(owner.due(at(secs), 10), []);
        }
        assert_eq!(owner.due(at(359), 10), []);
        assert_eq!(owner.due(at(360), 10), [(ann.clone(), session.clone())]);
        owner.release(&ann, &session);
        assert_eq!(owner.beat(&ann, &session, at(361)), Beat::Unknown);
        assert_eq!((owner.due(at(999), 10), owner.next()), (vec![], None));
    }

    #[test]
    fn a_shorter_ttl_ends_sooner_and_once() {
        let (mut owner, ann, session) = (Owner::default(), user("ann"), SessionName::default());
        owner.hold(&ann, &session, Ttl::try_from(86_400).unwrap(), at(0), None);
        owner.hold(&ann, &session, Ttl::try_from(5).unwrap(), at(1), None);
        assert_eq!(owner.due(at(6), 10).len(), 1);
        owner.release(&ann, &session);
        assert_eq!(owner.due(at(100_000), 10), []);
    }

    #[test]
    fn a_session_has_one_entry_however_its_ttl_changes_and_none_once_it_is_over() {
        let (mut owner, ann, session) = (Owner::default(), user("ann"), SessionName::default());
        for secs in 0..10_000 {
            let ttl = if secs % 2 == 0 { 86_400 } else { 5 };
            owner.hold(&ann, &session, Ttl::try_from(ttl).unwrap(), at(secs), None);
            assert_eq!(owner.due(at(secs), 10), []);
            assert_eq!(owner.deadlines.len(), 1);
            if secs % 3 == 0 {
                owner.release(&ann, &session);
                assert_eq!(owner.deadlines.len(), 0);
            }
        }
    }

    #[test]
    fn when_a_user_was_seen_is_told_once_a_minute() {
        let (mut owner, ann, session) = (Owner::default(), user("ann"), SessionName::default());
        owner.hold(&ann, &session, Ttl::default(), at(0), None);
        let told = (1..=180).filter(|secs| owner.beat(&ann, &session, at(*secs)) == Beat::Extended { tell: true });
        assert_eq!(told.collect::<Vec<_>>(), [60, 120, 180]);
    }

    #[test]
    fn the_sessions_of_a_user_are_his_alone() {
        let mut owner = Owner::default();
        for (name, session) in [("ann", "default"), ("ann", "a"), ("ann", "z"), ("anna", "a"), ("an", "z")] {
            owner.hold(&user(name), &SessionName::try_from(session).unwrap(), Ttl::default(), at(0), None);
        }
        let names: Vec<_> = owner.of(&user("ann")).map(|(name, _)| name.as_str().to_owned()).collect();
        assert_eq!(names, ["default", "a", "z"]);
    }
}
