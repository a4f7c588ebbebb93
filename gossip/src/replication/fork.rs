//! What a node does that is told it is a copy: its store gives up its site, and says so.

use kith_gossip_proto::NodeId;

use super::storage::Storage;

/// Gives up the site. If that fails the peers say it again, and it is tried again.
pub(super) async fn begin_again<S: Storage>(store: S, peer: NodeId, boot: u64) {
    match store.begin_again(boot).await {
        Ok(Some(_)) => tracing::info!(%peer, "a peer has met another store of our site"),
        Ok(None) => tracing::debug!(%peer, "a peer says that our site is another store's, and the site is new"),
        Err(error) => tracing::warn!(%peer, %error, "the site cannot be given up"),
    }
}
