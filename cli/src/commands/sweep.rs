//! `kith sweep --dry-run`: what the daemon will delete of servers that were removed, and when.

use kith_gossip_client::{Client, Value as Cell};
use serde_json::{Value, json};

use super::members::ago;
use super::table;
use super::value::printable;
use crate::args::Sweep;
use crate::exit::Failure;
use crate::out::Out;

const HEAD: [&str; 4] = ["SERVER", "CONTAINERS", "NATS", "SWEPT IN"];

/// A server that was removed.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    server: String,
    containers: i64,
    nats: i64,
    /// Seconds until the daemon may sweep; none if it has not seen the removal yet, or does not run.
    due_s: Option<u64>,
}

/// Reads and prints.
pub(crate) async fn run(client: &Client, args: &Sweep) -> Result<(), Failure> {
    let select = "SELECT id, (SELECT count(*) FROM containers WHERE server_id = servers.id), \
                  (SELECT count(*) FROM nats_servers WHERE server_id = servers.id) \
                  FROM servers WHERE removed_at IS NOT NULL ORDER BY id";
    let rows = client.query(select).await?.collect().await?;
    let status = client.status().await?;
    let daemon = &status["parts"]["daemon"]["reconcilers"]["sweep"]["detail"];
    let lines: Vec<Line> = rows.iter().map(|cells| Line::of(cells, daemon)).collect();
    let mut out = Out::new();
    if args.output.json {
        return lines.iter().try_for_each(|line| out.json(&line.json(&daemon["paused"])));
    }
    if daemon["paused"] == json!(true) {
        out.line("paused: half of the servers or more are not heard, or not yet, so this one may be cut off")?;
    }
    let cells: Vec<Vec<String>> = lines.iter().map(Line::cells).collect();
    table::render(&HEAD, &cells).into_iter().try_for_each(|line| out.line(line))
}

impl Line {
    fn of(cells: &[Cell], daemon: &Value) -> Line {
        let number = |at: usize| cells.get(at).and_then(Cell::as_integer).unwrap_or(0);
        let server = cells.first().and_then(Cell::as_text).unwrap_or_default().to_owned();
        let due_s = daemon["removed"][&server]["due_s"].as_u64();
        Line { server, containers: number(1), nats: number(2), due_s }
    }

    fn cells(&self) -> Vec<String> {
        let due = match self.due_s {
            None => "not seen by the daemon yet".to_owned(),
            Some(0) => "next sweep".to_owned(),
            Some(seconds) => ago(seconds.saturating_mul(1000)),
        };
        let due = if self.containers == 0 && self.nats == 0 { "nothing to sweep".to_owned() } else { due };
        vec![printable(&self.server), self.containers.to_string(), self.nats.to_string(), due]
    }

    fn json(&self, paused: &Value) -> Value {
        json!({
            "server": self.server,
            "containers": self.containers,
            "nats_servers": self.nats,
            "due_s": self.due_s,
            "paused": paused,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_removed_server_is_a_line_with_what_is_swept_and_when() {
        let daemon = json!({ "paused": false, "removed": { "b": { "due_s": 0 }, "c": { "due_s": 1800 } } });
        let row = |name: &str, containers: i64| vec![Cell::from(name), Cell::from(containers), Cell::from(0)];
        let rows = [row("a", 0), row("b", 2), row("c", 3), row("d", 4)];
        let cells: Vec<Vec<String>> = rows.iter().map(|cells| Line::of(cells, &daemon).cells()).collect();
        insta::assert_snapshot!(table::render(&HEAD, &cells).join("\n"), @r"
        SERVER  CONTAINERS  NATS  SWEPT IN
        a       0           0     nothing to sweep
        b       2           0     next sweep
        c       3           0     30 min
        d       4           0     not seen by the daemon yet
        ");
    }
}
