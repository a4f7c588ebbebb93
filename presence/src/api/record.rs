//! A user as the API shows him.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::clock::Rfc3339;
use crate::core::{Life, Sight, Status, User, UserId};
use crate::hub::Follower;
use crate::shown::{Entry, Shown};

/// Whether the sessions are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sessions {
    #[default]
    Hidden,
    Listed,
}

/// The record of one user.
#[derive(Debug, Serialize)]
pub(crate) struct Record<'a> {
    user_id: &'a str,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    last_seen: Option<Rfc3339>,
    updated_at: Option<Rfc3339>,
    node_id: Option<&'a str>,
    ttl: Option<u64>,
    expires_at: Option<Rfc3339>,
    stale: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<Vec<SessionRecord<'a>>>,
}

#[derive(Debug, Serialize)]
struct SessionRecord<'a> {
    session: &'a str,
    node_id: &'a str,
    status: Status,
    ttl: u64,
    updated_at: Rfc3339,
    stale: bool,
}

impl<'a> Record<'a> {
    fn new(id: &'a UserId, entry: Option<&'a Entry>, sight: &'a Sight, sessions: Sessions) -> Self {
        let Some(entry) = entry else { return Self::unknown(id) };
        let shown = entry.user.effective(sight);
        let seen_ms = shown.seen_ms.max(entry.seen_ms);
        let time = |ms: u64| (ms > 0).then_some(Rfc3339(ms));
        let expires = shown.by.map(|(node, _, ttl)| {
            // Of a session elsewhere only what was told is known, which is not every heartbeat.
            let heard = if *node == sight.me { entry.seen_ms } else { seen_ms };
            Rfc3339(heard.max(shown.updated_ms).saturating_add(ttl.as_secs() * 1_000))
        });
        Self {
            user_id: id.as_str(),
            status: shown.status,
            message: shown.message.map(crate::core::Message::as_str),
            last_seen: time(seen_ms),
            updated_at: time(shown.updated_ms),
            node_id: shown.by.map(|(node, ..)| node.as_str()),
            ttl: shown.by.map(|(_, _, ttl)| ttl.as_secs()),
            expires_at: expires,
            stale: shown.stale,
            sessions: (sessions == Sessions::Listed).then(|| Self::sessions(entry, sight)),
        }
    }

    fn unknown(id: &'a UserId) -> Self {
        Self {
            user_id: id.as_str(),
            status: Status::Offline,
            message: None,
            last_seen: None,
            updated_at: None,
            node_id: None,
            ttl: None,
            expires_at: None,
            stale: false,
            sessions: None,
        }
    }

    fn sessions(entry: &'a Entry, sight: &Sight) -> Vec<SessionRecord<'a>> {
        use crate::core::Heard;
        let shown = entry.user.sessions().filter(|(node, ..)| sight.of(node) != Heard::Silent);
        shown
            .filter_map(|(node, name, session)| match session.life {
                Life::Live { status, ttl } => Some(SessionRecord {
                    session: name.as_str(),
                    node_id: node.as_str(),
                    status,
                    ttl: ttl.as_secs(),
                    updated_at: Rfc3339(session.changed_ms),
                    stale: sight.of(node) != Heard::Live,
                }),
                Life::Ended => None,
            })
            .collect()
    }
}

/// Users, as the value of `data`: a record by each id.
pub(crate) struct Records<'a> {
    users: Vec<(&'a UserId, Option<Entry>)>,
    sight: Arc<Sight>,
    sessions: Sessions,
}

impl<'a> Records<'a> {
    /// What is shown of these users at this moment.
    pub(crate) fn of(shown: &Shown, users: impl IntoIterator<Item = &'a UserId>, sessions: Sessions) -> Self {
        let users = users.into_iter().map(|id| (id, shown.get(id))).collect();
        Self { users, sight: shown.sight(), sessions }
    }

    /// The same for a follower, who is told nothing of it again.
    pub(crate) fn told(shown: &Shown, users: impl IntoIterator<Item = &'a UserId>, follower: &mut Follower) -> Self {
        let records = Self::of(shown, users, Sessions::Hidden);
        for (id, entry) in &records.users {
            follower.tell(id, seen(entry.as_ref(), &records.sight));
        }
        records
    }

    /// Of these users, those of whom a follower sees something else than he was told last.
    pub(crate) fn news(shown: &Shown, users: impl IntoIterator<Item = &'a UserId>, follower: &mut Follower) -> Self {
        let mut records = Self::of(shown, users, Sessions::Hidden);
        let sight = &records.sight;
        records.users.retain(|(id, entry)| follower.tell(id, seen(entry.as_ref(), sight)));
        records
    }

    /// The tag of the only one of them, if anything is known of him.
    pub(crate) fn tag(&self) -> Option<u64> {
        self.users.first().and_then(|(_, entry)| entry.as_ref()).map(|entry| entry.user.tag())
    }

    /// Each of them alone.
    pub(crate) fn each(self) -> impl Iterator<Item = Self> {
        let Self { users, sight, sessions } = self;
        users.into_iter().map(move |user| Self { users: vec![user], sight: Arc::clone(&sight), sessions })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

/// What is seen of a user, as a number that differs if it does.
fn seen(entry: Option<&Entry>, sight: &Sight) -> u64 {
    let nobody = || User::default().visible(sight);
    let mut hasher = DefaultHasher::new();
    entry.map_or_else(nobody, |entry| entry.user.visible(sight)).hash(&mut hasher);
    hasher.finish()
}

impl Serialize for Records<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.users.len()))?;
        for (id, entry) in &self.users {
            map.serialize_entry(id.as_str(), &Record::new(id, entry.as_ref(), &self.sight, self.sessions))?;
        }
        map.end()
    }
}
