//! Rules of the replica one by one: who is told, what is handed on, when is pulled.

use std::sync::Arc;
use std::time::Duration;

use kith_gossip_proto::buckets::Buckets;
use kith_gossip_proto::frame::{Answered, Question};
use kith_gossip_proto::replica::{
    GRAFT_AFTER, HEADS_EVERY, Input, Output, PULL_AFTER, PULL_EVERY, PULL_RETRY, PullOutcome, Sizes, Stream,
    WHOLE_HEADS_AFTER,
};
use kith_gossip_proto::version::Life;
use kith_gossip_proto::{Change, Frame, Hlc, Key, NodeId, Replica, Stamp, Value, Vector, Version};

use crate::arbitrary::site_id;

const MS: Duration = Duration::from_millis(1);
const START: Duration = Duration::from_secs(100);

/// A replica and its time.
struct Bench {
    replica: Replica,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self { replica: Replica::new(node("me"), Vector::default(), 1, START), now: START }
    }

    /// With both streams to these nodes, which have told that they have nothing.
    fn with(nodes: &[&str]) -> Self {
        let mut bench = Self::new();
        for name in nodes {
            bench.give(Input::MemberUp(node(name)));
            bench.open(name);
            bench.give(Input::Received(node(name), Frame::Heads(Vector::default())));
        }
        bench
    }

    fn open(&mut self, name: &str) {
        self.give(Input::Opened(node(name), Stream::Ours));
        self.give(Input::Opened(node(name), Stream::Theirs));
    }

    /// Whatever it is given, its deadline lies ahead: a shell that waits for it never spins.
    fn give(&mut self, input: Input) -> Vec<Output> {
        let out = self.replica.handle(input, self.now);
        assert!(self.replica.deadline() > self.now, "a deadline that does not lie ahead");
        out
    }

    fn tells(&mut self, name: &str, heads: &[(u8, u64)]) -> Vec<Output> {
        self.give(Input::Received(node(name), Frame::Heads(vector(heads))))
    }

    fn receives(&mut self, versions: Vec<Version>) -> Vec<Output> {
        let versions = versions.into_iter().map(Arc::new).collect();
        self.give(Input::Received(node("a"), Frame::Versions(versions)))
    }

    /// Ticks at every deadline until then. Returns what came out, with its time.
    fn wait(&mut self, time: Duration) -> Vec<(Duration, Output)> {
        let end = self.now + time;
        let mut all = Vec::new();
        while self.replica.deadline() <= end {
            self.now = self.replica.deadline();
            let at = self.now;
            all.extend(self.give(Input::Tick).into_iter().map(|output| (at - START, output)));
        }
        self.now = end;
        all
    }

    fn wait_for_pulls(&mut self, time: Duration) -> Vec<(Duration, String)> {
        pulls(self.wait(time))
    }
}

fn pulls(outputs: impl IntoIterator<Item = (Duration, Output)>) -> Vec<(Duration, String)> {
    let pull = |(at, output)| match output {
        Output::Pull(node, _) => Some((at, node.to_string())),
        _ => None,
    };
    outputs.into_iter().filter_map(pull).collect()
}

