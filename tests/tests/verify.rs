//! The promises of the store while processes, disks and links fail, judged by [`Verification`]: every node writes, is read
//! and is followed all the while. Each test is named after its promise. `scripts/soak faults` runs the same for longer.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kith_tests::lab::{Fleet, Node, eventually};
use kith_tests::skip::skip;
use kith_tests::verify::{Nemesis, Verification, held, lasts, times};
use nix::sys::signal::Signal;
use serde_json::Value;

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

/// Clocks are told every ten seconds, and the library looks at its file every second.
const NOTICED: Duration = Duration::from_secs(40);

async fn status(node: &Node) -> Result<Value, String> {
    Ok(node.api().get("/v1/status").await?.json())
}

/// Waits until the node says, or does not say, that its own clock is ahead.
async fn alarm(node: &Node, wanted: Option<&str>) {
    eventually(&format!("{} says {wanted:?} of its clock", node.name), NOTICED, async || {
        let alarms = status(node).await?["alarms"].to_string();
        let holds = match wanted {
            Some(text) => alarms.contains(text),
            None => !alarms.contains("clock"),
        };
        if holds { Ok(()) } else { Err(alarms) }
    })
    .await;
}

/// What all write meanwhile is acknowledged.
async fn all_have_some_more_acknowledged(verification: &Verification) {
    let before: Vec<_> = (0..3).map(|node| verification.acknowledged_by(node)).collect();
    eventually("writes of all nodes are acknowledged", Duration::from_secs(60), async || {
        let since: Vec<_> =
            before.iter().zip(0..).map(|(before, node)| verification.acknowledged_by(node) - before).collect();
        if since.iter().all(|&count| count >= 30) { Ok(()) } else { Err(format!("{since:?}")) }
    })
    .await;
}

/// No store's clock has followed one that is a day ahead.
async fn all_are_of_today(fleet: &Fleet) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis();
    for node in &fleet.nodes {
        let clock_ms = status(node).await.expect("a status")["store"]["clock_ms"].as_u64().expect("a number");
        assert!(u128::from(clock_ms) < now + u128::from(60_000_u32), "{} has stamped {clock_ms} at {now}", node.name);
    }
}

/// The clock of the first of three is shifted by `first`, and later by `then`.
async fn shifted(name: &str, first: &str, then: &str) {
    let Some(library) = faketime() else { return skip(name, "there is no libfaketime") };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("shift");
    std::fs::write(&file, first).expect("the folder can be written");
    let shift_first = |node: &mut Node| {
        if node.name == "n1" {
            node.environment("LD_PRELOAD", &library);
            node.environment("FAKETIME_TIMESTAMP_FILE", &file);
            node.environment("FAKETIME_CACHE_DURATION", "1");
            node.environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
    };
    let Some(fleet) = Fleet::start(name, 3, shift_first).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    all_have_some_more_acknowledged(&verification).await;
    for shift in [first, then] {
        std::fs::write(&file, shift).expect("the folder can be written");
        alarm(&fleet.nodes[0], (shift != "+0").then_some("this server's clock is 86")).await;
        all_have_some_more_acknowledged(&verification).await;
        all_are_of_today(&fleet).await;
        for node in &fleet.nodes[1..] {
            alarm(node, None).await;
        }
    }
    held(name, &verification.finish(&fleet, BOUND).await);
    all_are_of_today(&fleet).await;
}

#[tokio::test]
async fn g4_a_clock_a_day_ahead_affects_only_its_own_node() {
    shifted("g4_day_ahead", "+1d", "+0").await;
}

#[tokio::test]
async fn g4_a_clock_that_jumps_a_day_ahead_affects_only_its_own_node() {
    shifted("g4_jump", "+0", "+1d").await;
}
