//! The forwarder: copies what this node says to the center's bucket.
//!
//! Every key has one writer, this node. The newest value of each waits, in order, with one put in flight for each key:
//! repeating one changes nothing. The bucket carries a random epoch; who meets another one sends all that holds again, so a
//! center that was lost for good is filled by those who know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::{self, kv};
use async_nats::{HeaderMap, header};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use kith_gossip_proto::NodeId;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{key, replicas};
use crate::api::Center;
use crate::config::Role;
use crate::core::fact::State;
use crate::core::{Fact, Life, UserId, Version};
use crate::desk::Desk;
use crate::shown::Shown;

/// Puts in flight.
const IN_FLIGHT: usize = 64;
/// How often the center is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// What the center may take.
const REPLY: Duration = Duration::from_secs(2);
/// How long a writer waits who wants the center to keep it.
const CONFIRM: Duration = Duration::from_secs(3);
/// Heartbeats are told once a minute at most: a session's key lives so much longer than the session without one.
const BEYOND_TTL: u64 = 90;
/// When somebody was last seen is kept for 90 days.
const SEEN_SECS: u64 = 90 * 86_400;
/// What was deleted is marked for an hour.
const MARKER: Duration = Duration::from_secs(3_600);

/// Copies what this node says.
pub(super) struct Forwarder {
    node: NodeId,
    shown: Arc<Shown>,
    desk: Desk,
    waiting: Mutex<Waiting>,
    notify: Notify,
    /// Somebody waits for something to be kept.
    kept: Notify,
}

/// The newest value of each key that the center does not keep yet.
#[derive(Debug, Default)]
struct Waiting {
    values: BTreeMap<String, Value>,
    flying: BTreeSet<String>,
    /// The last change of ours that was taken.
    head: Option<Version>,
    /// A change was not taken: all that holds is to be sent again.
    behind: bool,
    /// All that holds is being asked for, and is not taken yet.
    filling: bool,
    /// The center is there, and its bucket has the epoch for which all that holds was taken, or is to be.
    reached: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    user: UserId,
    fact: Fact,
}

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Landed {
    Kept,
    /// Or nobody knows.
    Lost,
}

/// What a look at the center found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// The bucket that was met before.
    Known,
    /// One that is to be told all that holds.
    Another,
}

/// Where to copy to.
pub(super) struct Place {
    pub(super) center: jetstream::Context,
    pub(super) prefix: String,
    pub(super) role: Role,
}

