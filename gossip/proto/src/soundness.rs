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
//!
//! A look and a repair read every row, the latter on both sides. So what comes to nothing is tried again later each time,
//! by peer: one that is away, or damaged itself, keeps nobody from asking the next one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::NodeId;
use crate::agreement::{Agreement, DIFFERS_FOR, Fingerprint};
use crate::retry::Retry;

/// How long between two looks for which there is no other reason. A look reads every row, in slices.
pub const LOOK_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// The first look after a start comes within this time, at one that is each node's own, so that not all look at once.
pub const FIRST_LOOK_WITHIN: Duration = Duration::from_secs(60 * 60);

/// How long after a look or a repair that failed the next one is tried, with another peer; with the same one twice as long,
/// and so on ([`crate::retry`]).
pub const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Repairs from sound peers, after which the store is damaged still, before it begins anew. One repair takes some of the
/// buckets, and this many take all of them. As many with one peer, after which two sound stores differ still, come to nothing.
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Doing {
    #[default]
    Nothing,
    Looking,
    Repairing(NodeId),
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
    /// The peer was away or went away, is damaged itself, or has nothing that we lack.
    Away,
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

/// What is known of a peer.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    agreement: Agreement,
    /// Repairs from it since it last agreed.
    repairs: u32,
    retry: Retry,
}

