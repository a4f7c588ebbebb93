//! Whose clock is believed: the median, and what comes of it for versions and pulls.

use std::sync::Arc;
use std::time::Duration;

use kith_gossip_proto::clocks::{CORRECTED_MS, Clocks, FUTURE_MS, TELL_EVERY, reading, stamped_from};
use kith_gossip_proto::replica::{Input, Output, PULL_AFTER, PullOutcome, Sizes, Stream};
use kith_gossip_proto::version::Life;
use kith_gossip_proto::{Change, Frame, Hlc, Key, NodeId, Replica, Stamp, Value, Vector, Version};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::site_id;

const NOON: u64 = 1_760_000_000_000;
const DAY: u64 = 86_400_000;
const START: Duration = Duration::from_secs(100);

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// Our clock and others', all read at the same moment.
fn clocks(own: u64, peers: &[u64]) -> Clocks {
    let mut clocks = Clocks::default();
    clocks.read(own, START);
    for (number, &wall_ms) in peers.iter().enumerate() {
        clocks.hear(&node(&format!("n{number}")), wall_ms, START);
    }
    clocks
}

fn latest_ms(clocks: &Clocks) -> u64 {
    clocks.latest(START).ms()
}

proptest! {
    /// Whatever the smaller half of the clocks shows, and whoever of them is ours.
    #[test]
    fn while_most_clocks_are_right_so_is_the_median(
        mut right in vec(0u64..1_000, 2..6),
        wrong in vec(any::<u64>(), 0..6),
        ours in any::<prop::sample::Index>(),
    ) {
        let wrong = &wrong[..wrong.len().min(right.len() - 1)];
        right.iter_mut().for_each(|clock| *clock += NOON);
        let mut all: Vec<_> = right.iter().chain(wrong).copied().collect();
        let own = all.swap_remove(ours.index(all.len()));
        let latest = latest_ms(&clocks(own, &all));
        prop_assert!((NOON + FUTURE_MS..NOON + 1_000 + FUTURE_MS).contains(&latest), "{latest}");
        // And whoever stamps by these clocks is believed by them.
        let highest = clocks(own, &all).highest().map(|at_zero| reading(at_zero, START));
        let stamped = stamped_from(own, highest);
        prop_assert!(stamped <= NOON + 1_000 + CORRECTED_MS, "{stamped}");
    }

    /// The order in which they are heard, and what was heard before, make no difference.
    #[test]
    fn the_last_word_of_each_peer_counts(own in any::<u64>(), mut peers in vec((0usize..5, any::<u64>()), 0..12)) {
        let mut heard = Clocks::default();
        peers.iter().for_each(|(peer, wall_ms)| heard.hear(&node(&format!("n{peer}")), *wall_ms, START));
        heard.read(own, START);
        let mut last = Clocks::default();
        last.read(own, START);
        peers.reverse();
        peers.sort_by_key(|&(peer, _)| peer);
        peers.dedup_by_key(|&mut (peer, _)| peer);
        peers.iter().rev().for_each(|(peer, wall_ms)| last.hear(&node(&format!("n{peer}")), *wall_ms, START));
        prop_assert_eq!((latest_ms(&heard), heard.highest()), (latest_ms(&last), last.highest()));
    }
}

#[test]
fn two_nodes_go_by_the_slower_of_their_clocks() {
    for (own, peer) in [(NOON, NOON + DAY), (NOON + DAY, NOON)] {
        assert_eq!(latest_ms(&clocks(own, &[peer])), NOON + FUTURE_MS);
    }
    assert_eq!(clocks(NOON, &[NOON + DAY]).ahead(), None);
    assert_eq!(clocks(NOON + DAY, &[NOON]).ahead(), Some(Duration::from_millis(DAY)));
}

