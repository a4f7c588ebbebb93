//! Which member is pulled from, and when.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use super::member::Member;
use super::members::Members;
use crate::NodeId;

/// How long a peer may be ahead before we pull: longer than any push takes, short enough for a cut pair to hear of each
/// other's changes through a third node within 3 s.
pub const PULL_AFTER: Duration = Duration::from_secs(1);

/// How often one random peer is pulled from although nothing seems missing: the last resort against what no rule foresaw.
pub const PULL_EVERY: Duration = Duration::from_secs(10);

/// How long a peer whose pull failed is left alone, so that another one is asked.
pub const PULL_RETRY: Duration = Duration::from_secs(2);

/// How long a pull may go without hearing a byte of its answer before it has failed. Others wait behind it. It is no longer
/// for a snapshot, whose sender says now and then that it is still copying.
pub const PULL_STALL: Duration = Duration::from_secs(2);

/// The pull that is out, if one is. One at a time: an answer holds all that anyone we can reach through that peer knows,
/// and two answers would mostly hold the same rows.
#[derive(Debug)]
pub(super) struct Pulls {
    out: Option<Pull>,
    next_random: Duration,
    rng: SmallRng,
}

/// A pull that is out.
#[derive(Debug)]
pub(super) struct Pull {
    node: NodeId,
    pub(super) began: Duration,
    /// The hash of the node's vector that gossip had carried by then.
    pub(super) gossiped: Option<u64>,
}

impl Pulls {
    pub(super) fn new(seed: u64, now: Duration) -> Self {
        Self { out: None, next_random: now + PULL_EVERY, rng: SmallRng::seed_from_u64(seed) }
    }

    /// Begins a pull if one is due, from the member that has been due for longest.
    pub(super) fn due(&mut self, members: &Members, now: Duration) -> Option<NodeId> {
        // A turn that passes while a pull is out is lost: it would bring what that one brings.
        let random = self.next_random <= now;
        if random {
            self.next_random = now + PULL_EVERY;
        }
        if self.out.is_some() {
            return None;
        }
        let behind = members.connected().filter_map(|(node, member)| Some((member.pull_at()?, node)));
        let longest = behind.filter(|&(at, _)| at <= now).min().map(|(_, node)| node);
        let node = longest.or_else(|| {
            let linked = members.connected().filter(|(_, member)| random && member.may_be_asked(now));
            linked.map(|(node, _)| node).choose(&mut self.rng)
        })?;
        let gossiped = members.get(node).and_then(Member::gossiped_hash);
        self.out = Some(Pull { node: node.clone(), began: now, gossiped });
        Some(node.clone())
    }

    pub(super) fn deadline(&self, members: &Members) -> Duration {
        let behind = members.connected().filter_map(|(_, member)| member.pull_at()).filter(|_| self.out.is_none());
        behind.fold(self.next_random, Duration::min)
    }

    /// The pull that ended, if it is the one that is out.
    pub(super) fn ended(&mut self, node: &NodeId) -> Option<Pull> {
        self.out.take_if(|pull| pull.node == *node)
    }
}
