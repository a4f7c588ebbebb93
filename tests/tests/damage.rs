//! Bits that a disk has changed while a server was off: its files are found wanting, and put right by the others.
//!
//! `scripts/soak faults` flips twenty; here it is a few. Which, a seed says, which a failure prints.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use kith_tests::lab::{Authority, Lab, Node, eventually};
use kith_tests::verify::Chance;
use serde_json::{Value, json};

/// For a start, a look, and as many repairs as one flip may take.
const RIGHT_AGAIN: Duration = Duration::from_secs(60);

const ROWS: usize = 300;

/// All rows, and the digest over them.
type Seen = (Vec<Value>, String);

/// Three servers with rows of all of them, a third of them deleted again.
async fn three(lab: &Lab) -> Vec<Node> {
    let mut nodes = lab.nodes(&Authority::new("damage"), &["n1", "n2", "n3"]);
    nodes.iter_mut().for_each(Node::launch);
    for node in &mut nodes {
        node.ready().await;
    }
    let sql = "INSERT INTO containers (id, ip, health_status) VALUES (?, ?, 'healthy')";
    for (number, node) in (0..ROWS).zip(nodes.iter().cycle()) {
        node.api()
            .execute(sql, &json!([format!("c{number}"), format!("10.0.0.{number}")]))
            .await
            .expect("acknowledged");
    }
    nodes[0].api().execute("DELETE FROM containers WHERE id LIKE '%7'", &json!([])).await.expect("acknowledged");
    equal(&nodes, "before anything is flipped").await;
    nodes
}

async fn seen(node: &Node) -> Result<Seen, String> {
    let rows = node.api().query("SELECT id, ip, health_status FROM containers ORDER BY id").await?;
    Ok((rows, node.api().digest().await?))
}

/// Waits until all show the same.
async fn equal(nodes: &[Node], what: &str) -> Seen {
    eventually(what, RIGHT_AGAIN, async || {
        let mut all = BTreeMap::new();
        for node in nodes {
            all.insert(node.name.as_str(), seen(node).await?);
        }
        let first = all["n1"].clone();
        let digests: Vec<_> = all.values().map(|(rows, digest)| (rows.len(), digest)).collect();
        if all.values().all(|seen| *seen == first) { Ok(first) } else { Err(format!("{digests:?}")) }
    })
    .await
}

/// Has a server look through its rows, until it finds nothing wrong.
async fn sound(node: &Node, what: &str) {
    eventually(what, RIGHT_AGAIN, async || {
        let reply = node.api().get("/v1/verify").await?;
        if reply.status == 200 && reply.json()["wrong"] == json!([]) { Ok(()) } else { Err(reply.body) }
    })
    .await;
}

/// A server whose part has ended is not ready for a moment; the agent starts it again.
async fn ready(node: &Node, what: &str) {
    eventually(what, RIGHT_AGAIN, async || {
        let reply = node.api().get("/ready").await?;
        if reply.status == 200 { Ok(()) } else { Err(reply.body) }
    })
    .await;
}

async fn count(node: &Node, metric: &str) -> u64 {
    let text = node.api().get("/metrics").await.expect("metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {metric} in {text}"))
}

/// Flips a bit that the seed says, of a byte that is not zero: most of a small database is empty, and flips there change
/// nothing. Says which.
fn flip(path: &Path, seed: u64) -> (usize, usize) {
    let mut bytes = fs::read(path).expect("a file of its store");
    let mut chance = Chance::new(seed);
    let used: Vec<_> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
    let (at, bit) = (used[chance.below(used.len())], chance.below(8));
    bytes[at] ^= 1 << bit;
    fs::write(path, bytes).expect("a file of its store");
    (at, bit)
}

fn flips() -> u64 {
    if std::env::var_os("KITH_FAULTS").is_some_and(|value| value == "long") { 20 } else { 5 }
}

#[tokio::test]
async fn g15_bits_flipped_in_the_database_of_one_server_are_found_and_put_right_and_no_other_changes() {
    let lab = Lab::new("damage");
    let mut nodes = three(&lab).await;
    let before = equal(&nodes, "all are equal").await;
    let mut repaired = 0;
    for seed in 0..flips() {
        // All of it is in the file, where the flip is.
        nodes[1].stop().await;
        let path = nodes[1].data().join("kith.db");
        let (at, bit) = flip(&path, seed);
        let what = format!("seed {seed}, byte {at}, bit {bit}");
        nodes[1].launch();
        ready(&nodes[1], &what).await;
        sound(&nodes[1], &what).await;
        assert!(equal(&nodes, &what).await == before, "{what}: all are equal, and not what they were");
        for node in [&nodes[0], &nodes[2]] {
            assert_eq!(count(node, "kith_gossip_rows_repaired_total").await, 0, "{what}");
        }
        repaired += usize::from(count(&nodes[1], "kith_gossip_repairs_total").await > 0);
    }
    // By its log, which goes on over all its starts.
    let anew = nodes[1].log().matches("the store is damaged: it is kept aside").count();
    eprintln!("of {} flips {repaired} were repaired in place, {anew} made the server begin anew", flips());
    assert!(repaired + anew > 0, "no flip was of any consequence");
}

#[tokio::test]
async fn g1_bits_flipped_in_the_log_of_a_killed_server_are_found_and_nothing_is_lost() {
    let lab = Lab::new("damage");
    let mut nodes = three(&lab).await;
    for seed in 0..flips() {
        let sql = "INSERT INTO containers (id, ip) VALUES (?, '10.0.1.1')";
        for number in 0..20 {
            nodes[1].api().execute(sql, &json!([format!("s{seed}-{number}")])).await.expect("acknowledged");
        }
        let before = equal(&nodes, "all are equal").await;
        nodes[1].kill();
        let path = nodes[1].data().join("kith.db-wal");
        let (at, bit) = flip(&path, seed);
        let what = format!("seed {seed}, byte {at}, bit {bit}");
        nodes[1].launch();
        ready(&nodes[1], &what).await;
        sound(&nodes[1], &what).await;
        assert!(equal(&nodes, &what).await == before, "{what}: all are equal, and not what they were");
    }
}
