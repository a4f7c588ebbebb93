//! The forwarder: copies what this node says to the center's bucket.
//!
//! ```text
//!   said of a key ─► waits, in order ─► flies: what holds of it at that moment ─► kept
//!                      ▲                 │ lost, or said again meanwhile
//!                      └─────────────────┘
//! ```
//! Many fly at once, as many as are kept in time ([`window`]): a center that is far away is not waited for one by one.
//!
//! Every key has one writer, this node. Keys wait, and no values: what is put is what holds when it is, so it is the newest,
//! with one put in flight for each key, and repeating one changes nothing. What no longer holds is deleted. The bucket
//! carries a random epoch; who meets another one sends all that holds again, so a center that was lost for good is filled by
//! those who know. So does who has more to send than he keeps in mind; what the center holds of him beyond that he deletes.
//!
//! A key lives for the session's ttl and 90 s, not for what remains of the ttl: heartbeats, which extend it, come here once a
//! minute at most, and the key must not be gone before the session is.

mod window;

use std::collections::{BTreeMap, VecDeque};
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
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::key::{self, Key, Kind};
use super::{LinkError, bucket, replicas};
use crate::api::Center;
use crate::config::Role;
use crate::core::fact::State;
use crate::core::{Fact, Life, UserId, Version};
use crate::desk::Desk;
use crate::shown::Shown;

use window::Window;

/// Keys that wait: of more, or of twice what holds if that is more, all that holds is sent once the center is there. Three for
/// each user who comes or goes while it is away, of 100 bytes each.
const KEYS: usize = 300_000;
/// Keys of what the center holds that are taken in one go.
const FILLED: usize = 2_000;
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

/// What the center does not keep yet.
#[derive(Debug, Default)]
struct Waiting {
    keys: BTreeMap<Key, Stage>,
    /// Those that wait, in order.
    queue: VecDeque<Key>,
    /// How many there were when all that holds was taken.
    filled: usize,
    /// The last change of ours that was taken.
    head: Option<Version>,
    /// A change was not taken: all that holds is to be sent again. Until it is asked for, nothing needs to be taken.
    behind: bool,
    /// All that holds is being asked for, and is not taken yet.
    filling: bool,
    /// The center is there, and its bucket has the epoch for which all that holds was taken, or is to be.
    reached: bool,
}

/// Where a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waits,
    Flies,
    /// And something else was said of it since.
    FliesAndWaits,
}

impl Waiting {
    fn take(&mut self, key: Key) {
        match self.keys.get_mut(&key) {
            Some(Stage::Waits | Stage::FliesAndWaits) => {}
            Some(stage @ Stage::Flies) => *stage = Stage::FliesAndWaits,
            None => self.wait(key),
        }
    }

    fn wait(&mut self, key: Key) {
        self.keys.insert(key.clone(), Stage::Waits);
        self.queue.push_back(key);
    }

    fn next(&mut self) -> Option<Key> {
        let key = self.queue.pop_front()?;
        self.keys.insert(key.clone(), Stage::Flies);
        Some(key)
    }

    fn landed(&mut self, key: Key, landed: Landed) {
        let stage = self.keys.remove(&key);
        if landed == Landed::Lost || stage == Some(Stage::FliesAndWaits) {
            self.wait(key);
        }
    }

    /// Too many wait: it is simpler to send all that holds.
    fn bound(&mut self) {
        if self.queue.len() > KEYS.max(2 * self.filled) {
            self.behind = true;
            self.queue = VecDeque::new();
            self.keys.retain(|_, stage| *stage != Stage::Waits);
        }
    }

    fn has(&self, user: &UserId) -> bool {
        self.keys.range(Key::first(user)..).next().is_some_and(|(key, _)| key.user == *user)
    }
}

