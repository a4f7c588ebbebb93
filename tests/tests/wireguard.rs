//! WireGuard between whole servers (G10): `kith agent` in network namespaces, with wireguard-go where the kernel has none. Packets
//! go from one to the other by their management addresses; needs root.

use std::process::Stdio;
use std::time::{Duration, Instant};

use kith_tests::lab::{Mesh, Node, eventually, kith};
use kith_tests::skip::skip;
use serde_json::json;

/// For a busy machine; what is promised is said where it is measured.
const BOUND: Duration = Duration::from_secs(30);
/// Within this of its start a server that joins carries packets.
const JOINED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn g10_servers_find_each_other_by_rows_and_only_a_removal_takes_a_tunnel_away() {
    let test = "g10_servers_find_each_other_by_rows_and_only_a_removal_takes_a_tunnel_away";
    let Some(mut mesh) = Mesh::of(test, 3) else { return };
    mesh.start([1, 2]).await;
    Mesh::reached(&mesh.nodes[0], 2).await;
    assert!(Mesh::ping(&mesh.nodes[1], "10.210.1.1").is_ok(), "the server's own address is behind its tunnel");

    // One that joins: its number is entered before it starts.
    Mesh::invite(&mesh.nodes[0], 3).await;
    mesh.nodes[2].launch();
    let begun = Instant::now();
    mesh.nodes[2].ready().await;
    let ready = begun.elapsed();
    let to = Mesh::reached(&mesh.nodes[2], 1).await;
    let all = to.max(Mesh::reached(&mesh.nodes[1], 3).await);
    eprintln!("joiner: ready {ready:?} after its start, carried packets {all:?} after that");
    assert!(all <= JOINED, "carried packets {all:?} after it was ready");

    // Its key is where it belongs and nowhere else.
    let secret = std::fs::read_to_string(mesh.nodes[0].data().join("wireguard.key")).expect("a key");
    assert!(!mesh.nodes[0].log().contains(secret.trim()), "the private key is in the log");
    eventually("both peers are shown, and the key is not", BOUND, async || {
        let shown = Mesh::shown(&mesh.nodes[0], "peers").await?;
        assert!(!shown.to_string().contains(secret.trim()), "{shown}");
        let whole = shown["error"].is_null() && shown["detail"]["peers"].as_array().map(Vec::len) == Some(2);
        if whole { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;

    // Restarted, it cuts nothing: a packet every 100 ms the whole time.
    let to = Mesh::management(&mesh.nodes[0], 2).await.expect("an address");
    let mut pings = mesh.nodes[0].inside("ping");
    let pings =
        pings.args(["-n", "-q", "-i", "0.1", "-c", "80", "-W", "1", &to]).stdout(Stdio::piped()).spawn().expect("ping");
    mesh.nodes[1].stop().await;
    mesh.nodes[1].start().await;
    eventually("n2 has looked again", BOUND, async || Mesh::shown(&mesh.nodes[1], "peers").await.map(drop)).await;
    let pings = pings.wait_with_output().expect("ping ends");
    let said = String::from_utf8_lossy(&pings.stdout).into_owned();
    assert!(said.contains(" 0% packet loss"), "while n2 was restarted: {said}");

    // Rows that somebody deletes take nothing away.
    mesh.nodes[0].api().execute("DELETE FROM servers", &json!([])).await.expect("it is written");
    let whole = async |node: &Node| {
        let sql = "SELECT id FROM servers WHERE wireguard_pubkey <> '' AND subnet <> '' AND endpoints <> '[]'";
        let rows = node.api().query(sql).await?;
        assert_eq!((Mesh::peers(1), Mesh::peers(2), Mesh::peers(3)), (2, 2, 2), "rows are gone, peers stay");
        Mesh::ping(&mesh.nodes[0], &to)?;
        if rows.len() == 3 { Ok(()) } else { Err(format!("{rows:?}")) }
    };
    eventually("all rows are back", BOUND, async || whole(&mesh.nodes[0]).await).await;

    // An operator's word does, after its time.
    let begun = Instant::now();
    let sql = "UPDATE servers SET removed_at = 5 WHERE id = 'n3'";
    mesh.nodes[0].api().execute(sql, &json!([])).await.expect("it is written");
    eventually("n3 is a peer of nobody", BOUND, async || {
        let left = (Mesh::peers(1), Mesh::peers(2));
        assert!(left == (2, 2) || begun.elapsed() >= Mesh::HOLD, "gone after {:?}: {left:?}", begun.elapsed());
        if left == (1, 1) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    eprintln!("removed: gone after {:?}, of which {:?} are waited", begun.elapsed(), Mesh::HOLD);
    assert!(Mesh::ping(&mesh.nodes[0], &to).is_ok(), "the others' tunnel stays");
}

#[tokio::test]
async fn g10_tunnels_stay_while_the_store_is_away_and_the_daemon_is_restarted_without_it() {
    let test = "g10_tunnels_stay_while_the_store_is_away_and_the_daemon_is_restarted_without_it";
    let Some(mut mesh) = Mesh::of(test, 2) else { return };
    mesh.start([1, 2]).await;
    Mesh::reached(&mesh.nodes[0], 2).await;
    let to = Mesh::management(&mesh.nodes[0], 2).await.expect("an address");
    mesh.nodes[0].stop().await;
    assert!(Mesh::ping(&mesh.nodes[0], &to).is_ok(), "nobody is there, and the tunnel is");

    // The interface goes, as in a reboot; the daemon comes back alone, with nothing but its peer cache.
    let gone = mesh.nodes[0].inside("ip").args(["link", "del", &Mesh::interface(1)]).output().expect("ip");
    assert!(gone.status.success() && Mesh::ping(&mesh.nodes[0], &to).is_err());
    let node = mesh.nodes.remove(0);
    let [mut daemon] = node.alone(["daemon"]);
    daemon.launch();
    let begun = Instant::now();
    eventually("the tunnel is back without a store", BOUND, async || Mesh::ping(&daemon, &to)).await;
    eprintln!("daemon alone: tunnel back after {:?}", begun.elapsed());
    assert_eq!(Mesh::peers(1), 1);
    daemon.stop().await;
    mesh.nodes.insert(0, daemon);
}

#[tokio::test]
async fn an_interface_that_somebody_else_made_is_reported_and_left_alone() {
    let test = "an_interface_that_somebody_else_made_is_reported_and_left_alone";
    let Some(mut mesh) = Mesh::of(test, 1) else { return };
    let made = mesh.nodes[0]
        .inside("ip")
        .args(["tuntap", "add", "dev", &Mesh::interface(1), "mode", "tun"])
        .output()
        .expect("ip");
    if !made.status.success() {
        return skip(test, "no link of another kind can be made here");
    }
    let look = |node: &Node| {
        let shown = node.inside("ip").args(["addr", "show", &Mesh::interface(1)]).output().expect("ip");
        String::from_utf8_lossy(&shown.stdout).into_owned()
    };
    let before = look(&mesh.nodes[0]);
    mesh.start([1]).await;
    eventually("it is reported", BOUND, async || {
        let shown = Mesh::shown(&mesh.nodes[0], "peers").await?;
        let error = shown["error"].as_str().unwrap_or_default();
        if error.contains("is no WireGuard interface") { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    assert_eq!(look(&mesh.nodes[0]), before);
}

#[tokio::test]
async fn uninstalling_takes_away_the_interface_that_is_ours_and_no_other() {
    let test = "uninstalling_takes_away_the_interface_that_is_ours_and_no_other";
    let Some(mut mesh) = Mesh::of(test, 1) else { return };
    mesh.start([1]).await;
    let interface = Mesh::interface(1);
    let is_there = |node: &Node| node.inside("ip").args(["link", "show", &interface]).output().expect("ip").status;
    eventually("the interface is there, with its key", BOUND, async || {
        Mesh::shown(&mesh.nodes[0], "peers").await?;
        let has_key = is_there(&mesh.nodes[0]).success() && Mesh::has_key(1);
        if has_key { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    mesh.nodes[0].stop().await;
    let root = tempfile::tempdir().expect("a temporary folder can be made");
    let uninstall = |node: &Node| {
        let mut command = node.inside(&kith().display().to_string());
        command.arg("uninstall").arg("--apply").arg("--root").arg(root.path());
        for setting in [
            format!("node.data_dir={}", node.data().display()),
            format!("daemon.interface={interface}"),
            "daemon.docker=none".to_owned(),
        ] {
            command.args(["--set", &setting]);
        }
        let output = command.output().expect("kith runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // With another key it is somebody else's.
    let (key, aside) = (mesh.nodes[0].data().join("wireguard.key"), root.path().join("aside"));
    std::fs::rename(&key, &aside).expect("the key is there");
    let said = uninstall(&mesh.nodes[0]);
    assert!(said.contains(&format!("leave the interface {interface}")) && is_there(&mesh.nodes[0]).success(), "{said}");
    assert!(!key.exists(), "a key was made");
    std::fs::rename(&aside, &key).expect("the key can be put back");
    let said = uninstall(&mesh.nodes[0]);
    assert!(
        said.contains(&format!("remove the interface {interface}")) && !is_there(&mesh.nodes[0]).success(),
        "{said}"
    );
    eventually("wireguard-go has ended", BOUND, async || {
        let socket = format!("/var/run/wireguard/{interface}.sock");
        if std::path::Path::new(&socket).exists() { Err(socket) } else { Ok(()) }
    })
    .await;
}
