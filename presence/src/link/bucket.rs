//! The center's bucket, read whole: what there is, for a node that has just begun.

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
    let away = |e: &dyn std::fmt::Display| LinkError::Away(e.to_string());
    let within = tokio::time::timeout(SILENCE, center.get_stream(format!("KV_{}", key::BUCKET)));
    let stream = within.await.map_err(|e| away(&e))?.map_err(|e| away(&e))?;
    let mut others: BTreeMap<NodeId, Facts> = BTreeMap::new();
    let consumer = stream
        .create_consumer(pull::OrderedConfig {
            deliver_policy: DeliverPolicy::LastPerSubject,
            // Without a filter the server makes no such consumer.
            filter_subject: format!("$KV.{}.>", key::BUCKET),
            ..pull::OrderedConfig::default()
        })
        .await
        .map_err(|e| away(&e))?;
    if consumer.cached_info().num_pending == 0 {
        return Ok(others);
    }
    let mut messages = consumer.messages().await.map_err(|e| away(&e))?;
    loop {
        let next = tokio::time::timeout(SILENCE, messages.next()).await.map_err(|e| away(&e))?;
        let message = next.ok_or_else(|| away(&"it ended early"))?.map_err(|e| away(&e))?;
        let name = message.subject.as_str().rsplit_once(&format!("{}.", key::BUCKET)).map_or("", |(_, name)| name);
        // Markers of what was deleted have no payload.
        if let Some((user, node, kind)) = key::parse(name)
            && (node != *me || kind == key::Kind::Seen)
            && let Ok(fact) = serde_json::from_slice::<Fact>(&message.payload)
        {
            others.entry(node).or_default().push((user, fact));
        }
        if message.info().map_err(|e| away(&e))?.pending == 0 {
            return Ok(others);
        }
    }
}
