//! Many clients at once, and members of a group that fail.

use std::collections::BTreeSet;
use std::time::Duration;

use kith_gossip::store::{Durability, ExecuteError, Statement, Store};
use kith_gossip_proto::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::rig::{Rig, config, is_sound};

const SCHEMA: &str = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER, b TEXT)";

fn insert(id: &str) -> Vec<Statement> {
    vec![Statement::with("INSERT INTO t (id, a) VALUES (?, 1)", [Value::text(id)])]
}

/// Holds the writer in one long transaction, so that what is sent meanwhile becomes one group.
fn long() -> Vec<Statement> {
    let sql = "INSERT INTO t (id, a) SELECT 'long', count(*) FROM
        (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 300000) SELECT x FROM c)";
    vec![Statement::new(sql)]
}

#[tokio::test]
async fn a_member_that_fails_takes_no_other_with_it() {
    let rig = Rig::new(SCHEMA);
    let mut commits = rig.store.commits();
    let mut clients = JoinSet::new();
    let transactions = vec![
        ("long", long()),
        ("a", insert("a")),
        ("fails", [insert("f1"), insert("a")].concat()),
        ("b", insert("b")),
        (
            "ends the transaction",
            [insert("r1"), vec![Statement::new("INSERT OR ROLLBACK INTO t (id) VALUES ('a')")]].concat(),
        ),
        ("c", insert("c")),
        ("ends it too", vec![Statement::new("UPDATE OR ROLLBACK t SET id = 'same' WHERE id IN ('a', 'b')")]),
        ("d", insert("d")),
    ];
    for (name, statements) in transactions {
        let store = rig.store.clone();
        clients.spawn(async move { (name, store.execute(statements, None).await) });
        tokio::task::yield_now().await;
    }
    let mut versions = BTreeSet::new();
    for (name, answer) in clients.join_all().await {
        match name {
            "fails" | "ends the transaction" | "ends it too" => {
                assert!(matches!(answer, Err(ExecuteError::Statement { .. })), "{name}: {answer:?}");
            }
            _ => assert!(versions.insert(answer.unwrap().version.unwrap()), "{name}"),
        }
    }
    assert_eq!(versions, BTreeSet::from([1, 2, 3, 4, 5]), "numbers have no holes");
    let mut told = Vec::new();
    while told.len() < 5 {
        told.extend(commits.recv().await.unwrap().versions.iter().map(|version| version.version));
    }
    assert_eq!(told, [1, 2, 3, 4, 5], "and are told in order");
    assert!(rig.store.state().commits < 5, "some shared a commit");
    assert_eq!(
        rig.one("SELECT group_concat(id) FROM (SELECT id FROM t ORDER BY id)").await,
        Value::text("a,b,c,d,long")
    );
    rig.is_sound().await;
}

#[tokio::test]
async fn a_timeout_keeps_nothing_and_hurts_nobody() {
    let rig = Rig::new(SCHEMA);
    let endless = Statement::new(
        "INSERT INTO t (id, a) SELECT 'x', count(*) FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c)",
    );
    let statements = [insert("before"), vec![endless]].concat();
    let slow = rig.store.execute(statements, Some(Duration::from_millis(100)));
    let (slow, other) = tokio::join!(slow, rig.store.execute(insert("other"), None));
    assert_eq!(slow, Err(ExecuteError::TimedOut));
    assert_eq!(other.unwrap().version, Some(1));
    assert_eq!(rig.store.execute(insert("late"), Some(Duration::ZERO)).await, Err(ExecuteError::TimedOut));
    assert_eq!(rig.one("SELECT group_concat(id) FROM t").await, Value::text("other"));
    rig.is_sound().await;
}

fn many(count: usize) -> Statement {
    Statement::new(format!(
        "INSERT INTO t (id, a, b) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {count}) SELECT 'k' || x, x, '' FROM c"
    ))
}

#[tokio::test]
async fn a_transaction_has_a_size_counted_by_what_it_changes() {
    let rig = Rig::new(SCHEMA);
    let too_large = |answer| assert!(matches!(answer, Err(ExecuteError::TooLarge { .. })), "{answer:?}");
    too_large(rig.store.execute(vec![many(5_001)], None).await);
    assert_eq!(rig.one("SELECT count(*) FROM t").await, Value::Integer(0));
    rig.store.execute(vec![many(5_000)], None).await.unwrap();
    // What is left as it was does not count.
    assert_eq!(rig.run("UPDATE t SET a = a").await.unwrap().version, None);
    rig.run("UPDATE t SET a = a + 1; UPDATE t SET a = a + 1").await.unwrap();
    rig.run("DELETE FROM t").await.unwrap();
    too_large(rig.store.execute(vec![many(300_000)], None).await);
    let big =
        |size: usize| Statement::with("INSERT INTO t (id, b) VALUES ('big', ?)", [Value::Blob(vec![0; size].into())]);
    too_large(rig.store.execute(vec![big((1 << 20) + 1)], None).await);
    rig.store.execute(vec![big((1 << 20) - 200)], None).await.unwrap();
    rig.is_sound().await;
}

#[tokio::test]
async fn with_less_durability_all_else_is_the_same() {
    let dir = TempDir::new().unwrap();
    let mut config = config(&dir, SCHEMA);
    config.durability = Durability::Normal;
    let store = Store::open(config.clone()).unwrap();
    let mut commits = store.commits();
    for id in ["a", "b"] {
        store.execute(insert(id), None).await.unwrap();
        assert_eq!(commits.recv().await.unwrap().versions.len(), 1);
    }
    is_sound(&store).await;
    let site = store.site();
    store.close().await;
    let store = Store::open(config).unwrap();
    assert_eq!(store.state().heads.head(site), 2);
    store.close().await;
}

#[tokio::test]
async fn a_statement_without_end_does_not_keep_the_store_from_closing() {
    let rig = Rig::new("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY);");
    let endless =
        "DELETE FROM t WHERE id IN (WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT x FROM r)";
    rig.run("INSERT INTO t (id) VALUES (1)").await.unwrap();
    let both = async { tokio::join!(rig.run(endless), rig.store.close()) };
    let (ran, ()) = tokio::time::timeout(Duration::from_secs(30), both).await.expect("the store closes");
    assert_eq!(ran.unwrap_err(), ExecuteError::TimedOut);
}
