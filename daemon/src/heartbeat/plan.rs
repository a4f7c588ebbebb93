//! The plan of the heartbeat: pure.

use std::fmt;
use std::time::Duration;

use kith_gossip_client::Value;
use tokio::time::Instant;

use super::kept::Kept;
use crate::clock::Now;
use crate::own::{Column, Columns};

/// How often `last_seen` moves. Each move is a version that every server applies; readers tolerate five times as much.
const MOVE: Duration = Duration::from_secs(60);

/// What there is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Observed {
    /// The row in the store.
    pub(crate) seen: Seen,
    /// What the file has.
    pub(crate) kept: Kept,
    /// When we last wrote `last_seen`.
    pub(crate) seen_at: Option<Instant>,
}

/// How the store has our row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is there.
    Row(Row),
    /// It is not there.
    Lost,
    /// It is not there, and the store has not heard from its peers yet.
    Unknown,
}

/// Our row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// What is ours. A column that holds no text is left out, so it differs from whatever it is to be.
    pub(crate) columns: Columns,
    /// The operator's labels.
    pub(crate) labels: String,
    /// Whether the operator keeps new work away.
    pub(crate) draining: i64,
    /// When the operator removed this server.
    pub(crate) removed_at: Option<i64>,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remember this.
    Keep(Kept),
    /// Set these columns of the row, and `last_seen`.
    Write {
        /// Those that differ.
        columns: Columns,
    },
    /// Enter the row again.
    Enter {
        /// All that we know of it.
        columns: Columns,
        /// As the operator last had them.
        labels: String,
        /// As the operator last had it.
        draining: i64,
    },
}

impl Row {
    /// The row of the cells of [`Column::ALL`], labels, draining and `removed_at`. Anybody may have written anything.
    pub(crate) fn of(cells: Vec<Value>) -> Row {
        let mut cells = cells.into_iter();
        let text = |value| if let Value::Text(text) = value { Some(text) } else { None };
        let columns = Column::ALL
            .into_iter()
            .zip(cells.by_ref())
            .filter_map(|(column, value)| Some((column, text(value)?)))
            .collect();
        let mut next = || cells.next().unwrap_or(Value::Null);
        Row {
            columns,
            labels: text(next()).unwrap_or_else(|| "{}".to_owned()),
            draining: next().as_integer().unwrap_or(0),
            removed_at: match next() {
                Value::Null => None,
                // Whatever it is, the others take it for a removal.
                other => Some(other.as_integer().unwrap_or(0)),
            },
        }
    }
}

/// What is to be done so that our row says what `own` says.
pub(crate) fn plan(own: &Columns, observed: &Observed, now: Now) -> Vec<Step> {
    let kept = &observed.kept;
    match &observed.seen {
        Seen::Unknown => Vec::new(),
        Seen::Lost if kept.removed_at.is_some() => Vec::new(),
        Seen::Lost => {
            let mut columns = kept.columns.clone();
            columns.extend(own.iter().map(|(column, value)| (*column, value.clone())));
            let labels = if kept.labels.is_empty() { "{}".to_owned() } else { kept.labels.clone() };
            vec![Step::Enter { columns, labels, draining: kept.draining }]
        }
        Seen::Row(row) if row.removed_at.is_some() => keep(kept, row, row.columns.clone()),
        Seen::Row(row) => {
            let differs = |(column, value): &(&Column, &String)| row.columns.get(column) != Some(value);
            let owned = |(column, value): (&Column, &String)| (*column, value.clone());
            let columns: Columns = own.iter().filter(differs).map(owned).collect();
            let mut will_be = row.columns.clone();
            will_be.extend(columns.clone());
            let mut steps = keep(kept, row, will_be);
            if !columns.is_empty() || observed.seen_at.is_none_or(|at| now.at.duration_since(at) >= MOVE) {
                steps.push(Step::Write { columns });
            }
            steps
        }
    }
}

/// Remembers the row as it will be, if that is not remembered yet.
fn keep(kept: &Kept, row: &Row, columns: Columns) -> Vec<Step> {
    let (labels, draining, removed_at) = (row.labels.clone(), row.draining, row.removed_at);
    let wanted = Kept { removed_at, columns, labels, draining };
    if wanted == *kept { Vec::new() } else { vec![Step::Keep(wanted)] }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |columns: &Columns| {
            let each = columns.iter().map(|(column, value)| format!(" {}={value:?},", column.name()));
            each.collect::<String>()
        };
        match self {
            Step::Keep(Kept { removed_at: Some(removed_at), .. }) => write!(f, "remember removal at {removed_at}"),
            Step::Keep(Kept { columns, draining, labels, .. }) => {
                write!(f, "remember{} labels={labels:?}, draining={draining}", list(columns))
            }
            Step::Write { columns } => write!(f, "write{} last_seen", list(columns)),
            Step::Enter { columns, labels, draining } => {
                write!(f, "enter{} labels={labels:?}, draining={draining}, last_seen", list(columns))
            }
        }
    }
}

#[cfg(test)]
mod tests;
