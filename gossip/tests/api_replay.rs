//! A subscription's rows and changes, replayed, are the query's answer: after every transaction, for every shape of
//! query, across re-attachments.
#![allow(clippy::unwrap_used, reason = "the lint knows test functions, not what they call")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kith_gossip::store::{Durability, Params, QueryError, Rows, SchemaSource, Statement, Store, StoreConfig};
use kith_gossip::subscriptions::{AttachOptions, Attached, SnapshotRows, Subscriptions};
use kith_gossip_proto::Value;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SCHEMA: &str = "
CREATE TABLE a (id TEXT NOT NULL PRIMARY KEY, x INTEGER NOT NULL DEFAULT 0, t TEXT, hidden INTEGER NOT NULL DEFAULT 0);
CREATE TABLE b (k TEXT NOT NULL, n INTEGER NOT NULL, a_id TEXT NOT NULL DEFAULT '', v REAL, PRIMARY KEY (k, n));
";

/// Every shape of query: by key, by key with a filter, joined, and those whose rows are known by their cells only.
const QUERIES: &[&str] = &[
    "SELECT * FROM a",
    "SELECT x, t FROM a WHERE x > 1 ORDER BY id;",
    "SELECT x FROM a AS q -- only one column, so duplicates",
    "SELECT a.id, b.v FROM a JOIN b ON b.a_id = a.id",
    "SELECT a.id, \"b\".v, b.n FROM a LEFT JOIN \"b\" ON b.a_id = a.id AND b.v > 0.5",
    "SELECT p.x, q.x FROM a p, a q WHERE p.x < q.x",
    "SELECT k, n, v IS NOT DISTINCT FROM 1.5 FROM b WHERE n >= 1",
    "SELECT count(*) FROM a",
    "SELECT x, count(*), max(t) FROM a GROUP BY x HAVING count(*) > 1",
    "SELECT DISTINCT t FROM a",
    "SELECT id, x FROM a ORDER BY x DESC, id LIMIT 3",
    "SELECT id FROM a WHERE id IN (SELECT a_id FROM b)",
    "SELECT id, (SELECT sum(v) FROM b WHERE a_id = a.id) FROM a",
    "SELECT t FROM a UNION ALL SELECT k FROM b",
    "SELECT id FROM a EXCEPT SELECT a_id FROM b",
    "WITH c AS (SELECT x FROM a WHERE x < 3) SELECT x FROM c",
    "SELECT id, row_number() OVER (ORDER BY x, id) FROM a",
    "SELECT value FROM a, json_each('[1,2]') WHERE a.x = value",
    "SELECT id FROM a WHERE x = ?1 OR t = ?2",
    "SELECT 1 FROM b",
];

#[derive(Clone, Debug)]
enum Op {
    PutA(u8, u8, Option<u8>),
    ReplaceA(u8, u8),
    Hide(u8),
    MoveA(u8, u8),
    DropA(u8),
    PutB(u8, u8, u8, Option<u8>),
    DropB(u8),
    EmptyA,
}

