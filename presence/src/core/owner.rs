//! The sessions that this node holds, and when each ends: by our own monotonic clock, and by nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
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

/// When the sessions of one user end, for readers, who judge by the clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ends {
    /// None is held.
    #[default]
    Never,
    /// There is one, as nearly always.
    At(Duration),
    /// There are more.
    Each(Arc<[(SessionName, Duration)]>),
}

impl Ends {
    /// Whether any session is over by now.
    pub fn any(&self, now: Duration) -> bool {
        match self {
            Self::Never => false,
            Self::At(at) => *at <= now,
            Self::Each(each) => each.iter().any(|(_, at)| *at <= now),
        }
    }

    /// Whether this session is.
    pub fn is_over(&self, session: &SessionName, now: Duration) -> bool {
        match self {
            Self::Never => false,
            Self::At(at) => *at <= now,
            Self::Each(each) => each.iter().any(|(name, at)| name == session && *at <= now),
        }
    }
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

    /// A session that lives lives for another ttl. One whose time is over is over, whether or not anybody has said so.
    pub fn extend(&mut self, user: &UserId, session: &SessionName, now: Now) -> Option<&mut Held> {
        let held = self.held.get_mut(&(user.clone(), session.clone()))?;
        if held.deadline <= now.mono {
            return None;
        }
        held.deadline = held.deadline.max(now.mono + held.ttl.span());
        Some(held)
    }

    /// A heartbeat came.
    pub fn beat(&mut self, user: &UserId, session: &SessionName, now: Now) -> Beat {
        let Some(held) = self.extend(user, session, now) else { return Beat::Unknown };
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

    /// When the sessions of a user end.
    pub fn ends(&self, user: &UserId) -> Ends {
        let mut all = self.of(user);
        match (all.next(), all.next()) {
            (None, _) => Ends::Never,
            (Some((_, held)), None) => Ends::At(held.deadline),
            (Some(_), Some(_)) => Ends::Each(self.of(user).map(|(name, held)| (name.clone(), held.deadline)).collect()),
        }
    }

    /// At most `limit` sessions whose time is over, the one that ended first first, of nobody in `but`. They are held until
    /// released.
    pub fn due(&mut self, now: Now, limit: usize, but: &BTreeSet<UserId>) -> Vec<(UserId, SessionName)> {
        let (mut due, mut after) = (Vec::new(), None);
        for _ in 0..LOOKED {
            let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.deadlines.range((from, Bound::Unbounded)).next();
            let Some(entry) = next.filter(|(at, ..)| due.len() < limit && *at <= now.mono).cloned() else { break };
            let (at, user, session) = entry.clone();
            let key = (user, session);
            match self.held.get_mut(&key) {
                Some(held) if held.deadline > now.mono => {
                    held.entry = held.deadline;
                    let later = held.entry;
                    self.forget_entry(Some(at), &key);
                    self.deadlines.insert((later, key.0, key.1));
                }
                Some(_) if but.contains(&key.0) => {}
                Some(_) => due.push(key),
                None => self.forget_entry(Some(at), &key),
            }
            after = Some(entry);
        }
        due
    }

    /// When to look again, but for those in `but`. It may turn out that nothing is over by then.
    pub fn next(&self, but: &BTreeSet<UserId>) -> Option<Duration> {
        self.deadlines.iter().find(|(_, user, _)| !but.contains(user)).map(|(at, ..)| *at)
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
            assert_eq!(owner.due(at(secs), 10, &BTreeSet::new()), []);
        }
        assert_eq!(owner.due(at(359), 10, &BTreeSet::new()), []);
        assert_eq!(owner.due(at(360), 10, &BTreeSet::new()), [(ann.clone(), session.clone())]);
        owner.release(&ann, &session);
        assert_eq!(owner.beat(&ann, &session, at(361)), Beat::Unknown);
        assert_eq!((owner.due(at(999), 10, &BTreeSet::new()), owner.next(&BTreeSet::new())), (vec![], None));
    }

    #[test]
    fn a_shorter_ttl_ends_sooner_and_once() {
        let (mut owner, ann, session) = (Owner::default(), user("ann"), SessionName::default());
        owner.hold(&ann, &session, Ttl::try_from(86_400).unwrap(), at(0), None);
        owner.hold(&ann, &session, Ttl::try_from(5).unwrap(), at(1), None);
        assert_eq!(owner.due(at(6), 10, &BTreeSet::new()).len(), 1);
        owner.release(&ann, &session);
        assert_eq!(owner.due(at(100_000), 10, &BTreeSet::new()), []);
    }

    #[test]
    fn a_session_has_one_entry_however_its_ttl_changes_and_none_once_it_is_over() {
        let (mut owner, ann, session) = (Owner::default(), user("ann"), SessionName::default());
        for secs in 0..10_000 {
            let ttl = if secs % 2 == 0 { 86_400 } else { 5 };
            owner.hold(&ann, &session, Ttl::try_from(ttl).unwrap(), at(secs), None);
            assert_eq!(owner.due(at(secs), 10, &BTreeSet::new()), []);
            assert_eq!(owner.deadlines.len(), 1);
            if secs % 3 == 0 {
                owner.release(&ann, &session);
                assert_eq!(owner.deadlines.len(), 0);
            }
        }
    }

    #[test]
    fn a_session_whose_time_is_over_is_not_extended_by_a_late_heartbeat() {
        let (mut owner, ann, session) = (Owner::default(), user("ann"), SessionName::default());
        owner.hold(&ann, &session, Ttl::default(), at(0), None);
        assert!(matches!(owner.beat(&ann, &session, at(59)), Beat::Extended { .. }));
        assert_eq!(owner.beat(&ann, &session, at(119)), Beat::Unknown);
        assert_eq!(owner.due(at(119), 10, &BTreeSet::new()), [(ann, session)]);
    }

    #[test]
    fn who_is_written_to_ends_later_and_holds_up_nobody() {
        let (mut owner, session) = (Owner::default(), SessionName::default());
        for (secs, name) in [(0, "ann"), (1, "bob"), (2, "cas")] {
            owner.hold(&user(name), &session, Ttl::default(), at(secs), None);
        }
        let but = [user("ann"), user("bob")].into();
        assert_eq!(owner.next(&but), Some(Duration::from_secs(62)));
        assert_eq!(owner.due(at(62), 10, &but), [(user("cas"), session.clone())]);
        assert_eq!(owner.due(at(62), 1, &BTreeSet::new()), [(user("ann"), session)]);
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
