//! What the writer shows to everybody else: the state, the tables, the commits.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use kith_gossip_proto::Day;
use tokio::sync::broadcast;

use super::commit::{Commit, StoreState};
use super::health::Health;
use super::table::TableSet;
use super::wall::Highest;
use super::watched::Watched;

/// Commits a follower may be behind. Beyond it the follower is told that it lagged, and must take everything as touched.
const COMMITS: usize = 256;

/// Read by all, written by the writer's thread. The locks guard one small value each and are never held across anything.
#[derive(Debug)]
pub(crate) struct Shared {
    state: RwLock<Arc<StoreState>>,
    tables: RwLock<Arc<TableSet>>,
    /// Written by who follows queries.
    watched: RwLock<Arc<Watched>>,
    /// Written by who knows the peers' clocks.
    highest: RwLock<Option<Highest>>,
    commits: broadcast::Sender<Arc<Commit>>,
    /// The first day whose tombstones peers compare.
    compared_from: AtomicU32,
    pub(crate) health: Arc<Health>,
}

impl Shared {
    pub(crate) fn new(state: StoreState, tables: Arc<TableSet>, health: Arc<Health>) -> Self {
        let (commits, _) = broadcast::channel(COMMITS);
        let (state, tables) = (RwLock::new(Arc::new(state)), RwLock::new(tables));
        let (watched, highest) = Default::default();
        Self { state, tables, watched, highest, commits, compared_from: AtomicU32::default(), health }
    }

    pub(crate) fn state(&self) -> Arc<StoreState> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn advance(&self, next: impl FnOnce(&StoreState) -> StoreState) -> Arc<StoreState> {
        let next = Arc::new(next(&self.state()));
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
        next
    }

    pub(crate) fn tables(&self) -> Arc<TableSet> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_tables(&self, tables: Arc<TableSet>) {
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = tables;
    }

    pub(crate) fn watched(&self) -> Arc<Watched> {
        Arc::clone(&self.watched.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn watch(&self, columns: Watched) {
        *self.watched.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(columns);
    }

    pub(crate) fn compare_from(&self, day: Day) {
        self.compared_from.fetch_max(day.0, Ordering::Relaxed);
    }

    pub(crate) fn compared_from(&self) -> Day {
        Day(self.compared_from.load(Ordering::Relaxed))
    }

    pub(crate) fn highest(&self) -> Option<Highest> {
        *self.highest.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn correct_clock(&self, highest: Option<Highest>) {
        *self.highest.write().unwrap_or_else(PoisonError::into_inner) = highest;
    }

    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<Commit>> {
        self.commits.subscribe()
    }

    /// That nobody follows is not an error.
    pub(crate) fn tell(&self, commit: Commit) {
        drop(self.commits.send(Arc::new(commit)));
    }
}
