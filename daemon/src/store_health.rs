//! The health of the store, as its daemon sees it: whether its API answers, whether the own row can be read, how far behind it is.
//!
//! It is a report: nothing is done about it here. A store that ends is started again by whoever keeps it, and one that is away
//! is waited for by every reconciler.

use std::fmt;
use std::time::Duration;

use kith_gossip_client::Statement;
use kith_gossip_proto::NodeId;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::clock::Now;
use crate::driver::Reconciler;
use crate::error::Error;
use crate::store::Store;

/// How often it is asked.
const PERIOD: Duration = Duration::from_secs(10);

/// Asks the store how it is.
pub(crate) struct StoreHealth {
    node: NodeId,
    store: Store,
    /// When it last answered, and what.
    answered: Option<(Instant, Seen)>,
}

/// How the store is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    own_row: OwnRow,
    lag_ms: f64,
    behind: u64,
    queued: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnRow {
    There,
    Missing,
}

/// Nothing that could be done.
#[derive(Debug)]
pub(crate) enum Nothing {}

impl StoreHealth {
    /// The report of this node.
    pub(crate) fn new(node: NodeId, store: Store) -> StoreHealth {
        StoreHealth { node, store, answered: None }
    }
}

impl Reconciler for StoreHealth {
    const NAME: &'static str = "store";
    type Observed = ();
    type Step = Nothing;

    async fn observe(&mut self, now: Now) -> Result<(), Error> {
        let health = self.store.health().await?;
        let own = Statement::new("SELECT 1 FROM servers WHERE id = ?").with([self.node.as_str()]);
        let own_row = if self.store.rows(own).await?.is_empty() { OwnRow::Missing } else { OwnRow::There };
        let lag_ms = health.p99_lag * 1000.0;
        self.answered = Some((now.at, Seen { own_row, lag_ms, behind: health.gaps, queued: health.queue_size }));
        Ok(())
    }

    fn plan(&self, (): &(), _now: Now) -> Vec<Nothing> {
        Vec::new()
    }

    async fn apply(&mut self, step: Nothing, _now: Now) -> Result<(), Error> {
        match step {}
    }

    fn period(&self, _now: Now) -> Duration {
        PERIOD
    }

    fn detail(&self, now: Now) -> Value {
        let Some((at, seen)) = &self.answered else { return Value::Null };
        let ago = u64::try_from(now.at.saturating_duration_since(*at).as_millis()).unwrap_or(u64::MAX);
        json!({
            "answered_ms_ago": ago,
            "own_row": match seen.own_row { OwnRow::There => "there", OwnRow::Missing => "missing" },
            "lag_p99_ms": seen.lag_ms,
            "behind": seen.behind,
            "queued": seen.queued,
        })
    }
}

impl fmt::Display for Nothing {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}
