//! `kith server`: a server is drained, or taken out of the cluster, and let in again, as an operator does it.

use std::time::Duration;

use kith_tests::lab::{Authority, Lab, Node, Run, eventually};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(30);

/// Runs `kith` against a node.
async fn kith(node: &Node, arguments: &[&str]) -> Run {
    let api = format!("http://{}", node.at.api);
    Run::of(arguments.iter().copied().chain(["--api", &api])).await
}

/// What `kith server ls` says of each server.
async fn states(node: &Node) -> Result<Vec<(String, Value)>, String> {
    let run = kith(node, &["server", "ls", "--json"]).await;
    let line = |line: &str| {
        let server: Value = serde_json::from_str(line).map_err(|e| format!("{e}: {line}"))?;
        let removed = !server["removed_at"].is_null();
        Ok((server["server"].as_str().unwrap_or_default().to_owned(), json!([server["state"], removed])))
    };
    if run.code == Some(0) { run.stdout.lines().map(line).collect() } else { Err(run.stderr) }
}

async fn eventually_states(node: &Node, wanted: &[(&str, Value)]) {
    eventually(&format!("{wanted:?} on {}", node.name), BOUND, async || {
        let seen = states(node).await?;
        let same = seen.iter().map(|(name, state)| (name.as_str(), state)).eq(wanted.iter().map(|(n, s)| (*n, s)));
        if same { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

async fn says(node: &Node, value: &str) {
    eventually(&format!("{value} on {}", node.name), BOUND, async || {
        let rows = node.api().query(&format!("SELECT 1 FROM cluster_metadata WHERE key = '{value}'")).await?;
        if rows.is_empty() { Err("not there".to_owned()) } else { Ok(()) }
    })
    .await;
}

async fn write(node: &Node, value: &str) {
    let sql = "INSERT INTO cluster_metadata (key, value) VALUES (?, '')";
    node.api().execute(sql, &json!([value])).await.expect("it is written");
}

#[tokio::test]
async fn a_removed_server_is_shut_out_says_so_itself_and_comes_back_with_all_it_wrote() {
    let (lab, authority) = (Lab::new("casa"), Authority::new("casa"));
    let mut nodes = lab.nodes(&authority, &["one", "two", "three"]);
    for node in &mut nodes {
        node.start().await;
    }
    let [one, two, three] = &nodes[..] else { panic!("three nodes were made") };
    let up = json!(["up", false]);
    let all = [("one", up.clone()), ("three", up.clone()), ("two", up.clone())];
    eventually_states(one, &all).await;

    let refused = kith(two, &["server", "remove", "two"]).await;
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("run it on another server"), "{}", refused.stderr);
    let unknown = kith(one, &["server", "rm", "four"]).await;
    assert!(unknown.code == Some(1) && unknown.stderr.contains("there is no server four"), "{}", unknown.stderr);

    let removed = kith(one, &["server", "rm", "two"]).await;
    assert_eq!(removed.code, Some(0), "{}", removed.stderr);
    assert!(removed.stdout.contains("kith server remove two --undo"), "{}", removed.stdout);
    eventually_states(three, &[("one", up.clone()), ("three", up.clone()), ("two", json!(["removed", true]))]).await;
    let again = kith(three, &["server", "remove", "two", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&again.stdout).expect("JSON")["changed"], json!(false));

    eventually("two says that it was removed", BOUND, async || {
        let run = kith(two, &["status"]).await;
        if run.stdout.contains("ALARM removed: ") { Ok(()) } else { Err(run.stdout) }
    })
    .await;
    assert!(two.log().contains("this node was removed from the cluster"), "{}", two.log());
    write(two, "written outside").await;
    write(three, "written inside").await;
    says(one, "written inside").await;
    for node in [one, three] {
        let there = node.api().query("SELECT 1 FROM cluster_metadata WHERE key = 'written outside'").await;
        assert_eq!(there, Ok(Vec::new()), "{} took it from a removed node", node.name);
    }

    let back = kith(three, &["server", "remove", "two", "--undo"]).await;
    assert!(
        back.code == Some(0) && back.stdout.contains("belongs to the cluster again"),
        "{}{}",
        back.stdout,
        back.stderr
    );
    says(two, "written inside").await;
    for node in [one, three] {
        says(node, "written outside").await;
        eventually_states(node, &all).await;
    }
    eventually("two has no alarm left", BOUND, async || {
        let alarms = two.api().get("/v1/status").await?.json()["alarms"].clone();
        if alarms == json!([]) { Ok(()) } else { Err(alarms.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn what_runs_on_a_drained_server_is_out_of_answers_until_it_is_undrained() {
    let (lab, authority) = (Lab::new("casa"), Authority::new("casa"));
    let mut nodes = lab.nodes(&authority, &["one", "two"]);
    for node in &mut nodes {
        node.start().await;
    }
    let [one, two] = &nodes[..] else { panic!("two nodes were made") };
    let insert = |sql: &'static str, row: Value| async move { one.api().execute(sql, &row).await.expect("written") };
    for server in ["one", "two"] {
        insert("INSERT INTO servers (id) VALUES (?)", json!([server])).await;
    }
    for name in ["api", "lone"] {
        insert("INSERT INTO services (project, name) VALUES ('casa', ?)", json!([name])).await;
    }
    let sql =
        "INSERT INTO containers (id, project, service, server_id, ip, instance_id) VALUES (?, 'casa', ?, ?, ?, ?)";
    insert(sql, json!(["aaaaaaaaaaaa", "api", "one", "10.210.129.1", "a"])).await;
    insert(sql, json!(["bbbbbbbbbbbb", "api", "two", "10.210.130.1", "b"])).await;
    insert(sql, json!(["cccccccccccc", "lone", "two", "10.210.130.2", "a"])).await;
    let answered = async |addresses: &[&str]| {
        for node in [one, two] {
            eventually(&format!("{} answers {addresses:?}", node.name), BOUND, async || {
                let answer = node.resolve("casa-api.internal").await?;
                let mut found: Vec<_> = answer.addresses.iter().map(ToString::to_string).collect();
                found.sort();
                if found == addresses { Ok(()) } else { Err(format!("{answer:?}")) }
            })
            .await;
        }
    };
    answered(&["10.210.129.1", "10.210.130.1"]).await;

    let drained = kith(one, &["server", "drain", "two"]).await;
    assert_eq!(drained.code, Some(0), "{}", drained.stderr);
    assert!(drained.stdout.contains("kith server undrain two"), "{}", drained.stdout);
    assert!(drained.stdout.contains("nobody answers for casa/lone now"), "{}", drained.stdout);
    assert!(!drained.stdout.contains("casa/api"), "{}", drained.stdout);
    answered(&["10.210.129.1"]).await;
    let again = kith(two, &["server", "drain", "two", "--json"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&again.stdout).expect("JSON"),
        json!({ "server": "two", "draining": true, "changed": false })
    );
    let listed = kith(one, &["server", "ls"]).await;
    assert!(listed.stdout.contains("up, draining"), "{}", listed.stdout);

    let back = kith(one, &["server", "undrain", "two"]).await;
    assert!(back.code == Some(0) && back.stdout.contains("in answers again"), "{}{}", back.stdout, back.stderr);
    answered(&["10.210.129.1", "10.210.130.1"]).await;
    let unknown = kith(one, &["server", "drain", "four"]).await;
    assert!(unknown.code == Some(1) && unknown.stderr.contains("there is no server four"), "{}", unknown.stderr);
}
