//! Where a change stands in the history of the node that made it.

use serde::{Deserialize, Serialize};

/// A node's epoch and the number of a change within it. Greater is later, of one node; those of two nodes are not compared.
///
/// An epoch is one start of a node. Its numbers rise, and need not be without holes: what could not be made durable is not
/// numbered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct Version {
    /// Which start of the node.
    pub epoch: u64,
    /// Which change since, from 1.
    pub seq: u64,
}

impl From<(u64, u64)> for Version {
    fn from((epoch, seq): (u64, u64)) -> Self {
        Self { epoch, seq }
    }
}

impl From<Version> for (u64, u64) {
    fn from(version: Version) -> Self {
        (version.epoch, version.seq)
    }
}
