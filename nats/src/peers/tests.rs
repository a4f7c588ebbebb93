use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{HOLD, Held, Kept, MISSES, NotKept, Peers, Ports};
use crate::resolve::{Answer, Failure, MOST};

const TTL: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

fn members(held: &Held<u32>) -> BTreeSet<u32> {
    held.iter().copied().collect()
}

/// Asks every so often, from a start, with the same answer.
fn ask(held: &mut Held<u32>, from: Instant, seconds: std::ops::Range<u64>, answer: &Answer<u32>) {
    for second in seconds {
        held.observe(answer, from + SECOND * u32::try_from(second).expect("a short test"));
    }
}

#[test]
fn twenty_seconds_of_empty_dns_change_nothing_nor_do_ten_minutes() {
    let start = Instant::now();
    let mut held = Held::new(MOST);
    held.observe(&Answer::of([1, 2, 3], TTL), start);
    let before = held.clone();
    ask(&mut held, start, 1..20, &Answer::Empty);
    assert_eq!(held, before);
    ask(&mut held, start, 20..600, &Answer::Failed(Failure::TimedOut));
    assert_eq!(held, before);
}

#[test]
fn who_is_absent_goes_after_three_misses_over_a_minute_and_a_half_and_not_before() {
    let start = Instant::now();
    let mut held = Held::new(MOST);
    held.observe(&Answer::of([1, 2], TTL), start);
    ask(&mut held, start, 1..91, &Answer::of([1], TTL));
    assert_eq!(members(&held), [1, 2].into(), "absent for 89 s: a restart takes a minute");
    ask(&mut held, start, 91..92, &Answer::of([1], TTL));
    assert_eq!(members(&held), [1].into());

    let mut rare = Held::new(MOST);
    rare.observe(&Answer::of([1, 2], TTL), start);
    for minutes in [2, 4] {
        rare.observe(&Answer::of([1], TTL), start + Duration::from_secs(60 * minutes));
    }
    assert_eq!(members(&rare), [1, 2].into(), "two misses, two minutes apart");
}

#[test]
fn who_flaps_each_second_stays() {
    let start = Instant::now();
    let mut held = Held::new(MOST);
    for second in 0..600_u32 {
        let answer = if second % 2 == 0 { Answer::of([1, 2], TTL) } else { Answer::of([1], TTL) };
        held.observe(&answer, start + SECOND * second);
        assert_eq!(members(&held), [1, 2].into());
    }
}

#[test]
fn empty_answers_between_do_not_count_as_presence() {
    let start = Instant::now();
    let mut held = Held::new(MOST);
    held.observe(&Answer::of([1, 2], TTL), start);
    for second in 1..=91 {
        let answer = if second % 2 == 0 { Answer::Empty } else { Answer::of([1], TTL) };
        held.observe(&answer, start + SECOND * second);
    }
    ask(&mut held, start, 91..94, &Answer::of([1], TTL));
    assert_eq!(members(&held), [1].into());
}

#[test]
fn a_thousand_addresses_find_no_more_room_than_there_is() {
    let start = Instant::now();
    let mut held = Held::new(MOST);
    held.observe(&Answer::of([9_000], TTL), start);
    for second in 0..20_u32 {
        held.observe(&Answer::of(second * 1_000..(second + 1) * 1_000, TTL), start + SECOND * second);
        assert!(held.iter().count() <= MOST);
    }
    assert!(held.contains(&9_000), "who was there is not pushed out");
}

fn answers() -> impl Strategy<Value = Vec<(u8, Answer<u32>)>> {
    let answer = prop_oneof![
        4 => proptest::collection::btree_set(0..6_u32, 1..4).prop_map(|set| Answer::of(set, TTL)),
        1 => Just(Answer::Empty),
        1 => Just(Answer::Failed(Failure::TimedOut)),
    ];
    proptest::collection::vec((0..36_u8, answer), 1..60)
}

