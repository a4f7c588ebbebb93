//! Opening, executing, querying, following.

use kith_gossip::store::{
    Durability, ExecuteError, Keys, OpenError, QueryError, SchemaSource, Statement, Store, StoreConfig,
};
use kith_gossip_proto::Value;
use tempfile::TempDir;

fn config(dir: &TempDir) -> StoreConfig {
    StoreConfig {
        path: dir.path().join("kith.db"),
        schema: vec![SchemaSource::builtin()],
        durability: Durability::Full,
    }
}

fn put(key: &str, value: &str) -> Statement {
    Statement::with(
        "INSERT INTO cluster_metadata (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [Value::text(key), Value::text(value)],
    )
}

async fn rows(store: &Store, sql: &str) -> Result<Vec<Vec<Value>>, QueryError> {
    let mut rows = store.query(Statement::new(sql), None).await?;
    let mut all = Vec::new();
    while let Some(row) = rows.rows.recv().await {
        all.push(row?);
    }
    Ok(all)
}

#[tokio::test]
async fn a_transaction_becomes_a_version_that_followers_hear_of() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    let mut commits = store.commits();
    let done = store.execute(vec![put("a", "1"), put("b", "2")], None).await.unwrap();
    assert_eq!(done.version, Some(1));
    assert_eq!(done.results.iter().map(|result| result.rows_affected).collect::<Vec<_>>(), [1, 1]);
    let commit = commits.recv().await.unwrap();
    assert_eq!(commit.number, 1);
    assert_eq!(commit.versions[0].changes.len(), 2);
    assert_eq!(commit.heads.head(store.site()), 1);
    let touched = &commit.touched["cluster_metadata"];
    assert_eq!(touched.columns.iter().map(kith_gossip_proto::Name::as_str).collect::<Vec<_>>(), ["key", "value"]);
    assert!(matches!(&touched.keys, Keys::These(keys) if keys.len() == 2));
    assert_eq!(
        rows(&store, "SELECT key, value FROM cluster_metadata ORDER BY key").await.unwrap(),
        [[Value::text("a"), Value::text("1")], [Value::text("b"), Value::text("2")]]
    );
    let unchanged = store.execute(vec![put("a", "1")], None).await.unwrap();
    assert_eq!(unchanged.version, None, "a write that changes nothing is no version");
    store.close().await;
    assert_eq!(store.execute(vec![put("a", "2")], None).await, Err(ExecuteError::ShuttingDown));
    assert_eq!(rows(&store, "SELECT 1").await, Err(QueryError::ShuttingDown));
}

#[tokio::test]
async fn a_store_goes_on_where_it_was_closed() {
    let dir = TempDir::new().unwrap();
    let first = Store::open(config(&dir)).unwrap();
    first.execute(vec![put("a", "1")], None).await.unwrap();
    assert!(matches!(Store::open(config(&dir)), Err(OpenError::InUse { .. })));
    let state = first.state();
    first.close().await;
    let second = Store::open(config(&dir)).unwrap();
    assert_eq!((second.site(), second.boot()), (first.site(), 2));
    assert_ne!(second.nonce(), first.nonce());
    assert_eq!(second.state().heads, state.heads);
    assert_eq!(second.state().digests, state.digests);
    assert_eq!(second.execute(vec![put("a", "2")], None).await.unwrap().version, Some(2));
    second.close().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_left_alone() {
    let refused = |dir: &TempDir| {
        let before = std::fs::read(dir.path().join("kith.db")).unwrap();
        let error = Store::open(config(dir)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("kith.db") && !text.contains('\n'), "{text}");
        assert_eq!(std::fs::read(dir.path().join("kith.db")).unwrap(), before, "{text}");
        error
    };
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("kith.db"), "this is no database, and was never meant to be one".repeat(100))
        .unwrap();
    assert!(matches!(refused(&dir), OpenError::Damaged { .. }));

    let dir = TempDir::new().unwrap();
    let other = rusqlite::Connection::open(dir.path().join("kith.db")).unwrap();
    other.execute_batch("CREATE TABLE somebody_elses (a)").unwrap();
    drop(other);
    assert!(matches!(refused(&dir), OpenError::Foreign { .. }));

    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    let many: Vec<_> = (0..500).map(|n| put(&format!("key {n}"), "a value that takes some room in the file")).collect();
    store.execute(many, None).await.unwrap();
    store.close().await;
    let path = dir.path().join("kith.db");
    let sound = std::fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2 / 4096 * 4096;
    damaged[middle..middle + 4096].fill(0xA5);
    std::fs::write(&path, damaged).unwrap();
    assert!(matches!(refused(&dir), OpenError::Damaged { .. }));
    std::fs::write(&path, sound).unwrap();

    let later = rusqlite::Connection::open(&path).unwrap();
    later.execute_batch("UPDATE __kith_meta SET format = 2; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(later);
    assert!(matches!(refused(&dir), OpenError::Newer { found: 2, known: 1, .. }));

    let dir = TempDir::new().unwrap();
    let mut missing = config(&dir);
    missing.path = dir.path().join("no such folder").join("kith.db");
    assert!(matches!(Store::open(missing), Err(OpenError::Sqlite { .. })));
}
