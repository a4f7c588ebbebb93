//! What goes wrong under a runner of nats-server, and beside it: its store, its disk, its processes, a copy of itself.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use kith_tests::fetched::nats_server;
use kith_tests::lab::{Disk, Maker, NameServer, Run, Runner, eventually, nats_address};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// For a busy machine; what is promised is said where it is measured.
const BOUND: Duration = Duration::from_secs(30);
/// For what waits half a minute itself.
const LONG: Duration = Duration::from_secs(120);
/// A nats-server that does nothing, and ends as soon as it is told to.
const IDLE: &str = "exec sleep 1000";

/// A runner of a script in the place of nats-server. The folder has the script.
fn scripted(text: &str) -> (Runner, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    (Runner::new(1, &Runner::script(folder.path(), text)), folder)
}

/// What it says of itself, once it says this.
async fn said(runner: &Runner, what: &str, within: Duration, so: impl Fn(&Value) -> bool) -> Value {
    eventually(what, within, async || {
        let status = runner.status().await?;
        if so(&status) { Ok(status) } else { Err(status.to_string()) }
    })
    .await
}

/// Whether a process of this id runs.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

async fn gone(pid: &str) {
    eventually("it is gone", BOUND, async || if runs(pid) { Err(format!("{pid} runs")) } else { Ok(()) }).await;
}

/// The text of a file, once it has a whole line.
async fn line(path: &Path) -> String {
    eventually("a line is written", BOUND, async || {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        if text.ends_with('\n') { Ok(text.trim().to_owned()) } else { Err(text) }
    })
    .await
}

/// What `kith nats` says when it does not start: its code, and its error and hint.
async fn refused(runner: &mut Runner) -> (Option<i32>, Vec<String>) {
    let before = runner.log().len();
    runner.launch();
    let code = runner.end(BOUND).await.code();
    let log = runner.log().split_off(before);
    let lines = log.lines().filter(|line| line.starts_with("error: ") || line.starts_with("hint: "));
    (code, lines.map(str::to_owned).collect())
}

#[tokio::test]
async fn a_second_runner_of_a_store_is_refused_and_the_first_is_named() {
    let (mut first, _folder) = scripted(IDLE);
    first.launch();
    said(&first, "the first runs", BOUND, |status| status["pid"].is_number()).await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut second = Runner::new(2, &Runner::script(folder.path(), IDLE));
    second.set(&format!("nats.store_dir={}", first.store().display()));
    let (code, lines) = refused(&mut second).await;
    assert_eq!((code, lines.len()), (Some(69), 2), "{lines:?}");
    let expected = format!("error: the store {} is another runner's, process {}", first.store().display(), first.id());
    assert_eq!(lines[0], expected);
    assert!(lines[1].contains("nats.store_dir"), "{lines:?}");
    first.kill();
    second.launch();
    said(&second, "the second runs once the first is gone", BOUND, |status| status["pid"].is_number()).await;
}

/// A process beside nats-server: a script.
fn beside(runner: &mut Runner, text: &str) {
    runner.set(&format!("nats.process=beside={}", json!(["/bin/sh", "-c", text])));
}

