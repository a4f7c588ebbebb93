//! Restarts, one server after the other, while a stream of three replicas takes messages; and a member that is gone.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer, stream};
use futures_util::StreamExt as _;
use kith_tests::fetched::nats_server;
use kith_tests::lab::{Maker, NameServer, Run, Runner, eventually, nats_address};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

/// For a group to form, on a busy machine.
const BOUND: Duration = Duration::from_secs(60);
/// Three restarts, each with half a minute in which clients are sent away.
const ROLL: Duration = Duration::from_secs(300);
/// Messages that are offered at once, and how often: together 1,000 in a second, whatever becomes of those before.
const OFFERED: usize = 10;
/// See [`OFFERED`].
const BEAT: Duration = Duration::from_millis(10);
/// Most that wait for an acknowledgement; no more are offered before some have it. Four seconds of the load, and what the library bears.
const WAITING: usize = 4_000;
/// How long an acknowledgement is waited for, and how long between two attempts: those that their server took with it never come.
const ANSWER: Duration = Duration::from_secs(2);
/// See [`ANSWER`].
const AGAIN: Duration = Duration::from_millis(100);
/// How long a member is to be away until it is removed, where that is asked for.
const AWAY: Duration = Duration::from_secs(15);
/// Messages below which there was no load: ten seconds of it, for the roll takes longer.
const LEAST: usize = 10_000;

/// Three runners that a name server names.
async fn center(test: &str) -> Option<(Vec<Runner>, NameServer)> {
    center_with(test, &[]).await
}

/// The same, with these settings.
async fn center_with(test: &str, settings: &[&str]) -> Option<(Vec<Runner>, NameServer)> {
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
        settings.iter().for_each(|setting| runner.set(setting));
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

/// A message that was acknowledged.
struct Acknowledged {
    /// Its place in the stream, as it was told. One that is given away twice is a message lost.
    place: u64,
    body: String,
    /// How long it took, over all attempts.
    took: Duration,
}

/// Offers messages at their pace until it is told to end; all of them, once each was acknowledged.
async fn load(context: jetstream::Context, token: CancellationToken) -> Vec<Acknowledged> {
    let (room, mut tasks) = (Arc::new(Semaphore::new(WAITING)), JoinSet::new());
    let mut acknowledged = Vec::new();
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for beat in 0_u64.. {
        beats.tick().await;
        if token.is_cancelled() {
            break;
        }
        for number in 0..OFFERED {
            let permit = Arc::clone(&room).acquire_owned().await.expect("nobody closes it");
            let (context, body) = (context.clone(), format!("{beat}-{number}"));
            tasks.spawn(async move {
                let told = acknowledged_of(&context, body).await;
                drop(permit);
                told
            });
        }
        while let Some(told) = tasks.try_join_next() {
            acknowledged.push(told.expect("no writer panics"));
        }
    }
    acknowledged.extend(tasks.join_all().await);
    acknowledged
}

/// Publishes a message until it is acknowledged, as who must not lose it does.
async fn acknowledged_of(context: &jetstream::Context, body: String) -> Acknowledged {
    let begun = Instant::now();
    let mut attempts = tokio::time::interval(AGAIN);
    attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        attempts.tick().await;
        if let Ok(told) = context.publish("load.all", body.clone().into()).await
            && let Ok(told) = told.await
        {
            return Acknowledged { place: told.sequence, body, took: begun.elapsed() };
        }
    }
}

