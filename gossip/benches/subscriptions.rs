//! What live queries cost a commit: CPU time of the whole process for one commit, with nobody listening and with 1,000
//! queries for one value each, and the memory that each of them holds. A reading, not a test.
//!
//! `cargo bench -p kith-gossip --bench subscriptions`, with `TMPDIR` on a tmpfs so that the disk does not count.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people at a terminal")]

use std::time::Duration;

use kith_gossip::store::{Durability, SchemaSource, Statement, Store, StoreConfig};
use kith_gossip::subscriptions::{AttachOptions, Attached, Subscriptions};
use kith_gossip_proto::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[path = "store/meter.rs"]
#[allow(dead_code, reason = "the other benchmark needs more of it")]
mod meter;

use meter::{cpu, memory};

const SCHEMA: &str = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, service TEXT, n INTEGER);
    CREATE INDEX by_service ON t (service);";

const ROWS: usize = 100_000;
/// Of all rows, one in so many is of one service.
const SERVICES: usize = 2_000;
/// Half of the services are followed.
const QUERIES: usize = 1_000;
const COMMITS: usize = 500;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let schema = vec![SchemaSource { name: "bench".to_owned(), sql: SCHEMA.to_owned() }];
    let config = StoreConfig { path: dir.path().join("kith.db"), schema, durability: Durability::Full };
    let store = Store::open(config).unwrap();
    for first in (0..ROWS).step_by(1_000) {
        store.execute((first..first + 1_000).map(insert).collect(), None).await.unwrap();
    }
    let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
    let subscriptions = Subscriptions::start(store.clone(), tasks.clone(), token.clone()).await.unwrap();

    let alone = commits(&store, 0).await;
    println!("commit of one row, {ROWS} rows, nobody listens         {alone:>9.1?} of CPU");
    let (before, mut listening) = (memory("VmRSS"), Vec::new());
    for service in 0..QUERIES {
        let statement = Statement::with("SELECT id, n FROM t WHERE service = ?", [name(service)]);
        let mut attached = subscriptions.subscribe(statement, AttachOptions::default()).await.unwrap();
        // The columns, the rows and their end.
        drop(attached.next().await);
        listening.push(attached);
    }
    let each = (memory("VmRSS") - before) * 1024.0 / QUERIES as f64;
    println!("{QUERIES} queries of {} rows                             {each:>9.1} KiB each", ROWS / SERVICES);
    let untouched = commits(&store, QUERIES).await;
    println!("the same commit, which none of them sees              {:>9.1?} more", untouched.saturating_sub(alone));
    let touched = commits(&store, 0).await;
    println!("the same commit, which one of them sees               {:>9.1?} more", touched.saturating_sub(alone));
    println!("looks: {}", subscriptions.figures().looks);
    drop::<Vec<Attached>>(listening);
    token.cancel();
    tasks.close();
    tasks.wait().await;
    store.close().await;
}

/// CPU time of one commit that changes a row of service `from`, or of one of the next, and of all that follows from it.
async fn commits(store: &Store, from: usize) -> Duration {
    let began = cpu();
    for n in 0..COMMITS {
        let row = from + n % 10;
        store.execute(vec![Statement::with("UPDATE t SET n = n + 1 WHERE id = ?", [id(row)])], None).await.unwrap();
        // What a commit sets going is done when the runtime has nothing else to do.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    (cpu() - began) / u32::try_from(COMMITS).unwrap()
}

fn insert(n: usize) -> Statement {
    Statement::with("INSERT INTO t VALUES (?, ?, 0)", [id(n), name(n % SERVICES)])
}

fn id(n: usize) -> Value {
    Value::text(&format!("row-{n:08}"))
}

fn name(service: usize) -> Value {
    Value::text(&format!("service-{service}"))
}
