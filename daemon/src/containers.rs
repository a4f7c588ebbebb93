//! The containers of this server: what Docker runs, and how it is, as rows.
//!
//! ```text
//!  Docker's events ─► whose ─┐                        ┌─ what Docker has ─┐
//!                            ├─► wake ─► pass ─► look ┤                   ├─► health of each ─► plan ─► one transaction
//!  probes that ended ────────┘       (in the          └─ what probes found┘      (pure)        (pure)
//!  30 s, rows every 5 s ─────────────►background)
//! ```
//!
//! A look at Docker and each probe run in tasks of their own: a Docker that hangs holds up nothing. What they find is taken
//! up by the next pass, which they wake.
//!
//! A row goes when Docker said that its container was destroyed and does not have it any more, or when the container is
//! missing from two full lists 10 s apart; and only if this daemon has seen it in Docker. Other rows in this server's name
//! are shown, and left alone.

mod instance;
mod look;
mod plan;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use kith_gossip_client::{Statement, Value};
use kith_gossip_proto::NodeId;
use serde_json::json;
use tokio::time::Instant;

use crate::clock::Now;
use crate::docker::{Addresses, Changes, ContainerId};
use crate::driver::Reconciler;
use crate::error::Error;
use crate::own::{Column, Own, Standing};
use crate::store::{CaughtUp, Store};
use crate::wake::Wake;
use look::Looks;
use plan::{Cells, Change, Desired, Probed, Row, Service, Step, View, plan};
pub(crate) use seen::SeenFile;

/// How old the rows may be that a plan is made on.
const ROWS: Duration = Duration::from_secs(5);
/// Containers that status shows one by one, of those that are not listed or not healthy; the rest are counted.
const SHOWN: usize = 150;
/// Rows of others' that status names; the rest are counted.
const SHOWN_ROWS: usize = 20;

/// Keeps this server's container rows.
pub(crate) struct Containers {
    node: NodeId,
    store: Store,
    own: Own,
    looks: Looks,
    rows: Option<Rows>,
    boot: Boot,
    file: SeenFile,
    remembered: BTreeSet<ContainerId>,
}

/// What the store has.
struct Rows {
    /// This server's.
    containers: BTreeMap<ContainerId, Row>,
    /// Services that have a row, of those that its containers are of.
    services: BTreeSet<Service>,
    at: Instant,
}

/// The boot id, which says that the containers of this boot are known.
enum Boot {
    /// It is written with the first full list.
    Due(String),
    /// It was.
    Written,
}

/// What a [`Containers`] is made of.
pub(crate) struct Parts {
    /// This server.
    pub(crate) node: NodeId,
    /// Its boot.
    pub(crate) boot_id: String,
    /// Its store.
    pub(crate) store: Store,
    /// Its own row.
    pub(crate) own: Own,
    /// Docker's socket.
    pub(crate) socket: PathBuf,
    /// What Docker's events note.
    pub(crate) changes: Changes,
    /// What wakes the reconciler.
    pub(crate) wake: Wake,
    /// Where is remembered which containers were seen.
    pub(crate) file: SeenFile,
}

impl Containers {
    /// The containers of a node.
    pub(crate) fn new(parts: Parts) -> Result<Containers, Error> {
        let Parts { node, boot_id, store, own, socket, changes, wake, file } = parts;
        let remembered = file.read()?;
        let looks = Looks::new(&socket, changes, wake, &remembered);
        Ok(Containers { node, store, own, looks, rows: None, boot: Boot::Due(boot_id), file, remembered })
    }

    async fn read(&mut self, now: Now) -> Result<(), Error> {
        if self.rows.as_ref().is_some_and(|rows| now.at.saturating_duration_since(rows.at) < ROWS) {
            return Ok(());
        }
        let before = self.rows.take().map(|rows| rows.containers).unwrap_or_default();
        let node = self.node.as_str();
        let sql = format!("SELECT id, {} FROM containers WHERE server_id = ?", Cells::columns());
        let rows = self.store.rows(Statement::new(sql).with([node])).await?;
        let containers: BTreeMap<ContainerId, Row> =
            rows.into_iter().filter_map(|cells| row(cells, &before, now)).collect();
        if containers.is_empty() && self.store.caught_up().await? == CaughtUp::NotYet {
            // Rows that are on their way would be entered over, with what the operator said in them.
            return Ok(());
        }
        let sql = "SELECT project, name FROM services WHERE (project, name) IN \
                   (SELECT project, service FROM containers WHERE server_id = ?)";
        let services = self.store.rows(Statement::new(sql).with([node])).await?;
        let services = services.into_iter().filter_map(|cells| match &cells[..] {
            [Value::Text(project), Value::Text(name)] => Some((project.clone(), name.clone())),
            _ => None,
        });
        self.rows = Some(Rows { containers, services: services.collect(), at: now.at });
        Ok(())
    }

