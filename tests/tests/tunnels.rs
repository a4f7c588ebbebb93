//! Tunnels while things break (G10): a link that flaps, a store that is an old copy, most servers removed at once, a server that may not
//! change its network. What carries packets goes on; needs root.
//!
//! With `KITH_FAULTS=long` the link flaps for five minutes, as `scripts/soak faults` has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kith_tests::lab::{Mesh, Node, Run, eventually};
use kith_tests::verify::times;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{MissedTickBehavior, interval};

/// For a busy machine; what is promised is said where it is measured.
const BOUND: Duration = Duration::from_secs(60);
/// From the end of a fault until all is as before.
const HEALED: Duration = Duration::from_secs(20);
/// How long a link flaps.
const FLAPPING: (Duration, Duration) = (Duration::from_secs(25), Duration::from_secs(300));
/// How long it is cut, and how long it is whole, in seconds: shorter and longer than it takes until a server is silent (10 s) and a
/// tunnel's endpoint is tried elsewhere (13 s).
const FLAPS: [(u64, u64); 5] = [(2, 1), (1, 3), (11, 2), (4, 4), (16, 3)];

/// The servers and containers that a node has.
async fn rows(node: &Node) -> Result<Vec<Value>, String> {
    let select = "SELECT id FROM servers WHERE removed_at IS NULL UNION ALL SELECT id FROM containers ORDER BY 1";
    node.api().query(select).await
}

/// The alarms of a node, by name, each with its text.
async fn alarms(node: &Node) -> Result<Vec<(String, String)>, String> {
    let status = node.api().get("/v1/status").await?.json();
    let text = |alarm: &Value, key: &str| alarm[key].as_str().unwrap_or_default().to_owned();
    Ok(status["alarms"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|alarm| (text(alarm, "name"), text(alarm, "text")))
        .collect())
}

/// The addresses that a node answers for the service, in order.
async fn answered(node: &Node) -> Result<Vec<String>, String> {
    let mut found: Vec<_> =
        node.resolve("casa-api.internal").await?.addresses.iter().map(ToString::to_string).collect();
    found.sort();
    Ok(found)
}

/// Where the container of a server is.
fn container(number: usize) -> String {
    format!("10.210.{}.7", 128 + number)
}

/// A service with a container on each of three servers, in rows.
async fn serve(mesh: &Mesh) -> Vec<String> {
    let node = &mesh.nodes[0];
    node.api()
        .execute("INSERT INTO services (project, name) VALUES ('casa', 'api')", &json!([]))
        .await
        .expect("written");
    let insert =
        "INSERT INTO containers (id, project, service, server_id, ip, instance_id) VALUES (?, 'casa', 'api', ?, ?, ?)";
    for number in 1..=mesh.nodes.len() {
        let row = json!([format!("{number:a>12}"), format!("n{number}"), container(number), format!("{number}")]);
        node.api().execute(insert, &row).await.expect("written");
    }
    (1..=mesh.nodes.len()).map(container).collect()
}

