//! What takes a bound that no test can reach as it is.

use std::fs;
use std::os::unix::fs::FileExt;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_meets_a_damaged_page_ends_and_says_why_and_others_go_on() {
    const PAGE: usize = 4_096;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kith.db");
    let open = || {
        let sql = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, name TEXT);
                   CREATE TABLE u (id INTEGER NOT NULL PRIMARY KEY, t INTEGER);";
        let schema = vec![SchemaSource { name: "test".to_owned(), sql: sql.to_owned() }];
        Store::open(StoreConfig { path: path.clone(), schema, durability: Durability::Normal }).unwrap()
    };
    let store = open();
    let rows = (0..2_000).map(|id| Statement::new(format!("INSERT INTO t VALUES ({id}, 'the name of {id}')")));
    store.execute(rows.collect(), None).await.unwrap();
    store.execute(vec![Statement::new("INSERT INTO u VALUES (1, 7)")], None).await.unwrap();
    store.close().await;
    // Its start reads all of the file; what is damaged later is met by whoever reads it first.
    let store = open();
    let name = b"the name of 1500";
    let at = fs::read(&path).unwrap().windows(name.len()).position(|window| window == name).unwrap();
    let what_kind_of_page = (at / PAGE * PAGE) as u64;
    fs::File::options().write(true).open(&path).unwrap().write_all_at(&[0xff], what_kind_of_page).unwrap();

    let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
    let subscriptions = Subscriptions::start(store.clone(), tasks.clone(), token.clone()).await.unwrap();
    let follow = |sql: &str| subscriptions.subscribe(Statement::new(sql), AttachOptions::default());
    let mut meets = follow("SELECT u.id, t.name FROM u CROSS JOIN t ON t.id = u.t").await.unwrap();
    let mut other = follow("SELECT id, t FROM u").await.unwrap();
    hear(&mut meets, "the name of 7").await;
    hear(&mut other, "eoq").await;
    assert_eq!(subscriptions.figures().damaged, 0);
    store.execute(vec![Statement::new("INSERT INTO u VALUES (2, 1500)")], None).await.unwrap();
    let reason = "the database of this server is damaged: it is read anew and put right; subscribe again, here in a while or at another server";
    hear(&mut meets, &format!(r#"{{"error":"{reason}"}}"#)).await;
    assert_eq!(subscriptions.figures().damaged, 1);
    // Whoever has the store is told that it is good for nothing any more.
    tokio::time::timeout(BOUND, store.ended()).await.expect("the store ends");
    store.execute(vec![Statement::new("INSERT INTO u VALUES (3, 8)")], None).await.unwrap();
    hear(&mut other, "[3,8]").await;
    let refused = follow("SELECT name FROM t").await.map(drop).map_err(|error| error.to_string());
    assert_eq!(refused, Err(reason.to_owned()));
    assert_eq!((subscriptions.figures().damaged, subscriptions.figures().queries), (2, 1));
    token.cancel();
    tasks.close();
    tasks.wait().await;
    store.close().await;
}
