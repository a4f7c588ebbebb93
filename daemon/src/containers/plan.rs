//! The plan of the containers: pure. What Docker runs and how it is, against the rows of this server.
//!
//! A change of health is written at once, and so is what a container is. Counters go with a change of health, else every 10
//! minutes: each write is a version that every server applies. All that is written at one time is one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use kith_gossip_client::{Statement, Value};
use tokio::time::Instant;

use super::instance::Instance;
use crate::clock::Now;
use crate::docker::ContainerId;
use crate::health::{Run, Verdict};

/// How old counters may be.
const COUNTERS: Duration = Duration::from_secs(600);
/// How often the reason alone is worth a version: a check may fail in another way each time.
const REASON: Duration = Duration::from_secs(10);
/// Changes in one transaction: beyond it a request would near its 1 MiB.
const TOGETHER: usize = 250;

/// What a container is, in the order of [`Cells::is`].
const IS: [&str; 10] =
    ["project", "service", "server_id", "instance_id", "ip", "ip6", "started_at", "ports", "image", "health_port"];
/// How it is, in the order of [`Cells::health`].
const HEALTH: [&str; 4] = ["health_status", "health_reason", "last_health_check", "consecutive_failures"];
/// Places in [`IS`] that only a container that runs has.
const WHILE_RUNNING: [usize; 3] = [4, 5, 6];

/// A container as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) instance: Instance,
    pub(crate) run: Run,
    pub(crate) verdict: Verdict,
    pub(crate) probed: Probed,
}

/// Whether the verdict of one that is probed is based on a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probed {
    /// It is, or none is needed.
    Yes,
    /// Not yet: what its row says of the same start holds until then, so that a daemon that starts takes nobody out of answers.
    NotYet,
}

/// A row's cells that are ours. `draining` is the operator's.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cells {
    is: Vec<Value>,
    health: Vec<Value>,
}

/// A row as it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) cells: Cells,
    /// When we wrote it, or saw it first.
    pub(crate) written: Instant,
}

/// A project and a service of it.
pub(crate) type Service = (String, String);

/// All that there is.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// This server.
    pub(crate) server: &'a str,
    /// Its containers.
    pub(crate) desired: BTreeMap<&'a ContainerId, Desired>,
    /// Its rows.
    pub(crate) rows: &'a BTreeMap<ContainerId, Row>,
    /// Containers that are known to be gone.
    pub(crate) gone: &'a BTreeSet<ContainerId>,
    /// Containers of before this start that have not been seen since.
    pub(crate) before: BTreeSet<&'a ContainerId>,
    /// Containers that are remembered.
    pub(crate) remembered: &'a BTreeSet<ContainerId>,
    /// Services that have a row.
    pub(crate) services: &'a BTreeSet<Service>,
    /// The boot id that is to be written, with the first full list.
    pub(crate) boot: Option<&'a str>,
}

/// What is done together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Remember that these were seen, before any row says so.
    Remember(BTreeSet<ContainerId>),
    /// Write these in one transaction.
    Write(Vec<Change>),
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// A service that has no row gets one.
    Service(Service),
    /// A container is entered, or its whole row is put right.
    Enter(ContainerId, Cells),
    /// Its health moves.
    Health(ContainerId, Cells),
    /// Its row goes.
    Delete(ContainerId),
    /// Containers are known since this boot.
    Boot(String),
}

/// What is to be done.
pub(crate) fn plan(view: &View<'_>, now: Now) -> Vec<Step> {
    let mut services = BTreeSet::new();
    let mut changes = Vec::new();
    for (id, desired) in &view.desired {
        let row = view.rows.get(*id);
        let wanted = Cells::of(desired, view.server, row);
        let Some(wanted) = wanted else { continue };
        let Instance { project, service, .. } = &desired.instance;
        let service = (project.clone(), service.clone());
        // A container without a project takes that of the one service of its name: there is none to enter.
        if !project.is_empty() && !view.services.contains(&service) {
            services.insert(service);
        }
        changes.extend(change(id, row, wanted, now));
    }
    changes.extend(view.gone.iter().filter(|id| view.rows.contains_key(*id)).cloned().map(Change::Delete));
    let services = services.into_iter().map(Change::Service);
    let all: Vec<Change> = services.chain(changes).chain(view.boot.map(|boot| Change::Boot(boot.to_owned()))).collect();
    remember(view).into_iter().chain(all.chunks(TOGETHER).map(|together| Step::Write(together.to_vec()))).collect()
}

/// Those whose rows are, or will be, ours to delete.
fn remember(view: &View<'_>) -> Option<Step> {
    let gone = view.gone.iter().filter(|id| view.rows.contains_key(*id));
    let seen: BTreeSet<&ContainerId> =
        view.desired.keys().copied().chain(view.before.iter().copied()).chain(gone).collect();
    let changed = !seen.iter().copied().eq(view.remembered);
    changed.then(|| Step::Remember(seen.into_iter().cloned().collect()))
}

fn change(id: &ContainerId, row: Option<&Row>, wanted: Cells, now: Now) -> Option<Change> {
    let Some(row) = row else { return Some(Change::Enter(id.clone(), wanted)) };
    if row.cells.is != wanted.is {
        return Some(Change::Enter(id.clone(), wanted));
    }
    let age = now.at.saturating_duration_since(row.written);
    let [status, reason, ..] = [0, 1, 2, 3].map(|at| row.cells.health.get(at) != wanted.health.get(at));
    let due = status || (reason && age >= REASON) || (row.cells.health != wanted.health && age >= COUNTERS);
    due.then(|| Change::Health(id.clone(), wanted))
}

