//! Three real `kith agent` processes, seen from outside.

use std::time::Duration;

use kith_tests::lab::{Addresses, Answer, Api, Authority, Lab, Node, agree, eventually};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// For one fact to be everywhere: a hundred times the goal, for a busy machine.
const EVERYWHERE: Duration = Duration::from_secs(10);
/// For nodes to find each other, or each other again: dials that failed are tried again after seconds.
const TOGETHER: Duration = Duration::from_secs(30);

const CONTAINER: &str = "3f2a3f2a3f2a";

async fn three(lab: &Lab) -> Vec<Node> {
    let mut nodes = lab.nodes(&Authority::new("lab"), &["n1", "n2", "n3"]);
    nodes.iter_mut().for_each(Node::launch);
    for node in &mut nodes {
        node.ready().await;
    }
    for node in &nodes {
        let what = format!("{} sees all three", node.name);
        eventually(&what, TOGETHER, async || {
            let members = node.api().members_up().await?;
            if members == ["n1", "n2", "n3"] { Ok(()) } else { Err(format!("{members:?}")) }
        })
        .await;
    }
    nodes
}

/// Waits until the DNS of each node says `expected` to `name`.
async fn all_answer(nodes: &[Node], name: &str, expected: &Answer) {
    for node in nodes {
        let what = format!("{} answers {name} with {expected:?}", node.name);
        eventually(&what, EVERYWHERE, async || {
            let answer = node.resolve(name).await?;
            if answer == *expected { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }
}

fn answer(rcode: &str, addresses: &[&str]) -> Answer {
    let addresses: Vec<_> = addresses.iter().map(|a| a.parse().expect("the test writes an address")).collect();
    Answer { rcode: rcode.to_owned(), soa: addresses.is_empty(), addresses }
}

/// The arenas of glibc's allocator besides the first: each is 64 MiB of address space, of which the end cannot be read yet.
fn arenas(process: u32) -> usize {
    const ARENA: u64 = 64 << 20;
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).expect("the process runs");
    let mapped = maps.lines().filter_map(|line| {
        let (range, rights) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let at = |text| u64::from_str_radix(text, 16).ok();
        Some((at(from)?, at(to)?, rights.get(..4)?))
    });
    let mapped: Vec<_> = mapped.collect();
    let is_arena = |pair: &&[(u64, u64, &str)]| {
        matches!(**pair, [(from, middle, "rw-p"), (rest, to, "---p")]
            if from % ARENA == 0 && middle == rest && to - from == ARENA)
    };
    mapped.windows(2).filter(is_arena).count()
}

#[tokio::test]
async fn g13_the_threads_of_an_agent_share_their_memory() {
    let lab = Lab::new("lab");
    let mut nodes = lab.nodes(&Authority::new("lab"), &["n1"]);
    nodes[0].launch();
    nodes[0].ready().await;
    for number in 0..100 {
        let insert = "INSERT INTO cluster_metadata (key, value) VALUES (?, 'x')";
        nodes[0].api().execute(insert, &json!([number.to_string()])).await.expect("acknowledged");
    }
    assert_eq!(arenas(nodes[0].id()), 0);
}

#[tokio::test]
async fn a_fact_written_on_one_server_is_answered_by_all_and_stops_with_them() {
    let lab = Lab::new("lab");
    let mut nodes = three(&lab).await;
    let write = async |sql: &str, parameters| nodes[0].api().execute(sql, &parameters).await.expect("acknowledged");

    write("INSERT INTO services (project, name) VALUES ('casa', 'api')", json!([])).await;
    let insert = "INSERT INTO containers (id, project, service, server_id, ip, instance_id, started_at) VALUES (?, 'casa', 'api', 'n1', '10.210.128.7', 'a', 1)";
    write(insert, json!([CONTAINER])).await;
    // What is answered for two replicas is on all three: nothing is waited for.
    let sql = json!(["INSERT INTO cluster_metadata (key, value) VALUES ('held', 'by all')"]);
    let held = nodes[0].api().post("/v1/transactions?replicas=2", &sql).await.expect("an answer");
    assert_eq!(held.status, 200, "{}", held.body);
    for node in &nodes {
        let rows = node.api().query("SELECT value FROM cluster_metadata WHERE key = 'held'").await.expect("rows");
        assert_eq!(rows, [json!(["by all"])], "{}", node.name);
    }

    for node in &nodes {
        let what = format!("{} reads the container", node.name);
        let rows = eventually(&what, EVERYWHERE, async || {
            let rows = node.api().query("SELECT ip, service FROM containers").await?;
            if rows.is_empty() { Err("no row".to_owned()) } else { Ok(rows) }
        });
        assert_eq!(rows.await, [json!(["10.210.128.7", "api"])]);
    }
    all_answer(&nodes, "casa-api.internal", &answer("NOERROR", &["10.210.128.7"])).await;

    write("UPDATE containers SET health_status = 'unhealthy' WHERE id = ?", json!([CONTAINER])).await;
    all_answer(&nodes, "casa-api.internal", &answer("NOERROR", &[])).await;
    write("DELETE FROM services WHERE name = 'api'", json!([])).await;
    all_answer(&nodes, "casa-api.internal", &answer("NXDOMAIN", &[])).await;
    agree(&nodes, TOGETHER).await;

    for node in &mut nodes {
        let status = node.stop().await;
        assert_eq!(status.code(), Some(0), "{}: {status}\n{}", node.name, node.log());
        let log = node.log();
        let worrying: Vec<_> = log.lines().filter(|l| l.contains("ERROR") || l.contains("panicked")).collect();
        assert!(worrying.is_empty(), "{}: {worrying:#?}", node.name);
        node.at.are_free().expect("what it listened on can be bound again");
    }
}

/// Writes numbered facts to `node` until one is not acknowledged; returns those that were.
async fn write_until_it_dies(api: Api, round: usize, progress: tokio::sync::watch::Sender<usize>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    loop {
        let key = format!("r{round}-{:05}", acknowledged.len());
        let insert = api.execute("INSERT INTO cluster_metadata (key, value) VALUES (?, 'x')", &json!([key])).await;
        if insert.is_err() {
            return acknowledged;
        }
        acknowledged.push(key);
        progress.send_replace(acknowledged.len());
    }
}

/// Writes numbered facts to `node` until told to stop; every one must be acknowledged.
async fn write_until_told(api: Api, round: usize, stop: CancellationToken) -> Vec<String> {
    let mut acknowledged = Vec::new();
    while !stop.is_cancelled() {
        let key = format!("steady{round}-{:05}", acknowledged.len());
        let insert = api.execute("INSERT INTO cluster_metadata (key, value) VALUES (?, 'y')", &json!([key])).await;
        insert.expect("a node that nobody kills acknowledges");
        acknowledged.push(key);
    }
    acknowledged
}

async fn keys(node: &Node) -> Result<Vec<String>, String> {
    let rows = node.api().query("SELECT key FROM cluster_metadata ORDER BY key").await?;
    Ok(rows.iter().filter_map(|row| row[0].as_str()).map(str::to_owned).collect())
}

/// Waits until `node` has all of `expected`.
async fn has_all(node: &Node, expected: &[String]) {
    let what = format!("{} has all {} facts that were acknowledged", node.name, expected.len());
    eventually(&what, TOGETHER, async || {
        let keys = keys(node).await?;
        let missing: Vec<_> = expected.iter().filter(|key| keys.binary_search(key).is_err()).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{} missing, first {:?}", missing.len(), missing[0])) }
    })
    .await;
}

#[tokio::test]
async fn a_server_killed_under_writes_comes_back_with_nothing_acknowledged_lost() {
    const KILLS: usize = 3;
    const BEFORE_THE_KILL: usize = 50;
    let lab = Lab::new("lab");
    let mut nodes = three(&lab).await;
    let mut expected = Vec::new();
    for round in 0..KILLS {
        let stop = CancellationToken::new();
        let (progress, mut written) = tokio::sync::watch::channel(0);
        let mut writers = JoinSet::new();
        writers.spawn(write_until_it_dies(nodes[1].api().clone(), round, progress));
        writers.spawn(write_until_told(nodes[0].api().clone(), round, stop.clone()));
        let enough = written.wait_for(|count| *count >= BEFORE_THE_KILL);
        drop(tokio::time::timeout(TOGETHER, enough).await.expect("writes go on").expect("the writer lives"));
        nodes[1].kill();
        stop.cancel();
        while let Some(acknowledged) = writers.join_next().await {
            expected.extend(acknowledged.expect("a writer does not panic"));
        }
        nodes[0]
            .api()
            .execute("INSERT INTO cluster_metadata (key) VALUES (?)", &json!([format!("while-down-{round}")]))
            .await
            .expect("acknowledged");
        expected.push(format!("while-down-{round}"));

        nodes[1].start().await;
        // Its own acknowledged writes are there at once, from its own disk; the others' come by replication.
        let own = keys(&nodes[1]).await.expect("it answers");
        let lost: Vec<_> = expected.iter().filter(|k| k.starts_with('r') && own.binary_search(k).is_err()).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        for node in &nodes {
            has_all(node, &expected).await;
        }
        agree(&nodes, TOGETHER).await;
    }
}

#[tokio::test]
async fn a_stranger_is_refused_and_both_sides_say_so() {
    let lab = Lab::new("lab");
    let mut home = lab.nodes(&Authority::new("lab"), &["n1"]).remove(0);
    home.start().await;
    let strangers = Authority::new("lab");
    let mut stranger = lab.node(&strangers, "n2", Addresses::choose("n2"), &[home.at.gossip]);
    stranger.start().await;
    for (node, other) in [(&home, &stranger), (&stranger, &home)] {
        let what = format!("{} warns that {} is not of its cluster", node.name, other.at.gossip);
        let address = other.at.gossip.to_string();
        eventually(&what, TOGETHER, async || {
            let log = node.log();
            let is_warning = |line: &&str| line.contains("WARN") && line.contains("not of our cluster");
            let said = log.lines().filter(is_warning).any(|line| line.contains(&address));
            if said { Ok(()) } else { Err(log.lines().last().unwrap_or("nothing").to_owned()) }
        })
        .await;
    }
    home.api().execute("INSERT INTO cluster_metadata (key) VALUES ('secret')", &json!([])).await.expect("acknowledged");
    for node in [&home, &stranger] {
        assert_eq!(node.api().members_up().await.expect("it answers"), std::slice::from_ref(&node.name));
    }
    assert_eq!(keys(&stranger).await.expect("it answers"), Vec::<String>::new());
}
