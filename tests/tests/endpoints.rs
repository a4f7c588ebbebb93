//! Where tunnels end: of a server that is reached at two addresses one dies, and packets go to the other; needs root.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use kith_tests::lab::{Mesh, Node, eventually};
use serde_json::Value;

/// For a busy machine.
const BOUND: Duration = Duration::from_secs(60);
/// Within this packets pass again.
const PROMISED: Duration = Duration::from_secs(20);
/// The second server's other address.
const OTHER: &str = "10.78.0.102";

fn must(command: &mut Command) -> Output {
    let output = command.output().expect("it can be run");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Nothing comes to `address` of the second server any more, and nothing from there to the first; or all does again.
fn wall(mesh: &Mesh, change: &str, address: &str) {
    let rule = |node: &Node, side| {
        let rule = ["-w", "-t", "raw", change, "PREROUTING", side, address, "-j", "DROP"];
        must(node.inside("iptables").args(rule));
    };
    rule(&mesh.nodes[0], "-s");
    rule(&mesh.nodes[1], "-d");
}

/// The tunnel from the first server to the second, as the first shows it.
async fn tunnel(node: &Node) -> Result<Value, String> {
    let shown = Mesh::shown(node, "endpoints").await?;
    let tunnels = shown["detail"]["tunnels"].as_array().cloned().unwrap_or_default();
    tunnels.into_iter().find(|tunnel| tunnel["server"] == "n2").ok_or_else(|| shown.to_string())
}

/// Waits until it carries packets, and ends there, and the peer cache knows.
async fn settled(node: &Node, endpoint: &str) {
    eventually(&format!("the tunnel is up at {endpoint}"), BOUND, async || {
        let tunnel = tunnel(node).await?;
        let up = tunnel["state"] == "up" && tunnel["endpoint"] == endpoint && tunnel["round_trip_ms"].is_number();
        let cache = std::fs::read_to_string(node.data().join("peers.json")).map_err(|e| e.to_string())?;
        let cache: Value = serde_json::from_str(&cache).map_err(|e| e.to_string())?;
        let known = cache["servers"]["n2"]["worked"] == endpoint;
        if up && known { Ok(()) } else { Err(format!("{tunnel} {cache}")) }
    })
    .await;
}

#[tokio::test]
async fn where_the_endpoint_in_use_dies_packets_go_to_another_within_20_s() {
    let test = "where_the_endpoint_in_use_dies_packets_go_to_another_within_20_s";
    let Some(mut mesh) = Mesh::of(test, 2) else { return };
    let first = mesh.links.addresses(2).gossip.ip().to_string();
    must(mesh.nodes[1].inside("ip").args(["addr", "add", &format!("{OTHER}/24"), "dev", "eth0"]));
    mesh.nodes[1].set(format!("daemon.endpoints={first}:31820,{OTHER}:31820"));
    mesh.start([1, 2]).await;
    Mesh::reached(&mesh.nodes[0], 2).await;
    settled(&mesh.nodes[0], &format!("{first}:31820")).await;
    let to = Mesh::management(&mesh.nodes[0], 2).await.expect("an address");

    for (dies, lives) in [(first.as_str(), OTHER), (OTHER, first.as_str())] {
        let begun = Instant::now();
        wall(&mesh, "-I", dies);
        assert!(Mesh::ping(&mesh.nodes[0], &to).is_err(), "{dies} still carries");
        eventually("packets pass again", BOUND, async || Mesh::ping(&mesh.nodes[0], &to)).await;
        let took = begun.elapsed();
        eprintln!("{dies} died → packets pass by {lives}: {took:?}, promised {PROMISED:?}");
        assert!(took <= PROMISED, "{took:?}");
        settled(&mesh.nodes[0], &format!("{lives}:31820")).await;
        wall(&mesh, "-D", dies);
    }
    let sql = "SELECT endpoints FROM servers WHERE id = 'n2'";
    let rows = mesh.nodes[0].api().query(sql).await.expect("it is asked");
    assert_eq!(rows[0][0], format!(r#"["{first}:31820","{OTHER}:31820"]"#), "the row is its own server's");
}
