//! What a schema may say, and what it may become.

use kith_gossip::store::{Migrated, OpenError, SchemaError, SchemaSource, Store};
use kith_gossip_proto::Value;
use tempfile::TempDir;

use crate::rig::{Rig, config};

/// Each line of a schema that is refused, and a part of the message, which names table and column.
const REFUSED: &[(&str, &str, &str)] = &[
    ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT UNIQUE)", "table t, column a", "UNIQUE"),
    ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT, UNIQUE (a))", "table t", "UNIQUE"),
    ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a); CREATE UNIQUE INDEX i ON t (a)", "index i", "UNIQUE"),
    (
        "CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY); CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT REFERENCES p (id))",
        "table t, column a",
        "FOREIGN KEY",
    ),
    (
        "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT, FOREIGN KEY (a) REFERENCES t (id))",
        "table t",
        "FOREIGN KEY",
    ),
    ("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)", "table t, column id", "AUTOINCREMENT"),
    ("CREATE TABLE t (id TEXT PRIMARY KEY)", "table t, column id", "NOT NULL"),
    ("CREATE TABLE t (x TEXT NOT NULL, y TEXT, PRIMARY KEY (x, y))", "table t, column y", "NOT NULL"),
    ("CREATE TABLE t (id REAL NOT NULL PRIMARY KEY)", "table t, column id", "INTEGER, TEXT or BLOB"),
    ("CREATE TABLE t (id NOT NULL PRIMARY KEY)", "table t, column id", "INTEGER, TEXT or BLOB"),
    ("CREATE TABLE t (id BOOLEAN NOT NULL PRIMARY KEY)", "table t, column id", "INTEGER, TEXT or BLOB"),
    ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY COLLATE NOCASE)", "table t, column id", "COLLATE"),
    ("CREATE TABLE t (id TEXT NOT NULL COLLATE rtrim, PRIMARY KEY (id))", "table t, column id", "COLLATE"),
    ("CREATE TABLE t (id TEXT NOT NULL, PRIMARY KEY (id COLLATE NOCASE))", "table t", "COLLATE"),
    ("CREATE TABLE t (a TEXT)", "table t", "no PRIMARY KEY"),
    ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT DEFAULT CURRENT_TIMESTAMP)", "table t, column a", "DEFAULT"),
    ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER DEFAULT (random()))", "table t, column a", "DEFAULT"),
    (
        "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER, b INTEGER CHECK (a < b))",
        "table t, column b",
        "another node (a, b)",
    ),
    (
        "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER, b INTEGER, CHECK (a < 1 OR b))",
        "table t",
        "more than one column",
    ),
    ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, rowid, oid, _rowid_)", "table t", "rowid"),
    ("CREATE TABLE __kith_x (id TEXT NOT NULL PRIMARY KEY)", "table __kith_x", "__kith_"),
    ("CREATE TEMP TABLE t (id TEXT NOT NULL PRIMARY KEY)", "table t", "temporary"),
    ("CREATE TABLE temp.t (id TEXT NOT NULL PRIMARY KEY)", "table t", "temporary"),
    ("CREATE TABLE t AS SELECT 1 AS id", "table t", "primary key"),
    ("CREATE VIEW v AS SELECT 1", "CREATE VIEW", "CREATE TABLE and CREATE INDEX"),
    (
        "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY); CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TRIGGER",
        "",
    ),
    ("DROP TABLE t", "DROP TABLE t", "CREATE TABLE and CREATE INDEX"),
    ("ATTACH '/tmp/x' AS x", "ATTACH", "CREATE TABLE and CREATE INDEX"),
    ("PRAGMA journal_mode = DELETE", "PRAGMA", "CREATE TABLE and CREATE INDEX"),
    ("CREATE VIRTUAL TABLE t USING fts5 (a)", "CREATE VIRTUAL TABLE", "CREATE TABLE and CREATE INDEX"),
    ("INSERT INTO sqlite_schema VALUES (1)", "INSERT", "CREATE TABLE and CREATE INDEX"),
    ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY,, a)", "line 1", "syntax error"),
    ("\n\nCREATE INDEX i ON nowhere (a)", "line 3", "nowhere"),
];

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

fn source(sql: &str) -> Vec<SchemaSource> {
    vec![SchemaSource { name: "a.sql".to_owned(), sql: sql.to_owned() }]
}

#[tokio::test]
async fn what_nodes_could_not_agree_on_is_refused_by_name() {
    let rig = Rig::new("");
    for (sql, subject, reason) in REFUSED {
        let error = rig.store.migrate(source(sql)).await.expect_err(sql);
        let text = chain(&error);
        assert!(text.contains("a.sql") && text.contains(subject) && text.contains(reason), "{sql}: {text}");
        assert!(!text.contains('\n'), "{text}");
        assert!(rig.store.tables().is_empty(), "{sql}");
        assert_eq!(
            rig.one("SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE '%kith%' AND name NOT LIKE 'sqlite%'")
                .await,
            Value::Integer(0)
        );
    }
    let dir = TempDir::new().unwrap();
    for (sql, ..) in REFUSED {
        assert!(matches!(Store::open(config(&dir, sql)), Err(OpenError::Schema(_))), "{sql}");
    }
}

