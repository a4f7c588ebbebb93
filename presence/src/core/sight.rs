//! Which nodes are heard, and how far their clocks are believed: how this node sees the others at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use kith_gossip_proto::{Hlc, NodeId};

/// Every node says this often that it is there.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Two beats may be lost, and no more, before what a node holds is shown as stale.
pub const STALE_AFTER: Duration = Duration::from_secs(3);
/// So long may a node be away before its users are.
pub const SILENT_AFTER: Duration = Duration::from_secs(30);

/// How well a node is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// It said something within 3 s.
    Live,
    /// Not for 3 s. What it said last is shown, as stale.
    Stale,
    /// Not for 30 s. Its sessions count as offline, and are remembered.
    Silent,
}

impl Heard {
    /// What follows from how long ago a node was heard.
    pub fn since(ago: Duration) -> Self {
        if ago >= SILENT_AFTER {
            Self::Silent
        } else if ago >= STALE_AFTER {
            Self::Stale
        } else {
            Self::Live
        }
    }
}

/// How this node sees the others at one moment. Small, and swapped whole: readers hold one while they read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// This node, which always hears itself.
    pub me: NodeId,
    /// The greatest stamp that is not from the future.
    pub latest: Hlc,
    /// The others.
    pub nodes: BTreeMap<NodeId, Heard>,
}

impl Sight {
    /// How well a node is heard. One of which nothing is known is not heard at all.
    pub fn of(&self, node: &NodeId) -> Heard {
        if *node == self.me { Heard::Live } else { self.nodes.get(node).copied().unwrap_or(Heard::Silent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_stale_after_three_seconds_and_silent_after_thirty() {
        let heard = |ms| Heard::since(Duration::from_millis(ms));
        assert_eq!((heard(0), heard(2_999)), (Heard::Live, Heard::Live));
        assert_eq!((heard(3_000), heard(29_999)), (Heard::Stale, Heard::Stale));
        assert_eq!(heard(30_000), Heard::Silent);
    }
}
