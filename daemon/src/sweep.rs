//! The sweep: containers and NATS servers of a server that was removed go, an hour after we saw its tombstone. A `servers` row
//! never does: it is the tombstone.
//!
//! Absence sweeps nothing. Who is silent, and whose row is gone, keeps its rows; and while so many servers are missing that we may be the
//! ones who are cut off, nothing is swept at all.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kith_gossip_client::members::MemberState;
use kith_gossip_client::{Statement, Value};
use kith_gossip_proto::NodeId;
use serde_json::json;
use tokio::time::Instant;

use crate::clock::Now;
use crate::driver::Reconciler;
use crate::error::Error;
use crate::own::{Own, Standing};
use crate::store::Store;
use plan::{Observed, Partition, Step, Table, Tombstone, plan};

/// How often is swept.
const PERIOD: Duration = Duration::from_secs(300);

/// Sweeps.
pub(crate) struct Sweep {
    node: NodeId,
    store: Store,
    own: Own,
    after: Duration,
    /// When each tombstone was first seen.
    seen: BTreeMap<String, Instant>,
    last: Option<Observed>,
}

impl Sweep {
    /// The sweep of this node, of tombstones that it has seen for `after`.
    pub(crate) fn new(node: NodeId, store: Store, own: Own, after: Duration) -> Sweep {
        Sweep { node, store, own, after, seen: BTreeMap::new(), last: None }
    }

    /// The servers that belong, and those that were removed.
    async fn servers(&self) -> Result<(BTreeSet<String>, BTreeSet<String>), Error> {
        let rows = self.store.rows(Statement::new("SELECT id, removed_at IS NOT NULL FROM servers")).await?;
        let (mut belonging, mut removed) = (BTreeSet::from([self.node.as_str().to_owned()]), BTreeSet::new());
        for cells in rows {
            match &cells[..] {
                [Value::Text(id), Value::Integer(0)] => belonging.insert(id.clone()),
                [Value::Text(id), _] => removed.insert(id.clone()),
                _ => false,
            };
        }
        Ok((belonging, removed))
    }

    async fn rows_of_removed(&self) -> Result<BTreeMap<(String, Table), u64>, Error> {
        let mut counts = BTreeMap::new();
        for table in Table::ALL {
            let rows = self.store.rows(Statement::new(table.count())).await?;
            let count = |cells: Vec<Value>| match &cells[..] {
                [Value::Text(id), Value::Integer(count)] => Some(((id.clone(), table), u64::try_from(*count).ok()?)),
                _ => None,
            };
            counts.extend(rows.into_iter().filter_map(count));
        }
        Ok(counts)
    }
}

impl Reconciler for Sweep {
    const NAME: &'static str = "sweep";
    type Observed = Observed;
    type Step = Step;

    async fn observe(&mut self, now: Now) -> Result<Observed, Error> {
        let (belonging, removed) = self.servers().await?;
        let heard = self.store.members().await?;
        let up: BTreeSet<_> =
            heard.into_iter().filter(|member| member.state == MemberState::Up).map(|member| member.server).collect();
        let missing = belonging.iter().filter(|id| id.as_str() != self.node.as_str() && !up.contains(*id)).count();
        self.seen.retain(|id, _| removed.contains(id));
        let mut tombstones = BTreeMap::new();
        let rows = self.rows_of_removed().await?;
        for id in removed {
            let since = *self.seen.entry(id.clone()).or_insert(now.at);
            let count = |table| rows.get(&(id.clone(), table)).copied().unwrap_or(0);
            let rows = Table::ALL.map(|table| (table, count(table)));
            tombstones.insert(id, Tombstone { since, rows: rows.into() });
        }
        let observed = Observed { tombstones, partition: Partition::of(missing, belonging.len()) };
        self.last = Some(observed.clone());
        Ok(observed)
    }

    fn plan(&self, observed: &Observed, now: Now) -> Vec<Step> {
        match self.own.standing() {
            Standing::Belongs => plan(observed, self.after, now),
            Standing::Removed => Vec::new(),
        }
    }

    async fn apply(&mut self, step: Step, _now: Now) -> Result<(), Error> {
        self.store.write(&[step.statement()]).await?;
        tracing::info!(%step, "swept");
        Ok(())
    }

    fn period(&self, _now: Now) -> Duration {
        PERIOD
    }

    fn detail(&self, now: Now) -> serde_json::Value {
        let Some(last) = &self.last else { return serde_json::Value::Null };
        let seen = |tombstone: &Tombstone| now.at.saturating_duration_since(tombstone.since);
        let servers = last.tombstones.iter().map(|(id, tombstone)| {
            let due = self.after.saturating_sub(seen(tombstone)).as_secs();
            (id.clone(), json!({ "seen_s": seen(tombstone).as_secs(), "due_s": due }))
        });
        json!({
            "paused": last.partition == Partition::Suspected,
            "removed": servers.collect::<serde_json::Map<_, _>>(),
        })
    }
}