/// Agreement with every peer, and what is known of our own rows.
#[derive(Debug)]
pub struct Soundness {
    peers: BTreeMap<NodeId, Peer>,
    rows: Rows,
    doing: Doing,
    /// When to look although nothing is known to be wrong.
    next_look: Duration,
    /// Looks that could not be made, or found nothing.
    looks: Retry,
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
            looks: Retry::default(),
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
            let mut peer = before.remove(node).unwrap_or_default();
            if let Some(told) = told {
                peer.agreement.compare(ours, told, now);
            }
            if peer.agreement == Agreement::Equal && self.damage().is_none() {
                (peer.repairs, peer.retry) = Default::default();
            }
            self.peers.insert(node.clone(), peer);
        }
        if self.rows == Rows::Sound && self.agrees() {
            self.rows = Rows::Trusted;
        }
        let remedy = self.due(now)?;
        self.doing = match &remedy {
            Remedy::Look(_) => Doing::Looking,
            Remedy::Repair(node, _) => Doing::Repairing(node.clone()),
            Remedy::BeginAnew => Doing::Ending,
        };
        Some(remedy)
    }

    fn due(&mut self, now: Duration) -> Option<Remedy> {
        if self.doing != Doing::Nothing || now < self.not_before {
            return None;
        }
        let differing =
            self.peers.iter().filter_map(|(node, peer)| Some((peer.agreement.differs_for(now)?, node, peer)));
        let differing: Vec<_> = differing.filter(|&(time, ..)| time >= DIFFERS_FOR).collect();
        match &self.rows {
            Rows::Damaged(_) if self.repairs >= IN_VAIN => Some(Remedy::BeginAnew),
            Rows::Damaged(_) => {
                let node = self.after(self.asked.as_ref(), now)?;
                self.asked = Some(node.clone());
                Some(Remedy::Repair(node, Trust::Theirs))
            }
            Rows::Sound if !differing.is_empty() => {
                let due = differing.into_iter().filter(|(.., peer)| peer.retry.is_due(now));
                due.max_by_key(|&(time, ..)| time).map(|(_, node, _)| Remedy::Repair(node.clone(), Trust::Both))
            }
            Rows::Trusted | Rows::Sound if !self.looks.is_due(now) => None,
            Rows::Trusted if !differing.is_empty() => Some(Remedy::Look(Haste::AtOnce)),
            Rows::Trusted | Rows::Sound => (now >= self.next_look).then_some(Remedy::Look(Haste::InSlices)),
        }
    }

    /// Nobody is known to hold other rows.
    fn agrees(&self) -> bool {
        !self.peers.values().any(|peer| matches!(peer.agreement, Agreement::Differs { .. }))
    }

    /// The peer whose turn it is, after the last one.
    fn after(&self, last: Option<&NodeId>, now: Duration) -> Option<NodeId> {
        let mut due = self.peers.iter().filter(|(_, peer)| peer.retry.is_due(now)).map(|(node, _)| node);
        let first = due.clone().next();
        due.find(|&node| last.is_none_or(|last| node > last)).or(first).cloned()
    }

    /// A peer that was away can be reached: what it could not be asked then, it is asked without waiting.
    pub fn met(&mut self, node: &NodeId) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.retry = Retry::default();
        }
    }

    /// Our rows were looked through, with these findings, on whosever wish.
    pub fn looked(&mut self, wrong: &[String], now: Duration) {
        if self.doing == Doing::Looking {
            self.doing = Doing::Nothing;
            self.looks.put_off(DIFFERS_FOR, now);
        }
        self.next_look = now + LOOK_EVERY;
        self.rows = match wrong.first() {
            Some(wrong) => Rows::Damaged(wrong.clone()),
            None if self.agrees() => Rows::Trusted,
            None => Rows::Sound,
        };
        if wrong.is_empty() {
            self.repairs = 0;
        } else {
            self.looks = Retry::default();
        }
    }

    /// The look that was due could not be made.
    pub fn not_looked(&mut self, now: Duration) {
        self.doing = Doing::Nothing;
        self.looks.put_off(AGAIN_AFTER, now);
        self.not_before = now + AGAIN_AFTER;
    }

    /// The repair that was due has ended. After one of damaged rows a look says whether it sufficed.
    pub fn repaired(&mut self, mended: Mended, now: Duration) -> Option<Remedy> {
        let Doing::Repairing(node) = self.doing.clone() else { return None };
        self.doing = Doing::Nothing;
        let mut gone = Peer::default();
        let peer = self.peers.get_mut(&node).unwrap_or(&mut gone);
        let before = std::mem::replace(&mut self.not_before, now + AGAIN_AFTER);
        match (&self.rows, mended) {
            (Rows::Damaged(_), Mended::Stored) => {
                self.not_before = before;
                peer.retry = Retry::default();
                self.repairs += 1;
                self.doing = Doing::Looking;
                return Some(Remedy::Look(Haste::AtOnce));
            }
            (Rows::Damaged(_), Mended::NotStored) => self.repairs += 1,
            (Rows::Damaged(_), Mended::Away) => peer.retry.put_off(AGAIN_AFTER, now),
            (Rows::Trusted | Rows::Sound, Mended::Stored) if peer.repairs < IN_VAIN => {
                peer.repairs += 1;
                self.not_before = now + DIFFERS_FOR;
            }
            (Rows::Trusted | Rows::Sound, Mended::Stored | Mended::NotStored | Mended::Away) => {
                peer.retry.put_off(DIFFERS_FOR, now);
            }
        }
        None
    }

    /// What the comparisons with a peer have said.
    pub fn of(&self, node: &NodeId) -> Agreement {
        self.peers.get(node).map(|peer| peer.agreement).unwrap_or_default()
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
        assert_eq!(bench.soundness.repaired(Mended::Away, 4 * SECOND), None);
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
        for quarter in 0..2 * IN_VAIN {
            assert!(matches!(bench.at(900 * quarter, 7), Some(Remedy::Repair(..))));
            assert_eq!(bench.soundness.repaired(Mended::Away, 900 * quarter * SECOND), None);
        }
        let later = 1_800 * IN_VAIN;
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
    fn peers_from_whom_nothing_comes_are_asked_ever_more_rarely_and_at_once_when_they_are_back() {
        let mut bench = Bench::new();
        bench.looked(0, &["a row is not what was written"]);
        let mut asked = Vec::new();
        for second in 1..7_200 {
            if bench.at(second, 7).is_some() {
                asked.push(second);
                assert_eq!(bench.soundness.repaired(Mended::Away, second * SECOND), None);
            }
        }
        // Of each: seven while the wait doubles, then one in ten minutes. Without that, one in ten seconds of either.
        assert!((30..=36).contains(&asked.len()), "{asked:?}");
        assert_eq!(asked[..4], [1, 11, 21, 31]);
        let late = asked.last().unwrap() + 11;
        assert_eq!(bench.at(late, 7), None);
        let back = bench.peers[1].clone();
        bench.soundness.met(&back);
        assert_eq!(bench.at(late, 7), bench.repair(1, Trust::Theirs));
        // One that gives something is asked as often as there is more to be had.
        assert_eq!(bench.repaired(late + 1), AT_ONCE);
        bench.looked(late + 2, &["another row is not"]);
        assert_eq!(bench.at(late + 3, 7), bench.repair(1, Trust::Theirs));
    }

    #[test]
    fn sound_stores_that_differ_whatever_they_join_compare_ever_more_rarely() {
        let mut bench = Bench::new();
        let (mut looks, mut repairs) = (0, 0);
        for second in 1..4 * 3_600 {
            match bench.at(second, 8) {
                None => {}
                Some(Remedy::Look(_)) => {
                    looks += 1;
                    bench.looked(second, &[]);
                }
                Some(Remedy::Repair(..)) => {
                    repairs += 1;
                    assert_eq!(bench.repaired(second), None);
                }
                Some(Remedy::BeginAnew) => panic!("sound stores begin anew"),
            }
        }
        // Every half minute until all buckets had their turn, then by and by once in ten.
        assert!((IN_VAIN + 20..=IN_VAIN + 30).contains(&repairs), "{repairs}");
        assert_eq!(looks, 1);
        // When they agree for a while, all of it begins anew.
        assert_eq!(bench.at(5 * 3_600, 7), None);
        assert_eq!((bench.at(5 * 3_600 + 1, 8), bench.at(5 * 3_600 + 31, 8)), (None, AT_ONCE));
        bench.looked(5 * 3_600 + 32, &[]);
        assert_eq!(bench.at(5 * 3_600 + 33, 8), bench.repair(0, Trust::Both));
    }

    #[test]
    fn looks_that_find_nothing_or_fail_are_made_ever_more_rarely() {
        let mut bench = Bench::new();
        // A peer that differs for a minute out of two, again and again.
        let mut looks = 0;
        for second in 1..4 * 3_600 {
            if bench.at(second, if second % 120 < 60 { 8 } else { 7 }) == AT_ONCE {
                looks += 1;
                bench.looked(second, &[]);
            } else if let Doing::Repairing(_) = bench.soundness.doing {
                bench.soundness.repaired(Mended::Away, second * SECOND);
            }
        }
        assert!((20..=35).contains(&looks), "{looks}");
        let (mut bench, mut looks) = (Bench::new(), 0);
        for second in 3_600..3 * 3_600 {
            if bench.at(second, 7) == IN_SLICES {
                looks += 1;
                bench.soundness.not_looked(second * SECOND);
            }
        }
        assert!((15..=20).contains(&looks), "{looks}");
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
