//! The center is killed, its node and its nats-server, while both leaves are written to and read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::row;
use crate::client::{Client, get, post, put};
use crate::figures::Row;
use crate::stage::{Stage, until};

/// Writers of a leaf, and the users of each.
const WRITERS: usize = 4;
const USERS: usize = 50;
/// Between two writes of a writer: load, and none that measures the disk.
const APART: Duration = Duration::from_millis(2);
/// Before the center goes, and after it is back.
const AROUND: Duration = Duration::from_secs(2);
const BOUND: Duration = Duration::from_secs(60);

/// What was acknowledged: the last turn of each user.
type Acknowledged = BTreeMap<String, u64>;

/// Shared by those who write and read.
#[derive(Default)]
struct Load {
    acknowledged: [Mutex<Acknowledged>; 2],
    writes: AtomicU64,
    reads: AtomicU64,
    refused: AtomicU64,
}

impl Load {
    fn acknowledged(&self, leaf: usize) -> Acknowledged {
        self.acknowledged[leaf - 1].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(super) async fn center(stage: &mut Stage) -> Result<Row, String> {
    let (load, stop, mut tasks) = (Arc::<Load>::default(), CancellationToken::new(), JoinSet::new());
    for leaf in [1, 2] {
        for writer in 0..WRITERS {
            let (load, stop) = (Arc::clone(&load), stop.clone());
            tasks.spawn(write(stage.addr(leaf), leaf, writer, stage.token.clone(), load, stop));
        }
        tasks.spawn(read(stage.addr(leaf), leaf, Arc::clone(&load), stop.clone()));
    }
    let meter = stage.meter(1);
    tokio::time::sleep(AROUND).await;
    stage.kill_center().await?;
    let before = load.writes.load(Ordering::Relaxed);
    tokio::time::sleep(stage.sizes.away).await;
    let meanwhile = load.writes.load(Ordering::Relaxed) - before;
    stage.center_up();
    until(BOUND, "both leaves are linked", async || Ok(stage.is_linked(1).await && stage.is_linked(2).await)).await?;
    let linked = Instant::now();
    let then = [1, 2].map(|leaf| load.acknowledged(leaf));
    for (leaf, other) in [(1, 2), (2, 1)] {
        until(BOUND, "leaves agree", async || Ok(lost(stage.addr(other), &stage.token, &then[leaf - 1]).await? == 0))
            .await?;
    }
    let agreed = linked.elapsed();
    tokio::time::sleep(AROUND).await;
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|e| e.to_string())??;
    }
    let cores = meter.cores();
    stage.center_node_up().await?;
    let all = [1, 2].map(|leaf| load.acknowledged(leaf));
    let mut missing = 0;
    for at in 0..3 {
        for acknowledged in &all {
            // What was said last is under way for a moment.
            let mut now = lost(stage.addr(at), &stage.token, acknowledged).await?;
            let begun = Instant::now();
            while now > 0 && begun.elapsed() < AROUND {
                now = lost(stage.addr(at), &stage.token, acknowledged).await?;
            }
            missing += now;
        }
    }
    let (writes, reads) = (load.writes.load(Ordering::Relaxed), load.reads.load(Ordering::Relaxed));
    let refused = load.refused.load(Ordering::Relaxed);
    let measured = format!(
        "lost {missing} of {writes} acknowledged, {meanwhile} of them meanwhile; refused {refused}; {reads} reads; agreed {agreed:.2?} after the link"
    );
    let figures = json!({
        "away_s": stage.sizes.away.as_secs(), "writes": writes, "writes_meanwhile": meanwhile, "lost": missing,
        "refused": refused, "reads": reads, "agreed_ms": agreed.as_secs_f64() * 1e3,
    });
    let holds = missing == 0 && refused == 0 && meanwhile > 0 && agreed < Duration::from_secs(2);
    let what = format!("center killed for {} s under load", stage.sizes.away.as_secs());
    let target = "0 acknowledged writes lost, writes and reads go on, agreement < 2 s after the link";
    Ok(row(stage.sizes, (&what, target), (measured, holds), cores, figures))
}

fn user(leaf: usize, writer: usize, turn: u64) -> String {
    format!("leaf-{leaf}-{writer}-{}", turn % USERS as u64)
}

async fn write(
    addr: SocketAddr,
    leaf: usize,
    writer: usize,
    token: String,
    load: Arc<Load>,
    stop: CancellationToken,
) -> Result<(), String> {
    let mut client = Client::connect(addr).await?;
    let mut turn = 0;
    while !stop.is_cancelled() {
        turn += 1;
        let user = user(leaf, writer, turn);
        let body = format!("{{\"status\":\"busy\",\"ttl\":86400,\"message\":\"{turn}\"}}");
        if client.ask(&put(&user, &token, &body)).await? == 200 {
            load.writes.fetch_add(1, Ordering::Relaxed);
            load.acknowledged[leaf - 1].lock().unwrap_or_else(PoisonError::into_inner).insert(user, turn);
        } else {
            load.refused.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(APART).await;
    }
    Ok(())
}

async fn read(addr: SocketAddr, leaf: usize, load: Arc<Load>, stop: CancellationToken) -> Result<(), String> {
    let mut client = Client::connect(addr).await?;
    while !stop.is_cancelled() {
        if client.ask(&get(&user(leaf, 0, 1))).await? == 200 {
            load.reads.fetch_add(1, Ordering::Relaxed);
        } else {
            load.refused.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(APART).await;
    }
    Ok(())
}

/// How many users a node shows as they were before what was acknowledged.
async fn lost(addr: SocketAddr, token: &str, acknowledged: &Acknowledged) -> Result<usize, String> {
    let mut client = Client::connect(addr).await?;
    let users: Vec<&String> = acknowledged.keys().collect();
    let body = json!({ "user_ids": users }).to_string();
    let status = client.ask(&post("/api/v2/presence/batch", token, &body)).await?;
    let answer: Value = serde_json::from_slice(client.body()).unwrap_or_default();
    if status != 200 {
        return Err(answer.to_string());
    }
    let shown = |user: &str| answer["data"][user]["message"].as_str().and_then(|text| text.parse::<u64>().ok());
    Ok(acknowledged.iter().filter(|(user, turn)| shown(user).is_none_or(|shown| shown < **turn)).count())
}