    /// Takes up what was written, so that the next plan is made on it.
    fn wrote(&mut self, changes: Vec<Change>, now: Now) {
        let Some(rows) = &mut self.rows else { return };
        for change in changes {
            match change {
                Change::Service(service) => drop(rows.services.insert(service)),
                Change::Enter(id, cells) | Change::Health(id, cells) => {
                    rows.containers.insert(id, Row { cells, written: now.at });
                }
                Change::Delete(id) => {
                    rows.containers.remove(&id);
                    self.looks.deleted(&id);
                }
                Change::Boot(boot) => {
                    self.own.say(Column::BootId, boot);
                    self.boot = Boot::Written;
                }
            }
        }
    }

    /// The rows in this server's name of which Docker has never shown a container.
    fn unseen(&self) -> Vec<&ContainerId> {
        let rows = self.rows.iter().flat_map(|rows| rows.containers.keys());
        rows.filter(|id| !self.looks.knows(id)).collect()
    }
}

impl Reconciler for Containers {
    const NAME: &'static str = "containers";
    type Observed = ();
    type Step = Step;

    async fn observe(&mut self, now: Now) -> Result<(), Error> {
        let said = self.own.said();
        let host = Addresses {
            ip: said.get(&Column::WireguardIp).and_then(|text| text.parse().ok()),
            ip6: said.get(&Column::ManagementIp).and_then(|text| text.parse().ok()),
        };
        self.looks.take_up(&host, now);
        self.looks.start(now);
        self.read(now).await
    }

    fn plan(&self, (): &(), now: Now) -> Vec<Step> {
        let (Some(rows), Standing::Belongs) = (&self.rows, self.own.standing()) else { return Vec::new() };
        let boot = match (&self.boot, self.looks.has_full_list()) {
            (Boot::Due(boot), true) => Some(boot.as_str()),
            (Boot::Due(_), false) | (Boot::Written, _) => None,
        };
        let desired = self.looks.known().filter_map(|(id, known)| {
            let instance = known.instance.clone().ok()?;
            let probed = if known.health.awaits_probe() { Probed::NotYet } else { Probed::Yes };
            Some((id, Desired { instance, run: known.container.run, verdict: known.health.verdict(), probed }))
        });
        let view = View {
            server: self.node.as_str(),
            desired: desired.collect(),
            rows: &rows.containers,
            gone: self.looks.gone(),
            before: self.looks.before().collect(),
            remembered: &self.remembered,
            services: &rows.services,
            boot,
        };
        plan(&view, now)
    }

    async fn apply(&mut self, step: Step, now: Now) -> Result<(), Error> {
        let changes = match step {
            Step::Write(changes) => changes,
            Step::Remember(seen) => {
                // A disk that is full or dead must not keep a container that fails in answers.
                if let Err(error) = self.file.write(&seen) {
                    tracing::warn!(error = error.chain(), "which containers were seen is not remembered");
                }
                self.remembered = seen;
                return Ok(());
            }
        };
        let statements: Vec<Statement> = changes.iter().map(|change| change.statement(self.node.as_str())).collect();
        self.store.write(&statements).await?;
        for change in &changes {
            tracing::info!(%change, "container row written");
        }
        self.wrote(changes, now);
        Ok(())
    }

    fn period(&self, now: Now) -> Duration {
        let rows = self.rows.as_ref().map_or(now.at, |rows| rows.at + ROWS);
        // A store that has not caught up is asked again a moment later.
        let rows = if self.rows.is_some() { rows } else { now.at + Duration::from_millis(250) };
        self.looks.next(now).min(rows).saturating_duration_since(now.at)
    }

    fn detail(&self, now: Now) -> serde_json::Value {
        let notable = self.looks.known().filter(|(_, known)| known.is_notable());
        let notable: Vec<_> = notable.map(|(_, known)| known.describe()).collect();
        let unseen = if self.looks.has_full_list() { self.unseen() } else { Vec::new() };
        json!({
            "docker": self.looks.docker(now),
            "known": self.looks.known().count(),
            "notable": notable.len(),
            "containers": notable.into_iter().take(SHOWN).collect::<Vec<_>>(),
            "rows_not_in_docker": unseen.len(),
            "not_in_docker": unseen.into_iter().take(SHOWN_ROWS).collect::<Vec<_>>(),
        })
    }
}

/// A row of the SELECT. Whoever else wrote it may have written anything.
fn row(mut cells: Vec<Value>, before: &BTreeMap<ContainerId, Row>, now: Now) -> Option<(ContainerId, Row)> {
    if cells.is_empty() {
        return None;
    }
    let Value::Text(id) = cells.remove(0) else { return None };
    let written = before.get(&id).map_or(now.at, |row| row.written);
    Some((id, Row { cells: Cells::read(cells), written }))
}
