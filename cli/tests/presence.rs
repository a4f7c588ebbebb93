//! `kith presence` on a real nats-server, and what people do with it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// For processes to start.
const BOUND: Duration = Duration::from_secs(30);
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Ended with its value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn kith(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KITH_")) {
        command.env_remove(name);
    }
    command.args(words).stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> (Option<i32>, String, String) {
    let output = kith(words).output().expect("kith runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port")
}

fn nats_server() -> Option<PathBuf> {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let binary = cache.join("kith/bin/nats-server");
    if !binary.exists() {
        kith_skip("people_say_see_and_follow_who_is_here", "no nats-server: run scripts/setup test");
        return None;
    }
    Some(binary)
}

fn kith_skip(test: &str, reason: &str) {
    if let Some(path) = std::env::var_os("KITH_SKIPPED") {
        use std::io::Write;
        let mut file = fs::File::options().create(true).append(true).open(path).expect("KITH_SKIPPED names a file");
        writeln!(file, "{test}: {reason}").expect("the line is written");
    }
}

#[test]
fn people_say_see_and_follow_who_is_here() {
    let Some(nats_server) = nats_server() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secret = folder.path().join("secret");
    fs::write(&secret, SECRET).expect("it can be written");
    let (nats, http) = (free(), free());
    let mut server = Command::new(nats_server);
    server.args(["-a", "127.0.0.1", "-js", "-p", &nats.port().to_string(), "-sd"]).arg(folder.path().join("nats"));
    let _nats = Process(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nats-server starts"));
    // What an ancestor's file says, and what it cannot say.
    let legacy = folder.path().join("ancestor.yaml");
    let text =
        format!("service:\n  node_type: center\n  port: 1\nauth:\n  jwt_secret: \"{SECRET}\"\ncache:\n  max_cost: 1\n");
    fs::write(&legacy, text).expect("it can be written");
    let mut presence = kith(&["presence", "--legacy-config"]);
    presence.arg(&legacy).args([
        "--set",
        &format!("presence.url=nats://{nats}"),
        "--set",
        &format!("presence.listen={http}"),
    ]);
    presence.args(["--set", "node.name=n1", "--set", "presence.domain=none"]);
    let log = fs::File::create(folder.path().join("log")).expect("it can be made");
    let _presence = Process(presence.stderr(log).spawn().expect("kith can be started"));

    let (at, secret) = (format!("http://{http}"), secret.to_string_lossy().into_owned());
    let until = Instant::now() + BOUND;
    let set = ["presence", "set", "ann", "busy", "--message", "at lunch", "--secret-file", &secret, "--at", &at];
    loop {
        let (code, out, err) = run(&set);
        if code == Some(0) {
            assert!(out.contains("ann") && out.contains("busy"), "{out}");
            break;
        }
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        assert!(Instant::now() < until, "{err}{log}");
    }
    let log = fs::read_to_string(folder.path().join("log")).expect("a log");
    assert!(log.contains("service.node_type is [presence] role = \"center\""), "{log}");

    let (_, got, _) = run(&["presence", "get", "ann", "bob", "--json", "--at", &at]);
    let got: Vec<Value> = got.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&got[0]["status"], &got[0]["message"]), (&"busy".into(), &"at lunch".into()));
    assert_eq!(got[1]["status"], "offline");
    let (_, who, _) = run(&["presence", "who", "--at", &at]);
    assert!(who.starts_with("USER  STATUS  MESSAGE   NODE  LAST SEEN\nann   busy    at lunch  n1    "), "{who}");

    let mut watch = kith(&["presence", "watch", "ann", "--json", "--at", &at]);
    let mut watch = Process(watch.stdout(Stdio::piped()).spawn().expect("kith can be started"));
    let mut lines = BufReader::new(watch.0.stdout.take().expect("it is piped")).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    assert_eq!(next()["status"], "busy");
    assert_eq!(run(&["presence", "set", "ann", "offline", "--secret-file", &secret, "--at", &at]).0, Some(0));
    assert_eq!(next()["status"], "offline", "what the snapshot shows is not told again");

    let (code, _, err) = run(&["presence", "set", "ann", "asleep", "--secret-file", &secret, "--at", &at]);
    assert_eq!(code, Some(1));
    assert!(err.contains("the status must be online, busy, away or offline (400)"), "{err}");
    let (code, _, err) = run(&["presence", "set", "ann", "busy", "--at", &at]);
    assert!(code == Some(1) && err.contains("hint: name a file with a token"), "{err}");
    let (code, _, _) = run(&["presence", "get", "ann", "--at", &format!("http://{}", free())]);
    assert_eq!(code, Some(3));
}
