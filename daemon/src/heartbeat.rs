//! The heartbeat: this server's own row, put right within 10 s of being changed or deleted by anybody, and its `last_seen`.
//!
//! Live ages come from the members; `last_seen` is for people and for clients that know nothing else, who tolerate 300 s.
//!
//! ```text
//!   Belongs ── our row has removed_at ──► Removed: nothing is written any more, also after a restart
//!      ▲                                    │      and if the row itself goes
//!      └────── removed_at is NULL again ◄───┘
//! ```

mod kept;
mod plan;

use std::path::Path;
use std::time::Duration;

use kith_gossip_client::{Statement, Value};
use kith_gossip_proto::NodeId;
use serde_json::json;
use tokio::time::Instant;

use crate::clock::Now;
use crate::driver::Reconciler;
use crate::error::Error;
use crate::own::{Column, Own, Standing};
use crate::store::{CaughtUp, Store};
pub(crate) use kept::{Kept, KeptFile};
use plan::{Observed, Row, Seen, Step, plan};

/// How often the row is looked at: half of what it may be wrong. It is not followed: with somebody who goes on writing it
/// otherwise, two would answer each other as fast as they can.
const PERIOD: Duration = Duration::from_secs(5);
/// How often it is looked at while the store has not caught up with the others, which takes moments. Until the row is there nobody knows of this
/// server's region, and what is found by regions waits for it.
const SOON: Duration = Duration::from_millis(250);

/// Keeps the own row.
pub(crate) struct Heartbeat {
    node: NodeId,
    store: Store,
    own: Own,
    file: KeptFile,
    kept: Kept,
    /// When we last wrote `last_seen`.
    seen_at: Option<Instant>,
    /// Whether it was not to be told, when last looked at, if the row is lost or was never there.
    is_unknown: bool,
}

impl Heartbeat {
    /// The heartbeat of this node, which remembers in `dir`. What it remembers there is read at once.
    pub(crate) fn new(node: NodeId, dir: &Path, store: Store, own: Own) -> Result<Heartbeat, Error> {
        let file = KeptFile::within(dir);
        let kept = file.read()?;
        own.stands(standing(&kept));
        Ok(Heartbeat { node, store, own, file, kept, seen_at: None, is_unknown: false })
    }

    async fn row(&self) -> Result<Seen, Error> {
        let names: Vec<&str> = Column::ALL.into_iter().map(Column::name).collect();
        let sql = format!("SELECT {}, labels, draining, removed_at FROM servers WHERE id = ?", names.join(", "));
        let rows = self.store.rows(Statement::new(sql).with([self.node.as_str()])).await?;
        match rows.into_iter().next() {
            Some(cells) => Ok(Seen::Row(Row::of(cells))),
            None => Ok(match self.store.caught_up().await? {
                CaughtUp::Yes => Seen::Lost,
                CaughtUp::NotYet => Seen::Unknown,
            }),
        }
    }
}

impl Reconciler for Heartbeat {
    const NAME: &'static str = "heartbeat";
    type Observed = Observed;
    type Step = Step;

    async fn observe(&mut self, _now: Now) -> Result<Observed, Error> {
        let seen = self.row().await?;
        self.is_unknown = matches!(seen, Seen::Unknown);
        Ok(Observed { seen, kept: self.kept.clone(), seen_at: self.seen_at })
    }

    fn plan(&self, observed: &Observed, now: Now) -> Vec<Step> {
        plan(&self.own.said(), observed, now)
    }

    async fn apply(&mut self, step: Step, now: Now) -> Result<(), Error> {
        match step {
            Step::Write { .. } | Step::Enter { .. } => {
                self.store.write(&[statement(&self.node, &step, now.wall_ms)]).await?;
                self.seen_at = Some(now.at);
            }
            Step::Keep(kept) => {
                if kept.removed_at != self.kept.removed_at {
                    tell(kept.removed_at);
                }
                self.own.stands(standing(&kept));
                self.file.write(&kept)?;
                self.kept = kept;
            }
        }
        Ok(())
    }

    fn period(&self, _now: Now) -> Duration {
        if self.is_unknown { SOON } else { PERIOD }
    }

    fn detail(&self, _now: Now) -> serde_json::Value {
        json!({ "removed_at": self.kept.removed_at })
    }
}

fn standing(kept: &Kept) -> Standing {
    if kept.removed_at.is_some() { Standing::Removed } else { Standing::Belongs }
}

fn tell(removed_at: Option<i64>) {
    match removed_at {
        Some(removed_at) => {
            tracing::warn!(removed_at, "this server was removed from the cluster: its row is left alone");
        }
        None => tracing::info!("this server belongs to the cluster again"),
    }
}

/// The statement of a step that writes the row.
fn statement(node: &NodeId, step: &Step, wall_ms: i64) -> Statement {
    let (columns, entered) = match step {
        Step::Write { columns } => (columns, None),
        Step::Enter { columns, labels, draining } => (columns, Some((labels, draining))),
        Step::Keep(_) => unreachable!("a step that keeps writes no row"),
    };
    let mut names: Vec<&str> = columns.keys().map(|column| column.name()).collect();
    let mut values: Vec<Value> = columns.values().map(|value| Value::from(value.as_str())).collect();
    names.push("last_seen");
    values.push(wall_ms.into());
    let Some((labels, draining)) = entered else {
        values.push(node.as_str().into());
        return Statement::new(format!("UPDATE servers SET {} = ? WHERE id = ?", names.join(" = ?, "))).with(values);
    };
    // Somebody may have entered the row since it was looked for: what is the operator's then stays as it is.
    let updates: Vec<String> = names.iter().map(|name| format!("{name} = excluded.{name}")).collect();
    names.extend(["labels", "draining", "id"]);
    values.extend([labels.as_str().into(), (*draining).into(), node.as_str().into()]);
    let marks = vec!["?"; names.len()].join(", ");
    let sql = format!(
        "INSERT INTO servers ({}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {}",
        names.join(", "),
        updates.join(", ")
    );
    Statement::new(sql).with(values)
}
