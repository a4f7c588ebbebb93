//! A follower: the rows of one node mirrored through a subscription, over its restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::ROWS;
use super::book::{Breach, Promise, Sight};
use crate::lab::Api;

/// A stream without an event for so long is between two commits: events of one commit come together.
const QUIET: Duration = Duration::from_millis(200);
/// Between two attempts to reach a node.
const AGAIN: Duration = Duration::from_millis(500);
/// For the last events, after the last commit. Longer than a node's commit takes to become events, on a busy machine.
const LAST_EVENTS: Duration = Duration::from_secs(10);

/// The mirror, and what was wrong with it.
#[derive(Debug)]
pub(super) struct Follower {
    node: usize,
    api: Api,
    id: Option<String>,
    rows: BTreeMap<u64, (String, String)>,
    last: u64,
    stream: Option<reqwest::Response>,
    partial: Vec<u8>,
    attempts: Interval,
    pub(super) breaches: Vec<Breach>,
}

impl Follower {
    pub(super) fn new(node: usize, api: Api) -> Follower {
        let (rows, partial, breaches) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut attempts = tokio::time::interval(AGAIN);
        attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Follower { attempts, node, api, id: None, rows, last: 0, stream: None, partial, breaches }
    }

    /// Follows until it is stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Follower {
        // Cancel-safe: what a step has taken from the stream is in the mirror or in `partial` before it awaits again.
        while stop.run_until_cancelled(self.step()).await.is_some() {}
        self
    }

    /// Follows on until the mirror is one of `rows`, which is what all nodes have; a breach if it does not become that.
    pub(super) async fn catch_up(&mut self, rows: &[Sight]) {
        let Some(expected) = rows.get(self.node) else { return };
        let reached = async {
            while self.sight() != *expected {
                self.step().await;
            }
        };
        if tokio::time::timeout(LAST_EVENTS, reached).await.is_err() {
            self.breach(
                Promise::G7,
                format!("the mirror has {} rows, and is not what the query shows", self.rows.len()),
            );
        }
    }

    fn sight(&self) -> Sight {
        Sight::of(self.rows.values().map(|(key, value)| (key.as_str(), value.as_str())))
    }

    /// One piece of the stream, or one attempt to have a stream.
    async fn step(&mut self) {
        let Some(stream) = &mut self.stream else { return self.connect().await };
        match tokio::time::timeout(QUIET, stream.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                self.partial.extend_from_slice(&bytes);
                while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.partial.drain(..=end).collect();
                    self.take(&serde_json::from_slice(&line).unwrap_or_default());
                }
            }
            Ok(Ok(None) | Err(_)) => self.stream = None,
            Err(_) if self.partial.is_empty() && self.last > 0 => {
                for torn in self.sight().torn() {
                    self.breach(Promise::G3, format!("its subscription, at rest: {torn}"));
                }
            }
            Err(_) => {}
        }
    }

    /// Resumes after the last change; where that is not to be had any more, begins anew.
    async fn connect(&mut self) {
        self.attempts.tick().await;
        self.partial.clear();
        if let Some(id) = self.id.take() {
            let path = format!("/v1/subscriptions/{id}?skip_rows=true&from={}", self.last);
            if self.last > 0
                && let Ok(stream) = self.api.stream(&path, None).await
            {
                (self.id, self.stream) = (Some(id), Some(stream));
                return;
            }
        }
        let Ok(stream) = self.api.stream("/v1/subscriptions", Some(&json!(ROWS))).await else {
            return;
        };
        let id = stream.headers().get("corro-query-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        self.rows.clear();
        (self.id, self.stream, self.last) = (id, Some(stream), 0);
    }

    fn take(&mut self, line: &Value) {
        let cells = |cells: &Value| -> (String, String) {
            let text = |cell: &Value| cell.as_str().unwrap_or_default().to_owned();
            (text(&cells[0]), text(&cells[1]))
        };
        if let Some(row) = line.get("row") {
            let known = self.rows.insert(row[0].as_u64().unwrap_or(0), cells(&row[1]));
            if known.is_some() {
                self.breach(Promise::G7, format!("row {} comes twice", row[0]));
            }
        } else if let Some(change) = line.get("change") {
            let (kind, id, change_id) = (change[0].as_str(), change[1].as_u64().unwrap_or(0), change[3].as_u64());
            if change_id != Some(self.last + 1) {
                self.breach(Promise::G7, format!("change {} after {}", change[3], self.last));
            }
            self.last = change_id.unwrap_or(self.last);
            let known = if kind == Some("delete") {
                self.rows.remove(&id).is_some()
            } else {
                self.rows.insert(id, cells(&change[2])).is_some()
            };
            if known == (kind == Some("insert")) {
                self.breach(Promise::G7, format!("{change} of a row that was known: {known}"));
            }
        } else if let Some(end) = line.get("eoq") {
            self.last = end["change_id"].as_u64().unwrap_or(0);
        } else if line.get("error").is_some() {
            // It says that it ends, and why: the next connection resumes or begins anew.
            (self.stream, self.id) = (None, None);
        } else if line.get("columns").is_none() {
            self.breach(Promise::G7, format!("a line of no kind: {line}"));
        }
    }

    fn breach(&mut self, promise: Promise, seen: impl std::fmt::Display) {
        self.breaches.push(Breach::new(promise, format!("node {}: {seen}", self.node + 1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn broken(lines: &[Value]) -> Vec<Promise> {
        let mut follower = Follower::new(0, Api::new(([127, 0, 0, 1], 1).into()));
        lines.iter().for_each(|line| follower.take(line));
        follower.breaches.into_iter().map(|breach| breach.promise).collect()
    }

    fn change(kind: &str, row: u64, id: u64) -> Value {
        json!({ "change": [kind, row, ["v/all/0", "1"], id] })
    }

    #[tokio::test]
    async fn a_stream_without_holes_is_followed() {
        let start = [json!({ "columns": ["key", "value"] }), json!({ "eoq": { "change_id": 3 } })];
        let changes = [change("insert", 1, 4), change("update", 1, 5), change("delete", 1, 6)];
        assert_eq!(broken(&[&start[..], &changes].concat()).await, []);
    }

    #[tokio::test]
    async fn holes_repeats_and_changes_of_unknown_rows_are_seen() {
        assert_eq!(broken(&[change("insert", 1, 2)]).await, [Promise::G7], "1 is missing");
        assert_eq!(broken(&[change("insert", 1, 1), change("update", 1, 1)]).await, [Promise::G7], "1 comes twice");
        assert_eq!(broken(&[change("insert", 1, 1), change("insert", 1, 2)]).await, [Promise::G7], "it is there");
        assert_eq!(broken(&[change("delete", 1, 1)]).await, [Promise::G7], "it is not there");
        assert_eq!(broken(&[json!({ "unheard": 1 })]).await, [Promise::G7]);
    }
}
