//! A center with TLS, accounts and a secret of its servers, and a leaf: they join, and take turns to restart.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kith_tests::fetched::nats_server;
use kith_tests::lab::{Maker, NameServer, Run, Runner, eventually, nats_address};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use serde_json::Value;

/// For a group to form, on a busy machine.
const BOUND: Duration = Duration::from_secs(60);
/// What stands between the braces of `accounts { }`. Leaves sign on at the one that applications use.
const ACCOUNTS: &str = "APP { jetstream: enabled, users: [ { user: app, password: \"of applications\" } ] }\n";

/// A certificate of each of these addresses, from one authority: the folder has `ca.pem`, `1.pem`, `1.key` and so on.
fn certificates(folder: &Path, addresses: &[Ipv4Addr]) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
    let write = |name: String, text: String| fs::write(folder.join(name), text).expect("room");
    write("ca.pem".to_owned(), authority.pem());
    for (number, address) in (1..).zip(addresses) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("server {number}"));
        params.subject_alt_names = vec![SanType::IpAddress((*address).into())];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        write(format!("{number}.pem"), certificate.pem());
        write(format!("{number}.key"), key.serialize_pem());
    }
}

async fn varz(runner: &Runner, path: &str) -> Value {
    runner.monitor().get(path).await.map_or(Value::Null, |reply| reply.json())
}

async fn restart(runner: &Runner) -> Run {
    Run::of(["nats", "restart", "--set", &format!("nats.store_dir={}", runner.store().display())]).await
}

fn secure(runner: &mut Runner, number: usize, folder: &Path, dns: &NameServer) {
    let at = |name: &str| folder.join(name).display().to_string();
    runner.set(&format!("nats.resolvers={}", dns.address()));
    runner.set("node.region=ams");
    runner.set(&format!("nats.tls_ca={}", at("ca.pem")));
    runner.set(&format!("nats.tls_cert={}", at(&format!("{number}.pem"))));
    runner.set(&format!("nats.tls_key={}", at(&format!("{number}.key"))));
    runner.set(&format!("nats.secret_file={}", at("secret")));
}

/// A client as applications are, of an account.
async fn application(folder: PathBuf, at: Ipv4Addr) -> Result<async_nats::Client, String> {
    let options = async_nats::ConnectOptions::new()
        .require_tls(true)
        .add_root_certificates(folder.join("ca.pem"))
        .user_and_password("app".to_owned(), "of applications".to_owned());
    options.connect(format!("nats://{at}:4222")).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_accounts_and_a_secret_servers_and_a_leaf_join_and_take_turns_and_strangers_do_not() {
    let test = "with_tls_accounts_and_a_secret";
    let Some(binary) = nats_server(test) else { return };
    let Some(mut dns) = NameServer::new(test, Maker::Knot, nats_address(7)) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut runners: Vec<Runner> = [1, 2, 3, 0].map(|number| Runner::new(number, &binary)).into();
    let addresses: Vec<Ipv4Addr> = runners.iter().map(|runner| runner.address).collect();
    certificates(folder.path(), &addresses);
    for (name, text) in [
        ("accounts", ACCOUNTS),
        ("secret", "the same on each server\n"),
        ("other", "not the same as theirs\n"),
        ("leaf", "app:of applications\n"),
    ] {
        fs::write(folder.path().join(name), text).expect("room");
    }
    let mut names = vec!["regions.nats TXT \"ams\"".to_owned()];
    for address in &addresses[..3] {
        names.extend(["center.process.nats", "ams.nats"].map(|name| format!("{name} A {address}")));
    }
    dns.serve(&names).await;
    for (number, runner) in (1..).zip(&mut runners) {
        secure(runner, number, folder.path(), &dns);
        if number <= 3 {
            runner.set("nats.servers=3");
            runner.set(&format!("nats.accounts={}", folder.path().join("accounts").display()));
            runner.set("nats.max_connections=500");
            runner.set("nats.max_payload=2MB");
        } else {
            runner.set("nats.role=leaf");
            runner.set(&format!("nats.credentials={}", folder.path().join("leaf").display()));
        }
        runner.launch();
    }
    for runner in &mut runners {
        runner.phase("running").await;
    }
    for runner in &runners[..3] {
        eventually("it is one of three", BOUND, async || {
            let meta = varz(runner, "/jsz").await["meta_cluster"].clone();
            if meta["cluster_size"] == 3 && meta["leader"].is_string() { Ok(()) } else { Err(meta.to_string()) }
        })
        .await;
        let varz = varz(runner, "/varz").await;
        assert_eq!((&varz["max_connections"], &varz["max_payload"]), (&500.into(), &(2 << 20).into()), "{varz}");
        assert_eq!((&varz["tls_required"], &varz["auth_required"]), (&true.into(), &true.into()), "{varz}");
    }
    eventually("the leaf is connected", BOUND, async || {
        let leaves = varz(&runners[3], "/varz").await["leafnodes"].clone();
        if leaves == 1 { Ok(()) } else { Err(leaves.to_string()) }
    })
    .await;
    application(folder.path().to_owned(), addresses[0]).await.expect("an application is let in");

    // A center server, then the leaf: each asks others for the lease, by TLS and as the account of turns.
    for at in [0, 3] {
        let said = restart(&runners[at]).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        eventually("it has restarted in its turn", BOUND, async || {
            let status = runners[at].status().await?;
            if status["restarts"] == 1 && status["phase"] == "running" { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
        let log = runners[at].log();
        assert!(log.contains("it is this server's turn to restart"), "{log}");
    }

    // Who does not have the secret is no server of theirs.
    assert_eq!(runners[2].stop(BOUND).await.code(), Some(0));
    runners[2].set(&format!("nats.secret_file={}", folder.path().join("other").display()));
    runners[2].start().await;
    eventually("it belongs to nobody, and says so", BOUND, async || {
        let checks = runners[2].health().get("/checks").await?.json();
        let peers = checks.as_array().and_then(|all| all.iter().find(|check| check["name"] == "peers").cloned());
        let is_out = peers.as_ref().is_some_and(|peers| {
            peers["ok"] == false && peers["message"].as_str().is_some_and(|said| said.starts_with("0 of 2 servers"))
        });
        let refused =
            runners[2].log().contains("Authorization Violation") || runners[0].log().contains("authentication error");
        if is_out && refused { Ok(()) } else { Err(checks.to_string()) }
    })
    .await;
}
