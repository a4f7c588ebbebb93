//! Reading: what a client may ask, and what it cannot do by asking.

use std::time::Duration;

use kith_gossip::store::{ExecuteError, Params, QueryError, Statement};
use kith_gossip_proto::{Name, Value};

use crate::rig::{Rig, rows};

const SCHEMA: &str = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER, b TEXT)";

#[tokio::test]
async fn columns_come_first_and_values_as_they_are_stored() {
    let rig = Rig::new(SCHEMA);
    let mut empty = rig.store.query(Statement::new("SELECT id AS name, a FROM t"), None).await.unwrap();
    assert_eq!(empty.columns, ["name", "a"]);
    assert!(empty.rows.recv().await.is_none());
    let all = rig.rows("SELECT NULL, 1, 1.0, 'x', x'00', -9223372036854775808").await.unwrap();
    assert_eq!(
        all,
        [[
            Value::Null,
            Value::Integer(1),
            Value::real(1.0),
            Value::text("x"),
            Value::Blob([0].into()),
            Value::Integer(i64::MIN)
        ]]
    );
}

#[tokio::test]
async fn parameters_fit_or_are_named_in_the_error() {
    let rig = Rig::new(SCHEMA);
    let ask = async |sql: &str, params| rows(&rig.store, Statement { sql: sql.to_owned(), params }).await;
    let [one, two] = [Value::Integer(1), Value::Integer(2)];
    let list = |values: &[Value]| Params::Positional(values.to_vec());
    let named =
        |names: &[&str]| Params::Named(names.iter().map(|name| ((*name).to_owned(), Value::Integer(7))).collect());
    assert_eq!(ask("SELECT ?, ?", list(&[one.clone(), two])).await.unwrap().len(), 1);
    assert_eq!(ask("SELECT :a, @b, $c, :a", named(&[":a", "@b", "$c"])).await.unwrap()[0].len(), 4);
    for (sql, params, part) in [
        ("SELECT ?, ?", list(std::slice::from_ref(&one)), "2 parameters, and 1"),
        ("SELECT 1", list(&[one]), "0 parameters, and 1"),
        ("SELECT ?", Params::None, "1 parameters, and none"),
        ("SELECT :a", named(&[":a", ":b"]), ":b"),
        ("SELECT :a, :b", named(&[":a"]), ":b"),
        ("SELECT :a", named(&["a"]), " a"),
    ] {
        match ask(sql, params).await {
            Err(QueryError::Bind(message)) => assert!(message.contains(part), "{sql}: {message}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_query_reads_and_does_nothing_else() {
    let rig = Rig::new(SCHEMA);
    rig.run("INSERT INTO t VALUES ('x', 1, 'q')").await.unwrap();
    for sql in
        ["INSERT INTO t VALUES ('y', 1, 'q')", "DELETE FROM t", "UPDATE t SET a = 2 RETURNING a", "", "-- nothing"]
    {
        let answer = rig.rows(sql).await;
        assert!(matches!(answer, Err(QueryError::NotReadOnly | QueryError::Prepare(_))), "{sql}: {answer:?}");
    }
    for sql in [
        "SELECT * FROM nowhere",
        "SELEKT 1",
        "SELECT 1; SELECT 2",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA query_only = 0",
        "ATTACH '/tmp/kith-test-attached' AS x",
        "BEGIN",
        "COMMIT",
        "SAVEPOINT s",
        "SELECT load_extension('x')",
        "VACUUM",
        "VACUUM INTO '/tmp/kith-test-vacuum'",
        "CREATE TEMP TABLE x (a)",
        "EXPLAIN QUERY PLAN DROP TABLE t",
        "DETACH main",
        "REINDEX",
        "ANALYZE",
    ] {
        let answer = rig.rows(sql).await;
        assert!(matches!(answer, Err(QueryError::NotReadOnly | QueryError::Prepare(_))), "{sql}: {answer:?}");
    }
    let deep = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    let wide = format!("SELECT '{}'", "x".repeat(70_000));
    for sql in [deep.as_str(), &wide] {
        assert!(matches!(rig.rows(sql).await, Err(QueryError::Prepare(_))));
    }
    // A failure after the first row comes after it, and ends the rows.
    let mut late =
        rig.store.query(Statement::new("SELECT 1 UNION ALL SELECT abs(-9223372036854775807 - 1)"), None).await.unwrap();
    assert_eq!(late.rows.recv().await, Some(Ok(vec![Value::Integer(1)])));
    assert!(matches!(late.rows.recv().await, Some(Err(QueryError::Failed(_)))));
    assert!(late.rows.recv().await.is_none());
    assert!(matches!(rig.rows("SELECT hex(zeroblob(100000000))").await, Err(QueryError::Failed(_))));
    assert_eq!(rig.one("SELECT name FROM pragma_table_info('t') WHERE pk").await, Value::text("id"));
    assert!(rig.rows("SELECT * FROM __kith_site").await.is_ok(), "the books may be read");
    assert_eq!(rig.one("SELECT count(*) FROM t").await, Value::Integer(1));
}

const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";
const ENDLESS_ROWS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c";

#[tokio::test]
async fn a_query_ends_at_its_timeout_or_when_nobody_listens() {
    let rig = Rig::new(SCHEMA);
    let timeout = Some(Duration::from_millis(50));
    assert_eq!(rig.store.query(Statement::new(ENDLESS), timeout).await.err(), Some(QueryError::TimedOut));
    // More of them than there are connections: each must be given back.
    for _ in 0..20 {
        let mut rows = rig.store.query(Statement::new(ENDLESS_ROWS), None).await.unwrap();
        assert!(rows.rows.recv().await.is_some());
    }
    let asking = tokio::time::timeout(Duration::from_millis(20), rig.store.query(Statement::new(ENDLESS), None));
    assert!(asking.await.is_err(), "the future is dropped while the query runs");
    rig.store.close().await;
}

#[tokio::test]
async fn what_a_query_uses_is_told() {
    let rig = Rig::new(SCHEMA);
    let sql = "SELECT x.id, count(*), upper(:p) FROM t AS x JOIN t AS y ON y.b = x.b WHERE x.id = :q";
    let params = Params::Named(vec![(":p".to_owned(), Value::text("it's")), (":q".to_owned(), Value::Integer(3))]);
    let examined = rig.store.examine(Statement { sql: sql.to_owned(), params }).await.unwrap();
    assert_eq!(examined.columns.len(), 3);
    let columns = examined.used.columns[&Name::from("t")].iter().map(ToString::to_string);
    assert_eq!(columns.collect::<Vec<_>>(), ["b", "id"]);
    assert_eq!(examined.used.functions.iter().collect::<Vec<_>>(), ["count", "upper"]);
    assert!(
        examined.expanded.contains("upper('it''s')") && examined.expanded.ends_with("x.id = 3"),
        "{}",
        examined.expanded
    );
    let examined = rig.store.examine(Statement::new("SELECT count(*) FROM t")).await.unwrap();
    assert!(examined.used.columns[&Name::from("t")].is_empty());
    assert_eq!(rig.store.examine(Statement::new("DELETE FROM t")).await, Err(QueryError::NotReadOnly));
}

#[tokio::test]
async fn a_transaction_writes_rows_and_does_nothing_else() {
    let rig = Rig::new(SCHEMA);
    rig.run("INSERT INTO t VALUES ('x', 1, 'q')").await.unwrap();
    for sql in [
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT s",
        "RELEASE member",
        "ROLLBACK TO member",
        "PRAGMA synchronous = OFF",
        "ATTACH '/tmp/kith-test-attached' AS x",
        "VACUUM",
        "VACUUM INTO '/tmp/kith-test-vacuum'",
        "CREATE TABLE x (id TEXT NOT NULL PRIMARY KEY)",
        "CREATE TEMP TABLE x (a)",
        "CREATE TEMP TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END",
        "DROP TABLE t",
        "ALTER TABLE t RENAME TO u",
        "CREATE INDEX i ON t (a)",
        "DELETE FROM __kith_log",
        "UPDATE __kith_meta SET boot = 0",
        "UPDATE t__kith_row SET st = x''",
        "INSERT INTO T__KITH_ROW VALUES (1, x'')",
        "INSERT INTO sqlite_schema VALUES (1, 2, 3, 4, 5)",
        "DELETE FROM sqlite_temp_schema",
        "SELECT 1",
        "INSERT INTO t VALUES ('y', 1, 'q'), ('y', 1, 'q')",
        "REINDEX",
        "ANALYZE",
        "/*kith*/ INSERT INTO t VALUES ('y', 1, 'q')",
        "/*kith*/ COMMIT",
        " /*kith*/ ROLLBACK",
        "INSERT INTO t VALUES (1,1,1); DELETE FROM nowhere",
        "UPDATE t SET a = load_extension('x')",
    ] {
        let answer = rig.run(sql).await;
        assert!(matches!(answer, Err(ExecuteError::Statement { .. })), "{sql}: {answer:?}");
        assert_eq!(rig.one("SELECT count(*) FROM t").await, Value::Integer(1), "{sql}");
    }
    let two = rig.store.execute(vec![Statement::new("DELETE FROM t; DELETE FROM t")], None).await;
    assert!(matches!(two, Err(ExecuteError::Statement { index: 0, .. })), "{two:?}");
    let nothing = rig.store.execute(vec![Statement::new("  -- nothing")], None).await;
    assert!(matches!(nothing, Err(ExecuteError::Statement { .. })), "{nothing:?}");
    assert_eq!(rig.store.execute(Vec::new(), None).await, Err(ExecuteError::Empty));
    assert!(!std::path::Path::new("/tmp/kith-test-attached").exists());
    assert!(!std::path::Path::new("/tmp/kith-test-vacuum").exists());
    rig.is_sound().await;
}

#[tokio::test]
async fn closing_ends_what_is_being_read() {
    let rig = Rig::new(SCHEMA);
    // One whose reader does not read, one without rows, and a pull that nobody takes.
    let mut stuck = rig.store.query(Statement::new(ENDLESS_ROWS), None).await.unwrap();
    assert!(stuck.rows.recv().await.is_some());
    let store = rig.store.clone();
    let busy = async move { store.query(Statement::new(ENDLESS), None).await };
    let close = async {
        tokio::task::yield_now().await;
        tokio::time::timeout(Duration::from_secs(10), rig.store.close())
            .await
            .expect("the store did not close in 10 s");
    };
    let (busy, ()) = tokio::join!(busy, close);
    assert!(busy.is_err(), "{busy:?}");
    rig.store.ended().await;
}

#[tokio::test]
async fn a_migration_is_seen_by_the_next_query_and_the_next_examination() {
    let rig = Rig::new(SCHEMA);
    rig.run("INSERT INTO t VALUES ('x', 1, 'q')").await.unwrap();
    // The connection has read the tables as they are.
    assert_eq!(rig.rows("SELECT * FROM t").await.unwrap()[0].len(), 3);
    let more = |columns: &str| kith_gossip::store::SchemaSource {
        name: "more".to_owned(),
        sql: format!("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER, b TEXT, {columns})"),
    };
    rig.store.migrate(vec![more("c TEXT DEFAULT 'c'")]).await.unwrap();
    let mut rows = rig.store.query(Statement::new("SELECT * FROM t"), None).await.unwrap();
    assert_eq!(rows.columns, ["id", "a", "b", "c"]);
    assert_eq!(rows.rows.recv().await.unwrap().unwrap().len(), 4);
    rig.store.migrate(vec![more("c TEXT DEFAULT 'c', d")]).await.unwrap();
    assert_eq!(rig.store.examine(Statement::new("SELECT * FROM t")).await.unwrap().columns.len(), 5);
    rig.store.migrate(vec![more("c TEXT DEFAULT 'c', d, e")]).await.unwrap();
    let empty = rig.store.query(Statement::new("SELECT * FROM t WHERE 0"), None).await.unwrap();
    assert_eq!(empty.columns.len(), 6);
    rig.store.migrate(vec![more("c TEXT DEFAULT 'c', d, e, f")]).await.unwrap();
    let width =
        |conn: &mut rusqlite::Connection| conn.prepare("SELECT * FROM t").map(|prepared| prepared.column_count());
    assert_eq!(rig.store.read(width).await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn clients_of_corrosion_find_its_bookkeeping() {
    let rig = Rig::new(SCHEMA);
    rig.run("INSERT INTO t (id) VALUES ('a')").await.unwrap();
    let versions =
        rig.rows("SELECT hex(site_id), db_version FROM crsql_db_versions ORDER BY hex(site_id)").await.unwrap();
    assert_eq!(versions, [[Value::text(&rig.store.site().to_string().to_uppercase()), Value::Integer(1)]]);
    let gaps = rig.rows("SELECT hex(actor_id), start, end FROM __corro_bookkeeping_gaps").await.unwrap();
    assert!(gaps.is_empty());
    let members =
        rig.rows("SELECT actor_id, address, json_extract(foca_state, '$.state'), rtt_min FROM __corro_members");
    assert!(members.await.unwrap().is_empty(), "a store alone knows of no others");
    for sql in
        ["DELETE FROM crsql_db_versions", "CREATE TEMP VIEW v AS SELECT 1", "INSERT INTO __corro_members VALUES (1)"]
    {
        assert!(rig.rows(sql).await.is_err(), "{sql}");
        assert!(rig.store.execute(vec![Statement::new(sql)], None).await.is_err(), "{sql}");
    }
}
