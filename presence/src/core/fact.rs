//! Facts: what one node says of one user. Each has one writer, so of two versions the greater is the truth.

use kith_gossip_proto::Hlc;
use serde::{Deserialize, Serialize};

use super::id::SessionName;
use super::status::{Message, Status, Ttl};
use super::version::Version;

/// Something that a node says of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A session that this node holds, or held.
    Session(SessionName, Session),
    /// What the user said of himself by this node.
    Explicit(Explicit),
    /// When the user was last heard of by this node, in milliseconds since 1970.
    Seen(u64),
}

/// A session, as its node last said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Which word this is.
    #[serde(rename = "v")]
    pub version: Version,
    /// Whether it lives.
    #[serde(flatten)]
    pub life: Life,
    /// When that was said, by the wall clock of the node. Shown only.
    #[serde(rename = "at")]
    pub changed_ms: u64,
}

/// Whether a session lives.
///
/// ```text
///   Live ── ttl without a heartbeat, or told to end; the owner says so ─► Ended
///    ▲                                                                     │
///    └──────────────────── written again by the same node ◄────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "life", rename_all = "snake_case")]
pub enum Life {
    /// It lives until its owner says otherwise.
    Live {
        /// How the user is there.
        status: Status,
        /// How long without a heartbeat.
        ttl: Ttl,
    },
    /// Its owner said that it is over.
    Ended,
}

/// What a user said of himself, in the name of all his sessions.
///
/// It lasts as long as the session that said it. After that what another node was told before it counts again, if that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explicit {
    /// Which word of the node this is.
    #[serde(rename = "v")]
    pub version: Version,
    /// When it was said, to compare it with what other nodes were told.
    #[serde(with = "hlc")]
    pub stamp: Hlc,
    /// How he is; none: as his sessions are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// What he says beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
    /// The session that said it.
    pub by: SessionName,
    /// Whether that session lives.
    pub state: State,
    /// When that was said, by the wall clock of the node. Shown only.
    #[serde(rename = "at")]
    pub changed_ms: u64,
}

/// Whether an explicit status is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The session that said it lives.
    Holds,
    /// Its owner said that it is over.
    Expired,
}

impl Fact {
    /// Which word of its node this is; when somebody was seen is the greatest time, by no order of words.
    pub fn version(&self) -> Option<Version> {
        match self {
            Self::Session(_, session) => Some(session.version),
            Self::Explicit(explicit) => Some(explicit.version),
            Self::Seen(_) => None,
        }
    }
}

mod hlc {
    use kith_gossip_proto::Hlc;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(hlc: &Hlc, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(hlc.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hlc, D::Error> {
        u64::deserialize(deserializer).map(Hlc::from_bits)
    }
}
