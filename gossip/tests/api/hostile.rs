//! Those who mean it ill, or are merely wrong: statements and bodies that would cost memory, time or files.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::server::Server;

/// For what costs the server time on purpose.
const BOUND: Duration = Duration::from_secs(60);

fn post(server: &Server, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    server.request(path, body).timeout(BOUND)
}

/// Status and body, which must be UTF-8.
async fn answer_to(request: RequestBuilder) -> (u16, String) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, String::from_utf8(response.bytes().await.unwrap().into()).unwrap())
}

fn files_of(server: &Server) -> BTreeSet<std::ffi::OsString> {
    std::fs::read_dir(server.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// What must hold after any of it.
async fn goes_on(server: Server) {
    assert_eq!(answer_to(post(&server, "/v1/transactions", r#"["DELETE FROM svc"]"#)).await.0, 200, "it goes on");
    server.stop().await;
}

/// The most memory this process has had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

const N: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_would_cost_time_memory_or_files_are_refused_or_ended() {
    let server = Server::start().await;
    assert_eq!(answer_to(post(&server, "/v1/transactions", r#"["INSERT INTO svc (id) VALUES ('a')"]"#)).await.0, 200);
    let (before, files) = (peak(), files_of(&server));
    let made = server.dir.path().join("made");
    let made = made.display();
    let depth = format!("SELECT {}1{}", "(1 + ".repeat(2_000), ")".repeat(2_000));
    let expressions = [
        "zeroblob(100000000)",
        "hex(zeroblob(16000000))",
        "randomblob(100000000)",
        "printf('%.*c', 100000000, 'x')",
        "replace(hex(zeroblob(100000)), '0', hex(zeroblob(100000)))",
        "load_extension('/lib/libm.so')",
    ];
    let mut bombs = vec![
        format!("{N} SELECT count(*) FROM n"),
        format!("{N} SELECT group_concat(hex(zeroblob(1000000))) FROM n"),
        format!("{N} SELECT json_group_array(hex(zeroblob(1000000))) FROM n"),
        format!("{N} SELECT i, zeroblob(1000000) FROM n ORDER BY i DESC"),
        format!("{N} SELECT DISTINCT randomblob(1000000) FROM n LIMIT 1 OFFSET 100000"),
        format!("SELECT count(*) FROM ({N} SELECT i FROM n), ({N} SELECT i FROM n)"),
        format!("SELECT 'x' LIKE '{}x'", "%_".repeat(2_000)),
        depth,
        format!("ATTACH '{made}' AS made"),
        format!("VACUUM INTO '{made}'"),
        "VACUUM".to_owned(),
        "PRAGMA writable_schema = ON".to_owned(),
        "PRAGMA journal_mode = DELETE".to_owned(),
        "SELECT * FROM generate_series(1, 1000000000000)".to_owned(),
        "SELECT * FROM pragma_hard_heap_limit(0)".to_owned(),
    ];
    bombs.extend(expressions.map(|expression| format!("SELECT {expression}")));
    for sql in &bombs {
        let (status, answer) = answer_to(post(&server, "/v1/queries?timeout=1", json!(sql).to_string())).await;
        // What begins with rows ends with the line that says why there are no more.
        let last = answer.lines().last().unwrap_or_default();
        assert!(status != 200 || last.starts_with(r#"{"error""#), "{sql}: {status} {last}");
        assert!(matches!(status, 200 | 400 | 500), "{sql}: {status}");
    }
    // Brackets around nothing but brackets are no depth: SQLite drops them as it reads, and answers.
    let brackets = json!(format!("SELECT {}1{}", "(".repeat(2_000), ")".repeat(2_000))).to_string();
    let (status, answer) = answer_to(post(&server, "/v1/queries", brackets)).await;
    assert!(status == 200 && answer.contains(r#"{"row":[1,[1]]}"#), "{status} {}", answer.len());
    let written = expressions.map(|expression| format!("UPDATE svc SET note = {expression}"));
    let endless = format!("INSERT INTO svc (id) {N} SELECT 'n' || i FROM n");
    let control = ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "RELEASE s"].map(str::to_owned);
    for sql in written.iter().chain([&endless]).chain(&control).chain(bombs.iter().filter(|sql| sql.contains("made"))) {
        let (status, answer) = answer_to(post(&server, "/v1/transactions?timeout=1", json!([sql]).to_string())).await;
        assert!(matches!(status, 413 | 500), "{sql}: {status} {answer}");
        assert!(answer.contains(r#""error""#) && answer.contains(r#""version":null"#), "{sql}: {answer}");
    }
    assert_eq!(files_of(&server), files, "no file was made");
    // SQLite may have 256 MiB in all, by its hard limit; beside it there is an answer or two.
    let grown = peak() - before;
    assert!(grown < 400, "{grown} MiB");
    let (status, answer) = answer_to(post(&server, "/v1/queries", json!("SELECT id, note FROM svc").to_string())).await;
    assert!(status == 200 && answer.contains(r#"{"row":[1,["a",null]]}"#) && !answer.contains("[2,"), "{answer}");
    goes_on(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_values_come_back_as_they_went_and_cells_that_are_too_many_are_refused() {
    let server = Server::start().await;
    let odd = [
        json!("x".repeat(1_000_000)),
        json!("a\u{0}b"),
        json!("\u{202e}\u{1f468}\u{200d}\u{1f469}\u{feff}\u{2028}\\\"\u{7f}"),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(1e308),
        json!(-0.5e-300),
        json!([0, 255, 128]),
        json!(null),
        json!(""),
    ];
    for value in &odd {
        let put = json!([[
            "INSERT INTO svc (id, port) VALUES ('odd', ?) ON CONFLICT DO UPDATE SET port = excluded.port",
            [value]
        ]]);
        let (status, answer) = answer_to(post(&server, "/v1/transactions", put.to_string())).await;
        assert_eq!(status, 200, "{answer}");
        let (_, answer) = answer_to(post(&server, "/v1/queries", r#""SELECT port FROM svc""#)).await;
        let row: Value = serde_json::from_str(answer.lines().nth(1).unwrap()).unwrap();
        assert!(row["row"][1][0] == *value, "{}", &answer[..answer.len().min(200)]);
    }
    // No JSON can send it, but SQL can make it: text that is not UTF-8. Answers are UTF-8 all the same.
    let (status, answer) = answer_to(post(&server, "/v1/queries", r#""SELECT CAST(x'61ff62' AS TEXT)""#)).await;
    assert!(status == 200 && answer.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{answer}");
    let (status, answer) = answer_to(post(&server, "/v1/queries", b"\"SELECT '\xff'\"".to_vec())).await;
    assert!(status == 400 && answer.contains("not JSON"), "{status} {answer}");

    let rows =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001) SELECT 'n' || i, i FROM n";
    let many = json!([format!("INSERT INTO svc (id, port) {rows}")]).to_string();
    let (status, answer) = answer_to(post(&server, "/v1/transactions", many)).await;
    assert!(status == 413 && answer.contains(r#""version":null"#), "{status} {answer}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_compressed_or_endless_are_refused_without_being_read() {
    let server = Server::start().await;
    for encoding in ["gzip", "br", "zstd", "identity, gzip"] {
        let request = post(&server, "/v1/transactions", r#"["DELETE FROM svc"]"#).header("content-encoding", encoding);
        let (status, answer) = answer_to(request).await;
        assert!(status == 415 && answer.contains("content-encoding"), "{encoding}: {status} {answer}");
    }
    let plain = post(&server, "/v1/transactions", r#"["DELETE FROM svc"]"#).header("content-encoding", "identity");
    assert_eq!(answer_to(plain).await.0, 200);

    // A body without a length and without an end: 413 and not memory. That the server stops reading may also show as a
    // connection that broke before the answer was read.
    let before = peak();
    let piece = bytes::Bytes::from(vec![b' '; 64 << 10]);
    let endless = futures_util::stream::iter((0..16_384).map(move |_| Ok::<_, std::io::Error>(piece.clone())));
    let answer = post(&server, "/v1/transactions", reqwest::Body::wrap_stream(endless)).send().await;
    assert!(answer.as_ref().map_or(true, |answer| answer.status() == 413), "{answer:?}");
    let grown = peak() - before;
    assert!(grown < 64, "{grown} MiB for a body of 1 GiB");
    goes_on(server).await;
}
