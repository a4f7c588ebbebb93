//! The center's bucket, read: whole, for a node that has just begun, and what it holds of one node.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures_util::StreamExt;
use kith_gossip_proto::NodeId;

use super::{LinkError, key};
use crate::core::Fact;
use crate::journal::Facts;

/// Nothing came for so long: the center is not there.
const SILENCE: Duration = Duration::from_secs(3);

/// What others said, as far as the center keeps it, and when we saw whom.
pub(super) async fn read(center: &jetstream::Context, me: &NodeId) -> Result<BTreeMap<NodeId, Facts>, LinkError> {
    let mut others: BTreeMap<NodeId, Facts> = BTreeMap::new();
    let all = pull::OrderedConfig {
        // Without a filter the server makes no such consumer.
        filter_subject: format!("$KV.{}.>", key::BUCKET),
        ..pull::OrderedConfig::default()
    };
    each(center, all, |message| {
        // Markers of what was deleted have no payload.
        if let Some((key, node)) = key::of_subject(message.subject.as_str())
            && (node != *me || key.kind == key::Kind::Seen)
            && let Ok(fact) = serde_json::from_slice::<Fact>(&message.payload)
        {
            others.entry(node).or_default().push((key.user, fact));
        }
    })
    .await?;
    Ok(others)
}

/// Which sessions and words of `node` it holds.
pub(super) async fn held_by(center: &jetstream::Context, node: &NodeId) -> Result<Vec<key::Key>, LinkError> {
    let mut held = Vec::new();
    let own = pull::OrderedConfig {
        filter_subjects: key::held_by(node),
        headers_only: true,
        ..pull::OrderedConfig::default()
    };
    each(center, own, |message| {
        let deleted = message.headers.as_ref().is_some_and(|headers| headers.get("KV-Operation").is_some());
        held.extend(key::of_subject(message.subject.as_str()).filter(|_| !deleted).map(|(key, _)| key));
    })
    .await?;
    Ok(held)
}

/// The last message of every subject.
async fn each(
    center: &jetstream::Context,
    config: pull::OrderedConfig,
    mut take: impl FnMut(&jetstream::Message),
) -> Result<(), LinkError> {
    let away = |e: &dyn std::fmt::Display| LinkError::Away(e.to_string());
    let within = tokio::time::timeout(SILENCE, center.get_stream(format!("KV_{}", key::BUCKET)));
    let stream = within.await.map_err(|e| away(&e))?.map_err(|e| away(&e))?;
    let config = pull::OrderedConfig { deliver_policy: DeliverPolicy::LastPerSubject, ..config };
    let consumer = stream.create_consumer(config).await.map_err(|e| away(&e))?;
    if consumer.cached_info().num_pending == 0 {
        return Ok(());
    }
    let mut messages = consumer.messages().await.map_err(|e| away(&e))?;
    loop {
        let next = tokio::time::timeout(SILENCE, messages.next()).await.map_err(|e| away(&e))?;
        let message = next.ok_or_else(|| away(&"it ended early"))?.map_err(|e| away(&e))?;
        take(&message);
        if message.info().map_err(|e| away(&e))?.pending == 0 {
            return Ok(());
        }
    }
}