impl Forwarder {
    pub(super) fn new(node: NodeId, shown: Arc<Shown>, desk: Desk) -> Self {
        Self { node, shown, desk, waiting: Mutex::default(), notify: Notify::new(), kept: Notify::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // What is guarded is whole after every statement.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node said something, after `prev`.
    pub(super) fn take_change(&self, prev: Version, head: Version, facts: &[(UserId, Fact)]) {
        self.take(facts);
        let mut waiting = self.waiting();
        // Before the first one the center was told nothing, and is told all as soon as it is there.
        waiting.behind |= waiting.head.is_some_and(|known| known != prev);
        waiting.head = Some(head);
        drop(waiting);
        self.kept.notify_waiters();
    }

    fn take(&self, facts: &[(UserId, Fact)]) {
        let mut waiting = self.waiting();
        for (user, fact) in facts {
            waiting.values.insert(key::of(&self.node, user, fact), Value { user: user.clone(), fact: fact.clone() });
            if let Fact::Seen(_) = fact {
                self.renew(&mut waiting, user);
            }
        }
        drop(waiting);
        self.notify.notify_one();
    }

    /// A user was seen: the keys of his sessions live on, unless something newer waits.
    fn renew(&self, waiting: &mut Waiting, user: &UserId) {
        let Some(entry) = self.shown.get(user) else { return };
        for fact in entry.user.facts_of(&self.node) {
            let value = Value { user: user.clone(), fact };
            waiting.values.entry(key::of(&self.node, user, &value.fact)).or_insert(value);
        }
    }

    /// Copies until it is told that all is said. Nothing is lost by ending: the log has it, and the next start sends what
    /// holds.
    pub(super) async fn run(&self, place: Place, done: CancellationToken) {
        let mut flying: FuturesUnordered<BoxFuture<'static, (String, Value, Landed)>> = FuturesUnordered::new();
        let mut epoch: Option<Bytes> = None;
        let mut reached = false;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if reached {
                self.fly(&place, &mut flying);
            }
            // Ticks and notices are cancel-safe, and puts stay in their set.
            tokio::select! {
                () = done.cancelled() => return,
                Some((name, value, kept)) = flying.next(), if !flying.is_empty() => {
                    reached &= kept == Landed::Kept;
                    self.waiting().reached = reached;
                    self.landed(name, value, kept);
                }
                () = self.notify.notified() => {}
                _ = look.tick() => {
                    let found = self.look(&place).await;
                    reached = found.is_some();
                    let looked = match found {
                        None => Found::Nothing,
                        Some(_) if found == epoch => Found::Known,
                        Some(_) => {
                            tracing::info!("the center has another bucket than before: it is told all that holds");
                            epoch = found;
                            Found::Another
                        }
                    };
                    if self.looked(looked) {
                        let facts = self.desk.own_facts().await;
                        self.fill(facts.as_deref());
                    }
                }
            }
        }
    }

    /// The center was looked at. Says whether it is to be told all that holds.
    fn looked(&self, found: Found) -> bool {
        let mut waiting = self.waiting();
        waiting.reached = found != Found::Nothing;
        waiting.behind |= found == Found::Another;
        waiting.filling = waiting.reached && std::mem::take(&mut waiting.behind);
        let filling = waiting.filling;
        drop(waiting);
        self.kept.notify_waiters();
        filling
    }

    /// Takes all that holds; without it, it is asked for again.
    fn fill(&self, facts: Option<&[(UserId, Fact)]>) {
        self.take(facts.unwrap_or_default());
        let mut waiting = self.waiting();
        waiting.filling = false;
        waiting.behind |= facts.is_none();
        drop(waiting);
        self.kept.notify_waiters();
    }

    /// The epoch of the bucket, if the center is there.
    async fn look(&self, place: &Place) -> Option<Bytes> {
        let bucket = match timeout(REPLY, place.center.get_key_value(key::BUCKET)).await.ok()? {
            Ok(bucket) => bucket,
            Err(_) => make(place).await?,
        };
        match timeout(REPLY, bucket.get(key::EPOCH)).await.ok()?.ok()? {
            Some(epoch) => Some(epoch),
            None => {
                let random: u128 = rand::random();
                let made = bucket.create(key::EPOCH, Bytes::from(format!("{random:032x}")));
                timeout(REPLY, made).await.ok()?.ok()?;
                None
            }
        }
    }

    fn fly(&self, place: &Place, flying: &mut FuturesUnordered<BoxFuture<'static, (String, Value, Landed)>>) {
        let mut waiting = self.waiting();
        while flying.len() < IN_FLIGHT {
            let next = waiting.values.keys().find(|name| !waiting.flying.contains(*name)).cloned();
            let Some((name, value)) = next.and_then(|name| waiting.values.remove_entry(&name)) else { return };
            waiting.flying.insert(name.clone());
            let subject = format!("{}{name}", place.prefix);
            let center = place.center.clone();
            flying.push(
                async move {
                    let kept = put(center, subject, &value.fact).await;
                    (name, value, kept)
                }
                .boxed(),
            );
        }
    }

    fn landed(&self, name: String, value: Value, kept: Landed) {
        let mut waiting = self.waiting();
        waiting.flying.remove(&name);
        if kept == Landed::Lost {
            waiting.values.entry(name).or_insert(value);
        }
        drop(waiting);
        self.kept.notify_waiters();
    }

    /// Waits until the center keeps all that this node said of a user, for a while.
    pub(super) async fn confirm(self: Arc<Self>, user: UserId) -> Center {
        let kept = async {
            // What is in force by now is to be kept, so it must have come here first.
            let Some(counts) = self.desk.counts().await else { return std::future::pending().await };
            loop {
                let kept = self.kept.notified();
                if self.keeps(&user, counts.head) {
                    return;
                }
                kept.await;
            }
        };
        if timeout(CONFIRM, kept).await.is_ok() { Center::Kept } else { Center::Away }
    }

    fn keeps(&self, user: &UserId, head: Version) -> bool {
        let waiting = self.waiting();
        if !waiting.reached || waiting.behind || waiting.filling {
            // Nobody knows what it keeps.
            return false;
        }
        if head.seq > 0 && waiting.head.is_none_or(|known| known < head) {
            return false;
        }
        let own = |name: &String| key::parse(name).is_some_and(|(of, ..)| of == *user);
        !waiting.values.values().any(|value| value.user == *user) && !waiting.flying.iter().any(own)
    }
}

/// Makes the bucket, if that is ours to do.
async fn make(place: &Place) -> Option<kv::Store> {
    let config = kv::Config {
        bucket: key::BUCKET.to_owned(),
        description: "what all nodes say of users".to_owned(),
        history: 1,
        storage: jetstream::stream::StorageType::File,
        num_replicas: replicas(place.role)?,
        limit_markers: Some(MARKER),
        ..kv::Config::default()
    };
    match timeout(REPLY, place.center.create_key_value(config)).await.ok()? {
        Ok(bucket) => Some(bucket),
        Err(error) => {
            tracing::warn!(%error, "the bucket is not made yet");
            None
        }
    }
}

/// Puts a fact, or deletes what no longer holds.
async fn put(center: jetstream::Context, subject: String, fact: &Fact) -> Landed {
    let mut headers = HeaderMap::new();
    let secs = match fact {
        Fact::Session(_, session) => match session.life {
            Life::Live { ttl, .. } => Some(ttl.as_secs() + BEYOND_TTL),
            Life::Ended => None,
        },
        Fact::Explicit(explicit) => match explicit.state {
            // It lasts as long as a session, and is said again with every session that is.
            State::Holds => Some(86_400 + BEYOND_TTL),
            State::Expired => None,
        },
        Fact::Seen(_) => Some(SEEN_SECS),
    };
    let payload = match secs {
        Some(secs) => {
            headers.insert(header::NATS_MESSAGE_TTL, format!("{secs}s").as_str());
            serde_json::to_vec(fact).expect("facts are JSON")
        }
        None => {
            headers.insert("KV-Operation", "PURGE");
            headers.insert(header::NATS_ROLLUP, "sub");
            headers.insert(header::NATS_MESSAGE_TTL, format!("{}s", MARKER.as_secs()).as_str());
            Vec::new()
        }
    };
    let kept = async { center.publish_with_headers(subject, headers, payload.into()).await?.await };
    match timeout(REPLY, kept).await {
        Ok(Ok(_)) => Landed::Kept,
        Ok(Err(_)) | Err(_) => Landed::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Sight;

    #[test]
    fn nothing_is_kept_before_all_that_holds_was_sent() {
        let node: NodeId = "n1".parse().unwrap();
        let sight = Sight { me: node.clone(), latest: kith_gossip_proto::Hlc::MAX, nodes: BTreeMap::new() };
        let forwarder = Forwarder::new(node, Arc::new(Shown::new(Arc::new(sight))), Desk::new().0);
        // As after a restart: what holds was said before, and nothing since.
        let (ann, head) = (UserId::try_from("ann").unwrap(), Version { epoch: 7, seq: 0 });
        assert!(!forwarder.keeps(&ann, head), "the center was never there");
        assert!(forwarder.looked(Found::Another));
        assert!(!forwarder.keeps(&ann, head), "what holds is asked for");
        forwarder.fill(Some(&[(ann.clone(), Fact::Seen(1))]));
        assert!(!forwarder.keeps(&ann, head), "what holds waits");
        let (name, value) = forwarder.waiting().values.pop_first().unwrap();
        forwarder.landed(name, value, Landed::Kept);
        assert!(forwarder.keeps(&ann, head));
        assert!(!forwarder.looked(Found::Nothing));
        assert!(!forwarder.keeps(&ann, head), "the center is away");
        assert!(!forwarder.looked(Found::Known));
        assert!(forwarder.keeps(&ann, head));
        assert!(forwarder.looked(Found::Another));
        forwarder.fill(None);
        assert!(!forwarder.keeps(&ann, head), "it is asked for again");
    }
}
