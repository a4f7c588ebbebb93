//! A cluster as an operator makes it: `kith init`, `kith invite`, `kith join`, and what may go wrong on the way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kith_tests::lab::{Addresses, Lab, Node, Run, eventually};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(30);

/// Runs a command that is to succeed, and returns the JSON it prints.
async fn said(arguments: &[&str]) -> Value {
    let run = Run::of(arguments).await;
    assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", run.stdout))
}

/// Runs one that is to fail, and returns what it says.
async fn refused(code: i32, arguments: &[&str]) -> String {
    let run = Run::of(arguments).await;
    assert_eq!(run.code, Some(code), "{arguments:?}: {}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("error: ") && run.stdout.is_empty(), "{}{}", run.stdout, run.stderr);
    run.stderr
}

/// The flags that say where a node's files are and where it listens.
struct Flags([String; 6]);

impl Flags {
    fn of(lab: &Lab, name: &str, at: Addresses) -> Flags {
        let text = |path: PathBuf| path.display().to_string();
        let (config, data) = (text(lab.folder(name).join("kith.toml")), text(lab.folder(name).join("data")));
        Flags(["--config".into(), config, "--data-dir".into(), data, "--listen".into(), at.gossip.to_string()])
    }

    fn with<'a>(&'a self, first: &[&'a str]) -> Vec<&'a str> {
        first.iter().copied().chain(self.0.iter().map(String::as_str)).collect()
    }

    fn config(&self) -> [&str; 2] {
        [&self.0[0], &self.0[1]]
    }
}

/// Founds a cluster and starts its first server.
async fn found(lab: &Lab) -> (Node, Flags) {
    let at = Addresses::choose("one");
    let flags = Flags::of(lab, "one", at);
    let made = said(&flags.with(&["init", "--cluster", "casa", "--name", "one", "--json"])).await;
    assert_eq!((&made["node"], &made["cluster"]), (&json!("one"), &json!("casa")), "{made}");
    let mut one = lab.made("one", at);
    one.start().await;
    // Its own row, with its number: so that nobody else is given it.
    number(&one, "one", "10.210.1.0/24").await;
    (one, flags)
}

async fn number(node: &Node, server: &str, subnet: &str) {
    let sql = format!("SELECT subnet FROM servers WHERE id = '{server}'");
    let what = format!("{server} has {subnet} on {}", node.name);
    eventually(&what, BOUND, async || {
        let rows = node.api().query(&sql).await?;
        if rows == [json!([subnet])] { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
}

async fn invite(founder: &Flags, name: &str) -> String {
    let [flag, file] = founder.config();
    let made = said(&["invite", name, flag, file, "--json"]).await;
    assert_eq!(made["lasts_seconds"], json!(900));
    made["token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn three_servers_are_made_by_init_invite_and_join_and_know_each_other() {
    let lab = Lab::new("casa");
    let (one, founder) = found(&lab).await;
    let mut nodes = vec![one];
    for (name, number) in [("two", 2), ("three", 3)] {
        let at = Addresses::choose(name);
        let token = invite(&founder, name).await;
        let flags = Flags::of(&lab, name, at);
        let joined = said(&flags.with(&["join", &token, "--json"])).await;
        assert_eq!((&joined["node"], &joined["number"]), (&json!(name), &json!(number)), "{joined}");
        let mut node = lab.made(name, at);
        node.start().await;
        nodes.push(node);
    }
    nodes[2]
        .api()
        .execute("INSERT INTO cluster_metadata (key, value) VALUES ('k', 'v')", &json!([]))
        .await
        .expect("it is written");
    for node in &nodes {
        for (server, subnet) in [("one", "10.210.1.0/24"), ("two", "10.210.2.0/24"), ("three", "10.210.3.0/24")] {
            number(node, server, subnet).await;
        }
        eventually("the row is there", BOUND, async || {
            let rows = node.api().query("SELECT value FROM cluster_metadata WHERE key = 'k'").await?;
            if rows == [json!(["v"])] { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
        let status = node.api().get("/v1/status").await.expect("a status").json();
        assert_eq!((&status["alarms"], &status["certificate"]["days_left"]), (&json!([]), &json!(89)), "{status}");
    }
}

#[tokio::test]
async fn what_goes_wrong_while_joining_is_said_and_leaves_nothing_behind() {
    let lab = Lab::new("casa");
    let (mut one, founder) = found(&lab).await;
    let before = fs::read(lab.folder("one").join("data/authority/ca.key")).expect("the authority's key");
    let again = refused(1, &founder.with(&["init"])).await;
    assert!(again.contains("kith.toml is there already"), "{again}");

    let (at, token) = (Addresses::choose("two"), invite(&founder, "two").await);
    let flags = Flags::of(&lab, "two", at);
    let none = refused(2, &flags.with(&["join", &token[..token.len() - 4]])).await;
    assert!(none.contains("copy it whole"), "{none}");
    said(&flags.with(&["join", &token, "--json"])).await;
    let there = refused(1, &flags.with(&["join", &token])).await;
    assert!(there.contains("is there already"), "{there}");
    let third = Flags::of(&lab, "three", at);
    let used = refused(1, &third.with(&["join", &token])).await;
    assert!(used.contains("used already"), "{used}");
    assert!(!lab.folder("three").exists());

    // A server that is in the cluster has no authority's key; it may have its certificate made anew.
    let [flag, file] = flags.config();
    let elsewhere = refused(1, &["invite", "four", flag, file]).await;
    assert!(elsewhere.contains("the authority's key is not on this server"), "{elsewhere}");
    let certificate = || fs::read(lab.folder("two").join("data/identity/node.pem")).expect("a certificate");
    let (first, token) = (certificate(), invite(&founder, "two").await);
    let renewed = said(&["join", &token, "--again", flag, file, "--json"]).await;
    assert_eq!(renewed["number"], json!(2));
    assert_ne!(certificate(), first);
    let other = invite(&founder, "three").await;
    let named = refused(1, &["join", &other, "--again", flag, file]).await;
    assert!(named.contains("the token is for three, and this server is two"), "{named}");

    // Nobody there: neither to invite nor to join.
    one.stop().await;
    let [flag, file] = founder.config();
    let down = refused(3, &["invite", "four", flag, file]).await;
    assert!(down.contains("hint: start it first: kith agent"), "{down}");
    let lost = refused(69, &third.with(&["join", &other])).await;
    assert!(lost.contains(&one.at.gossip.to_string()) && lost.contains("firewalls"), "{lost}");
    assert!(!lab.folder("three").exists());
    assert_eq!(fs::read(lab.folder("one").join("data/authority/ca.key")).expect("the authority's key"), before);
}

/// Every file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The lines of a private key that are its own.
fn secret_lines(key: &Path) -> Vec<String> {
    let text = fs::read_to_string(key).expect("a key");
    text.lines().filter(|line| !line.starts_with("-----") && line.len() > 20).map(str::to_owned).collect()
}

#[tokio::test]
async fn no_private_key_and_no_token_is_in_the_store_in_logs_in_arguments_or_in_what_is_served() {
    let lab = Lab::new("casa");
    let (one, founder) = found(&lab).await;
    let at = Addresses::choose("two");
    let token = invite(&founder, "two").await;
    said(&Flags::of(&lab, "two", at).with(&["join", &token, "--json"])).await;
    let mut two = lab.made("two", at);
    two.start().await;
    number(&two, "two", "10.210.2.0/24").await;

    let keys: Vec<PathBuf> = ["one/data/authority/ca.key", "one/data/identity/node.key", "two/data/identity/node.key"]
        .map(|key| lab.folder(key))
        .into();
    let mut secrets: Vec<String> = keys.iter().flat_map(|key| secret_lines(key)).collect();
    assert!(secrets.len() >= 6, "{secrets:?}");
    secrets.push(token);
    let mut looked = Vec::new();
    for name in ["one", "two"] {
        for path in files(&lab.folder(name)).into_iter().filter(|path| !keys.contains(path)) {
            let mode = fs::metadata(&path).expect("a file").permissions().mode();
            assert!(mode & 0o002 == 0, "{} has mode {mode:o}", path.display());
            looked.push((path.display().to_string(), fs::read(&path).unwrap_or_default()));
        }
    }
    for node in [&one, &two] {
        for part in ["cmdline", "environ"] {
            let path = format!("/proc/{}/{part}", node.id());
            looked.push((path.clone(), fs::read(path).expect("our own child's")));
        }
        for path in ["/v1/status", "/metrics", "/v1/members", "/v1/health"] {
            looked.push((path.to_owned(), node.api().get(path).await.expect("an answer").body.into_bytes()));
        }
    }
    assert!(looked.iter().any(|(name, bytes)| name.ends_with("kith.db") && !bytes.is_empty()), "no store was read");
    for secret in &secrets {
        for (name, bytes) in &looked {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "a secret is in {name}");
        }
    }
    for key in &keys {
        assert_eq!(fs::metadata(key).expect("a key").permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
}
