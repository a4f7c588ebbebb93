//! How far and how fast versions go in large clusters, and what that costs:
//! `cargo run --release -p kith-gossip-proto --features sim --example wide`, with `-- 3 100` for other sizes.

#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use std::time::{Duration, Instant};

use kith_gossip_proto::sim::wide::{Traffic, VERSION_BYTES, Wide};

const DELAY: Duration = Duration::from_millis(50);
const WRITES: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(20);

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).map(|size| size.parse().expect("a number of nodes")).collect();
    println!(
        "links of {DELAY:?}; one version of {VERSION_BYTES} bytes a node each {WRITES:?}; bytes a node sends in a second"
    );
    println!(
        " nodes streams | first write, second, a tenth killed | payload versions heads tree pulls    sum | run took"
    );
    for nodes in if sizes.is_empty() { vec![3, 30, 100, 300, 1_000] } else { sizes } {
        row(nodes);
    }
}

fn row(nodes: usize) {
    let began = Instant::now();
    let mut wide = Wide::new(nodes, DELAY, 1);
    wide.run(Duration::from_secs(5));
    let bound = Duration::from_secs(30);
    let first = wide.spread(0, bound);
    wide.run(Duration::from_secs(3));
    let second = wide.spread(0, bound);
    wide.write_every(WRITES);
    wide.run(2 * WRITES);
    let traffic = wide.run(MEASURED);
    let streams = wide.most_streams();
    (0..nodes).filter(|node| node % 10 == 9).for_each(|node| wide.kill(node));
    let killed = wide.spread(0, bound);
    let per_second = |bytes: usize| bytes as u64 / nodes as u64 / MEASURED.as_secs();
    let Traffic { versions, heads, tree, pulls } = traffic;
    let [versions, heads, tree, pulls, sum] = [versions, heads, tree, pulls, traffic.sum()].map(per_second);
    let payload = nodes as u64 * VERSION_BYTES as u64 / WRITES.as_secs();
    let time = |time: Option<Duration>| time.map_or_else(|| "never".to_owned(), |time| format!("{time:?}"));
    let [first, second, killed] = [first, second, killed].map(time);
    let took = began.elapsed();
    println!(
        "{nodes:>6} {streams:>7} | {first:>11} {second:>7} {killed:>16} | {payload:>7} {versions:>8} {heads:>5} {tree:>4} {pulls:>5} {sum:>6} | {took:.1?}"
    );
}
