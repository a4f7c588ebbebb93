//! The sweep: containers and NATS servers of a server that was removed go, an hour after we saw its tombstone. A `servers` row
//! never does: it is the tombstone.
//!
//! Absence sweeps nothing. Who is silent, and whose row is gone, keeps its rows; and unless it is known that we are not the ones who
//! are cut off ([`partition`](crate::partition)), nothing is swept at all.

mod plan;

use std::collections::BTreeMap;
use std::time::Duration;

use kith_gossip_client::{Statement, Value};
use serde_json::json;
use tokio::time::Instant;

use crate::clock::Now;
use crate::driver::Reconciler;
use crate::error::Error;
use crate::own::{Own, Standing};
use crate::partition::{Partition, Suspicion};
use crate::store::Store;
use plan::{Observed, Step, Table, Tombstone, plan};

/// How often is swept.
const PERIOD: Duration = Duration::from_secs(300);

/// Sweeps.
pub(crate) struct Sweep {
    store: Store,
    own: Own,
    partition: Partition,
    after: Duration,
    /// When each tombstone was first seen.
    seen: BTreeMap<String, Instant>,
    last: Option<Observed>,
}

impl Sweep {
    /// The sweep of this node, of tombstones that it has seen for `after`.
    pub(crate) fn new(store: Store, own: Own, partition: Partition, after: Duration) -> Sweep {
        Sweep { store, own, partition, after, seen: BTreeMap::new(), last: None }
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
        let removed = self.store.servers().await?.removed;
        self.seen.retain(|id, _| removed.contains(id));
        let mut tombstones = BTreeMap::new();
        let rows = self.rows_of_removed().await?;
        for id in removed {
            let since = *self.seen.entry(id.clone()).or_insert(now.at);
            let count = |table| rows.get(&(id.clone(), table)).copied().unwrap_or(0);
            let rows = Table::ALL.map(|table| (table, count(table)));
            tombstones.insert(id, Tombstone { since, rows: rows.into() });
        }
        let observed = Observed { tombstones, suspicion: self.partition.suspicion() };
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
            "paused": last.suspicion != Suspicion::Clear,
            "removed": servers.collect::<serde_json::Map<_, _>>(),
        })
    }
}
