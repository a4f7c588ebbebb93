//! Whether nodes hold the same.

use std::collections::BTreeMap;
use std::time::Duration;

use super::node::Node;
use super::wait::eventually;

/// Waits until the digests of all nodes are equal.
///
/// # Panics
/// If they are not within that time, with what they were last.
pub async fn agree(nodes: &[Node], within: Duration) {
    eventually("the digests are equal", within, async || {
        let mut digests = BTreeMap::new();
        for node in nodes {
            digests.insert(&node.name, node.api().digest().await?);
        }
        let first = digests.values().next();
        if digests.values().all(|digest| Some(digest) == first) { Ok(()) } else { Err(format!("{digests:?}")) }
    })
    .await;
}
