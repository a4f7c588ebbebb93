//! What Kith takes for granted of nats-server, each with what would break if a later one were otherwise.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use kith_tests::fetched::nats_server;
use kith_tests::lab::{NatsServer, eventually, nats_address, nats_check};
use serde_json::Value;

/// For a busy machine. nats-server itself takes a second.
const BOUND: Duration = Duration::from_secs(30);
/// How long nothing is to happen. A group that forms does so within two seconds.
const NOTHING: Duration = Duration::from_secs(6);

/// A server of a cluster `region` with these routes and gateways.
fn clustered(name: &str, own: Ipv4Addr, region: &str, routes: &[Ipv4Addr], gateways: &[(&str, &[Ipv4Addr])]) -> String {
    let urls = |servers: &[Ipv4Addr], port: u16| -> String {
        servers.iter().map(|server| format!("\"nats://{server}:{port}\"\n")).collect()
    };
    let mut text = format!("server_name: {name}\ncluster {{ name: {region}, listen: \"{own}:6222\"\nroutes: [\n");
    write!(text, "{}] }}\ngateway {{ name: {region}, listen: \"{own}:7222\"\ngateways: [\n", urls(routes, 6222))
        .expect("a text takes all");
    for (region, servers) in gateways {
        writeln!(text, "{{ name: {region}, urls: [\n{}] }}", urls(servers, 7222)).expect("a text takes all");
    }
    text + "] }\n"
}

/// Three servers of one region, started.
fn three(binary: &Path, folder: &Path, gateways: &[(&str, &[Ipv4Addr])]) -> (Vec<NatsServer>, Vec<Ipv4Addr>) {
    let routes: Vec<Ipv4Addr> = (0..3).map(nats_address).collect();
    let servers = (0..3).map(|number| {
        let mut server = NatsServer::new(binary, folder, number);
        server.start(&clustered(&format!("s{number}"), server.address(), "ams", &routes, gateways));
        server
    });
    (servers.collect(), routes)
}

async fn leader(server: &NatsServer) -> Result<String, String> {
    let jsz = server.monitor("/jsz").await;
    jsz["meta_cluster"]["leader"].as_str().map(ToOwned::to_owned).ok_or_else(|| jsz["meta_cluster"].to_string())
}

/// Whoever waits for a group that is not to form waits for so long, and looks.
async fn no_leader_for(server: &NatsServer, span: Duration) {
    let end = std::time::Instant::now() + span;
    eventually("the time is over", BOUND, async || match leader(server).await {
        Ok(leader) => panic!("{leader} leads"),
        Err(_) if std::time::Instant::now() >= end => Ok(()),
        Err(seen) => Err(seen),
    })
    .await;
}

/// What Kith asks whether a server lives is not what it takes to serve streams: else all servers of a region would be out
/// of DNS while none leads, and could not find each other to have one lead.
async fn lives_without_a_leader(server: &NatsServer) {
    assert_eq!(server.monitor("/healthz?js-server-only=true").await["status"], "ok");
    assert_ne!(server.monitor("/healthz").await["status"], "ok");
    leader(server).await.expect_err("nobody leads");
}

fn gateways(gatewayz: &Value) -> Vec<String> {
    gatewayz["outbound_gateways"].as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default()
}

