//! `kith server`: who belongs to the cluster, by the `servers` rows, and taking one out of it.

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

/// Lists or removes.
pub(crate) async fn run(action: &ServerAction) -> Result<(), Failure> {
    match action {
        ServerAction::Ls { output, store } => list(&store.client()?, output).await,
        ServerAction::Remove { server, undo, output, store } => {
            let mark = if *undo { Mark::Belongs } else { Mark::Removed };
            set(&store.client()?, server, mark, output).await
        }
    }
}

/// What is written of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Belongs,
    Removed,
}

/// A server as its row and gossip have it.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    subnet: String,
    hostname: String,
    /// Milliseconds since 1970, by the operator's clock.
    removed_at: Option<i64>,
    state: Option<&'static str>,
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
                "state": server.state,
            }))
        });
    }
    let row = |(name, server): (&String, &Server)| {
        let text = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
        let state = if server.removed_at.is_some() { "removed" } else { server.state.unwrap_or("not seen") };
        vec![printable(name), state.to_owned(), text(&server.subnet), text(&server.hostname)]
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
    if mark == Mark::Removed && asked["node"] == server.as_str() {
        return Err(Failure::message(Exit::Failed, format!("{server} is the server that is asked"))
            .hint("a removal is for those who stay to know: run it on another server"));
    }
    let done = client.execute(&[statement(server, mark)]).await?;
    let changed = done.results.iter().any(|result| result.rows_affected > 0);
    let mut out = Out::new();
    if output.json {
        let removed = mark == Mark::Removed;
        return out.json(&json!({ "server": server.as_str(), "removed": removed, "changed": changed }));
    }
    out.line(match (mark, changed) {
        (Mark::Removed, true) => {
            format!("{server} is removed: all others refuse it. Back: kith server remove {server} --undo")
        }
        (Mark::Removed, false) => format!("{server} was removed already"),
        (Mark::Belongs, true) => format!("{server} belongs to the cluster again, and is let in within seconds"),
        (Mark::Belongs, false) => format!("{server} was not removed"),
    })
}

/// A member without a row, which has never written one, is given one to carry the mark.
fn statement(server: &NodeId, mark: Mark) -> Statement {
    let name = Value::from(server.as_str());
    match mark {
        Mark::Belongs => {
            Statement::new("UPDATE servers SET removed_at = NULL WHERE id = ? AND removed_at IS NOT NULL").with([name])
        }
        Mark::Removed => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
            let sql = "INSERT INTO servers (id, removed_at) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET \
                       removed_at = excluded.removed_at WHERE removed_at IS NULL";
            Statement::new(sql).with([name, Value::from(now)])
        }
    }
}

/// The rows, and the members that have none, by name.
async fn observe(client: &Client) -> Result<BTreeMap<String, Server>, Failure> {
    let rows = client.query("SELECT id, subnet, hostname, removed_at FROM servers").await?.collect().await?;
    Ok(join(&rows, &client.members().await?))
}

fn join(rows: &[Vec<Value>], members: &[Member]) -> BTreeMap<String, Server> {
    let text = |row: &[Value], cell: usize| row.get(cell).and_then(Value::as_text).unwrap_or_default().to_owned();
    let mut servers: BTreeMap<String, Server> = rows
        .iter()
        .map(|row| {
            let removed_at = row.get(3).and_then(Value::as_integer);
            (text(row, 0), Server { subnet: text(row, 1), hostname: text(row, 2), removed_at, state: None })
        })
        .collect();
    for member in members {
        let unknown = || Server { subnet: String::new(), hostname: String::new(), removed_at: None, state: None };
        servers.entry(member.server.clone()).or_insert_with(unknown).state = Some(member.state.as_str());
    }
    servers
}
