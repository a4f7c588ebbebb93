//! A writer: one numbered transaction after the other, on one node.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::book::{GROUP, WINDOW, is_kept};
use super::{Shared, lock};
use crate::lab::Api;

#[derive(Debug)]
pub(super) struct Writer {
    number: usize,
    api: Api,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(number: usize, api: Api, shared: Arc<Shared>) -> Writer {
        Writer { number, api, shared }
    }

    /// Writes `pace` transactions a second until it is stopped; the last one is awaited.
    pub(super) async fn run(self, pace: u32, stop: CancellationToken) {
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
            let reply = self.api.post("/v1/transactions", &transaction(self.number, number)).await;
            if reply.is_ok_and(|reply| reply.status == 200 && reply.json()["version"].is_u64()) {
                let account = &mut lock(&self.shared.book).accounts[self.number];
                account.unknown.remove(&number);
                account.acknowledged = number;
            }
        }
    }
}

/// The statements of one transaction. A transaction that is late, because its client had given up on it, does not set the
/// count back.
fn transaction(writer: usize, number: u64) -> Value {
    let mut statements = Vec::new();
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
        if let Some(old) = number.checked_sub(WINDOW).filter(|old| *old > 0 && !is_kept(*old)) {
            let delete = "DELETE FROM cluster_metadata WHERE key = ?";
            statements.push(json!([delete, [format!("v/own/{writer}/{old}/{row}")]]));
        }
    }
    Value::Array(statements)
}
