//! `kith nats status`, `restart` and `peer-remove`: ask the runner on this host. `grow` works on its store.

mod grow;

use std::net::SocketAddr;
use std::time::Duration;

use kith_nats::config::HEALTH;
use kith_nats::name::{BadName, Label};
use kith_nats::status::{Beside, Following, Health, Phase};
use kith_nats::{Status, control};

use super::table;
use super::value::printable;
use crate::args::{Configured, NatsAction, NatsPeerRemove, NatsRestart, NatsStatus};
use crate::config::Purpose;
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// How long the runner may take to answer: what it says is at hand.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it may take to do what it is told: JetStream is asked four times, behind a connection of its own.
const ORDER: Duration = Duration::from_secs(30);

/// Asks and prints.
pub(crate) async fn run(action: &NatsAction) -> Result<(), Failure> {
    match action {
        NatsAction::Status(args) => status(args).await,
        NatsAction::Restart(args) => restart(args).await,
        NatsAction::PeerRemove(args) => peer_remove(args).await,
        NatsAction::Grow(args) => grow::run(args).await,
    }
}

async fn status(args: &NatsStatus) -> Result<(), Failure> {
    let status = ask(place(args)?).await?;
    let mut out = Out::new();
    if args.output.json {
        return out.json(&status);
    }
    table::pairs(&pairs(&status)).into_iter().try_for_each(|line| out.line(line))
}

fn place(args: &NatsStatus) -> Result<SocketAddr, Failure> {
    match (args.health, std::env::var("KITH_NATS_HEALTH")) {
        (Some(at), _) => Ok(at),
        (None, Ok(text)) => {
            text.parse().map_err(|e| Failure::new(Exit::Usage, anyhow::Error::new(e)).context("KITH_NATS_HEALTH"))
        }
        (None, Err(_)) => Ok(HEALTH),
    }
}

async fn restart(args: &NatsRestart) -> Result<(), Failure> {
    let path = if args.no_lease { "/restart?lease=no" } else { "/restart" };
    Out::new().line(order(&args.configured, path).await?)
}

async fn peer_remove(args: &NatsPeerRemove) -> Result<(), Failure> {
    // A name of a server, or an id, has the letters of a label, so that it stands in a path as it is.
    args.name.parse::<Label>().map_err(|error: BadName| Failure::new(Exit::Usage, error))?;
    Out::new().line(order(&args.configured, &format!("/peers/{}/remove", args.name)).await?)
}

/// Has the runner do something, at the socket in its folder; what it says to that.
async fn order(configured: &Configured, path: &str) -> Result<String, Failure> {
    let config = super::load(configured, Purpose::Nats)?;
    let socket = control::socket(&config.nats.runner.store.dir);
    let unreachable = |error: reqwest::Error| {
        Failure::new(Exit::Unreachable, error)
            .context(format!("no runner of nats-server listens at {}", socket.display()))
            .hint("does it run, with this nats.store_dir? Only its own user and root reach it")
    };
    let client = reqwest::Client::builder().no_proxy().unix_socket(socket.clone()).timeout(ORDER).build();
    let sent = client.map_err(unreachable)?.post(format!("http://localhost{path}")).send().await;
    let answer = sent.map_err(unreachable)?;
    let done = answer.status().is_success();
    let said = printable(&answer.text().await.map_err(unreachable)?);
    if done { Ok(said) } else { Err(Failure::message(Exit::Failed, said)) }
}

async fn ask(at: SocketAddr) -> Result<Status, Failure> {
    let unreachable = |error: reqwest::Error| {
        Failure::new(Exit::Unreachable, error)
            .context(format!("no runner of nats-server answers at {at}"))
            .hint("does it run? `kith nats` or nats.enabled starts it, nats.health says where it answers")
    };
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().map_err(unreachable)?;
    let answer = client.get(format!("http://{at}/status")).send().await.map_err(unreachable)?;
    let text = answer.text().await.map_err(unreachable)?;
    serde_json::from_str(&text)
        .map_err(|e| Failure::new(Exit::Failed, e).context(format!("what answers at {at} is no runner of nats-server")))
}

fn pairs(status: &Status) -> Vec<Vec<String>> {
    let ips: Vec<String> =
        status.ip.map(|ip| ip.to_string()).into_iter().chain(status.ip6.map(|ip| ip.to_string())).collect();
    let ports = [
        ("clients", status.ports.client),
        ("routes", status.ports.route),
        ("gateways", status.ports.gateway),
        ("leaves", status.ports.leaf),
    ];
    let ports: Vec<String> =
        ports.into_iter().filter(|(_, port)| *port > 0).map(|(what, port)| format!("{what} {port}")).collect();
    let health = match status.health {
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    };
    let mut pairs = vec![
        ("server", status.id.clone()),
        (
            "cluster",
            [status.cluster.as_str(), status.region.as_str(), status.role.as_str()].join(" ").replace("  ", " "),
        ),
        ("address", ips.join(" ")),
        ("ports", ports.join(", ")),
        ("health", health.to_owned()),
        ("phase", phase(status.phase).to_owned()),
        ("version", status.version.clone()),
        ("restarts", status.restarts.to_string()),
        ("peers", status.following.peers.to_string()),
    ];
    let Following { dns, due, refused, turn, .. } = status.following.clone();
    let following = [("DNS", dns), ("due", due), ("refused", refused), ("turn", turn)];
    pairs.extend(following.into_iter().filter_map(|(what, text)| Some((what, text?))));
    pairs.extend(status.reason.clone().map(|reason| ("reason", reason)));
    pairs.extend(status.last_end.clone().map(|end| ("last end", end)));
    pairs.extend(status.processes.iter().map(|process| ("process", beside(process))));
    pairs.into_iter().map(|(what, text)| vec![what.to_owned(), printable(&text)]).collect()
}

fn beside(process: &Beside) -> String {
    let end = process.last_end.as_ref().map_or_else(String::new, |end| format!(", last end: {end}"));
    format!("{}: {}, {} restarts{end}", process.name, phase(process.phase), process.restarts)
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::WaitingForPeers => "waiting for peers",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Unwell => "unwell",
        Phase::Restarting => "restarting",
        Phase::CrashLooping => "crash-looping",
        Phase::Ending => "ending",
        Phase::Stopped => "stopped",
    }
}
