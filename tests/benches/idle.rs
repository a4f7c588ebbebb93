//! What a server costs among twenty at rest, each with a hundred containers: the promises of an idle cluster, each beside what it took.
//!
//! `cargo bench -p kith-tests --bench idle -- --servers 20 --containers 100 --seconds 120`, as root with wireguard-go; `KITH_BIN` names the
//! binary to measure (a release build). Each server is in a network namespace of its own, with a Docker of this bench's making. The last one
//! runs as three processes, so that its daemon is measured alone. Ends with 1 if a promise was not kept.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kith_tests::cost::{resident, spent};
use kith_tests::lab::{Mesh, Node, ScriptedDocker, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

/// For all of them to be there, with their containers, on a small machine.
const TOGETHER: Duration = Duration::from_secs(300);
/// After that, until nothing is new to anybody.
const SETTLING: Duration = Duration::from_secs(30);

struct Arguments {
    servers: u8,
    containers: u16,
    seconds: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Some(arguments) = arguments()? else {
        eprintln!("idle: skipped: give --servers, --containers and --seconds, see the head of tests/benches/idle.rs");
        return Ok(());
    };
    let Arguments { servers, containers, seconds } = arguments;
    let mut mesh = Mesh::of("idle", servers).context("servers with tunnels cannot be made here")?;
    let folder = TempDir::new()?;
    let mut dockers = Vec::new();
    for (number, node) in (1..).zip(&mut mesh.nodes) {
        let socket = folder.path().join(format!("{number}.sock"));
        let docker = ScriptedDocker::at(&socket);
        (0..containers).for_each(|which| run(&docker, number, which));
        dockers.push(docker);
        node.set(format!("daemon.docker={}", socket.display()));
    }
    mesh.start(1..servers).await;
    let mut parts = split(&mut mesh, servers).await?;
    together(&mesh.nodes[0], servers, containers).await;
    tokio::time::sleep(SETTLING).await;

    let before = (Instant::now(), costs(&mesh, &parts)?, versions(&mesh.nodes[0]).await?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = (before.0.elapsed(), costs(&mesh, &parts)?, versions(&mesh.nodes[0]).await?);
    eprintln!("{servers} servers, {containers} containers each, {:.0} s at rest", after.0.as_secs_f64());
    let mut kept = report(&before.1, &after.1, after.0);
    let rate = (after.2 - before.2) as f64 / after.0.as_secs_f64();
    eprintln!("versions in the whole cluster: {rate:.2}/s, promised 1/s at most");
    kept &= rate <= 1.0;
    for part in &mut parts {
        part.stop().await;
    }
    // Its interface goes with the others'.
    let [part, ..] = parts;
    mesh.nodes.push(part);
    if kept { Ok(()) } else { bail!("a promise was not kept") }
}

/// A container of one of ten services.
fn run(docker: &ScriptedDocker, server: u16, which: u16) {
    let id = format!("{which:04x}{server:04x}{:0>56}", "");
    let address = format!("10.210.{}.{}", 128 + server, 2 + which);
    let labels = json!({ "kith.project": "casa", "kith.service": format!("s{}", which % 10), "kith.instance": format!("{server}-{which}") });
    docker.run(&id, &address, &labels, None);
}

/// Starts the last server as three processes.
async fn split(mesh: &mut Mesh, number: u8) -> Result<[Node; 3]> {
    let node = mesh.nodes.pop().context("there are servers")?;
    let mut parts = node.alone(["gossip", "dns", "daemon"]);
    parts[0].start().await;
    Mesh::invite(&parts[0], number).await;
    parts[1..].iter_mut().for_each(Node::launch);
    Ok(parts)
}

/// Waits until one has all servers, all containers, and tunnels to all.
async fn together(node: &Node, servers: u8, containers: u16) {
    eventually("all is there", TOGETHER, async || {
        let rows = node.api().query("SELECT count(*) FROM containers").await?;
        let there = rows.first().and_then(|row| row[0].as_u64()).unwrap_or_default();
        let shown = Mesh::shown(node, "endpoints").await?;
        let tunnels = shown["detail"]["tunnels"].as_array().into_iter().flatten();
        let up = tunnels.filter(|tunnel| tunnel["state"] == "up").count();
        let all = (u64::from(servers) * u64::from(containers), usize::from(servers) - 1);
        if (there, up) == all { Ok(()) } else { Err(format!("{there} containers, {up} tunnels")) }
    })
    .await;
}

/// What each process has cost so far: CPU time, and bytes in memory.
fn costs(mesh: &Mesh, parts: &[Node]) -> Result<BTreeMap<String, (Duration, u64)>> {
    let of = |node: &Node| -> Result<_> { Ok((node.name.clone(), (spent(node.id())?, resident(node.id())?))) };
    mesh.nodes.iter().chain(parts).map(of).collect()
}

/// How many versions there ever were.
async fn versions(node: &Node) -> Result<u64> {
    let rows = node.api().query("SELECT sum(head) FROM __kith_site").await.map_err(anyhow::Error::msg)?;
    rows.first().and_then(|row: &Value| row[0].as_u64()).context("a store has a head")
}

/// Prints them; whether what is promised of a daemon was kept.
fn report(
    before: &BTreeMap<String, (Duration, u64)>,
    after: &BTreeMap<String, (Duration, u64)>,
    took: Duration,
) -> bool {
    let mut agents = Vec::new();
    let mut kept = true;
    for (name, (spent, resident)) in after {
        let busy = spent.saturating_sub(before[name].0).as_secs_f64() / took.as_secs_f64() * 100.0;
        let resident = *resident as f64 / 1e6;
        if name.contains('(') {
            let promised = if name.ends_with("(daemon)") { ", promised 1 % and 30 MB" } else { "" };
            kept &= promised.is_empty() || (busy <= 1.0 && resident <= 30.0);
            eprintln!("{name}: {busy:.2} % of a core, {resident:.1} MB{promised}");
        } else {
            agents.push((busy, resident));
        }
    }
    agents.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mean = agents.iter().map(|(busy, _)| busy).sum::<f64>() / agents.len() as f64;
    let most = agents.iter().map(|(_, resident)| *resident).fold(0.0, f64::max);
    let last = agents.last().map_or(0.0, |(busy, _)| *busy);
    eprintln!("whole agents: {mean:.2} % of a core each, {last:.2} % at most, {most:.1} MB at most");
    kept
}

fn arguments() -> Result<Option<Arguments>> {
    let mut values = BTreeMap::new();
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").with_context(|| format!("{word} is no option"))?.to_owned();
        let value: u64 = words.next().with_context(|| format!("--{name} needs a number"))?.parse()?;
        values.insert(name, value);
    }
    if values.is_empty() {
        return Ok(None);
    }
    let take = |name: &str, otherwise: u64| values.get(name).copied().unwrap_or(otherwise);
    let (servers, containers) = (u8::try_from(take("servers", 20))?, u16::try_from(take("containers", 100))?);
    Ok(Some(Arguments { servers, containers, seconds: take("seconds", 120) }))
}
