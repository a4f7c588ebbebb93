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

/// Shared by those who write and read. Of each leaf, where there are two.
#[derive(Default)]
struct Load {
    acknowledged: [Mutex<Acknowledged>; 2],
    writes: [AtomicU64; 2],
    reads: [AtomicU64; 2],
    refused: AtomicU64,
    longest_us: AtomicU64,
}

impl Load {
    fn acknowledged(&self, leaf: usize) -> Acknowledged {
        self.acknowledged[leaf - 1].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes of the one leaf and the other, and reads.
    fn counts(&self) -> [u64; 4] {
        let [[one, two], [three, four]] = [&self.writes, &self.reads];
        [one, two, three, four].map(|count| count.load(Ordering::Relaxed))
    }

    fn answered(&self, status: u16, asked: Instant, count: &AtomicU64) {
        let took = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.longest_us.fetch_max(took, Ordering::Relaxed);
        let count = if status == 200 { count } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
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
    let mut meter = stage.meter(1);
    tokio::time::sleep(AROUND).await;
    // What takes long is told from here on.
    load.longest_us.store(0, Ordering::Relaxed);
    stage.kill_center(&mut meter).await?;
    let before = load.counts();
    tokio::time::sleep(stage.sizes.away).await;
    let after = load.counts();
    let meanwhile: [u64; 4] = std::array::from_fn(|at| after[at] - before[at]);
    stage.center_up(&mut meter);
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
    let missing = missing(stage, &load).await?;
    Ok(outcome(stage, &load, meanwhile, (missing, agreed), cores))
}

/// How much of what was acknowledged any node does not show.
async fn missing(stage: &Stage, load: &Load) -> Result<usize, String> {
    let mut missing = 0;
    for at in 0..3 {
        for acknowledged in [1, 2].map(|leaf| load.acknowledged(leaf)) {
            // What was said last is under way for a moment.
            let mut now = lost(stage.addr(at), &stage.token, &acknowledged).await?;
            let begun = Instant::now();
            while now > 0 && begun.elapsed() < AROUND {
                now = lost(stage.addr(at), &stage.token, &acknowledged).await?;
            }
            missing += now;
        }
    }
    Ok(missing)
}

fn outcome(
    stage: &Stage,
    load: &Load,
    meanwhile: [u64; 4],
    (missing, agreed): (usize, Duration),
    cores: [f64; 2],
) -> Row {
    let [writes_one, writes_two, reads_one, reads_two] = load.counts();
    let (writes, reads) = (writes_one + writes_two, reads_one + reads_two);
    let refused = load.refused.load(Ordering::Relaxed);
    let longest = load.longest_us.load(Ordering::Relaxed) as f64 / 1e3;
    let [w1, w2, r1, r2] = meanwhile;
    let measured = format!(
        "lost {missing} of {writes} acknowledged, refused {refused}; meanwhile {w1} + {w2} writes and {r1} + {r2} reads; longest answer from the kill on {longest:.1} ms; agreed {agreed:.2?} after the link"
    );
    let figures = json!({
        "away_s": stage.sizes.away.as_secs(), "writes": writes, "reads": reads, "lost": missing, "refused": refused,
        "writes_meanwhile": [w1, w2], "reads_meanwhile": [r1, r2], "max_ms": longest,
        "agreed_ms": agreed.as_secs_f64() * 1e3,
    });
    let went_on = meanwhile.iter().all(|count| *count > 0);
    let holds = missing == 0 && refused == 0 && went_on && agreed < Duration::from_secs(2);
    let what = format!("center killed for {} s under load", stage.sizes.away.as_secs());
    let target = "0 acknowledged writes lost, writes and reads go on, agreement < 2 s after the link";
    row(stage.sizes, (&what, target), (measured, holds), cores, figures).wrong(missing as u64 + refused)
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
        let asked = Instant::now();
        let status = client.ask(&put(&user, &token, &body)).await?;
        load.answered(status, asked, &load.writes[leaf - 1]);
        if status == 200 {
            load.acknowledged[leaf - 1].lock().unwrap_or_else(PoisonError::into_inner).insert(user, turn);
        }
        tokio::time::sleep(APART).await;
    }
    Ok(())
}

async fn read(addr: SocketAddr, leaf: usize, load: Arc<Load>, stop: CancellationToken) -> Result<(), String> {
    let mut client = Client::connect(addr).await?;
    while !stop.is_cancelled() {
        let asked = Instant::now();
        let status = client.ask(&get(&user(leaf, 0, 1))).await?;
        load.answered(status, asked, &load.reads[leaf - 1]);
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
