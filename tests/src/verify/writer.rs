//! A writer: one numbered transaction after the other, on one node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::book::{GROUP, WINDOW, is_kept};
use super::{Shared, lock};
use crate::lab::Api;

/// How many transactions later a leftover is deleted: half a minute at 20 a second, when no request for it is under way.
const LATER: u64 = 600;
/// Leftovers that one transaction deletes: more than one transaction that fails leaves.
const AT_ONCE: usize = 4;

#[derive(Debug)]
pub(super) struct Writer {
    number: usize,
    api: Api,
    shared: Arc<Shared>,
    leftovers: Leftovers,
}

/// Groups that may be there though they should be gone, because it is not known whether the transaction that inserted or
/// deleted them was done. They are not judged, but each that stayed would make the store larger for as long as a run lasts,
/// and hide whether memory grows by itself. One leaves the set when a later transaction that deletes it is acknowledged.
#[derive(Debug, Default)]
struct Leftovers(BTreeSet<u64>);

impl Leftovers {
    /// Transaction `number` was not acknowledged: its own group may be there, and so may the one that it deletes.
    fn add(&mut self, number: u64) {
        self.0.extend([number.saturating_sub(WINDOW), number].into_iter().filter(|old| *old > 0 && !is_kept(*old)));
    }

    /// Those that transaction `number` deletes.
    fn due(&self, number: u64) -> Vec<u64> {
        let due = self.0.iter().copied().take_while(|old| old + WINDOW + LATER <= number);
        due.take(AT_ONCE).collect()
    }

    fn deleted(&mut self, groups: &[u64]) {
        self.0.retain(|group| !groups.contains(group));
    }
}

impl Writer {
    pub(super) fn new(number: usize, api: Api, shared: Arc<Shared>) -> Writer {
        Writer { number, api, shared, leftovers: Leftovers::default() }
    }

    /// Writes `pace` transactions a second until it is stopped; the last one is awaited.
    pub(super) async fn run(mut self, pace: u32, stop: CancellationToken) {
        let mut period = tokio::time::interval(Duration::from_secs(1) / pace);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Cancel-safe: a tick that is not taken writes nothing.
        while stop.run_until_cancelled(period.tick()).await.is_some() {
            let number = {
                let account = &mut lock(&self.shared.book).accounts[self.number];
                account.tried += 1;
                account.unknown.insert(account.tried);
                account.tried
            };
            let due = self.leftovers.due(number);
            let reply = self.api.post("/v1/transactions", &transaction(self.number, number, &due)).await;
            if reply.is_ok_and(|reply| reply.status == 200 && reply.json()["version"].is_u64()) {
                let account = &mut lock(&self.shared.book).accounts[self.number];
                account.unknown.remove(&number);
                account.acknowledged = number;
                self.leftovers.deleted(&due);
            } else {
                self.leftovers.add(number);
            }
        }
    }
}

/// The statements of one transaction, which also deletes the groups `leftovers`. One that is late, because its client had given
/// up on it, does not set the count back.
fn transaction(writer: usize, number: u64, leftovers: &[u64]) -> Value {
    let mut statements = Vec::new();
    let old = number.checked_sub(WINDOW).filter(|old| *old > 0 && !is_kept(*old));
    for row in 0..GROUP {
        let insert = "INSERT INTO cluster_metadata (key, value) VALUES (?, ?)";
        statements.push(json!([insert, [format!("v/own/{writer}/{number}/{row}"), number.to_string()]]));
        let count = format!(
            "{insert} ON CONFLICT (key) DO UPDATE SET value = excluded.value \
             WHERE CAST(value AS INTEGER) < CAST(excluded.value AS INTEGER)"
        );
        statements.push(json!([count, [format!("v/count/{writer}/{row}"), number.to_string()]]));
        let all = format!("{insert} ON CONFLICT (key) DO UPDATE SET value = excluded.value");
        statements.push(json!([all, [format!("v/all/{row}"), format!("{writer}.{number}")]]));
        for old in old.iter().chain(leftovers) {
            let delete = "DELETE FROM cluster_metadata WHERE key = ?";
            statements.push(json!([delete, [format!("v/own/{writer}/{old}/{row}")]]));
        }
    }
    Value::Array(statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_transaction_leaves_is_deleted_once_it_cannot_come_any_more() {
        let mut leftovers = Leftovers::default();
        leftovers.add(40);
        let due = 40 + WINDOW + LATER;
        assert_eq!(leftovers.due(24 + WINDOW + LATER - 1), [] as [u64; 0], "a request may be under way");
        assert_eq!(leftovers.due(due), [24, 40], "what it deletes, and what it inserts");
        leftovers.deleted(&[24]);
        assert_eq!(leftovers.due(due), [40], "until it is acknowledged");
        let deletes = |leftovers: &[u64]| transaction(0, due, leftovers).to_string().matches("v/own/0/40/").count();
        assert_eq!((deletes(&[]), deletes(&leftovers.due(due))), (0, GROUP));
    }

    #[test]
    fn groups_that_are_kept_for_good_are_no_leftovers() {
        let mut leftovers = Leftovers::default();
        leftovers.add(WINDOW);
        leftovers.add(2 * WINDOW);
        leftovers.add(3);
        assert_eq!(leftovers.due(u64::MAX - LATER), [3]);
    }
}
