//! Whether this store holds what its peers hold; and where it does not, whether it is the one that is wrong, and who puts
//! it right.
//!
//! ```text
//!            a day is over, or a peer differs for 30 s             nothing is wrong
//! trusted ───────────────────────────────────────────► looking ───────────────────► trusted, or sound while a peer differs
//!    ▲                                                   │   ▲                                 │ every 30 s
//!    │                                something is wrong │   │ repaired                        ▼
//!    │                                                   ▼   │                       rows joined with that peer's
//!    └── nothing is wrong ◄── looking ◄── repaired ── damaged: answers no pull, asks one peer after the other
//! ```
//! A look says what is wrong by this store's own account; a repair takes from a peer what that account cannot give. So a
//! store that is damaged changes itself, and never its peers; two that are sound and differ join their rows, as ever. Where
//! repairs are in vain, since what is broken is not the rows but the file that they would go to, the store begins anew: only
//! then, and only when peers have just shown that they are sound. A fault of ours may make all nodes find themselves
//! damaged at the same time, and none of them may throw away what it has.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::NodeId;
use crate::agreement::{Agreement, DIFFERS_FOR, Fingerprint};

/// How long between two looks for which there is no other reason. A look reads every row, in slices.
pub const LOOK_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// The first look after a start comes within this time, at one that is each node's own, so that not all look at once.
pub const FIRST_LOOK_WITHIN: Duration = Duration::from_secs(60 * 60);

/// How long after a look or a repair that failed the next one is tried, with another peer.
pub const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Repairs from sound peers, after which the store is damaged still, before it begins anew. One repair takes some of the
/// buckets, and this many take all of them.
pub const IN_VAIN: u32 = 20;

/// What is known of our own rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Rows {
    /// There was no reason to look.
    #[default]
    Trusted,
    /// They are what the store says of them, and still a peer has others.
    Sound,
    /// They are not; the first finding.
    Damaged(String),
}

/// What is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Doing {
    #[default]
    Nothing,
    Looking,
    Repairing,
    /// The last thing.
    Ending,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Look through all our rows, fast or in slices. Answered by [`Soundness::looked`] or [`Soundness::not_looked`].
    Look(Haste),
    /// Compare our buckets with this peer's and take from it what differs. Answered by [`Soundness::repaired`].
    Repair(NodeId, Trust),
    /// Give up the store's file, and begin anew from the peers. Not answered.
    BeginAnew,
}

/// How a repair ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// The peer could not be asked, or is damaged itself.
    Unasked,
    /// The peer has shown itself sound, and its rows could not be stored.
    NotStored,
    /// Its rows are stored.
    Stored,
}

/// How fast to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// There is something wrong with somebody's rows.
    AtOnce,
    /// Nobody waits.
    InSlices,
}

/// Whose rows count where ours and the peer's differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Both: they are joined.
    Both,
    /// The peer's: ours are damaged.
    Theirs,
}

/// Agreement with every peer, and what is known of our own rows.
#[derive(Debug)]
pub struct Soundness {
    peers: BTreeMap<NodeId, Agreement>,
    rows: Rows,
    doing: Doing,
    /// When to look although nothing is known to be wrong.
    next_look: Duration,
    /// Nothing else before that: what was tried last has failed, or needs its time.
    not_before: Duration,
    /// Whom we asked last to repair us.
    asked: Option<NodeId>,
    /// Repairs from sound peers since the rows were sound.
    repairs: u32,
}

impl Soundness {
    /// At the start of a node, `now`. The seed is the node's own.
    pub fn new(seed: u64, now: Duration) -> Self {
        let within = u64::try_from(FIRST_LOOK_WITHIN.as_millis()).unwrap_or(u64::MAX);
        Self {
            peers: BTreeMap::new(),
            rows: Rows::Trusted,
            doing: Doing::Nothing,
            next_look: now + Duration::from_millis(seed % within),
            not_before: now,
            asked: None,
            repairs: 0,
        }
    }

    /// Compares with what the peers have told: those that can be reached, and by whom. Returns what is due.
    pub fn compare<'a>(
        &mut self,
        ours: Fingerprint,
        theirs: impl Iterator<Item = (&'a NodeId, Option<Fingerprint>)>,
        now: Duration,
    ) -> Option<Remedy> {
        let mut before = std::mem::take(&mut self.peers);
        for (node, told) in theirs {
            let mut agreement = before.remove(node).unwrap_or_default();
            if let Some(told) = told {
                agreement.compare(ours, told, now);
            }
            self.peers.insert(node.clone(), agreement);
        }
        if self.rows == Rows::Sound && self.agrees() {
            self.rows = Rows::Trusted;
        }
        let remedy = self.due(now)?;
        self.doing = match remedy {
            Remedy::Look(_) => Doing::Looking,
            Remedy::Repair(..) => Doing::Repairing,
            Remedy::BeginAnew => Doing::Ending,
        };
        Some(remedy)
    }

