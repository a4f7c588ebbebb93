//! Forgetting deletions: now and then it is looked which nodes are known, what they all have applied, and which tombstones
//! are old enough.
//!
//! ```text
//! pass ── who was heard ──► store ── known ──► replica ── covered ──► store ── due ──► replica, then the queue of versions
//!                                               │    ▲
//!                        who tells us nothing ──▼────┘ what they have applied
//! ```
//! Up to 30 nodes each has a stream with each and tells on it what it has applied. Above that few do, and the others are
//! asked over the connection that membership has with them: 1.2 kB for each of 100 nodes, an hour.
//!
//! The tombstones that are due go the way of versions, behind those that the replica took before it knew of them.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kith_gossip_proto::replica::{Input, PULL_STALL};
use kith_gossip_proto::{Frame, Hlc, NodeId, Vector};
use tokio::sync::mpsc::error::TrySendError;

use super::apply::Work;
use super::pull::{self, PullError};
use super::storage::Storage;
use super::{Event, Replication};
use crate::api::MemberState;
use crate::chain::Chain;
use crate::net::Net;
use crate::net::frames::{self, FrameError, Patience};
use crate::store::{Due, Heard, Known};

/// How long a deletion is remembered once it is made, and a node waited for that is not heard of. Long enough for a server
/// to be repaired over a weekend and a holiday; the tombstones of a week are few beside the rows.
pub const WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);

/// Passes in one window: one an hour in that of a week.
const PASSES: u32 = 168;

/// Passes are not more frequent than this, however short the window.
const LEAST: Duration = Duration::from_millis(200);

/// When the passes are.
#[derive(Debug)]
pub(super) struct Passes {
    window: Duration,
    every: Duration,
    last: Duration,
    next: Duration,
}

impl Passes {
    pub(super) fn new(window: Duration, now: Duration) -> Self {
        let every = (window / PASSES).max(LEAST);
        Self { window, every, last: now, next: now + every }
    }

    pub(super) fn next(&self) -> Duration {
        self.next
    }

    /// How long was listened since the last pass, if another one is due. Time in which the process stood still is none.
    fn begin(&mut self, now: Duration) -> Option<Duration> {
        if now < self.next {
            return None;
        }
        let listened = (now - self.last).min(2 * self.every);
        (self.last, self.next) = (now, now + self.every);
        Some(listened)
    }

    /// What was stamped before this is old enough.
    fn before(&self) -> Hlc {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Hlc::from_ms(u64::try_from(wall.saturating_sub(self.window).as_millis()).unwrap_or(u64::MAX))
    }
}

impl<S: Storage> Replication<S> {
    pub(super) fn purge_if_due(&mut self) {
        let Some(listened) = self.passes.begin(self.started.elapsed()) else { return };
        let of = |wanted: MemberState| -> BTreeSet<_> {
            self.told.iter().filter(|(_, (state, _))| *state == wanted).map(|(node, _)| node.clone()).collect()
        };
        let (nodes, removed) = (of(MemberState::Up), of(MemberState::Removed));
        let heard = Heard { listened, nodes, removed, window: self.passes.window };
        let (store, events) = (self.links.store.clone(), self.links.events.clone());
        self.tasks.spawn(async move {
            match store.heard(heard).await {
                // Fails only at shutdown.
                Ok(Known::These(nodes)) => drop(events.send(Event::Known(nodes)).await),
                Ok(Known::NotYet) => {}
                Err(error) => tracing::warn!(%error, "it cannot be noted which nodes were heard of"),
            }
        });
    }

    /// Asks each of these for what it has applied, one after the other. Who cannot be reached is asked again in the next pass.
    pub(super) fn ask_heads(&mut self, nodes: Vec<NodeId>) {
        let (net, events) = (self.links.net.clone(), self.links.events.clone());
        self.tasks.spawn(async move {
            for node in nodes {
                match heads_of(&net, &node).await {
                    // Fails only at shutdown.
                    Ok(heads) => drop(events.send(Event::Told(node, heads)).await),
                    Err(error) => tracing::debug!(peer = %node, error = %Chain(&error), "did not tell its heads"),
                }
            }
        });
    }

    /// Everybody has applied this: looks for tombstones among it.
    pub(super) fn look_for_tombstones(&mut self, covered: Vector) {
        let (store, events, before) = (self.links.store.clone(), self.links.events.clone(), self.passes.before());
        self.tasks.spawn(async move {
            match store.due(covered, before).await {
                Ok(due) if due.is_empty() => {}
                // Fails only at shutdown.
                Ok(due) => drop(events.send(Event::Due(due)).await),
                Err(error) => tracing::warn!(%error, "tombstones cannot be read"),
            }
        });
    }

    /// Nothing is taken from here on of who may not know these deletions; then they are forgotten.
    pub(super) fn purge(&mut self, due: Due) {
        self.feed(Input::Purging(due.through.clone()));
        match self.applies.try_send(Work::Purge(due)) {
            // The next pass finds them again.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {}
        }
    }
}

/// What the node has applied, as it says.
pub(super) async fn heads_of(net: &Net, node: &NodeId) -> Result<Vector, PullError> {
    let mut recv = pull::ask_for(net, node, &Frame::Heads(Vector::default())).await?;
    match frames::read(&mut recv, Patience::Stall(PULL_STALL)).await? {
        Some(Frame::Heads(heads)) => Ok(heads),
        Some(Frame::Refused(reason)) => Err(PullError::Refused(reason)),
        _ => Err(FrameError::Unexpected("something else than heads").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_process_stood_still_is_not_listened() {
        let hour = Duration::from_secs(3600);
        let mut passes = Passes::new(WINDOW, Duration::ZERO);
        assert_eq!(passes.begin(hour / 2), None);
        assert_eq!(passes.begin(hour), Some(hour));
        assert_eq!(passes.begin(hour * 100), Some(2 * hour));
        assert_eq!((passes.begin(hour * 100), passes.next()), (None, hour * 101));
    }
}
