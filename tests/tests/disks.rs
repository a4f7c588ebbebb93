//! What a node does whose disk fails: it loses its power, is full, dies, becomes read-only. Judged by [`Verification`], like
//! the faults of `verify.rs`, while every node writes, is read and is followed.

use std::time::Duration;

use kith_tests::lab::{Disk, Fleet, Node, Syncs, Tampering, agree, eventually};
use kith_tests::verify::{Verification, held, times};
use serde_json::{Value, json};

/// Transactions of each node a second.
const PACE: u32 = 40;
/// Until the digests are equal, once the disk is well.
const BOUND: Duration = Duration::from_secs(20);
/// For some writes at the pace of the machine, beside a disk that takes its time.
const SLOW: Duration = Duration::from_secs(600);
/// For a node to notice what its disk does, and that it is well again.
const NOTICED: Duration = Duration::from_secs(60);

/// The first node keeps its data on this disk.
fn first_on(disk: &Disk, node: &mut Node) {
    if node.name == "n1" {
        node.set(format!("node.data_dir={}", disk.path().join("data").display()));
    }
}

/// Writes some rows of some size, and waits for this status.
async fn a_write_is_answered(node: &Node, with: u16, bytes: usize) {
    eventually(&format!("a write to {} is answered with {with}", node.name), NOTICED, async || {
        let insert = "INSERT INTO cluster_metadata (key, value) VALUES (hex(randomblob(8)), ?)";
        let reply = node.api().post("/v1/transactions", &json!([[insert, ["x".repeat(bytes)]]])).await?;
        if reply.status == with { Ok(()) } else { Err(format!("{} {}", reply.status, reply.body)) }
    })
    .await;
}

/// Waits until a write is taken no more: the store says so, or has ended already, which it does a moment later.
async fn no_write_is_taken(node: &Node) {
    eventually(&format!("no write to {} is taken", node.name), NOTICED, async || {
        let insert = "INSERT INTO cluster_metadata (key, value) VALUES (hex(randomblob(8)), '')";
        match node.api().post("/v1/transactions", &json!([insert])).await {
            Ok(reply) if reply.status != 503 => Err(format!("{} {}", reply.status, reply.body)),
            Ok(_) | Err(_) => Ok(()),
        }
    })
    .await;
}

#[tokio::test]
async fn g2_nothing_acknowledged_is_lost_by_a_power_cut_under_writes() {
    let Some(disk) = Disk::make("g2_power_cut", 128) else { return };
    let Some(mut fleet) = Fleet::start("g2_power_cut", 3, |node| first_on(&disk, node)).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    let cuts = times(3, 20);
    for _ in 0..cuts {
        verification.some_more_of(0).await;
        disk.cut();
        fleet.nodes[0].kill();
        disk.restore();
        fleet.nodes[0].start().await;
    }
    held(&format!("{cuts} power cuts"), &verification.finish(&fleet, BOUND).await);
}

#[tokio::test]
async fn g2_nothing_acknowledged_is_lost_when_the_power_of_all_nodes_is_cut_at_once() {
    let Some(disk) = Disk::make("g2_all_power_cut", 256) else { return };
    let on_it = |node: &mut Node| node.set(format!("node.data_dir={}", disk.path().join(&node.name).display()));
    let Some(mut fleet) = Fleet::start("g2_all_power_cut", 3, on_it).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    let cuts = times(2, 10);
    for _ in 0..cuts {
        verification.some_more_of(0).await;
        disk.cut();
        fleet.nodes.iter_mut().for_each(Node::kill);
        disk.restore();
        fleet.nodes.iter_mut().for_each(Node::launch);
        for node in &mut fleet.nodes {
            node.ready().await;
        }
    }
    held(&format!("{cuts} power cuts of all nodes"), &verification.finish(&fleet, BOUND).await);
}