    fn due(&mut self, now: Duration) -> Option<Remedy> {
        if self.doing != Doing::Nothing || now < self.not_before {
            return None;
        }
        let differing = self.peers.iter().filter_map(|(node, agreement)| Some((agreement.differs_for(now)?, node)));
        let longest = differing.max().filter(|&(time, _)| time >= DIFFERS_FOR).map(|(_, node)| node.clone());
        match (&self.rows, longest) {
            (Rows::Damaged(_), _) if self.repairs >= IN_VAIN => Some(Remedy::BeginAnew),
            (Rows::Damaged(_), _) => {
                let node = self.after(self.asked.as_ref())?;
                self.asked = Some(node.clone());
                Some(Remedy::Repair(node, Trust::Theirs))
            }
            (Rows::Trusted, Some(_)) => Some(Remedy::Look(Haste::AtOnce)),
            (Rows::Sound, Some(node)) => Some(Remedy::Repair(node, Trust::Both)),
            (Rows::Trusted | Rows::Sound, _) if now >= self.next_look => Some(Remedy::Look(Haste::InSlices)),
            (Rows::Trusted | Rows::Sound, _) => None,
        }
    }

    /// Nobody is known to hold other rows.
    fn agrees(&self) -> bool {
        !self.peers.values().any(|agreement| matches!(agreement, Agreement::Differs { .. }))
    }

    /// The peer whose turn it is, after the last one.
    fn after(&self, last: Option<&NodeId>) -> Option<NodeId> {
        let later = last.and_then(|last| self.peers.keys().find(|&node| node > last));
        later.or_else(|| self.peers.keys().next()).cloned()
    }

    /// Our rows were looked through, with these findings, on whosever wish.
    pub fn looked(&mut self, wrong: &[String], now: Duration) {
        if self.doing == Doing::Looking {
            self.doing = Doing::Nothing;
        }
        self.next_look = now + LOOK_EVERY;
        self.rows = match wrong.first() {
            Some(wrong) => Rows::Damaged(wrong.clone()),
            None if self.agrees() => Rows::Trusted,
            None => Rows::Sound,
        };
        if wrong.is_empty() {
            self.repairs = 0;
        }
    }

    /// The look that was due could not be made.
    pub fn not_looked(&mut self, now: Duration) {
        self.doing = Doing::Nothing;
        self.not_before = now + AGAIN_AFTER;
    }

    /// The repair that was due has ended. After one of damaged rows a look says whether it sufficed.
    pub fn repaired(&mut self, mended: Mended, now: Duration) -> Option<Remedy> {
        self.doing = Doing::Nothing;
        match (&self.rows, mended) {
            (Rows::Damaged(_), Mended::Stored) => {
                self.repairs += 1;
                self.doing = Doing::Looking;
                Some(Remedy::Look(Haste::AtOnce))
            }
            (Rows::Damaged(_), Mended::NotStored) => {
                self.repairs += 1;
                self.not_before = now + AGAIN_AFTER;
                None
            }
            (Rows::Damaged(_), Mended::Unasked) => {
                self.not_before = now + AGAIN_AFTER;
                None
            }
            (Rows::Trusted | Rows::Sound, _) => {
                self.not_before = now + DIFFERS_FOR;
                None
            }
        }
    }

    /// What the comparisons with a peer have said.
    pub fn of(&self, node: &NodeId) -> Agreement {
        self.peers.get(node).copied().unwrap_or_default()
    }