#[tokio::test]
async fn a_process_beside_it_is_started_again_and_says_why_it_ended() {
    let (mut runner, folder) = scripted(IDLE);
    let lives = folder.path().join("lives");
    let text = format!(
        "head -c 10485760 /dev/zero | tr '\\0' x; echo; echo after\nif [ -e {0} ]; then exec sleep 1000; fi\necho no luck today; exit 3",
        lives.display()
    );
    beside(&mut runner, &text);
    runner.launch();
    let ended = |status: &Value| status["processes"][0]["last_end"] == "exit code 3: no luck today";
    let status = said(&runner, "its end is told", BOUND, ended).await;
    assert_eq!(status["processes"][0]["name"], "beside", "{status}");
    fs::write(&lives, "").expect("room");
    let stays = |status: &Value| status["processes"][0]["phase"] == "running";
    let status = said(&runner, "it runs again", BOUND, stays).await;
    assert!(status["processes"][0]["restarts"].as_u64() >= Some(1), "{status}");
    assert_eq!(status["restarts"], 0, "nats-server has nothing to do with it: {status}");
    eventually("its line of 10 MB is told in part, and what follows", BOUND, async || {
        let log = runner.log();
        let told = |text: &str| log.lines().any(|line| line.contains("process=\"beside\"") && line.contains(text));
        if told("more=10481664") && told("text=\"after\"") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    assert_eq!(runner.stop(BOUND).await.code(), Some(0), "{}", runner.log());
}

#[tokio::test]
async fn what_a_process_has_started_is_ended_with_it_and_after_a_kill_by_the_next_runner() {
    let (mut runner, folder) = scripted(IDLE);
    let (near, far) = (folder.path().join("near"), folder.path().join("far"));
    // One in its group, and one that has left it, as a daemon does.
    let text = format!(
        "sleep 1000 & echo $! > {}\nsetsid sh -c 'echo $$ > {}; exec sleep 1000' &\nwait",
        near.display(),
        far.display()
    );
    beside(&mut runner, &text);
    runner.launch();
    let left = [line(&near).await, line(&far).await];
    runner.kill();
    eventually("nobody answers", BOUND, async || match runner.status().await {
        Ok(status) => Err(status.to_string()),
        Err(_) => Ok(()),
    })
    .await;
    assert!(left.iter().all(|pid| runs(pid)), "the kernel ends the runner's own children alone");
    for file in [&near, &far] {
        fs::remove_file(file).expect("it is there");
    }
    runner.launch();
    for pid in &left {
        gone(pid).await;
    }
    let again = [line(&near).await, line(&far).await];
    assert!(runner.log().contains("left behind, and ended"), "{}", runner.log());
    assert_eq!(runner.stop(BOUND).await.code(), Some(0), "{}", runner.log());
    assert!(!again.iter().any(|pid| runs(pid)), "they outlive a runner that ends in good order");
}

#[tokio::test]
async fn a_nats_server_that_hangs_is_unhealthy_then_killed_and_started_again() {
    let Some(server) = nats_server("a_nats_server_that_hangs") else { return };
    let mut runner = Runner::new(1, &server);
    let before = runner.start().await;
    let begun = Instant::now();
    runner.signal_server(Signal::SIGSTOP).await;
    let status = runner.phase("unwell").await;
    eprintln!("stopped, and said to be unwell after {:?}", begun.elapsed());
    assert_eq!(status["health"], "unhealthy", "{status}");
    assert!(status["reason"].as_str().is_some_and(|reason| reason.contains("does not answer")), "{status}");
    let health = runner.health().get("/healthz").await.expect("the runner answers");
    assert_eq!(health.status, 503, "{health:?}");
    let after = said(&runner, "another one runs", LONG, |status| {
        status["phase"] == "running" && status["pid"] != before["pid"]
    })
    .await;
    eprintln!("stopped, and back in service after {:?}", begun.elapsed());
    let told = (&after["restarts"], &after["last_end"]);
    assert_eq!(told, (&json!(1), &json!("SIGKILL: it ran and did not answer")), "{after}");
}

#[tokio::test]
async fn a_reload_that_a_crash_overtakes_is_no_refusal() {
    let (mut runner, folder) = scripted("trap 'exit 3' HUP; while :; do sleep 0.1; done");
    let accounts = folder.path().join("accounts.conf");
    fs::write(&accounts, "A {}\n").expect("room");
    runner.set(&format!("nats.accounts={}", accounts.display()));
    runner.launch();
    said(&runner, "it runs", BOUND, |status| status["pid"].is_number()).await;
    fs::write(&accounts, "A {}\nB {}\n").expect("room");
    said(&runner, "it ends of the reload", BOUND, |status| status["restarts"] == 1).await;
    // The next one answers nobody, and is ended for that after 30 s: an answer to a reload is waited for for 10 s.
    said(&runner, "the next one is said to hang", LONG, |status| {
        status["last_end"] == "SIGKILL: it ran and did not answer"
    })
    .await;
    assert!(!runner.log().contains("refuses the changed configuration"), "{}", runner.log());
}

#[tokio::test]
async fn a_change_that_nats_server_takes_is_known_to_be_taken() {
    let Some(binary) = nats_server("a_change_that_nats_server_takes") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let accounts = folder.path().join("accounts.conf");
    fs::write(&accounts, "A {}\n").expect("room");
    let mut runner = Runner::new(1, &binary);
    runner.set(&format!("nats.accounts={}", accounts.display()));
    runner.start().await;
    fs::write(&accounts, "A {}\nLATER {}\n").expect("room");
    eventually("nats-server has the account", BOUND, async || {
        let known = runner.monitor().get("/accountz").await?.json();
        if known.to_string().contains("LATER") { Ok(()) } else { Err(known.to_string()) }
    })
    .await;
    let status = said(&runner, "nothing is due", BOUND, |status| status["following"]["due"].is_null()).await;
    assert_eq!(status["following"]["refused"], Value::Null, "{status}");
    let file = fs::read_to_string(runner.store().join("kith/nats.conf")).expect("it runs with it");
    assert!(file.contains("LATER"), "{file}");
    assert!(!runner.log().contains("refuses the changed configuration"), "{}", runner.log());
}

#[tokio::test]
async fn accounts_of_more_than_a_megabyte_are_refused_and_not_cut() {
    let (mut runner, folder) = scripted(IDLE);
    let accounts = folder.path().join("accounts.conf");
    fs::write(&accounts, "A {}\n".repeat(300_000)).expect("room");
    runner.set(&format!("nats.accounts={}", accounts.display()));
    runner.launch();
    let status = said(&runner, "it is refused", BOUND, |status| status["following"]["refused"].is_string()).await;
    let expected = format!("{}: more than 1048576 bytes", accounts.display());
    assert_eq!(status["following"]["refused"], expected, "{status}");
    assert_eq!(status["pid"], Value::Null, "it does not start with half of them: {status}");
}

#[tokio::test]
async fn a_store_on_a_full_or_read_only_disk_is_one_line_and_the_server_starts_once_it_is_well() {
    let Some(disk) = Disk::make("a_store_on_a_full_or_read_only_disk", 48) else { return };
    let (mut runner, _folder) = scripted(IDLE);
    runner.set(&format!("nats.store_dir={}", disk.path().join("store").display()));
    runner.launch();
    let id = said(&runner, "it runs", BOUND, |status| status["pid"].is_number()).await["id"].clone();
    assert_eq!(runner.stop(BOUND).await.code(), Some(0), "{}", runner.log());

    disk.fill();
    let (code, lines) = refused(&mut runner).await;
    assert_eq!((code, lines.len()), (Some(74), 2), "{lines:?}");
    assert!(lines[0].contains("cannot be used: No space left on device"), "{lines:?}");
    disk.unfill();
    disk.read_only();
    let (code, lines) = refused(&mut runner).await;
    assert_eq!((code, lines.len()), (Some(74), 2), "{lines:?}");
    assert!(lines[0].contains("cannot be used: Read-only file system"), "{lines:?}");
    disk.restore();
    runner.launch();
    let again = said(&runner, "it runs again", BOUND, |status| status["pid"].is_number()).await;
    assert_eq!(again["id"], id, "its name is its disk's");
}

/// Writes a message into a stream of so many replicas, and has it acknowledged.
async fn write(runner: &Runner, replicas: usize) -> Result<(), String> {
    let client = async_nats::connect(format!("nats://{}:4222", runner.address)).await.map_err(|e| e.to_string())?;
    let context = jetstream::new(client);
    let config = stream::Config {
        name: "kept".to_owned(),
        subjects: vec!["kept.>".to_owned()],
        num_replicas: replicas,
        ..stream::Config::default()
    };
    context.get_or_create_stream(config).await.map_err(|e| e.to_string())?;
    let sent = context.publish("kept.x", vec![b'x'; 10_000].into()).await.map_err(|e| e.to_string())?;
    sent.await.map(drop).map_err(|e| e.to_string())
}

#[tokio::test]
async fn a_stream_that_a_full_disk_has_stopped_is_written_again_when_there_is_room() {
    let Some(server) = nats_server("a_stream_that_a_full_disk_has_stopped") else { return };
    let Some(disk) = Disk::make("a_stream_that_a_full_disk_has_stopped", 64) else { return };
    let mut runner = Runner::new(1, &server);
    runner.set(&format!("nats.store_dir={}", disk.path().join("store").display()));
    runner.set("nats.max_file_store=100MB");
    runner.start().await;
    write(&runner, 1).await.expect("there is room");
    disk.fill();
    write(&runner, 1).await.expect_err("there is none");
    let status = said(&runner, "it is said", LONG, |status| status["reason"].is_string()).await;
    assert_eq!((&status["phase"], &status["health"]), (&json!("running"), &json!("healthy")), "{status}");
    assert!(status["reason"].as_str().is_some_and(|why| why.contains("has given up writing streams")), "{status}");
    assert_eq!(status["restarts"], 0, "while the disk is full nothing would be gained: {status}");
    disk.unfill();
    said(&runner, "it is started again", LONG, |status| status["restarts"] == 1 && status["phase"] == "running").await;
    eventually("the stream is written again", BOUND, async || write(&runner, 1).await).await;
    said(&runner, "nothing is wrong any more", LONG, |status| status["reason"].is_null()).await;
}

/// Whether JetStream of this server is there, and has a leader.
async fn leads(runner: &Runner) -> Result<(), String> {
    let jsz = runner.monitor().get("/jsz").await?.json();
    let leader = jsz["meta_cluster"]["leader"].as_str().is_some_and(|name| !name.is_empty());
    if leader && jsz["disabled"] != true { Ok(()) } else { Err(jsz.to_string()) }
}

/// How many replicas the bucket of turns has.
async fn replicas(runner: &Runner) -> Result<usize, String> {
    let client = async_nats::connect(format!("nats://{}:4222", runner.address)).await.map_err(|e| e.to_string())?;
    let stream = jetstream::new(client).get_stream("KV_kith-nats").await.map_err(|e| e.to_string())?;
    Ok(stream.cached_info().config.num_replicas)
}

#[tokio::test]
async fn a_member_whose_jetstream_a_full_disk_has_ended_is_restarted_in_its_turn() {
    let test = "a_member_whose_jetstream_a_full_disk_has_ended";
    let Some(server) = nats_server(test) else { return };
    let Some(mut dns) = NameServer::new(test, Maker::Knot, nats_address(7)) else { return };
    let Some(disk) = Disk::make(test, 64) else { return };
    let mut runners = [1, 2, 3].map(|number| Runner::new(number, &server));
    let mut names = vec!["regions.nats TXT \"ams\"".to_owned()];
    for runner in &mut runners {
        names.extend(["center.process.nats", "ams.nats"].map(|name| format!("{name} A {}", runner.address)));
        for set in ["nats.servers=3", "node.region=ams", "nats.max_file_store=100MB"] {
            runner.set(set);
        }
        runner.set(&format!("nats.resolvers={}", dns.address()));
    }
    runners[2].set(&format!("nats.store_dir={}", disk.path().join("store").display()));
    dns.serve(&names).await;
    runners.iter_mut().for_each(Runner::launch);
    for runner in &runners {
        eventually("the group has a leader", LONG, async || leads(runner).await).await;
    }
    eventually("there is a stream", BOUND, async || write(&runners[0], 3).await).await;

    disk.fill();
    let third = &runners[2];
    eventually("JetStream of the third gives up", LONG, async || {
        let written = write(&runners[0], 3).await;
        let jsz = third.monitor().get("/jsz").await?.json();
        if jsz["disabled"] == true { Ok(()) } else { Err(format!("{written:?} {jsz}")) }
    })
    .await;
    let status = said(third, "it is said", LONG, |status| status["reason"].is_string()).await;
    assert!(status["reason"].as_str().is_some_and(|why| why.contains("JetStream not enabled")), "{status}");
    assert_eq!((&status["health"], &status["restarts"]), (&json!("healthy"), &json!(0)), "{status}");

    disk.unfill();
    said(third, "it is started again", LONG, |status| status["restarts"] == 1 && status["phase"] == "running").await;
    assert!(third.log().contains("it is this server's turn to restart"), "{}", third.log());
    eventually("it belongs to the group again", LONG, async || leads(third).await).await;
    // The bucket of turns was made while there were two; whoever takes the next turn gives it the third.
    assert_eq!(replicas(&runners[0]).await, Ok(1));
    let store = format!("nats.store_dir={}", disk.path().join("store").display());
    let asked = Run::of(["nats", "restart", "--set", &store]).await;
    assert_eq!(asked.code, Some(0), "{asked:?}");
    said(third, "it has restarted once more", LONG, |status| status["restarts"] == 2 && status["phase"] == "running")
        .await;
    eventually("the bucket of turns has three replicas", LONG, async || match replicas(&runners[0]).await? {
        3 => Ok(()),
        fewer => Err(fewer.to_string()),
    })
    .await;
    for other in &runners[..2] {
        let status = other.status().await.expect("it answers");
        assert_eq!(status["restarts"], 0, "{status}");
    }
}

#[tokio::test]
async fn two_hosts_with_a_copy_of_one_store_say_so() {
    let test = "two_hosts_with_a_copy_of_one_store_say_so";
    let Some(server) = nats_server(test) else { return };
    let Some(mut dns) = NameServer::new(test, Maker::Knot, nats_address(6)) else { return };
    let mut runners = [1, 2].map(|number| Runner::new(number, &server));
    let mut names = vec!["regions.nats TXT \"ams\"".to_owned()];
    for runner in &mut runners {
        names.extend(["center.process.nats", "ams.nats"].map(|name| format!("{name} A {}", runner.address)));
        runner.set(&format!("nats.resolvers={}", dns.address()));
        runner.set("nats.servers=3");
        runner.set("node.region=ams");
    }
    dns.serve(&names).await;
    runners[0].launch();
    let id = said(&runners[0], "the first has a name", BOUND, |status| status["id"].is_string()).await["id"].clone();
    let copy = runners[1].store().join("kith");
    fs::create_dir_all(&copy).expect("room");
    fs::copy(runners[0].store().join("kith/identity.json"), copy.join("identity.json")).expect("a copy");
    runners[1].launch();
    for runner in &runners {
        let status = said(runner, "it is said", LONG, |status| status["namesake"] == true).await;
        assert_eq!(status["id"], id, "{status}");
        let reason = status["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("two hosts have a copy of one store"), "{status}");
        let checks = runner.health().get("/checks").await.expect("the runner answers").json();
        let name = checks.as_array().and_then(|all| all.iter().find(|check| check["name"] == "name"));
        assert_eq!(name.expect("it is checked")["ok"], false, "{checks}");
        let errors = runner.log().lines().filter(|line| line.contains("another server of its name")).count();
        assert_eq!(errors, 1, "{}", runner.log());
    }
}
