//! The promises of the store while processes, disks and links fail, judged by [`Verification`]: every node writes, is read
//! and is followed all the while. Each test is named after its promise. `scripts/soak faults` runs the same for longer.

use std::path::PathBuf;
use std::time::Duration;

use kith_tests::lab::{Fleet, Node};
use kith_tests::skip::skip;
use kith_tests::verify::{Nemesis, Verification, held, lasts, times};
use nix::sys::signal::Signal;

/// Transactions of each node a second.
const PACE: u32 = 40;
/// Until the digests are equal, for nodes that only have to hear the last writes or come back.
const BOUND: Duration = Duration::from_secs(20);
fn nothing(_: &mut Node) {}

/// The library that shifts the clock of one process, where Debian puts it.
fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let libraries = folders.filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")));
    libraries.into_iter().find(|library| library.is_file())
}

#[tokio::test]
async fn g2_nothing_acknowledged_is_lost_by_kill_9_under_writes() {
    let Some(mut fleet) = Fleet::start("g2_kill_9", 3, nothing).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    let kills = times(5, 100);
    for round in 0..kills {
        verification.some_more_of(round % 3).await;
        let node = &mut fleet.nodes[round % 3];
        node.kill();
        node.start().await;
    }
    held(&format!("{kills} kills"), &verification.finish(&fleet, BOUND).await);
}

#[tokio::test]
async fn g4_a_clock_five_minutes_slow_breaks_no_promise() {
    let Some(library) = faketime() else { return skip("g4_slow_clock", "there is no libfaketime") };
    let slow_first = |node: &mut Node| {
        if node.name == "n1" {
            node.environment("LD_PRELOAD", &library);
            node.environment("FAKETIME", "-300s");
            node.environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
    };
    let Some(fleet) = Fleet::start("g4_slow_clock", 3, slow_first).await else { return };
    // To the minute, as their logs say it: else nothing was slow.
    let began = |node: usize| fleet.nodes[node].log().chars().take("2026-11-26T13:45".len()).collect::<String>();
    assert!(began(0) < began(1), "the clock of n1 is not slow: {} and {}", began(0), began(1));
    let verification = Verification::begin(&fleet, PACE);
    for _ in 0..times(3, 30) {
        verification.some_more_of(0).await;
    }
    held("a clock five minutes slow", &verification.finish(&fleet, BOUND).await);
}

#[tokio::test]
async fn g1_who_was_stopped_goes_on_where_it_was() {
    let Some(fleet) = Fleet::start("g1_stopped", 3, nothing).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    for seconds in times(&[5][..], &[5, 30, 120]) {
        fleet.nodes[1].signal(Signal::SIGSTOP);
        lasts(Duration::from_secs(*seconds)).await;
        fleet.nodes[1].signal(Signal::SIGCONT);
        verification.some_more_of(1).await;
    }
    held("SIGSTOP", &verification.finish(&fleet, BOUND).await);
}

#[tokio::test]
async fn g1_a_mix_of_faults_by_a_seed_breaks_no_promise() {
    let Some(mut fleet) = Fleet::start("g1_mix", 4, nothing).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    let mut nemesis = Nemesis::new(times(1, 2));
    nemesis.strike(&mut fleet, Duration::from_secs(times(20, 300))).await;
    eprintln!("{}", nemesis.log.join("\n"));
    held("a mix of faults", &verification.finish(&fleet, 2 * BOUND).await);
}
