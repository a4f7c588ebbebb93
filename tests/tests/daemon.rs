//! The daemon beside the store, as whole processes: what a server says of itself stays said.

use std::time::{Duration, Instant};

use kith_tests::lab::{Authority, Lab, Node, Run, Runner, eventually};
use serde_json::{Value, json};

/// For a busy machine; what is promised is said where it is measured.
const BOUND: Duration = Duration::from_secs(30);
/// A row that somebody deletes or changes is back within this.
const HEALED: Duration = Duration::from_secs(10);

async fn row(node: &Node, of: &str) -> Result<Vec<Value>, String> {
    let select =
        format!("SELECT hostname, region, release, labels, draining, removed_at FROM servers WHERE id = '{of}'");
    Ok(node.api().query(&select).await?.into_iter().next().map_or_else(Vec::new, |row| match row {
        Value::Array(cells) => cells,
        other => vec![other],
    }))
}

async fn eventually_row(node: &Node, of: &str, what: &str, is: impl Fn(&[Value]) -> bool) -> Duration {
    let begun = Instant::now();
    eventually(&format!("the row of {of} {what}"), BOUND, async || {
        let row = row(node, of).await?;
        if is(&row) { Ok(()) } else { Err(format!("{row:?}")) }
    })
    .await;
    begun.elapsed()
}

async fn write(node: &Node, sql: &str) {
    node.api().execute(sql, &json!([])).await.expect("it is written");
}

/// What the daemon says of its heartbeat.
async fn heartbeat(node: &Node) -> Result<Value, String> {
    let status = node.api().get("/v1/status").await?.json();
    let heartbeat = status["parts"]["daemon"]["reconcilers"]["heartbeat"].clone();
    if heartbeat.is_object() { Ok(heartbeat) } else { Err(status["parts"].to_string()) }
}

async fn started(lab: &Lab, names: &[&str]) -> Vec<Node> {
    let mut nodes = lab.nodes(&Authority::new("casa"), names);
    for node in &mut nodes {
        node.set("daemon.enabled=true");
        node.launch();
    }
    for node in &mut nodes {
        node.ready().await;
    }
    nodes
}

#[tokio::test]
async fn a_row_that_somebody_deletes_or_changes_is_put_right_within_10_s() {
    let lab = Lab::new("casa");
    let nodes = started(&lab, &["one", "two"]).await;
    let [one, two] = &nodes[..] else { panic!("two nodes were made") };
    eventually_row(two, "one", "is there", |row| row.get(1) == Some(&json!("lab"))).await;
    write(two, "UPDATE servers SET labels = '{\"disk\":\"ssd\"}', draining = 1 WHERE id = 'one'").await;
    let whole = |row: &[Value]| row.len() == 6 && row[1] == "lab" && row[3] == "{\"disk\":\"ssd\"}" && row[4] == 1;
    eventually("one remembers what the operator wrote", BOUND, async || {
        let kept = std::fs::read_to_string(one.data().join("own-row.json")).map_err(|e| e.to_string())?;
        if kept.contains("ssd") { Ok(()) } else { Err(kept) }
    })
    .await;

    write(two, "DELETE FROM servers WHERE id = 'one'").await;
    let took = eventually_row(two, "one", "is back", whole).await;
    assert!(took <= HEALED, "deleted elsewhere, back after {took:?}");
    write(one, "UPDATE servers SET hostname = 'nobody', region = x'00', draining = 0 WHERE id = 'one'").await;
    // What the operator says is left alone; it also tells the row that was changed from the one before.
    let right = |row: &[Value]| row.len() == 6 && row[0] != "nobody" && row[1] == "lab" && row[4] == 0;
    let took = eventually_row(two, "one", "is right", right).await;
    assert!(took <= HEALED, "changed, put right after {took:?}");
    let status = heartbeat(one).await.expect("the daemon reports");
    assert!(status["passes"].as_u64() > Some(0) && status["error"].is_null(), "{status}");
}