impl Op {
    fn sql(&self) -> String {
        let text = |t: &Option<u8>| t.map_or("NULL".to_owned(), |t| format!("'t{t}'"));
        match self {
            Self::PutA(id, x, t) => format!(
                "INSERT INTO a (id, x, t) VALUES ('{id}', {x}, {}) ON CONFLICT DO UPDATE SET x = excluded.x, t = excluded.t",
                text(t)
            ),
            Self::ReplaceA(id, x) => format!("INSERT OR REPLACE INTO a (id, x) VALUES ('{id}', {x})"),
            Self::Hide(id) => format!("UPDATE a SET hidden = hidden + 1 WHERE id = '{id}'"),
            Self::MoveA(from, to) => format!("UPDATE OR IGNORE a SET id = '{to}' WHERE id = '{from}'"),
            Self::DropA(id) => format!("DELETE FROM a WHERE id = '{id}'"),
            Self::PutB(k, n, a, v) => format!(
                "INSERT INTO b (k, n, a_id, v) VALUES ('{k}', {n}, '{a}', {}) \
                 ON CONFLICT DO UPDATE SET a_id = excluded.a_id, v = excluded.v",
                v.map_or("NULL".to_owned(), |v| format!("{}", f64::from(v) / 2.0))
            ),
            Self::DropB(k) => format!("DELETE FROM b WHERE k = '{k}'"),
            Self::EmptyA => "DELETE FROM a WHERE x > 0".to_owned(),
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..6u8;
    prop_oneof![
        4 => (key(), 0..4u8, proptest::option::of(0..3u8)).prop_map(|(id, x, t)| Op::PutA(id, x, t)),
        1 => (key(), 0..4u8).prop_map(|(id, x)| Op::ReplaceA(id, x)),
        1 => key().prop_map(Op::Hide),
        1 => (key(), key()).prop_map(|(a, b)| Op::MoveA(a, b)),
        2 => key().prop_map(Op::DropA),
        4 => (0..2u8, 0..3u8, key(), proptest::option::of(0..4u8)).prop_map(|(k, n, a, v)| Op::PutB(k, n, a, v)),
        1 => (0..2u8).prop_map(Op::DropB),
        1 => Just(Op::EmptyA),
    ]
}

fn statement(sql: &str) -> Statement {
    let two = vec![Value::Integer(2), Value::text("t1")];
    let params = if sql.contains("?2") { Params::Positional(two) } else { Params::None };
    Statement { sql: sql.to_owned(), params }
}

/// A client that believes everything it is told, and checks that it makes sense.
struct Replay {
    statement: Statement,
    attached: Attached,
    rows: BTreeMap<u64, String>,
    buffer: Vec<u8>,
    last: u64,
}

impl Replay {
    async fn begin(subscriptions: &Subscriptions, statement: Statement) -> Self {
        let attached = subscriptions.subscribe(statement.clone(), AttachOptions::default()).await.unwrap();
        let mut replay = Self { statement, attached, rows: BTreeMap::new(), buffer: Vec::new(), last: 0 };
        while !replay.read().await.iter().any(|line| line.get("eoq").is_some()) {}
        replay
    }

    /// Drops the stream and comes back where it was.
    async fn again(&mut self, subscriptions: &Subscriptions) {
        let skip = AttachOptions { from: Some(self.last), rows: SnapshotRows::Skipped };
        if self.last > 0 {
            self.attached = subscriptions.attach(self.attached.id(), skip).await.unwrap();
            self.buffer.clear();
        }
    }

    async fn read(&mut self) -> Vec<serde_json::Value> {
        let piece = tokio::time::timeout(Duration::from_secs(20), self.attached.next()).await;
        let piece = piece.unwrap_or_else(|_| panic!("{:?} said nothing more; has {:?}", self.statement.sql, self.rows));
        self.buffer.extend_from_slice(&piece.expect("the stream ended"));
        let end = self.buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.buffer.drain(..end).collect();
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let lines: Vec<serde_json::Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        for line in &lines {
            self.take(line);
        }
        lines
    }

    fn take(&mut self, line: &serde_json::Value) {
        if let Some(row) = line.get("row") {
            self.rows.insert(row[0].as_u64().unwrap(), row[1].to_string());
        } else if let Some(eoq) = line.get("eoq") {
            self.last = eoq["change_id"].as_u64().unwrap();
        } else if let Some(change) = line.get("change") {
            let (id, cells) = (change[1].as_u64().unwrap(), change[2].to_string());
            self.last += 1;
            assert_eq!(change[3].as_u64(), Some(self.last), "a hole in the change ids of {:?}", self.statement.sql);
            match change[0].as_str().unwrap() {
                "insert" => assert_eq!(self.rows.insert(id, cells), None, "inserted twice"),
                "update" => assert_ne!(self.rows.insert(id, cells.clone()).expect("updated, not there"), cells),
                "delete" => assert_eq!(self.rows.remove(&id), Some(cells), "the last cells"),
                kind => panic!("{kind}"),
            }
        } else {
            assert!(line.get("columns").is_some(), "{line}");
        }
    }

    /// Reads until the replay is the answer.
    async fn until(&mut self, answer: &[String]) {
        loop {
            let mut rows: Vec<_> = self.rows.values().cloned().collect();
            rows.sort();
            if rows == answer {
                return;
            }
            self.read().await;
        }
    }
}

async fn answer(store: &Store, statement: Statement) -> Vec<String> {
    let mut rows = store.query(statement, None).await.unwrap().rows;
    let mut answer = Vec::new();
    while let Some(row) = rows.recv().await {
        let cells: Vec<_> = row.unwrap().iter().map(json).collect();
        answer.push(serde_json::Value::Array(cells).to_string());
    }
    answer.sort();
    answer
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(i) => (*i).into(),
        Value::Real(f) => (*f).into(),
        Value::Text(_) => value.as_str().unwrap().into(),
        Value::Blob(bytes) => bytes.to_vec().into(),
    }
}

struct Setup {
    store: Store,
    subscriptions: Subscriptions,
    tasks: TaskTracker,
    token: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let schema = vec![SchemaSource { name: "test".to_owned(), sql: SCHEMA.to_owned() }];
        let config = StoreConfig { path: dir.path().join("kith.db"), schema, durability: Durability::Normal };
        let store = Store::open(config).unwrap();
        let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
        let subscriptions = Subscriptions::start(store.clone(), tasks.clone(), token.clone()).await.unwrap();
        Self { store, subscriptions, tasks, token, _dir: dir }
    }

