//! The runner of nats-server, from outside: what it starts, what it says, how it ends.

use std::fs;
use std::time::{Duration, Instant};

use kith_tests::fetched::nats_server;
use kith_tests::lab::{Api, Dev, NatsServer, Run, Runner, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// For a busy machine; what is promised is said where it is measured.
const BOUND: Duration = Duration::from_secs(30);

/// Whether a process of this id runs.
fn runs(pid: &Value) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test]
async fn one_server_alone_is_started_answers_and_ends_with_the_runner() {
    let Some(server) = nats_server("one_server_alone") else { return };
    let mut runner = Runner::new(1, &server);
    let status = runner.start().await;
    assert_eq!(status["health"], "healthy", "{status}");
    assert!(status["id"].as_str().is_some_and(|id| id.starts_with("n1-")), "{status}");
    assert_eq!(status["ip"], json!(runner.address), "{status}");
    assert_eq!(status["ports"]["client"], 4222, "{status}");
    let varz = runner.monitor().get("/varz").await.expect("nats-server answers").json();
    assert_eq!(varz["server_name"], status["id"], "{varz}");
    for (path, code) in [("/healthz", 200), ("/readyz", 200), ("/flycheck/vm", 200), ("/metrics", 200), ("/no", 404)] {
        let reply = runner.health().get(path).await.expect("the runner answers");
        assert!(reply.status == code || (path == "/flycheck/vm" && reply.status == 500), "{path}: {reply:?}");
    }
    let said = Run::of(["nats", "status", "--health", &format!("{}:5500", runner.address)]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("phase     running\n"), "{}", said.stdout);

    assert_eq!(runner.stop(BOUND).await.code(), Some(0), "{}", runner.log());
    assert!(!runs(&status["pid"]), "nats-server has outlived its runner");
    let again = runner.start().await;
    assert_eq!(again["id"], status["id"], "its name is its disk's");
}

