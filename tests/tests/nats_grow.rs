//! A server that was alone becomes one of a cluster, with its streams.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer, stream};
use futures_util::StreamExt as _;
use kith_tests::fetched::nats_server;
use kith_tests::lab::{Background, Maker, NameServer, Runner, eventually, nats_address};
use serde_json::{Value, json};

/// For a group to form, on a busy machine.
const BOUND: Duration = Duration::from_secs(90);
/// Messages of the larger stream.
const MANY: u64 = 2_000;

async fn context(at: Ipv4Addr) -> jetstream::Context {
    jetstream::new(async_nats::connect(format!("nats://{at}:4222")).await.expect("it answers"))
}

/// Three streams: one with many messages and a consumer that has taken ten of them, one with one message, one with none.
async fn fill(at: Ipv4Addr) {
    let context = context(at).await;
    for name in ["many", "one", "none"] {
        let config =
            stream::Config { name: name.to_owned(), subjects: vec![format!("{name}.>")], ..Default::default() };
        context.create_stream(config).await.expect("a lone server takes it");
    }
    let mut told = Vec::new();
    for number in 0..MANY {
        let body = format!("{number} {}", "x".repeat(1_000));
        told.push(context.publish("many.x", body.into()).await.expect("it is sent"));
    }
    for told in told {
        told.await.expect("it is acknowledged");
    }
    context.publish("one.x", "1".into()).await.expect("it is sent").await.expect("it is acknowledged");
    let many = context.get_stream("many").await.expect("it is there");
    let config = consumer::pull::Config { durable_name: Some("reader".to_owned()), ..Default::default() };
    let reader = many.create_consumer(config).await.expect("it is taken");
    let mut taken = reader.fetch().max_messages(10).messages().await.expect("there are some");
    let mut count = 0;
    while let Some(message) = taken.next().await {
        message.expect("it can be read").double_ack().await.expect("it is acknowledged");
        count += 1;
    }
    assert_eq!(count, 10);
}