#[tokio::test]
async fn g2_a_full_disk_refuses_writes_until_there_is_space_and_stops_nobody_else() {
    let Some(disk) = Disk::make("g2_full_disk", 128) else { return };
    let Some(fleet) = Fleet::start("g2_full_disk", 3, |node| first_on(&disk, node)).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    verification.some_more_of(0).await;
    disk.fill();
    a_write_is_answered(&fleet.nodes[0], 507, 100_000).await;
    verification.some_more_of(1).await;
    disk.unfill();
    verification.some_more_of(0).await;
    held("a full disk, then space", &verification.finish(&fleet, BOUND).await);
}

#[tokio::test]
async fn g2_a_disk_that_becomes_read_only_refuses_writes_and_is_read() {
    let Some(disk) = Disk::make("g2_read_only_disk", 128) else { return };
    let Some(mut fleet) = Fleet::start("g2_read_only_disk", 3, |node| first_on(&disk, node)).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    verification.some_more_of(0).await;
    disk.read_only();
    a_write_is_answered(&fleet.nodes[0], 503, 10).await;
    verification.some_more_of(1).await;
    let read = fleet.nodes[0].api().query("SELECT count(*) FROM cluster_metadata").await;
    assert!(read.is_ok_and(|rows| rows[0][0].as_u64() > Some(0)), "what is on a read-only disk can be read");
    fleet.nodes[0].kill();
    disk.restore();
    fleet.nodes[0].start().await;
    verification.some_more_of(0).await;
    held("a disk that became read-only", &verification.finish(&fleet, BOUND).await);
}

/// The store goes away and comes back with the disk; what was known of names is answered all the time.
#[tokio::test]
async fn g9_a_dead_disk_takes_the_store_and_not_the_names() {
    let Some(disk) = Disk::make("g9_dead_disk", 128) else { return };
    let Some(mut fleet) = Fleet::start("g9_dead_disk", 3, |node| first_on(&disk, node)).await else { return };
    let service = "INSERT INTO services (project, name) VALUES ('casa', 'api')";
    fleet.nodes[1].api().execute(service, &json!([])).await.expect("a write");
    let ask = async |node: &Node| node.resolve("casa-api.internal").await;
    eventually("n1 knows the name", NOTICED, async || match ask(&fleet.nodes[0]).await {
        Ok(answer) if answer.rcode == "NOERROR" => Ok(()),
        answer => Err(format!("{answer:?}")),
    })
    .await;
    let verification = Verification::begin(&fleet, PACE);
    verification.some_more_of(0).await;
    disk.cut();
    no_write_is_taken(&fleet.nodes[0]).await;
    let dead = tokio::time::Instant::now() + Duration::from_secs(times(10, 60));
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    while tokio::time::Instant::now() < dead {
        verification.some_more_of(1).await;
        let began = tokio::time::Instant::now();
        // A busy machine may keep an answer back, but no answer may be another one.
        let answer = eventually("the name is answered while the disk is dead", NOTICED, || ask(&fleet.nodes[0])).await;
        assert_eq!(answer.rcode, "NOERROR", "{answer:?}");
        (asked, slowest) = (asked + 1, slowest.max(began.elapsed()));
    }
    eprintln!("{asked} questions were answered beside a dead disk, the slowest in {slowest:?}");
    fleet.nodes[0].kill();
    disk.restore();
    fleet.nodes[0].start().await;
    held("a dead disk", &verification.finish(&fleet, BOUND).await);
}