#[test]
fn each_configuration_that_is_rendered_is_taken() {
    let Some(binary) = nats_server("each_configuration_that_is_rendered_is_taken") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let key = rcgen::generate_simple_self_signed(["10.0.0.1".to_owned()]).expect("a certificate");
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("c.pem"), key.cert.pem()).expect("room");
    fs::write(at("k.pem"), key.signing_key.serialize_pem()).expect("room");
    fs::write(at("leaf.creds"), "").expect("room");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nats/src/render/snapshots");
    let mut taken = 0;
    for entry in fs::read_dir(golden).expect("golden texts").map(|entry| entry.expect("an entry").path()) {
        let text = fs::read_to_string(&entry).expect("text");
        let text = text.splitn(3, "---\n").nth(2).expect("a header and a text");
        if !text.contains("server_name") {
            continue;
        }
        let paths = [("/c.pem", "c.pem"), ("/ca.pem", "c.pem"), ("/k.pem", "k.pem"), ("/leaf.creds", "leaf.creds")];
        let text = paths
            .iter()
            .fold(text.to_owned(), |text, (old, new)| text.replace(&format!("\"{old}\""), &format!("\"{}\"", at(new))));
        fs::write(at("nats.conf"), &text).expect("room");
        nats_check(&binary, Path::new(&at("nats.conf"))).unwrap_or_else(|said| panic!("{}: {said}", entry.display()));
        taken += 1;
    }
    assert_eq!(taken, 5);
}

#[test]
fn a_lame_duck_of_less_than_half_a_minute_is_refused() {
    let Some(binary) = nats_server("a_lame_duck_of_less_than_half_a_minute_is_refused") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("nats.conf");
    fs::write(&file, "lame_duck_duration: \"29s\"\n").expect("room");
    let said = nats_check(&binary, &file).expect_err("it is too short");
    assert!(said.contains("minimum is 30 seconds"), "{said}");
    fs::write(&file, "lame_duck_duration: \"30s\"\n").expect("room");
    nats_check(&binary, &file).expect("it is long enough");
}

#[tokio::test]
async fn another_gateway_block_has_all_of_a_reload_refused() {
    let Some(binary) = nats_server("another_gateway_block_has_all_of_a_reload_refused") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let own = nats_address(0);
    let mut server = NatsServer::new(&binary, folder.path(), 0);
    let with = |gateways: &[(&str, &[Ipv4Addr])], rest: &str| clustered("a", own, "ams", &[own], gateways) + rest;
    server.start(&with(&[], ""));
    eventually("it runs", BOUND, async || {
        server.monitor("/varz").await["server_name"].as_str().map(drop).ok_or("not yet".to_owned())
    })
    .await;
    let other = [("iad", &[nats_address(7)][..])];
    let said = server.reload(&with(&other, "max_payload: 2000000\n")).await.expect_err("gateways are not reloaded");
    assert!(said.contains("not supported for Gateway"), "{said}");
    assert_eq!(server.monitor("/varz").await["max_payload"], 1_048_576, "the rest is refused with it");
    server.reload(&with(&[], "max_payload: 2000000\n")).await.expect("with the block it started with");
    assert_eq!(server.monitor("/varz").await["max_payload"], 2_000_000);
    for (rest, what) in [("max_subscriptions: 9\n", "MaxSubs"), ("lame_duck_duration: \"60s\"\n", "LameDuck")] {
        let said = server.reload(&with(&[], rest)).await.expect_err("it takes a restart");
        assert!(said.contains(what), "{said}");
    }
}

#[tokio::test]
async fn a_region_that_joins_is_known_to_all_without_a_signal() {
    let Some(binary) = nats_server("a_region_that_joins_is_known_to_all_without_a_signal") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (servers, home) = three(&binary, folder.path(), &[]);
    eventually("the group forms", BOUND, async || leader(&servers[0]).await).await;
    let mut joined = Vec::new();
    for (number, region) in [(3, "iad"), (4, "syd")] {
        let mut server = NatsServer::new(&binary, folder.path(), number);
        let own = server.address();
        server.start(&clustered(region, own, region, &[own], &[("ams", &home)]));
        // Of two that come in the same moment one may never hear of the other.
        eventually("it is known", BOUND, async || {
            let known = gateways(&servers[0].monitor("/gatewayz").await);
            if known.iter().any(|name| name == region) { Ok(()) } else { Err(format!("{known:?}")) }
        })
        .await;
        joined.push(server);
    }
    for server in &servers {
        eventually("both regions are known", BOUND, async || {
            let known = gateways(&server.monitor("/gatewayz").await);
            if known == ["iad", "syd"] { Ok(()) } else { Err(format!("{known:?}")) }
        })
        .await;
        assert!(!server.log().contains("Trapped"), "no signal was needed");
    }
    eventually("the two that joined know each other", BOUND, async || {
        let known = gateways(&joined[0].monitor("/gatewayz").await);
        if known == ["ams", "syd"] { Ok(()) } else { Err(format!("{known:?}")) }
    })
    .await;
}

