//! Whole nodes on loopback: what is written on one is read on the others.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use kith_gossip::api::MemberState;
use kith_gossip::{BuildError, DevAuthority, Gossip, RunError};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::node::{BOUND, LOOPBACK, Node, cluster, config, dirs, eventually, one_digest};

mod migration;
mod node;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_on_one_node_is_read_on_all_and_their_digests_agree() {
    let (authority, dirs) = (DevAuthority::new("test").unwrap(), dirs::<3>());
    let nodes = cluster(&authority, &dirs).await;
    for (number, node) in nodes.iter().enumerate() {
        let id = format!("{number:064x}");
        node.write(&id, "10.210.128.1").await;
        for other in &nodes {
            other.reads(&id, "10.210.128.1").await;
        }
    }
    // The last writer of one row wins everywhere.
    let id = format!("{:064x}", 0);
    nodes[2].write(&id, "10.210.128.3").await;
    for node in &nodes {
        node.reads(&id, "10.210.128.3").await;
    }
    one_digest(&nodes).await;
    for node in &nodes {
        assert_eq!(node.get("/ready").await, r#"{"ready":true,"waiting":[]}"#);
        let members: Vec<String> = node.get("/v1/members").await.lines().map(ToOwned::to_owned).collect();
        assert_eq!(members.len(), 4, "{members:?}");
        assert!(members[0].contains(r#""server":"node-1""#) && members[0].contains(r#""state":"up""#), "{members:?}");
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_catches_up_with_a_new_boot() {
    let (authority, dirs) = (DevAuthority::new("test").unwrap(), dirs::<3>());
    let mut nodes = cluster(&authority, &dirs).await;
    nodes[0].write("a", "10.0.0.1").await;
    nodes[2].reads("a", "10.0.0.1").await;
    let away = nodes.pop().unwrap();
    away.stop().await;
    nodes[0].write("a", "10.0.0.2").await;
    nodes[1].write("b", "10.0.0.3").await;
    let seeds = [nodes[1].gossip];
    let back = Node::start(config(&authority, "node-3", dirs[2].path(), &seeds)).await;
    assert_eq!(back.status.get().boot, 2);
    back.reads("a", "10.0.0.2").await;
    back.reads("b", "10.0.0.3").await;
    back.write("c", "10.0.0.4").await;
    nodes[0].reads("c", "10.0.0.4").await;
    nodes[0].sees(&[("node-1", MemberState::Up), ("node-2", MemberState::Up), ("node-3", MemberState::Up)]).await;
    nodes.push(back);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_takes_a_snapshot_where_a_pull_would_be_large() {
    let (authority, [first, second]) = (DevAuthority::new("test").unwrap(), dirs());
    let old = Node::start(config(&authority, "node-1", first.path(), &[])).await;
    for batch in 0..24 {
        let rows = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
             INSERT INTO containers (id, ip) SELECT printf('{batch}-%d', i), '10.0.0.1' FROM n"
        );
        old.post("/v1/transactions", &json!([rows])).await;
    }
    old.post("/v1/transactions", &json!(["DELETE FROM containers WHERE id = '0-1'"])).await;
    let new = Node::start(config(&authority, "node-2", second.path(), &[old.gossip])).await;
    new.reads("23-500", "10.0.0.1").await;
    assert_eq!(new.read("0-1").await, None);
    let count =
        |node: &Node, name: &str| node.status.get().counts.iter().find(|count| count.name == name).unwrap().value;
    assert_eq!((count(&new, "gossip_snapshots"), count(&new, "gossip_snapshots_failed")), (1, 0));
    assert_eq!(count(&new, "gossip_rows_pulled"), 0);
    assert_eq!(count(&old, "gossip_snapshots_sent"), 1);
    // It is itself, not a second node-1: what both write from here on reaches the other.
    new.write("from-2", "10.0.0.2").await;
    old.reads("from-2", "10.0.0.2").await;
    old.write("from-1", "10.0.0.3").await;
    new.reads("from-1", "10.0.0.3").await;
    eventually(|| async {
        let digests = (old.get("/v1/digest").await, new.get("/v1/digest").await);
        if digests.0 == digests.1 { Ok(()) } else { Err(digests) }
    })
    .await;
    let left: Vec<_> = std::fs::read_dir(second.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("coming")), "{left:?}");
    new.stop().await;
    let again = Node::start(config(&authority, "node-2", second.path(), &[old.gossip])).await;
    assert_eq!(again.status.get().boot, 2);
    again.reads("from-1", "10.0.0.3").await;
    again.stop().await;
    old.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_store_is_damaged_begins_anew_from_its_peers() {
    let (authority, dirs) = (DevAuthority::new("test").unwrap(), dirs::<2>());
    let mut nodes = cluster(&authority, &dirs).await;
    nodes[1].write("a", "10.0.0.1").await;
    nodes[0].reads("a", "10.0.0.1").await;
    nodes.pop().unwrap().stop().await;
    let path = dirs[1].path().join("kith.db");
    std::fs::write(&path, "this was a database".repeat(1000)).unwrap();
    // Nobody could give it its rows back.
    let alone = Gossip::build(config(&authority, "node-2", dirs[1].path(), &[])).await.map(|_| ()).unwrap_err();
    assert!(matches!(alone, BuildError::Store(_)), "{alone}");
    let seeds = [nodes[0].gossip];
    let anew = Node::start(config(&authority, "node-2", dirs[1].path(), &seeds)).await;
    anew.reads("a", "10.0.0.1").await;
    // It is believed though its store begins anew.
    anew.write("b", "10.0.0.2").await;
    nodes[0].reads("b", "10.0.0.2").await;
    nodes[0].sees(&[("node-1", MemberState::Up), ("node-2", MemberState::Up)]).await;
    nodes.push(anew);
    for node in nodes {
        node.stop().await;
    }
}

/// Changes the file of a node that runs, behind its back.
fn tamper(dir: &Path, sql: &str) {
    rusqlite::Connection::open(dir.join("kith.db")).unwrap().execute_batch(sql).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_a_disk_changed_is_found_and_comes_back_from_a_peer() {
    let (authority, dirs) = (DevAuthority::new("test").unwrap(), dirs::<3>());
    let nodes = cluster(&authority, &dirs).await;
    for number in 0..20 {
        nodes[number % 3].write(&format!("c{number}"), &format!("10.0.0.{number}")).await;
    }
    for (node, number) in nodes.iter().flat_map(|node| (0..20).map(move |number| (node, number))) {
        node.reads(&format!("c{number}"), &format!("10.0.0.{number}")).await;
    }
    // A row is read as soon as it is committed; a digest is told of when the commit is synced.
    let sound = one_digest(&nodes).await;
    tamper(
        dirs[1].path(),
        "UPDATE containers SET ip = '6.6.6.6' WHERE id = 'c7'; DELETE FROM containers WHERE id = 'c8'",
    );
    assert_eq!(nodes[1].read("c7").await.as_deref(), Some("6.6.6.6"));
    // Digests that are kept change by change know nothing of it, until somebody looks.
    assert_eq!(nodes[1].get("/v1/digest").await, sound);
    let found: Value = serde_json::from_str(&nodes[1].get("/v1/verify").await).unwrap();
    assert!(found["wrong"].as_array().is_some_and(|wrong| !wrong.is_empty()), "{found}");
    // While writes go on everywhere.
    nodes[1].write("own", "10.0.1.1").await;
    nodes[2].write("theirs", "10.0.1.2").await;
    nodes[1].reads("c7", "10.0.0.7").await;
    nodes[1].reads("c8", "10.0.0.8").await;
    eventually(|| async {
        let status = nodes[1].status.get();
        let digests = [&nodes[0], &nodes[1], &nodes[2]].map(|node| node.get("/v1/digest"));
        let digests = futures_util::future::join_all(digests).await;
        let equal = digests.iter().all(|digest| *digest == digests[0]);
        (equal && status.replication.damage.is_none()).then_some(()).ok_or((digests, status.replication.damage))
    })
    .await;
    let found: Value = serde_json::from_str(&nodes[1].get("/v1/verify").await).unwrap();
    assert_eq!(found["wrong"], json!([]), "{found}");
    for (node, repaired) in nodes.iter().zip([0, 2, 0]) {
        let counts = node.status.get().counts;
        let count = counts.iter().find(|count| count.name == "gossip_rows_repaired").map(|count| count.value);
        assert_eq!(count, Some(repaired));
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_breaks_under_a_running_node_ends_it_and_its_next_start_begins_anew() {
    let (authority, dirs) = (DevAuthority::new("test").unwrap(), dirs::<2>());
    let mut nodes = cluster(&authority, &dirs).await;
    let filler = "x".repeat(4_000);
    for number in 0..20 {
        let rows: Vec<_> = (0..50)
            .map(|row| json!(["INSERT INTO containers (id, ip) VALUES (?, ?)", [format!("c{number}-{row}"), filler]]))
            .collect();
        nodes[0].post("/v1/transactions", &json!(rows)).await;
    }
    nodes[1].reads("c19-49", &filler).await;
    let mut broken = nodes.pop().unwrap();
    // All of it is in the file, and more than any connection has in memory.
    tamper(dirs[1].path(), "PRAGMA wal_checkpoint(TRUNCATE)");
    let file = std::fs::File::options().write(true).open(dirs[1].path().join("kith.db")).unwrap();
    for page in 100..file.metadata().unwrap().len() / 4096 - 100 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xA5; 4096], page * 4096).unwrap();
    }
    let request =
        broken.client.post(format!("http://{}/v1/queries", broken.api)).header("content-type", "application/json");
    let answer = request.body(json!("SELECT sum(length(ip)) FROM containers").to_string()).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status == 503 && text.contains("the database is damaged"), "{status}: {text}");
    let ended = timeout(BOUND, broken.tasks.join_next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(ended, Err(RunError::Ended("store"))), "{ended:?}");
    let anew = Node::start(config(&authority, "node-2", dirs[1].path(), &[nodes[0].gossip])).await;
    anew.reads("c19-49", &filler).await;
    eventually(|| async {
        let digests = (nodes[0].get("/v1/digest").await, anew.get("/v1/digest").await);
        if digests.0 == digests.1 { Ok(()) } else { Err(digests) }
    })
    .await;
    anew.stop().await;
    nodes.pop().unwrap().stop().await;
}

/// What is in the files of a node.
fn image(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// The same files as before, with what they held then: as when a whole file system is set back.
fn put_back(folder: &Path, image: &[(PathBuf, Vec<u8>)]) {
    for entry in std::fs::read_dir(folder).unwrap() {
        std::fs::write(entry.unwrap().path(), b"").unwrap();
    }
    image.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_a_disk_that_is_set_back_twice_loses_nothing_and_repeats_nothing() {
    let (authority, dirs) = (DevAuthority::new("test").unwrap(), dirs::<3>());
    let mut nodes = cluster(&authority, &dirs).await;
    nodes[2].write("before", "10.0.0.1").await;
    nodes[0].reads("before", "10.0.0.1").await;
    nodes.pop().unwrap().stop().await;
    let folder = dirs[2].path();
    let image = image(folder);
    let seeds = [nodes[0].gossip, nodes[1].gossip];
    let start = || Node::start(config(&authority, "node-3", folder, &seeds));
    let node = start().await;
    node.write("after", "10.0.0.2").await;
    nodes[0].reads("after", "10.0.0.2").await;
    nodes[1].reads("after", "10.0.0.2").await;
    node.stop().await;
    for round in 0..2 {
        put_back(folder, &image);
        let told = start().await.ended().await;
        assert!(matches!(told, RunError::Replication(_)), "{told:?}");
        let node = start().await;
        node.reads("after", "10.0.0.2").await;
        let id = format!("round-{round}");
        node.write(&id, "10.0.0.3").await;
        for other in &nodes {
            other.reads(&id, "10.0.0.3").await;
        }
        node.reads("round-0", "10.0.0.3").await;
        let three = ["node-1", "node-2", "node-3"].map(|name| (name, MemberState::Up));
        nodes[0].sees(&three).await;
        eventually(|| async {
            let digests =
                [node.get("/v1/digest").await, nodes[0].get("/v1/digest").await, nodes[1].get("/v1/digest").await];
            if digests.iter().all(|digest| *digest == digests[0]) { Ok(()) } else { Err(digests) }
        })
        .await;
        node.stop().await;
    }
    for node in nodes {
        node.stop().await;
    }
}

/// Its starts were counted on while nobody heard it, and of what it had written nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_a_disk_that_was_set_back_is_known_where_neither_starts_nor_rows_say_so() {
    let (authority, dirs) = (DevAuthority::new("test").unwrap(), dirs::<3>());
    let mut nodes = cluster(&authority, &dirs).await;
    nodes[2].write("before", "10.0.0.1").await;
    nodes[0].reads("before", "10.0.0.1").await;
    nodes.pop().unwrap().stop().await;
    let folder = dirs[2].path();
    let image = image(folder);
    let seeds = [nodes[0].gossip, nodes[1].gossip];
    let start = || Node::start(config(&authority, "node-3", folder, &seeds));
    let node = start().await;
    node.write("after", "10.0.0.2").await;
    nodes[0].reads("after", "10.0.0.2").await;
    nodes[1].reads("after", "10.0.0.2").await;
    node.stop().await;
    nodes[0].post("/v1/transactions", &json!(["DELETE FROM containers WHERE id = 'after'"])).await;
    eventually(|| async { nodes[1].read("after").await.map_or(Ok(()), Err) }).await;

    put_back(folder, &image);
    for _ in 0..2 {
        Node::start(config(&authority, "node-3", folder, &[])).await.stop().await;
    }
    let told = start().await.ended().await;
    assert!(matches!(told, RunError::Replication(_)), "{told:?}");
    let node = start().await;
    node.write("again", "10.0.0.3").await;
    nodes[0].reads("again", "10.0.0.3").await;
    nodes[1].reads("again", "10.0.0.3").await;
    assert_eq!(node.read("after").await, None);
    node.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_removes_a_server_by_its_row() {
    let (authority, dirs) = (DevAuthority::new("test").unwrap(), dirs::<2>());
    let nodes = cluster(&authority, &dirs).await;
    let row =
        "INSERT INTO servers (id, subnet, removed_at) VALUES ('node-1', '10.210.5.0/24', NULL), ('node-2', '', 1)";
    nodes[0].post("/v1/transactions", &json!([row])).await;
    nodes[0].sees(&[("node-1", MemberState::Up), ("node-2", MemberState::Removed)]).await;
    assert_eq!(nodes[0].status.get().members[0].number, Some(5));
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn every_socket_is_free_again_after_a_stop_and_a_taken_one_is_named() {
    let (authority, [dir, other]) = (DevAuthority::new("test").unwrap(), dirs());
    let node = Node::start(config(&authority, "node-1", dir.path(), &[])).await;
    let (api, gossip) = (node.api, node.gossip);
    for (listen, named) in [(gossip, "UDP"), (LOOPBACK, "")] {
        let mut config = config(&authority, "node-2", other.path(), &[]);
        config.listen = listen;
        config.api.listen = vec![api];
        let error = Gossip::build(config).await.map(|_| ()).unwrap_err();
        let text = format!("{:#}", anyhow::Error::from(error));
        let address = if named.is_empty() { api } else { gossip };
        assert!(text.contains(named) && text.contains(&address.to_string()), "{text}");
    }
    node.stop().await;
    drop(TcpListener::bind(api).unwrap());
    drop(UdpSocket::bind(gossip).unwrap());
    // What failed to build has let go of its store.
    Node::start(config(&authority, "node-2", other.path(), &[])).await.stop().await;
}

#[tokio::test]
async fn a_node_that_others_could_not_find_or_believe_does_not_start() {
    let (authority, [dir]) = (DevAuthority::new("test").unwrap(), dirs());
    let mut everywhere = config(&authority, "node-1", dir.path(), &[]);
    everywhere.listen = ([0, 0, 0, 0], 0).into();
    assert!(matches!(Gossip::build(everywhere).await, Err(BuildError::Advertise(_))));
    let mut other = config(&authority, "node-1", dir.path(), &[]);
    other.node = "node-2".parse().unwrap();
    assert!(matches!(Gossip::build(other).await, Err(BuildError::Node { .. })));
}
