//! What a user can get wrong: each gets the answer that the API promises, or one clear line and an exit code; nothing is
//! lost, nothing panics, and the next good request is served.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kith_tests::lab::{Api, Dev, Reply, Run, exchange, resolve};
use kith_tests::skip::skip;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For a healthy request to be answered, however busy the machine is.
const ANSWERED: Duration = Duration::from_secs(60);

/// EMFILE.
const TOO_MANY_FILES: i32 = 24;

/// A `kith dev` with one fact in it, so that what is lost is noticed.
struct Subject {
    dev: Dev,
}

impl Subject {
    async fn start() -> Subject {
        let subject = Subject { dev: Dev::start(1, None).await };
        subject
            .api()
            .execute("INSERT INTO cluster_metadata (key, value) VALUES ('kept', 'yes')", &json!([]))
            .await
            .expect("acknowledged");
        subject
    }

    fn api(&self) -> Api {
        self.dev.api()
    }

    /// What must hold after any bad input.
    async fn ends_well(mut self) {
        let api = self.api();
        api.execute("INSERT INTO cluster_metadata (key, value) VALUES ('after', 'yes')", &json!([]))
            .await
            .expect("good writes go on");
        let rows = api.query("SELECT key FROM cluster_metadata WHERE value = 'yes' ORDER BY key").await;
        assert_eq!(rows.expect("good reads go on"), [json!(["after"]), json!(["kept"])]);
        let answer = resolve(self.dev.nodes[0].dns, "no-such.internal").await.expect("DNS goes on");
        assert_eq!((answer.rcode.as_str(), answer.soa), ("NXDOMAIN", true));
        assert_eq!(self.dev.stop().await.code(), Some(0), "{}", self.dev.log());
        let log = self.dev.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// The message of an answer in the one shape of errors.
#[track_caller]
fn error(reply: &Reply) -> String {
    let json = reply.json();
    json["error"].as_str().unwrap_or_else(|| panic!("no error in {} {}", reply.status, reply.body)).to_owned()
}

/// The only result of a transaction that failed, in its envelope.
#[track_caller]
fn failed(reply: &Reply) -> String {
    let json = reply.json();
    assert_eq!(json["version"], Value::Null, "{json}");
    assert_eq!(json["actor_id"].as_str().map(str::len), Some(32), "{json}");
    let results = json["results"].as_array().expect("results");
    assert_eq!(results.len(), 1, "{json}");
    results[0]["error"].as_str().unwrap_or_else(|| panic!("no error in {json}")).to_owned()
}

#[tokio::test]
async fn malformed_json_is_refused() {
    let subject = Subject::start().await;
    for path in ["/v1/transactions", "/v1/queries", "/v1/subscriptions", "/v1/migrations"] {
        let reply = subject.api().post_raw(path, "application/json", "[\"SELECT 1\"").await.expect("an answer");
        assert_eq!(reply.status, 400, "{path}: {}", reply.body);
        assert!(!error(&reply).is_empty());
    }
    subject.ends_well().await;
}

#[tokio::test]
async fn another_content_type_is_refused() {
    let subject = Subject::start().await;
    let body = json!(["DELETE FROM cluster_metadata"]).to_string();
    let reply = subject.api().post_raw("/v1/transactions", "text/plain", body).await.expect("an answer");
    assert_eq!(reply.status, 415, "{}", reply.body);
    subject.ends_well().await;
}

#[tokio::test]
async fn an_unknown_table_is_an_error_everywhere() {
    let subject = Subject::start().await;
    let api = subject.api();
    let reply = api
        .post("/v1/transactions", &json!(["DELETE FROM cluster_metadata", "DELETE FROM no_such"]))
        .await
        .expect("an answer");
    assert_eq!(reply.status, 500, "{}", reply.body);
    assert!(failed(&reply).contains("no such table: no_such"), "{}", reply.body);
    for path in ["/v1/queries", "/v1/subscriptions"] {
        let reply = api.post(path, &json!("SELECT * FROM no_such")).await.expect("an answer");
        assert_eq!(reply.status, 400, "{path}: {}", reply.body);
        assert!(error(&reply).contains("no such table: no_such"), "{path}: {}", reply.body);
    }
    let reply = api.post("/v1/updates/no_such", &json!(null)).await.expect("an answer");
    assert!([400, 404].contains(&reply.status), "{} {}", reply.status, reply.body);
    subject.ends_well().await;
}

#[tokio::test]
async fn a_write_through_queries_is_refused() {
    let subject = Subject::start().await;
    for sql in [
        "DELETE FROM cluster_metadata",
        "INSERT INTO cluster_metadata (key) VALUES ('x') RETURNING key",
        "PRAGMA user_version = 9",
        "ATTACH 'elsewhere.db' AS elsewhere",
        "VACUUM",
    ] {
        let reply = subject.api().post("/v1/queries", &json!(sql)).await.expect("an answer");
        assert_eq!(reply.status, 400, "{sql}: {}", reply.body);
        assert!(!error(&reply).is_empty());
    }
    subject.ends_well().await;
}

#[tokio::test]
async fn an_empty_transaction_is_refused() {
    let subject = Subject::start().await;
    let reply = subject.api().post("/v1/transactions", &json!([])).await.expect("an answer");
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert_eq!(failed(&reply), "at least 1 statement is required");
    subject.ends_well().await;
}

#[tokio::test]
async fn a_body_over_one_mebibyte_is_refused() {
    let subject = Subject::start().await;
    let body = json!([["INSERT INTO cluster_metadata (key, value) VALUES ('big', ?)", ["x".repeat(1 << 20)]]]);
    let reply = subject.api().post("/v1/transactions", &body).await.expect("an answer");
    assert_eq!(reply.status, 413, "{}", reply.body);
    assert_eq!(
        subject.api().query("SELECT 1 FROM cluster_metadata WHERE key = 'big'").await.expect("it answers"),
        Vec::<Value>::new()
    );
    subject.ends_well().await;
}

/// Nine of ten begin a request and do not end its head, one of ten does not end its body.
#[tokio::test]
async fn ten_thousand_connections_that_ask_for_nothing_keep_nobody_out() {
    const CONNECTIONS: usize = 10_000;
    let subject = Subject::start().await;
    let (api, before) = (subject.api(), subject.dev.resident());
    let mut slowest = Duration::ZERO;
    let mut held = Vec::with_capacity(CONNECTIONS);
    for n in 1..=CONNECTIONS {
        let mut stream = match TcpStream::connect(subject.dev.nodes[0].api).await {
            Ok(stream) => stream,
            Err(error) if error.raw_os_error() == Some(TOO_MANY_FILES) => {
                return skip("ten_thousand_connections", &format!("this process may open {n} files only"));
            }
            Err(error) => panic!("connection {n}: {error}"),
        };
        let end = if n % 10 == 0 { "content-type: application/json\r\ncontent-length: 1000\r\n\r\n[" } else { "" };
        // One that made way already takes nothing.
        drop(stream.write_all(format!("POST /v1/transactions HTTP/1.1\r\nhost: kith\r\n{end}").as_bytes()).await);
        held.push(stream);
        if n % 1_000 == 0 {
            let began = Instant::now();
            let answer = timeout(ANSWERED, api.query("SELECT 1")).await;
            let answer = answer.unwrap_or_else(|_| panic!("no answer in {ANSWERED:?} beside {n} connections"));
            assert_eq!(answer, Ok(vec![json!([1])]), "beside {n} connections");
            slowest = slowest.max(began.elapsed());
        }
    }
    let more = subject.dev.resident().saturating_sub(before);
    assert!(more < 64, "{more} MiB more for {CONNECTIONS} connections");
    let closed = api.get("/metrics").await.expect("metrics").body;
    let closed = closed.lines().find_map(|line| line.strip_prefix("kith_http_connections_closed_total "));
    let closed: usize = closed.and_then(|number| number.parse().ok()).expect("a number");
    eprintln!("{closed} of {CONNECTIONS} connections made way, {more} MiB more, the slowest answer took {slowest:?}");
    assert!(closed > CONNECTIONS / 2, "{closed}");
    drop(held);
    subject.ends_well().await;
}

#[tokio::test]
async fn an_unknown_subscription_is_said_to_be_unknown() {
    let subject = Subject::start().await;
    let unknown = "ba247cbc-2a7f-486b-873c-8a9620e72182";
    let reply = subject.api().get(&format!("/v1/subscriptions/{unknown}")).await.expect("an answer");
    assert_eq!(reply.status, 404, "{}", reply.body);
    assert_eq!(error(&reply), format!("could not find subscription with id {unknown}"));
    let reply = subject.api().get("/v1/subscriptions/not-a-uuid").await.expect("an answer");
    assert_eq!(reply.status, 400, "{}", reply.body);
    subject.ends_well().await;
}

#[tokio::test]
async fn a_schema_that_cannot_be_replicated_is_refused_with_its_reason() {
    let subject = Subject::start().await;
    let api = subject.api();
    for (column, reason) in [("name TEXT UNIQUE", "UNIQUE"), ("other TEXT REFERENCES services (name)", "FOREIGN KEY")] {
        let schema = format!("CREATE TABLE bad (id TEXT NOT NULL PRIMARY KEY, {column})");
        let reply = api.post("/v1/migrations", &json!([schema])).await.expect("an answer");
        let refused = (400..=500).contains(&reply.status);
        assert!(refused && reply.body.to_uppercase().contains(reason), "{column}: {} {}", reply.status, reply.body);
        let there = api.query("SELECT count(*) FROM sqlite_schema WHERE name = 'bad'").await.expect("it answers");
        assert_eq!(there, [json!([0])], "{column}");
    }
    subject.ends_well().await;
}

#[tokio::test]
async fn malformed_dns_packets_do_no_harm() {
    let subject = Subject::start().await;
    let dns = subject.dev.nodes[0].dns;
    // Too short for a header, and an answer to nobody's question: dropped.
    for packet in [&[][..], &[0; 11], &[0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(exchange(dns, packet).await.expect("nobody hangs up"), None, "{packet:02x?}");
    }
    // A header that announces a question which is not there, a pointer to itself, and a name of 300 bytes: FORMERR.
    let header = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let label = [&[50][..], &[b'x'; 50]].concat();
    let long = [label.repeat(6), vec![0, 0, 1, 0, 1]].concat();
    for question in [&[][..], &[0xc0, 0x0c, 0, 1, 0, 1], &[63, b'a'], &long] {
        let reply = exchange(dns, &[&header[..], question].concat()).await.expect("nobody hangs up");
        let reply = reply.unwrap_or_else(|| panic!("no answer to {question:02x?}"));
        assert_eq!(
            (&reply[..2], reply[2] & 0x80, reply[3] & 0x0f),
            (&[0, 7][..], 0x80, 1),
            "{question:02x?}: {reply:02x?}"
        );
    }
    subject.ends_well().await;
}

#[tokio::test]
async fn a_configuration_with_three_mistakes_lists_all_three_with_their_lines() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("kith.toml");
    fs::write(&file, "[node]\nname = \"NOT a label\"\n\n[dns]\nlisten = [\"somewhere\"]\nzons = [\"internal\"]\n")
        .expect("it can be written");
    for command in [["config", "check"], ["config", "show"]] {
        let run = Run::of([command[0], command[1], "--config", &file.display().to_string()]).await;
        assert_eq!(run.code, Some(78), "{run:?}");
        for place in ["kith.toml:2", "kith.toml:5", "kith.toml:6"] {
            assert!(run.stderr.contains(place), "{place} is missing in {run:?}");
        }
        assert!(run.stderr.contains("zones"), "the nearest known key is missing in {run:?}");
    }
    let run = Run::of(["agent", "--config", &file.display().to_string()]).await;
    assert_eq!(run.code, Some(78), "{run:?}");
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = |a: std::io::Result<std::net::SocketAddr>| a.expect("a bound socket has an address").to_string();
    for (flag, taken) in [
        ("--api", address(tcp.local_addr())),
        ("--dns", address(udp.local_addr())),
        ("--gossip", address(udp.local_addr())),
    ] {
        let mut arguments = vec!["dev", "--nodes", "1", "--empty", "--json"];
        for other in ["--api", "--dns", "--gossip"] {
            arguments.extend([other, if other == flag { &taken } else { "127.0.0.1:0" }]);
        }
        fails_in_one_line(&Run::of(&arguments).await, &taken);
    }
}

/// A start that failed: a code that is not 0, an error line with `what` in it, and no panic.
#[track_caller]
fn fails_in_one_line(run: &Run, what: &str) {
    assert!(run.code.is_some_and(|code| code != 0 && code != 101), "{run:?}");
    let errors: Vec<_> = run.stderr.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{run:?}");
    assert!(errors[0].contains(what), "{what} is missing in {run:?}");
    assert!(!run.stderr.contains("panicked"), "{run:?}");
    assert_eq!(run.stdout, "", "{run:?}");
}

/// A folder in which `kith dev` kept a fact, and the database in it.
async fn kept() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut dev = Dev::start(1, Some(folder.path())).await;
    dev.api().execute("INSERT INTO cluster_metadata (key) VALUES ('kept')", &json!([])).await.expect("acknowledged");
    assert_eq!(dev.stop().await.code(), Some(0), "{}", dev.log());
    let databases = find(folder.path(), "kith.db");
    assert_eq!(databases.len(), 1, "{databases:?}");
    let database = databases.into_iter().next().expect("there is one");
    (folder, database)
}

fn find(folder: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder can be listed").map(|e| e.expect("an entry").path());
    let found = |path: PathBuf| {
        if path.is_dir() { find(&path, name) } else { Vec::from_iter(path.ends_with(name).then_some(path)) }
    };
    entries.flat_map(found).collect()
}

async fn start_on(folder: &Path) -> Run {
    let folder = folder.display().to_string();
    let listen = ["--api", "127.0.0.1:0", "--dns", "127.0.0.1:0", "--gossip", "127.0.0.1:0"];
    Run::of(["dev", "--nodes", "1", "--empty", "--json", "--dir", &folder].iter().chain(&listen)).await
}

/// Writes `bytes` over the file at `offset`.
fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(path).expect("the database can be opened");
    file.write_all_at(bytes, offset).expect("the database can be written");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let (folder, database) = kept().await;
    let later = rusqlite::Connection::open(&database).expect("it is an SQLite file");
    assert_eq!(later.execute("UPDATE __kith_meta SET format = format + 1", []), Ok(1));
    later.close().expect("it closes");
    let before = fs::read(&database).expect("it can be read");
    fails_in_one_line(&start_on(folder.path()).await, "kith.db has format");
    assert_eq!(fs::read(&database).expect("it can be read"), before, "the database was changed");
}

#[tokio::test]
async fn a_corrupted_database_is_named_and_left_alone() {
    let (folder, database) = kept().await;
    overwrite(&database, 0, &[0x55; 4096]);
    let before = fs::read(&database).expect("it can be read");
    fails_in_one_line(&start_on(folder.path()).await, "kith.db");
    assert_eq!(fs::read(&database).expect("it can be read"), before, "the database was changed");
}
