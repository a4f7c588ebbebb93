//! The plan of the row: pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kith_gossip_client::Value;
use tokio::time::Instant;

use crate::clock::Now;

/// How long a runner may say nothing before its row says unhealthy: one answer that is late says nothing yet.
const LATE: Duration = Duration::from_secs(3);
/// How long before its row goes. Whoever restarts or updates a server is back by then, and finds its row.
const GONE: Duration = Duration::from_secs(600);
/// How often it is asked while it answers: who waits for its peers waits for their rows.
const PERIOD: Duration = Duration::from_secs(1);
/// How often it is asked once it has fallen silent, or has not answered yet: one that starts with its server does so within seconds, and its
/// first row is what the others wait for.
const SOON: Duration = Duration::from_millis(250);
/// For how long it is asked so often.
const EARLY: Duration = Duration::from_secs(30);
/// How often it is asked afterwards: most servers have none.
const SELDOM: Duration = Duration::from_secs(2);
/// What a row says of one that does not live.
const UNHEALTHY: &str = "unhealthy";

/// What there is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Observed {
    /// What the runner says.
    pub(super) said: Said,
    /// The rows of this server, by name.
    pub(super) rows: BTreeMap<String, Row>,
    /// The server that has taken the row of the name that the runner says, where we had it.
    pub(super) taken: Option<String>,
}

/// What the runner says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// Its name, and how its row is to be.
    Row(String, Row),
    /// Nothing, since then.
    Nothing {
        /// When it was first asked in vain.
        since: Instant,
    },
}

/// A row, but for its name and its server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Row {
    pub(super) cluster: String,
    pub(super) role: String,
    pub(super) region: String,
    pub(super) ip: String,
    pub(super) ip6: String,
    /// Of clients, routes, gateways, leaves.
    pub(super) ports: [i64; 4],
    pub(super) health: String,
    pub(super) started_at: i64,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Have the row be so.
    Write {
        /// Which.
        id: String,
        /// How.
        row: Row,
    },
    /// Have it say that it does not live.
    Sicken {
        /// Which.
        id: String,
    },
    /// Have no such row.
    Delete {
        /// Which.
        id: String,
    },
}

impl Row {
    /// The columns, the name first.
    pub(super) const COLUMNS: [&str; 12] = [
        "id",
        "cluster",
        "role",
        "region",
        "ip",
        "ip6",
        "client_port",
        "route_port",
        "gateway_port",
        "leaf_port",
        "health_status",
        "started_at",
    ];

    /// The row of the cells of [`Row::COLUMNS`]. Anybody may have written anything: what is of another type is not as it is to be.
    pub(super) fn of(cells: Vec<Value>) -> Option<(String, Row)> {
        let mut cells = cells.into_iter();
        let Some(Value::Text(id)) = cells.next() else { return None };
        let mut next = || cells.next().unwrap_or(Value::Null);
        let text = |value| if let Value::Text(text) = value { text } else { "\u{fffd}".to_owned() };
        let number = |value: Value| value.as_integer().unwrap_or(-1);
        let [cluster, role, region, ip, ip6] = std::array::from_fn(|_| text(next()));
        let ports = std::array::from_fn(|_| number(next()));
        Some((id, Row { cluster, role, region, ip, ip6, ports, health: text(next()), started_at: number(next()) }))
    }

    /// The cells of [`Row::COLUMNS`] behind the name.
    pub(super) fn values(&self) -> Vec<Value> {
        let texts = [&self.cluster, &self.role, &self.region, &self.ip, &self.ip6];
        let mut values: Vec<Value> = texts.into_iter().map(|text| Value::from(text.as_str())).collect();
        values.extend(self.ports.map(Value::from));
        values.extend([Value::from(self.health.as_str()), Value::from(self.started_at)]);
        values
    }
}

/// What is to be done so that the rows of this server say what its runner says.
pub(super) fn plan(observed: &Observed, now: Now) -> Vec<Step> {
    let rows = &observed.rows;
    match &observed.said {
        Said::Row(id, row) => {
            let others = rows.keys().filter(|other| *other != id).map(|other| Step::Delete { id: other.clone() });
            let differs = observed.taken.is_none() && rows.get(id) != Some(row);
            others.chain(differs.then(|| Step::Write { id: id.clone(), row: row.clone() })).collect()
        }
        Said::Nothing { since } => match now.at.saturating_duration_since(*since) {
            silent if silent >= GONE => rows.keys().map(|id| Step::Delete { id: id.clone() }).collect(),
            silent if silent >= LATE => {
                let live = rows.iter().filter(|(_, row)| row.health != UNHEALTHY);
                live.map(|(id, _)| Step::Sicken { id: id.clone() }).collect()
            }
            _ => Vec::new(),
        },
    }
}