async fn all_answered(mesh: &Mesh, all: &[String]) {
    for node in &mesh.nodes {
        eventually(&format!("{} answers all", node.name), BOUND, async || {
            let found = answered(node).await?;
            if found == all { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
}

/// Every server reaches every other by its tunnel.
async fn whole(mesh: &Mesh) -> Duration {
    let begun = Instant::now();
    for from in &mesh.nodes {
        for to in (1..).take(mesh.nodes.len()).filter(|to| format!("n{to}") != from.name) {
            Mesh::reached(from, to).await;
        }
    }
    begun.elapsed()
}

/// What was seen while the link flapped.
#[derive(Default)]
struct Seen {
    samples: u32,
    /// Answers without a container of the other end.
    without: u32,
    /// Looks at which there was an alarm.
    alarmed: u32,
}

/// The last packet may be under way.
fn all_but_the_last(came: u64, went: u64) -> bool {
    came + 1 >= went
}

#[tokio::test]
async fn a_link_that_flaps_destroys_nothing_and_all_is_as_before_20_s_after_it_has_stopped() {
    let test = "a_link_that_flaps_destroys_nothing_and_all_is_as_before_20_s_after_it_has_stopped";
    let Some(mesh) = Mesh::of(test, 3) else { return };
    // Gossip goes by the third, so that no name is missing.
    assert_eq!(flap(mesh).await.without, 0);
}

#[tokio::test]
async fn of_two_servers_whose_only_link_flaps_each_answers_what_it_hears_and_keeps_all() {
    let test = "of_two_servers_whose_only_link_flaps_each_answers_what_it_hears_and_keeps_all";
    let Some(mesh) = Mesh::of(test, 2) else { return };
    flap(mesh).await;
}

/// Has the link between the first two flap.
async fn flap(mut mesh: Mesh) -> Seen {
    let servers = mesh.nodes.len();
    mesh.start((1..).take(servers)).await;
    whole(&mesh).await;
    let all = serve(&mesh).await;
    all_answered(&mesh, &all).await;
    let before = rows(&mesh.nodes[0]).await.expect("it answers");
    let mut pings = Vec::new();
    for number in (2..).take(servers - 1) {
        let to = Mesh::management(&mesh.nodes[0], number).await.expect("an address");
        pings.push((number, Mesh::pings(&mesh.nodes[0], &to)));
    }

    let (begun, mut healed, lasting, mut seen) =
        (Instant::now(), Instant::now(), times(FLAPPING.0, FLAPPING.1), Seen::default());
    for (cut, well) in FLAPS.into_iter().cycle() {
        mesh.links.cut("1", "2");
        sample(&mesh, cut, &before, &mut seen).await;
        mesh.links.heal();
        healed = Instant::now();
        sample(&mesh, well, &before, &mut seen).await;
        if begun.elapsed() >= lasting {
            break;
        }
    }
    let flapped = healed.duration_since(begun);
    all_answered(&mesh, &all).await;
    let named = healed.elapsed();
    whole(&mesh).await;
    for node in &mesh.nodes {
        eventually(&format!("{} has no alarm left", node.name), BOUND, async || {
            let alarms = alarms(node).await?;
            if alarms.is_empty() { Ok(()) } else { Err(format!("{alarms:?}")) }
        })
        .await;
        assert_eq!(rows(node).await.as_ref(), Ok(&before), "rows of {} after", node.name);
    }
    let took = healed.elapsed();
    let Seen { samples, without, alarmed } = seen;
    eprintln!(
        "{servers} servers, a link flapped for {flapped:?}: {samples} samples of rows, peers and names at both ends, none with less; {without} \
         answers without the other end's container, {alarmed} with an alarm; answered by all {named:?} after, all as before {took:?} after"
    );
    for (number, pings) in pings {
        let (went, came) = pings.end();
        eprintln!("n1 to n{number}: {came} of {went} packets came back");
        assert!(number == 2 || all_but_the_last(came, went), "packets that do not go by the link: {came} of {went}");
    }
    assert!((1..).take(servers).all(|number| Mesh::peers(number) == servers - 1), "peers after");
    assert!(took <= HEALED, "as before {took:?} after the last flap");
    seen
}

/// For so many seconds: no row goes, no peer goes, and each end answers its own, and what it hears.
async fn sample(mesh: &Mesh, seconds: u64, before: &[Value], seen: &mut Seen) {
    let mut tick = interval(Duration::from_millis(500));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (begun, servers) = (Instant::now(), mesh.nodes.len());
    while begun.elapsed() < Duration::from_secs(seconds) {
        tick.tick().await;
        for (number, other) in [(1, 2), (2, 1)] {
            let node = &mesh.nodes[number - 1];
            assert_eq!(rows(node).await.as_deref(), Ok(before), "rows of {}", node.name);
            let peers = Mesh::peers(u8::try_from(number).expect("few servers"));
            assert_eq!(peers, servers - 1, "peers of {}", node.name);
            let found = answered(node).await.expect("DNS answers its own host");
            let heard = (1..=servers).filter(|server| *server != other).map(container);
            assert!(heard.clone().all(|at| found.contains(&at)), "{} says {found:?}", node.name);
            seen.without += u32::from(!found.contains(&container(other)));
            let alarms = alarms(node).await.expect("a node answers its own host");
            seen.alarmed += u32::from(!alarms.is_empty());
        }
        seen.samples += 1;
    }
}

/// The files of a node's store.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("the lab's folder can be read").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kith.db"))).collect()
}

/// Puts what is in a folder in the place of a node's store.
fn replace(node: &Node, from: &Path) {
    files(&node.data()).iter().for_each(|file| fs::remove_file(file).expect("it can be removed"));
    for file in files(from) {
        fs::copy(&file, node.data().join(file.file_name().expect("a file"))).expect("it can be copied");
    }
}

#[tokio::test]
async fn g10_a_store_that_is_stopped_an_old_copy_or_empty_takes_no_tunnel_away() {
    let test = "g10_a_store_that_is_stopped_an_old_copy_or_empty_takes_no_tunnel_away";
    let Some(mut mesh) = Mesh::of(test, 3) else { return };
    mesh.start([1, 2]).await;
    Mesh::reached(&mesh.nodes[0], 2).await;
    // A copy of when there were two.
    let old = TempDir::new().expect("a temporary folder can be made");
    mesh.nodes[0].stop().await;
    for file in files(&mesh.nodes[0].data()) {
        fs::copy(&file, old.path().join(file.file_name().expect("a file"))).expect("it can be copied");
    }
    mesh.nodes[0].start().await;
    mesh.start([3]).await;
    whole(&mesh).await;
    let before = rows(&mesh.nodes[1]).await.expect("it answers");
    let mut pings = Vec::new();
    for number in [2, 3] {
        let to = Mesh::management(&mesh.nodes[0], number).await.expect("an address");
        pings.push((format!("n1 to n{number}"), Mesh::pings(&mesh.nodes[0], &to)));
    }
    let empty = TempDir::new().expect("a temporary folder can be made");
    for (what, with) in [("stopped", None), ("replaced by an old copy", Some(&old)), ("emptied", Some(&empty))] {
        mesh.nodes[0].stop().await;
        assert_eq!(Mesh::peers(1), 2, "{what}: while it is off");
        if let Some(with) = with {
            replace(&mesh.nodes[0], with.path());
        }
        mesh.nodes[0].launch();
        let begun = Instant::now();
        mesh.nodes[0].ready().await;
        eventually(&format!("{what}: its rows are back"), BOUND, async || {
            assert_eq!(Mesh::peers(1), 2, "{what}: peers after {:?}", begun.elapsed());
            let rows = rows(&mesh.nodes[0]).await?;
            if rows == before { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
        eprintln!(
            "store of n1 {what}: all its rows are back {:?} after its start, peers 2 of 2 all the time",
            begun.elapsed()
        );
    }
    assert_eq!([1, 2, 3].map(Mesh::peers), [2, 2, 2]);
    for (what, pings) in pings {
        let (went, came) = pings.end();
        eprintln!("{what}, all the time: {came} of {went} packets came back");
        assert!(all_but_the_last(came, went), "{what}: {came} of {went}");
    }
}

#[tokio::test]
async fn g10_of_most_servers_tombstoned_at_once_few_go_until_somebody_is_sure() {
    let test = "g10_of_most_servers_tombstoned_at_once_few_go_until_somebody_is_sure";
    let Some(mut mesh) = Mesh::of(test, 5) else { return };
    mesh.start([1, 2, 3, 4, 5]).await;
    whole(&mesh).await;
    let one = &mesh.nodes[0];
    let mut pings = Vec::new();
    for number in 3..=5 {
        let to = Mesh::management(one, number).await.expect("an address");
        pings.push((number, Mesh::pings(one, &to)));
    }
    // Four of five. The one of them that was seen first goes, which among equals is the first by name.
    one.api().execute("UPDATE servers SET removed_at = 5 WHERE id <> 'n1'", &json!([])).await.expect("it is written");
    eventually("it says that more stay", BOUND, async || {
        let alarms = alarms(one).await?;
        let held =
            alarms.iter().find(|(name, _)| name == "removals").map(|(_, text)| text.as_str()).unwrap_or_default();
        if held.starts_with("removed, and still a peer here: n3, n4, n5;") && Mesh::peers(1) == 3 {
            Ok(())
        } else {
            Err(format!("{alarms:?}"))
        }
    })
    .await;
    // Whoever was removed leaves its own tunnels alone once it sees that, within 10 s; the hold is shorter here.
    let left = [2, 3, 4, 5].map(Mesh::peers);
    assert!(left.iter().all(|peers| *peers >= 3), "more than the guard lets go: {left:?}");
    let passes = async || Mesh::shown(one, "peers").await.map(|shown| shown["passes"].as_u64().unwrap_or_default());
    let before = passes().await.expect("it shows them");
    eventually("it has looked again", BOUND, async || {
        let passes = passes().await?;
        if passes > before { Ok(()) } else { Err(passes.to_string()) }
    })
    .await;
    assert_eq!(Mesh::peers(1), 3, "a fifth of four, and never none");
    for (number, pings) in pings {
        let (went, came) = pings.end();
        eprintln!("n1 to n{number} while four of five were removed: {came} of {went} packets came back");
        assert!(all_but_the_last(came, went), "n{number}: {came} of {went}");
    }

    // It was a mistake.
    let begun = Instant::now();
    one.api().execute("UPDATE servers SET removed_at = NULL", &json!([])).await.expect("it is written");
    whole(&mesh).await;
    eprintln!("taken back: all reach all {:?} after", begun.elapsed());

    // And then it is none: one went of late, so that nobody else may, but for whom somebody is sure of.
    let api = format!("unix:{}", one.data().with_file_name("api.sock").display());
    for id in ["n3", "n4"] {
        let run = Run::of(["server", "remove", id, "--sure", "--api", &api]).await;
        assert!(run.code == Some(0) && run.stdout.contains("go within minutes"), "{}{}", run.stdout, run.stderr);
    }
    let run = Run::of(["server", "remove", "n5", "--api", &api]).await;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    eventually("two go, and the third stays", BOUND, async || {
        let alarms = alarms(one).await?;
        let held = alarms
            .iter()
            .any(|(name, text)| name == "removals" && text.starts_with("removed, and still a peer here: n5;"));
        if held && Mesh::peers(1) == 2 { Ok(()) } else { Err(format!("{} peers, {alarms:?}", Mesh::peers(1))) }
    })
    .await;
    let run = Run::of(["server", "remove", "n5", "--sure", "--api", &api]).await;
    assert!(run.stdout.contains("go within minutes"), "{}{}", run.stdout, run.stderr);
    eventually(
        "it goes, too",
        BOUND,
        async || {
            if Mesh::peers(1) == 1 { Ok(()) } else { Err(Mesh::peers(1).to_string()) }
        },
    )
    .await;
}

#[tokio::test]
async fn a_server_that_may_not_change_its_network_says_so_and_nobody_else_is_affected() {
    let test = "a_server_that_may_not_change_its_network_says_so_and_nobody_else_is_affected";
    let Some(mut mesh) = Mesh::of(test, 3) else { return };
    mesh.nodes[2].without("net_admin");
    mesh.start([1, 2, 3]).await;
    let three = &mesh.nodes[2];
    eventually("it says what it lacks", BOUND, async || {
        let shown = Mesh::shown(three, "peers").await?;
        let error = shown["error"].as_str().unwrap_or_default();
        if error.contains("CAP_NET_ADMIN") { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    let shown = Mesh::shown(three, "peers").await.expect("it shows that");
    eprintln!("without CAP_NET_ADMIN: {}", shown["error"]);
    // The others reach each other, and names and rows of the third go on.
    Mesh::reached(&mesh.nodes[0], 2).await;
    let all = serve(&mesh).await;
    all_answered(&mesh, &all).await;
    let others = Mesh::shown(&mesh.nodes[0], "peers").await.expect("it shows that");
    assert!(others["error"].is_null(), "{others}");
}