#[tokio::test]
async fn a_removed_server_leaves_its_row_alone_also_after_a_restart_until_it_is_taken_back() {
    let lab = Lab::new("casa");
    let mut nodes = started(&lab, &["one"]).await;
    eventually_row(&nodes[0], "one", "is there", |row| row.len() == 6).await;
    write(&nodes[0], "UPDATE servers SET removed_at = 5 WHERE id = 'one'").await;
    let shown = |removed_at: Value| {
        move |status: &Value| {
            if status["detail"]["removed_at"] == removed_at { Ok(()) } else { Err(status.to_string()) }
        }
    };
    let is_removed = shown(json!(5));
    eventually("the daemon shows the removal", BOUND, async || is_removed(&heartbeat(&nodes[0]).await?)).await;

    // The row goes too; after a restart it is still known that it is not to come back.
    write(&nodes[0], "DELETE FROM servers WHERE id = 'one'").await;
    nodes[0].stop().await;
    nodes[0].start().await;
    eventually("the daemon has looked", BOUND, async || {
        let status = heartbeat(&nodes[0]).await?;
        is_removed(&status)?;
        if status["passes"].as_u64() > Some(1) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(row(&nodes[0], "one").await, Ok(Vec::new()), "a removed server entered its row again");

    write(&nodes[0], "INSERT INTO servers (id) VALUES ('one')").await;
    eventually_row(&nodes[0], "one", "is kept again", |row| row.get(1) == Some(&json!("lab"))).await;
    let belongs = shown(Value::Null);
    eventually("the daemon shows that it belongs", BOUND, async || belongs(&heartbeat(&nodes[0]).await?)).await;
}

#[tokio::test]
async fn what_ran_on_a_removed_server_is_swept_but_not_while_half_are_missing() {
    let lab = Lab::new("casa");
    let mut nodes = started(&lab, &["one"]).await;
    let one = &mut nodes[0];
    write(one, "INSERT INTO servers (id, removed_at) VALUES ('gone', 5), ('silent', NULL)").await;
    for server in ["gone", "silent", "one"] {
        let insert = "INSERT INTO containers (id, service, server_id, ip) VALUES (?, 'api', ?, '10.210.128.9')";
        one.api().execute(insert, &json!([format!("{server:a>12}"), server])).await.expect("written");
    }
    write(one, "INSERT INTO nats_servers (id, cluster, server_id) VALUES ('n1', 'core', 'gone')").await;
    let left = async |node: &Node| {
        let select = "SELECT server_id FROM containers UNION ALL SELECT server_id FROM nats_servers ORDER BY 1";
        let rows = node.api().query(select).await?;
        Ok::<_, String>(rows.iter().map(|row| row[0].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>())
    };
    let sweep = async |node: &Node| {
        let status = node.api().get("/v1/status").await?.json();
        let sweep = status["parts"]["daemon"]["reconcilers"]["sweep"].clone();
        // What was reported before the restart is gone with the store that it was left at.
        if sweep["detail"]["removed"]["gone"].is_object() { Ok(sweep) } else { Err(sweep.to_string()) }
    };
    one.set("daemon.sweep_after_ms=0");
    one.stop().await;
    one.start().await;
    let shown = eventually("it has looked", BOUND, async || sweep(one).await).await;
    assert_eq!(shown["detail"]["paused"], true, "one of two servers that belong is not heard: {shown}");
    let run = Run::of(["sweep", "--dry-run", "--api", &format!("http://{}", one.at.api)]).await;
    assert!(
        run.stdout.starts_with("paused: ") && run.stdout.contains("gone    1           1     next sweep"),
        "{}",
        run.stdout
    );
    assert_eq!(left(one).await, Ok(["gone", "gone", "one", "silent"].map(str::to_owned).into()));

    write(one, "DELETE FROM servers WHERE id = 'silent'").await;
    one.stop().await;
    one.start().await;
    eventually("what the removed one ran is gone, and nothing else", BOUND, async || {
        let left = left(one).await?;
        if left == ["one", "silent"] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert_eq!(row(one, "gone").await.map(|row| row.len()), Ok(6), "the tombstone stays");
}

#[tokio::test]
async fn a_row_of_a_nats_server_that_another_host_has_taken_is_left_to_it_and_said() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut runner = Runner::new(1, &Runner::script(folder.path(), "exec sleep 1000"));
    runner.launch();
    let lab = Lab::new("casa");
    let mut nodes = lab.nodes(&Authority::new("casa"), &["one"]);
    let one = &mut nodes[0];
    one.set("daemon.enabled=true");
    one.set(format!("nats.health={}:5500", runner.address));
    one.start().await;
    let holder = async |what: &str, is: &str| {
        eventually(what, BOUND, async || {
            let rows = one.api().query("SELECT server_id FROM nats_servers").await?;
            if rows == [json!(is)] || rows == [json!([is])] { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
    };
    holder("the row is there", "one").await;
    write(one, "UPDATE nats_servers SET server_id = 'two'").await;
    let nats = async || {
        let status = one.api().get("/v1/status").await?.json();
        let nats = status["parts"]["daemon"]["reconcilers"]["nats"].clone();
        if nats.is_object() { Ok(nats) } else { Err(status["parts"].to_string()) }
    };
    let seen = eventually("it is said who has taken it", BOUND, async || {
        let nats: Value = nats().await?;
        if nats["detail"]["row_taken_by"] == "two" { Ok(nats) } else { Err(nats.to_string()) }
    })
    .await;
    let passes = seen["passes"].as_u64().expect("they are counted");
    eventually("three more passes are over", BOUND, async || {
        let nats = nats().await?;
        if nats["passes"].as_u64() >= Some(passes + 3) { Ok(()) } else { Err(nats.to_string()) }
    })
    .await;
    holder("the row stays the other's", "two").await;
    runner.kill();
    eventually("its runner says nothing", BOUND, async || {
        let nats = nats().await?;
        if nats["detail"]["silent_s"].is_number() { Ok(()) } else { Err(nats.to_string()) }
    })
    .await;
    runner.launch();
    eventually("its runner is heard again", BOUND, async || {
        let nats = nats().await?;
        let detail = &nats["detail"];
        if detail["silent_s"].is_null() && detail["row_taken_by"] == "two" { Ok(()) } else { Err(nats.to_string()) }
    })
    .await;
    let told = |what: &str| one.log().lines().filter(|line| line.contains(what)).count();
    assert_eq!(told("row of nats-server is another server's"), 1, "{}", one.log());
    assert_eq!(told("row of nats-server is ours again"), 0, "{}", one.log());
    write(one, "DELETE FROM nats_servers").await;
    holder("it is ours again when the other has left it", "one").await;
    eventually("that is said", BOUND, async || match told("row of nats-server is ours again") {
        1 => Ok(()),
        times => Err(format!("{times} times")),
    })
    .await;
}