/// An application goes on with the first as soon as it is there: it writes one more, and takes the first away.
async fn is_used(at: Ipv4Addr) {
    let context = context(at).await;
    eventually("it is written to", BOUND, async || {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", "once");
        let told = context.publish_with_headers("many.x", headers, format!("{MANY} {}", "x".repeat(1_000)).into());
        told.await.map_err(|error| error.to_string())?.await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    delete(&context, 1).await;
}

/// Takes a message of the larger stream away.
async fn delete(context: &jetstream::Context, sequence: u64) {
    eventually(&format!("message {sequence} is taken away"), BOUND, async || {
        let many = context.get_stream("many").await.map_err(|error| error.to_string())?;
        match many.delete_message(sequence).await {
            Ok(true) => Ok(()),
            // Of a deletion whose answer was lost, the next one finds nothing.
            Ok(false) => Err("not deleted".to_owned()),
            Err(error) if error.to_string().contains("no message found") => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

/// What the streams hold, and how: those of `fill`, with these replicas, but for the two that were taken away of the one that was used.
async fn is_whole(at: Ipv4Addr, replicas: usize) {
    let context = context(at).await;
    for (name, messages, last) in [("many", MANY - 1, MANY + 1), ("none", 0, 0), ("one", 1, 1)] {
        eventually(&format!("{name} is whole"), BOUND, async || {
            let stream = context.get_stream(name).await.map_err(|error| error.to_string())?;
            let info = stream.cached_info();
            let shape = (info.state.messages, info.state.last_sequence, info.config.num_replicas);
            if shape == (messages, last, replicas) { Ok(()) } else { Err(format!("{info:?}")) }
        })
        .await;
    }
    let many = context.get_stream("many").await.expect("it is there");
    let reader = eventually("its consumer came with it, and where it was", BOUND, async || {
        let reader: consumer::PullConsumer = many.get_consumer("reader").await.map_err(|error| error.to_string())?;
        let floor = reader.cached_info().ack_floor.stream_sequence;
        if floor == 10 { Ok(reader) } else { Err(format!("ack floor {floor}")) }
    })
    .await;
    // By their place: what is acknowledged late comes once more.
    let mut rest = reader.messages().await.expect("it can be read");
    let (mut bodies, last) = (BTreeMap::new(), (10..MANY - 1).chain([MANY]).count());
    let until = tokio::time::Instant::now() + BOUND;
    while bodies.len() < last {
        let next = tokio::time::timeout_at(until, rest.next()).await;
        let next = next.unwrap_or_else(|_| panic!("no more within {BOUND:?} after {} of {last}", bodies.len()));
        // A heartbeat that does not come is an error of the stream, which goes on.
        let Ok(message) = next.expect("it does not end") else { continue };
        bodies.insert(message.info().expect("it came of a stream").stream_sequence, message.payload.clone());
        message.ack().await.expect("it is sent");
    }
    for (number, body) in (10..MANY - 1).chain([MANY]).zip(bodies.values()) {
        let body = String::from_utf8_lossy(body);
        assert!(body.starts_with(&format!("{number} xxx")) && body.len() > 1_000, "{number}: {body}");
    }
}

/// `kith nats grow` for the store of this runner, that runs beside the test.
fn grow(runner: &Runner, addresses: &[Ipv4Addr], binary: &Path) -> Background {
    let own = addresses[0];
    let settings = [
        format!("nats.store_dir={}", runner.store().display()),
        format!("nats.bin={}", binary.display()),
        "nats.servers=3".to_owned(),
        "node.region=ams".to_owned(),
        format!("nats.ip={own}"),
        format!("nats.monitor={own}:8222"),
    ];
    let mut arguments: Vec<String> = ["nats", "grow", "--json", "--replicas", "3"].map(str::to_owned).into();
    arguments.extend(settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]));
    Background::of(arguments)
}

/// Waits for a step of it, and says which.
async fn step(grow: &Background, name: &str) -> Value {
    eventually(&format!("it says {name}"), BOUND, async || {
        let said = grow.stdout();
        let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.into_iter().find(|line| line["step"] == name).ok_or_else(|| said.clone() + &grow.stderr())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_server_with_streams_joins_a_cluster_and_nothing_is_lost_however_often_it_is_interrupted() {
    let test = "a_lone_server_with_streams_joins_a_cluster";
    let Some(binary) = nats_server(test) else { return };
    let Some(mut dns) = NameServer::new(test, Maker::Knot, nats_address(7)) else { return };
    let mut runners: Vec<Runner> = (1..=3).map(|number| Runner::new(number, &binary)).collect();
    let addresses: Vec<Ipv4Addr> = runners.iter().map(|runner| runner.address).collect();
    runners[0].start().await;
    fill(addresses[0]).await;
    assert_eq!(runners[0].stop(BOUND).await.code(), Some(0));

    let mut names = vec!["regions.nats TXT \"ams\"".to_owned()];
    for address in &addresses {
        names.extend(["center.process.nats", "ams.nats"].map(|name| format!("{name} A {address}")));
    }
    dns.serve(&names).await;
    for runner in &mut runners {
        runner.set(&format!("nats.resolvers={}", dns.address()));
        runner.set("nats.servers=3");
        runner.set("node.region=ams");
        runner.launch();
    }
    assert_eq!(runners[0].end(BOUND).await.code(), Some(78), "{}", runners[0].log());
    assert!(runners[0].log().contains("hint: `kith nats grow` takes the streams"), "{}", runners[0].log());

    // Killed when they are put aside; killed when the first is copied.
    let first = grow(&runners[0], &addresses, &binary);
    let aside = step(&first, "aside").await;
    assert_eq!(aside["streams"], 3, "{aside}");
    step(&first, "waits").await;
    drop(first);
    // The last of them is damaged.
    let aside = PathBuf::from(aside["backup"].as_str().expect("a folder"));
    let meta = aside.join("jetstream/$G/streams/one/meta.inf");
    std::fs::rename(&meta, aside.join("meta.inf")).expect("it is there");
    runners[0].start().await;
    let second = grow(&runners[0], &addresses, &binary);
    step(&second, "copied").await;
    drop(second);
    is_used(addresses[0]).await;

    // One that cannot be read is named. The first has changed since, and the mark of it is lost, as if we had been ended before it was set.
    std::fs::remove_dir_all(aside.join("restored/$G/many")).expect("it has a mark");
    let mut damaged = grow(&runners[0], &addresses, &binary);
    assert_eq!(damaged.end(BOUND).await, Some(1), "{}", damaged.stdout());
    assert!(damaged.stderr().contains("one of account $G cannot be read"), "{}", damaged.stderr());
    std::fs::rename(aside.join("meta.inf"), &meta).expect("it stays where it was");

    // The last that was put aside is no more in the cluster: the mark alone says what that stream is.
    delete(&context(addresses[0]).await, MANY).await;
    // Somebody was ended while he restored the one that is left: it is not ours to give up, and then it is.
    let client = async_nats::connect(format!("nats://{}:4222", addresses[0])).await.expect("it answers");
    let config =
        json!({"name": "one", "subjects": ["one.>"], "retention": "limits", "storage": "file", "num_replicas": 1});
    let begin =
        json!({"config": config, "state": {"messages": 1, "bytes": 40, "first_seq": 1, "last_seq": 1}}).to_string();
    let said = client.request("$JS.API.STREAM.RESTORE.one", begin.into()).await.expect("it answers");
    assert!(String::from_utf8_lossy(&said.payload).contains("deliver_subject"), "{said:?}");
    let mut taken = grow(&runners[0], &addresses, &binary);
    assert_eq!(taken.end(BOUND).await, Some(1), "{}", taken.stdout());
    assert!(taken.stderr().contains("the cluster holds the name for somebody"), "{}", taken.stderr());
    std::fs::write(aside.join("restored/$G/one/begun"), "").expect("the folder is there");

    let begun = Instant::now();
    let mut third = grow(&runners[0], &addresses, &binary);
    let done = step(&third, "done").await;
    assert_eq!(third.end(BOUND).await, Some(0), "{}", third.stderr());
    eprintln!("the streams that were left came into the cluster within {:?}", begun.elapsed());
    assert!(third.stdout().contains("\"step\":\"there\""), "one was copied before: {}", third.stdout());
    assert_eq!(done["streams"], 3, "{done}");
    is_whole(addresses[1], 3).await;

    let backup = PathBuf::from(done["backup"].as_str().expect("a folder"));
    for stream in ["many", "one", "none"] {
        assert!(backup.join("jetstream/$G/streams").join(stream).is_dir(), "{stream} is in {}", backup.display());
    }
    let mut again = grow(&runners[0], &addresses, &binary);
    assert_eq!(again.end(BOUND).await, Some(1), "{}", again.stdout());
    assert!(again.stderr().contains("holds no streams of a lone server"), "{}", again.stderr());
}
