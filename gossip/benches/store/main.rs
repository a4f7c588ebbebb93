//! What a row costs the store, in rows per second and CPU time of all its threads. A reading, not a test.
//!
//! `cargo bench -p kith-gossip --bench store`, with `TMPDIR` on a tmpfs so that the disk does not count.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people at a terminal")]

use std::time::{Duration, Instant};

use kith_gossip::store::{Durability, SchemaSource, Statement, Store, StoreConfig};
use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::{Value, Vector, Version};
use tempfile::TempDir;

const SCHEMA: &str =
    "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER, b INTEGER, c TEXT, d TEXT, e INTEGER, f INTEGER, g TEXT)";

/// Rows of one table in every scenario.
const ROWS: usize = 50_000;

/// Rows of one transaction, where there are several.
const BATCH: usize = 100;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let bench = Bench::new();
    bench.measure("insert, 8 columns, 100 a transaction", ROWS, transactions(BATCH, insert)).await;
    bench.measure("update of one column, 100 a transaction", ROWS, transactions(BATCH, update)).await;
    bench.collect("collect, 8 cells a row").await;
    bench.size();
    bench.measure("delete, 100 a transaction", ROWS, transactions(BATCH, delete)).await;
    bench.measure("insert, one a transaction", ROWS, transactions(1, insert)).await;
    drop(bench);

    let source = Bench::new();
    let inserts = source.versions(transactions(BATCH, insert)).await;
    let updates = source.versions(transactions(BATCH, update)).await;
    let target = Bench::new();
    target.merge("merge of new rows, 7 cells a row", 7 * ROWS, inserts).await;
    target.merge("merge of one fresh cell a row", ROWS, updates).await;
    // The same keys, written by another site before: every cell is contested.
    let other = Bench::new();
    for statements in transactions(BATCH, insert) {
        other.store.execute(statements, None).await.unwrap();
    }
    let (rows, heads) = other.all().await;
    target.join("merge of conflicting rows, 7 cells a row", 7 * ROWS, rows, heads).await;
}

fn transactions(batch: usize, statement: fn(usize) -> Statement) -> Vec<Vec<Statement>> {
    (0..ROWS).step_by(batch).map(|first| (first..first + batch).map(statement).collect()).collect()
}

fn insert(n: usize) -> Statement {
    let [number, text] = [Value::Integer(i64::try_from(n).unwrap()), Value::text(&format!("value {n}"))];
    let values = [key(n), number.clone(), number.clone(), text.clone(), text.clone(), number.clone(), number, text];
    Statement::with("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
}

fn update(n: usize) -> Statement {
    Statement::with("UPDATE t SET a = a + 1 WHERE id = ?", [key(n)])
}

fn delete(n: usize) -> Statement {
    Statement::with("DELETE FROM t WHERE id = ?", [key(n)])
}

fn key(n: usize) -> Value {
    Value::text(&format!("row-{n:08}"))
}

struct Bench {
    dir: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let schema = vec![SchemaSource { name: "bench".to_owned(), sql: SCHEMA.to_owned() }];
        let config = StoreConfig { path: dir.path().join("kith.db"), schema, durability: Durability::Full };
        Self { store: Store::open(config).unwrap(), dir }
    }

    async fn measure(&self, name: &str, count: usize, transactions: Vec<Vec<Statement>>) {
        let clock = Clock::start();
        for statements in transactions {
            self.store.execute(statements, None).await.unwrap();
        }
        clock.tell(name, count, "rows");
    }

    async fn versions(&self, transactions: Vec<Vec<Statement>>) -> Vec<Version> {
        let mut commits = self.store.commits();
        let mut versions = Vec::new();
        for statements in transactions {
            self.store.execute(statements, None).await.unwrap();
            versions.extend(commits.recv().await.unwrap().versions.iter().map(|version| Version::clone(version)));
        }
        versions
    }

    async fn merge(&self, name: &str, cells: usize, versions: Vec<Version>) {
        let clock = Clock::start();
        let mut versions = versions.into_iter();
        loop {
            let part: Vec<_> = versions.by_ref().take(10).collect();
            if part.is_empty() {
                break;
            }
            self.store.apply(part).await.unwrap();
        }
        clock.tell(name, cells, "cells");
    }

    async fn join(&self, name: &str, cells: usize, rows: Vec<PulledRow>, heads: Vector) {
        let clock = Clock::start();
        self.store.join(rows, heads).await.unwrap();
        clock.tell(name, cells, "cells");
    }

    async fn all(&self) -> (Vec<PulledRow>, Vector) {
        let mut collected = self.store.collect(Vector::default()).await.unwrap();
        let mut rows = Vec::new();
        while let Some(part) = collected.rows.recv().await {
            rows.extend(part.unwrap());
        }
        (rows, collected.heads)
    }

    async fn collect(&self, name: &str) {
        let clock = Clock::start();
        let (rows, _) = self.all().await;
        clock.tell(name, rows.iter().map(|pulled| pulled.row.cells.len()).sum(), "cells");
    }

    fn size(&self) {
        let sizes =
            ["kith.db", "kith.db-wal"].map(|name| std::fs::metadata(self.dir.path().join(name)).map_or(0, |m| m.len()));
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("?").trim();
        println!("{:<45} {:>9} KiB file, {} KiB log, {resident} resident", "on disk", sizes[0] >> 10, sizes[1] >> 10);
    }
}

struct Clock {
    wall: Instant,
    cpu: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    fn tell(&self, name: &str, count: usize, what: &str) {
        let (wall, cpu) = (self.wall.elapsed(), cpu() - self.cpu);
        let rate = count as f64 / wall.as_secs_f64();
        let each = cpu.as_secs_f64() * 1e6 / count as f64;
        println!("{name:<45} {rate:>9.0} {what}/s {each:>7.2} µs of CPU each");
    }
}

/// CPU time of all threads that live, to the nanosecond.
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let spent = |task: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(tasks.filter_map(Result::ok).filter_map(spent).sum())
}
