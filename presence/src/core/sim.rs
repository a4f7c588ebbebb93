//! Whole clusters of boards in one thread: time jumps to what is due next, nothing waits.
//!
//! Messages are late and are lost; links are cut; nodes are killed, stay away for seconds or for longer than 30, come back
//! with their log or without; one clock is a day ahead. Clients send heartbeats, change, say something, also from a second
//! session, move, go and fall silent. All along it
//! is checked what G12 promises, and in the end that all nodes agree. A failing seed prints itself, and
//! `KITH_SIM_SEED=… cargo nextest run -p kith-presence a_seed_of_choice` runs it again.

mod cluster;
mod scenes;

use cluster::{Cluster, Skew};

/// Enough to meet every fault in many combinations, in seconds.
const SEEDS: u64 = 40;

fn run(seed: u64) {
    let skew = if seed.is_multiple_of(3) { Skew::OneDayAhead } else { Skew::Small };
    let mut cluster = Cluster::new(seed, 3 + (seed % 3) as usize, 12, skew);
    cluster.run_with_faults(180_000);
    cluster.heal();
    cluster.run(40_000);
    cluster.must_agree();
}

#[test]
fn presence_holds_under_faults() {
    for seed in 0..SEEDS {
        let failed = std::panic::catch_unwind(|| run(seed)).is_err();
        assert!(!failed, "KITH_SIM_SEED={seed}");
    }
}

#[test]
fn a_seed_of_choice() {
    let seed = std::env::var("KITH_SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_000);
    run(seed);
}
