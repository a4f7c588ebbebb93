//! Who follows whom, and what each has still to be told.
//!
//! A follower is told *who* changed; what is there is read when it is written to him. So what waits for a slow reader is
//! at most the set of users he follows, and he always gets the latest state.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::Notify;

use crate::core::UserId;

/// Events that are remembered for who comes back: a minute at 1,000 a second.
const REMEMBERED: usize = 65_536;
/// Followings of all followers together, of which each takes about 100 bytes: what is asked beyond is refused.
pub(crate) const FOLLOWED: usize = 1_000_000;

/// All followers, and the last events.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the last event.
    last: u64,
    ring: VecDeque<UserId>,
    followers: HashMap<UserId, Vec<Arc<Inbox>>>,
    followed: usize,
}

/// What a follower has still to be told.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    users: BTreeSet<UserId>,
    /// The last event among them.
    upto: u64,
}

/// Follows users until it is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    hub: Arc<Hub>,
    inbox: Arc<Inbox>,
    /// What he was told last of each.
    users: BTreeMap<UserId, Option<u64>>,
}

/// More users are followed than a node has memory for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("too many users are followed on this node")]
pub(crate) struct Full;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// These users changed.
    pub(crate) fn publish(&self, users: impl Iterator<Item = UserId>) {
        let mut state = lock(&self.state);
        for user in users {
            state.last += 1;
            let last = state.last;
            for inbox in state.followers.get(&user).into_iter().flatten() {
                let mut waiting = lock(&inbox.waiting);
                waiting.users.insert(user.clone());
                waiting.upto = last;
                inbox.notify.notify_one();
            }
            if state.ring.len() == REMEMBERED {
                state.ring.pop_front();
            }
            state.ring.push_back(user);
        }
    }

    /// The number of the last event, and how many followings there are.
    pub(crate) fn counts(&self) -> (u64, usize) {
        let state = lock(&self.state);
        (state.last, state.followed)
    }

    /// Follows nobody yet.
    pub(crate) fn follower(self: &Arc<Self>) -> Follower {
        Follower { hub: Arc::clone(self), inbox: Arc::default(), users: BTreeMap::new() }
    }
}

impl Follower {
    /// Follows these as well, or none of them. What is read after this and what is told from here on leave nothing out. Gives
    /// the number of the last event before.
    pub(crate) fn follow(&mut self, users: impl IntoIterator<Item = UserId>) -> Result<u64, Full> {
        let users: BTreeSet<UserId> = users.into_iter().filter(|user| !self.users.contains_key(user)).collect();
        let mut state = lock(&self.hub.state);
        if state.followed + users.len() > FOLLOWED {
            return Err(Full);
        }
        state.followed += users.len();
        for user in users {
            state.followers.entry(user.clone()).or_default().push(Arc::clone(&self.inbox));
            self.users.insert(user, None);
        }
        Ok(state.last)
    }

    /// He is told this of a user, as a number. False if it is what he was told last.
    pub(crate) fn tell(&mut self, user: &UserId, what: u64) -> bool {
        let Some(told) = self.users.get_mut(user) else { return false };
        told.replace(what) != Some(what)
    }

    /// Follows these no longer.
    pub(crate) fn unfollow<'a>(&mut self, users: impl IntoIterator<Item = &'a UserId>) {
        let mut state = lock(&self.hub.state);
        for user in users {
            if self.users.remove(user).is_some() {
                leave(&mut state, user, &self.inbox);
                lock(&self.inbox.waiting).users.remove(user);
            }
        }
    }

    /// How many it follows.
    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    /// Who of those changed after event `since`. None: that is too long ago to know.
    pub(crate) fn missed(&self, since: u64) -> Option<BTreeSet<UserId>> {
        let state = lock(&self.hub.state);
        let after = state.last.checked_sub(since)?;
        let after = usize::try_from(after).ok().filter(|after| *after <= state.ring.len())?;
        let users = state.ring.range(state.ring.len() - after..);
        Some(users.filter(|user| self.users.contains_key(*user)).cloned().collect())
    }

    /// Waits until somebody changed, and takes at most `limit` who did, with the last event that is told by that, if all
    /// are. Cancel-safe: what was not taken waits.
    pub(crate) async fn changed(&self, limit: usize) -> (Vec<UserId>, Option<u64>) {
        loop {
            let notified = self.inbox.notify.notified();
            {
                let mut waiting = lock(&self.inbox.waiting);
                if !waiting.users.is_empty() {
                    let taken = std::iter::from_fn(|| waiting.users.pop_first()).take(limit).collect();
                    if waiting.users.is_empty() {
                        // A tree that was emptied keeps 200 bytes, of each who follows.
                        waiting.users = BTreeSet::new();
                        return (taken, Some(waiting.upto));
                    }
                    self.inbox.notify.notify_one();
                    return (taken, None);
                }
            }
            notified.await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = lock(&self.hub.state);
        for user in self.users.keys() {
            leave(&mut state, user, &self.inbox);
        }
    }
}

