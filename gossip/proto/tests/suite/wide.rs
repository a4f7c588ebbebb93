//! Large clusters: everybody has a version within two seconds, and nobody sends much more than the versions themselves.
//! The table for up to 1,000 nodes is printed by the example `wide`.

use std::time::Duration;

use kith_gossip_proto::sim::wide::{VERSION_BYTES, Wide};

const DELAY: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(2);

#[test]
fn g3_a_version_reaches_three_hundred_nodes_within_two_seconds_also_when_a_tenth_dies() {
    let mut wide = Wide::new(300, DELAY, 1);
    wide.run(Duration::from_secs(5));
    assert!(wide.most_streams() <= 6, "{} streams", wide.most_streams());
    for attempt in ["first", "second"] {
        let took = wide.spread(0, SOON);
        assert!(took.is_some(), "the {attempt} version is not everywhere after {SOON:?}");
        wide.run(Duration::from_secs(1));
    }
    (0..300).filter(|node| node % 10 == 9).for_each(|node| wide.kill(node));
    assert!(wide.spread(0, SOON).is_some(), "without a tenth of the nodes a version is not everywhere after {SOON:?}");
}

/// A million pairs that hear of each other: half a minute of one core.
#[test]
fn g3_a_version_reaches_a_thousand_nodes_within_two_seconds() {
    let mut wide = Wide::new(1_000, DELAY, 1);
    wide.run(Duration::from_secs(5));
    assert!(wide.most_streams() <= 6, "{} streams", wide.most_streams());
    let took = wide.spread(0, SOON);
    assert!(took.is_some(), "a version is not everywhere after {SOON:?}");
    eprintln!("everywhere after {took:?}");
}

/// Beside the computed: 36 bytes a second for three nodes, 1,200 for a hundred. Few nodes send each version once to each
/// other, and that is all but their heads and clocks; the heads of a hundred are many, and each tells them to five.
#[test]
fn what_a_node_sends_is_little_beside_the_versions() {
    let (every, measured) = (Duration::from_secs(10), Duration::from_secs(20));
    for (nodes, computed, most) in [(3, 36, 120), (100, 1_200, 4_800)] {
        let mut wide = Wide::new(nodes, DELAY, 1);
        wide.run(Duration::from_secs(5));
        wide.write_every(every);
        wide.run(2 * every);
        let traffic = wide.run(measured);
        assert_eq!(nodes * VERSION_BYTES / 10, computed);
        let a_second = |bytes: usize| bytes / nodes / 20;
        let (versions, sum) = (a_second(traffic.versions), a_second(traffic.sum()));
        eprintln!("{nodes} nodes: {computed} bytes a second computed, {versions} of versions, {sum} in all");
        assert!(versions <= computed * 115 / 100, "{nodes} nodes: {versions} of {computed}");
        assert!(sum <= most, "{nodes} nodes: {sum} bytes a second, {traffic:?}");
    }
}

#[test]
fn a_node_of_a_tree_sends_each_version_about_once() {
    let (nodes, every, measured) = (60, Duration::from_secs(10), Duration::from_secs(20));
    let mut wide = Wide::new(nodes, DELAY, 1);
    wide.run(Duration::from_secs(5));
    wide.write_every(every);
    wide.run(2 * every);
    let traffic = wide.run(measured);
    let payload = nodes * nodes * VERSION_BYTES * 2;
    let percent = |bytes: usize| 100 * bytes / payload;
    assert!((90..115).contains(&percent(traffic.versions)), "{traffic:?} of {payload}");
    assert!(percent(traffic.sum()) < 400, "{traffic:?} of {payload}");
}