/// Puts under way.
type Flying = FuturesUnordered<BoxFuture<'static, (Key, Landed, Duration)>>;

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
        // What was said before this start the center is told as soon as it is there.
        let waiting = Waiting { behind: true, ..Waiting::default() };
        Self { node, shown, desk, waiting: Mutex::new(waiting), notify: Notify::new(), kept: Notify::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // What is guarded is whole after every statement.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node said something, after `prev`. It is shown by now.
    pub(super) fn take_change(&self, prev: Version, head: Version, facts: &[(UserId, Fact)]) {
        let mut waiting = self.waiting();
        waiting.behind |= waiting.head.is_some_and(|known| known != prev);
        waiting.head = Some(head);
        for (user, fact) in facts {
            if waiting.behind {
                break;
            }
            waiting.take(Key::of(user, fact));
            if let Fact::Seen(_) = fact {
                // The keys of his sessions live on.
                self.held_of(user).into_iter().for_each(|key| waiting.take(key));
            }
            waiting.bound();
        }
        drop(waiting);
        self.notify.notify_one();
        self.kept.notify_waiters();
    }

    fn held_of(&self, user: &UserId) -> Vec<Key> {
        let entry = self.shown.get(user);
        let facts = entry.map(|entry| entry.user.facts_of(&self.node)).unwrap_or_default();
        facts.iter().map(|fact| Key::of(user, fact)).collect()
    }

    /// Copies until it is told that all is said. Nothing is lost by ending: the log has it, and the next start sends what
    /// holds.
    pub(super) async fn run(&self, place: Place, done: CancellationToken) {
        // Each is dropped half-way at the end alone.
        tokio::select! {
            () = done.cancelled() => {}
            () = self.watch(&place) => {}
            () = self.carry(&place) => {}
        }
    }

    /// Looks at the center, and takes all that holds whenever it is to be told that.
    async fn watch(&self, place: &Place) {
        let mut epoch: Option<Bytes> = None;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let found = self.look(place).await;
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
                let there = self.there(bucket::held_by(&place.center, &self.node)).await;
                self.fill(there).await;
            }
        }
    }

    /// Puts what waits, for as long as the center is there.
    async fn carry(&self, place: &Place) {
        let (mut flying, mut window) = (Flying::new(), Window::default());
        loop {
            self.fly(place, &mut flying, &window);
            // Notices are cancel-safe, and puts stay in their set.
            tokio::select! {
                Some((key, landed, took)) = flying.next(), if !flying.is_empty() => {
                    window.landed(landed, took);
                    self.landed(key, landed);
                }
                () = self.notify.notified() => {}
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
        self.notify.notify_one();
        self.kept.notify_waiters();
        filling
    }

    /// What the center holds of this node, unless it does not say, or the desk does not answer: before the desk has begun what
    /// this node said before its start is not shown, and would be taken for over.
    async fn there(&self, held: impl Future<Output = Result<Vec<Key>, LinkError>>) -> Option<Vec<Key>> {
        self.desk.counts().await?;
        held.await.ok()
    }

    /// Takes all that holds, and what the center holds of it, piece by piece: it may be some hundred thousand keys, and others
    /// have their turn in between. If it is not known what the center holds, it is asked for again.
    async fn fill(&self, there: Option<Vec<Key>>) {
        self.waiting().filled = 0;
        if let Some(there) = &there {
            for users in self.shown.known_by(&self.node) {
                let seen = users.iter().map(|user| Key { user: user.clone(), kind: Kind::Seen });
                self.fill_in(users.iter().flat_map(|user| self.held_of(user)).chain(seen).collect());
                tokio::task::yield_now().await;
            }
            for keys in there.chunks(FILLED) {
                self.fill_in(keys.to_vec());
                tokio::task::yield_now().await;
            }
        }
        let mut waiting = self.waiting();
        waiting.filling = false;
        waiting.behind |= there.is_none();
        drop(waiting);
        self.notify.notify_one();
        self.kept.notify_waiters();
    }

    fn fill_in(&self, keys: Vec<Key>) {
        let mut waiting = self.waiting();
        waiting.filled += keys.len();
        keys.into_iter().for_each(|key| waiting.take(key));
    }

    /// How many keys the center does not keep as they are; one more, while nobody knows what it keeps.
    pub(super) fn unforwarded(&self) -> usize {
        let waiting = self.waiting();
        waiting.keys.len() + usize::from(waiting.behind || waiting.filling)
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

    fn fly(&self, place: &Place, flying: &mut Flying, window: &Window) {
        while self.waiting().reached && window.is_open(flying.len()) {
            let Some((key, value)) = self.take_off() else { return };
            let subject = format!("{}{}", place.prefix, key.name(&self.node));
            let center = place.center.clone();
            let begun = Instant::now();
            flying.push(async move { (key, put(center, subject, value).await, begun.elapsed()) }.boxed());
        }
    }

    /// The next key, and what holds of it.
    fn take_off(&self) -> Option<(Key, Option<Fact>)> {
        let mut waiting = self.waiting();
        loop {
            let key = waiting.next()?;
            let value = self.holds(&key);
            if value.is_some() || key.kind != Kind::Seen {
                return Some((key, value));
            }
            // When somebody was seen who is forgotten here is not forgotten there.
            waiting.landed(key, Landed::Kept);
        }
    }

    fn holds(&self, key: &Key) -> Option<Fact> {
        let user = self.shown.get(&key.user)?.user;
        match &key.kind {
            Kind::Session(name) => {
                let session = user.session(&self.node, name).filter(|session| session.life != Life::Ended)?;
                Some(Fact::Session(name.clone(), session.clone()))
            }
            Kind::Explicit => {
                let explicit = user.explicit(&self.node).filter(|explicit| explicit.state == State::Holds)?;
                Some(Fact::Explicit(explicit.clone()))
            }
            Kind::Seen => Some(Fact::Seen(user.seen_ms())),
        }
    }

    fn landed(&self, key: Key, landed: Landed) {
        let mut waiting = self.waiting();
        waiting.landed(key, landed);
        // The next look says whether it is there.
        waiting.reached &= landed == Landed::Kept;
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
        !waiting.has(user)
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
async fn put(center: jetstream::Context, subject: String, value: Option<Fact>) -> Landed {
    let mut headers = HeaderMap::new();
    let secs = value.as_ref().and_then(|fact| match fact {
        Fact::Session(_, session) => match session.life {
            Life::Live { ttl, .. } => Some(ttl.as_secs() + BEYOND_TTL),
            Life::Ended => None,
        },
        // It lasts as long as a session, and is said again with every session that is.
        Fact::Explicit(_) => Some(86_400 + BEYOND_TTL),
        Fact::Seen(_) => Some(SEEN_SECS),
    });
    let payload = match secs {
        Some(secs) => {
            headers.insert(header::NATS_MESSAGE_TTL, format!("{secs}s").as_str());
            serde_json::to_vec(&value).expect("facts are JSON")
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
mod tests;