fn leave(state: &mut State, user: &UserId, inbox: &Arc<Inbox>) {
    if let Some(followers) = state.followers.get_mut(user) {
        let before = followers.len();
        followers.retain(|other| !Arc::ptr_eq(other, inbox));
        let left = before - followers.len();
        if followers.is_empty() {
            state.followers.remove(user);
        }
        state.followed -= left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::try_from(name).unwrap()
    }

    #[tokio::test]
    async fn a_reader_that_is_slow_is_told_of_each_user_once() {
        let hub = Arc::new(Hub::default());
        let mut follower = hub.follower();
        assert_eq!(follower.follow([user("a"), user("b"), user("a")]), Ok(0));
        for _ in 0..1_000 {
            hub.publish(["a", "c", "b"].map(user).into_iter());
        }
        assert_eq!(follower.changed(1).await, (vec![user("a")], None));
        assert_eq!(follower.changed(9).await, (vec![user("b")], Some(3_000)));
        follower.unfollow(&[user("a")]);
        hub.publish(["a", "b"].map(user).into_iter());
        assert_eq!(follower.changed(9).await, (vec![user("b")], Some(3_002)));
        drop(follower);
        assert_eq!(hub.counts(), (3_002, 0));
    }

    #[test]
    fn what_was_missed_is_known_for_a_while() {
        let hub = Arc::new(Hub::default());
        let mut follower = hub.follower();
        assert_eq!(follower.follow([user("a"), user("b")]), Ok(0));
        hub.publish(["a", "b", "c"].map(user).into_iter());
        assert_eq!(follower.missed(1), Some([user("b")].into()));
        assert_eq!(follower.missed(3), Some(BTreeSet::new()));
        assert_eq!(follower.missed(4), None, "of another start");
        hub.publish(std::iter::repeat_n(user("c"), REMEMBERED));
        assert_eq!(follower.missed(1), None);
    }

    #[test]
    fn what_is_followed_in_all_is_bounded_and_who_leaves_makes_room() {
        let hub = Arc::new(Hub::default());
        let mut followers: Vec<_> = (0..FOLLOWED / 10_000).map(|_| hub.follower()).collect();
        let users: Vec<_> = (0..10_000).map(|n| user(&format!("u{n}"))).collect();
        for follower in &mut followers {
            assert_eq!(follower.follow(users.iter().cloned()), Ok(0));
        }
        let mut late = hub.follower();
        assert_eq!(late.follow([user("u1")]), Err(Full));
        assert_eq!(followers[0].follow([user("u1")]), Ok(0), "it does already");
        assert_eq!(hub.counts().1, FOLLOWED);
        followers.pop();
        assert_eq!(late.follow([user("u1")]), Ok(0));
    }

    #[test]
    fn who_was_told_something_is_told_it_again_only_after_something_else() {
        let hub = Arc::new(Hub::default());
        let mut follower = hub.follower();
        assert_eq!(follower.follow([user("a")]), Ok(0));
        assert_eq!([1, 1, 2, 1, 1].map(|what| follower.tell(&user("a"), what)), [true, false, true, true, false]);
        assert!(!follower.tell(&user("b"), 1), "whom he does not follow");
    }
}
