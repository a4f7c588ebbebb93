//! What each side shows, second by second, printed: nodes killed and back, a leaf cut off and back, a clock a day ahead, and
//! a center replaced by an empty one.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use kith_presence::{Nats, Role, Server, Writes};
use tokio::time::Instant;

use super::servers::{NatsServer, binary};
use super::wire::{Running, ask, config, put, token, token_until, until};
use super::{Cluster, NAMES};

/// What a node shows of a user: `o`nline, `b`usy, `a`way, `-` offline; in capitals while stale; `.` if it does not answer.
async fn letter(addr: Option<SocketAddr>, user: &str) -> char {
    let Some(addr) = addr else { return '.' };
    let answer = ask(addr, "GET", &format!("/api/v2/presence/{user}"), None, "").await;
    if answer.status != 200 {
        return '.';
    }
    let json = answer.json();
    let record = &json["data"][user];
    let letter = match record["status"].as_str() {
        Some("offline") => '-',
        status => status.and_then(|status| status.chars().next()).unwrap_or('?'),
    };
    if record["stale"] == true { letter.to_ascii_uppercase() } else { letter }
}

/// What was shown, by node and user: a letter for each second.
#[derive(Default)]
struct Seconds(BTreeMap<(&'static str, &'static str), String>);

impl Seconds {
    /// Looks once a second at what each node shows of each user. `beats` are sent before each look.
    async fn watch(
        &mut self,
        nodes: &[(&'static str, Option<SocketAddr>)],
        users: &[&'static str],
        seconds: usize,
        beats: &[(SocketAddr, &str)],
    ) {
        let mut second = tokio::time::interval_at(Instant::now() + Duration::from_secs(1), Duration::from_secs(1));
        let mut looked = Instant::now();
        for _ in 0..seconds {
            second.tick().await;
            for (addr, user) in beats {
                let body = format!(r#"{{"sessions":[{{"user_id":"{user}"}}]}}"#);
                let token = token("tests", Writes::Any);
                let beat = ask(*addr, "POST", "/api/v2/presence/heartbeat", Some(&token), &body).await;
                let extended = beat.json()["data"]["extended"] == 1;
                if !extended {
                    self.print("so far");
                }
                assert!(extended, "{user} at {addr}, {:?} after the look before: {beat:?}", looked.elapsed());
            }
            for (name, addr) in nodes {
                for user in users {
                    self.0.entry((name, user)).or_default().push(letter(*addr, user).await);
                }
            }
            looked = Instant::now();
        }
    }

    fn of(&self, node: &'static str, user: &'static str) -> &str {
        &self.0[&(node, user)]
    }

    /// For people, and for the record.
    fn print(&self, what: &str) {
        eprintln!("{what}: o online, b busy, a away, - offline, capitals stale, . no answer; a letter a second");
        for ((node, user), shown) in &self.0 {
            eprintln!("  {node:>7} {user:<5} {shown}");
        }
    }
}

/// Runs of letters, without their lengths.
fn runs(shown: &str) -> String {
    let mut runs: Vec<char> = shown.chars().collect();
    runs.dedup();
    runs.into_iter().collect()
}

fn count(shown: &str, letter: char) -> usize {
    shown.matches(letter).count()
}

fn all(cluster: &Cluster) -> Vec<(&'static str, Option<SocketAddr>)> {
    (0..3).map(|at| (NAMES[at], cluster.nodes[at].as_ref().map(|node| node.addr))).collect()
}

#[tokio::test]
async fn a_node_that_is_killed_is_stale_then_offline_and_back_without_a_flap() {
    let test = "a_node_that_is_killed_is_stale_then_offline_and_back_without_a_flap";
    let Some(mut cluster) = Cluster::start(test).await else { return };
    put(cluster.addr(1), "ann", r#"{"status":"online","ttl":60}"#).await;
    cluster.all_show("ann", "online").await;
    for (away, back) in [(15, "oOo"), (40, "oO-o")] {
        let mut shown = Seconds::default();
        shown.watch(&all(&cluster), &["ann"], 2, &[(cluster.addr(1), "ann")]).await;
        cluster.nodes[1].take().unwrap().kill();
        shown.watch(&all(&cluster), &["ann"], away, &[]).await;
        cluster.begin(1).await;
        shown.watch(&all(&cluster), &["ann"], 6, &[(cluster.addr(1), "ann")]).await;
        shown.print(&format!("a node killed and started again after {away} s"));
        for other in ["center", "two"] {
            assert_eq!(runs(shown.of(other, "ann")), back, "{other}");
        }
        assert_eq!(runs(shown.of("one", "ann")), "o.o", "what it restored lives for another ttl");
        // From 3 s to 30 s by the node's clock; the looks of a machine that is busy come late.
        let stale = count(shown.of("two", "ann"), 'O');
        assert!(away < 30 || (20..=34).contains(&stale), "stale for {stale} s");
    }
}

#[tokio::test]
async fn a_leaf_that_is_cut_off_for_longer_than_the_ttl_keeps_its_own_and_nobody_who_went_comes_back() {
    let test = "a_leaf_that_is_cut_off_for_longer_than_the_ttl_keeps_its_own_and_nobody_who_went_comes_back";
    let Some(mut cluster) = Cluster::start_cuttable(test).await else { return };
    // Of the leaf's users only ann goes on sending heartbeats; carol is here on the other leaf.
    for (leaf, user, ttl) in [(1, "ann", 20), (1, "bob", 10), (2, "carol", 20)] {
        put(cluster.addr(leaf), user, &format!(r#"{{"status":"online","ttl":{ttl}}}"#)).await;
        cluster.all_show(user, "online").await;
    }
    let beats = [(cluster.addr(1), "ann"), (cluster.addr(2), "carol")];
    let (nodes, users) = (all(&cluster), ["ann", "bob", "carol"]);
    let mut shown = Seconds::default();
    shown.watch(&nodes, &users, 2, &beats).await;
    cluster.cut();
    shown.watch(&nodes, &users, 40, &beats).await;
    cluster.mend().await;
    shown.watch(&nodes, &users, 8, &beats).await;
    shown.print("a leaf cut off for 40 s, with ttls of 10 s (bob) and 20 s");
    assert_eq!(runs(shown.of("one", "ann")), "o", "on its own side she never went");
    assert_eq!(runs(shown.of("one", "bob")), "o-");
    assert_eq!(runs(shown.of("one", "carol")), "oO-o");
    for other in ["center", "two"] {
        assert_eq!(runs(shown.of(other, "ann")), "oO-o", "{other}");
        assert_eq!(runs(shown.of(other, "bob")), "oO-", "{other}");
        assert_eq!(runs(shown.of(other, "carol")), "o", "{other}");
    }
}

/// The center's server and node are lost with all they stored, while both leaves were written to and after: an empty center
/// is told everything, so that a node that hears nobody begins with it.
#[tokio::test]
async fn all_that_was_acknowledged_is_with_an_empty_center_that_replaces_the_lost_one() {
    let test = "all_that_was_acknowledged_is_with_an_empty_center_that_replaces_the_lost_one";
    let Some(mut cluster) = Cluster::start(test).await else { return };
    let mut written = Vec::new();
    let write = async |cluster: &Cluster, written: &mut Vec<(String, String)>, turn: usize| {
        for leaf in [1, 2] {
            for n in 0..25 {
                let (user, message) = (format!("{}-{turn}-{n}", NAMES[leaf]), format!("m{turn}"));
                let body = format!(r#"{{"status":"busy","message":"{message}","ttl":600}}"#);
                assert_eq!(put(cluster.addr(leaf), &user, &body).await.status, 200);
                written.push((user, message));
            }
        }
    };
    write(&cluster, &mut written, 0).await;
    cluster.nodes[0].take().unwrap().kill();
    cluster.servers[0].kill();
    write(&cluster, &mut written, 1).await;
    cluster.servers[0].empty();
    cluster.servers[0].up();
    cluster.begin(0).await;
    write(&cluster, &mut written, 2).await;
    for leaf in [1, 2] {
        let (path, body) = ("/api/v2/presence/last?durability=center", r#"{"status":"busy"}"#);
        let any = token("tests", Writes::Any);
        let addr = cluster.addr(leaf);
        until("the center keeps all", async || ask(addr, "PUT", path, Some(&any), body).await.status == 200).await;
    }
    for leaf in [1, 2] {
        cluster.nodes[leaf].take().unwrap().kill();
        cluster.servers[leaf].kill();
    }
    cluster.nodes[0].take().unwrap().kill();
    cluster.begin(0).await;
    let mut lost = Vec::new();
    for (user, message) in &written {
        let answer = ask(cluster.addr(0), "GET", &format!("/api/v2/presence/{user}"), None, "").await;
        let json = answer.json();
        let record = &json["data"][user];
        if (&record["status"], &record["message"]) != (&"busy".into(), &message.as_str().into()) {
            lost.push(format!("{user}: {record}"));
        }
    }
    eprintln!("{} acknowledged writes, {} of them not with the new center", written.len(), lost.len());
    assert_eq!(lost, Vec::<String>::new());
}

/// The library that shifts the clock of one process, where Debian puts it.
fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let libraries = folders.filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")));
    libraries.into_iter().find(|library| library.is_file())
}

/// A node in a process of its own, whose clock is a day ahead.
struct Ahead(Child);

impl Ahead {
    fn start(dir: &std::path::Path, server: &NatsServer, library: &std::path::Path) -> (Self, SocketAddr) {
        let Nats::Server(Server { url, .. }) = server.nats() else { unreachable!() };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "seconds::a_node_in_a_process_of_its_own", "--ignored", "--nocapture"]);
        command.env("KITH_TEST_URL", url).env("KITH_TEST_DIR", dir);
        command.env("LD_PRELOAD", library).env("FAKETIME", "+1d").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        let node = Self(child);
        let told = lines.map_while(Result::ok).find_map(|line| line.split_once("listens on ")?.1.parse().ok());
        (node, told.expect("it says where it listens"))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
#[ignore = "it is what another test runs as a process"]
async fn a_node_in_a_process_of_its_own() {
    let url = std::env::var("KITH_TEST_URL").expect("the other test says it");
    let dir = PathBuf::from(std::env::var_os("KITH_TEST_DIR").expect("the other test says it"));
    let server = Server { url, credentials: None, ca: None, role: Role::Leaf, domain: "center".to_owned() };
    let node = Running::start(config(&dir, "ahead", Nats::Server(server))).await;
    eprintln!("listens on {}", node.addr);
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_node_whose_clock_is_a_day_ahead_troubles_nobody() {
    let test = "a_node_whose_clock_is_a_day_ahead_troubles_nobody";
    let (Some(library), Some(_)) = (faketime(), binary(test)) else { return };
    let Some(cluster) = Cluster::start(test).await else { return };
    let dir = cluster.dir.path().join("node-ahead");
    std::fs::create_dir_all(&dir).unwrap();
    let (_ahead, ahead) = Ahead::start(&dir, &cluster.servers[1], &library);
    until("it answers", async || ask(ahead, "GET", "/health/readiness", None, "").await.status == 200).await;
    let nodes: Vec<_> = all(&cluster).into_iter().chain([("ahead", Some(ahead))]).collect();
    let later = token_until("tests", Writes::Any, UNIX_EPOCH.elapsed().unwrap() + Duration::from_secs(90_000));
    let write = async |addr: SocketAddr, method: &str, body: &str| {
        let answer = ask(addr, method, "/api/v2/presence/ann", Some(&later), body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    };
    let mut shown = Seconds::default();
    let answer = write(ahead, "PUT", r#"{"status":"busy","message":"from tomorrow"}"#).await;
    let said = answer.json()["data"]["ann"]["updated_at"].as_str().unwrap().to_owned();
    let today = put(cluster.addr(2), "eve", r#"{"status":"online"}"#).await;
    let today = today.json()["data"]["eve"]["updated_at"].as_str().unwrap().to_owned();
    assert!(said[..10] > today[..10], "its clock shows {said}, and the others' {today}");
    shown.watch(&nodes, &["ann"], 4, &[]).await;
    // What is said after it on another node overrules it.
    write(cluster.addr(2), "PUT", r#"{"status":"away"}"#).await;
    shown.watch(&nodes, &["ann"], 3, &[]).await;
    write(cluster.addr(2), "DELETE", "").await;
    shown.watch(&nodes, &["ann"], 3, &[]).await;
    shown.print("a clock a day ahead: busy there, then away on another, then gone");
    for (node, _) in &nodes {
        // busy, away, offline
        assert_eq!(runs(shown.of(node, "ann")), ['b', 'a', '-'].iter().collect::<String>(), "{node}");
    }
}