impl Cells {
    /// What a row is to hold. Of a container that does not run, its address and start are as the row has them; without a
    /// row there is nothing to enter.
    fn of(desired: &Desired, server: &str, row: Option<&Row>) -> Option<Cells> {
        let Desired { instance, run, verdict, probed } = desired;
        let started_ms = match run {
            Run::Running { started_ms, .. } => Some(*started_ms),
            Run::Paused | Run::Stopped => None,
        };
        if row.is_none() && (started_ms.is_none() || instance.probed_at().is_none()) {
            return None;
        }
        let text = |address: Option<String>| Value::Text(address.unwrap_or_default());
        let mut is = vec![
            instance.project.as_str().into(),
            instance.service.as_str().into(),
            server.into(),
            instance.slot.as_str().into(),
            text(instance.at.ip.map(|ip| ip.to_string())),
            text(instance.at.ip6.map(|ip| ip.to_string())),
            started_ms.unwrap_or(0).into(),
            instance.ports.as_str().into(),
            instance.image.as_str().into(),
            instance.health_port().map(i64::from).into(),
        ];
        if let (None, Some(row)) = (started_ms, row) {
            for at in WHILE_RUNNING {
                is[at] = row.cells.is[at].clone();
            }
        }
        let same_start = |row: &&Row| row.cells.is.get(WHILE_RUNNING[2]) == is.get(WHILE_RUNNING[2]);
        if let (Probed::NotYet, Some(row)) = (probed, row.filter(same_start)) {
            return Some(Cells { is, health: row.cells.health.clone() });
        }
        let health = vec![
            verdict.status.word().into(),
            verdict.reason.as_str().into(),
            verdict.checked_ms.into(),
            i64::from(verdict.failures).into(),
        ];
        Some(Cells { is, health })
    }

    /// The columns that a row is read by, behind its id.
    pub(crate) fn columns() -> String {
        [&IS[..], &HEALTH[..]].concat().join(", ")
    }

    /// The cells of these columns.
    pub(crate) fn read(mut cells: Vec<Value>) -> Cells {
        cells.resize(IS.len() + HEALTH.len(), Value::Null);
        let health = cells.split_off(IS.len());
        Cells { is: cells, health }
    }
}

impl Change {
    /// The statement that makes it, which does no harm twice.
    pub(crate) fn statement(&self, server: &str) -> Statement {
        match self {
            Change::Service((project, name)) => {
                Statement::new("INSERT INTO services (project, name) VALUES (?, ?) ON CONFLICT DO NOTHING")
                    .with([project.as_str(), name.as_str()])
            }
            Change::Enter(id, cells) => {
                let columns = [&IS[..], &HEALTH[..]].concat();
                let updates: Vec<String> = columns.iter().map(|name| format!("{name} = excluded.{name}")).collect();
                let marks = vec!["?"; columns.len() + 1].join(", ");
                let (columns, updates) = (columns.join(", "), updates.join(", "));
                let sql = format!(
                    "INSERT INTO containers (id, {columns}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {updates}"
                );
                let values = cells.is.iter().chain(&cells.health).cloned();
                Statement::new(sql).with(std::iter::once(Value::from(id.as_str())).chain(values))
            }
            Change::Health(id, cells) => {
                let sql = format!("UPDATE containers SET {} = ? WHERE id = ?", HEALTH.join(" = ?, "));
                Statement::new(sql).with(cells.health.iter().cloned().chain([Value::from(id.as_str())]))
            }
            Change::Delete(id) => {
                Statement::new("DELETE FROM containers WHERE id = ? AND server_id = ?").with([id.as_str(), server])
            }
            Change::Boot(boot) => Statement::new("UPDATE servers SET boot_id = ? WHERE id = ? AND removed_at IS NULL")
                .with([boot.as_str(), server]),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes = match self {
            Step::Remember(seen) => return write!(f, "remember {} containers", seen.len()),
            Step::Write(changes) => changes,
        };
        let shown: Vec<String> = changes.iter().take(5).map(ToString::to_string).collect();
        let rest = changes.len() - shown.len();
        write!(f, "{}", shown.join("; "))?;
        if rest > 0 { write!(f, "; and {rest} more") } else { Ok(()) }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |id: &ContainerId| id.chars().take(12).collect::<String>();
        let text = |value: Option<&Value>| match value {
            Some(Value::Text(text)) => text.clone(),
            Some(Value::Integer(number)) => number.to_string(),
            Some(Value::Null | Value::Real(_) | Value::Blob(_)) | None => String::new(),
        };
        let health = |cells: &Cells| {
            let [status, reason] = [0, 1].map(|at| text(cells.health.get(at)));
            if reason.is_empty() { status } else { format!("{status} ({reason})") }
        };
        match self {
            Change::Service((project, name)) => write!(f, "enter service {project}/{name}"),
            Change::Enter(id, cells) => {
                let [project, service, slot, ip] = [0, 1, 3, 4].map(|at| text(cells.is.get(at)));
                write!(f, "enter {} as {project}/{service}/{slot} at {ip}, {}", short(id), health(cells))
            }
            Change::Health(id, cells) => write!(f, "{} is {}", short(id), health(cells)),
            Change::Delete(id) => write!(f, "delete {}", short(id)),
            Change::Boot(boot) => write!(f, "boot {boot}"),
        }
    }
}

#[cfg(test)]
mod tests;