#[tokio::test]
async fn what_can_be_held_is_taken() {
    let rig = Rig::new(
        "
        -- a comment; with a semicolon
        CREATE TABLE IF NOT EXISTS a (id INTEGER PRIMARY KEY, \"b c\" TEXT DEFAULT 'x;y' CHECK (length(\"b c\") < 9),
            d DEFAULT (-1.5));",
    );
    let sql = "CREATE TABLE b (x INT, y VARCHAR(9), z BLOB, a COLLATE NOCASE, PRIMARY KEY (z, y, x)) WITHOUT ROWID;
        CREATE TABLE s (id TEXT NOT NULL PRIMARY KEY, a ANY, g ANY AS (a) VIRTUAL) STRICT;
        CREATE INDEX i ON s (a) WHERE a IS NOT NULL; CREATE INDEX IF NOT EXISTS j ON a (\"b c\", d + 1)";
    let migrated = rig.store.migrate(source(sql)).await.unwrap();
    assert_eq!(migrated.tables, ["b", "s"]);
    assert_eq!(migrated.indexes, ["i", "j"]);
    let tables = rig.store.tables();
    let names = |names: &[kith_gossip_proto::Name]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&tables.get("b").unwrap().key), ["z", "y", "x"]);
    assert_eq!(names(&tables.get("b").unwrap().columns), ["x", "y", "z", "a"]);
    assert_eq!(names(&tables.get("s").unwrap().columns), ["id", "a"]);
    assert_eq!(rig.store.migrate(source(sql)).await.unwrap(), Migrated::default(), "nothing is left to do");
    assert_eq!(rig.store.state().commits, 1);
    rig.run("INSERT INTO a VALUES (1, 'q', 2); INSERT INTO b VALUES (1, 'y', x'00', 'A'); INSERT INTO s (id, a) VALUES ('s', 1.0)").await.unwrap();
    rig.is_sound().await;
}

#[tokio::test]
async fn a_schema_grows_and_changes_nothing_that_is() {
    let was = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER NOT NULL DEFAULT 0, b TEXT)";
    let rig = Rig::new(was);
    rig.run("INSERT INTO t VALUES ('x', 1, 'q')").await.unwrap();
    let hash = rig.store.tables().hash();
    for (sql, reason) in [
        ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT NOT NULL DEFAULT 0, b TEXT)", "table t, column a"),
        ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER NOT NULL DEFAULT 1, b TEXT)", "table t, column a"),
        ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER DEFAULT 0, b TEXT)", "table t, column a"),
        (
            "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, b TEXT NOT NULL, a INTEGER NOT NULL DEFAULT 0)",
            "table t, column b",
        ),
        ("CREATE TABLE t (id TEXT NOT NULL, b TEXT NOT NULL, PRIMARY KEY (id, b))", "table t"),
        ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID", "table t"),
        ("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, c TEXT NOT NULL)", "table t, column c"),
        ("CREATE TABLE T (id TEXT NOT NULL PRIMARY KEY)", "spell it alike"),
        (
            "CREATE TABLE u (id TEXT NOT NULL PRIMARY KEY); CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, c TEXT NOT NULL)",
            "nullable",
        ),
    ] {
        let error = chain(&rig.store.migrate(source(sql)).await.expect_err(sql));
        assert!(error.contains(reason), "{sql}: {error}");
        assert_eq!(rig.store.tables().hash(), hash, "{sql}");
        assert_eq!(rig.store.tables().len(), 1, "{sql}");
    }
    let mut commits = rig.store.commits();
    let migrated = rig
        .store
        .migrate(source("create table t (ID text not null primary key, a integer not null default 0, c TEXT NOT NULL DEFAULT 'it''s', e INT AS (a) VIRTUAL); CREATE INDEX i ON t (c)"))
        .await;
    assert!(migrated.is_err(), "ID is not id");
    let migrated = rig
        .store
        .migrate(source("create table t (id text not null primary key, a integer not null default 0, c TEXT NOT NULL DEFAULT 'it''s', e INT AS (a) VIRTUAL); CREATE INDEX i ON t (c)"))
        .await
        .unwrap();
    assert_eq!(migrated.columns, ["t.c", "t.e"]);
    let commit = commits.recv().await.unwrap();
    assert_eq!(commit.schema, kith_gossip::store::SchemaChange::Changed);
    assert_ne!(rig.store.tables().hash(), hash);
    assert_eq!(
        rig.rows("SELECT id, a, b, c, e FROM t").await.unwrap(),
        [[Value::text("x"), Value::Integer(1), Value::text("q"), Value::text("it's"), Value::Integer(1)]]
    );
    rig.is_sound().await;
    let rig = rig.reopen(was).await;
    assert_eq!(rig.store.tables().get("t").unwrap().columns.len(), 4, "a column that is no longer declared stays");
    let migrated = rig.store.migrate(source("CREATE INDEX i ON t (b)")).await.unwrap();
    assert_eq!(migrated.indexes, ["i"], "an index is no data: it may change");
    rig.is_sound().await;
}

#[tokio::test]
async fn the_builtin_schema_is_taken_and_its_hash_is_the_same_everywhere() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let stores = dirs.each_ref().map(|dir| {
        let mut config = config(dir, "");
        config.schema = vec![SchemaSource::builtin()];
        Store::open(config).unwrap()
    });
    assert_eq!(stores[0].tables().hash(), stores[1].tables().hash());
    let names: Vec<_> = stores[0].tables().iter().map(|table| table.name.to_string()).collect();
    assert_eq!(names, ["cluster_metadata", "containers", "nats_servers", "servers", "services"]);
    assert!(matches!(stores[0].migrate(source("SELECT 1")).await, Err(SchemaError::Refused { .. })));
}