/// How long until a runner is asked again that has said nothing for so long; none, if it answers.
pub(super) fn period(silent: Option<Duration>) -> Duration {
    match silent {
        None => PERIOD,
        Some(silent) if silent < EARLY => SOON,
        Some(_) => SELDOM,
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Write { id, row } => {
                let [client, route, gateway, leaf] = row.ports;
                let (cluster, role, region, health, started) =
                    (&row.cluster, &row.role, &row.region, &row.health, row.started_at);
                let at = [row.ip.as_str(), row.ip6.as_str()].join(" ");
                write!(f, "write {id}: {cluster} {role} {region:?} at {}, ", at.trim())?;
                write!(f, "ports {client} {route} {gateway} {leaf}, {health}, started {started}")
            }
            Step::Sicken { id } => write!(f, "say that {id} is {UNHEALTHY}: its runner says nothing"),
            Step::Delete { id } => write!(f, "delete {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(health: &str) -> Row {
        Row {
            cluster: "nats".to_owned(),
            role: "center".to_owned(),
            region: "fra".to_owned(),
            ip: "10.210.1.1".to_owned(),
            ip6: String::new(),
            ports: [4222, 6222, 7222, 7422],
            health: health.to_owned(),
            started_at: 1000,
        }
    }

    fn planned(said: Option<(&str, Row)>, silent: u64, rows: &[(&str, Row)]) -> String {
        let now = Instant::now() + Duration::from_secs(10_000);
        let nothing = Said::Nothing { since: now - Duration::from_secs(silent) };
        let said = said.map_or(nothing, |(id, row)| Said::Row(id.to_owned(), row));
        let rows = rows.iter().map(|(id, row)| ((*id).to_owned(), row.clone())).collect();
        lines(&plan(&Observed { said, rows, taken: None }, Now { at: now, wall_ms: 0 }))
    }

    fn lines(steps: &[Step]) -> String {
        steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_row_is_as_the_runner_says() {
        insta::assert_snapshot!(planned(Some(("n1", row("healthy"))), 0, &[]), @r#"write n1: nats center "fra" at 10.210.1.1, ports 4222 6222 7222 7422, healthy, started 1000"#);
        assert_eq!(planned(Some(("n1", row("healthy"))), 0, &[("n1", row("healthy"))]), "");
        insta::assert_snapshot!(planned(Some(("n1", row("unhealthy"))), 0, &[("n1", row("healthy"))]), @r#"write n1: nats center "fra" at 10.210.1.1, ports 4222 6222 7222 7422, unhealthy, started 1000"#);
    }

    #[test]
    fn another_store_is_another_server_and_its_former_row_goes() {
        insta::assert_snapshot!(planned(Some(("n1-b", row("healthy"))), 0, &[("n1-a", row("healthy"))]), @r#"
        delete n1-a
        write n1-b: nats center "fra" at 10.210.1.1, ports 4222 6222 7222 7422, healthy, started 1000
        "#);
    }

    #[test]
    fn a_row_that_another_host_has_taken_is_left_to_it() {
        let now = Now { at: Instant::now(), wall_ms: 0 };
        let said = Said::Row("n1".to_owned(), row("healthy"));
        let mut observed = Observed { said, rows: BTreeMap::new(), taken: Some("ams-1".to_owned()) };
        assert_eq!(lines(&plan(&observed, now)), "");
        observed.taken = None;
        assert!(lines(&plan(&observed, now)).starts_with("write n1: "), "the other is gone");
    }

    #[test]
    fn a_runner_that_says_nothing_is_unhealthy_soon_and_gone_after_a_while() {
        let there = [("n1", row("healthy"))];
        assert_eq!(planned(None, 2, &there), "");
        insta::assert_snapshot!(planned(None, 3, &there), @"say that n1 is unhealthy: its runner says nothing");
        assert_eq!(planned(None, 599, &[("n1", row("unhealthy"))]), "");
        insta::assert_snapshot!(planned(None, 600, &there), @"delete n1");
        assert_eq!(planned(None, 9000, &[]), "", "most servers have none");
    }

    #[test]
    fn a_runner_that_starts_with_its_server_is_heard_at_once_and_one_that_is_not_there_seldom_asked() {
        let asked = |silent: Option<u64>| period(silent.map(Duration::from_secs)).as_millis();
        assert_eq!([None, Some(0), Some(29), Some(30), Some(9000)].map(asked), [1000, 250, 250, 2000, 2000]);
    }

    #[test]
    fn a_row_is_what_is_written_and_cells_of_another_type_are_put_right() {
        let mut cells = vec![Value::from("n1")];
        cells.extend(row("healthy").values());
        assert_eq!(Row::of(cells.clone()), Some(("n1".to_owned(), row("healthy"))));
        cells[10] = Value::Null;
        assert_ne!(Row::of(cells.clone()), Some(("n1".to_owned(), row("healthy"))));
        cells[0] = Value::Null;
        assert_eq!(Row::of(cells), None);
    }
}
