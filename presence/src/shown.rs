//! What readers see: all users, in shards that a reader holds for the time of one look, and how other nodes are heard.
//!
//! Written by the desk alone. A user is shared with the board, so there is one copy of each. Sessions of this node whose time
//! is over are over for readers, by the clock, however late the desk comes to end them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use kith_gossip_proto::NodeId;

use crate::clock::Clock;
use crate::core::owner::Ends;
use crate::core::{Sight, User, UserId};

/// Enough that two cores' readers and the one writer seldom meet.
const SHARDS: usize = 64;

/// All users.
#[derive(Debug)]
pub(crate) struct Shown {
    shards: Vec<RwLock<HashMap<UserId, Entry>>>,
    hash: RandomState,
    sight: ArcSwap<Sight>,
    clock: Clock,
    filled: AtomicBool,
}

/// A user, and when this node last heard of him.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) user: Arc<User>,
    /// By heartbeats, which change nothing else; 0 if this node holds no session of his.
    pub(crate) seen_ms: u64,
    /// When the sessions end that this node holds.
    ends: Ends,
}

impl Entry {
    /// The user at this moment.
    fn at(&self, me: &NodeId, now: Duration) -> Cow<'_, User> {
        if self.ends.any(now) {
            Cow::Owned(self.user.without(me, |session| self.ends.is_over(session, now)))
        } else {
            Cow::Borrowed(&self.user)
        }
    }
}

impl Shown {
    pub(crate) fn new(sight: Arc<Sight>, clock: Clock) -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards, hash: RandomState::new(), sight: ArcSwap::new(sight), clock, filled: AtomicBool::new(false) }
    }

    fn shard(&self, user: &UserId) -> &RwLock<HashMap<UserId, Entry>> {
        let at = self.hash.hash_one(user) % SHARDS as u64;
        &self.shards[usize::try_from(at).unwrap_or(0)]
    }

    /// A user at this moment. None of whom nothing is known.
    pub(crate) fn get(&self, user: &UserId) -> Option<Entry> {
        // A writer that panicked left whole entries: each is put as one.
        let mut entry = self.shard(user).read().unwrap_or_else(PoisonError::into_inner).get(user).cloned()?;
        if let Cow::Owned(left) = entry.at(&self.sight.load().me, self.clock.mono()) {
            entry.user = Arc::new(left);
        }
        Some(entry)
    }

    /// How the other nodes are heard.
    pub(crate) fn sight(&self) -> Arc<Sight> {
        self.sight.load_full()
    }

    /// Whether it was filled once: before, everybody would be shown as offline.
    pub(crate) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// All that is known is here.
    pub(crate) fn filled(&self) {
        self.filled.store(true, Ordering::Release);
    }

    /// Something else is known of a user, whose sessions here end then; none: he is forgotten.
    pub(crate) fn put(&self, id: UserId, user: Option<Arc<User>>, ends: Ends) {
        let mut shard = self.shard(&id).write().unwrap_or_else(PoisonError::into_inner);
        match (user, shard.get_mut(&id)) {
            (Some(user), Some(entry)) => {
                entry.user = user;
                entry.ends = ends;
            }
            (Some(user), None) => {
                shard.insert(id, Entry { user, seen_ms: 0, ends });
            }
            (None, _) => {
                shard.remove(&id);
            }
        }
    }

    /// This node heard of a user, whose sessions end then.
    pub(crate) fn seen(&self, id: &UserId, ms: u64, ends: Ends) {
        self.change(id, |entry| (entry.seen_ms, entry.ends) = (ms, ends));
    }

    /// His sessions end then, and not when they would have.
    pub(crate) fn until(&self, id: &UserId, ends: Ends) {
        self.change(id, |entry| entry.ends = ends);
    }

    fn change(&self, id: &UserId, change: impl FnOnce(&mut Entry)) {
        let mut shard = self.shard(id).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = shard.get_mut(id) {
            change(entry);
        }
    }

    /// The others are heard in another way.
    pub(crate) fn see(&self, sight: Arc<Sight>) {
        self.sight.store(sight);
    }

    /// How many users are shown, and how many of them are here.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let here = self.here();
        let of = |shard: &RwLock<HashMap<UserId, Entry>>| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            (shard.len(), shard.values().filter(|entry| here(entry)).count())
        };
        self.shards.iter().map(of).fold((0, 0), |sum, shard| (sum.0 + shard.0, sum.1 + shard.1))
    }

    /// Says of users whether they are here at this moment.
    fn here(&self) -> impl Fn(&Entry) -> bool {
        let (sight, now) = (self.sight(), self.clock.mono());
        move |entry| entry.at(&sight.me, now).effective(&sight).by.is_some()
    }

    /// All users of whom a node says anything, in pieces of one shard each.
    pub(crate) fn known_by(&self, node: &NodeId) -> impl Iterator<Item = Vec<UserId>> {
        self.shards.iter().map(move |shard| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.iter().filter(|(_, entry)| entry.user.is_known_by(node)).map(|(id, _)| id.clone()).collect()
        })
    }

    /// Those who are here, at most `limit` of them.
    pub(crate) fn online(&self, limit: usize) -> Vec<UserId> {
        let here = self.here();
        let mut online = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let here = shard.iter().filter(|(_, entry)| here(entry));
            online.extend(here.take(limit - online.len()).map(|(id, _)| id.clone()));
        }
        online.sort();
        online
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::board::What;
    use crate::core::{Board, Now, SessionName, Status, Ttl, Write};

    fn user(name: &str) -> UserId {
        UserId::try_from(name).unwrap()
    }

    #[test]
    fn who_is_past_his_ttl_is_shown_as_gone_before_anybody_has_ended_his_session() {
        let clock = Clock::start();
        let now = clock.now();
        // A minute ago.
        let before = Now { mono: Duration::ZERO, wall_ms: now.wall_ms - 60_000 };
        let mut board = Board::new("n1".parse().unwrap(), 1, before);
        let shown = Shown::new(Arc::clone(board.sight()), clock);
        for (name, session, status, secs) in [
            ("ann", None, Status::Busy, 59),
            ("bob", None, Status::Busy, 3_600),
            ("cas", None, Status::Busy, 59),
            ("cas", Some("phone"), Status::Away, 3_600),
        ] {
            let session = session.map(|name| SessionName::try_from(name).unwrap());
            let what = What::Put { session, status, message: None, ttl: Ttl::from_secs(secs).unwrap() };
            let plan = board.plan(&[Write { user: user(name), if_match: None, what }], before);
            board.commit(plan, before);
        }
        for (id, of) in board.drain().users {
            let ends = board.ends(&id);
            shown.put(id, of, ends);
        }
        let status = |name| shown.get(&user(name)).unwrap().user.effective(&shown.sight()).status;
        assert_eq!(["ann", "bob", "cas"].map(status), [Status::Offline, Status::Busy, Status::Away]);
        assert_eq!((shown.counts(), shown.online(9)), ((3, 2), vec![user("bob"), user("cas")]));
        // As it is once the sessions are ended.
        board.tick(now);
        for (id, of) in board.drain().users {
            assert_eq!(shown.get(&id).unwrap().user.visible(&shown.sight()), of.unwrap().visible(board.sight()));
        }
    }
}
