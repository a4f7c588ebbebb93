//! Streams: live queries, changed keys, slow readers, and their end.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::server::{BOUND, Lines, Server, shown};

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_streams_rows_then_changes_and_is_resumed() {
    let server = Server::start().await;
    server.execute("INSERT INTO svc (id, port) VALUES ('a', 80)").await;
    let query = json!("SELECT id, port FROM svc");
    let response = server.post("/v1/subscriptions", &query).await;
    let id = response.headers()["corro-query-id"].to_str().unwrap().to_owned();
    assert_eq!(response.headers()["corro-query-hash"].len(), 16);
    let mut lines = Lines::of(response);
    insta::assert_snapshot!(lines.take(3).await, @r#"
    {"columns":["id","port"]}
    {"row":[1,["a",80]]}
    {"eoq":{"time":~,"change_id":0}}
    "#);
    // Commits that come together are looked at together, and a row that came and went between two looks is no event:
    // each event is read before the next commit.
    for (sql, event) in [
        ("INSERT INTO svc (id, port) VALUES ('b', 81)", r#"{"change":["insert",2,["b",81],1]}"#),
        ("UPDATE svc SET port = 82 WHERE id = 'b'", r#"{"change":["update",2,["b",82],2]}"#),
        ("DELETE FROM svc WHERE id = 'b'", r#"{"change":["delete",2,["b",82],3]}"#),
    ] {
        server.execute(sql).await;
        assert_eq!(lines.next().await.unwrap(), event);
    }
    drop(lines);

    let mut again = Lines::of(server.get(&format!("/v1/subscriptions/{id}?from=1")).await);
    server.execute("INSERT INTO svc (id, port) VALUES ('c', 83)").await;
    let mut resumed = again.next().await.unwrap();
    while !resumed.contains("\"c\"") {
        resumed = again.next().await.unwrap();
    }
    let last: Value = serde_json::from_str(&resumed).unwrap();

    let skipped = server.post("/v1/subscriptions?skip_rows=true", &query).await;
    assert_eq!(skipped.headers()["corro-query-id"], id.as_str(), "equal queries are one");
    let mut skipped = Lines::of(skipped);
    server.execute("DELETE FROM svc WHERE id = 'c'").await;
    let next = last["change"][3].as_u64().unwrap() + 1;
    assert_eq!(
        skipped.next().await.unwrap(),
        format!(r#"{{"change":["delete",{},["c",83],{next}]}}"#, last["change"][1])
    );
    assert_eq!(
        again.next().await.unwrap(),
        format!(r#"{{"change":["delete",{},["c",83],{next}]}}"#, last["change"][1])
    );

    let mut beyond = Lines::of(server.get(&format!("/v1/subscriptions/{id}?from=99")).await);
    insta::assert_snapshot!(beyond.next().await.unwrap(), @r#"{"error":"changes after 99 are not kept: subscribe anew, min change id: 0"}"#);
    assert_eq!(beyond.next().await, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_told_where_a_transaction_ends() {
    let server = Server::start().await;
    server.execute("INSERT INTO svc (id, port) VALUES ('a', 80)").await;
    let query = json!("SELECT id, port FROM svc");
    let response = server.post("/v1/subscriptions?commits=true", &query).await;
    let id = response.headers()["corro-query-id"].to_str().unwrap().to_owned();
    let mut marked = Lines::of(response);
    let mut plain = Lines::of(server.post("/v1/subscriptions", &query).await);
    insta::assert_snapshot!(marked.take(4).await, @r#"
    {"columns":["id","port"]}
    {"row":[1,["a",80]]}
    {"eoq":{"time":~,"change_id":0}}
    {"commit":{"change_id":0}}
    "#);
    plain.take(3).await;
    // Of which no piece holds all.
    let many = "INSERT INTO svc (id, port) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
                SELECT 'many-' || i, i FROM n";
    server.execute(many).await;
    for number in 1..=3000 {
        let line = marked.next().await.unwrap();
        assert!(line.starts_with(r#"{"change":["insert","#) && line.ends_with(&format!(",{number}]}}")), "{line}");
        assert_eq!(plain.next().await.unwrap(), line);
    }
    assert_eq!(marked.next().await.unwrap(), r#"{"commit":{"change_id":3000}}"#);
    // Who comes back where it ended is told so, and who comes back within it hears the rest first.
    let again = async |from: u64| {
        let path = format!("/v1/subscriptions/{id}?from={from}&skip_rows=true&commits=true");
        Lines::of(server.get(&path).await).next().await.unwrap()
    };
    assert_eq!(again(3000).await, r#"{"commit":{"change_id":3000}}"#);
    assert!(again(2999).await.ends_with(",3000]}"));
    server.execute("DELETE FROM svc WHERE id = 'a'").await;
    for lines in [&mut marked, &mut plain] {
        assert_eq!(lines.next().await.unwrap(), r#"{"change":["delete",1,["a",80],3001]}"#);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_hears_that_a_stream_is_alive_and_nobody_else_does() {
    let server = Server::start().await;
    let query = json!("SELECT id, port FROM svc");
    let response = server.post("/v1/subscriptions?alive=true", &query).await;
    assert_eq!(response.headers()["kith-alive-ms"], "3000");
    let id = response.headers()["corro-query-id"].to_str().unwrap().to_owned();
    let mut asked = Lines::of(response);
    let mut again = Lines::of(server.get(&format!("/v1/subscriptions/{id}?skip_rows=true&alive=true")).await);
    let mut members = Lines::of(server.get("/v1/members?watch=true&alive=true").await);
    let plain = server.post("/v1/subscriptions", &query).await;
    assert!(!plain.headers().contains_key("kith-alive-ms"));
    let mut plain = Lines::of(plain);
    asked.take(2).await;
    plain.take(2).await;
    assert_eq!(members.next().await.unwrap(), r#"{"eom":{}}"#);
    for lines in [&mut asked, &mut again, &mut members] {
        assert_eq!(lines.take(2).await, "{\"alive\":{}}\n{\"alive\":{}}");
    }
    server.execute("INSERT INTO svc (id, port) VALUES ('a', 80)").await;
    let change = r#"{"change":["insert",1,["a",80],1]}"#;
    assert_eq!(plain.next().await.unwrap(), change, "it was told of nothing else meanwhile");
    for lines in [&mut asked, &mut again] {
        let mut line = lines.next().await.unwrap();
        while line.contains("alive") {
            line = lines.next().await.unwrap();
        }
        assert_eq!(line, change);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_changed_rows_are_told() {
    let server = Server::start().await;
    let table = "CREATE TABLE \"two parts\" (a TEXT NOT NULL, b INTEGER NOT NULL, v, PRIMARY KEY (b, a))";
    assert_eq!(server.post("/v1/migrations", &json!([table])).await.status(), 200);
    server.execute("INSERT INTO svc (id) VALUES ('before')").await;
    let response = server.post_raw("/v1/updates/svc", String::new()).await;
    let id = response.headers()["corro-query-id"].to_str().unwrap();
    assert_eq!(id.len(), 36);
    let mut lines = Lines::of(response);
    let mut others = Lines::of(server.post_raw("/v1/updates/two%20parts", String::new()).await);
    for (sql, told) in [
        (
            "INSERT INTO svc (id) VALUES ('a'), ('b')",
            "{\"notify\":[\"update\",[\"a\"]]}\n{\"notify\":[\"update\",[\"b\"]]}",
        ),
        ("UPDATE svc SET port = 1 WHERE id = 'a'", "{\"notify\":[\"update\",[\"a\"]]}"),
        ("DELETE FROM svc WHERE id = 'before'", "{\"notify\":[\"delete\",[\"before\"]]}"),
    ] {
        server.execute("INSERT INTO \"two parts\" VALUES ('x', 7, 1) ON CONFLICT DO UPDATE SET v = v + 1").await;
        assert_eq!(others.take(1).await, "{\"notify\":[\"update\",[7,\"x\"]]}", "by the key's order");
        server.execute(sql).await;
        assert_eq!(lines.take(told.lines().count()).await, told, "{sql}");
    }
    // What is too much to be listed is not left out in silence.
    let many = "INSERT INTO svc (id) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) SELECT i FROM n";
    server.execute(many).await;
    assert_eq!(lines.take(1).await, r#"{"error":"more rows changed at once than are listed: read anew"}"#);
    assert_eq!(lines.next().await, None);
    let unknown = shown(server.post_raw("/v1/updates/nothing", String::new()).await).await;
    assert_eq!(unknown, r#"400 {"error":"there is no table nothing"}"#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_cut_with_a_line_and_others_are_not() {
    let server = Server::start().await;
    let query = json!("SELECT id, note FROM svc").to_string();
    let head = "POST /v1/subscriptions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
    // A small window, set before connecting: else the kernel takes 30 MB for a reader that reads nothing.
    let slow = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    slow.set_recv_buffer_size(64 << 10).unwrap();
    slow.connect(&server.addr.into()).unwrap();
    let mut slow = TcpStream::from(slow);
    write!(slow, "{head}\r\ncontent-length: {}\r\n\r\n{query}", query.len()).unwrap();
    let mut quick = Lines::of(server.post_raw("/v1/subscriptions", query).await);
    quick.take(2).await;
    let note = "x".repeat(500_000);
    for id in 0..60 {
        let insert = json!([["INSERT INTO svc (id, note) VALUES (?, ?)", [id.to_string(), note]]]);
        let response = server.post("/v1/transactions", &insert).await;
        assert_eq!(response.status(), 200);
        assert!(quick.next().await.unwrap().starts_with(r#"{"change":["insert""#));
    }
    let last = tokio::task::spawn_blocking(move || {
        slow.set_read_timeout(Some(BOUND)).unwrap();
        let (mut reader, mut last) = (BufReader::new(slow), String::new());
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 0 && line != "0\r\n" {
            if line.contains("error") {
                last = line.trim_end().to_owned();
            }
            line.clear();
        }
        last
    });
    insta::assert_snapshot!(last.await.unwrap(), @r#"{"error":"slow consumer: more than 8 MiB or 30 s behind; read faster, or attach again from the last change"}"#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_a_line_at_shutdown_and_the_port_is_free() {
    let server = Server::start().await;
    let addr = server.addr;
    let mut subscription = Lines::of(server.post("/v1/subscriptions", &json!("SELECT id FROM svc")).await);
    subscription.take(2).await;
    let mut members = Lines::of(server.get("/v1/members?watch=true").await);
    assert_eq!(members.next().await.unwrap(), r#"{"eom":{}}"#);
    // One that reads nothing, one that has not said anything.
    let mut deaf = TcpStream::connect(addr).unwrap();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let body = json!(endless).to_string();
    let head = "POST /v1/queries HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
    write!(deaf, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let silent = TcpStream::connect(addr).unwrap();

    let dir = tokio::time::timeout(BOUND, server.stop()).await.expect("neither holds up the end");
    let last = r#"{"error":"the server is shutting down"}"#;
    assert_eq!(subscription.next().await.as_deref(), Some(last));
    assert_eq!(members.next().await.as_deref(), Some(last));
    assert_eq!(subscription.next().await, None);
    std::net::TcpListener::bind(addr).expect("the port is free");
    // Both were cut off: what comes is what the kernel had taken, and then the end.
    const TAKEN: u64 = 64 << 20;
    for stream in [deaf, silent] {
        stream.set_read_timeout(Some(BOUND)).unwrap();
        let read = std::io::copy(&mut stream.take(TAKEN), &mut std::io::sink());
        let cut = read.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |&bytes| bytes < TAKEN);
        assert!(cut, "{read:?}");
    }
    drop(dir);
}
