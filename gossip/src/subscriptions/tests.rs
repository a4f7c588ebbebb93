//! What takes a bound that no test can reach as it is.

use std::time::Duration;

use super::*;
use crate::store::{Durability, SchemaSource, StoreConfig};

const BOUND: Duration = Duration::from_secs(20);

/// Reads until a piece holds this.
async fn hear(attached: &mut Attached, what: &str) {
    let mut last = None;
    while !last.as_ref().is_some_and(|piece: &String| piece.contains(what)) {
        let piece = tokio::time::timeout(BOUND, attached.next()).await;
        let piece = piece.unwrap_or_else(|_| panic!("no {what} in 20 s; the last was {last:?}"));
        let piece = piece.unwrap_or_else(|| panic!("it ended without {what}; the last was {last:?}"));
        last = Some(String::from_utf8_lossy(&piece).into_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_query_ends_where_a_small_one_grows_beyond_what_all_may_hold() {
    let dir = tempfile::tempdir().unwrap();
    let sql = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, name TEXT);".to_owned();
    let schema = vec![SchemaSource { name: "test".to_owned(), sql }];
    let config = StoreConfig { path: dir.path().join("kith.db"), schema, durability: Durability::Normal };
    let store = Store::open(config).unwrap();
    let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
    let within = Subscriptions::within(100 << 10, store.clone(), tasks.clone(), token.clone()).await;
    let subscriptions = within.unwrap();
    let rows = |from: u64, count: u64, length: usize| {
        let row = |id| Statement::new(format!("INSERT INTO t VALUES ({id}, '{}')", "x".repeat(length)));
        store.execute((from..from + count).map(row).collect(), None)
    };
    rows(0, 40, 1_500).await.unwrap();
    let follow = |sql: &str| subscriptions.subscribe(Statement::new(sql), AttachOptions::default());
    let mut large = follow("SELECT id, name FROM t WHERE id < 1000").await.unwrap();
    let mut small = follow("SELECT id, name FROM t WHERE id >= 1000").await.unwrap();
    hear(&mut large, "eoq").await;
    hear(&mut small, "eoq").await;
    // Its rows, and the changes that are kept.
    rows(1_000, 14, 1_500).await.unwrap();
    hear(&mut small, "1013").await;
    hear(&mut large, "ask for less, or end some").await;
    rows(2_000, 1, 1).await.unwrap();
    hear(&mut small, "2000").await;
    token.cancel();
    tasks.close();
    tasks.wait().await;
    store.close().await;
}
