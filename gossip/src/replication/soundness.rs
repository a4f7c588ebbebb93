//! Whether this store holds what its peers hold; and where it does not, whether it is the one that is wrong.
//!
//! ```text
//! agrees ── a peer differs for 30 s ──► looks through its rows ── they are what it says ──► the peer is wrong, or both
//!    ▲                                          │ they are not                                   │
//!    └────────────── all agree again ───────────┼────────────────────────────────────────────────┘
//!                                               ▼
//!                                            damaged: answers no pull, and says so
//! ```
//! It does not begin anew by itself: what makes one node find itself damaged, a fault of ours above all, may make all of
//! them do so at the same time.

use std::collections::BTreeMap;
use std::time::Duration;

use kith_gossip_proto::NodeId;
use kith_gossip_proto::agreement::{Agreement, DIFFERS_FOR, Fingerprint};

/// What is known of our own rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Rows {
    /// There was no reason to look.
    #[default]
    Trusted,
    /// They are being looked through.
    Examined,
    /// They are what the store says of them.
    Sound,
    /// They are not; the first finding. Until the next start.
    Damaged(String),
}

/// Agreement with every peer.
#[derive(Debug, Default)]
pub(super) struct Soundness {
    peers: BTreeMap<NodeId, Agreement>,
    rows: Rows,
}

impl Soundness {
    /// Compares with what the peers have told. Returns whether our rows are to be looked through, which is then due once.
    pub(super) fn compare<'a>(
        &mut self,
        ours: Fingerprint,
        theirs: impl Iterator<Item = (&'a NodeId, Option<Fingerprint>)>,
        now: Duration,
    ) -> Look {
        let mut before = std::mem::take(&mut self.peers);
        for (node, told) in theirs {
            let mut agreement = before.remove(node).unwrap_or_default();
            if let Some(told) = told {
                agreement.compare(ours, told, now);
            }
            self.peers.insert(node.clone(), agreement);
        }
        let longest = self.peers.values().filter_map(|agreement| agreement.differs_for(now)).max();
        match (&self.rows, longest) {
            (Rows::Trusted, Some(longest)) if longest >= DIFFERS_FOR => {
                self.rows = Rows::Examined;
                return Look::Due;
            }
            (Rows::Sound, None) => self.rows = Rows::Trusted,
            (Rows::Trusted | Rows::Examined | Rows::Sound | Rows::Damaged(_), _) => {}
        }
        Look::NotDue
    }

    /// Our rows were looked through, with these findings, or could not be.
    pub(super) fn looked(&mut self, found: Option<Vec<String>>) {
        self.rows = match found.map(|found| found.into_iter().next()) {
            None => Rows::Trusted,
            Some(None) => Rows::Sound,
            Some(Some(wrong)) => Rows::Damaged(wrong),
        };
    }

    pub(super) fn of(&self, node: &NodeId) -> Agreement {
        self.peers.get(node).copied().unwrap_or_default()
    }

    /// What is wrong with our rows.
    pub(super) fn damage(&self) -> Option<&str> {
        match &self.rows {
            Rows::Damaged(wrong) => Some(wrong),
            Rows::Trusted | Rows::Examined | Rows::Sound => None,
        }
    }
}

/// Whether to look through our rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    NotDue,
    Due,
}

#[cfg(test)]
mod tests {
    use kith_gossip_proto::Digest;

    use super::*;

    fn at(vector: u64, bits: u128) -> Fingerprint {
        Fingerprint { vector, digest: Digest::from_bits(bits) }
    }

    #[test]
    fn a_node_looks_once_through_its_rows_when_a_peer_differs_for_long() {
        let peers: [NodeId; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let (mut soundness, second) = (Soundness::default(), Duration::from_secs);
        let compare = |soundness: &mut Soundness, a, now| {
            let told = peers.iter().zip([Some(at(1, a)), None]);
            soundness.compare(at(1, 7), told, second(now))
        };
        assert_eq!(compare(&mut soundness, 8, 1), Look::NotDue);
        assert_eq!(compare(&mut soundness, 8, 30), Look::NotDue);
        assert_eq!(compare(&mut soundness, 8, 31), Look::Due);
        assert_eq!(compare(&mut soundness, 8, 32), Look::NotDue);
        soundness.looked(Some(Vec::new()));
        assert_eq!((compare(&mut soundness, 8, 99), soundness.damage()), (Look::NotDue, None));
        // Another time, after it was put right.
        assert_eq!(compare(&mut soundness, 7, 100), Look::NotDue);
        assert_eq!(soundness.of(&peers[0]), Agreement::Equal);
        assert_eq!((compare(&mut soundness, 8, 101), compare(&mut soundness, 8, 131)), (Look::NotDue, Look::Due));
        soundness.looked(Some(vec!["a row has no stamps".to_owned()]));
        assert_eq!(compare(&mut soundness, 7, 200), Look::NotDue);
        assert_eq!(soundness.damage(), Some("a row has no stamps"));
        assert_eq!(soundness.of(&peers[1]), Agreement::Unknown);
    }
}
