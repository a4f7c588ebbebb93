//! `kith ps`: the containers that are listed, and of this server's Docker those that are not.

use kith_gossip_client::{Client, Statement, Value as Cell};
use serde_json::{Value, json};

use super::table;
use super::value::printable;
use crate::args::Ps;
use crate::exit::Failure;
use crate::out::Out;

const HEAD: [&str; 7] = ["CONTAINER", "SERVICE", "SLOT", "SERVER", "ADDRESS", "HEALTH", "WHY"];
/// Of an id so much is shown: what names have of it.
const ID: usize = 12;

/// One line.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    id: String,
    project: String,
    service: String,
    slot: String,
    server: String,
    ip: String,
    ip6: String,
    health: String,
    reason: String,
}

/// Reads and prints.
pub(crate) async fn run(client: &Client, args: &Ps) -> Result<(), Failure> {
    let status = client.status().await?;
    let node = status["node"].as_str().unwrap_or_default().to_owned();
    let select =
        "SELECT id, project, service, instance_id, server_id, ip, ip6, health_status, health_reason FROM containers";
    let order = "ORDER BY server_id, project, service, instance_id, started_at DESC, id";
    let statement = if args.all {
        Statement::new(format!("{select} {order}"))
    } else {
        Statement::new(format!("{select} WHERE server_id = ? {order}")).with([node.as_str()])
    };
    let rows = client.query(statement).await?.collect().await?;
    let mut lines: Vec<Line> = rows.iter().map(|cells| Line::of(cells)).collect();
    if args.why {
        lines.extend(unlisted(&node, &status["parts"]["daemon"]["reconcilers"]["containers"]["detail"]));
    }
    let mut out = Out::new();
    if args.output.json {
        return lines.iter().try_for_each(|line| out.json(&line.json()));
    }
    let cells: Vec<Vec<String>> = lines.iter().map(Line::cells).collect();
    table::render(&HEAD, &cells).into_iter().try_for_each(|line| out.line(line))
}

/// What the daemon has seen in Docker and entered nowhere.
fn unlisted(node: &str, containers: &Value) -> Vec<Line> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let shown = containers["containers"].as_array().into_iter().flatten();
    shown
        .filter(|container| container["unlisted"].is_string())
        .map(|container| Line {
            id: text(&container["id"]),
            project: String::new(),
            service: text(&container["name"]),
            slot: String::new(),
            server: node.to_owned(),
            ip: String::new(),
            ip6: String::new(),
            health: "not listed".to_owned(),
            reason: text(&container["unlisted"]),
        })
        .collect()
}

impl Line {
    fn of(cells: &[Cell]) -> Line {
        let text = |at: usize| cells.get(at).and_then(Cell::as_text).unwrap_or_default().to_owned();
        Line {
            id: text(0),
            project: text(1),
            service: text(2),
            slot: text(3),
            server: text(4),
            ip: text(5),
            ip6: text(6),
            health: text(7),
            reason: text(8),
        }
    }

    fn cells(&self) -> Vec<String> {
        let text = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
        let service =
            if self.project.is_empty() { self.service.clone() } else { format!("{}/{}", self.project, self.service) };
        let address = if self.ip.is_empty() { &self.ip6 } else { &self.ip };
        vec![
            text(&self.id.chars().take(ID).collect::<String>()),
            text(&service),
            text(&self.slot),
            text(&self.server),
            text(address),
            text(&self.health),
            text(&self.reason),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "project": self.project,
            "service": self.service,
            "instance": self.slot,
            "server": self.server,
            "ip": self.ip,
            "ip6": self.ip6,
            "health": self.health,
            "reason": self.reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_and_what_is_not_stand_below_each_other() {
        let texts =
            ["3f2a3f2a3f2a3f2a", "casa", "api", "a", "fra-1", "10.210.129.7", "", "degraded", "port 80: refused"];
        let odd = vec![Cell::Blob(vec![0]); 9];
        let mut lines = vec![Line::of(&texts.map(Cell::from)), Line::of(&odd)];
        let detail = json!({ "containers": [
            { "id": "aaaaaaaaaaaa", "name": "db", "health": "healthy", "reason": "" },
            { "id": "bbbbbbbbbbbb", "name": "tool\u{1b}", "unlisted": "it is not in the network kith" },
        ] });
        lines.extend(unlisted("fra-1", &detail));
        assert!(unlisted("fra-1", &Value::Null).is_empty());
        let cells: Vec<Vec<String>> = lines.iter().map(Line::cells).collect();
        insta::assert_snapshot!(table::render(&HEAD, &cells).join("\n"), @r"
    CONTAINER     SERVICE     SLOT  SERVER  ADDRESS       HEALTH      WHY
    3f2a3f2a3f2a  casa/api    a     fra-1   10.210.129.7  degraded    port 80: refused
    -             -           -     -       -             -           -
    bbbbbbbbbbbb  tool\u{1b}  -     fra-1   -             not listed  it is not in the network kith
    ");
    }
}
