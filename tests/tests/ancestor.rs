//! Two experiments that broke Kith's ancestor, a daemon that swept by age and took silence for death: there an hour-old container
//! that failed one check during a sweep was gone for good, and so were those of a server that was cut off for a while.

use std::time::{Duration, Instant};

use kith_tests::lab::{Fleet, Node, ScriptedDocker, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

/// For a busy machine, and less than after what a full list finds what events do not tell. What is promised is printed beside what it
/// took.
const BOUND: Duration = Duration::from_secs(28);

const ONE: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222222222222222222222222222";

/// Servers that sweep what a tombstone lets them as soon as they see it, each with a Docker.
struct Servers {
    fleet: Fleet,
    dockers: Vec<ScriptedDocker>,
    _folder: TempDir,
}

async fn servers(test: &str, count: u8) -> Option<Servers> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (mut dockers, mut at) = (Vec::new(), 0);
    let fleet = Fleet::start(test, count, |node| {
        let socket = folder.path().join(format!("{at}.sock"));
        at += 1;
        dockers.push(ScriptedDocker::at(&socket));
        node.set("daemon.enabled=true");
        node.set(format!("daemon.docker={}", socket.display()));
        node.set("daemon.sweep_after_ms=0");
        // Containers of this test have addresses of their server's own.
        node.set("dns.ranges=10.78.0.0/24,10.210.0.0/16");
    });
    let fleet = fleet.await?;
    // Who has not entered itself yet belongs to nobody's cluster, and is missed by nobody.
    for node in &fleet.nodes {
        eventually(&format!("all have a row on {}", node.name), BOUND, async || {
            let rows = node.api().query("SELECT id FROM servers").await?;
            if rows.len() == usize::from(count) { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
    }
    Some(Servers { fleet, dockers, _folder: folder })
}

fn labels(instance: &str) -> Value {
    json!({ "kith.project": "casa", "kith.service": "api", "kith.instance": instance })
}

async fn answers(node: &Node, addresses: &[&str]) -> Duration {
    let begun = Instant::now();
    eventually(&format!("{} answers {addresses:?}", node.name), BOUND, async || {
        let answer = node.resolve("casa-api.internal").await?;
        let mut found: Vec<_> = answer.addresses.iter().map(ToString::to_string).collect();
        found.sort();
        if found == addresses { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    begun.elapsed()
}

async fn row(node: &Node, id: &str) -> Value {
    let select = format!("SELECT service, server_id, instance_id, ip, health_status FROM containers WHERE id = '{id}'");
    let rows = node.api().query(&select).await.expect("a node answers its own host");
    rows.into_iter().next().unwrap_or(Value::Null)
}

/// Waits until the row of `id` has this health.
async fn is(node: &Node, id: &str, health: &[&str]) {
    eventually(&format!("{} is {health:?}", &id[..4]), BOUND, async || {
        let row = row(node, id).await;
        if health.iter().any(|health| row[4] == *health) { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
}

/// Waits until its daemon is of this suspicion.
async fn suspicion(node: &Node, suspicion: &str) {
    eventually(&format!("{} is {suspicion}", node.name), BOUND, async || {
        let status = node.api().get("/v1/status").await?.json();
        let detail = &status["parts"]["daemon"]["reconcilers"]["partition"]["detail"];
        if detail["suspicion"] == suspicion { Ok(()) } else { Err(detail.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn an_old_container_that_fails_a_check_during_a_sweep_comes_back_when_it_is_healthy() {
    let test = "an_old_container_that_fails_a_check_during_a_sweep_comes_back_when_it_is_healthy";
    let Some(Servers { fleet, dockers, _folder }) = servers(test, 2).await else { return };
    let one = &fleet.nodes[0];
    // Its check is of a port that this test opens and closes, in the network of the server.
    let at = one.at.gossip.ip().to_string();
    let mut probed = labels("a");
    probed["kith.health"] = json!("tcp:8080");
    let listener = one.listen(8080);
    dockers[0].run(ONE, &at, &probed, None);
    dockers[0].started(ONE, "2026-01-01T00:00:00Z");
    is(one, ONE, &["healthy"]).await;
    answers(one, &[&at]).await;

    // While it may be we who are cut off, nothing is swept; the end of that is a sweep.
    fleet.links.cut("1", "2");
    suspicion(one, "suspected").await;
    for sql in [
        "INSERT INTO containers (id, service, server_id, ip) VALUES ('bbbbbbbbbbbb', 'api', 'gone', '10.210.128.9')",
        "INSERT INTO servers (id, removed_at) VALUES ('gone', 5)",
    ] {
        one.api().execute(sql, &json!([])).await.expect("written");
    }
    drop(listener);
    is(one, ONE, &["degraded", "unhealthy"]).await;
    fleet.links.heal();
    eventually("what the removed server ran is swept", BOUND, async || match row(one, "bbbbbbbbbbbb").await {
        Value::Null => Ok(()),
        there => Err(there.to_string()),
    })
    .await;
    let during = row(one, ONE).await;
    assert_eq!(during[3], json!(at), "the sweep took a container that fails: {during}");

    let listener = one.listen(8080);
    let begun = Instant::now();
    is(one, ONE, &["healthy"]).await;
    answers(one, &[&at]).await;
    eprintln!("old, failed during a sweep, listens again → healthy and answered: {:?}", begun.elapsed());
    drop(listener);
}

#[tokio::test]
async fn of_two_servers_the_silent_ones_containers_are_back_as_soon_as_it_is() {
    let test = "of_two_servers_the_silent_ones_containers_are_back_as_soon_as_it_is";
    let Some(Servers { fleet, dockers, _folder }) = servers(test, 2).await else { return };
    let [one, two] = &fleet.nodes[..] else { panic!("two nodes were made") };
    dockers[0].run(ONE, "10.210.128.7", &labels("a"), None);
    dockers[1].run(TWO, "10.210.129.7", &labels("b"), None);
    let both = ["10.210.128.7", "10.210.129.7"];
    for node in [one, two] {
        answers(node, &both).await;
    }
    let before = row(one, TWO).await;

    fleet.links.cut("1", "2");
    let took = tokio::join!(answers(one, &both[..1]), answers(two, &both[1..]));
    eprintln!("cut → only the own are answered: {took:?}, promised 12 s");
    assert_eq!(row(one, TWO).await, before, "silence is not death");

    fleet.links.heal();
    let took = tokio::join!(answers(one, &both), answers(two, &both));
    eprintln!("healed → both are answered on both: {took:?}");
    assert_eq!(row(one, TWO).await, before);
}
