//! Statements in, answers out: transactions, queries, the schema, and what is wrong with them.

use serde_json::{Value, json};

use crate::server::{Server, shown, steady};

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_answered_in_its_envelope() {
    let server = Server::start().await;
    let statements = json!([
        ["INSERT INTO svc (id, port) VALUES (?, ?)", ["a", 80]],
        {"query": "INSERT INTO svc (id, port) VALUES (:id, :port)", "named_params": {":id": "b", ":port": 81}},
        "UPDATE svc SET port = 82",
        ["DELETE FROM svc WHERE id = :id", {":id": "nobody"}],
    ]);
    let response = server.post("/v1/transactions", &statements).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    let actor = body["actor_id"].as_str().unwrap();
    assert!(actor.len() == 32 && actor.bytes().all(|b| b.is_ascii_hexdigit()), "{actor}");
    assert_eq!(actor, server.store.site().to_string());
    assert!(body["time"].as_f64().unwrap() > 0.0 && body["results"][0]["time"].is_f64());
    insta::assert_snapshot!(steady(&body.to_string()), @r#"{"actor_id":~,"results":[{"rows_affected":1,"time":~},{"rows_affected":1,"time":~},{"rows_affected":2,"time":~},{"rows_affected":0,"time":~}],"time":~,"version":1}"#);

    let none = server.post("/v1/transactions", &json!(["UPDATE svc SET port = port WHERE id = 'nobody'"])).await;
    insta::assert_snapshot!(shown(none).await, @r#"200 {"results":[{"rows_affected":0,"time":~}],"time":~,"version":null,"actor_id":~}"#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_comes_back_as_it_went() {
    let server = Server::start().await;
    let sent = json!([null, true, -9007199254740993i64, 1.0, 0.1, "tä\"\n", [0, 255], [], [256], {"b": 1}]);
    let columns: Vec<_> = (0..10).map(|n| format!("?{}", n + 1)).collect();
    let query = json!([format!("SELECT {}", columns.join(",")), sent]);
    let text = server.post("/v1/queries", &query).await.text().await.unwrap();
    assert_eq!(
        text.lines().nth(1).unwrap(),
        r#"{"row":[1,[null,1,-9007199254740993,1.0,0.1,"tä\"\n",[0,255],[],"[256]","{\"b\":1}"]]}"#
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_columns_rows_and_an_end() {
    let server = Server::start().await;
    server.execute("INSERT INTO svc (id, port) VALUES ('a', 80), ('b', 81.5)").await;
    let response = server.post("/v1/queries", &json!(["SELECT id, port FROM svc WHERE port > ?", [1]])).await;
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    insta::assert_snapshot!(shown(response).await, @r#"
    200 {"columns":["id","port"]}
    {"row":[1,["a",80]]}
    {"row":[2,["b",81.5]]}
    {"eoq":{"time":~}}
    "#);
    let none = server.post("/v1/queries", &json!("SELECT id FROM svc WHERE 0")).await;
    insta::assert_snapshot!(shown(none).await, @r#"
    200 {"columns":["id"]}
    {"eoq":{"time":~}}
    "#);
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n";
    let text = server.post("/v1/queries", &json!(many)).await.text().await.unwrap();
    assert_eq!(text.lines().count(), 20_002);
    assert_eq!(text.lines().nth(20_000), Some(r#"{"row":[20000,[20000]]}"#));
    let late = "SELECT abs(id) FROM (SELECT 1 AS id UNION ALL SELECT -9223372036854775807 - 1)";
    insta::assert_snapshot!(shown(server.post("/v1/queries", &json!(late)).await).await, @r#"
    200 {"columns":["abs(id)"]}
    {"row":[1,[1]]}
    {"error":"integer overflow"}
    "#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_its_status_and_one_line() {
    let server = Server::start().await;
    let mut answers = String::new();
    let posts = [
        ("/v1/transactions", "[["),
        ("/v1/transactions", "{\"query\": 1}"),
        ("/v1/transactions", "[]"),
        ("/v1/transactions", "[\"INSERT INTO nowhere VALUES (1)\"]"),
        ("/v1/transactions", "[\"UPDATE svc SET port = 1; DELETE FROM svc\"]"),
        ("/v1/transactions", "[\"SELECT 1\"]"),
        ("/v1/transactions", "[[\"DELETE FROM svc WHERE id = ?\", []]]"),
        ("/v1/transactions", "[[\"DELETE FROM svc WHERE id = :a\", {\":b\": 1}]]"),
        ("/v1/transactions?timeout=-1", "[\"DELETE FROM svc\"]"),
        ("/v1/transactions?replicas=1", "[\"DELETE FROM svc\"]"),
        ("/v1/queries", "\"DELETE FROM svc\""),
        ("/v1/queries", "\"SELECT * FROM nowhere\""),
        ("/v1/queries", "[\"SELECT ?\", []]"),
        ("/v1/queries", ""),
        ("/v1/queries", "[1]"),
        ("/v1/subscriptions", "\"DELETE FROM svc\""),
        ("/v1/subscriptions", "\"SELECT * FROM nowhere\""),
        ("/v1/subscriptions", "\"SELECT random()\""),
        ("/v1/subscriptions?from=7", "\"SELECT id FROM svc\""),
        ("/v1/subscriptions?from=x", "\"SELECT id FROM svc\""),
        ("/v1/migrations", "[]"),
        ("/v1/table_stats", "[]"),
        ("/v1/nothing", "[]"),
        ("/v1/health", "{}"),
    ];
    for (path, body) in posts {
        let answer = shown(server.post_raw(path, body.to_owned()).await).await;
        answers.push_str(&format!("{path} {body} -> {answer}\n"));
    }
    for path in [
        "/v1/subscriptions/not-a-uuid",
        "/v1/subscriptions/ba247cbc-2a7f-486b-873c-8a9620e72182",
        "/v1/transactions",
        "/v1/health?failure_status=9",
    ] {
        answers.push_str(&format!("GET {path} -> {}\n", shown(server.get(path).await).await));
    }
    let plain = server.client.post(server.url("/v1/queries")).body("\"SELECT 1\"").send().await.unwrap();
    answers.push_str(&format!("no content type -> {}\n", shown(plain).await));
    let large = server.post_raw("/v1/transactions", format!("[\"{}\"]", "x".repeat(1 << 20))).await;
    answers.push_str(&format!("a body over 1 MiB -> {}\n", shown(large).await));
    insta::assert_snapshot!(answers, @r#"
    /v1/transactions [[ -> 400 {"error":"not JSON: EOF while parsing a list at line 1 column 2"}
    /v1/transactions {"query": 1} -> 422 {"error":"the body does not fit: invalid type: map, expected a sequence at line 1 column 0"}
    /v1/transactions [] -> 400 {"results":[{"error":"at least 1 statement is required"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions ["INSERT INTO nowhere VALUES (1)"] -> 500 {"results":[{"error":"no such table: nowhere"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions ["UPDATE svc SET port = 1; DELETE FROM svc"] -> 500 {"results":[{"error":"Multiple statements provided"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions ["SELECT 1"] -> 500 {"results":[{"error":"a statement that returns rows is not for a transaction"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions [["DELETE FROM svc WHERE id = ?", []]] -> 500 {"results":[{"error":"the statement has 1 parameters, and 0 were given"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions [["DELETE FROM svc WHERE id = :a", {":b": 1}]] -> 500 {"results":[{"error":"the statement has no parameter :b"}],"time":~,"version":null,"actor_id":~}
    /v1/transactions?timeout=-1 ["DELETE FROM svc"] -> 400 {"error":"timeout must be a number of seconds, 0 for none"}
    /v1/transactions?replicas=1 ["DELETE FROM svc"] -> 400 {"error":"replicas=1: there are 0 other nodes, so nothing was done"}
    /v1/queries "DELETE FROM svc" -> 400 {"error":"the statement is not a read-only query"}
    /v1/queries "SELECT * FROM nowhere" -> 400 {"error":"no such table: nowhere"}
    /v1/queries ["SELECT ?", []] -> 500 {"error":"the statement has 1 parameters, and 0 were given"}
    /v1/queries  -> 400 {"error":"not JSON: EOF while parsing a value at line 1 column 0"}
    /v1/queries [1] -> 422 {"error":"the body does not fit: invalid type: integer `1`, expected a string at line 1 column 2"}
    /v1/subscriptions "DELETE FROM svc" -> 400 {"error":"a subscription takes a SELECT: this statement returns no rows or does more than read"}
    /v1/subscriptions "SELECT * FROM nowhere" -> 400 {"error":"no such table: nowhere"}
    /v1/subscriptions "SELECT random()" -> 400 {"error":"random() gives another answer each time: a subscription would go wrong without any change"}
    /v1/subscriptions?from=7 "SELECT id FROM svc" -> 400 {"error":"there is no such subscription to continue: subscribe without `from`"}
    /v1/subscriptions?from=x "SELECT id FROM svc" -> 400 {"error":"Failed to deserialize query string: from: invalid digit found in string"}
    /v1/migrations [] -> 400 {"results":[{"error":"at least 1 statement is required"}],"time":~,"version":null,"actor_id":~}
    /v1/table_stats [] -> 422 {"error":"the body does not fit: invalid length 0, expected struct Body with 1 element at line 1 column 2"}
    /v1/nothing [] -> 404 {"error":"there is no POST /v1/nothing"}
    /v1/health {} -> 405 {"error":"/v1/health is not for POST"}
    GET /v1/subscriptions/not-a-uuid -> 400 {"error":"\"not-a-uuid\" is not a UUID"}
    GET /v1/subscriptions/ba247cbc-2a7f-486b-873c-8a9620e72182 -> 404 {"error":"could not find subscription with id ba247cbc-2a7f-486b-873c-8a9620e72182"}
    GET /v1/transactions -> 405 {"error":"/v1/transactions is not for GET"}
    GET /v1/health?failure_status=9 -> 400 {"error":"failure_status must be a status code from 200 to 999"}
    no content type -> 415 {"error":"the body must be JSON: send content-type: application/json"}
    a body over 1 MiB -> 413 {"error":"the body is over 1 MiB: split it"}
    "#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_migrated_or_refused() {
    let server = Server::start().await;
    let table = "CREATE TABLE more (id INTEGER NOT NULL PRIMARY KEY, v TEXT NOT NULL DEFAULT '')";
    let tried = shown(server.post("/v1/migrations?dry_run=true", &json!([table])).await).await;
    insta::assert_snapshot!(tried, @r#"200 {"results":[{"rows_affected":0,"time":~}],"time":~,"version":null,"actor_id":~,"migrated":{"tables":["more"],"columns":[],"indexes":[]}}"#);
    let absent = server.post("/v1/transactions", &json!(["INSERT INTO more (id) VALUES (1)"])).await;
    assert!(absent.text().await.unwrap().contains("no such table"), "a dry run changes nothing");
    let answer = shown(server.post("/v1/migrations", &json!([table])).await).await;
    insta::assert_snapshot!(answer, @r#"200 {"results":[{"rows_affected":0,"time":~}],"time":~,"version":null,"actor_id":~,"migrated":{"tables":["more"],"columns":[],"indexes":[]}}"#);
    let again = shown(server.post("/v1/migrations", &json!([table])).await).await;
    assert!(again.contains(r#""migrated":{"tables":[],"columns":[],"indexes":[]}"#), "{again}");
    server.execute("INSERT INTO more (id) VALUES (1)").await;
    let unique = "CREATE TABLE worse (id INTEGER NOT NULL PRIMARY KEY, v TEXT UNIQUE)";
    let refused = server.post("/v1/migrations", &json!([unique])).await;
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("UNIQUE"));
    server.stop().await;
}
