//! `kith daemon setup-docker` and `setup-host`: whom containers and the host itself ask for names.

use std::net::SocketAddr;
use std::process::Stdio;

use kith_daemon::setup::docker::{self, Running, Wanted};
use kith_daemon::setup::host::{self, Resolver};
use kith_daemon::setup::undo::{Changed, UndoError, text_of};
use kith_gossip_client::{Client, Statement};
use serde_json::json;

use super::load;
use super::value::printable;
use crate::args::{DaemonAction, SetupDocker, SetupHost};
use crate::config::{Config, Purpose};
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// With the search domains and Docker's own 0, programs built on musl find no short name.
pub(super) const NDOTS: u8 = 1;

/// Sets up.
pub(crate) async fn run(action: &DaemonAction) -> Result<(), Failure> {
    match action {
        DaemonAction::SetupDocker(args) => setup_docker(args).await,
        DaemonAction::SetupHost(args) => setup_host(args).await,
    }
}

async fn setup_docker(args: &SetupDocker) -> Result<(), Failure> {
    let config = load(&args.configured, Purpose::Daemon)?;
    let server = match args.dns {
        Some(server) => server.to_string(),
        None => name_server(&config, &args.store.client()?).await?,
    };
    let wanted = Wanted { server, search: zones(&config), ndots: NDOTS };
    let before = text_of(&args.file).map_err(io)?.unwrap_or_default();
    let about = || format!("cannot change {}", args.file.display());
    let planned = docker::plan(&before, &wanted).map_err(|e| Failure::new(Exit::Failed, e).context(about()))?;
    let running = match &config.daemon.docker {
        Some(socket) => docker::running(socket).await.map_err(|e| Failure::new(Exit::Unavailable, e))?,
        None => Vec::new(),
    };
    let stops = if docker::is_live_restore(&before) { Vec::new() } else { running.iter().collect() };
    let old = |running: &&Running| running.resolver.as_ref().is_some_and(|text| docker::is_old(text, &wanted));
    let old: Vec<&Running> = running.iter().filter(old).collect();
    let writes = planned.as_ref().filter(|_| args.apply || args.restart);
    if let Some(text) = writes {
        let dir = &config.node.data_dir;
        Changed::read(dir).and_then(|mut changed| changed.write(dir, &args.file, text)).map_err(io)?;
    }
    let mut out = Out::new();
    if args.output.json {
        let names = |all: &[&Running]| all.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        out.json(&json!({
            "file": args.file, "text": planned, "written": writes.is_some(), "restarted": args.restart,
            "stops": names(&stops), "old": names(&old),
        }))?;
    } else {
        told(&mut out, args, planned.as_deref(), &stops, &old)?;
    }
    if args.restart { systemctl("docker").await } else { Ok(()) }
}

fn told(
    out: &mut Out,
    args: &SetupDocker,
    planned: Option<&str>,
    stops: &[&Running],
    old: &[&Running],
) -> Result<(), Failure> {
    let names = |all: &[&Running]| all.iter().map(|one| printable(&one.name)).collect::<Vec<_>>().join(", ");
    match planned {
        None => out.line(format!("{} says it already", args.file.display()))?,
        Some(text) => {
            let verb = if args.dry_run { "would become" } else { "is now" };
            out.line(format!("{} {verb}:", args.file.display()))?;
            text.lines().try_for_each(|line| out.line(format!("  {line}")))?;
        }
    }
    if !old.is_empty() {
        out.line(format!("ask as before until they are started again: {}", names(old)))?;
    }
    if !stops.is_empty() {
        let verb = if args.restart { "stop now, with Docker" } else { "stop when Docker is restarted" };
        out.line(format!("{verb}: {}", names(stops)))?;
    }
    if args.apply && planned.is_some() {
        out.line("Docker reads it when it starts: kith daemon setup-docker --restart")?;
    }
    Ok(())
}

/// The host's address in the range of this server's containers.
pub(super) async fn name_server(config: &Config, client: &Client) -> Result<String, Failure> {
    let select = Statement::new("SELECT subnet FROM servers WHERE id = ?").with([config.node.name.as_str()]);
    let rows = client.query(select).await?.collect().await?;
    let own = rows.first().and_then(|cells| cells.first()?.as_text()?.parse().ok());
    let ipnet::IpNet::V4(cluster) = config.cluster.cidr else { return Err(no_range(config)) };
    let server = own.and_then(|own| docker::name_server(cluster, own));
    Ok(server.ok_or_else(|| no_range(config))?.to_string())
}

fn no_range(config: &Config) -> Failure {
    Failure::message(Exit::Failed, format!("server {} has no range for containers", config.node.name))
        .hint("a server that was founded or joined has one; else name the address with --dns")
}

async fn setup_host(args: &SetupHost) -> Result<(), Failure> {
    let config = load(&args.configured, Purpose::Dns)?;
    let listen = &config.dns.listen;
    let server = listen.iter().find(|at| at.ip().is_loopback()).or_else(|| listen.first()).copied();
    let server = server.ok_or_else(|| Failure::message(Exit::Failed, "dns.listen names no address"))?;
    let resolver = text_of(&args.resolver).map_err(io)?.unwrap_or_default();
    let mut out = Out::new();
    match Resolver::of(&resolver) {
        Resolver::Named => by_hand(&mut out, server),
        Resolver::Resolved => {
            let text = host::drop_in(server, &zones(&config));
            let there = text_of(&args.file).map_err(io)?;
            if there.as_ref() == Some(&text) {
                return out.line(format!("{} says it already", args.file.display()));
            }
            let verb = if args.dry_run { "would become" } else { "is now" };
            out.line(format!("{} {verb}:", args.file.display()))?;
            text.lines().try_for_each(|line| out.line(format!("  {line}")))?;
            if args.dry_run {
                return Ok(());
            }
            let dir = &config.node.data_dir;
            Changed::read(dir).and_then(|mut changed| changed.write(dir, &args.file, &text)).map_err(io)?;
            systemctl("systemd-resolved").await
        }
    }
}

/// What a person is to write where no service of the host reads a file of ours.
fn by_hand(out: &mut Out, server: SocketAddr) -> Result<(), Failure> {
    out.line("this host asks the servers of its own list; put this line in front of them:")?;
    out.line(format!("  nameserver {}", server.ip()))?;
    if server.port() != 53 {
        out.line(format!("which takes DNS on port 53, not {}: see dns.listen", server.port()))?;
    }
    out.line("Kith asks the others for names that are not the cluster's.")
}

pub(super) fn zones(config: &Config) -> Vec<String> {
    config.dns.zones.iter().map(|zone| zone.to_string().trim_end_matches('.').to_owned()).collect()
}

async fn systemctl(unit: &str) -> Result<(), Failure> {
    let mut command = tokio::process::Command::new("systemctl");
    command.args(["restart", unit]).stdin(Stdio::null());
    let failed = || Failure::message(Exit::Failed, format!("{unit} was not restarted")).hint("restart it yourself");
    match command.status().await {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(failed()),
        Err(error) => Err(Failure::new(Exit::Failed, error).context(format!("{unit} was not restarted"))),
    }
}

fn io(error: UndoError) -> Failure {
    Failure::new(Exit::Io, error)
}