/// With `durability = "normal"` a power cut may take a tail of what was acknowledged, and nothing that another node holds: what
/// is not synced is not sent. No number is given out twice, or the others would not become equal.
#[tokio::test]
async fn g2_a_power_cut_with_normal_durability_takes_nothing_that_others_hold() {
    let Some(disk) = Disk::make("g2_normal_power_cut", 128) else { return };
    let prepare = |node: &mut Node| {
        first_on(&disk, node);
        node.set("gossip.durability=normal");
    };
    let Some(mut fleet) = Fleet::start("g2_normal_power_cut", 3, prepare).await else { return };
    let rows = async |node: &Node| node.api().query("SELECT key FROM cluster_metadata WHERE key LIKE 'tail/%'").await;
    let (mut written, mut lost) = (0, 0);
    for _ in 0..times(3, 20) {
        for _ in 0..200 {
            written += 1;
            let key = json!([format!("tail/{written}")]);
            let write = fleet.nodes[0].api().execute("INSERT INTO cluster_metadata (key) VALUES (?)", &key);
            write.await.expect("acknowledged");
        }
        disk.cut();
        fleet.nodes[0].kill();
        let held = rows(&fleet.nodes[1]).await.expect("its rows");
        disk.restore();
        fleet.nodes[0].start().await;
        agree(&fleet.nodes, BOUND).await;
        let now = rows(&fleet.nodes[0]).await.expect("its rows");
        let gone: Vec<&Value> = held.iter().filter(|row| !now.contains(row)).collect();
        assert!(gone.is_empty(), "n2 held what nobody holds now: {gone:?}");
        lost = written - now.len();
    }
    let verified = fleet.nodes[0].api().get("/v1/verify").await.expect("its findings");
    assert!(verified.status == 200, "{} {}", verified.status, verified.body);
    eprintln!("of {written} acknowledged with durability = normal {lost} were lost");
}

/// A sync that fails says that what was written may be lost, and a later one that succeeds does not say that it is not.
#[tokio::test]
async fn g2_a_sync_that_fails_loses_nothing_that_was_acknowledged() {
    for durability in ["full", "normal"] {
        let prepare = |node: &mut Node| node.set(format!("gossip.durability={durability}"));
        let Some(fleet) = Fleet::start("g2_failed_sync", 3, prepare).await else { return };
        let verification = Verification::begin(&fleet, PACE);
        for _ in 0..times(2, 20) {
            verification.some_more_of(0).await;
            let Some(failing) = Tampering::with("g2_failed_sync", fleet.nodes[0].id(), Syncs::Fail) else { return };
            if durability == "full" {
                a_write_is_answered(&fleet.nodes[0], 503, 10).await;
            } else {
                eventually("n1 says that a sync failed", NOTICED, async || {
                    let log = fleet.nodes[0].log();
                    if log.contains("could not be synced") { Ok(()) } else { Err("it has not".to_owned()) }
                })
                .await;
            }
            verification.some_more_of(1).await;
            drop(failing);
        }
        verification.some_more_of(0).await;
        held(&format!("syncs that fail, durability = {durability}"), &verification.finish(&fleet, BOUND).await);
    }
}

#[tokio::test]
async fn g2_a_disk_that_syncs_slowly_slows_nobody_else() {
    let Some(fleet) = Fleet::start("g2_slow_sync", 3, |_| ()).await else { return };
    let verification = Verification::begin(&fleet, PACE);
    verification.some_more_of(0).await;
    let Some(slow) = Tampering::with("g2_slow_sync", fleet.nodes[0].id(), Syncs::Take(200)) else { return };
    let written = || [0, 1].map(|node| verification.acknowledged_by(node));
    let (before, began) = (written(), tokio::time::Instant::now());
    let more = times(100, 1_000);
    let now = eventually(&format!("n2 writes {more} transactions beside a slow disk"), SLOW, async || {
        let now = written();
        if now[1] - before[1] >= more { Ok(now) } else { Err(format!("{} of them", now[1] - before[1])) }
    })
    .await;
    let [slowly, freely] = [0, 1].map(|node| now[node] - before[node]);
    eprintln!("in {:?} n1 wrote {slowly} transactions at 200 ms a sync, n2 {freely}", began.elapsed());
    // Were n2 slowed by n1's disk, it would write no more than n1. However slow all else is, n1 waits for its disk each time.
    assert!(slowly * 2 < freely, "n1 wrote {slowly} transactions at 200 ms a sync, n2 {freely} beside it");
    let syncs = began.elapsed().as_millis() / 200 + 2;
    assert!(u128::from(slowly) <= syncs, "n1 wrote {slowly} transactions with {syncs} syncs of 200 ms at most");
    verification.some_more_of(0).await;
    drop(slow);
    held("a sync that takes 200 ms longer", &verification.finish(&fleet, BOUND).await);
}
