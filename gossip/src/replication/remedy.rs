//! What the soundness of our rows asks for, done.

use std::time::Duration;

use kith_gossip_proto::Vector;
use kith_gossip_proto::replica::Input;
use kith_gossip_proto::soundness::{Haste, Mended, Remedy};

use super::storage::Storage;
use super::{Event, Links, Replication, repair};
use crate::store::Pace;

impl<S: Storage> Replication<S> {
    /// Compares our rows with those of the peers, and begins what is due.
    pub(super) fn compare(&mut self, now: Duration) {
        // The greatest floor of all goes round, and becomes everybody's.
        let floors = self.told.values().filter_map(|(_, told)| told.map(|told| told.floor));
        self.links.store.compare_from(floors.max().unwrap_or_default());
        let told = self.told.iter().map(|(node, (_, told))| (node, *told));
        if let Some(remedy) = self.soundness.compare(self.links.store.fingerprint(), told, now) {
            self.begin(remedy);
        }
    }

    fn begin(&mut self, remedy: Remedy) {
        let Links { net, store, events, .. } = self.links.clone();
        match remedy {
            Remedy::Look(haste) => {
                let pace = match haste {
                    Haste::AtOnce => Pace::AtOnce,
                    Haste::InSlices => Pace::InSlices,
                };
                tracing::debug!(?pace, "looking through the rows");
                self.tasks.spawn(async move {
                    if let Err(error) = store.look(pace).await {
                        tracing::warn!(%error, "the rows cannot be looked through");
                        // Fails only at shutdown.
                        drop(events.send(Event::NotLooked).await);
                    }
                });
            }
            Remedy::BeginAnew => store.begin_anew(),
            Remedy::Repair(node, trust) => {
                let latest = self.replica.latest(self.started.elapsed());
                self.tasks.spawn(repair::ask(net, store, events, node, trust, latest));
            }
        }
    }

    /// Somebody has looked at our rows.
    pub(super) fn looked(&mut self) {
        let Some(looked) = self.looks.borrow_and_update().clone() else { return };
        let before = self.soundness.damage().map(ToOwned::to_owned);
        self.soundness.looked(&looked.wrong, self.started.elapsed());
        match (before, self.soundness.damage()) {
            (None, Some(damage)) => {
                tracing::error!(damage, "the store is damaged: peers get no rows from it, it is repaired from theirs");
            }
            (Some(_), None) => tracing::warn!("the store is sound again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    pub(super) fn repaired(&mut self, mended: Mended, heads: Option<Vector>) {
        if let Some(heads) = heads {
            // What the peer had purged came along.
            self.feed(Input::Purging(self.links.store.purged().through.clone()));
            self.feed(Input::Stored(heads));
        }
        if let Some(remedy) = self.soundness.repaired(mended, self.started.elapsed()) {
            self.begin(remedy);
        }
    }
}
