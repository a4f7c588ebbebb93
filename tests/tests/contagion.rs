//! Nothing that one node stores stops another: rows with every odd value in every column, tables and columns that the others do
//! not know.

use std::time::Duration;

use kith_tests::lab::{Authority, Lab, Node, agree, eventually};
use serde_json::{Value, json};

/// For what was written to be everywhere.
const EVERYWHERE: Duration = Duration::from_secs(60);

/// Values as SQL.
const POISON: [&str; 19] = [
    "NULL",
    "-9223372036854775808",
    "9223372036854775807",
    "-1",
    "1e308",
    "9e999",
    "-0.0",
    "''",
    "'a' || char(0) || 'b'",
    "CAST(x'ff80fe' AS TEXT)",
    "hex(zeroblob(200000))",
    "x''",
    "x'00ff00'",
    "'[{\"name\":\"http\",\"port\":99999}]'",
    "'{\"a\":' || replace(hex(zeroblob(500)), '00', '[')",
    "'*.' || replace(hex(zeroblob(200)), '00', 'a.')",
    "'10.210.300.1'",
    "'::1'",
    "'naïve \u{202e}\u{1f480}'",
];

async fn started(lab: &Lab) -> Vec<Node> {
    let mut nodes = lab.nodes(&Authority::new("contagion"), &["n1", "n2", "n3"]);
    nodes.iter_mut().for_each(Node::launch);
    for node in &mut nodes {
        node.ready().await;
    }
    nodes
}

async fn columns(node: &Node) -> Vec<(String, String, bool)> {
    let tables = "SELECT m.name, c.name, c.pk > 0 FROM sqlite_schema m JOIN pragma_table_info(m.name) c
                  WHERE m.type = 'table' AND m.name NOT LIKE '%\\_\\_kith\\_%' ESCAPE '\\' ORDER BY 1, c.cid";
    let rows = node.api().query(tables).await.expect("the schema");
    let text = |cell: &Value| cell.as_str().expect("a name").to_owned();
    rows.iter().map(|row| (text(&row[0]), text(&row[1]), row[2] == 1)).collect()
}

/// An INSERT of a row with this value in this column, its key made of other odd text where it is not that column.
fn insert(columns: &[(String, String, bool)], table: &str, column: &str, value: &str, n: usize) -> String {
    let keys = columns.iter().filter(|(of, name, in_key)| of == table && *in_key && name != column);
    let keys: Vec<_> = keys.map(|(_, name, _)| (name.clone(), format!("'odd {column} {n}.*'"))).collect();
    let cells = keys.into_iter().chain([(column.to_owned(), value.to_owned())]);
    let (names, values): (Vec<_>, Vec<_>) = cells.unzip();
    format!("INSERT OR REPLACE INTO {table} ({}) VALUES ({})", names.join(", "), values.join(", "))
}

