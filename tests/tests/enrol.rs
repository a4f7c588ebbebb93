//! A cluster as an operator makes it: `kith init`, `kith invite`, `kith join`, and what may go wrong on the way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kith_tests::lab::{Addresses, Lab, Node, Run, eventually};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
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

#[tokio::test]
async fn files_that_are_too_open_are_named_with_their_remedy_and_nothing_starts() {
    let lab = Lab::new("casa");
    let (mut one, flags) = found(&lab).await;
    one.stop().await;
    let token = lab.folder("one").join("token");
    fs::write(&token, "a-token-of-more-than-16-letters\n").expect("it can be written");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o640)).expect("our own file");
    let [flag, file] = flags.config();
    let set = format!("api.token_file={}", token.display());
    for (path, good, bad) in [
        ("data/identity/node.key", 0o600, 0o640),
        ("data/authority/ca.key", 0o600, 0o604),
        ("data/authority", 0o700, 0o750),
        ("data", 0o700, 0o777),
        ("token", 0o640, 0o644),
    ] {
        let path = lab.folder("one").join(path);
        let mode = |mode: u32| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our own file");
        mode(bad);
        let said = refused(78, &["agent", flag, file, "--set", &set]).await;
        let (path, wanted) = (path.display(), format!("has mode {bad:04o}"));
        assert!(said.contains(&wanted) && said.contains("chmod ") && said.contains(&path.to_string()), "{said}");
        mode(good);
    }
}

/// Puts a certificate in the place of a node's, for its key and by its authority, of which this many days are left.
fn shorten(lab: &Lab, name: &str, days: u64) {
    let read = |path: &str| fs::read_to_string(lab.folder(path)).expect("a file of the cluster");
    let authority = KeyPair::from_pem(&read("one/data/authority/ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read("one/data/identity/ca.pem"), authority).expect("an authority");
    let key = KeyPair::from_pem(&read(&format!("{name}/data/identity/node.key"))).expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = (std::time::SystemTime::now() + Duration::from_secs(days * 86_400)).into();
    let certificate = params.signed_by(&key, &issuer).expect("the authority signs");
    fs::write(lab.folder(name).join("data/identity/node.pem"), certificate.pem()).expect("our own file");
}

#[tokio::test]
async fn a_server_renews_its_certificate_by_itself_and_keeps_it_over_a_restart() {
    let lab = Lab::new("casa");
    let (mut one, founder) = found(&lab).await;
    let at = Addresses::choose("two");
    let token = invite(&founder, "two").await;
    said(&Flags::of(&lab, "two", at).with(&["join", &token, "--json"])).await;
    let mut two = lab.made("two", at);
    shorten(&lab, "two", 20);
    // Nobody there to renew it: an alarm, and it works on.
    one.stop().await;
    two.launch();
    let days = async |node: &Node, alarm: &str, wanted: u64| {
        eventually(&format!("{wanted} days, alarm {alarm:?}"), BOUND, async || {
            let status = node.api().get("/v1/status").await?.json();
            let text = status["alarms"][0]["text"].as_str().unwrap_or_default();
            let seen = status["certificate"]["days_left"].as_u64() == Some(wanted);
            if seen && text.contains(alarm) && text.is_empty() == alarm.is_empty() {
                Ok(())
            } else {
                Err(format!("{} {}", status["certificate"], status["alarms"]))
            }
        })
        .await;
    };
    days(&two, "ends in 19 days and could not be renewed", 19).await;
    one.start().await;
    days(&two, "", 89).await;
    two.stop().await;
    two.start().await;
    days(&two, "", 89).await;
    let log = two.log();
    let once = |what: &str| assert_eq!(log.matches(what).count(), 1, "{what}: {log}");
    once("the certificate cannot be renewed yet");
    once("the certificate is renewed");
}

#[tokio::test]
async fn a_server_that_lost_its_disk_joins_again_under_its_name() {
    let lab = Lab::new("casa");
    let (one, founder) = found(&lab).await;
    let at = Addresses::choose("two");
    let flags = Flags::of(&lab, "two", at);
    for life in 0..2 {
        let token = invite(&founder, "two").await;
        assert_eq!(said(&flags.with(&["join", &token, "--json"])).await["number"], json!(2));
        let mut two = lab.made("two", at);
        // Started more often in its first life than in its second.
        for start in life..3 {
            two.start().await;
            let key = format!("start {start} of life {life}");
            let sql = "INSERT INTO cluster_metadata (key, value) VALUES (?, '')";
            two.api().execute(sql, &json!([key])).await.expect("it is written");
            eventually(&format!("{key} is on one"), BOUND, async || {
                let rows = one.api().query("SELECT key FROM cluster_metadata").await?;
                if rows.contains(&json!([key])) { Ok(()) } else { Err(format!("{rows:?}")) }
            })
            .await;
            // By its store of today, not by what was known of the one before.
            eventually("two is up, with its own store", BOUND, async || {
                let own = two.api().get("/v1/status").await?.json()["store"]["site"].clone();
                let members = one.api().get("/v1/members").await?.lines();
                let two = members.iter().map(|line| &line["member"]).find(|member| member["server"] == "two");
                let seen = two.map(|member| (&member["state"], &member["site"]));
                if seen == Some((&json!("up"), &own)) { Ok(()) } else { Err(format!("{seen:?}, not {own}")) }
            })
            .await;
            two.stop().await;
        }
        drop(two);
        fs::remove_dir_all(lab.folder("two")).expect("the disk can be lost");
    }
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
async fn g16_no_private_key_and_no_token_is_in_the_store_in_logs_in_arguments_or_in_what_is_served() {
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
