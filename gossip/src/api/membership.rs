//! What the API shows of the other nodes: given by whoever keeps it, defined here so that nothing here depends on how.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kith_gossip_proto::agreement::Agreement;
use kith_gossip_proto::{NodeId, SiteId};
use tokio::sync::watch;

/// A node as gossip sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub server: NodeId,
    /// Its number in the cluster, once it has one.
    pub number: Option<u8>,
    /// Where it is spoken to.
    pub addr: SocketAddr,
    /// Its store's identity, once it has said so.
    pub site: Option<SiteId>,
    /// Its host's boot, once it has said so; else empty.
    pub boot_id: String,
    /// Judged by what this node hears.
    pub state: MemberState,
    /// How long ago, at the time of this snapshot, it was last heard. `None`: never.
    pub heard: Option<Duration>,
    /// Round-trip time of the connection, if there is one.
    pub rtt: Option<Duration>,
    /// The release it runs; empty until it has said so.
    pub release: String,
}

impl Member {
    /// Whether who was told of it as it was before is to be told of it as it is. That it was heard is no news while it is
    /// heard, nor is a round trip that wavers.
    pub(crate) fn is_news_after(&self, before: &Member) -> bool {
        let steady = |member: &Member| Member { heard: None, rtt: None, ..member.clone() };
        steady(self) != steady(before) || has_moved(before.rtt, self.rtt)
    }
}

/// Below this a round trip says nothing of how near a node is: it is as much as a busy host adds.
const MOVED: Duration = Duration::from_millis(1);

/// Whether a round trip is another one: by more than a fifth, and more than [`MOVED`].
fn has_moved(before: Option<Duration>, now: Option<Duration>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => before.abs_diff(now) > MOVED.max(before / 5),
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    }
}

/// Whether a member counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberState {
    /// It is heard.
    Up,
    /// It has not been heard for a while.
    Silent,
    /// An operator has removed it.
    Removed,
}

impl MemberState {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Silent => "silent",
            Self::Removed => "removed",
        }
    }
}

/// How replication is doing. Counts are since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicationFigures {
    /// Versions that peers are known to have and this node has not.
    pub behind: u64,
    /// From a version's arrival to the synced store, the 99th percentile of the last minutes, by this node's own clock.
    pub lag_p99: Duration,
    /// Versions received and not yet applied.
    pub queued: u64,
    /// Versions of others that were applied.
    pub applied: u64,
    /// Versions sent to peers, once per peer.
    pub pushed: u64,
    /// Pulls that this node asked for.
    pub pulls: u64,
    /// Pulls that failed.
    pub pulls_failed: u64,
}

/// How far one peer and this node are apart, by what the peer told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFigures {
    /// Which one.
    pub server: NodeId,
    /// Versions that it has and this node has not.
    pub behind: u64,
    /// Versions that this node has and it has not. `None`: it has not told yet.
    pub ahead: Option<u64>,
    /// Bytes that wait to be sent to it.
    pub queued_bytes: usize,
    /// Whether it holds the same rows, as of the last time that it had applied the same versions.
    pub agreement: Agreement,
    /// How long it has not.
    pub differs_for: Option<Duration>,
    /// How far its clock is ahead of this node's, in milliseconds; negative where it is behind. `None`: it has not said.
    pub clock_ms: Option<i64>,
}

/// A connection that was refused of late for lack of trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFigures {
    /// The peer's address.
    pub address: SocketAddr,
    /// `us` or `peer`.
    pub by: &'static str,
    /// A word for the reason: `not_in_force`, `removed` and so on.
    pub why: &'static str,
}

/// What a store holds of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// It was begun at this start, and has not caught up with anybody: that a row is not there means nothing.
    Nothing,
    /// Its own rows or those of others, if only old ones.
    Something,
}

/// What keeps the members. All methods are cheap and do not wait.
pub trait Membership: Debug + Send + Sync + 'static {
    /// The members, in order of their ids. The receiver is told whenever one comes, goes or changes.
    fn members(&self) -> watch::Receiver<Arc<Vec<Member>>>;

    /// By node, the last version of this node's site that is stored and synced there, as it told.
    fn acknowledged(&self) -> watch::Receiver<BTreeMap<NodeId, u64>>;

    /// How replication is doing.
    fn figures(&self) -> ReplicationFigures;

    /// The peers that versions are exchanged with, by name.
    fn peers(&self) -> Vec<PeerFigures> {
        Vec::new()
    }

    /// What this node still waits for before its answers are complete, in words; empty when ready.
    fn waiting(&self) -> Vec<String>;

    /// What this node's store holds of the cluster.
    fn holding(&self) -> Holding {
        Holding::Something
    }

    /// This node's certificate, if it has one.
    fn certificate(&self) -> Option<Certificate> {
        None
    }

    /// Connections that were refused of late.
    fn refusals(&self) -> Vec<RefusedFigures> {
        Vec::new()
    }

    /// What somebody has to look at.
    fn alarms(&self) -> Vec<Alarm> {
        Vec::new()
    }

    /// What else is counted, for `/metrics`.
    fn counts(&self) -> Vec<Count> {
        Vec::new()
    }
}

/// When a node's proof of who it is ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// When, by the wall.
    pub ends: SystemTime,
    /// How long until then.
    pub left: Duration,
}

/// Something that does not get better by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Which kind, one word; the manual has a paragraph for each.
    pub name: &'static str,
    /// What is wrong, and what to do.
    pub text: String,
}

/// A number that only rises, since start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Its name in `/metrics`, without the prefix.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// How many.
    pub value: u64,
}

/// A node that has nobody else.
#[derive(Debug)]
pub struct Alone(watch::Sender<Arc<Vec<Member>>>);

impl Default for Alone {
    fn default() -> Self {
        Self(watch::Sender::new(Arc::default()))
    }
}

impl Membership for Alone {
    fn members(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.0.subscribe()
    }

    fn acknowledged(&self) -> watch::Receiver<BTreeMap<NodeId, u64>> {
        watch::Sender::default().subscribe()
    }

    fn figures(&self) -> ReplicationFigures {
        ReplicationFigures::default()
    }

    fn waiting(&self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_is_news_when_it_comes_goes_or_moves_by_a_fifth_and_a_millisecond() {
        let member = |rtt: Option<u64>, heard| Member {
            server: "n1".parse().unwrap(),
            number: None,
            addr: ([127, 0, 0, 1], 1).into(),
            site: None,
            boot_id: String::new(),
            state: MemberState::Up,
            heard: Some(Duration::from_millis(heard)),
            rtt: rtt.map(Duration::from_micros),
            release: String::new(),
        };
        let is_news = |before, now| member(now, 7).is_news_after(&member(before, 300));
        assert!(is_news(None, Some(400)) && is_news(Some(400), None));
        assert!(
            is_news(Some(400), Some(1_500)) && is_news(Some(20_000), Some(24_100)) && is_news(Some(90_000), Some(9))
        );
        assert!(!is_news(None, None) && !is_news(Some(400), Some(1_400)) && !is_news(Some(20_000), Some(24_000)));
        assert!(Member { number: Some(1), ..member(None, 7) }.is_news_after(&member(None, 7)));
    }
}