#[tokio::test]
async fn g15_odd_rows_are_stored_everywhere_and_stop_nobody() {
    let lab = Lab::new("contagion");
    let nodes = started(&lab).await;
    let schema = columns(&nodes[0]).await;
    assert!(schema.len() > 40, "{schema:?}");
    let (mut stored, mut refused) = (0, 0);
    for (table, column, _) in &schema {
        for (n, value) in POISON.iter().enumerate() {
            let statement = insert(&schema, table, column, value, n);
            let reply = nodes[0].api().post("/v1/transactions", &json!([statement])).await.expect("an answer");
            match reply.status {
                200 => stored += 1,
                // NOT NULL, a key of another kind: the statement's fault, and said so.
                500 => refused += 1,
                status => panic!("{statement}: {status} {}", reply.body),
            }
        }
    }
    eprintln!("{stored} odd rows stored, {refused} refused");
    assert!(stored > 900 && refused > 0, "{stored} stored, {refused} refused");
    // What is good beside them works on all, from the other end.
    let good = "INSERT INTO services (project, name) VALUES ('casa', 'api')";
    let api = nodes[2].api();
    api.execute(good, &json!([])).await.expect("acknowledged");
    api.execute("INSERT OR REPLACE INTO servers (id, subnet) VALUES ('n3', '10.210.3.0/24')", &json!([]))
        .await
        .expect("a row");
    let container = "INSERT INTO containers (id, project, service, server_id, ip, instance_id, started_at)
                     VALUES ('0123456789ab', 'casa', 'api', 'n3', '10.210.131.7', 'a', 1)";
    api.execute(container, &json!([])).await.expect("acknowledged");
    for node in &nodes {
        eventually(&format!("{} answers the good name", node.name), EVERYWHERE, async || {
            let answer = node.resolve("casa-api.internal").await?;
            if answer.addresses.len() == 1 { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        // All rows can be read, followed and told apart.
        let all = node.api().query("SELECT count(*), sum(length(CAST(value AS BLOB))) FROM cluster_metadata").await;
        assert!(all.is_ok(), "{}: {all:?}", node.name);
        let mut followed =
            node.api().stream("/v1/subscriptions", Some(&json!("SELECT * FROM containers"))).await.expect("rows");
        assert!(followed.chunk().await.is_ok_and(|piece| piece.is_some()), "{}", node.name);
    }
    agree(&nodes, EVERYWHERE).await;
    for mut node in nodes {
        assert_eq!(node.stop().await.code(), Some(0), "{}", node.log());
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
}

/// A release with one table and one column more runs beside those without. What they do not know they keep, hand on, count, and
/// show once they know it.
#[tokio::test]
async fn g14_what_a_release_does_not_know_is_kept_and_handed_on() {
    let lab = Lab::new("releases");
    let mut nodes = started(&lab).await;
    let newer = json!([
        "CREATE TABLE novelties (id TEXT NOT NULL PRIMARY KEY, what TEXT)",
        "CREATE TABLE services (project TEXT NOT NULL, name TEXT NOT NULL, ports TEXT NOT NULL DEFAULT '[]', ttl INTEGER,
         fail_open INTEGER NOT NULL DEFAULT 0, mood TEXT, PRIMARY KEY (project, name))"
    ]);
    let migrated = nodes[0].api().post("/v1/migrations", &newer).await.expect("an answer");
    assert_eq!(migrated.status, 200, "{}", migrated.body);
    let write = async |sql: &str| nodes[0].api().execute(sql, &json!([])).await.expect("acknowledged");
    write("INSERT INTO novelties VALUES ('a', 'first'), ('b', 'second')").await;
    write("INSERT INTO services (project, name, mood) VALUES ('casa', 'api', 'good')").await;
    write("UPDATE novelties SET what = 'changed' WHERE id = 'a'").await;
    write("DELETE FROM novelties WHERE id = 'b'").await;
    agree(&nodes, EVERYWHERE).await;
    for node in &nodes[1..] {
        let services = node.api().query("SELECT name FROM services").await;
        assert_eq!(services, Ok(vec![json!(["api"])]), "{}: the known rest is there at once", node.name);
        let status = node.api().get("/v1/status").await.expect("a status").json();
        assert!(status["store"]["set_aside_cells"].as_u64() > Some(0), "{}: {status}", node.name);
    }
    // The only one that knew it goes; another learns it of a third.
    nodes.remove(0).kill();
    let migrated = nodes[0].api().post("/v1/migrations", &newer).await.expect("an answer");
    assert_eq!(migrated.status, 200, "{}", migrated.body);
    let shown = nodes[0].api().query("SELECT n.id, n.what, s.mood FROM novelties n, services s").await;
    assert_eq!(shown, Ok(vec![json!(["a", "changed", "good"])]));
    let status = nodes[0].api().get("/v1/status").await.expect("a status").json();
    assert_eq!(status["store"]["set_aside_cells"], 0, "{status}");
    agree(&nodes, EVERYWHERE).await;
}
