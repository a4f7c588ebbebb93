//! The row of this server's nats-server, as its runner says by `GET /status`: that is all that joins the two. DNS serves the row, and the
//! runners find each other by DNS, so that none of them ever needs the store.
//!
//! A runner that says nothing has ended, and its nats-server with it: the row says unhealthy, and goes when nobody has answered for a
//! while. One that answers under another name has another store: the row of the former name goes at once.
//!
//! Where two hosts have a copy of one store, both runners have one name, and there is one row for two: the later takes it, as the machine
//! does to which a disk was moved, and the earlier leaves it to that one and says so, rather than that each takes it from the other for ever.

mod ask;
mod plan;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use kith_gossip_client::{Statement, Value};
use kith_gossip_proto::NodeId;
use serde_json::json;
use tokio::time::Instant;

use crate::clock::Now;
use crate::driver::Reconciler;
use crate::error::Error;
use crate::own::{Own, Standing};
use crate::store::Store;
use ask::Runner;
use plan::{Observed, Row, Said, Step, period, plan};

/// Keeps the row.
pub(crate) struct Nats {
    node: NodeId,
    store: Store,
    own: Own,
    runner: Runner,
    /// Since when nobody has answered.
    silent: Option<Instant>,
    /// Why, for people.
    reason: Option<String>,
    said: Option<Row>,
    /// The name under which we had a row last.
    had: Option<String>,
    /// The server that has taken it.
    taken: Option<String>,
}

impl Nats {
    /// The row of this node's nats-server, whose runner answers there.
    pub(crate) fn new(node: NodeId, store: Store, own: Own, at: SocketAddr) -> Nats {
        Nats {
            node,
            store,
            own,
            runner: Runner::at(at),
            silent: None,
            reason: None,
            said: None,
            had: None,
            taken: None,
        }
    }

    async fn rows(&self) -> Result<Vec<(String, Row)>, Error> {
        let sql = format!("SELECT {} FROM nats_servers WHERE server_id = ?", Row::COLUMNS.join(", "));
        let rows = self.store.rows(Statement::new(sql).with([self.node.as_str()])).await?;
        Ok(rows.into_iter().filter_map(Row::of).collect())
    }

    /// The server that has taken the row of this name from us.
    async fn taker(&self, id: &str) -> Result<Option<String>, Error> {
        if self.had.as_deref() != Some(id) {
            return Ok(None);
        }
        let sql = "SELECT server_id FROM nats_servers WHERE id = ? AND server_id <> ?";
        let rows = self.store.rows(Statement::new(sql).with([id, self.node.as_str()])).await?;
        let text = |value| if let Value::Text(text) = value { text } else { "\u{fffd}".to_owned() };
        Ok(rows.into_iter().flatten().next().map(text))
    }
}

impl Nats {
    /// Says whose the row is, when that changes.
    fn tell(&self, id: &str, taken: Option<&str>) {
        match (&self.taken, taken) {
            (before, Some(by)) if before.as_deref() != Some(by) => {
                tracing::error!(id, by, "row of nats-server is another server's: two hosts have a copy of one store");
            }
            (Some(_), None) => tracing::info!(id, "row of nats-server is ours again"),
            (Some(_) | None, _) => {}
        }
    }
}

impl Reconciler for Nats {
    const NAME: &'static str = "nats";
    type Observed = Observed;
    type Step = Step;

    async fn observe(&mut self, now: Now) -> Result<Observed, Error> {
        let said = match self.runner.ask().await {
            Ok((id, row)) => {
                (self.silent, self.reason, self.said) = (None, None, Some(row.clone()));
                Said::Row(id, row)
            }
            Err(error) => {
                let since = *self.silent.get_or_insert(now.at);
                (self.reason, self.said) = (Some(error.chain()), None);
                Said::Nothing { since }
            }
        };
        let rows: BTreeMap<String, Row> = self.rows().await?.into_iter().collect();
        let mut taken = None;
        if let Said::Row(id, _) = &said {
            if rows.contains_key(id) {
                self.had = Some(id.clone());
            }
            taken = self.taker(id).await?;
            self.tell(id, taken.as_deref());
        }
        self.taken.clone_from(&taken);
        Ok(Observed { said, rows, taken })
    }

    fn plan(&self, observed: &Observed, now: Now) -> Vec<Step> {
        match self.own.standing() {
            Standing::Belongs => plan(observed, now),
            Standing::Removed => Vec::new(),
        }
    }

    async fn apply(&mut self, step: Step, _now: Now) -> Result<(), Error> {
        self.store.write(&[statement(&self.node, &step)]).await?;
        if let Step::Write { id, .. } = &step {
            self.had = Some(id.clone());
        }
        tracing::info!(%step, "row of nats-server");
        Ok(())
    }

    fn period(&self, now: Now) -> Duration {
        period(self.silent.map(|since| now.at.saturating_duration_since(since)))
    }

    fn detail(&self, now: Now) -> serde_json::Value {
        let silent = self.silent.map(|since| now.at.saturating_duration_since(since).as_secs());
        json!({ "runner": self.runner.place().to_string(), "silent_s": silent, "reason": self.reason, "row_taken_by": self.taken })
    }
}

fn statement(node: &NodeId, step: &Step) -> Statement {
    match step {
        Step::Write { id, row } => {
            let names = Row::COLUMNS;
            let marks = vec!["?"; names.len() + 1].join(", ");
            let updates: Vec<String> = names
                .iter()
                .skip(1)
                .chain(["server_id"].iter())
                .map(|name| format!("{name} = excluded.{name}"))
                .collect();
            let sql = format!(
                "INSERT INTO nats_servers ({}, server_id) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {}",
                names.join(", "),
                updates.join(", ")
            );
            let mut values = vec![Value::from(id.as_str())];
            values.extend(row.values());
            values.push(node.as_str().into());
            Statement::new(sql).with(values)
        }
        Step::Sicken { id } => {
            Statement::new("UPDATE nats_servers SET health_status = 'unhealthy' WHERE id = ? AND server_id = ?")
                .with([id.as_str(), node.as_str()])
        }
        Step::Delete { id } => {
            Statement::new("DELETE FROM nats_servers WHERE id = ? AND server_id = ?").with([id.as_str(), node.as_str()])
        }
    }
}
