//! The members of the cluster, as one node sees them.

use http::{HeaderMap, Method};
use reqwest::RequestBuilder;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::error::Error;
use crate::follow::{Failure, Source};

/// One member. What the node does not know of it is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its node id, the name in its certificate.
    pub server: String,
    /// Its number within the cluster.
    #[serde(default)]
    pub number: Option<u32>,
    /// Where its gossip listens, as it says: a label, unique in the cluster.
    #[serde(default)]
    pub addr: Option<String>,
    /// Its store's site id, 32 hex digits.
    #[serde(default)]
    pub site: Option<String>,
    /// The boot id of its host.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// Whether this node hears it.
    pub state: MemberState,
    /// How long ago this node last heard it, in milliseconds of this node's clock.
    #[serde(default)]
    pub heard_ms_ago: Option<u64>,
    /// The round trip to it, in microseconds.
    #[serde(default)]
    pub rtt_us: Option<u64>,
    /// The release of Kith that it runs.
    #[serde(default)]
    pub release: Option<String>,
}

/// What this node makes of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Its heartbeat advances here.
    Up,
    /// Its heartbeat has not advanced here for 10 s.
    Silent,
    /// An operator removed it, or it left.
    Removed,
}

impl MemberState {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberState::Up => "up",
            MemberState::Silent => "silent",
            MemberState::Removed => "removed",
        }
    }
}

/// What the stream of members says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberEvent {
    /// A list of all members begins: whom it does not name is gone at [`MemberEvent::Synced`].
    Reset,
    /// A member of the list, or one that changed.
    Member(Member),
    /// The list is complete.
    Synced,
    /// The store is away. The stream goes on trying.
    Lost {
        /// Why, for people.
        reason: String,
    },
}

/// Whether changes follow the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    Once,
    OnAndOn,
}

/// Requests and lines of the members' stream. It has no place to resume at: the list is short, so it is taken anew.
pub(crate) struct MembersSource(Watched);

impl MembersSource {
    pub(crate) fn new(watched: Watched) -> MembersSource {
        MembersSource(watched)
    }
}

/// One line of the stream.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Member(Member),
    Eom(IgnoredAny),
    Alive(IgnoredAny),
    Error(String),
}

impl Source for MembersSource {
    type Event = MemberEvent;

    fn request(&self, client: &Client) -> Result<RequestBuilder, Error> {
        Ok(client.bare(
            Method::GET,
            match self.0 {
                Watched::Once => "v1/members",
                Watched::OnAndOn => "v1/members?watch=true&alive=true",
            },
        ))
    }

    fn begun(&mut self, _head: &HeaderMap) -> Option<MemberEvent> {
        Some(MemberEvent::Reset)
    }

    fn line(&mut self, text: &str) -> Result<Option<MemberEvent>, Error> {
        match serde_json::from_str(text).map_err(|e| Error::malformed(text.as_bytes(), &e))? {
            Line::Member(member) => Ok(Some(MemberEvent::Member(member))),
            Line::Eom(_) => Ok(Some(MemberEvent::Synced)),
            Line::Alive(_) => Ok(None),
            Line::Error(message) => Err(Error::Stopped(message)),
        }
    }

    fn failed(&mut self, error: Error) -> Failure {
        Failure::by_kind(error)
    }

    fn lost(&self, reason: String) -> MemberEvent {
        MemberEvent::Lost { reason }
    }
}
