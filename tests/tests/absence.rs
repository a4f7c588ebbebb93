//! A server that was away for longer than deletions are remembered, seen from outside.

use std::time::Duration;

use kith_tests::lab::{Authority, Lab, Node, eventually};
use nix::sys::signal::Signal;
use serde_json::json;

/// How long deletions are remembered here, instead of a week.
const WINDOW_MS: u32 = 3_000;

/// For nodes to find each other again, for a busy machine.
const TOGETHER: Duration = Duration::from_secs(60);

/// What a node says of the rows that the test writes.
async fn rows(node: &Node) -> Result<Vec<serde_json::Value>, String> {
    node.api().query("SELECT key, value FROM cluster_metadata WHERE key LIKE 'k%' ORDER BY key").await
}

async fn all_have(nodes: &[&Node], expected: serde_json::Value) {
    let serde_json::Value::Array(expected) = expected else { panic!("the test writes rows") };
    for node in nodes {
        let what = format!("{} has {expected:?}", node.name);
        eventually(&what, TOGETHER, async || {
            let rows = rows(node).await?;
            if rows == expected { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
    }
}

async fn write(node: &Node, statements: &[&str]) {
    let body = json!(statements);
    let reply = node.api().post("/v1/transactions", &body).await.expect("an answer");
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[tokio::test]
async fn g5_a_server_frozen_beyond_the_memory_of_deletions_brings_nothing_back() {
    let lab = Lab::new("absence");
    let mut nodes = lab.nodes(&Authority::new("absence"), &["n1", "n2", "n3"]);
    for node in &mut nodes {
        node.set(format!("gossip.remember_deletions_ms={WINDOW_MS}"));
        node.launch();
    }
    for node in &mut nodes {
        node.ready().await;
    }
    let insert = "INSERT INTO cluster_metadata (key, value) VALUES ('k1', 'a'), ('k2', 'a'), ('k3', 'a')";
    write(&nodes[0], &[insert]).await;
    all_have(&nodes.iter().collect::<Vec<_>>(), json!([["k1", "a"], ["k2", "a"], ["k3", "a"]])).await;

    // What the third writes while it is alone is known to nobody when it freezes.
    nodes[0].stop().await;
    nodes[1].stop().await;
    let alone = [
        "UPDATE cluster_metadata SET value = 'mine' WHERE key IN ('k1', 'k2')",
        "INSERT INTO cluster_metadata (key, value) VALUES ('k4', 'mine')",
    ];
    write(&nodes[2], &alone).await;
    nodes[2].signal(Signal::SIGSTOP);

    // The others delete a row, and forget it.
    for node in &mut nodes[..2] {
        node.launch();
    }
    for node in &mut nodes[..2] {
        node.ready().await;
    }
    write(&nodes[0], &["DELETE FROM cluster_metadata WHERE key = 'k1'"]).await;
    let stayed = [["k2", "a"], ["k3", "a"]];
    all_have(&[&nodes[0], &nodes[1]], json!(stayed)).await;
    for node in &nodes[..2] {
        let what = format!("{} has forgotten the deletion", node.name);
        eventually(&what, TOGETHER, async || {
            let status = node.api().get("/v1/status").await?.json();
            let forgotten = &status["store"]["forgotten_before_ms"];
            if forgotten.is_number() { Ok(()) } else { Err(status["store"].to_string()) }
        })
        .await;
    }

    // The third wakes up. Nowhere is the deleted row seen, while it is not alone any more.
    nodes[2].signal(Signal::SIGCONT);
    let expected = [json!(["k2", "mine"]), json!(["k3", "a"]), json!(["k4", "mine"])];
    eventually("all have what the third wrote, but on the deleted row", TOGETHER, async || {
        let mut last = Ok(());
        for node in &nodes {
            let rows = rows(node).await?;
            let deleted = rows.iter().any(|row| row[0] == "k1");
            assert!(node.name == "n3" || !deleted, "{} shows a deleted row: {rows:?}", node.name);
            if rows != expected {
                last = Err(format!("{}: {rows:?}", node.name));
            }
        }
        last
    })
    .await;
    eventually("the digests are equal", TOGETHER, async || {
        let mut digests = Vec::new();
        for node in &nodes {
            digests.push(node.api().digest().await?);
        }
        if digests.iter().all(|digest| *digest == digests[0]) { Ok(()) } else { Err(format!("{digests:?}")) }
    })
    .await;

    // What could not be written again is named.
    let files = std::fs::read_dir(nodes[2].data()).expect("the folder is there");
    let files: Vec<_> = files.map(|entry| entry.expect("a file").path()).collect();
    let named = |part: &str| files.iter().find(|path| path.to_string_lossy().contains(part));
    let list = named(".lost-").unwrap_or_else(|| panic!("no list in {files:?}\n{}", nodes[2].log()));
    let text = std::fs::read_to_string(list).expect("a text");
    assert!(text.starts_with("cluster_metadata ('k1'): ") && text.lines().count() == 1, "{text}");
    assert!(named(".away-").is_some(), "{files:?}");
    let status = nodes[2].api().get("/v1/status").await.expect("an answer").json();
    assert!(status["alarms"].to_string().contains(&list.display().to_string()), "{status}");
}
