//! A disk that is set back to an earlier state, and one that is copied: what was acknowledged is everywhere in the end, and no
//! two stores go on under one site.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kith_tests::lab::{Authority, Lab, Node, agree, eventually};
use serde_json::json;
use tempfile::TempDir;

/// For a store that was told to go on under another site, with all restarts of it.
const SETTLED: Duration = Duration::from_secs(60);

/// The files of a node's store.
fn files(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.data()).expect("the lab's folder can be read");
    let files = entries.map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kith.db"))).collect()
}

fn keep(node: &Node) -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder can be made");
    for file in files(node) {
        fs::copy(&file, copy.path().join(file.file_name().expect("a file"))).expect("it can be copied");
    }
    copy
}

/// The disk is as it was: the same files with what they held then, as a snapshot of a virtual machine leaves them.
fn set_back(node: &Node, to: &Path) {
    for file in files(node) {
        let then = to.join(file.file_name().expect("a file"));
        if then.exists() {
            fs::write(&file, fs::read(then).expect("it was kept")).expect("it can be written");
        } else {
            fs::remove_file(&file).expect("it can be removed");
        }
    }
}

/// Other files with what was kept, as somebody leaves them who copies a backup by hand.
fn copy_back(node: &Node, from: &Path) {
    files(node).iter().for_each(|file| fs::remove_file(file).expect("it can be removed"));
    for entry in fs::read_dir(from).expect("it was kept") {
        let file = entry.expect("an entry").path();
        fs::copy(&file, node.data().join(file.file_name().expect("a file"))).expect("it can be copied");
    }
}

async fn site(node: &Node) -> String {
    let status = node.api().get("/v1/status").await.expect("a status").json();
    status["store"]["site"].as_str().expect("a site").to_owned()
}

/// Writes some rows here, each acknowledged only when all three nodes have it.
async fn write(node: &Node, what: &str, acknowledged: &mut BTreeSet<String>) {
    for n in 0..20 {
        let key = format!("{what}/{n}");
        let insert = json!([["INSERT INTO cluster_metadata (key) VALUES (?)", [key]]]);
        eventually(&format!("{key} is written on {}", node.name), SETTLED, async || {
            let reply = node.api().post("/v1/transactions", &insert).await?;
            // It may have been kept by an attempt whose answer was lost in a restart.
            let there = reply.body.contains("UNIQUE");
            if reply.status == 200 || there { Ok(()) } else { Err(format!("{} {}", reply.status, reply.body)) }
        })
        .await;
        acknowledged.insert(key);
    }
}

async fn all_hold(nodes: &[Node], acknowledged: &BTreeSet<String>) {
    agree(nodes, SETTLED).await;
    for node in nodes {
        let rows = node.api().query("SELECT key FROM cluster_metadata").await.expect("rows");
        let held: BTreeSet<_> = rows.iter().filter_map(|row| row[0].as_str().map(str::to_owned)).collect();
        let lost: Vec<_> = acknowledged.difference(&held).collect();
        assert!(lost.is_empty(), "{} lost {lost:?}", node.name);
        let verified = node.api().get("/v1/verify").await.expect("findings");
        assert_eq!(verified.status, 200, "{}: {}", node.name, verified.body);
    }
}

/// Three nodes that hold some rows, and the first one's disk as it is now.
async fn three(lab: &Lab, acknowledged: &mut BTreeSet<String>) -> (Vec<Node>, TempDir) {
    let mut nodes = lab.nodes(&Authority::new("setback"), &["n1", "n2", "n3"]);
    nodes.iter_mut().for_each(Node::launch);
    for node in &mut nodes {
        node.ready().await;
    }
    write(&nodes[0], "before", acknowledged).await;
    all_hold(&nodes, acknowledged).await;
    nodes[0].stop().await;
    let kept = keep(&nodes[0]);
    nodes[0].start().await;
    (nodes, kept)
}

#[tokio::test]
async fn g4_a_restored_backup_twice_loses_nothing_and_repeats_nothing() {
    let lab = Lab::new("setback");
    let mut acknowledged = BTreeSet::new();
    let (mut nodes, kept) = three(&lab, &mut acknowledged).await;
    let mut sites = BTreeSet::from([site(&nodes[0]).await]);
    for (round, put) in [set_back, copy_back].into_iter().enumerate() {
        write(&nodes[0], &format!("lost-{round}"), &mut acknowledged).await;
        all_hold(&nodes, &acknowledged).await;
        nodes[0].kill();
        put(&nodes[0], kept.path());
        nodes[0].start().await;
        write(&nodes[0], &format!("after-{round}"), &mut acknowledged).await;
        all_hold(&nodes, &acknowledged).await;
        assert!(sites.insert(site(&nodes[0]).await), "n1 goes on under a site that wrote otherwise: {sites:?}");
    }
    assert!(nodes[0].log().contains("another site id"), "{}", nodes[0].log());
}

#[tokio::test]
async fn g4_a_disk_that_is_copied_to_another_server_makes_another_site() {
    let lab = Lab::new("copied");
    let mut acknowledged = BTreeSet::new();
    let (mut nodes, kept) = three(&lab, &mut acknowledged).await;
    nodes[1].stop().await;
    copy_back(&nodes[1], kept.path());
    nodes[1].start().await;
    for (at, name) in [(0, "original"), (1, "copy")] {
        write(&nodes[at], name, &mut acknowledged).await;
    }
    all_hold(&nodes, &acknowledged).await;
    assert_ne!(site(&nodes[0]).await, site(&nodes[1]).await);
}
