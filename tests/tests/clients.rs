//! Clients of other makers, unmodified, against a whole server: curl, Node.js, Python, and Corrosion's own client as it is
//! published. They come through a connection that is cut while they follow a query, and come back with `from`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kith_tests::fetched::cache;
use kith_tests::lab::{Authority, Lab, Node};
use kith_tests::skip::skip;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// For a client to do all that it does.
const DONE: Duration = Duration::from_secs(60);

const INSERT: &str = "INSERT INTO containers (id, service, health_port) VALUES (?, 'followed', ?)";

fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/clients").join(name)
}

async fn runs(program: &Path, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let status = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.await.is_ok_and(|status| status.success())
}

/// A server of its own for each client.
async fn server(lab: &Lab) -> Node {
    let mut node = lab.nodes(&Authority::new("clients"), &["n1"]).remove(0);
    node.start().await;
    node
}

/// A way to a server that can be cut.
struct Way {
    address: SocketAddr,
    cuts: watch::Sender<u32>,
    _tasks: JoinSet<()>,
}

impl Way {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (address, cuts) = (listener.local_addr().expect("it is bound"), watch::Sender::new(0));
        let (mut tasks, told) = (JoinSet::new(), cuts.subscribe());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let mut told = told.clone();
                told.mark_unchanged();
                connections.spawn(async move {
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    // Whichever comes first: a cut drops both ends.
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = told.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts, _tasks: tasks }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// Runs a client that follows a query. It is cut off once it has seen a change, and must be told of the next one though it
/// was away; with the row that is deleted after that it ends. Returns what it printed.
async fn follows(node: &Node, way: &Way, command: &mut Command) -> String {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the client starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut errors = child.stderr.take().expect("it is piped");
    let mut said = String::new();
    let all = timeout(DONE, async {
        while let Some(line) = lines.next_line().await.expect("text") {
            said += &line;
            said.push('\n');
            if line == "following" {
                way.cut();
                node.api().execute(INSERT, &json!(["c", 82])).await.expect("acknowledged");
            } else if line.contains("change") && line.contains('c') && line.contains("82") {
                node.api().execute("DELETE FROM containers WHERE id = 'b'", &json!([])).await.expect("acknowledged");
            }
        }
        let mut complaints = String::new();
        errors.read_to_string(&mut complaints).await.expect("text");
        (child.wait().await.expect("it ends"), complaints)
    });
    let (status, complaints) = match all.await {
        Ok(ended) => ended,
        Err(_) => panic!("it goes on after {DONE:?}; it said:\n{said}"),
    };
    assert!(status.success(), "{status}; it said:\n{said}and complained:\n{complaints}");
    said
}

/// What who follows is told, cut off or not.
const FOLLOWED: &str = r#"{"columns":["id","health_port"]}
{"row":[1,["a",80]]}
{"eoq":{"change_id":0}}
{"change":["insert",2,["b",81],1]}
following
{"change":["insert",3,["c",82],2]}
{"change":["delete",2,["b",81],3]}
"#;

#[tokio::test]
async fn g7_node_js_follows_across_a_cut() {
    if !runs(Path::new("node"), &["-e", "fetch"]).await {
        return skip("g7_node_js_follows_across_a_cut", "no Node.js with fetch: run scripts/setup test");
    }
    for how in ["fetch", "http2"] {
        let lab = Lab::new("clients");
        let mut node = server(&lab).await;
        let way = Way::to(node.at.api).await;
        let mut command = Command::new("node");
        command.arg(tool("follow.mjs")).arg(how).arg(format!("http://{}", way.address));
        assert_eq!(follows(&node, &way, &mut command).await, FOLLOWED, "{how}");
        assert_eq!(node.stop().await.code(), Some(0), "{}", node.log());
    }
}

#[tokio::test]
async fn g7_python_follows_across_a_cut() {
    let venv = cache().join("venv/bin/python");
    for (python, how, module) in [(Path::new("python3"), "http", "http.client"), (&venv, "httpx", "httpx, h2")] {
        if !runs(python, &["-c", &format!("import {module}")]).await {
            skip("g7_python_follows_across_a_cut", &format!("no Python with {module}: run scripts/setup test"));
            continue;
        }
        let lab = Lab::new("clients");
        let mut node = server(&lab).await;
        let way = Way::to(node.at.api).await;
        let mut command = Command::new(python);
        let (host, port) = (way.address.ip().to_string(), way.address.port().to_string());
        command.arg(tool("follow.py")).args([how, &host, &port]);
        assert_eq!(follows(&node, &way, &mut command).await, FOLLOWED, "{how}");
        assert_eq!(node.stop().await.code(), Some(0), "{}", node.log());
    }
}

/// What `tests/tools/clients/corrosion.rs` prints.
const CORROSION: &str = "executed 1 1 1 1 1, version true, actor true
nothing changed: version None
refused: no such table: nowhere
refused: a statement that returns rows is not for a transaction
columns NULL 1 -9223372036854775808 1.5 2.0 'text' x'00ff' key
row 1 NULL 1 -9223372036854775808 1.5 2.0 'text' [0, 255] 'simple'
eoq None
typed 1 named c
typed 2 params b
typed 3 simple a
typed 4 verbose d
typed 5 verbose named e
refused: no such column: wrong
refused: the statement is not a read-only query
notify Update 'p' 'n'
notify Update 'p' 'n'
notify Delete 'p' 'n'
subscribed, hash true
columns id health_port
row 1 'a' 80
eoq Some(0)
change Insert 2 'b' 81 1
following
change Insert 3 'c' 82 2
change Delete 2 'b' 81 3
change Delete 2 'b' 81 3
refused: received unexpected response code: 404 Not Found
";

#[tokio::test]
async fn corrosions_own_client_is_served() {
    let client = cache().join("corrosion/target/debug/corrosion-check");
    if !client.is_file() {
        return skip("corrosions_own_client_is_served", "it is not built: run scripts/setup test");
    }
    let lab = Lab::new("clients");
    let mut node = server(&lab).await;
    let way = Way::to(node.at.api).await;
    let said = follows(&node, &way, Command::new(client).arg(way.address.to_string())).await;
    assert_eq!(said, CORROSION);
    assert_eq!(node.stop().await.code(), Some(0), "{}", node.log());
}

/// The ways by which curl asks: versions of HTTP, and what carries it.
fn ways(node: &Node, lab: &Lab) -> [(&'static str, Vec<String>); 3] {
    let url = format!("http://{}", node.at.api);
    let socket = lab.folder(&node.name).join("api.sock").to_string_lossy().into_owned();
    let arguments = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    [
        ("1.1", arguments(&["--http1.1", "--url", &url])),
        ("2", arguments(&["--http2-prior-knowledge", "--url", &url])),
        ("2", arguments(&["--http2-prior-knowledge", "--unix-socket", &socket, "--url", "http://kith"])),
    ]
}

/// What curl is answered: the status, then the body. A stream is read for as long as it has this many lines.
async fn curl(way: &[String], version: &str, method: &str, path: &str, body: Option<&str>, lines: usize) -> String {
    let mut command = Command::new("curl");
    command.args(["-sSN", "-X", method, "-H", "content-type: application/json", "-D", "-"]);
    command.args(&way[..way.len() - 1]).arg(format!("{}{path}", way[way.len() - 1]));
    if let Some(body) = body {
        command.args(["-d", body]);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("curl runs");
    let mut reader = BufReader::new(child.stdout.take().expect("it is piped"));
    let (mut head, mut said) = (String::new(), String::new());
    let read = async {
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).await.expect("text") > 0, "{method} {path}: no answer: {head}");
        }
        for _ in 0..lines {
            if reader.read_line(&mut said).await.expect("text") == 0 {
                break;
            }
        }
    };
    timeout(DONE, read).await.unwrap_or_else(|_| panic!("{method} {path} says no more"));
    let status = head.lines().next().unwrap_or_default().split(' ').collect::<Vec<_>>();
    assert_eq!(status[0], format!("HTTP/{version}"), "{method} {path}");
    format!("{} {}", status[1], steady(&said))
}

/// An answer without what is otherwise each time.
fn steady(text: &str) -> String {
    const UNSTEADY: [&str; 6] = ["time", "version", "heard_ms_ago", "p99_lag", "uptime_s", "seconds"];
    fn settle(value: &mut Value) {
        match value {
            Value::Object(map) => map.iter_mut().for_each(|(key, value)| match value {
                Value::Number(_) if UNSTEADY.contains(&key.as_str()) => *value = Value::Null,
                other => settle(other),
            }),
            Value::Array(all) => all.iter_mut().for_each(settle),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let lines = text.lines().map(|line| match line.parse::<Value>() {
        Ok(mut value) => {
            settle(&mut value);
            value.to_string()
        }
        Err(_) => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn curl_is_answered_alike_by_either_http_and_either_socket_on_every_route() {
    let name = "curl_is_answered_alike_by_either_http_and_either_socket_on_every_route";
    if !runs(Path::new("curl"), &["--version"]).await {
        return skip(name, "no curl: run scripts/setup test");
    }
    let lab = Lab::new("clients");
    let mut node = server(&lab).await;
    node.api().execute(INSERT, &json!(["a", 80])).await.expect("acknowledged");
    let query = "\"SELECT id, health_port FROM containers\"";
    let followed: Value = query.parse().expect("JSON");
    let stream = node.api().stream("/v1/subscriptions", Some(&followed));
    let id = stream.await.expect("a stream").headers()["corro-query-id"].to_str().expect("text").to_owned();
    let all = usize::MAX;
    let asked: Vec<(&str, String, Option<&str>, usize, &str)> = vec![
        ("POST", "/v1/transactions".into(), Some("[\"UPDATE containers SET ip = '10.0.0.1'\"]"), all, "200"),
        ("POST", "/v1/transactions".into(), Some("[{\"query\":\"SELECT 1\",\"unknown\":[]}]"), all, "500"),
        ("POST", "/v1/transactions".into(), Some("[]"), all, "400"),
        ("POST", "/v1/transactions".into(), Some("[["), all, "400"),
        ("POST", "/v1/queries".into(), Some(query), all, "200"),
        ("POST", "/v1/queries".into(), Some("\"SELECT wrong\""), all, "400"),
        ("POST", "/v1/subscriptions".into(), Some(query), 3, "200"),
        ("POST", "/v1/subscriptions?skip_rows=true".into(), Some(query), 0, "200"),
        ("POST", "/v1/subscriptions".into(), Some("\"DELETE FROM containers\""), all, "400"),
        ("GET", format!("/v1/subscriptions/{id}"), None, 3, "200"),
        ("GET", format!("/v1/subscriptions/{id}?from=99"), None, all, "200"),
        ("GET", "/v1/subscriptions/00000000-0000-4000-8000-000000000000".into(), None, all, "404"),
        ("GET", "/v1/subscriptions/x".into(), None, all, "400"),
        ("POST", "/v1/updates/containers".into(), None, 0, "200"),
        ("POST", "/v1/updates/nowhere".into(), None, all, "400"),
        (
            "POST",
            "/v1/migrations".into(),
            Some("[\"CREATE TABLE containers (id TEXT NOT NULL PRIMARY KEY)\"]"),
            all,
            "200",
        ),
        ("POST", "/v1/migrations".into(), Some("[\"DROP TABLE containers\"]"), all, "400"),
        ("POST", "/v1/table_stats".into(), Some("{\"tables\":[\"containers\",\"zz\"],\"unknown\":1}"), all, "200"),
        ("GET", "/v1/health?gaps=1".into(), None, all, "200"),
        ("GET", "/v1/members".into(), None, all, "200"),
        ("GET", "/v1/members?watch=true".into(), None, 2, "200"),
        ("GET", "/v1/digest".into(), None, all, "200"),
        ("GET", "/live".into(), None, all, "200"),
        ("GET", "/ready".into(), None, all, "200"),
        ("GET", "/openapi.json".into(), None, all, "200"),
        ("GET", "/nowhere".into(), None, all, "404"),
    ];
    for (method, path, body, lines, status) in asked {
        let mut answers = Vec::new();
        for (version, way) in ways(&node, &lab) {
            answers.push(curl(&way, version, method, &path, body, lines).await);
        }
        assert!(answers[0].starts_with(status), "{method} {path} {body:?}: {}", answers[0]);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{method} {path} {body:?}: {answers:#?}");
    }
    assert_eq!(node.stop().await.code(), Some(0), "{}", node.log());
}
