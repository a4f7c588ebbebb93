//! Deletions that this node forgets, and peers that may not have heard of them.
//!
//! A peer that was away for longer than deletions are remembered may have written to rows that are forgotten here. Its
//! versions would bring them back, in part. So they are taken only if they were made after it had applied all that was
//! purged here; what it made before is pulled, if it may be at all, and a pull says what was deleted meanwhile.

use super::{Output, Replica};
use crate::{NodeId, Vector, Version};

impl Replica {
    /// These are the nodes whose knowledge is waited for.
    pub(super) fn known(&mut self, nodes: &[NodeId], out: &mut Vec<Output>) {
        let told = nodes.iter().map(|node| (node, self.members.get(node).and_then(super::Member::heads)));
        let ask = self.coverage.ask(&self.heads, told);
        if ask.is_empty() {
            out.extend(self.coverage.look(&self.heads).map(Output::Purge));
        } else {
            out.push(Output::AskHeads(ask));
        }
    }

    /// A node without a stream was asked for its heads.
    pub(super) fn told(&mut self, node: &NodeId, heads: &Vector) {
        self.coverage.hear(node, heads);
    }

    /// Tombstones are about to be purged, or were by a peer that we took rows of.
    pub(super) fn purging(&mut self, through: &Vector) {
        self.purged.join(through);
        self.members.purging(&self.purged);
    }

    /// Whether its sender took or made a version with knowledge of all that is purged here. What it had before is pulled.
    pub(super) fn may_take(&self, from: &NodeId, version: &Version) -> bool {
        let since = self.members.get(from).and_then(super::Member::followed_since);
        self.purged.is_empty() || since.is_some_and(|since| version.version > since.head(version.site))
    }
}
