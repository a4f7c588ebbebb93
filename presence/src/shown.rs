//! What readers see: all users, in shards that a reader holds for the time of one look, and how other nodes are heard.
//!
//! Written by the desk alone. A user is shared with the board, so there is one copy of each.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use kith_gossip_proto::NodeId;

use crate::core::{Sight, User, UserId};

/// Enough that two cores' readers and the one writer seldom meet.
const SHARDS: usize = 64;

/// All users.
#[derive(Debug)]
pub(crate) struct Shown {
    shards: Vec<RwLock<HashMap<UserId, Entry>>>,
    hash: RandomState,
    sight: ArcSwap<Sight>,
    filled: AtomicBool,
}

/// A user, and when this node last heard of him.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) user: Arc<User>,
    /// By heartbeats, which change nothing else; 0 if this node holds no session of his.
    pub(crate) seen_ms: u64,
}

impl Shown {
    pub(crate) fn new(sight: Arc<Sight>) -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards, hash: RandomState::new(), sight: ArcSwap::new(sight), filled: AtomicBool::new(false) }
    }

    fn shard(&self, user: &UserId) -> &RwLock<HashMap<UserId, Entry>> {
        let at = self.hash.hash_one(user) % SHARDS as u64;
        &self.shards[usize::try_from(at).unwrap_or(0)]
    }

    /// A user. None of whom nothing is known.
    pub(crate) fn get(&self, user: &UserId) -> Option<Entry> {
        // A writer that panicked left whole entries: each is put as one.
        self.shard(user).read().unwrap_or_else(PoisonError::into_inner).get(user).cloned()
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

    /// Something else is known of a user; none: he is forgotten.
    pub(crate) fn put(&self, id: UserId, user: Option<Arc<User>>) {
        let mut shard = self.shard(&id).write().unwrap_or_else(PoisonError::into_inner);
        match (user, shard.get_mut(&id)) {
            (Some(user), Some(entry)) => entry.user = user,
            (Some(user), None) => {
                shard.insert(id, Entry { user, seen_ms: 0 });
            }
            (None, _) => {
                shard.remove(&id);
            }
        }
    }

    /// This node heard of a user.
    pub(crate) fn seen(&self, id: &UserId, ms: u64) {
        let mut shard = self.shard(id).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = shard.get_mut(id) {
            entry.seen_ms = ms;
        }
    }

    /// The others are heard in another way.
    pub(crate) fn see(&self, sight: Arc<Sight>) {
        self.sight.store(sight);
    }

    /// How many users are shown, and how many of them are here.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let sight = self.sight();
        let of = |shard: &RwLock<HashMap<UserId, Entry>>| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let here = shard.values().filter(|entry| entry.user.effective(&sight).by.is_some()).count();
            (shard.len(), here)
        };
        self.shards.iter().map(of).fold((0, 0), |sum, shard| (sum.0 + shard.0, sum.1 + shard.1))
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
        let sight = self.sight();
        let mut online = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let here = shard.iter().filter(|(_, entry)| entry.user.effective(&sight).by.is_some());
            online.extend(here.take(limit - online.len()).map(|(id, _)| id.clone()));
        }
        online.sort();
        online
    }
}
