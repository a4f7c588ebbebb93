//! What a node does that is told it is a copy: its store gives up its site, and says so. Where it does not, a person is told.

use std::collections::BTreeSet;

use kith_gossip_proto::NodeId;
use tokio::sync::mpsc;

use super::Event;
use super::storage::Storage;
use crate::chain::Chain;

/// Gives up the site. If it keeps it, the peers say it again, and it is tried again.
pub(super) async fn begin_again<S: Storage>(store: S, events: mpsc::Sender<Event>, peer: NodeId, boot: u64) {
    match store.begin_again(boot).await {
        Ok(Some(_)) => return tracing::info!(%peer, "a peer has met another store of our site"),
        Ok(None) => tracing::debug!(%peer, "a peer says that our site is another store's, and the site is new"),
        Err(error) => tracing::warn!(%peer, error = %Chain(&error), "the site cannot be given up"),
    }
    // Fails only at shutdown.
    drop(events.send(Event::Shunned(peer)).await);
}

/// What somebody has to see to, in words, of a node that keeps a site which these peers take for another store's.
pub(crate) fn alarm(shunned_by: &BTreeSet<NodeId>) -> Option<String> {
    let peers: Vec<_> = shunned_by.iter().map(NodeId::as_str).collect();
    (!peers.is_empty()).then(|| {
        format!(
            "{} took this server for a copy of another store and take nothing from it, and it keeps its site, which it drew at its last start or cannot give up: see that no second machine runs a copy of this one's disk, then restart Kith here",
            peers.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_names_who_takes_nothing_and_what_to_do() {
        let peers = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        assert_eq!(alarm(&peers(&[])), None);
        insta::assert_snapshot!(alarm(&peers(&["fra-1", "fra-2"])).unwrap(), @"fra-1, fra-2 took this server for a copy of another store and take nothing from it, and it keeps its site, which it drew at its last start or cannot give up: see that no second machine runs a copy of this one's disk, then restart Kith here");
    }
}