/// Why the first list of all has to settle, and why a server counts its own address and each other's once: the number of
/// addresses is taken for the number of servers, for ever.
#[tokio::test]
async fn jetstream_first_forms_when_all_that_are_listed_have_come_and_does_not_learn_better() {
    let Some(binary) = nats_server("jetstream_first_forms_when_all_that_are_listed_have_come") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (mut servers, routes) = three(&binary, folder.path(), &[("iad", &[nats_address(7)])]);
    no_leader_for(&servers[0], NOTHING).await;
    for server in &servers {
        lives_without_a_leader(server).await;
    }
    for server in &mut servers {
        server.kill();
    }
    for (number, server) in servers.iter_mut().enumerate() {
        server.start(&clustered(&format!("s{number}"), server.address(), "ams", &routes, &[]));
    }
    no_leader_for(&servers[0], NOTHING).await;
    assert_eq!(servers[0].monitor("/jsz").await["meta_cluster"]["cluster_size"], 4, "three, and one that never was");
}

/// Once it has formed, an address at which nobody is harms nobody.
#[tokio::test]
async fn a_dead_address_harms_no_group_that_has_formed() {
    let Some(binary) = nats_server("a_dead_address_harms_no_group_that_has_formed") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (mut servers, mut routes) = three(&binary, folder.path(), &[]);
    eventually("the group forms", BOUND, async || leader(&servers[0]).await).await;
    routes.push(nats_address(7));
    let text = |number: usize, server: &NatsServer| {
        clustered(&format!("s{number}"), server.address(), "ams", &routes, &[("iad", &[nats_address(6)])])
    };
    for server in &mut servers {
        server.kill();
    }
    let first = text(0, &servers[0]);
    servers[0].start(&first);
    no_leader_for(&servers[0], NOTHING).await;
    lives_without_a_leader(&servers[0]).await;
    for (number, server) in servers.iter_mut().enumerate().skip(1) {
        server.start(&text(number, server));
    }
    eventually("it leads again", BOUND, async || leader(&servers[0]).await).await;
    let routed = clustered("s0", servers[0].address(), "ams", &routes[..3], &[("iad", &[nats_address(6)])]);
    servers[0].reload(&routed).await.expect("routes are reloaded");
}

#[tokio::test]
async fn a_clustered_server_without_a_route_does_not_start() {
    let Some(binary) = nats_server("a_clustered_server_without_a_route_does_not_start") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = NatsServer::new(&binary, folder.path(), 0);
    let own = server.address();
    server.start(&clustered("a", own, "ams", &[], &[]));
    eventually("it ends", BOUND, async || if server.ended() { Ok(()) } else { Err("it runs".to_owned()) }).await;
    assert!(server.log().contains("requires configured routes"), "{}", server.log());
}

#[tokio::test]
async fn a_second_server_of_a_name_is_kept_out_and_goes_on_alone() {
    let Some(binary) = nats_server("a_second_server_of_a_name_is_kept_out_and_goes_on_alone") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (servers, routes) = three(&binary, folder.path(), &[]);
    eventually("the group forms", BOUND, async || leader(&servers[0]).await).await;
    let mut second = NatsServer::new(&binary, folder.path(), 3);
    let own = second.address();
    second.start(&clustered("s0", own, "ams", &[routes[0]], &[]));
    eventually("the first says so", BOUND, async || {
        if servers[0].log().contains("Remote server has a duplicate name: \"s0\"") {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    })
    .await;
    assert!(!second.ended(), "it runs, and belongs to nobody");
    leader(&second).await.expect_err("it has no group");
}
