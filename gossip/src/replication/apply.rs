//! Hands versions to the store, in order, as many at a time as wait.

use kith_gossip_proto::{Vector, Version};
use tokio::sync::mpsc;

use super::Event;
use super::storage::Storage;
use crate::net::Counters;
use crate::store::Due;

/// Versions of one call at most, so that a long queue does not become one long transaction that local writers wait for.
const GROUP: usize = 1000;

/// What waits for the store.
#[derive(Debug)]
pub(super) enum Work {
    Versions(Vec<Version>),
    /// Tombstones to forget, once all that was queued before is applied.
    Purge(Due),
}

/// What became of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it is stored.
    All,
    /// Some of it is not: the disk, or the store keeps a version aside.
    NotAll,
}

/// Applies until the queue is closed. One call at a time: their order is the versions' order.
pub(super) async fn run<S: Storage>(
    store: S,
    mut queue: mpsc::Receiver<Work>,
    events: mpsc::Sender<Event>,
    counters: Counters,
) {
    let mut failing = Failing::No;
    let mut next = queue.recv().await;
    while let Some(work) = next.take() {
        let mut group = match work {
            Work::Versions(group) => group,
            Work::Purge(due) => {
                purge(&store, due, &counters).await;
                next = queue.recv().await;
                continue;
            }
        };
        while group.len() < GROUP && next.is_none() {
            match queue.try_recv() {
                Ok(Work::Versions(more)) => group.extend(more),
                Ok(purge @ Work::Purge(_)) => next = Some(purge),
                Err(_) => break,
            }
        }
        let count = group.len() as u64;
        let last: Vector = group.iter().map(|version| (version.site, version.version)).collect();
        let (heads, outcome) = match store.apply(group).await {
            Ok(heads) => {
                failing = Failing::No;
                counters.versions_applied.inc_by(count);
                let outcome = if heads.covers(&last) { Outcome::All } else { Outcome::NotAll };
                (heads, outcome)
            }
            Err(error) => {
                counters.apply_failed.inc();
                // The first failure is news; while it lasts, every group fails the same way.
                if failing == Failing::No {
                    tracing::warn!(%error, "versions of peers cannot be stored");
                }
                failing = Failing::Yes;
                (store.heads(), Outcome::NotAll)
            }
        };
        if events.send(Event::Applied { heads, outcome }).await.is_err() {
            return;
        }
        if next.is_none() {
            next = queue.recv().await;
        }
    }
}

async fn purge<S: Storage>(store: &S, due: Due, counters: &Counters) {
    match store.purge(due).await {
        Ok(gone) => {
            counters.tombstones_purged.inc_by(gone);
            tracing::debug!(gone, "tombstones purged");
        }
        // The next pass tries again.
        Err(error) => tracing::warn!(%error, "tombstones cannot be purged"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Failing {
    No,
    Yes,
}
