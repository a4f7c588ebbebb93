//! The log of a node in the JetStream of its own nats-server: one message for each batch.
//!
//! Facts join in any order, so a snapshot is nothing but more batches: all that holds is appended again, piece by piece, and
//! then all that was there when that began is purged. A crash in between leaves both, which says the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use kith_gossip_proto::NodeId;

use super::{LinkError, key};
use crate::journal::{End, Facts, Journal, JournalError};

/// A write that is not kept within this is answered with an error. Sessions do not end while one is under way, so it is
/// less than the 2 s after their ttl within which they are to be over.
const APPEND: Duration = Duration::from_millis(1_500);
/// Most bytes of the log: with all that a leaf is meant to hold it is a tenth of that. When it is full, writes are refused.
const LOG_BYTES: i64 = 2 << 30;
/// Nothing came for so long: the log is not read to its end, and is read again.
const SILENCE: Duration = Duration::from_secs(10);

/// The log.
pub(super) struct Log {
    stream: String,
    subject: String,
    place: OnceLock<(Client, jetstream::Context)>,
    opened: OnceLock<()>,
    /// The last message whose append has returned.
    last: Arc<AtomicU64>,
}

impl Log {
    pub(super) fn new(node: &NodeId) -> Self {
        let (stream, subject) = key::log(node);
        Self { stream, subject, place: OnceLock::new(), opened: OnceLock::new(), last: Arc::default() }
    }

    pub(super) fn client(&self) -> Option<Client> {
        self.place.get().map(|(client, _)| client.clone())
    }

    /// Makes the log if there is none, and reads all of it.
    pub(super) async fn open(&self, client: Client) -> Result<Facts, LinkError> {
        let (_, context) = self.place.get_or_init(|| (client.clone(), jetstream::new(client)));
        let config = stream::Config {
            name: self.stream.clone(),
            subjects: vec![self.subject.clone()],
            description: Some("what presence of this node said".to_owned()),
            storage: stream::StorageType::File,
            discard: stream::DiscardPolicy::New,
            max_bytes: LOG_BYTES,
            num_replicas: 1,
            ..stream::Config::default()
        };
        let away = |e: &dyn std::fmt::Display| LinkError::Away(e.to_string());
        let mut stream = context.get_or_create_stream(config).await.map_err(|e| away(&e))?;
        let state = stream.info().await.map_err(|e| away(&e))?.state.clone();
        self.last.store(state.last_sequence, Ordering::Relaxed);
        let facts = if state.messages == 0 { Facts::new() } else { read(&stream).await? };
        // Opened once; a second time is the same.
        self.opened.get_or_init(|| ());
        Ok(facts)
    }
}

async fn read(stream: &stream::Stream<stream::Info>) -> Result<Facts, LinkError> {
    let away = |e: &dyn std::fmt::Display| LinkError::Away(e.to_string());
    let config = pull::OrderedConfig { deliver_policy: DeliverPolicy::All, ..pull::OrderedConfig::default() };
    let consumer = stream.create_consumer(config).await.map_err(|e| away(&e))?;
    let mut messages = consumer.messages().await.map_err(|e| away(&e))?;
    let mut facts = Facts::new();
    loop {
        let next = tokio::time::timeout(SILENCE, messages.next()).await.map_err(|e| away(&e))?;
        let message = next.ok_or_else(|| away(&"the log ended early"))?.map_err(|e| away(&e))?;
        match serde_json::from_slice::<Facts>(&message.payload) {
            Ok(batch) => facts.extend(batch),
            Err(error) => tracing::error!(%error, "a batch of the log cannot be read, and is left out"),
        }
        if message.info().map_err(|e| away(&e))?.pending == 0 {
            return Ok(facts);
        }
    }
}

async fn append(context: jetstream::Context, subject: String, facts: Facts) -> Result<u64, JournalError> {
    let payload = serde_json::to_vec(&facts).expect("facts are JSON");
    let kept = async { context.publish(subject, payload.into()).await?.await };
    match tokio::time::timeout(APPEND, kept).await {
        Err(_) => Err(JournalError::Late),
        Ok(Err(error)) => Err(JournalError::Refused(error.to_string())),
        Ok(Ok(ack)) => Ok(ack.sequence),
    }
}

impl Journal for Log {
    fn append(&self, facts: Facts) -> BoxFuture<'static, Result<(), JournalError>> {
        let Some((_, context)) = self.place.get().cloned() else {
            return std::future::ready(Err(JournalError::Away)).boxed();
        };
        let (subject, last) = (self.subject.clone(), Arc::clone(&self.last));
        async move {
            last.fetch_max(append(context, subject, facts).await?, Ordering::Relaxed);
            Ok(())
        }
        .boxed()
    }

    fn is_up(&self) -> bool {
        let connected = self.place.get().is_some_and(|(client, _)| client.connection_state() == State::Connected);
        connected && self.opened.get().is_some()
    }

    fn end(&self) -> End {
        End(self.last.load(Ordering::Relaxed))
    }

    fn forget(&self, End(upto): End) -> BoxFuture<'static, Result<(), JournalError>> {
        let Some((_, context)) = self.place.get().cloned() else {
            return std::future::ready(Err(JournalError::Away)).boxed();
        };
        let stream = self.stream.clone();
        async move {
            let refused = |e: &dyn std::fmt::Display| JournalError::Refused(e.to_string());
            let stream = context.get_stream(stream).await.map_err(|e| refused(&e))?;
            stream.purge().sequence(upto + 1).await.map_err(|e| refused(&e))?;
            tracing::info!(upto, "the log is compacted");
            Ok(())
        }
        .boxed()
    }
}
