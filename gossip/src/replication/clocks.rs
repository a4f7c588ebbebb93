//! Whose clock is wrong, for people: said once when it begins and once when it is over.

use std::collections::BTreeMap;
use std::time::Duration;

use kith_gossip_proto::clocks::FUTURE_MS;
use kith_gossip_proto::{Hlc, NodeId, Replica, SiteId, Vector};

use super::Replication;
use super::storage::Storage;
use crate::store::Renounced;

impl<S: Storage> Replication<S> {
    /// Peers refuse what the store wrote while its clock was ahead, and have told us from which version on. Replication ends
    /// when that is stamped anew, as the store has another site then.
    pub(super) fn renounce(&mut self, refused: Vector, latest: Hlc) {
        let store = self.links.store.clone();
        self.tasks.spawn(async move {
            match store.renounce(refused, latest).await {
                Ok(Some(Renounced { old, kept, site, rows })) => tracing::warn!(
                    %old, kept, %site, rows,
                    "what was written while this node's clock was far ahead is stamped anew, under another site id"
                ),
                // Others' sites: they say that themselves.
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "what was written while this node's clock was ahead is not stamped anew");
                }
            }
        });
    }
}

/// How clocks stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClockStatus {
    /// How far this node's clock is ahead of its peers', if so far that it stamps by theirs.
    pub ahead: Option<Duration>,
    /// The sites whose versions are refused for their stamps, and who sends these: the site's own node or another.
    pub refused: BTreeMap<(SiteId, NodeId), RefusedSite>,
}

/// A site whose versions are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSite {
    /// The first of them.
    pub version: u64,
    /// How far their stamps are ahead of the clocks here.
    pub ahead: Duration,
}

impl ClockStatus {
    pub(super) fn of(replica: &Replica, now: Duration) -> Self {
        let believed = replica.latest(now).ms().saturating_sub(FUTURE_MS);
        let refused = replica.refused().map(|(site, refusal)| {
            let ahead = Duration::from_millis(refusal.hlc.ms().saturating_sub(believed));
            ((site, refusal.node.clone()), RefusedSite { version: refusal.version, ahead })
        });
        Self { ahead: replica.clocks().ahead(), refused: refused.collect() }
    }

    /// Logs what is otherwise than before.
    pub(super) fn log(&self, before: &Self) {
        match (before.ahead, self.ahead) {
            (None, Some(ahead)) => {
                let ahead_s = ahead.as_secs();
                tracing::warn!(
                    ahead_s,
                    "this node's clock is ahead of its peers': it stamps by theirs until it is set"
                );
            }
            (Some(_), None) => tracing::info!("this node's clock is in step with its peers' again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        for (key @ (site, node), RefusedSite { version, ahead }) in &self.refused {
            if !before.refused.contains_key(key) {
                let ahead_s = ahead.as_secs();
                tracing::warn!(
                    peer = %node, %site, version, ahead_s,
                    "versions of a site are refused: their stamps are far ahead of the clocks here"
                );
            }
        }
        for key @ (site, node) in before.refused.keys() {
            if !self.refused.contains_key(key) {
                tracing::info!(peer = %node, %site, "versions of a site are not refused for their stamps any more");
            }
        }
    }

    /// What somebody has to see to, in words; the manual has a paragraph on it.
    pub(crate) fn alarms(&self) -> Vec<String> {
        let own = self.ahead.map(|ahead| {
            let seconds = ahead.as_secs();
            format!("this server's clock is {seconds} s ahead of the others', or theirs are behind: set it; until then it stamps by theirs")
        });
        let refused = self.refused.iter().map(|((_, node), RefusedSite { ahead, .. })| {
            let seconds = ahead.as_secs();
            format!(
                "what comes from {node} is stamped {seconds} s ahead of the clocks here and is not taken: set its clock"
            )
        });
        own.into_iter().chain(refused).collect()
    }
}