    async fn end(self) {
        self.token.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await;
    }
}

async fn replay_is_the_answer(history: Vec<(Vec<Op>, u8)>) {
    let setup = Setup::new().await;
    let mut replays = Vec::new();
    for sql in QUERIES {
        replays.push(Replay::begin(&setup.subscriptions, statement(sql)).await);
    }
    for (step, (transaction, again)) in history.into_iter().enumerate() {
        let statements = transaction.iter().map(|op| statement(&op.sql())).collect();
        setup.store.execute(statements, None).await.unwrap();
        for (position, replay) in replays.iter_mut().enumerate() {
            if (step + position) % 7 == usize::from(again) {
                replay.again(&setup.subscriptions).await;
            }
            replay.until(&answer(&setup.store, replay.statement.clone()).await).await;
        }
    }
    for replay in &mut replays {
        // Who comes now sees the same rows under the same ids. Events may be on their way that change no visible cell: a
        // row that went and another that came with the same cells.
        let fresh = Replay::begin(&setup.subscriptions, replay.statement.clone()).await;
        while replay.last < fresh.last {
            replay.read().await;
        }
        assert_eq!((&fresh.rows, fresh.last), (&replay.rows, replay.last), "{}", replay.statement.sql);
    }
    setup.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_replay_of_events_is_the_answer(
        history in proptest::collection::vec((proptest::collection::vec(op(), 1..4), 0..7u8), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(replay_is_the_answer(history));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reader_sees_half_a_transaction() {
    let setup = Setup::new().await;
    let put = |n: u64| {
        let put =
            |id| statement(&format!("INSERT INTO a (id, x) VALUES ('{id}', {n}) ON CONFLICT DO UPDATE SET x = {n}"));
        (0..5).map(put).collect::<Vec<_>>()
    };
    setup.store.execute(put(0), None).await.unwrap();
    let mut by_key = Replay::begin(&setup.subscriptions, statement("SELECT id, x FROM a")).await;
    let mut by_cells =
        Replay::begin(&setup.subscriptions, statement("SELECT x FROM a UNION ALL SELECT x FROM a")).await;
    for n in 1..=300 {
        setup.store.execute(put(n), None).await.unwrap();
    }
    for (replay, count) in [(&mut by_key, 5), (&mut by_cells, 10)] {
        let number = |cells: &String| cells.trim_matches(['[', ']']).rsplit(',').next().unwrap().to_owned();
        loop {
            let numbers: BTreeSet<_> = replay.rows.values().map(number).collect();
            assert_eq!((numbers.len(), replay.rows.len()), (1, count), "{:?}", replay.rows);
            if numbers.contains("300") {
                break;
            }
            replay.read().await;
        }
    }
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_cannot_be_followed_is_refused() {
    let setup = Setup::new().await;
    let mut refusals = String::new();
    for sql in [
        "SELECT random() FROM a",
        "SELECT * FROM a WHERE t < datetime('now')",
        "SELECT * FROM a WHERE t < CURRENT_TIMESTAMP",
        "SELECT unixepoch() FROM a",
        "SELECT * FROM sqlite_schema",
        "SELECT count(*) FROM pragma_table_list",
        "SELECT rowid FROM a",
        "SELECT * FROM absent",
        "SELEC 1",
        "DELETE FROM a",
        "PRAGMA user_version",
        "EXPLAIN SELECT * FROM a",
        "SELECT 1; SELECT 2",
        "SELECT * FROM a WHERE x = ?",
        "",
    ] {
        let params = if sql.ends_with('?') { Params::Positional(vec![]) } else { Params::None };
        let statement = Statement { sql: sql.to_owned(), params };
        let error = setup.subscriptions.subscribe(statement, AttachOptions::default()).await.expect_err(sql);
        refusals.push_str(&format!("{sql} -> {error}\n"));
    }
    insta::assert_snapshot!(refusals, @r#"
    SELECT random() FROM a -> random() gives another answer each time: a subscription would go wrong without any change
    SELECT * FROM a WHERE t < datetime('now') -> datetime() reads the clock: a subscription would go wrong without any change; compute the time in the client
    SELECT * FROM a WHERE t < CURRENT_TIMESTAMP -> current_timestamp() gives another answer each time: a subscription would go wrong without any change
    SELECT unixepoch() FROM a -> unixepoch() reads the clock: a subscription would go wrong without any change; compute the time in the client
    SELECT * FROM sqlite_schema -> sqlite_master is not a replicated table: its changes are not followed
    SELECT count(*) FROM pragma_table_list -> pragma_table_list is not a replicated table: its changes are not followed
    SELECT rowid FROM a -> rowid of a is this node's own: select the primary key
    SELECT * FROM absent -> no such table: absent
    SELEC 1 -> near "SELEC": syntax error
    DELETE FROM a -> a subscription takes a SELECT: this statement returns no rows or does more than read
    PRAGMA user_version -> a subscription takes a SELECT: this statement returns no rows or does more than read
    EXPLAIN SELECT * FROM a -> a subscription takes a SELECT: this statement returns no rows or does more than read
    SELECT 1; SELECT 2 -> Multiple statements provided
    SELECT * FROM a WHERE x = ? -> the statement has 1 parameters, 0 were given
     -> a subscription takes a SELECT: this statement returns no rows or does more than read
    "#);
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_refreshes_what_it_leaves_alone_and_ends_what_it_changes() {
    let setup = Setup::new().await;
    setup.store.execute(vec![statement("INSERT INTO a (id) VALUES ('1')")], None).await.unwrap();
    let mut same = Replay::begin(&setup.subscriptions, statement("SELECT id, x FROM a")).await;
    let mut star = Replay::begin(&setup.subscriptions, statement("SELECT * FROM a")).await;
    let sql = SCHEMA.replace("0);\nCREATE TABLE b", "0, more INTEGER);\nCREATE TABLE b");
    setup.store.migrate(vec![SchemaSource { name: "more".to_owned(), sql }]).await.unwrap();
    setup.store.execute(vec![statement("UPDATE a SET x = 7")], None).await.unwrap();
    same.until(&["[\"1\",7]".to_owned()]).await;
    let last = tokio::time::timeout(Duration::from_secs(20), star.attached.next()).await.unwrap().unwrap();
    assert_eq!(&last[..], b"{\"error\":\"the schema changed and with it the columns: subscribe again\"}\n");
    assert_eq!(star.attached.next().await, None);
    let anew = Replay::begin(&setup.subscriptions, statement("SELECT * FROM a")).await;
    assert_eq!(anew.rows[&1], "[\"1\",7,null,0,null]");
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_queries_are_one_and_positions_beyond_reach_are_refused() {
    let setup = Setup::new().await;
    let named = |value: &str| Statement {
        sql: "SELECT id FROM a WHERE t = :t".to_owned(),
        params: Params::Named(vec![(":t".to_owned(), Value::text(value)), (":unknown".to_owned(), Value::Null)]),
    };
    let one = setup.subscriptions.subscribe(named("x"), AttachOptions::default()).await.unwrap();
    let two = setup.subscriptions.subscribe(named("x"), AttachOptions::default()).await.unwrap();
    let other = setup.subscriptions.subscribe(named("y"), AttachOptions::default()).await.unwrap();
    assert_eq!((one.id(), one.hash()), (two.id(), two.hash()));
    assert_ne!(one.id(), other.id());
    assert_eq!((setup.subscriptions.figures().queries, setup.subscriptions.figures().listeners), (2, 3));

    let from = |n| AttachOptions { from: Some(n), ..AttachOptions::default() };
    let mut beyond = setup.subscriptions.attach(one.id(), from(5)).await.unwrap();
    let line = String::from_utf8(beyond.next().await.unwrap().to_vec()).unwrap();
    assert!(line.contains("min change id: 0"), "{line}");
    assert_eq!(beyond.next().await, None);
    let nothing = setup.subscriptions.subscribe(named("z"), from(5)).await.unwrap_err();
    assert_eq!(nothing.to_string(), "there is no such subscription to continue: subscribe without `from`");
    setup.end().await;
}

/// Queries without end that nobody reads from: they hold every reader of the store until they are dropped.
async fn all_readers(store: &Store) -> Vec<Rows> {
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(store.query(statement(endless), None).await.unwrap());
    }
    held
}

/// Waits for a reader for as long as anybody does.
async fn wait_in_vain(store: &Store) {
    assert_eq!(store.read(|_| ()).await, Err(QueryError::Pool), "a reader was free");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_queries_outlast_slow_queries_that_hold_every_reader() {
    let setup = Setup::new().await;
    let mut replay = Replay::begin(&setup.subscriptions, statement("SELECT id FROM a")).await;
    let held = all_readers(&setup.store).await;
    setup.store.execute(vec![statement("INSERT INTO a (id) VALUES ('1')")], None).await.unwrap();
    let subscriptions = setup.subscriptions.clone();
    let mut beginning = std::pin::pin!(Replay::begin(&subscriptions, statement("SELECT x FROM a")));
    let in_vain = async {
        // Twice: when the second wait is over, so is that of every look which began during the first.
        wait_in_vain(&setup.store).await;
        wait_in_vain(&setup.store).await;
    };
    tokio::select! {
        _ = &mut beginning => panic!("it began without a reader"),
        () = in_vain => {}
    }
    drop(held);
    replay.until(&["[\"1\"]".to_owned()]).await;
    assert_eq!(beginning.await.rows[&1], "[0]");
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_skips_the_rows_is_answered_after_the_first_look_and_misses_no_write() {
    let setup = Setup::new().await;
    let held = all_readers(&setup.store).await;
    let subscriptions = setup.subscriptions.clone();
    let skip = AttachOptions { from: None, rows: SnapshotRows::Skipped };
    let mut subscribing = std::pin::pin!(subscriptions.subscribe(statement("SELECT id FROM a"), skip));
    tokio::select! {
        _ = &mut subscribing => panic!("answered before the query was looked at"),
        () = wait_in_vain(&setup.store) => {}
    }
    drop(held);
    let mut attached = subscribing.await.unwrap();
    setup.store.execute(vec![statement("INSERT INTO a (id) VALUES ('1')")], None).await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(20), attached.next()).await.expect("the write was not sent");
    assert_eq!(&event.unwrap()[..], b"{\"change\":[\"insert\",1,[\"1\"],1]}\n");
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_whose_first_look_fails_is_answered_with_the_reason() {
    let setup = Setup::new().await;
    let least = format!("INSERT INTO a (id, x) VALUES ('1', {})", i64::MIN);
    setup.store.execute(vec![statement(&least)], None).await.unwrap();
    let refused = setup.subscriptions.subscribe(statement("SELECT abs(x) FROM a"), AttachOptions::default()).await;
    assert_eq!(refused.unwrap_err().to_string(), "the query failed: integer overflow");
    assert_eq!(setup.subscriptions.figures().queries, 0);
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_without_end_does_not_outlive_its_server() {
    let setup = Setup::new().await;
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n, a";
    let subscriptions = setup.subscriptions.clone();
    let waiting = setup.tasks.spawn(async move {
        subscriptions.subscribe(statement(endless), AttachOptions::default()).await.map(|attached| attached.id())
    });
    let bound = std::time::Instant::now() + Duration::from_secs(20);
    while setup.subscriptions.figures().queries == 0 {
        assert!(std::time::Instant::now() < bound, "the query was not begun");
        tokio::task::yield_now().await;
    }
    let ended = tokio::time::timeout(Duration::from_secs(20), setup.end()).await;
    ended.expect("the query kept its reader, and with it the store");
    assert!(waiting.await.unwrap().is_err());
}