#[tokio::test]
async fn a_server_that_is_killed_is_back_in_service_within_2_s() {
    let Some(server) = nats_server("a_server_that_is_killed") else { return };
    let mut runner = Runner::new(1, &server);
    let before = runner.start().await;
    let begun = Instant::now();
    runner.signal_server(Signal::SIGKILL).await;
    let after = eventually("another nats-server answers", BOUND, async || {
        let status = runner.status().await?;
        let is_back = status["phase"] == "running" && status["pid"] != before["pid"];
        if is_back { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    let took = begun.elapsed();
    eprintln!("killed and back in service after {took:?} (promised: 2 s)");
    assert_eq!((&after["restarts"], &after["last_end"]), (&json!(1), &json!("SIGKILL")), "{after}");
}

#[tokio::test]
async fn nats_server_dies_with_a_runner_that_is_killed() {
    let Some(server) = nats_server("nats_server_dies_with_a_runner") else { return };
    let mut runner = Runner::new(1, &server);
    let status = runner.start().await;
    runner.kill();
    eventually(
        "nats-server is gone",
        BOUND,
        async || if runs(&status["pid"]) { Err("it runs".to_owned()) } else { Ok(()) },
    )
    .await;
    runner.start().await;
}

/// A runner of a script in the place of nats-server.
struct Scripted {
    runner: Runner,
    folder: tempfile::TempDir,
}

impl Scripted {
    fn new(text: &str) -> Scripted {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let runner = Runner::new(1, &Runner::script(folder.path(), text));
        Scripted { runner, folder }
    }

    /// What `kith nats` says when it does not start, with its exit code.
    async fn refused(mut self) -> (Option<i32>, String) {
        self.runner.launch();
        let code = self.runner.end(BOUND).await.code();
        drop(self.folder);
        (code, self.runner.log())
    }
}

/// The line of an error, and the one that says what to do.
fn said(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.starts_with("error: ") || line.starts_with("hint: ")).collect()
}

#[tokio::test]
async fn without_a_nats_server_or_with_an_old_one_it_says_so_and_what_to_do() {
    let mut none = Scripted::new("");
    none.runner.set("nats.bin=/nonexistent/nats-server");
    let (code, log) = none.refused().await;
    let lines = said(&log);
    assert_eq!((code, lines.len()), (Some(69), 2), "{log}");
    assert!(lines[0].starts_with("error: /nonexistent/nats-server cannot be run: No such file"), "{log}");
    assert!(lines[1].contains("scripts/setup"), "{log}");

    let old = Scripted::new("");
    let path = old.folder.path().join("nats-server");
    fs::write(&path, "#!/bin/sh\necho nats-server: v2.12.3\n").expect("it can be written");
    let (code, log) = old.refused().await;
    let lines = said(&log);
    assert_eq!((code, lines.len()), (Some(69), 2), "{log}");
    assert!(lines[0].ends_with("is 2.12.3, older than 2.14.0"), "{log}");
}

#[tokio::test]
async fn a_store_that_cannot_be_written_and_an_address_that_is_taken_are_one_line() {
    let mut read_only = Scripted::new("");
    read_only.runner.set("nats.store_dir=/proc/kith");
    let (code, log) = read_only.refused().await;
    assert_eq!((code, said(&log).len()), (Some(74), 2), "{log}");
    assert!(said(&log)[0].starts_with("error: the store's folder /proc/kith cannot be used: "), "{log}");

    let taken = Scripted::new("");
    let _held = std::net::TcpListener::bind((taken.runner.address, 5500)).expect("it is free");
    let (code, log) = taken.refused().await;
    assert_eq!((code, said(&log).len()), (Some(69), 2), "{log}");
    assert!(said(&log)[0].contains(":5500: Address already in use"), "{log}");
}

#[tokio::test]
async fn a_port_of_nats_server_that_is_taken_is_its_reason_and_it_is_back_when_it_is_free() {
    let Some(server) = nats_server("a_port_of_nats_server_that_is_taken") else { return };
    let mut runner = Runner::new(1, &server);
    let held = std::net::TcpListener::bind((runner.address, 4222)).expect("it is free");
    runner.launch();
    let status = eventually("nats-server says why it ends", BOUND, async || {
        let status = runner.status().await?;
        if status["restarts"].as_u64() >= Some(2) { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    let reason = status["last_end"].as_str().unwrap_or_default();
    assert!(reason.contains("address already in use"), "{status}");
    assert_eq!(status["health"], "unhealthy", "{status}");
    drop(held);
    runner.phase("running").await;
}

#[tokio::test]
async fn one_that_ends_at_once_is_said_to_loop_and_is_left_alone_more_and_more() {
    let mut scripted = Scripted::new("echo '[1] 2026/11/27 14:33:32.1 [FTL] no luck today'; exit 1");
    scripted.runner.launch();
    let status = scripted.runner.phase("crash_looping").await;
    assert_eq!(status["reason"], "exit code 1: no luck today", "{status}");
    let restarts = status["restarts"].as_u64().expect("a number");
    assert_eq!(restarts, 8, "{status}");
    let figures = scripted.runner.health().get("/metrics").await.expect("it answers").body;
    assert!(figures.contains("kith_nats_crash_looping 1\n"), "{figures}");
    assert_eq!(scripted.runner.stop(BOUND).await.code(), Some(0), "it ends though nothing runs");
}

#[tokio::test]
async fn one_that_floods_and_ignores_signals_is_killed_by_a_second_word() {
    let text =
        "trap '' TERM USR2; head -c 10485760 /dev/zero | tr '\\0' x; echo; echo after; while :; do sleep 1000; done";
    let mut scripted = Scripted::new(text);
    scripted.runner.launch();
    eventually("what follows a line of 10 MB is read", BOUND, async || {
        if scripted.runner.log().contains("text=\"after\"") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let resident = resident(scripted.runner.id());
    eprintln!("after a line of 10 MB the runner has {resident} KiB");
    assert!(scripted.runner.log().contains("more=10481664"), "the line is told in part");
    let pid = scripted.runner.status().await.expect("it answers")["pid"].clone();
    let begun = Instant::now();
    scripted.runner.signal(Signal::SIGINT);
    scripted.runner.phase("ending").await;
    scripted.runner.signal(Signal::SIGINT);
    assert_eq!(scripted.runner.end(BOUND).await.code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    eventually("it is gone too", BOUND, async || if runs(&pid) { Err("it runs".to_owned()) } else { Ok(()) }).await;
}

/// KiB that a process holds.
fn resident(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("what it holds");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn what_the_ancestor_was_told_is_heard_and_what_it_answered_is_answered() {
    let Some(server) = nats_server("what_the_ancestor_was_told") else { return };
    let mut runner = Runner::new(1, &server);
    for (name, value) in [
        ("NATS_MAX_FILE_STORE", "64MB"),
        ("NATS_MAX_MEM_STORE", "32MB"),
        ("NATS_APPEND_CONFIG", "bWF4X3N1YnNjcmlwdGlvbnM6IDc3Cg=="),
    ] {
        runner.environment(name, value);
    }
    let status = runner.start().await;
    let varz = runner.monitor().get("/varz").await.expect("nats-server answers").json();
    let limits = &varz["jetstream"]["config"];
    assert_eq!((&limits["max_storage"], &limits["max_memory"]), (&json!(64 << 20), &json!(32 << 20)), "{varz}");
    assert_eq!(varz["max_subscriptions"], 77, "{varz}");
    assert_eq!(status["ports"], json!({ "client": 4222, "route": 6222, "gateway": 7222, "leaf": 7422 }));

    let reply = runner.health().get("/flycheck/vm").await.expect("the runner answers");
    let text: String = serde_json::from_str(&reply.body).expect("a JSON text");
    let lines: Vec<(bool, &str)> = text.lines().map(inherited).collect();
    let names: Vec<&str> = lines.iter().map(|(_, name)| *name).collect();
    assert_eq!(names, ["checkDisk", "checkLoad", "memory", "cpu", "io"], "{text}");
    assert_eq!(reply.status == 200, lines.iter().all(|(ok, _)| *ok), "{reply:?}");
}

/// A line as the ancestor's consumers take it apart: `[✓] name: message (duration)`.
fn inherited(line: &str) -> (bool, &str) {
    let (mark, rest) = line.split_once("] ").expect("a mark");
    let (name, rest) = rest.split_once(": ").expect("a name");
    let (message, took) = rest.rsplit_once(" (").expect("a duration");
    let units = took.trim_end_matches(')').trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    assert!(!message.is_empty() && ["ns", "µs", "ms", "s"].contains(&units), "{line}");
    (mark == "[✓", name)
}

#[tokio::test]
async fn three_servers_of_a_dev_cluster_find_each_other_by_its_dns() {
    let Some(server) = nats_server("three_servers_of_a_dev_cluster") else { return };
    let mut dev = Dev::nats(&server).await;
    let begun = Instant::now();
    for last in 11..14_u8 {
        let at = |port: u16| Api::new(([127, 0, 0, last], port).into());
        eventually(&format!("the server at 127.0.0.{last} is one of three"), BOUND, async || {
            let meta = at(8222).get("/jsz").await?.json()["meta_cluster"].clone();
            let is_whole = meta["cluster_size"] == 3 && meta["leader"].as_str().is_some_and(|name| !name.is_empty());
            let status = at(5500).get("/status").await?.json();
            if is_whole && status["phase"] == "running" { Ok(()) } else { Err(format!("{meta} {status}")) }
        })
        .await;
    }
    eprintln!("three servers of a dev cluster are one JetStream {:?} after it was ready", begun.elapsed());
    let rows = dev.api().query("SELECT id, health_status FROM nats_servers ORDER BY id").await.expect("rows");
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert_eq!(dev.stop().await.code(), Some(0), "{}", dev.log());
}

#[tokio::test]
async fn a_server_that_somebody_else_runs_is_shown_and_entered_and_left_alone() {
    let Some(server) = nats_server("a_server_that_somebody_else_runs") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut other = NatsServer::new(&server, folder.path(), 0);
    let mut runner = Runner::new(1, std::path::Path::new("/nonexistent"));
    runner.set(&format!("nats.url=nats://{}:4222", other.address()));
    runner.launch();
    let status = runner.phase("unwell").await;
    assert_eq!((&status["health"], &status["id"]), (&json!("unhealthy"), &json!("n1")), "{status}");
    assert!(status["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{status}");
    other.start("");
    let status = runner.phase("running").await;
    assert_eq!((&status["health"], &status["version"]), (&json!("healthy"), &json!("2.15.1")), "{status}");
    assert_eq!(status["ip"], json!(runner.address), "DNS says where the configuration does: {status}");
    for (path, code) in [("/healthz", 200), ("/readyz", 200), ("/checks", 200), ("/metrics", 200)] {
        assert_eq!(runner.health().get(path).await.expect("the runner answers").status, code, "{path}");
    }
    other.kill();
    let status = runner.phase("unwell").await;
    assert_eq!(status["reason"], "the connection to it is lost", "{status}");
    other.start("");
    runner.phase("running").await;
    assert_eq!(runner.stop(BOUND).await.code(), Some(0), "{}", runner.log());
    assert_eq!(other.monitor("/varz").await["version"], "2.15.1", "it goes on");
    assert!(!runner.store().exists(), "nothing was made for it");
}

#[tokio::test]
async fn a_server_that_somebody_else_runs_is_signed_on_at_by_what_the_file_of_credentials_holds_then() {
    let Some(server) = nats_server("a_server_that_somebody_else_runs_is_signed_on_at") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let credentials = folder.path().join("credentials");
    let signed_on_by = |password: &str| {
        fs::write(&credentials, format!("kith:{password}")).expect("room");
        format!("authorization {{ user: kith, password: {password} }}")
    };
    let mut other = NatsServer::new(&server, folder.path(), 0);
    let mut runner = Runner::new(1, std::path::Path::new("/nonexistent"));
    runner.set(&format!("nats.url=nats://{}:4222", other.address()));
    runner.set(&format!("nats.credentials={}", credentials.display()));
    other.start(&signed_on_by("one"));
    runner.launch();
    runner.phase("running").await;
    other.kill();
    runner.phase("unwell").await;
    other.start(&signed_on_by("two"));
    runner.phase("running").await;
    assert_eq!(runner.stop(BOUND).await.code(), Some(0), "{}", runner.log());
}
