//! More connections than the node has descriptors for.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Scale, row};
use crate::client::Client;
use crate::figures::Row;
use crate::process::{descriptors, resident};
use crate::stage::Stage;

/// Connections that are opened at once.
const AT_ONCE: usize = 64;
const ALIVE: &str = "GET /health/liveness HTTP/1.1\r\nhost: x\r\n\r\n";

pub(super) async fn flood(stage: &mut Stage) -> Result<Row, String> {
    let (addr, id, wanted) = (stage.addr(2), stage.id(2), stage.sizes.connections);
    let (_, limit) = descriptors(id);
    let meter = stage.meter(2);
    let mut first = Client::connect(addr).await?;
    first.ask(ALIVE).await?;
    let (turn, mut tasks) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for _ in 0..wanted {
        let turn = Arc::clone(&turn);
        tasks.spawn(async move {
            let _its = turn.acquire().await.map_err(|e| e.to_string())?;
            let mut client = Client::connect(addr).await?;
            let status = client.ask(ALIVE).await?;
            Ok::<_, String>((client, status))
        });
    }
    let (mut held, mut told) = (Vec::new(), 0);
    while let Some(ended) = tasks.join_next().await {
        match ended.map_err(|e| e.to_string())?? {
            (client, 200) => held.push(client),
            (_, 503) => told += 1,
            (_, other) => return Err(format!("a connection is answered {other}")),
        }
    }
    let (used, bytes) = (descriptors(id).0, resident(id));
    // Those who are in are served on, and there is room again once they go.
    let served = first.ask(ALIVE).await == Ok(200);
    let count = held.len();
    drop(held);
    crate::stage::until(std::time::Duration::from_secs(10), "there is room again", async || {
        let mut client = Client::connect(addr).await?;
        Ok(client.ask(ALIVE).await? == 200)
    })
    .await?;
    let cores = meter.cores();
    // Where nobody is refused, there was no flood: the limit is higher than what could be opened.
    let flooded = told > 0 || stage.sizes.scale == Scale::Small;
    let holds = served && flooded && used <= limit / 10 * 9 + 64;
    let first = if served { "served on" } else { "NOT served on" };
    let what = format!("{wanted} connections against a limit of {limit} descriptors");
    let measured =
        format!("{count} let in, {told} told 503, {used} descriptors then, {} MiB; the first is {first}", bytes >> 20);
    let figures = json!({
        "connections": wanted, "let_in": count, "refused": told, "descriptors": used, "limit": limit,
        "resident_bytes": bytes, "first_served": served,
    });
    Ok(row(stage.sizes, (&what, "503 from 90 % on, the others go on"), (measured, holds), cores, figures)
        .wrong(u64::from(!served)))
}