proptest! {
    /// The whole promise, against a model that keeps all answers and looks back.
    #[test]
    fn a_peer_is_held_unless_three_answers_over_a_minute_and_a_half_lacked_it(history in answers()) {
        let start = Instant::now();
        let (mut now, mut held) = (start, Held::new(MOST));
        let mut heard: Vec<(Instant, BTreeSet<u32>)> = Vec::new();
        for (seconds, answer) in history {
            now += SECOND * u32::from(seconds);
            held.observe(&answer, now);
            if let Answer::Records(records) = answer {
                heard.push((now, records.set));
            }
            for peer in 0..6 {
                prop_assert_eq!(held.contains(&peer), model(&heard, peer), "peer {} after {:?}", peer, heard);
            }
        }
    }

    #[test]
    fn what_no_answer_said_is_never_held(history in answers()) {
        let start = Instant::now();
        let mut held = Held::new(MOST);
        let mut said = BTreeSet::new();
        for (second, (_, answer)) in history.into_iter().enumerate() {
            held.observe(&answer, start + SECOND * u32::try_from(second).expect("short"));
            if let Answer::Records(records) = answer {
                said.extend(records.set);
            }
            prop_assert!(held.iter().all(|peer| said.contains(peer)));
            prop_assert_eq!(held.is_empty(), said.is_empty());
        }
    }
}

/// Whether `peer` is to be held after these answers: in one of them, and since the last that held it not yet absent from
/// so many over so long.
fn model(heard: &[(Instant, BTreeSet<u32>)], peer: u32) -> bool {
    let Some(last) = heard.iter().rposition(|(_, set)| set.contains(&peer)) else { return false };
    let lacking = &heard[last + 1..];
    let gone = |upto: usize| {
        let over = lacking[upto].0.saturating_duration_since(lacking[0].0);
        u32::try_from(upto + 1).expect("short") >= MISSES && over >= HOLD
    };
    !(0..lacking.len()).any(gone)
}

fn some_peers() -> Peers {
    let now = Instant::now();
    let mut peers = Peers::default();
    peers.center.observe(&Answer::of([ip(1), ip(2)], TTL), now);
    let ams = "ams".parse().expect("a name");
    peers.observe_regions(&Answer::of([Clone::clone(&ams)], TTL), Some(&ams), now);
    peers.observe_region(&ams, &Answer::of([ip(1)], TTL), now);
    peers.routes = Ports { all: Some(16_222), of: [(ip(2), 6_222)].into() };
    peers
}

#[tokio::test]
async fn what_was_kept_is_what_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("peers.json");
    let mut kept = Kept::at(path.clone());
    assert_eq!(kept.read().await.expect("no file"), Peers::default());
    kept.write(&some_peers()).await.expect("room");
    assert_eq!(Kept::at(path.clone()).read().await.expect("a file"), some_peers());
    insta::assert_snapshot!(std::fs::read_to_string(&path).expect("a file"), @r#"{"center":["10.0.0.1","10.0.0.2"],"regions":{"ams":["10.0.0.1"]},"routes":{"all":16222,"of":{"10.0.0.2":6222}},"gateways":{"all":null,"of":{}},"leaves":{"all":null,"of":{}}}"#);
}

#[tokio::test]
async fn a_damaged_file_is_said_and_a_name_in_it_that_is_none_is_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("peers.json");
    std::fs::write(&path, "{").expect("room");
    assert!(matches!(Kept::at(path.clone()).read().await, Err(NotKept::Damaged(..))));
    let odd = r#"{"center":[],"regions":{"a b":["10.0.0.1"]},"routes":{"all":null,"of":{}},"gateways":{"all":null,"of":{}},"leaves":{"all":null,"of":{}}}"#;
    std::fs::write(&path, odd).expect("room");
    assert_eq!(Kept::at(path).read().await.expect("a file"), Peers::default());
}
