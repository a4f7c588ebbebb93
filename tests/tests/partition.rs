//! Partitions, as whole processes over links that are cut: each side says within 15 s whom it does not hear, nothing is destroyed
//! meanwhile, and within 15 s of healing nobody says so any more.

use std::time::{Duration, Instant};

use kith_tests::lab::{Fleet, Node, Run, eventually};
use serde_json::{Value, json};

/// From a cut, or from its healing, until it is said.
const PROMISED: Duration = Duration::from_secs(15);
/// For a busy machine. What is promised is compared with what it took.
const BOUND: Duration = Duration::from_secs(60);

async fn fleet(test: &str, count: u8) -> Option<Fleet> {
    let prepare = |node: &mut Node| {
        node.set("daemon.enabled=true");
        node.set("daemon.docker=none");
        node.set("daemon.sweep_after_ms=0");
    };
    let fleet = Fleet::start(test, count, prepare).await?;
    for node in &fleet.nodes {
        eventually(&format!("all have a row on {}", node.name), BOUND, async || {
            let rows = node.api().query("SELECT id FROM servers").await?;
            if rows.len() == usize::from(count) { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
        let insert = "INSERT INTO containers (id, service, server_id, ip) VALUES (?, 'api', ?, '10.210.128.9')";
        node.api().execute(insert, &json!([format!("{:a>12}", node.name), node.name])).await.expect("written");
    }
    told(&fleet, &[], "clear", Instant::now()).await;
    Some(fleet)
}

/// What the daemon of a node says of partitions: its own words, and the alarm.
async fn said(node: &Node) -> Result<(Value, Option<String>), String> {
    let status = node.api().get("/v1/status").await?.json();
    let detail = status["parts"]["daemon"]["reconcilers"]["partition"]["detail"].clone();
    let alarms = status["alarms"].as_array().into_iter().flatten();
    let text = alarms.filter(|alarm| alarm["name"] == "partition").filter_map(|alarm| alarm["text"].as_str()).next();
    Ok((detail, text.map(str::to_owned)))
}

/// Waits until a node says that it misses exactly these, and is of this suspicion. Says how long after `since` that was.
async fn tells(node: &Node, missing: &[&str], suspicion: &str, since: Instant) -> Duration {
    eventually(&format!("{} misses {missing:?}, {suspicion}", node.name), BOUND, async || {
        let (detail, alarm) = said(node).await?;
        let named: Vec<&str> = detail["missing"].as_object().into_iter().flatten().map(|(id, _)| id.as_str()).collect();
        let alarmed = missing.iter().all(|id| alarm.as_ref().is_some_and(|text| text.contains(id)));
        let quiet = missing.is_empty() && alarm.is_none();
        if detail["suspicion"] == suspicion && named == missing && (quiet || !missing.is_empty() && alarmed) {
            Ok(())
        } else {
            Err(format!("{detail} {alarm:?}"))
        }
    })
    .await;
    since.elapsed()
}

/// The same of all nodes of a fleet.
async fn told(fleet: &Fleet, missing: &[&str], suspicion: &str, since: Instant) -> Vec<Duration> {
    let mut took = Vec::new();
    for node in &fleet.nodes {
        took.push(tells(node, missing, suspicion, since).await);
    }
    took
}

/// The servers and containers that a node has.
async fn rows(node: &Node) -> Vec<Value> {
    let select = "SELECT id FROM servers WHERE removed_at IS NULL UNION ALL SELECT id FROM containers ORDER BY 1";
    node.api().query(select).await.expect("a node answers its own host")
}

fn within(took: &[Duration], what: &str) {
    eprintln!("{what}: {took:?}, promised {PROMISED:?}");
    assert!(took.iter().all(|took| *took <= PROMISED), "{what}: {took:?}");
}

#[tokio::test]
async fn g11_two_servers_cut_apart_each_miss_the_other_and_sweep_nothing() {
    let test = "g11_two_servers_cut_apart_each_miss_the_other_and_sweep_nothing";
    let Some(fleet) = fleet(test, 2).await else { return };
    let [one, two] = &fleet.nodes[..] else { panic!("two nodes were made") };
    let before = rows(one).await;
    let begun = Instant::now();
    fleet.links.cut("1", "2");
    // Removed on one side of the cut, with a container that would be swept at once.
    for sql in [
        "INSERT INTO servers (id, removed_at) VALUES ('gone', 5)",
        "INSERT INTO containers (id, service, server_id, ip) VALUES ('bbbbbbbbbbbb', 'api', 'gone', '10.210.128.9')",
    ] {
        one.api().execute(sql, &json!([])).await.expect("written");
    }
    let took = tokio::join!(tells(one, &["n2"], "suspected", begun), tells(two, &["n1"], "suspected", begun));
    within(&[took.0, took.1], "two cut apart → said on both sides");
    let paused = eventually("the sweep has looked, and pauses", BOUND, async || {
        let status = one.api().get("/v1/status").await?.json();
        let detail = status["parts"]["daemon"]["reconcilers"]["sweep"]["detail"].clone();
        if detail["removed"]["gone"].is_object() { Ok(detail["paused"].clone()) } else { Err(detail.to_string()) }
    });
    assert_eq!(paused.await, json!(true));
    let shown =
        Run::of(["status", "--api", &format!("unix:{}", fleet.lab.folder("n1").join("api.sock").display())]).await;
    let alarm = "ALARM partition: not heard here: n2; 1 of 2 servers are, so it may be this one that is cut off";
    assert!(shown.stdout.contains(alarm), "{}", shown.stdout);
    let during = rows(one).await;
    assert!(during.contains(&json!(["bbbbbbbbbbbb"])), "swept while it may be we who are cut off: {during:?}");
    assert!(before.iter().all(|row| during.contains(row)), "{before:?} {during:?}");
    assert_eq!(rows(two).await, before);

    let healed = Instant::now();
    fleet.links.heal();
    let took = told(&fleet, &[], "clear", healed).await;
    within(&took, "healed → cleared on both sides");
    // What waited is done now, and nothing else.
    for node in &fleet.nodes {
        eventually("what the removed one ran is gone", BOUND, async || {
            let rows = rows(node).await;
            if rows == before { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
    }

    // One way is enough for neither to hear the other: nothing between them is without an answer.
    let begun = Instant::now();
    fleet.links.cut_one_way("1", "2");
    let took = tokio::join!(tells(one, &["n2"], "suspected", begun), tells(two, &["n1"], "suspected", begun));
    within(&[took.0, took.1], "one way of two cut → said on both sides");
    let healed = Instant::now();
    fleet.links.heal();
    let took = told(&fleet, &[], "clear", healed).await;
    within(&took, "healed → cleared on both sides");
    for node in &fleet.nodes {
        assert_eq!(rows(node).await, before);
    }
}

#[tokio::test]
async fn g11_of_five_the_smaller_side_suspects_itself_and_one_way_alone_misses_nobody() {
    let test = "g11_of_five_the_smaller_side_suspects_itself_and_one_way_alone_misses_nobody";
    let Some(fleet) = fleet(test, 5).await else { return };
    let before = rows(&fleet.nodes[0]).await;
    let (small, large) = fleet.nodes.split_at(2);
    let begun = Instant::now();
    fleet.links.cut("1,2", "3-5");
    let mut took = Vec::new();
    for node in small {
        took.push(tells(node, &["n3", "n4", "n5"], "suspected", begun).await);
    }
    for node in large {
        took.push(tells(node, &["n1", "n2"], "clear", begun).await);
    }
    within(&took, "2 and 3 cut apart → said by all");
    for node in &fleet.nodes {
        assert_eq!(rows(node).await, before, "{}", node.name);
    }
    let healed = Instant::now();
    fleet.links.heal();
    let took = told(&fleet, &[], "clear", healed).await;
    within(&took, "healed → cleared on all");

    // The others carry what these two cannot say to each other: nobody is missing, and each knows the way that is cut.
    fleet.links.cut_one_way("1", "2");
    let begun = Instant::now();
    for (node, other) in [(&fleet.nodes[0], "n2"), (&fleet.nodes[1], "n1")] {
        eventually(&format!("{} hears {other} by others", node.name), BOUND, async || {
            let (detail, alarm) = said(node).await?;
            if detail["hears_by_others"] == json!([other]) && detail["missing"] == json!({}) && alarm.is_none() {
                Ok(())
            } else {
                Err(format!("{detail} {alarm:?}"))
            }
        })
        .await;
    }
    eprintln!("one way of five cut → known at both ends: {:?}", begun.elapsed());
    fleet.links.heal();
    for node in &fleet.nodes {
        eventually(&format!("{} hears all itself", node.name), BOUND, async || {
            let (detail, _) = said(node).await?;
            if detail["hears_by_others"] == json!([]) { Ok(()) } else { Err(detail.to_string()) }
        })
        .await;
        assert_eq!(rows(node).await, before, "{}", node.name);
    }
}