fn pulled_from(outputs: Vec<Output>) -> Vec<String> {
    pulls(outputs.into_iter().map(|output| (Duration::ZERO, output))).into_iter().map(|(_, node)| node).collect()
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn vector(heads: &[(u8, u64)]) -> Vector {
    heads.iter().map(|&(site, head)| (site_id(site), head)).collect()
}

/// A version that writes one row of so many bytes, created by itself or by another version.
fn version(site: u8, number: u64, bytes: usize, life: Life) -> Version {
    let change = Change {
        table: "t".into(),
        key: Key::encode([&Value::Integer(1)]).unwrap(),
        cl: 1,
        life,
        cells: [("a".into(), Value::Blob(vec![0; bytes].into()))].into(),
    };
    Version { site: site_id(site), version: number, hlc: Hlc::from_ms(number), changes: vec![change] }
}

fn small(site: u8, number: u64) -> Version {
    version(site, number, 1, Life::Changed)
}

/// An update by one site of a row that a version of another created.
fn update(site: u8, number: u64, of: (u8, u64)) -> Version {
    let rs = Stamp { hlc: Hlc::from_ms(1), site: site_id(of.0), version: of.1, seq: 0 };
    version(site, number, 1, Life::Since(rs))
}

/// The versions handed to the store, as (site, number).
fn handed(outputs: &[Output]) -> Vec<(u8, u64)> {
    let versions = outputs.iter().filter_map(|output| match output {
        Output::Apply(versions) => Some(versions),
        _ => None,
    });
    versions.flatten().map(|version| (version.site.as_bytes()[0], version.version)).collect()
}

fn told(outputs: &[Output], name: &str) -> Vec<Vector> {
    let heads = |output: &Output| match output {
        Output::Send(to, frame) if *to == node(name) => match &**frame {
            Frame::Heads(heads) => Some(heads.clone()),
            _ => None,
        },
        _ => None,
    };
    outputs.iter().filter_map(heads).collect()
}

#[test]
fn versions_are_handed_on_in_order_whatever_order_they_come_in() {
    let mut bench = Bench::new();
    assert_eq!(handed(&bench.receives(vec![small(1, 3), small(1, 2)])), []);
    assert_eq!(handed(&bench.receives(vec![small(1, 1), small(1, 1)])), [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(handed(&bench.receives(vec![small(1, 2), small(1, 3)])), [], "known ones are dropped");
    assert_eq!(bench.replica.parked_bytes(), 0);
}

#[test]
fn an_update_waits_for_the_version_that_created_its_row() {
    let mut bench = Bench::new();
    assert_eq!(handed(&bench.receives(vec![update(1, 1, (2, 2)), small(1, 2)])), []);
    assert_eq!(handed(&bench.receives(vec![small(2, 1)])), [(2, 1)]);
    assert_eq!(handed(&bench.receives(vec![small(2, 2)])), [(2, 2), (1, 1), (1, 2)]);
}

#[test]
fn a_pull_that_brings_what_a_version_waits_for_sets_it_free() {
    let mut bench = Bench::new();
    bench.receives(vec![update(1, 3, (2, 2)), small(1, 2)]);
    let out = bench.give(Input::Stored(vector(&[(1, 2), (2, 5)])));
    assert_eq!(handed(&out), [(1, 3)]);
    assert_eq!(bench.replica.parked_bytes(), 0);
}

#[test]
fn what_follows_a_failed_apply_is_forgotten_and_taken_again() {
    let mut bench = Bench::new();
    assert_eq!(handed(&bench.receives(vec![small(1, 1)])), [(1, 1)]);
    assert_eq!(handed(&bench.receives(vec![small(1, 2)])), [(1, 2)]);
    bench.give(Input::ApplyFailed);
    assert_eq!(bench.replica.handed_bytes(), 0);
    // The store skipped the second as well: it was not next.
    bench.give(Input::Stored(Vector::default()));
    assert_eq!(handed(&bench.receives(vec![small(1, 3)])), []);
    assert_eq!(handed(&bench.receives(vec![small(1, 1), small(1, 2)])), [(1, 1), (1, 2), (1, 3)]);
}

#[test]
fn a_store_that_stalls_is_handed_no_more_than_its_bound() {
    const MIB: usize = 1 << 20;
    let mut bench = Bench::new();
    let mut count = 0;
    for site in 1..=30 {
        count += handed(&bench.receives((1..=4).map(|n| version(site, n, MIB - 1_000, Life::Changed)).collect())).len();
    }
    assert_eq!(count, 17, "16 MiB and the one version that may exceed it");
    assert!(bench.replica.handed_bytes() < 18 * MIB && bench.replica.parked_bytes() <= 30 * 4 * MIB);
    // What it stores makes room, in order.
    let out = bench.give(Input::Stored(vector(&[(1, 4), (2, 4)])));
    assert_eq!(handed(&out).len(), 8);
    let all: Vec<_> = (1..=30).map(|site| (site, 4)).collect();
    bench.give(Input::Stored(vector(&all)));
    assert_eq!((bench.replica.handed_bytes(), bench.replica.parked_bytes()), (0, 0));
}

#[test]
fn what_waits_of_one_site_is_bounded_but_one_version_always_may() {
    const MIB: usize = 1 << 20;
    let mut bench = Bench::new();
    bench.receives((2..10).map(|n| version(1, n, MIB, Life::Changed)).collect());
    assert!((3 * MIB..4 * MIB).contains(&bench.replica.parked_bytes()), "{}", bench.replica.parked_bytes());
    assert_eq!(handed(&bench.receives(vec![version(2, 1, 5 * MIB, Life::Changed)])), [(2, 1)]);
}

#[test]
fn what_waits_in_vain_is_dropped_after_a_minute() {
    let mut bench = Bench::new();
    bench.receives(vec![small(1, 5)]);
    bench.now += Duration::from_secs(59);
    bench.give(Input::Stored(vector(&[(2, 1)])));
    assert!(bench.replica.parked_bytes() > 0);
    bench.now += Duration::from_secs(1);
    bench.give(Input::Stored(vector(&[(2, 2)])));
    assert_eq!(bench.replica.parked_bytes(), 0);
}

#[test]
fn a_commit_goes_to_every_open_stream_of_ours_and_is_not_copied() {
    let mut bench = Bench::with(&["a", "b"]);
    bench.give(Input::Closed(node("b"), Stream::Ours));
    bench.give(Input::MemberUp(node("c")));
    let version = Arc::new(small(9, 1));
    let out = bench.give(Input::Committed(Arc::clone(&version)));
    let pushed: Vec<_> = out
        .iter()
        .filter_map(|output| match output {
            Output::Send(to, frame) => match &**frame {
                Frame::Versions(versions) => Some((to.to_string(), Arc::ptr_eq(&versions[0], &version))),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(pushed, [("a".to_owned(), true)]);
}

#[test]
fn heads_are_told_at_once_then_at_most_every_ten_milliseconds_then_whole() {
    let mut bench = Bench::with(&["a"]);
    let out = bench.give(Input::Stored(vector(&[(1, 1), (2, 1)])));
    assert_eq!(told(&out, "a"), [vector(&[(1, 1), (2, 1)])]);
    bench.now += MS;
    assert_eq!(told(&bench.give(Input::Stored(vector(&[(1, 2)]))), "a"), []);
    bench.now += MS;
    assert_eq!(told(&bench.give(Input::Stored(vector(&[(1, 3)]))), "a"), []);
    let later: Vec<_> =
        bench.wait(3 * WHOLE_HEADS_AFTER).into_iter().filter(|(_, o)| matches!(o, Output::Send(..))).collect();
    let [(rose_at, rose), (whole_at, whole)] = &later[..] else { panic!("{later:?}") };
    assert_eq!((*rose_at, told(std::slice::from_ref(rose), "a")), (HEADS_EVERY, vec![vector(&[(1, 3)])]));
    assert_eq!(
        (*whole_at, told(std::slice::from_ref(whole), "a")),
        (WHOLE_HEADS_AFTER, vec![vector(&[(1, 3), (2, 1)])])
    );
}

#[test]
fn a_stream_that_opens_is_told_all_heads() {
    let mut bench = Bench::new();
    bench.give(Input::Stored(vector(&[(1, 7)])));
    assert_eq!(told(&bench.give(Input::Opened(node("a"), Stream::Theirs)), "a"), [vector(&[(1, 7)])]);
    assert_eq!(bench.give(Input::Opened(node("a"), Stream::Ours)), []);
}

#[test]
fn the_late_end_of_a_replaced_stream_does_not_end_its_successor() {
    let mut bench = Bench::with(&["a"]);
    bench.open("a");
    bench.give(Input::Closed(node("a"), Stream::Theirs));
    bench.give(Input::Closed(node("a"), Stream::Ours));
    assert_eq!(told(&bench.give(Input::Stored(vector(&[(1, 1)]))), "a").len(), 1);
    bench.give(Input::Closed(node("a"), Stream::Theirs));
    bench.now += HEADS_EVERY;
    assert_eq!(told(&bench.give(Input::Stored(vector(&[(1, 2)]))), "a"), []);
}

#[test]
fn a_member_is_linked_once_and_unlinked_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.give(Input::MemberUp(node("a"))), [Output::Link(node("a"))]);
    assert_eq!(bench.give(Input::MemberUp(node("a"))), []);
    bench.open("a");
    assert_eq!(bench.give(Input::MemberDown(node("a"))), [Output::Unlink(node("a"))]);
    assert_eq!(bench.give(Input::MemberDown(node("a"))), []);
    assert_eq!(bench.give(Input::MemberUp(node("a"))), [Output::Link(node("a"))]);
}

#[test]
fn who_is_ahead_for_a_second_is_pulled_from() {
    let mut bench = Bench::with(&["a", "b"]);
    bench.tells("a", &[(1, 2)]);
    assert_eq!(bench.wait_for_pulls(PULL_AFTER - MS), []);
    assert_eq!(bench.wait_for_pulls(MS), [(PULL_AFTER, "a".to_owned())]);
    assert_eq!(bench.wait_for_pulls(5 * PULL_AFTER), [], "one at a time");
}

#[test]
fn who_is_ahead_with_what_pushes_bring_is_not() {
    let mut bench = Bench::with(&["a"]);
    for number in 1..200 {
        bench.tells("a", &[(1, number)]);
        assert_eq!(bench.wait_for_pulls(30 * MS), []);
        bench.give(Input::Stored(vector(&[(1, number)])));
    }
}

#[test]
fn the_first_heads_of_a_stream_are_pulled_at_once_if_they_are_above_ours() {
    let mut bench = Bench::new();
    bench.give(Input::Stored(vector(&[(1, 5)])));
    bench.open("a");
    bench.open("b");
    assert_eq!(pulled_from(bench.tells("a", &[(1, 5)])), [""; 0]);
    assert_eq!(pulled_from(bench.tells("b", &[(1, 6)])), ["b"]);
}

#[test]
fn a_failed_pull_is_asked_of_another_who_has_it_and_of_the_same_later() {
    let mut bench = Bench::with(&["a", "b"]);
    bench.tells("a", &[(1, 1)]);
    bench.tells("b", &[(1, 1)]);
    assert_eq!(bench.wait_for_pulls(PULL_AFTER), [(PULL_AFTER, "a".to_owned())]);
    assert_eq!(pulled_from(bench.give(Input::Pulled(node("a"), PullOutcome::Failed))), ["b"]);
    assert_eq!(pulled_from(bench.give(Input::Pulled(node("b"), PullOutcome::Failed))), [""; 0]);
    assert_eq!(bench.wait_for_pulls(PULL_RETRY), [(PULL_AFTER + PULL_RETRY, "a".to_owned())]);
    bench.give(Input::Stored(vector(&[(1, 1)])));
    bench.give(Input::Pulled(node("a"), PullOutcome::Joined));
    assert_eq!(bench.wait_for_pulls(PULL_EVERY / 2), []);
}

#[test]
fn who_has_been_due_for_longest_is_asked_first() {
    let mut bench = Bench::with(&["a", "b", "c"]);
    bench.tells("c", &[(1, 1)]);
    assert_eq!(bench.wait_for_pulls(PULL_AFTER).len(), 1);
    bench.tells("b", &[(2, 1)]);
    bench.wait(MS);
    bench.tells("a", &[(3, 1)]);
    bench.wait(2 * PULL_AFTER);
    assert_eq!(pulled_from(bench.give(Input::Pulled(node("c"), PullOutcome::Failed))), ["b"]);
    assert_eq!(pulled_from(bench.give(Input::Pulled(node("b"), PullOutcome::Failed))), ["a"]);
}

#[test]
fn a_peer_whose_answer_lacks_what_it_told_is_left_alone_for_a_while() {
    let mut bench = Bench::with(&["a"]);
    bench.tells("a", &[(1, 1)]);
    bench.wait(PULL_AFTER);
    assert_eq!(pulled_from(bench.give(Input::Pulled(node("a"), PullOutcome::Joined))), [""; 0]);
    assert_eq!(bench.wait_for_pulls(PULL_RETRY - MS), []);
    assert_eq!(bench.wait_for_pulls(MS).len(), 1);
}

#[test]
fn a_member_that_goes_while_it_is_pulled_from_holds_nobody_up() {
    let mut bench = Bench::with(&["a", "b"]);
    bench.tells("a", &[(1, 1)]);
    assert_eq!(bench.wait_for_pulls(PULL_AFTER).len(), 1);
    bench.give(Input::MemberDown(node("a")));
    bench.give(Input::Closed(node("a"), Stream::Ours));
    bench.give(Input::Closed(node("a"), Stream::Theirs));
    assert_eq!(bench.replica.heads_of(&node("a")), None);
    bench.tells("b", &[(1, 1)]);
    bench.wait(2 * PULL_AFTER);
    assert_eq!(pulled_from(bench.give(Input::Pulled(node("a"), PullOutcome::Failed))), ["b"]);
}

#[test]
fn nobody_is_pulled_from_without_a_connection() {
    let mut bench = Bench::with(&["a"]);
    bench.tells("a", &[(1, 1)]);
    bench.give(Input::Gossiped(node("a"), 1));
    bench.give(Input::Closed(node("a"), Stream::Ours));
    bench.give(Input::Closed(node("a"), Stream::Theirs));
    assert_eq!(bench.wait_for_pulls(3 * PULL_EVERY), []);
}

#[test]
fn a_pull_that_is_out_for_long_lets_no_deadline_lie_in_the_past() {
    let mut bench = Bench::with(&["a"]);
    bench.tells("a", &[(1, 1)]);
    assert_eq!(bench.wait_for_pulls(10 * PULL_EVERY), [(PULL_AFTER, "a".to_owned())]);
    bench.give(Input::Pulled(node("a"), PullOutcome::Failed));
    assert_eq!(bench.wait_for_pulls(PULL_RETRY).len(), 1);
}

#[test]
fn a_random_peer_is_pulled_from_every_ten_seconds() {
    let mut bench = Bench::with(&["a", "b", "c"]);
    let mut asked = std::collections::BTreeMap::new();
    for turn in 1..=60u32 {
        let pulls = bench.wait_for_pulls(PULL_EVERY);
        let [(at, name)] = &pulls[..] else { panic!("{pulls:?}") };
        assert_eq!(*at, turn * PULL_EVERY);
        *asked.entry(name.clone()).or_insert(0) += 1;
        bench.give(Input::Pulled(node(name), PullOutcome::Joined));
    }
    assert!(asked.len() == 3 && asked.values().all(|&times| times > 8), "{asked:?}");
}

#[test]
fn a_gossiped_hash_counts_only_while_the_member_cannot_tell_its_heads() {
    let mut bench = Bench::with(&["a"]);
    bench.give(Input::Gossiped(node("a"), 77));
    assert_eq!(bench.wait_for_pulls(5 * PULL_AFTER), [], "its heads are known");

    let mut bench = Bench::new();
    bench.give(Input::MemberUp(node("a")));
    bench.give(Input::Opened(node("a"), Stream::Theirs));
    bench.give(Input::Gossiped(node("a"), Vector::default().hash()));
    assert_eq!(bench.wait_for_pulls(2 * PULL_AFTER), [], "equal hashes");
    bench.give(Input::Gossiped(node("a"), 77));
    assert_eq!(bench.wait_for_pulls(PULL_AFTER).len(), 1);
    bench.give(Input::Stored(vector(&[(1, 1)])));
    bench.give(Input::Pulled(node("a"), PullOutcome::Joined));
    // It says so again and again; we have all of that and more.
    for _ in 0..3 {
        bench.give(Input::Gossiped(node("a"), 77));
        assert_eq!(bench.wait_for_pulls(PULL_AFTER), []);
    }
    bench.give(Input::Gossiped(node("a"), 78));
    assert_eq!(bench.wait_for_pulls(PULL_AFTER).len(), 1);
}

#[test]
fn a_peer_that_comes_back_with_lower_heads_is_not_ahead_by_its_old_ones() {
    let mut bench = Bench::with(&["a"]);
    bench.tells("a", &[(1, 9)]);
    bench.give(Input::Closed(node("a"), Stream::Ours));
    bench.give(Input::Stored(vector(&[(1, 7)])));
    bench.give(Input::Opened(node("a"), Stream::Ours));
    assert_eq!(bench.replica.heads_of(&node("a")), None);
    bench.tells("a", &[(1, 7)]);
    assert_eq!(bench.replica.heads_of(&node("a")), Some(&vector(&[(1, 7)])));
    // What it was ahead with at that time is asked for once, and then no more.
    let pulls = bench.wait_for_pulls(PULL_EVERY / 2);
    assert!(pulls.len() <= 1, "{pulls:?}");
    bench.give(Input::Pulled(node("a"), PullOutcome::Joined));
    assert_eq!(bench.wait_for_pulls(PULL_EVERY / 3), []);
}

#[test]
fn frames_that_belong_elsewhere_change_nothing() {
    let mut bench = Bench::with(&["a"]);
    let frames = [
        Frame::Pull(Question { above: vector(&[(1, 1)]), ..Question::default() }),
        Frame::Pulled(Answered { heads: vector(&[(1, 1)]), ..Answered::default() }),
        Frame::Rows(Vec::new()),
        Frame::Refused("no".to_owned()),
        Frame::NeedsSnapshot,
        Frame::Snapshot(3),
        Frame::Chunk([1, 2, 3].into()),
        Frame::SnapshotEnd(1),
        Frame::Compare,
        Frame::Buckets(vector(&[(1, 1)]), Buckets::default()),
        Frame::Repair(vector(&[(1, 1)]), Vec::new()),
        Frame::Unknown(31),
        Frame::Heads(vector(&[(1, 1)])),
    ];
    for frame in frames {
        assert_eq!(bench.give(Input::Received(node("stranger"), frame)), []);
    }
    assert_eq!(bench.wait_for_pulls(PULL_EVERY - MS), []);
}

#[test]
fn who_lacks_too_much_for_an_answer_takes_a_snapshot_and_asks_for_rows_again_if_that_fails() {
    let mut bench = Bench::with(&["a"]);
    bench.tells("a", &[(1, 9)]);
    assert_eq!(bench.wait_for_pulls(PULL_AFTER), [(PULL_AFTER, "a".to_owned())]);
    let snapshot = bench.give(Input::Pulled(node("a"), PullOutcome::NeedsSnapshot));
    assert_eq!(snapshot, [Output::Snapshot(node("a"))]);
    assert_eq!(bench.give(Input::Pulled(node("a"), PullOutcome::Failed)), []);
    assert_eq!(bench.wait_for_pulls(PULL_RETRY), [(PULL_AFTER + PULL_RETRY, "a".to_owned())]);
    assert_eq!(bench.give(Input::Pulled(node("a"), PullOutcome::NeedsSnapshot)), [Output::Snapshot(node("a"))]);
    bench.give(Input::Stored(vector(&[(1, 9)])));
    bench.give(Input::Pulled(node("a"), PullOutcome::Joined));
    assert_eq!(bench.wait_for_pulls(PULL_EVERY / 3), []);
}

/// A node of a tree with three neighbours that have told that they have nothing.
fn in_a_tree() -> Bench {
    let mut bench = Bench::new();
    let sizes = Sizes { whole_up_to: 0, tree_above: 0 };
    bench.replica = Replica::with_sizes(node("me"), Vector::default(), 1, START, sizes);
    for name in ["a", "b", "c"] {
        assert_eq!(bench.give(Input::MemberUp(node(name))), [Output::Link(node(name))]);
        bench.open(name);
        bench.give(Input::Received(node(name), Frame::Heads(Vector::default())));
    }
    bench
}

fn pushes(bench: &mut Bench, name: &str, versions: Vec<Version>) -> Vec<Output> {
    bench.give(Input::Received(node(name), Frame::Versions(versions.into_iter().map(Arc::new).collect())))
}

/// Whom a version of this site is sent to.
fn pushed_to(out: &[Output], number: u64) -> Vec<String> {
    let to = |output: &Output| match output {
        Output::Send(node, frame) => match &**frame {
            Frame::Versions(versions) => versions.iter().any(|v| v.version == number).then(|| node.to_string()),
            _ => None,
        },
        _ => None,
    };
    out.iter().filter_map(to).collect()
}

fn sent(out: &[Output], name: &str, frame: &Frame) -> bool {
    out.iter().any(|output| matches!(output, Output::Send(to, sent) if to.as_str() == name && **sent == *frame))
}

#[test]
fn in_a_tree_what_is_new_goes_on_to_whoever_may_lack_it() {
    let mut bench = in_a_tree();
    let out = pushes(&mut bench, "a", vec![small(1, 1)]);
    assert_eq!(pushed_to(&out, 1), ["b", "c"]);
    bench.tells("b", &[(1, 2)]);
    let out = pushes(&mut bench, "a", vec![small(1, 2)]);
    assert_eq!(pushed_to(&out, 2), ["c"], "b has told that it has it");
    // One that came before its predecessor goes on behind that.
    let out = pushes(&mut bench, "a", vec![small(1, 4)]);
    assert_eq!(pushed_to(&out, 4), [""; 0]);
    let out = pushes(&mut bench, "a", vec![small(1, 3)]);
    assert_eq!((pushed_to(&out, 3), pushed_to(&out, 4)), (vec!["b".into(), "c".into()], vec!["b".into(), "c".into()]));
}

#[test]
fn in_a_tree_who_repeats_a_version_is_pruned_for_its_site_alone() {
    let mut bench = in_a_tree();
    pushes(&mut bench, "a", vec![small(1, 1)]);
    let out = pushes(&mut bench, "a", vec![small(1, 1)]);
    assert!(!sent(&out, "a", &Frame::Prune(vec![site_id(1)])), "the parent repeats itself: {out:?}");
    let out = pushes(&mut bench, "b", vec![small(1, 1)]);
    assert!(sent(&out, "b", &Frame::Prune(vec![site_id(1)])), "{out:?}");
    let out = pushes(&mut bench, "a", vec![small(1, 2)]);
    assert_eq!(pushed_to(&out, 2), ["c"], "b has them from elsewhere");
    let out = pushes(&mut bench, "a", vec![small(2, 1)]);
    assert_eq!(pushed_to(&out, 1), ["b", "c"]);
    // Where the parent's stream is gone, who repeats takes its place.
    bench.give(Input::Closed(node("a"), Stream::Theirs));
    let out = pushes(&mut bench, "c", vec![small(1, 2)]);
    assert!(!sent(&out, "c", &Frame::Prune(vec![site_id(1)])), "{out:?}");
}

#[test]
fn in_a_tree_who_prunes_us_gets_no_more_until_it_grafts() {
    let mut bench = in_a_tree();
    pushes(&mut bench, "a", vec![small(1, 1)]);
    bench.give(Input::Stored(vector(&[(1, 1)])));
    bench.give(Input::Received(node("b"), Frame::Prune(vec![site_id(1)])));
    let out = pushes(&mut bench, "a", vec![small(1, 2)]);
    assert_eq!(pushed_to(&out, 2), ["c"]);
    let out = bench.give(Input::Received(node("b"), Frame::Graft(vector(&[(1, 2)]))));
    assert_eq!((pushed_to(&out, 1), pushed_to(&out, 2)), (vec![], vec!["b".to_owned()]));
    let out = pushes(&mut bench, "a", vec![small(1, 3)]);
    assert_eq!(pushed_to(&out, 3), ["b", "c"]);
}

#[test]
fn in_a_tree_what_a_neighbour_has_for_a_while_is_grafted_from_one_then_another_then_pulled() {
    let mut bench = in_a_tree();
    bench.tells("a", &[(1, 1)]);
    bench.tells("b", &[(1, 1)]);
    let graft = Frame::Graft(vector(&[(1, 1)]));
    let asks = |output: &Output| {
        ["a", "b"].iter().any(|name| sent(std::slice::from_ref(output), name, &graft))
            || matches!(output, Output::Pull(..))
    };
    let asked: Vec<_> = bench.wait(PULL_AFTER).into_iter().filter(|(_, output)| asks(output)).collect();
    let whom = |output: &Output| match output {
        Output::Send(node, _) | Output::Pull(node, _) => node.to_string(),
        _ => String::new(),
    };
    let asked: Vec<_> = asked.iter().map(|(at, output)| (at.as_millis(), whom(output))).collect();
    assert_eq!(asked[0], (GRAFT_AFTER.as_millis(), "a".to_owned()));
    assert!(asked[1..].iter().any(|(_, name)| name == "b"), "{asked:?}");
    assert_eq!(asked.last().map(|(at, _)| *at), Some(PULL_AFTER.as_millis()), "{asked:?}");
    assert!(asked.len() <= 5, "{asked:?}");
    // It came meanwhile.
    let mut bench = in_a_tree();
    bench.tells("a", &[(1, 1)]);
    pushes(&mut bench, "b", vec![small(1, 1)]);
    assert!(!bench.wait(PULL_AFTER / 2).iter().any(|(_, output)| sent(std::slice::from_ref(output), "a", &graft)));
}

#[test]
fn what_peers_say_of_sites_nobody_knows_takes_no_room() {
    let mut bench = in_a_tree();
    let strange = Frame::Prune((1..=255).map(site_id).collect());
    bench.give(Input::Received(node("b"), strange));
    let out = pushes(&mut bench, "a", vec![small(1, 1)]);
    assert_eq!(pushed_to(&out, 1), ["b", "c"]);
}

#[test]
fn g5_versions_of_a_peer_are_taken_from_when_it_has_applied_all_that_is_purged_here() {
    let mut bench = Bench::with(&["a"]);
    bench.give(Input::Purging(vector(&[(9, 5)])));
    assert_eq!(handed(&bench.receives(vec![small(1, 1)])), [], "it has not applied what is purged");
    bench.tells("a", &[(1, 1), (9, 5)]);
    assert_eq!(handed(&bench.receives(vec![small(1, 1)])), [], "it may have made this before it had");
    // That comes by a pull; what it makes from here on is taken, also when more is purged that it has applied.
    bench.give(Input::Stored(vector(&[(1, 1), (9, 5)])));
    assert_eq!(handed(&bench.receives(vec![small(1, 2)])), [(1, 2)]);
    bench.give(Input::Purging(vector(&[(1, 1)])));
    assert_eq!(handed(&bench.receives(vec![small(1, 3)])), [(1, 3)]);
    // It may be another store that comes back under the name.
    bench.give(Input::Closed(node("a"), Stream::Ours));
    bench.give(Input::Opened(node("a"), Stream::Ours));
    assert_eq!(handed(&bench.receives(vec![small(1, 4)])), []);
    bench.tells("a", &[(1, 3)]);
    assert_eq!(handed(&bench.receives(vec![small(1, 4)])), []);
}

#[test]
fn g5_what_every_known_node_has_applied_may_be_purged() {
    let mut bench = Bench::with(&["a", "b"]);
    bench.give(Input::Stored(vector(&[(1, 5)])));
    bench.tells("a", &[(1, 5)]);
    bench.tells("b", &[(1, 4)]);
    let mut purged = |known: &[&str]| {
        let outputs = bench.give(Input::Known(known.iter().map(|name| node(name)).collect()));
        outputs.into_iter().find_map(|output| if let Output::Purge(covered) = output { Some(covered) } else { None })
    };
    assert_eq!(purged(&["a", "b"]), None, "what they had by then may be under way");
    assert_eq!(purged(&["a", "b"]), Some(vector(&[(1, 4)])));
    assert_eq!(purged(&["a", "b", "c"]), None, "who is known and silent may lack anything");
    assert_eq!(purged(&["a"]), Some(vector(&[(1, 4)])), "it was noted while the other was known");
    assert_eq!(purged(&["a"]), Some(vector(&[(1, 4)])), "the round in which it told had not ended");
    assert_eq!(purged(&["a"]), Some(vector(&[(1, 5)])));
}