/// All that the stream holds, by place: as many as its leader counts, up to this place at least. Whoever reads is placed beside any
/// replica, also one that was just restarted, lacks the last seconds and does not yet know it.
async fn held(context: &jetstream::Context, last: u64) -> BTreeMap<u64, String> {
    let mut stream = context.get_stream("load").await.expect("it is there");
    // Its leader may be one that has not yet written all that it has agreed to.
    let count = eventually("the last that was acknowledged is there", BOUND, async || {
        let state = stream.info().await.map_err(|error| error.to_string())?.state.clone();
        if state.last_sequence >= last { Ok(state.messages) } else { Err(format!("{last} of {state:?}")) }
    })
    .await;
    let config = consumer::pull::OrderedConfig::default();
    let consumer = stream.create_consumer(config).await.expect("it can be read");
    let mut messages = consumer.messages().await.expect("it can be read");
    let mut held = BTreeMap::new();
    while u64::try_from(held.len()).expect("fewer") < count {
        let next = timeout(BOUND, messages.next()).await;
        let next = next.unwrap_or_else(|_| panic!("{} of {count} messages can be read", held.len()));
        let message = next.expect("there are more").expect("it can be read");
        let place = message.info().expect("it is of a stream").stream_sequence;
        held.insert(place, String::from_utf8_lossy(&message.payload).into_owned());
    }
    held
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
    // A leader that was just elected has not heard of all others yet.
    eventually("three servers hold three replicas", BOUND, async || {
        context.create_stream(config.clone()).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let token = CancellationToken::new();
    let mut loaded = context.clone();
    loaded.set_timeout(ANSWER);
    let mut loads = JoinSet::from_iter([load(loaded, token.clone())]);
    let begun = Instant::now();

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
    let rolled = begun.elapsed();
    let acknowledged = timeout(BOUND, loads.join_next()).await.expect("what is left is acknowledged");
    let acknowledged = acknowledged.expect("it was begun").expect("it does not panic");
    let left = begun.elapsed() - rolled;
    let offered = acknowledged.len();
    let rate = f64::from(u32::try_from(offered).expect("few")) / rolled.as_secs_f64();
    let slowest = acknowledged.iter().map(|told| told.took).max().unwrap_or_default();
    eprintln!(
        "three servers rolled in {rolled:?}, while {offered} messages were offered, {rate:.0} a second (wanted: 1,000); \
         all were acknowledged, the last {left:?} after the roll, the slowest after {slowest:?}"
    );
    assert!(offered > LEAST, "{offered} are no load");
    let held = held(&context, acknowledged.iter().map(|told| told.place).max().unwrap_or_default()).await;
    let lost: Vec<_> = acknowledged.iter().filter(|told| held.get(&told.place) != Some(&told.body)).collect();
    assert!(lost.is_empty(), "{} acknowledged messages are lost, the first: {}", lost.len(), lost[0].body);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_for_as_long_as_an_operator_has_said_is_removed_by_the_leader() {
    let test = "a_member_that_was_away_for_as_long";
    let Some((mut runners, _dns)) = center_with(test, &[&format!("nats.remove_early_ms={}", AWAY.as_millis())]).await
    else {
        return;
    };
    let gone = runners[2].status().await.expect("it answers")["id"].as_str().expect("a name").to_owned();
    runners[2].kill();
    let begun = Instant::now();
    eventually("the group has two", BOUND, async || {
        let meta = meta(&runners[0]).await;
        if meta["cluster_size"] == 2 { Ok(()) } else { Err(meta.to_string()) }
    })
    .await;
    let took = begun.elapsed();
    eprintln!("a member that is gone is removed {took:?} later");
    assert!(took >= AWAY, "{took:?}");
    let line = "removed from JetStream's group, since it was away for long";
    let said =
        |runner: &Runner| runner.log().lines().filter(|said| said.contains(line) && said.contains(&gone)).count();
    eventually("one of them says so, once", BOUND, async || match runners.iter().map(said).sum::<usize>() {
        1 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;

    // Of two the second goes: those that are up are no majority.
    runners[1].kill();
    let begun = Instant::now();
    eventually("three times as long is over", BOUND, async || {
        let meta = meta(&runners[0]).await;
        assert_eq!(meta["cluster_size"], 2, "{meta}");
        if begun.elapsed() >= 3 * AWAY { Ok(()) } else { Err(meta.to_string()) }
    })
    .await;
}
