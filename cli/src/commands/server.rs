//! `kith server`: who belongs to the cluster, by the `servers` rows, taking one out of it, and keeping new work away from one.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use kith_gossip_client::members::Member;
use kith_gossip_client::{Client, Statement, Value};
use kith_gossip_proto::NodeId;
use serde_json::json;

use super::table;
use super::value::printable;
use crate::args::{Output, ServerAction};
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// Lists, or marks one.
pub(crate) async fn run(action: &ServerAction) -> Result<(), Failure> {
    match action {
        ServerAction::Ls { output, store } => list(&store.client()?, output).await,
        ServerAction::Remove { server, undo, sure, output, store } => {
            let mark = match (*undo, *sure) {
                (true, _) => Mark::Belongs,
                (false, true) => Mark::RemovedForSure,
                (false, false) => Mark::Removed,
            };
            set(&store.client()?, server, mark, output).await
        }
        ServerAction::Drain { server, output, store } => set(&store.client()?, server, Mark::Draining, output).await,
        ServerAction::Undrain { server, output, store } => set(&store.client()?, server, Mark::Serving, output).await,
    }
}

/// What is written of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Belongs,
    Removed,
    /// And its peers may go beside any number of others.
    RemovedForSure,
    Draining,
    Serving,
}

/// A server as its row and gossip have it.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    subnet: String,
    hostname: String,
    /// Milliseconds since 1970, by the operator's clock.
    removed_at: Option<i64>,
    draining: Draining,
    state: Option<&'static str>,
}

/// Whether an operator keeps new work away from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draining {
    Yes,
    No,
}

async fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let servers = observe(client).await?;
    let mut out = Out::new();
    if output.json {
        return servers.iter().try_for_each(|(name, server)| {
            out.json(&json!({
                "server": name,
                "subnet": server.subnet,
                "hostname": server.hostname,
                "removed_at": server.removed_at,
                "draining": server.draining == Draining::Yes,
                "state": server.state,
            }))
        });
    }
    let row = |(name, server): (&String, &Server)| {
        let text = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
        let state = if server.removed_at.is_some() { "removed" } else { server.state.unwrap_or("not seen") };
        let state = match server.draining {
            Draining::Yes => format!("{state}, draining"),
            Draining::No => state.to_owned(),
        };
        vec![printable(name), state, text(&server.subnet), text(&server.hostname)]
    };
    let rows: Vec<Vec<String>> = servers.iter().map(row).collect();
    table::render(&["SERVER", "STATE", "SUBNET", "HOST"], &rows).into_iter().try_for_each(|line| out.line(line))
}

async fn set(client: &Client, server: &NodeId, mark: Mark, output: &Output) -> Result<(), Failure> {
    let servers = observe(client).await?;
    if !servers.contains_key(server.as_str()) {
        return Err(
            Failure::message(Exit::Failed, format!("there is no server {server}")).hint("kith server ls lists them")
        );
    }
    let asked = client.status().await?;
    if matches!(mark, Mark::Removed | Mark::RemovedForSure) && asked["node"] == server.as_str() {
        return Err(Failure::message(Exit::Failed, format!("{server} is the server that is asked"))
            .hint("a removal is for those who stay to know: run it on another server"));
    }
    let done = client.execute(&statements(server, mark)).await?;
    let changed = done.results.iter().any(|result| result.rows_affected > 0);
    let mut out = Out::new();
    if output.json {
        let said = match mark {
            Mark::Belongs => ("removed", false),
            Mark::Removed | Mark::RemovedForSure => ("removed", true),
            Mark::Serving | Mark::Draining => ("draining", mark == Mark::Draining),
        };
        return out.json(&json!({ "server": server.as_str(), (said.0): said.1, "changed": changed }));
    }
    out.line(match (mark, changed) {
        (Mark::Removed, true) => {
            format!("{server} is removed: all others refuse it. Back: kith server remove {server} --undo")
        }
        (Mark::Removed, false) => format!("{server} was removed already"),
        (Mark::RemovedForSure, true) => {
            format!("{server} is removed, and its peers go within minutes. Back: kith server remove {server} --undo")
        }
        (Mark::RemovedForSure, false) => format!("{server} was removed for sure already"),
        (Mark::Belongs, true) => format!("{server} belongs to the cluster again, and is let in within seconds"),
        (Mark::Belongs, false) => format!("{server} was not removed"),
        (Mark::Draining, true) => {
            format!("{server} drains: no name is answered with what runs there. Back: kith server undrain {server}")
        }
        (Mark::Draining, false) => format!("{server} drained already"),
        (Mark::Serving, true) => format!("{server} is in answers again"),
        (Mark::Serving, false) => format!("{server} did not drain"),
    })?;
    if mark == Mark::Draining {
        for service in only_there(client, server).await? {
            out.line(format!("nobody answers for {service} now: it runs nowhere else"))?;
        }
    }
    Ok(())
}

