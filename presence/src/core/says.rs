//! What nodes say to each other.

use kith_gossip_proto::NodeId;
use serde::{Deserialize, Serialize};

use super::fact::Fact;
use super::id::UserId;
use super::version::Version;

/// Most facts in one message. One takes 3 KB at most, with every byte of it escaped, and a message of NATS 1 MB.
pub const FACTS: usize = 250;

/// Something that one node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Says {
    /// To all, every second: I am here, and this is my last change.
    Beat {
        /// Who.
        #[serde(with = "node")]
        node: NodeId,
        /// Its last change.
        head: Version,
        /// What its wall clock shows.
        wall_ms: u64,
    },
    /// To all: these are my changes after `prev`.
    Changes {
        /// Who.
        #[serde(with = "node")]
        node: NodeId,
        /// The last change before these.
        prev: Version,
        /// The last of these.
        head: Version,
        /// What changed.
        facts: Vec<(UserId, Fact)>,
    },
    /// To one: what came after this?
    Ask {
        /// Who asks.
        #[serde(with = "node")]
        node: NodeId,
        /// What it knows of the one it asks.
        known: Option<Version>,
    },
    /// To the one who asked.
    Answer(Answer),
}

/// Part of what came after what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whose changes these are.
    #[serde(with = "node")]
    pub node: NodeId,
    /// The last change that was known; none: this is all that holds, and what is not in it does not hold.
    pub after: Option<Version>,
    /// Who knows all parts knows all up to this.
    pub head: Version,
    /// Which part this is, from 0.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
    /// What changed, or holds.
    pub facts: Vec<(UserId, Fact)>,
}

impl Says {
    /// Who says it.
    pub fn node(&self) -> &NodeId {
        match self {
            Self::Beat { node, .. } | Self::Changes { node, .. } | Self::Ask { node, .. } => node,
            Self::Answer(answer) => &answer.node,
        }
    }

    /// The start of a node that it is about: of the one who says it, or, where it is a question, of the one who is asked.
    pub fn epoch(&self) -> u64 {
        match self {
            Self::Beat { head, .. } | Self::Changes { head, .. } => head.epoch,
            Self::Ask { known, .. } => known.map_or(0, |known| known.epoch),
            Self::Answer(answer) => answer.head.epoch,
        }
    }
}

/// A node's id as text, which the pure core has no serde for.
pub(crate) mod node {
    use kith_gossip_proto::NodeId;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(node: &NodeId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(node.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