#[test]
fn a_node_alone_believes_itself_and_nothing_is_refused_before_the_clock_was_read() {
    assert_eq!((latest_ms(&clocks(NOON, &[])), clocks(NOON, &[]).ahead()), (NOON + FUTURE_MS, None));
    let mut unread = Clocks::default();
    unread.hear(&node("a"), NOON, START);
    assert_eq!(unread.latest(START), Hlc::MAX);
}

#[test]
fn a_clock_that_jumps_is_ahead_at_the_next_reading_and_those_of_peers_went_on_meanwhile() {
    let mut clocks = clocks(NOON, &[NOON, NOON]);
    let hour = 3_600_000;
    let later = START + Duration::from_millis(hour);
    clocks.read(NOON + hour, later);
    assert_eq!((clocks.ahead(), clocks.offset_ms(&node("n0"))), (None, Some(0)));
    clocks.read(NOON + hour + DAY, later);
    assert_eq!(clocks.ahead(), Some(Duration::from_millis(DAY)));
    assert_eq!(clocks.offset_ms(&node("n0")), Some(-DAY.cast_signed()));
    assert_eq!(clocks.latest(later).ms(), NOON + hour + FUTURE_MS);
}

#[test]
fn what_the_store_holds_is_believed_though_all_clocks_went_back() {
    let mut clocks = clocks(NOON, &[NOON, NOON]);
    clocks.hold(Hlc::from_ms(NOON + DAY), START);
    assert_eq!(latest_ms(&clocks), NOON + DAY + FUTURE_MS);
    // Who stamps from there is believed, also by a peer that holds less of it; and when the clocks are there it is over.
    let later = START + Duration::from_millis(DAY - FUTURE_MS);
    clocks.hold(Hlc::from_ms(NOON + DAY + 7), later - Duration::from_secs(1));
    assert!(clocks.latest(later).ms() >= NOON + DAY + FUTURE_MS);
    clocks.hold(Hlc::from_ms(NOON + DAY + 7), later + Duration::from_millis(7));
    assert_eq!(clocks.latest(later).ms(), NOON + DAY);
}

#[test]
fn a_node_whose_clock_is_behind_goes_on_taking_what_its_store_holds_the_like_of() {
    // Of two clocks the slower is believed, and it is ours, and wrong.
    let mut clocks = clocks(NOON - DAY, &[NOON]);
    clocks.hold(Hlc::from_ms(NOON), START);
    let quiet = Duration::from_secs(3_600);
    assert!(clocks.latest(START + quiet).ms() >= NOON + 3_600_000);
    // Once it is set, it is as if nothing had been.
    clocks.read(NOON + 3_600_000, START + quiet);
    clocks.hold(Hlc::from_ms(NOON), START + quiet);
    assert_eq!(clocks.latest(START + quiet).ms(), NOON + 3_600_000 + FUTURE_MS);
}

proptest! {
    /// Whoever stamps at the very edge, whenever that moves: by clocks that are read anew, and members that come and go.
    #[test]
    fn stamps_at_the_edge_of_what_is_taken_do_not_move_the_edge(
        steps in vec((1u64..20_000, 0usize..4, 0u64..50, any::<bool>()), 1..300),
    ) {
        let mut clocks = clocks(NOON, &[NOON]);
        let (mut held, mut passed) = (NOON, 0);
        for (wait, peer, off, goes) in steps {
            passed += wait;
            let now = START + Duration::from_millis(passed);
            let peer = node(&format!("n{peer}"));
            if goes {
                clocks.forget(&peer);
            } else {
                clocks.hear(&peer, NOON + passed + off, now);
            }
            clocks.read(NOON + passed, now);
            clocks.hold(Hlc::from_ms(held), now);
            let latest = clocks.latest(now).ms();
            prop_assert!(latest >= NOON + passed + FUTURE_MS, "{latest}");
            // Twice: what the median lost by a member that went, the store may hold.
            prop_assert!(latest <= NOON + passed + 2 * FUTURE_MS + 50, "{} ms above the clocks", latest - NOON - passed);
            held = held.max(latest);
        }
    }
}