    /// What is wrong with our rows.
    pub fn damage(&self) -> Option<&str> {
        match &self.rows {
            Rows::Damaged(wrong) => Some(wrong),
            Rows::Trusted | Rows::Sound => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Day, Digest};

    const SECOND: Duration = Duration::from_secs(1);

    struct Bench {
        soundness: Soundness,
        peers: Vec<NodeId>,
    }

    impl Bench {
        fn new() -> Self {
            let peers = ["a", "b"].map(|name| name.parse().unwrap()).into();
            Self { soundness: Soundness::new(u64::MAX, Duration::ZERO), peers }
        }

        /// What is due at a second, when the first peer has these bits at our vector, and the second one says nothing.
        fn at(&mut self, second: u32, bits: u128) -> Option<Remedy> {
            let print = |bits| Fingerprint { vector: 1, floor: Day(0), digest: Digest::from_bits(bits) };
            let told = self.peers.iter().zip([Some(print(bits)), None]);
            self.soundness.compare(print(7), told, second * SECOND)
        }

        fn looked(&mut self, second: u32, wrong: &[&str]) {
            let wrong: Vec<_> = wrong.iter().map(|&wrong| wrong.to_owned()).collect();
            self.soundness.looked(&wrong, second * SECOND);
        }

        fn repaired(&mut self, second: u32) -> Option<Remedy> {
            self.soundness.repaired(Mended::Stored, second * SECOND)
        }

        fn repair(&self, peer: usize, trust: Trust) -> Option<Remedy> {
            Some(Remedy::Repair(self.peers[peer].clone(), trust))
        }
    }

    const AT_ONCE: Option<Remedy> = Some(Remedy::Look(Haste::AtOnce));
    const IN_SLICES: Option<Remedy> = Some(Remedy::Look(Haste::InSlices));

    #[test]
    fn a_node_that_differs_and_is_sound_joins_its_rows_with_the_peers_again_and_again() {
        let mut bench = Bench::new();
        assert_eq!((bench.at(1, 8), bench.at(30, 8), bench.at(31, 8), bench.at(32, 8)), (None, None, AT_ONCE, None));
        bench.looked(33, &[]);
        assert_eq!((bench.at(34, 8), bench.at(35, 8)), (bench.repair(0, Trust::Both), None));
        assert_eq!((bench.repaired(36), bench.at(65, 8), bench.at(66, 8)), (None, None, bench.repair(0, Trust::Both)));
        assert_eq!((bench.repaired(67), bench.at(68, 7)), (None, None));
        assert_eq!(bench.soundness.of(&bench.peers[0]), Agreement::Equal);
        assert_eq!(bench.soundness.of(&bench.peers[1]), Agreement::Unknown);
        // Another time: it looks again before it takes anything.
        assert_eq!((bench.at(100, 8), bench.at(129, 8), bench.at(130, 8)), (None, None, AT_ONCE));
    }

    #[test]
    fn a_damaged_node_asks_one_peer_after_the_other_until_a_look_finds_nothing() {
        let mut bench = Bench::new();
        bench.looked(1, &["a row is not what was written"]);
        assert_eq!(bench.soundness.damage(), Some("a row is not what was written"));
        // Whether anybody differs does not matter.
        assert_eq!((bench.at(2, 7), bench.at(3, 8)), (bench.repair(0, Trust::Theirs), None));
        assert_eq!(bench.soundness.repaired(Mended::Unasked, 4 * SECOND), None);
        assert_eq!((bench.at(13, 7), bench.at(14, 7)), (None, bench.repair(1, Trust::Theirs)));
        assert_eq!((bench.repaired(15), bench.at(16, 7)), (AT_ONCE, None));
        bench.looked(17, &["another row is not"]);
        assert_eq!((bench.at(18, 7), bench.repaired(19)), (bench.repair(0, Trust::Theirs), AT_ONCE));
        bench.soundness.not_looked(20 * SECOND);
        assert_eq!((bench.at(29, 7), bench.at(30, 7)), (None, bench.repair(1, Trust::Theirs)));
        assert_eq!(bench.repaired(31), AT_ONCE);
        bench.looked(32, &[]);
        assert_eq!(bench.soundness.damage(), None);
        assert_eq!(bench.at(60, 7), None);
    }

    #[test]
    fn a_store_begins_anew_when_what_sound_peers_gave_it_does_not_help() {
        let mut bench = Bench::new();
        bench.looked(1, &["a row stays where no key leads to it"]);
        // A peer that does not answer says nothing of either.
        for minute in 0..2 * IN_VAIN {
            assert!(matches!(bench.at(60 * minute, 7), Some(Remedy::Repair(..))));
            assert_eq!(bench.soundness.repaired(Mended::Unasked, 60 * minute * SECOND), None);
        }
        let later = 120 * IN_VAIN;
        for minute in 0..IN_VAIN {
            assert!(matches!(bench.at(later + 60 * minute, 7), Some(Remedy::Repair(..))));
            if minute % 2 == 0 {
                assert_eq!(bench.soundness.repaired(Mended::NotStored, (later + 60 * minute) * SECOND), None);
            } else {
                assert_eq!(bench.repaired(later + 60 * minute), AT_ONCE);
                bench.looked(later + 60 * minute, &["a row stays where no key leads to it"]);
            }
        }
        let end = later + 60 * IN_VAIN;
        assert_eq!((bench.at(end, 7), bench.at(2 * end, 7)), (Some(Remedy::BeginAnew), None));
    }

    #[test]
    fn every_row_is_looked_at_once_a_day_and_first_within_an_hour() {
        let mut bench = Bench::new();
        let first = (0..3_600).find_map(|second| Some((second, bench.at(second, 7)?)));
        let Some((first, Remedy::Look(Haste::InSlices))) = first else { panic!("{first:?}") };
        bench.looked(first + 60, &[]);
        let day = 24 * 60 * 60;
        assert_eq!((bench.at(first + 59 + day, 7), bench.at(first + 60 + day, 7)), (None, IN_SLICES));
    }

    #[test]
    fn a_damaged_node_without_peers_waits_for_one() {
        let mut alone = Soundness::new(0, Duration::ZERO);
        alone.looked(&["a row is not what was written".to_owned()], SECOND);
        let ours = Fingerprint { vector: 1, floor: Day(0), digest: Digest::default() };
        assert_eq!(alone.compare(ours, std::iter::empty(), 2 * SECOND), None);
        let peer = "a".parse().unwrap();
        let remedy = alone.compare(ours, [(&peer, None)].into_iter(), 3 * SECOND);
        assert_eq!(remedy, Some(Remedy::Repair(peer, Trust::Theirs)));
    }
}
