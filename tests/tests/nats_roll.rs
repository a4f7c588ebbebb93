//! Restarts, one server after the other, while a stream of three replicas takes messages; and a member that is gone.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use kith_tests::fetched::nats_server;
use kith_tests::lab::{Maker, NameServer, Run, Runner, eventually, nats_address};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// For a group to form, on a busy machine.
const BOUND: Duration = Duration::from_secs(60);
/// Three restarts, each with half a minute in which clients are sent away.
const ROLL: Duration = Duration::from_secs(300);

/// Three runners that a name server names.
async fn center(test: &str) -> Option<(Vec<Runner>, NameServer)> {
    let binary = nats_server(test)?;
    let mut dns = NameServer::new(test, Maker::Knot, nats_address(7))?;
    let mut runners: Vec<Runner> = (1..=3).map(|number| Runner::new(number, &binary)).collect();
    let mut names = vec!["regions.nats TXT \"ams\"".to_owned()];
    for runner in &runners {
        names.extend(["center.process.nats", "ams.nats"].map(|name| format!("{name} A {}", runner.address)));
    }
    dns.serve(&names).await;
    for runner in &mut runners {
        runner.set(&format!("nats.resolvers={}", dns.address()));
        runner.set("nats.servers=3");
        runner.set("node.region=ams");
        runner.launch();
    }
    for runner in &mut runners {
        runner.phase("running").await;
        leader(runner).await;
    }
    Some((runners, dns))
}

async fn meta(runner: &Runner) -> Value {
    runner.monitor().get("/jsz").await.map_or(Value::Null, |reply| reply.json()["meta_cluster"].clone())
}

async fn leader(runner: &Runner) -> String {
    eventually("the group has a leader", BOUND, async || {
        let meta = meta(runner).await;
        meta["leader"].as_str().map(ToOwned::to_owned).ok_or_else(|| meta.to_string())
    })
    .await
}

/// `kith nats` with the store of this runner.
async fn kith(runner: &Runner, arguments: &[&str]) -> Run {
    let store = format!("nats.store_dir={}", runner.store().display());
    let mut all = vec!["nats"];
    all.extend(arguments);
    all.extend(["--set", &store]);
    Run::of(all).await
}

async fn client(runners: &[Ipv4Addr]) -> async_nats::Client {
    let servers: Vec<async_nats::ServerAddr> =
        runners.iter().map(|ip| format!("nats://{ip}:4222").parse().expect("an address")).collect();
    async_nats::connect(servers).await.expect("one of three answers")
}

/// Publishes until it is told to end; counts what was acknowledged.
async fn publish(context: jetstream::Context, acknowledged: Arc<AtomicU64>, token: CancellationToken) {
    let mut number = 0_u64;
    let mut beats = tokio::time::interval(Duration::from_millis(5));
    while !token.is_cancelled() {
        let sent = context.publish("load.x", number.to_string().into()).await;
        if let Ok(told) = sent
            && told.await.is_ok()
        {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        number += 1;
        beats.tick().await;
    }
}

async fn statuses(runners: &[Runner]) -> Result<Vec<Value>, String> {
    let mut all = Vec::new();
    for runner in runners {
        all.push(runner.status().await?);
    }
    Ok(all)
}

/// How many are on their way down or up.
fn away(all: &[Value]) -> usize {
    all.iter().filter(|status| !["running", "unwell"].contains(&status["phase"].as_str().unwrap_or_default())).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_told_to_restart_at_once_do_so_one_after_the_other_and_lose_nothing() {
    let test = "three_servers_told_to_restart_at_once_do_so_one_after_the_other";
    let Some((runners, _dns)) = center(test).await else { return };
    let addresses: Vec<Ipv4Addr> = runners.iter().map(|runner| runner.address).collect();
    let context = jetstream::new(client(&addresses).await);
    let config = stream::Config {
        name: "load".to_owned(),
        subjects: vec!["load.>".to_owned()],
        num_replicas: 3,
        ..stream::Config::default()
    };
    context.create_stream(config).await.expect("three servers hold three replicas");
    let (acknowledged, token, mut tasks) = (Arc::new(AtomicU64::new(0)), CancellationToken::new(), JoinSet::new());
    tasks.spawn(publish(context.clone(), Arc::clone(&acknowledged), token.clone()));

    for runner in &runners {
        let said = kith(runner, &["restart"]).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(0), "it restarts when it is its turn\n"), "{said:?}");
    }
    let mut most_away = 0;
    eventually("all three have restarted", ROLL, async || {
        let mut all = statuses(&runners).await?;
        if away(&all) > 1 {
            // They are asked one after the other: a turn that was handed on meanwhile looks like two.
            all = statuses(&runners).await?;
        }
        most_away = most_away.max(away(&all));
        assert!(away(&all) <= 1, "two at once: {all:?}");
        let done = all.iter().all(|status| status["restarts"] == 1 && status["phase"] == "running");
        if done { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await;
    assert_eq!(most_away, 1);
    token.cancel();
    tasks.join_all().await;
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    assert!(acknowledged > 1_000, "{acknowledged} are no load");
    eventually("all that was acknowledged is in the stream", BOUND, async || {
        let mut stream = context.get_stream("load").await.map_err(|error| error.to_string())?;
        let held = stream.info().await.map_err(|error| error.to_string())?.state.messages;
        if held >= acknowledged { Ok(()) } else { Err(format!("{held} of {acknowledged}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_removed_only_when_it_is_gone_and_the_others_are_a_majority() {
    let test = "a_member_is_removed_only_when_it_is_gone";
    let Some((mut runners, _dns)) = center(test).await else { return };
    let gone = runners[2].status().await.expect("it answers")["id"].as_str().expect("a name").to_owned();
    let said = kith(&runners[0], &["peer-remove", &gone]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("is up: stop it first"), "{said:?}");
    let said = kith(&runners[0], &["peer-remove", "nobody"]).await;
    assert!(said.stderr.contains("does not belong to JetStream's group"), "{said:?}");

    runners[2].kill();
    eventually("it is seen to be away, and is removed", BOUND, async || {
        let said = kith(&runners[0], &["peer-remove", &gone]).await;
        if said.code == Some(0) { Ok(()) } else { Err(said.stderr) }
    })
    .await;
    eventually("the group has two", BOUND, async || {
        let meta = meta(&runners[0]).await;
        if meta["cluster_size"] == 2 { Ok(()) } else { Err(meta.to_string()) }
    })
    .await;

    // Of two the second goes: nobody can decide anything, and nothing is removed.
    let second = runners[1].status().await.expect("it answers")["id"].as_str().expect("a name").to_owned();
    runners[1].kill();
    let said = kith(&runners[0], &["peer-remove", &second]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let said = kith(&runners[0], &["restart", "--no-lease"]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "it restarts at once\n"), "{said:?}");
    eventually("it has restarted, without a lease", ROLL, async || {
        let status = runners[0].status().await?;
        if status["restarts"] == 1 && status["phase"] == "running" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}