#[test]
fn own_stamps_are_given_up_only_where_most_clocks_say_that_they_are_ahead() {
    let held = Hlc::from_ms(NOON + DAY);
    let disowned = |own, peers: &[u64]| clocks(own, peers).disowned(held, START).map(Hlc::ms);
    let back = Some(NOON + CORRECTED_MS);
    assert_eq!(disowned(NOON + DAY, &[NOON]), None, "either may be wrong");
    assert_eq!(disowned(NOON, &[NOON + DAY]), None, "either may be wrong");
    assert_eq!(disowned(NOON, &[NOON]), back, "it was ahead, and was set");
    assert_eq!(disowned(NOON + DAY, &[NOON, NOON]), back);
    assert_eq!(disowned(NOON + DAY, &[NOON, NOON + DAY, NOON]), None);
    assert_eq!(disowned(NOON, &[NOON, NOON + DAY, NOON]), back);
    assert_eq!(disowned(NOON, &[]), None);
    assert_eq!(clocks(NOON, &[NOON]).disowned(Hlc::from_ms(NOON + FUTURE_MS), START), None);
}

#[test]
fn who_is_told_that_it_is_refused_gives_up_what_it_wrote_if_it_sees_it_the_same_way() {
    let told = || Input::Received(node("a"), Frame::FromFuture(heads(&[(9, 4)])));
    let mut bench = Bench::new(&[("a", NOON), ("b", NOON)]);
    bench.give(Input::Clock { wall_ms: NOON, held: Hlc::from_ms(NOON) });
    assert_eq!(bench.give(told()), []);
    bench.give(Input::Clock { wall_ms: NOON + DAY, held: Hlc::from_ms(NOON + DAY) });
    let latest = Hlc::from_ms(NOON + CORRECTED_MS);
    assert_eq!(bench.give(told()), [Output::Renounce(heads(&[(9, 4)]), latest)]);
}

#[test]
fn a_clock_is_corrected_before_others_refuse_its_stamps() {
    const { assert!(CORRECTED_MS + 10_000 < FUTURE_MS) };
    assert_eq!(stamped_from(NOON + CORRECTED_MS, Some(NOON)), NOON + CORRECTED_MS);
    assert_eq!(stamped_from(NOON + CORRECTED_MS + 1, Some(NOON)), NOON);
    assert_eq!(stamped_from(NOON - DAY, Some(NOON)), NOON - DAY, "who is behind follows what it has seen");
    assert_eq!(stamped_from(NOON + DAY, None), NOON + DAY);
}

/// A replica with streams to peers whose clocks are known.
struct Bench {
    replica: Replica,
    now: Duration,
}

impl Bench {
    fn new(peers: &[(&str, u64)]) -> Self {
        Self::with(peers, Sizes::default())
    }

    fn with(peers: &[(&str, u64)], sizes: Sizes) -> Self {
        let replica = Replica::with_sizes(node("me"), Vector::default(), 1, START, sizes);
        let mut bench = Self { replica, now: START };
        bench.give(Input::Clock { wall_ms: NOON, held: Hlc::ZERO });
        for (name, wall_ms) in peers {
            bench.give(Input::MemberUp(node(name)));
            bench.give(Input::Opened(node(name), Stream::Ours));
            bench.give(Input::Opened(node(name), Stream::Theirs));
            bench.give(Input::Received(node(name), Frame::Clock(*wall_ms)));
            bench.give(Input::Received(node(name), Frame::Heads(Vector::default())));
        }
        bench
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        let out = self.replica.handle(input, self.now);
        assert!(self.replica.deadline() > self.now, "a deadline that does not lie ahead");
        out
    }

    fn pushes(&mut self, from: &str, versions: &[Version]) -> Vec<Output> {
        let versions = versions.iter().cloned().map(Arc::new).collect();
        self.give(Input::Received(node(from), Frame::Versions(versions)))
    }

