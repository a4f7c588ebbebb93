//! The promises of the store while processes, disks and links fail, judged by [`Verification`]: every node writes, is read
//! and is followed all the while. Each test is named after its promise. `scripts/soak faults` runs the same for longer.

use std::path::PathBuf;
use std::time::Duration;

use kith_tests::lab::{Disk, Fleet, Node, eventually};
use kith_tests::skip::skip;
use kith_tests::verify::{Nemesis, Report, Verification, lasts};
use nix::sys::signal::Signal;
use serde_json::json;

/// Transactions of each node a second.
const PACE: u32 = 40;
/// Until the digests are equal, for nodes that only have to hear the last writes or come back.
const BOUND: Duration = Duration::from_secs(20);
/// Acknowledged between two faults, so that there is something to lose.
const BETWEEN: u64 = 30;

/// The brief one, or the one that is promised with `KITH_FAULTS=long`.
fn times<T>(brief: T, long: T) -> T {
    if std::env::var_os("KITH_FAULTS").is_some_and(|value| value == "long") { long } else { brief }
}

/// Waits for acknowledgements of one node.
async fn some_more_is_acknowledged(verification: &Verification, node: usize) {
    let before = verification.acknowledged_by(node);
    eventually(&format!("writes of node {node} are acknowledged"), Duration::from_secs(60), async || {
        let since = verification.acknowledged_by(node) - before;
        if since >= BETWEEN { Ok(()) } else { Err(format!("{since}")) }
    })
    .await;
}

#[track_caller]
fn held(what: &str, report: &Report) {
    eprintln!("{what}: {report}");
    report.holds();
}

fn nothing(_: &mut Node) {}

/// The first node keeps its data on this disk.
fn first_on(disk: &Disk, node: &mut Node) {
    if node.name == "n1" {
        node.set(format!("node.data_dir={}", disk.path().join("data").display()));
    }
}

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
        some_more_is_acknowledged(&verification, round % 3).await;
        let node = &mut fleet.nodes[round % 3];
        node.kill();
        node.start().await;
    }
    held(&format!("{kills} kills"), &verification.finish(&fleet, BOUND).await);
}

#[tokio::test]
async fn g2_nothing_acknowledged_is_lost_by_a_power_cut_under_writes() {
    let Some(disk) = Disk::make("g2_power_cut", 128) else { return };
    let Some(mut fleet) = Fleet::start("g2_power_cut", 3, |node| first_on(&disk, node)).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    let cuts = times(3, 20);
    for _ in 0..cuts {
        some_more_is_acknowledged(&verification, 0).await;
        disk.cut();
        fleet.nodes[0].kill();
        disk.restore();
        fleet.nodes[0].start().await;
    }
    held(&format!("{cuts} power cuts"), &verification.finish(&fleet, BOUND).await);
}

#[tokio::test]
async fn g2_a_full_disk_refuses_writes_until_there_is_space_and_stops_nobody_else() {
    let Some(disk) = Disk::make("g2_full_disk", 128) else { return };
    let Some(fleet) = Fleet::start("g2_full_disk", 3, |node| first_on(&disk, node)).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    some_more_is_acknowledged(&verification, 0).await;
    disk.fill();
    eventually("a write is refused for want of space", Duration::from_secs(60), async || {
        let write = json!([[
            "INSERT INTO cluster_metadata (key, value) VALUES (hex(randomblob(8)), ?)",
            ["x".repeat(100_000)]
        ]]);
        let reply = fleet.nodes[0].api().post("/v1/transactions", &write).await?;
        if reply.status == 507 { Ok(()) } else { Err(format!("{} {}", reply.status, reply.body)) }
    })
    .await;
    some_more_is_acknowledged(&verification, 1).await;
    disk.unfill();
    some_more_is_acknowledged(&verification, 0).await;
    held("a full disk, then space", &verification.finish(&fleet, BOUND).await);
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
        some_more_is_acknowledged(&verification, 0).await;
    }
    held("a clock five minutes slow", &verification.finish(&fleet, BOUND).await);
}

#[tokio::test]
async fn g1_who_was_stopped_goes_on_where_it_was() {
    let Some(fleet) = Fleet::start("g1_stopped", 3, nothing).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    for seconds in times(&[5][..], &[5, 30]) {
        fleet.nodes[1].signal(Signal::SIGSTOP);
        lasts(Duration::from_secs(*seconds)).await;
        fleet.nodes[1].signal(Signal::SIGCONT);
        some_more_is_acknowledged(&verification, 1).await;
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
