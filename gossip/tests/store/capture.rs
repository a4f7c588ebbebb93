//! What the pre-update hook is known to do, each trap with what must come of it: one record per row, taken from the row
//! as it is when the transaction ends.

use kith_gossip::store::ExecuteError;
use kith_gossip_proto::Value;
use kith_gossip_proto::key::KeyError;

use crate::rig::Rig;

const SCHEMA: &str = "
    CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER, b TEXT DEFAULT 'd', r REAL);
    CREATE TABLE n (id INTEGER NOT NULL PRIMARY KEY, a);
    CREATE TABLE g (id TEXT NOT NULL PRIMARY KEY, a INTEGER,
        v INTEGER GENERATED ALWAYS AS (a + 1) VIRTUAL, s INTEGER GENERATED ALWAYS AS (a * 2) STORED, z TEXT);
    CREATE TABLE w (x INTEGER, y TEXT, a INTEGER, b TEXT, PRIMARY KEY (x, y)) WITHOUT ROWID;
    CREATE TABLE c (x TEXT NOT NULL, y INTEGER NOT NULL, a INTEGER, PRIMARY KEY (y, x));
    CREATE TABLE s (id TEXT NOT NULL PRIMARY KEY, i INTEGER, r REAL, x ANY) STRICT;
    CREATE TABLE k (id TEXT NOT NULL PRIMARY KEY);
    CREATE TABLE b (id BLOB NOT NULL PRIMARY KEY, a INTEGER);
";

/// Each step is a transaction and what it became. After each the books must be sound.
async fn steps(steps: &[(&str, &str)]) {
    let rig = Rig::new(SCHEMA);
    for (sql, expected) in steps {
        let said = rig.said(sql).await;
        let expected: String = expected.lines().map(|line| format!("{}\n", line.trim())).collect();
        assert_eq!(said, expected, "{sql}");
        rig.is_sound().await;
    }
}

