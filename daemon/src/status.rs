//! What the daemon shows of itself: each reconciler's last plan, last error, and how long it ran.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::wake::Wake;

/// Steps of a plan that are shown; the rest are counted.
const SHOWN: usize = 10;

/// The daemon's status at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Each reconciler, by its name.
    pub reconcilers: BTreeMap<&'static str, PassStatus>,
    /// What somebody has to see to.
    pub alarms: Vec<Alarm>,
}

/// Something that somebody has to see to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// What it is about.
    pub name: &'static str,
    /// What is wrong, for people.
    pub text: String,
}

/// One reconciler.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PassStatus {
    /// Passes since the start.
    pub passes: u64,
    /// How long the last one ran, in microseconds.
    pub ran_for_us: u64,
    /// The last plan that had a step: its first steps.
    pub last_plan: Vec<String>,
    /// How many steps it had.
    pub planned: usize,
    /// How long ago it was made.
    pub planned_ms_ago: Option<u64>,
    /// Why the last pass failed; none if it did not.
    pub error: Option<String>,
    /// Why the last pass that failed did, and how long ago.
    pub last_error: Option<LastError>,
    /// What the reconciler has to say beyond that.
    pub detail: Value,
}

/// A failure that may be over.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastError {
    /// Why.
    pub reason: String,
    /// How long ago, in milliseconds.
    pub ms_ago: u64,
}

/// Reads the status of a running daemon.
#[derive(Debug, Clone)]
pub struct StatusHandle {
    pub(crate) boards: Vec<(&'static str, Board)>,
    pub(crate) alarmed: Wake,
}

impl StatusHandle {
    /// Waits until the alarms have changed. Dropping the wait loses no change.
    pub async fn alarmed(&self) {
        self.alarmed.poked().await;
    }

    /// The status as it is.
    pub fn get(&self) -> Status {
        let now = Instant::now();
        let reconcilers = self.boards.iter().map(|(name, board)| (*name, board.read(now))).collect();
        Status { reconcilers, alarms: self.boards.iter().flat_map(|(_, board)| board.alarms()).collect() }
    }
}

/// Where a driver notes what happened. One writes, others read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    notes: Arc<Mutex<Notes>>,
    /// Woken when the alarms change.
    alarmed: Wake,
}

#[derive(Debug, Clone, Default)]
struct Notes {
    passes: u64,
    ran_for: Duration,
    plan: Vec<String>,
    planned: usize,
    planned_at: Option<Instant>,
    error: Option<String>,
    last_error: Option<(String, Instant)>,
    shown: Shown,
}

/// What a reconciler has to say of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// Its own figures.
    pub(crate) detail: Value,
    /// What somebody has to see to.
    pub(crate) alarms: Vec<Alarm>,
}

impl Board {
    /// A board whose changes of alarms wake somebody.
    pub(crate) fn new(alarmed: Wake) -> Board {
        Board { notes: Arc::default(), alarmed }
    }

    /// A plan that has steps.
    pub(crate) fn planned<S: ToString>(&self, steps: &[S], now: Instant) {
        self.write(|notes| {
            notes.plan = steps.iter().take(SHOWN).map(ToString::to_string).collect();
            notes.planned = steps.len();
            notes.planned_at = Some(now);
        });
    }

    /// A pass that ended.
    pub(crate) fn passed(&self, ran_for: Duration, error: Option<String>, shown: Shown, now: Instant) {
        let mut changed = false;
        self.write(|notes| {
            notes.passes += 1;
            changed = notes.shown.alarms != shown.alarms;
            notes.ran_for = ran_for;
            if let Some(error) = &error {
                notes.last_error = Some((error.clone(), now));
            }
            notes.error = error;
            notes.shown = shown;
        });
        if changed {
            self.alarmed.poke();
        }
    }

    fn write(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Its alarms.
    fn alarms(&self) -> Vec<Alarm> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).shown.alarms.clone()
    }

    /// What was noted, as of `now`.
    pub(crate) fn read(&self, now: Instant) -> PassStatus {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ago = |at: Instant| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
        PassStatus {
            passes: notes.passes,
            ran_for_us: u64::try_from(notes.ran_for.as_micros()).unwrap_or(u64::MAX),
            last_plan: notes.plan,
            planned: notes.planned,
            planned_ms_ago: notes.planned_at.map(ago),
            error: notes.error,
            last_error: notes.last_error.map(|(reason, at)| LastError { reason, ms_ago: ago(at) }),
            detail: notes.shown.detail,
        }
    }
}
