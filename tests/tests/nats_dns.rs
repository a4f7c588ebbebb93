//! Servers of NATS find each other by name servers that are not ours, which serve the names from a file.

use std::net::Ipv4Addr;
use std::time::Duration;

use kith_tests::fetched::nats_server;
use kith_tests::lab::{Maker, NameServer, Runner, eventually, nats_address};
use serde_json::Value;

/// For a busy machine. What is promised, all joined within 10 s of the last start, is measured in namespaces.
const BOUND: Duration = Duration::from_secs(60);

/// The names of a center in one region.
fn names(servers: &[Ipv4Addr]) -> Vec<String> {
    let each = |name: &str| servers.iter().map(|server| format!("{name} A {server}")).collect::<Vec<String>>();
    let mut records = [each("center.process.nats"), each("ams.nats")].concat();
    records.push("regions.nats TXT \"ams\"".to_owned());
    for (number, server) in servers.iter().enumerate() {
        records.push(format!("s{number}.vm.nats A {server}"));
        records.push(format!("_nats-route._tcp.nats SRV 0 0 6222 s{number}.vm.nats.internal."));
    }
    records
}

async fn meta(runner: &Runner) -> Value {
    let jsz = runner.monitor().get("/jsz").await;
    jsz.map_or(Value::Null, |reply| reply.json()["meta_cluster"].clone())
}

async fn found_by(test: &str, maker: Maker) {
    let Some(binary) = nats_server(test) else { return };
    let Some(mut dns) = NameServer::new(test, maker, nats_address(7)) else { return };
    let mut runners: Vec<Runner> = (1..=3).map(|number| Runner::new(number, &binary)).collect();
    let addresses: Vec<Ipv4Addr> = runners.iter().map(|runner| runner.address).collect();
    for runner in &mut runners {
        runner.set(&format!("nats.resolvers={}", dns.address()));
        runner.set("nats.servers=3");
        runner.set("node.region=ams");
        runner.launch();
    }
    // Nobody answers yet: they wait, and are healthy, for else nobody would ever be first.
    for runner in &mut runners {
        let status = runner.phase("waiting_for_peers").await;
        assert_eq!(status["health"], "healthy", "{status}");
    }
    dns.serve(&names(&addresses)).await;
    for runner in &mut runners {
        runner.phase("running").await;
    }
    for runner in &runners {
        eventually("the three are one group", BOUND, async || {
            let meta = meta(runner).await;
            if meta["cluster_size"] == 3 && meta["leader"].is_string() { Ok(()) } else { Err(meta.to_string()) }
        })
        .await;
    }
    for runner in &runners {
        eventually("each is connected to both others, as DNS has it", BOUND, async || {
            let checks = runner.health().get("/checks").await?.json();
            let peers = checks.as_array().and_then(|all| all.iter().find(|check| check["name"] == "peers").cloned());
            let message = peers.as_ref().map_or(Value::Null, |check| check["message"].clone());
            if message == "2 of 2 servers of the region, 0 other regions" { Ok(()) } else { Err(checks.to_string()) }
        })
        .await;
    }
    // A name server that is gone takes nobody with it, not even one that starts.
    dns.stop();
    runners[2].kill();
    runners[2].start().await;
    eventually("the third is back in the group", BOUND, async || {
        let meta = meta(&runners[2]).await;
        if meta["leader"].is_string() { Ok(()) } else { Err(meta.to_string()) }
    })
    .await;
    for runner in &runners[..2] {
        let status = runner.status().await.expect("it answers");
        assert_eq!(status["restarts"], 0, "{status}");
    }
}

#[tokio::test]
async fn knot_serves_the_names_as_well() {
    found_by("knot_serves_the_names_as_well", Maker::Knot).await;
}

#[tokio::test]
async fn unbound_serves_the_names_as_well() {
    found_by("unbound_serves_the_names_as_well", Maker::Unbound).await;
}
