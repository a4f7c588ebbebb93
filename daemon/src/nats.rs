//! The row of this server's nats-server, as its runner says by `GET /status`: that is all that joins the two. DNS serves the row, and the
//! runners find each other by DNS, so that none of them ever needs the store.
//!
//! A runner that says nothing has ended, and its nats-server with it: the row says unhealthy, and goes when nobody has answered for a
//! while. One that answers under another name has another store: the row of the former name goes at once.
//!
//! Where two hosts have a copy of one store, both runners have one name, and there is one row for two: the later takes it, as the machine
//! does to which a disk was moved, and the earlier leaves it to that one and says so, rather than that each takes it from the other for ever.

mod ask;
mod claim;
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
use claim::{Claim, Holder, Told};
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
    claim: Claim,
}

impl Nats {
    /// The row of this node's nats-server, whose runner answers there.
    pub(crate) fn new(node: NodeId, store: Store, own: Own, at: SocketAddr) -> Nats {
        let (runner, claim) = (Runner::at(at), Claim::default());
        Nats { node, store, own, runner, silent: None, reason: None, claim }
    }

    async fn rows(&self) -> Result<Vec<(String, Row)>, Error> {
        let sql = format!("SELECT {} FROM nats_servers WHERE server_id = ?", Row::COLUMNS.join(", "));
        let rows = self.store.rows(Statement::new(sql).with([self.node.as_str()])).await?;
        Ok(rows.into_iter().filter_map(Row::of).collect())
    }

    /// Whose the row of this name is, which is not ours.
    async fn holder(&self, id: &str) -> Result<Holder, Error> {
        let sql = "SELECT server_id FROM nats_servers WHERE id = ? AND server_id <> ?";
        let rows = self.store.rows(Statement::new(sql).with([id, self.node.as_str()])).await?;
        let text = |value| if let Value::Text(text) = value { text } else { "\u{fffd}".to_owned() };
        Ok(rows.into_iter().flatten().next().map_or(Holder::Nobody, |value| Holder::Other(text(value))))
    }

    /// Notes whose the row is, and says so when that changes.
    fn note(&mut self, id: &str, holder: Holder) {
        match self.claim.note(id, holder) {
            Some(Told::Taken) => {
                let by = self.claim.taken();
                tracing::error!(id, by, "row of nats-server is another server's: two hosts have a copy of one store");
            }
            Some(Told::Regained) => tracing::info!(id, "row of nats-server is ours again"),
            None => {}
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
                (self.silent, self.reason) = (None, None);
                Said::Row(id, row)
            }
            Err(error) => {
                let since = *self.silent.get_or_insert(now.at);
                self.reason = Some(error.chain());
                Said::Nothing { since }
            }
        };
        let rows: BTreeMap<String, Row> = self.rows().await?.into_iter().collect();
        let mut taken = None;
        if let Said::Row(id, _) = &said {
            let holder = if rows.contains_key(id) { Holder::Us } else { self.holder(id).await? };
            if let Holder::Other(by) = &holder {
                taken = self.claim.had(id).then(|| by.clone());
            }
            self.note(id, holder);
        }
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
        tracing::info!(%step, "row of nats-server");
        if let Step::Write { id, .. } = &step {
            self.note(id, Holder::Us);
        }
        Ok(())
    }

    fn period(&self, now: Now) -> Duration {
        period(self.silent.map(|since| now.at.saturating_duration_since(since)))
    }

    fn detail(&self, now: Now) -> serde_json::Value {
        let silent = self.silent.map(|since| now.at.saturating_duration_since(since).as_secs());
        json!({ "runner": self.runner.place().to_string(), "silent_s": silent, "reason": self.reason, "row_taken_by": self.claim.taken() })
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
