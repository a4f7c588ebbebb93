//! `kith doctor` in a cluster whose links and processes fail: it names the cause.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kith_tests::lab::{Fleet, Mesh, Node, eventually, kith};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(60);

/// What it says on a node, run beside it: all lines, and whether nothing fails.
async fn doctor(node: &Node, resolver: &Path) -> Result<(Vec<Value>, bool), String> {
    let data = node.data();
    let folder = data.parent().expect("it is in the node's folder");
    let mut command = tokio::process::Command::from(node.beside(resolver));
    command.arg(kith()).args(["doctor", "--json", "--api"]).arg(format!("unix:{}", folder.join("api.sock").display()));
    command.arg("--config").arg(folder.join("kith.toml"));
    let output = command.output().await.map_err(|e| e.to_string())?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let checks = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let checks = checks.map_err(|e| format!("{e}: {lines}{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((checks, output.status.success()))
}

/// Waits until it says this of a layer of a server.
async fn says(node: &Node, resolver: &Path, server: &str, layer: &str, words: &str) {
    eventually(&format!("doctor says of {server}, {layer}: {words}"), BOUND, async || {
        let (checks, healthy) = doctor(node, resolver).await?;
        let said = checks.iter().filter(|check| check["server"] == server && check["layer"] == layer);
        let said: Vec<&str> = said.filter_map(|check| check["what"].as_str()).collect();
        if !healthy && said.iter().any(|what| what.contains(words)) { Ok(()) } else { Err(format!("{checks:#?}")) }
    })
    .await;
}

fn resolver(folder: &tempfile::TempDir) -> PathBuf {
    let resolver = folder.path().join("resolv.conf");
    std::fs::write(&resolver, "nameserver 127.0.0.1\n").expect("the folder can be written");
    resolver
}

#[tokio::test]
async fn the_cause_is_named_whether_a_port_is_blocked_a_process_gone_or_a_name_server_away() {
    let test = "the_cause_is_named_whether_a_port_is_blocked_a_process_gone_or_a_name_server_away";
    let Some(mut fleet) = Fleet::start(test, 2, |_| {}).await else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let resolver = resolver(&folder);
    eventually("nothing fails", BOUND, async || {
        let (checks, healthy) = doctor(&fleet.nodes[0], &resolver).await?;
        let layers: Vec<&str> = checks.iter().filter_map(|check| check["layer"].as_str()).collect();
        let all = ["store", "certificate", "dns", "udp", "gossip"].iter().all(|layer| layers.contains(layer));
        if healthy && all { Ok(()) } else { Err(format!("{checks:#?}")) }
    })
    .await;

    fleet.links.cut("1", "2");
    says(&fleet.nodes[0], &resolver, "n2", "udp", "does not answer").await;
    says(&fleet.nodes[0], &resolver, "n2", "gossip", "not heard").await;
    fleet.links.heal();
    fleet.nodes[1].stop().await;
    says(&fleet.nodes[0], &resolver, "n2", "udp", "nobody listens there").await;

    fleet.nodes[0].stop().await;
    fleet.nodes[0].set("dns.enabled=false");
    fleet.nodes[0].start().await;
    says(&fleet.nodes[0], &resolver, "n1", "dns", "no answer at 127.0.0.1:53").await;
}

#[tokio::test]
async fn a_tunnel_that_carries_nothing_or_short_packets_alone_is_named_by_what_its_daemon_says() {
    let test = "a_tunnel_that_carries_nothing_or_short_packets_alone_is_named_by_what_its_daemon_says";
    let Some(mut mesh) = Mesh::of(test, 2) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let resolver = resolver(&folder);
    mesh.start([1, 2]).await;
    eventually("tunnel and MTU are well", BOUND, async || {
        let (checks, healthy) = doctor(&mesh.nodes[0], &resolver).await?;
        let says = |layer: &str, words: &str| {
            let is_it = |check: &&Value| check["server"] == "n2" && check["layer"] == layer && check["state"] == "ok";
            checks.iter().find(is_it).and_then(|check| check["what"].as_str()).is_some_and(|what| what.contains(words))
        };
        let all = says("tunnel", "ms there and back by 10.78.0.2:31820") && says("mtu", "packets of 1420 bytes pass");
        if healthy && all { Ok(()) } else { Err(format!("{checks:#?}")) }
    })
    .await;

    mesh.links.spoil(&["mtu=1280"]);
    says(&mesh.nodes[0], &resolver, "n2", "mtu", "packets of 1420 bytes are lost, and short ones pass").await;
    mesh.links.cut("1", "2");
    says(&mesh.nodes[0], &resolver, "n2", "tunnel", "no packet comes through, last by 10.78.0.2:31820").await;

    // What the handshakes say is what counts where the other end does not echo: its words are the daemon's too.
    let shown = Mesh::shown(&mesh.nodes[0], "peers").await.expect("it is shown");
    let peer = &shown["detail"]["peers"][0];
    assert!(peer["server"] == "n2" && peer["state"] == "wanted" && peer["handshake_s_ago"].is_u64(), "{shown}");
}