/// The services of which every container is on this server, or on others that drain or were removed.
async fn only_there(client: &Client, server: &NodeId) -> Result<Vec<String>, Failure> {
    let serving = "SELECT id FROM servers WHERE removed_at IS NULL AND NOT draining";
    let sql = format!(
        "SELECT DISTINCT project, service FROM containers AS here WHERE server_id = ? AND NOT EXISTS (\
         SELECT 1 FROM containers AS other WHERE other.project = here.project AND other.service = here.service \
         AND other.server_id IN ({serving})) ORDER BY 1, 2"
    );
    let rows = client.query(Statement::new(sql).with([server.as_str()])).await?.collect().await?;
    let name = |row: &Vec<Value>| {
        let text = |cell: usize| row.get(cell).and_then(Value::as_text).unwrap_or_default();
        printable(&if text(0).is_empty() { text(1).to_owned() } else { format!("{}/{}", text(0), text(1)) })
    };
    Ok(rows.iter().map(name).collect())
}

/// What is written: the mark, and beside it which removal somebody is sure of (`removal/ID`, which the daemons look for).
fn statements(server: &NodeId, mark: Mark) -> Vec<Statement> {
    let key = || Value::from(format!("removal/{server}"));
    let beside = match mark {
        Mark::RemovedForSure => {
            let sql = "INSERT INTO cluster_metadata (key, value) SELECT ?, CAST(removed_at AS TEXT) FROM servers WHERE id = ? AND \
                       removed_at IS NOT NULL ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value";
            Some(Statement::new(sql).with([key(), Value::from(server.as_str())]))
        }
        Mark::Belongs => Some(Statement::new("DELETE FROM cluster_metadata WHERE key = ?").with([key()])),
        Mark::Removed | Mark::Draining | Mark::Serving => None,
    };
    std::iter::once(statement(server, mark)).chain(beside).collect()
}

/// A member without a row, which has never written one, is given one to carry the mark.
fn statement(server: &NodeId, mark: Mark) -> Statement {
    let name = Value::from(server.as_str());
    match mark {
        Mark::Belongs => {
            Statement::new("UPDATE servers SET removed_at = NULL WHERE id = ? AND removed_at IS NOT NULL").with([name])
        }
        Mark::Removed | Mark::RemovedForSure => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
            let sql = "INSERT INTO servers (id, removed_at) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET \
                       removed_at = excluded.removed_at WHERE removed_at IS NULL";
            Statement::new(sql).with([name, Value::from(now)])
        }
        Mark::Draining => {
            let sql = "INSERT INTO servers (id, draining) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET \
                       draining = excluded.draining WHERE draining IS NOT excluded.draining";
            Statement::new(sql).with([name])
        }
        Mark::Serving => {
            Statement::new("UPDATE servers SET draining = 0 WHERE id = ? AND draining IS NOT 0").with([name])
        }
    }
}

/// The rows, and the members that have none, by name.
async fn observe(client: &Client) -> Result<BTreeMap<String, Server>, Failure> {
    let rows = client.query("SELECT id, subnet, hostname, removed_at, draining FROM servers").await?.collect().await?;
    Ok(join(&rows, &client.members().await?))
}

fn join(rows: &[Vec<Value>], members: &[Member]) -> BTreeMap<String, Server> {
    let text = |row: &[Value], cell: usize| row.get(cell).and_then(Value::as_text).unwrap_or_default().to_owned();
    let mut servers: BTreeMap<String, Server> = rows
        .iter()
        .map(|row| {
            let removed_at = row.get(3).and_then(Value::as_integer);
            let draining = match row.get(4).and_then(Value::as_integer) {
                Some(0) | None => Draining::No,
                Some(_) => Draining::Yes,
            };
            (text(row, 0), Server { subnet: text(row, 1), hostname: text(row, 2), removed_at, draining, state: None })
        })
        .collect();
    for member in members {
        let unknown = || Server {
            subnet: String::new(),
            hostname: String::new(),
            removed_at: None,
            draining: Draining::No,
            state: None,
        };
        servers.entry(member.server.clone()).or_insert_with(unknown).state = Some(member.state.as_str());
    }
    servers
}