    /// Lets the time pass, with the clock going on.
    fn wait(&mut self, time: Duration) -> Vec<(Duration, Output)> {
        let end = self.now + time;
        let mut all = Vec::new();
        while self.replica.deadline() <= end {
            self.now = self.replica.deadline();
            let at = self.now - START;
            let mut out = self.give(Input::Tick);
            if out.contains(&Output::ReadClock) {
                out.extend(self.give(Input::Clock { wall_ms: NOON + millis(at), held: Hlc::ZERO }));
            }
            all.extend(out.into_iter().map(|output| (at, output)));
        }
        self.now = end;
        all
    }

    fn refused(&self) -> Vec<(u8, String, u64)> {
        let refused = self.replica.refused();
        refused.map(|(site, refusal)| (site.as_bytes()[0], refusal.node.to_string(), refusal.version)).collect()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

fn version(site: u8, number: u64, ms: u64) -> Version {
    let change = Change {
        table: "t".into(),
        key: Key::encode([&Value::Integer(1)]).unwrap(),
        cl: 1,
        life: Life::Changed,
        cells: [("a".into(), Value::Integer(1))].into(),
    };
    Version { site: site_id(site), version: number, hlc: Hlc::from_ms(ms), changes: vec![change] }
}

fn handed(out: &[Output]) -> Vec<(u8, u64)> {
    let versions = out.iter().filter_map(|output| match output {
        Output::Apply(versions) => Some(versions),
        _ => None,
    });
    versions.flatten().map(|version| (version.site.as_bytes()[0], version.version)).collect()
}

/// The frames that go to a node.
fn sent<'a>(out: impl IntoIterator<Item = &'a Output>, to: &str) -> Vec<Frame> {
    let frame = |output: &Output| match output {
        Output::Send(node, frame) if node.as_str() == to => Some((**frame).clone()),
        _ => None,
    };
    out.into_iter().filter_map(frame).collect()
}

fn heads(heads: &[(u8, u64)]) -> Vector {
    heads.iter().map(|&(site, head)| (site_id(site), head)).collect()
}

#[test]
fn a_version_from_the_future_is_refused_with_all_that_follows_and_nobody_else_waits() {
    let mut bench = Bench::new(&[("a", NOON), ("b", NOON + DAY)]);
    let out = bench.pushes("b", &[version(2, 1, NOON), version(2, 2, NOON + DAY), version(2, 3, NOON)]);
    assert_eq!(handed(&out), [(2, 1)]);
    assert_eq!(sent(&out, "b"), [Frame::FromFuture(heads(&[(2, 2)]))]);
    assert_eq!((bench.refused(), bench.replica.parked_bytes()), (vec![(2, "b".to_owned(), 2)], 0));
    // A minute ahead is borne, and one of another site is as welcome as ever.
    let out = bench.pushes("a", &[version(1, 1, NOON + FUTURE_MS), version(1, 2, NOON + FUTURE_MS + 1)]);
    assert_eq!(handed(&out), [(1, 1)]);
    // The sender is told once in a while, not each time.
    assert_eq!(sent(&bench.pushes("b", &[version(2, 4, NOON + DAY)]), "b"), []);
    bench.wait(TELL_EVERY);
    let out = bench.pushes("b", &[version(2, 5, NOON + DAY)]);
    assert_eq!(sent(&out, "b"), [Frame::FromFuture(heads(&[(2, 2)]))]);
    assert_eq!(bench.replica.refused_count(), 5);
}

#[test]
fn a_site_that_stamps_at_the_edge_a_thousand_times_is_a_minute_ahead_at_the_end() {
    let mut bench = Bench::new(&[("a", NOON), ("b", NOON)]);
    let mut taken = NOON;
    for number in 1..1_000 {
        // As far ahead as it gets: what is refused costs its sender nothing.
        bench.now += Duration::from_millis(50);
        bench.give(Input::Tick);
        let wall_ms = NOON + millis(bench.now - START);
        bench.give(Input::Clock { wall_ms, held: Hlc::from_ms(taken) });
        taken = bench.replica.latest(bench.now).ms();
        let out = bench.pushes("b", &[version(2, number, taken)]);
        assert_eq!(handed(&out), [(2, number)]);
        bench.give(Input::Stored(heads(&[(2, number)])));
        assert_eq!(taken, wall_ms + FUTURE_MS);
    }
}

#[test]
fn what_a_peer_forges_of_another_site_keeps_nobody_from_hearing_the_site_itself() {
    let mut bench = Bench::new(&[("a", NOON), ("b", NOON)]);
    let out = bench.pushes("b", &[version(1, 1, NOON + DAY), version(2, 1, NOON)]);
    assert_eq!(handed(&out), [(2, 1)], "its own are sound");
    assert_eq!(handed(&bench.pushes("a", &[version(1, 1, NOON), version(1, 2, NOON)])), [(1, 1), (1, 2)]);
    // It is the forger who is named, and who is not heard on that site.
    assert_eq!(handed(&bench.pushes("b", &[version(1, 3, NOON)])), []);
    assert_eq!(bench.refused(), [(1, "b".to_owned(), 1)]);
    bench.give(Input::Stored(heads(&[(1, 2)])));
    assert_eq!(bench.refused(), []);
    assert_eq!(handed(&bench.pushes("b", &[version(1, 3, NOON)])), [(1, 3)]);
}

#[test]
fn an_update_of_a_row_from_the_future_is_from_the_future() {
    let mut bench = Bench::new(&[("a", NOON), ("b", NOON)]);
    bench.pushes("b", &[version(2, 1, NOON)]);
    let mut update = version(2, 2, NOON);
    let rs = Stamp { hlc: Hlc::from_ms(NOON + DAY), site: site_id(2), version: 1, seq: 0 };
    update.changes[0].life = Life::Since(rs);
    assert_eq!(handed(&bench.pushes("b", &[update])), []);
    assert_eq!(bench.replica.refused_count(), 1);
}

#[test]
fn what_was_refused_is_taken_once_it_is_due_or_once_the_clocks_say_otherwise() {
    let due = Duration::from_secs(30);
    let early = version(2, 1, NOON + FUTURE_MS + millis(due));
    let mut bench = Bench::new(&[("a", NOON), ("b", NOON)]);
    assert_eq!(handed(&bench.pushes("b", std::slice::from_ref(&early))), []);
    bench.wait(due - Duration::from_millis(1));
    assert_eq!(handed(&bench.pushes("b", std::slice::from_ref(&early))), []);
    bench.wait(TELL_EVERY);
    assert_eq!((handed(&bench.pushes("b", &[early])), bench.refused()), (vec![(2, 1)], vec![]));

    let mut bench = Bench::new(&[("a", NOON), ("b", NOON + DAY)]);
    let ahead = version(2, 1, NOON + DAY);
    assert_eq!(handed(&bench.pushes("b", std::slice::from_ref(&ahead))), []);
    // It was the others who were slow.
    bench.give(Input::Received(node("a"), Frame::Clock(NOON + DAY)));
    bench.give(Input::Clock { wall_ms: NOON + DAY, held: Hlc::ZERO });
    assert_eq!((handed(&bench.pushes("b", &[ahead])), bench.refused()), (vec![(2, 1)], vec![]));
}

#[test]
fn who_answers_from_the_future_is_told_and_left_alone_while_others_are_asked() {
    let mut bench = Bench::new(&[("a", NOON), ("b", NOON)]);
    bench.give(Input::Received(node("b"), Frame::Heads(heads(&[(2, 3)]))));
    let pulls = |out: Vec<(Duration, Output)>| {
        let pull = |(at, output)| match output {
            Output::Pull(node, _) => Some((at, node.to_string())),
            _ => None,
        };
        out.into_iter().filter_map(pull).collect::<Vec<_>>()
    };
    assert_eq!(pulls(bench.wait(PULL_AFTER)), [(PULL_AFTER, "b".to_owned())]);
    let stamp = Stamp { hlc: Hlc::from_ms(NOON + DAY), site: site_id(2), version: 3, seq: 0 };
    let out = bench.give(Input::Pulled(node("b"), PullOutcome::FromFuture(stamp)));
    assert_eq!(sent(&out, "b"), [Frame::FromFuture(heads(&[(2, 3)]))]);
    bench.give(Input::Received(node("a"), Frame::Heads(heads(&[(1, 1)]))));
    let next = pulls(bench.wait(PULL_AFTER));
    assert_eq!(next.iter().map(|(_, from)| from.as_str()).collect::<Vec<_>>(), ["a"]);
    bench.give(Input::Stored(heads(&[(1, 1)])));
    bench.give(Input::Pulled(node("a"), PullOutcome::Joined));
    // The turn of a random one comes meanwhile, and is not its.
    let meanwhile = pulls(bench.wait(Duration::from_millis(8_500)));
    assert!(meanwhile.iter().all(|(_, from)| from == "a"), "{meanwhile:?}");
    bench.give(Input::Pulled(node("a"), PullOutcome::Joined));
    let again = PULL_AFTER + Duration::from_secs(10);
    assert_eq!(pulls(bench.wait(PULL_AFTER)), [(again, "b".to_owned())]);
}

#[test]
fn a_refusal_is_forgotten_when_nobody_offers_it_any_more() {
    let mut bench = Bench::new(&[("a", NOON), ("b", NOON + DAY)]);
    bench.pushes("b", &[version(2, 1, NOON + DAY)]);
    bench.wait(Duration::from_secs(55));
    assert_eq!(bench.refused().len(), 1);
    bench.wait(Duration::from_secs(15));
    assert_eq!(bench.refused(), []);
}

#[test]
fn clocks_are_told_every_ten_seconds_and_forgotten_with_the_last_stream() {
    let mut bench = Bench::new(&[("a", NOON + DAY)]);
    let out = bench.wait(2 * TELL_EVERY);
    let told: Vec<_> = out
        .iter()
        .filter_map(|(at, output)| sent([output], "a").pop().map(|frame| (*at, frame)))
        .filter(|(_, frame)| matches!(frame, Frame::Clock(_)))
        .collect();
    let tells = |times: u32| (times * TELL_EVERY, Frame::Clock(NOON + millis(times * TELL_EVERY)));
    assert_eq!(told, [tells(1), tells(2)]);
    assert_eq!(bench.replica.clocks().offset_ms(&node("a")), Some(DAY.cast_signed()));
    bench.give(Input::Closed(node("a"), Stream::Ours));
    assert!(bench.replica.clocks().highest().is_some());
    bench.give(Input::Closed(node("a"), Stream::Theirs));
    assert_eq!(bench.replica.clocks().highest(), None);
    // A frame that comes late of a stream that has ended.
    bench.give(Input::Received(node("a"), Frame::Clock(NOON)));
    assert_eq!(bench.replica.clocks().highest(), None);
}

#[test]
fn in_a_tree_what_is_from_the_future_is_neither_forwarded_nor_grafted() {
    let mut bench = Bench::with(&[("a", NOON), ("b", NOON), ("c", NOON)], Sizes { whole_up_to: 0, tree_above: 0 });
    let out = bench.pushes("a", &[version(1, 1, NOON + DAY)]);
    assert_eq!((sent(&out, "b"), sent(&out, "c")), (vec![], vec![]));
    bench.give(Input::Received(node("a"), Frame::Heads(heads(&[(1, 1)]))));
    let grafts = bench
        .wait(PULL_AFTER)
        .into_iter()
        .filter(|(_, output)| matches!(output, Output::Send(_, frame) if matches!(**frame, Frame::Graft(_))));
    assert_eq!(grafts.count(), 0);
}
