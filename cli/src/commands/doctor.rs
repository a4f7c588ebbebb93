//! `kith doctor`: each layer of this server, and toward each other one, with what to do where it fails.
//!
//! What is found out (`probe`) is apart from what is made of it (`checks`, pure).

mod checks;
mod probe;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kith_daemon::setup::docker::{self, Wanted};
use kith_daemon::setup::undo::text_of;
use kith_gossip_client::{Client, Value as Cell};
use serde_json::json;

use super::setup::{self, NDOTS};
use super::{load, table};
use crate::args::Doctor;
use crate::config::{Config, Purpose};
use crate::exit::{Exit, Failure};
use crate::out::Out;
use checks::{Docker, State, View, checks};

/// Looks, and says what is wrong.
pub(crate) async fn run(client: &Client, args: &Doctor) -> Result<(), Failure> {
    let config = load(&args.configured, Purpose::Daemon)?;
    let view = look(client, &config, &args.docker_file).await?;
    let checks = checks(&view);
    let mut out = Out::new();
    if args.output.json {
        checks.iter().try_for_each(|check| out.json(&json!(check)))?;
    } else {
        let rows: Vec<Vec<String>> = checks.iter().map(checks::Check::cells).collect();
        table::render(&checks::HEAD, &rows).into_iter().try_for_each(|line| out.line(line))?;
    }
    if checks.iter().any(|check| check.state == State::Fails) { Err(Failure::quiet(Exit::Failed)) } else { Ok(()) }
}

async fn look(client: &Client, config: &Config, docker_file: &Path) -> Result<View, Failure> {
    let status = client.status().await?;
    let members = client.members().await?;
    let rows = client.query("SELECT id FROM servers WHERE removed_at IS NULL").await?.collect().await?;
    let belonging: BTreeSet<String> =
        rows.iter().filter_map(|cells| cells.first().and_then(Cell::as_text).map(str::to_owned)).collect();
    let mut ports = BTreeMap::new();
    for member in &members {
        let address = member.addr.as_deref().and_then(|addr| addr.parse().ok());
        if let Some(address) = address.filter(|_| status["node"] != member.server.as_str()) {
            ports.insert(member.server.clone(), (address, probe::quic(address).await));
        }
    }
    let mut names = BTreeMap::new();
    if config.dns.enabled {
        for address in &config.dns.listen {
            names.insert(*address, probe::dns(*address, config.dns.zones.first()).await);
        }
    }
    let docker = docker(client, config, docker_file).await;
    Ok(View { status, members, belonging, ports, names, docker })
}

/// Whom Docker's containers ask; none where this server has no range for containers, or no Docker.
async fn docker(client: &Client, config: &Config, file: &Path) -> Option<Docker> {
    let server = setup::name_server(config, client).await.ok()?;
    let running = docker::running(config.daemon.docker.as_deref()?).await.ok()?;
    let wanted = Wanted { server, search: setup::zones(config), ndots: NDOTS };
    let text = text_of(file).ok().flatten().unwrap_or_default();
    let old = |one: &docker::Running| one.resolver.as_ref().is_some_and(|text| docker::is_old(text, &wanted));
    let told = matches!(docker::plan(&text, &wanted), Ok(None));
    Some(Docker { told, old: running.into_iter().filter(old).map(|one| one.name).collect() })
}