#[tokio::test]
async fn insert_update_and_delete_are_one_record_each() {
    steps(&[
        ("INSERT INTO t (id, a) VALUES ('x', 1)", r#"new t['x']@1 a=1 b='d' r=NULL"#),
        ("UPDATE t SET a = 2, b = 'd'", r#"set t['x']@1 a=2"#),
        ("UPDATE t SET a = 3; UPDATE t SET a = 4; UPDATE t SET b = 'e'", r#"set t['x']@1 a=4 b='e'"#),
        ("UPDATE t SET a = 4", ""),
        ("DELETE FROM t WHERE id = 'x'", r#"gone t['x']@2"#),
        ("INSERT INTO t VALUES ('x', 1, NULL, 2)", r#"new t['x']@3 a=1 b=NULL r=2.0"#),
        ("DELETE FROM t", r#"gone t['x']@4"#),
        ("DELETE FROM t", ""),
        ("INSERT INTO k VALUES ('only a key')", r#"new k['only a key']@1"#),
    ])
    .await;
}

#[tokio::test]
async fn what_a_transaction_undoes_itself_is_nothing() {
    steps(&[
        ("INSERT INTO t (id) VALUES ('x'); DELETE FROM t", ""),
        ("INSERT INTO t (id, a) VALUES ('x', 1)", r#"new t['x']@1 a=1 b='d' r=NULL"#),
        ("UPDATE t SET a = 2; UPDATE t SET a = 1", ""),
        ("DELETE FROM t; INSERT INTO t (id, a) VALUES ('x', 1)", ""),
        ("DELETE FROM t; INSERT INTO t (id, a) VALUES ('x', 5)", r#"set t['x']@1 a=5"#),
        ("UPDATE t SET id = 'y'; UPDATE t SET id = 'x'", ""),
    ])
    .await;
}

#[tokio::test]
async fn a_row_that_only_moved_to_another_rowid_is_no_version_and_keeps_its_books() {
    steps(&[
        ("INSERT INTO t (id, a) VALUES ('x', 1), ('y', 2), ('z', 3)", r#"new t['x']@1 a=1 b='d' r=NULL
            new t['y']@1 a=2 b='d' r=NULL
            new t['z']@1 a=3 b='d' r=NULL"#),
        ("INSERT OR REPLACE INTO t (id, a) VALUES ('x', 1)", ""),
        ("UPDATE t SET a = 7 WHERE id = 'x'", r#"set t['x']@1 a=7"#),
        ("INSERT OR REPLACE INTO t (id, a) VALUES ('x', 8)", r#"set t['x']@1 a=8"#),
        ("UPDATE t SET rowid = rowid + 100", ""),
        ("UPDATE t SET rowid = 50 WHERE id = 'x'; UPDATE t SET rowid = 51 WHERE id = 'y'", ""),
        ("UPDATE t SET rowid = 99 WHERE id = 'x'; UPDATE t SET rowid = 50 WHERE id = 'y'; UPDATE t SET rowid = 51, a = 9 WHERE id = 'x'",
            r#"set t['x']@1 a=9"#),
        ("DELETE FROM t WHERE id = 'x'", r#"gone t['x']@2"#),
    ])
    .await;
}

#[tokio::test]
async fn a_changed_key_is_a_delete_and_an_insert_in_one_version() {
    steps(&[
        ("INSERT INTO t (id, a) VALUES ('x', 1), ('y', 2)", r#"new t['x']@1 a=1 b='d' r=NULL
            new t['y']@1 a=2 b='d' r=NULL"#),
        ("UPDATE t SET id = 'z' WHERE id = 'x'", r#"gone t['x']@2
            new t['z']@1 a=1 b='d' r=NULL"#),
        ("UPDATE t SET id = 't' WHERE id = 'y'; UPDATE t SET id = 'y' WHERE id = 'z'; UPDATE t SET id = 'z' WHERE id = 't'",
            r#"set t['y']@1 a=1
            set t['z']@1 a=2"#),
        ("UPDATE OR REPLACE t SET id = 'z' WHERE id = 'y'", r#"gone t['y']@2
            set t['z']@1 a=1"#),
        ("INSERT INTO n VALUES (5, 'v')", "new n[5]@1 a='v'"),
        ("UPDATE n SET id = 6", "gone n[5]@2\n new n[6]@1 a='v'"),
    ])
    .await;
}

#[tokio::test]
async fn a_rowid_that_is_used_again_is_another_row() {
    steps(&[
        ("INSERT INTO t (rowid, id, a) VALUES (5, 'x', 1)", r#"new t['x']@1 a=1 b='d' r=NULL"#),
        (
            "DELETE FROM t; INSERT INTO t (rowid, id, a) VALUES (5, 'y', 1)",
            r#"gone t['x']@2
            new t['y']@1 a=1 b='d' r=NULL"#,
        ),
        ("DELETE FROM t", r#"gone t['y']@2"#),
        ("INSERT INTO t (rowid, id) VALUES (5, 'x')", r#"new t['x']@3 a=NULL b='d' r=NULL"#),
    ])
    .await;
}

#[tokio::test]
async fn values_are_those_the_table_stores() {
    steps(&[
        ("INSERT INTO t VALUES ('x', '5', 6, 7)", r#"new t['x']@1 a=5 b='6' r=7.0"#),
        ("UPDATE t SET a = '5', b = 6, r = '7'", ""),
        ("UPDATE t SET a = '08', b = 7, r = '8'", r#"set t['x']@1 a=8 b='7' r=8.0"#),
        ("UPDATE t SET r = -0.0", r#"set t['x']@1 r=0.0"#),
        ("UPDATE t SET r = 9e999, a = 'text', b = x'00ff'", r#"set t['x']@1 a='text' b=x'00ff' r=inf"#),
        ("UPDATE t SET r = 9e999 - 9e999", r#"set t['x']@1 r=NULL"#),
        ("INSERT INTO s VALUES ('x', '5', 6, '7')", r#"new s['x']@1 i=5 r=6.0 x='7'"#),
        ("INSERT INTO b VALUES (x'00', 1), ('00', 2)", "new b['00']@1 a=2\n new b[x'00']@1 a=1"),
        ("INSERT INTO n VALUES ('12', 1.0)", "new n[12]@1 a=1.0"),
    ])
    .await;
}

#[tokio::test]
async fn generated_columns_are_not_replicated() {
    steps(&[
        ("INSERT INTO g (id, a, z) VALUES ('x', 1, 'q')", r#"new g['x']@1 a=1 z='q'"#),
        ("UPDATE g SET a = 2", r#"set g['x']@1 a=2"#),
        ("UPDATE g SET z = 'r'", r#"set g['x']@1 z='r'"#),
        ("UPDATE g SET z = 'r', a = a", ""),
        ("DELETE FROM g", r#"gone g['x']@2"#),
    ])
    .await;
}

#[tokio::test]
async fn tables_without_rowid_and_composite_keys_are_captured_alike() {
    steps(&[
        (
            "INSERT INTO w VALUES (1, 'p', 1, 'q'), ('2', 3, 2, 'r')",
            r#"new w[1, 'p']@1 a=1 b='q'
            new w[2, '3']@1 a=2 b='r'"#,
        ),
        ("UPDATE w SET a = '9' WHERE x = '2'", r#"set w[2, '3']@1 a=9"#),
        ("INSERT OR REPLACE INTO w VALUES ('2', 3, 9, 'r')", ""),
        ("INSERT OR REPLACE INTO w VALUES ('2', 3, 9, 's')", r#"set w[2, '3']@1 b='s'"#),
        (
            "UPDATE w SET x = '3' WHERE x = 2",
            r#"gone w[2, '3']@2
            new w[3, '3']@1 a=9 b='s'"#,
        ),
        ("DELETE FROM w WHERE x = 3; INSERT INTO w VALUES ('3', '3', 9, 's')", ""),
        ("INSERT INTO w VALUES ('7', 7, 1, ''); UPDATE w SET a = 2 WHERE x = 7; DELETE FROM w WHERE x = 7", ""),
        ("INSERT INTO w VALUES ('8', 8, 1, ''); UPDATE w SET a = 2 WHERE x = 8", r#"new w[8, '8']@1 a=2 b=''"#),
        ("UPDATE w SET x = '9' WHERE x = 8; UPDATE w SET x = '8' WHERE x = 9", ""),
        (
            "DELETE FROM w",
            r#"gone w[1, 'p']@2
            gone w[3, '3']@2
            gone w[8, '8']@2"#,
        ),
        ("INSERT INTO w VALUES (1, 'p', 1, 'q')", r#"new w[1, 'p']@3 a=1 b='q'"#),
        ("INSERT INTO c VALUES ('p', 1, 1)", r#"new c[1, 'p']@1 a=1"#),
        ("UPDATE c SET a = 2", r#"set c[1, 'p']@1 a=2"#),
    ])
    .await;
}

#[tokio::test]
async fn upserts_conflicts_and_subqueries_are_what_they_did() {
    steps(&[
        ("INSERT INTO t (id, a) VALUES ('x', 1)", r#"new t['x']@1 a=1 b='d' r=NULL"#),
        ("INSERT INTO t (id, a) VALUES ('x', 2) ON CONFLICT (id) DO UPDATE SET a = excluded.a", r#"set t['x']@1 a=2"#),
        ("INSERT INTO t (id, a) VALUES ('x', 3) ON CONFLICT DO NOTHING", ""),
        ("INSERT OR IGNORE INTO t (id, a) VALUES ('x', 3), ('y', 3)", r#"new t['y']@1 a=3 b='d' r=NULL"#),
        (
            "INSERT INTO t (id, a) SELECT id || '2', a + 10 FROM t",
            r#"new t['x2']@1 a=12 b='d' r=NULL
            new t['y2']@1 a=13 b='d' r=NULL"#,
        ),
        ("UPDATE t SET a = 0 FROM (SELECT 'y' AS k) q WHERE t.id = q.k", r#"set t['y']@1 a=0"#),
    ])
    .await;
}

#[tokio::test]
async fn a_statement_that_fails_half_way_leaves_nothing() {
    let rig = Rig::new(SCHEMA);
    rig.run("INSERT INTO t (id, a) VALUES ('b', 1)").await.unwrap();
    let state = rig.store.state();
    for sql in [
        "INSERT INTO t (id, a) VALUES ('a', 1), ('b', 2)",
        "INSERT OR FAIL INTO t (id, a) VALUES ('a', 1), ('b', 2)",
        "INSERT OR ROLLBACK INTO t (id, a) VALUES ('a', 1), ('b', 2)",
        "INSERT INTO t (id) VALUES ('a'); SELECT 1",
        "INSERT INTO t (id) VALUES ('a'); INSERT INTO nowhere VALUES (1)",
        "INSERT INTO t (id) VALUES ('a') RETURNING id",
    ] {
        assert!(matches!(rig.run(sql).await, Err(ExecuteError::Statement { .. })), "{sql}");
        assert_eq!(rig.store.state().heads, state.heads);
        assert_eq!(rig.one("SELECT count(*) FROM t").await, Value::Integer(1), "{sql}");
    }
    rig.is_sound().await;
    // The next transaction sees nothing of them.
    assert_eq!(rig.said("UPDATE t SET a = 2").await, "set t['b']@1 a=2\n");
}

#[tokio::test]
async fn a_key_that_nodes_would_not_agree_on_is_refused() {
    let rig = Rig::new(SCHEMA);
    let real = ExecuteError::Key { table: "w".to_owned(), source: KeyError::Real };
    assert_eq!(rig.run("INSERT INTO w (x, y) VALUES (1.5, 'p')").await, Err(real));
    let chosen = ExecuteError::KeyChosen { table: "n".to_owned() };
    assert_eq!(rig.run("INSERT INTO n (a) VALUES (1)").await, Err(chosen.clone()));
    assert_eq!(rig.run("INSERT INTO n VALUES (1, 1); INSERT INTO n (id, a) VALUES (NULL, 2)").await, Err(chosen));
    assert_eq!(
        rig.said("INSERT OR IGNORE INTO n VALUES (-1, 1), (-1, 2), (7, 3)").await,
        "new n[-1]@1 a=1\nnew n[7]@1 a=3\n"
    );
    rig.is_sound().await;
}

#[tokio::test]
async fn a_column_added_later_has_its_default_without_a_stamp() {
    let rig = Rig::new("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER)");
    rig.run("INSERT INTO t VALUES ('x', 1), ('y', 1)").await.unwrap();
    let before = rig.store.state();
    let rig = rig.reopen("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER, b TEXT NOT NULL DEFAULT 'd', c REAL DEFAULT 1, i INTEGER DEFAULT '5', n NUMERIC DEFAULT 1.0, t TEXT DEFAULT 5, x DEFAULT '1', y BLOB DEFAULT -1.5)").await;
    assert_eq!(rig.store.state().digests, before.digests);
    rig.is_sound().await;
    assert_eq!(
        rig.said("UPDATE t SET b = 'd', c = 1, i = 5, n = 1, t = '5', x = '1', y = -1.5").await,
        "",
        "the default is what was there"
    );
    assert_eq!(rig.said("UPDATE t SET b = 'e' WHERE id = 'x'").await, "set t['x']@1 b='e'\n");
    assert_eq!(rig.said("UPDATE t SET b = 'd' WHERE id = 'x'").await, "set t['x']@1 b='d'\n");
    assert_eq!(rig.said("DELETE FROM t WHERE id = 'y'").await, "gone t['y']@2\n");
    rig.is_sound().await;
}
