//! What else is promised of a live query, case by case.

use std::collections::BTreeSet;
use std::time::Duration;

use kith_gossip::store::{Params, QueryError, Rows, SchemaSource, Statement, Store};
use kith_gossip::subscriptions::{AttachOptions, SnapshotRows};
use kith_gossip_proto::Value;

use crate::replay::{Replay, Setup, answer};

const SCHEMA: &str = "
CREATE TABLE a (id TEXT NOT NULL PRIMARY KEY, x INTEGER NOT NULL DEFAULT 0, t TEXT, hidden INTEGER NOT NULL DEFAULT 0);
CREATE TABLE b (k TEXT NOT NULL, n INTEGER NOT NULL, a_id TEXT NOT NULL DEFAULT '', v REAL, PRIMARY KEY (k, n));
";

fn statement(sql: &str) -> Statement {
    Statement::new(sql)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reader_sees_half_a_transaction() {
    let setup = Setup::new(SCHEMA).await;
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

/// While a query is looked at for a row, a commit may change that row and another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_overtakes_a_look_is_seen_whole() {
    let setup = Setup::new(SCHEMA).await;
    let run = async |sql: &str| drop(setup.store.execute(sql.split(';').map(statement).collect(), None).await.unwrap());
    run("INSERT INTO a (id) VALUES ('debit'), ('credit'); INSERT INTO b (k, n, a_id) VALUES ('d', 1, 'debit'), ('c', 1, 'credit')").await;
    let queries = ["SELECT id, t, x FROM a", "SELECT b.k, a.t, a.x FROM a LEFT JOIN b ON b.a_id = a.id"];
    for sql in queries {
        let mut replay = Replay::begin(&setup.subscriptions, statement(sql)).await;
        let writing = async {
            // So far apart that each first commit is looked at at once.
            let mut paces = tokio::time::interval(Duration::from_millis(4));
            for n in 1..=300 {
                paces.tick().await;
                run(&format!("UPDATE a SET t = '{n}' WHERE id = 'debit'")).await;
                run("UPDATE a SET x = x - 1 WHERE id = 'debit'; UPDATE a SET x = x + 1 WHERE id = 'credit'").await;
            }
            run("UPDATE a SET t = 'end' WHERE id = 'debit'").await;
        };
        let reading = async {
            while !replay.rows.values().any(|cells| cells.contains("end")) {
                replay.read().await;
                let balance =
                    |cells: &String| cells.trim_matches(['[', ']']).rsplit(',').next().unwrap().parse::<i64>().unwrap();
                assert_eq!(replay.rows.values().map(balance).sum::<i64>(), 0, "{sql}: {:?}", replay.rows);
            }
        };
        tokio::join!(writing, reading);
    }
    setup.end().await;
}

/// What joins rows without being named, and what drops them from afar.
#[tokio::test(flavor = "multi_thread")]
async fn joins_are_followed_whatever_they_compare() {
    let schema = "CREATE TABLE a (id INTEGER NOT NULL PRIMARY KEY, x INTEGER, y INTEGER);
        CREATE TABLE b (bid INTEGER NOT NULL PRIMARY KEY, x INTEGER);
        CREATE TABLE c (cid INTEGER NOT NULL PRIMARY KEY, x INTEGER);";
    let setup = Setup::new(schema).await;
    let mut replays = Vec::new();
    for sql in [
        "SELECT a.id, b.bid FROM a JOIN b USING (x)",
        "SELECT id FROM a NATURAL JOIN b",
        "SELECT id, bid FROM a NATURAL LEFT JOIN b",
        "SELECT id FROM a WHERE id IN (SELECT bid FROM b JOIN c USING (x))",
        "SELECT id FROM a JOIN b ON b.x = a.x AND c.cid IS NULL LEFT JOIN c ON c.x = a.x",
    ] {
        replays.push(Replay::begin(&setup.subscriptions, statement(sql)).await);
    }
    for sql in [
        "INSERT INTO a (id, x) VALUES (1, 1), (2, 2)",
        "INSERT INTO b VALUES (1, 1), (2, 9)",
        "UPDATE b SET x = 2 WHERE bid = 2",
        "INSERT INTO c VALUES (1, 1)",
        "UPDATE c SET x = 2",
        "UPDATE a SET x = 9 WHERE id = 2",
        "DELETE FROM c",
        "UPDATE b SET x = 7",
    ] {
        setup.store.execute(vec![statement(sql)], None).await.unwrap();
        for replay in &mut replays {
            replay.until(&answer(&setup.store, replay.statement.clone()).await).await;
        }
    }
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_query_that_is_run_again_whole_is_run_ten_times_a_second_at_most_and_ends_right() {
    const COMMITS: u32 = 200;
    let setup = Setup::new(SCHEMA).await;
    let sum = statement("SELECT count(*), sum(x) FROM a");
    let mut replay = Replay::begin(&setup.subscriptions, sum.clone()).await;
    let (before, began) = (setup.subscriptions.figures().looks, std::time::Instant::now());
    let mut paces = tokio::time::interval(Duration::from_millis(2));
    for n in 0..COMMITS {
        paces.tick().await;
        setup
            .store
            .execute(vec![statement(&format!("INSERT INTO a (id, x) VALUES ('{n}', {n})"))], None)
            .await
            .unwrap();
    }
    replay.until(&answer(&setup.store, sum).await).await;
    let looks = u128::from(setup.subscriptions.figures().looks - before);
    // The first change is looked at at once, each look after it 100 ms later at the earliest.
    let most = 1 + began.elapsed().as_millis() / 100;
    assert!((1..=most).contains(&looks), "{looks} looks in {:?} for {COMMITS} commits", began.elapsed());
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_cannot_be_followed_is_refused() {
    let setup = Setup::new(SCHEMA).await;
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
    let setup = Setup::new(SCHEMA).await;
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
    let setup = Setup::new(SCHEMA).await;
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
    let setup = Setup::new(SCHEMA).await;
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
    let setup = Setup::new(SCHEMA).await;
    let held = all_readers(&setup.store).await;
    let subscriptions = setup.subscriptions.clone();
    let skip = AttachOptions { from: None, rows: SnapshotRows::Skipped, ..AttachOptions::default() };
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
    let setup = Setup::new(SCHEMA).await;
    let least = format!("INSERT INTO a (id, x) VALUES ('1', {})", i64::MIN);
    setup.store.execute(vec![statement(&least)], None).await.unwrap();
    let refused = setup.subscriptions.subscribe(statement("SELECT abs(x) FROM a"), AttachOptions::default()).await;
    assert_eq!(refused.unwrap_err().to_string(), "the query failed: integer overflow");
    assert_eq!(setup.subscriptions.figures().queries, 0);
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_without_end_does_not_outlive_its_server() {
    let setup = Setup::new(SCHEMA).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_looked_at_by_the_queries_whose_value_it_leaves_or_enters() {
    let setup = Setup::new(SCHEMA).await;
    let mut replays = Vec::new();
    for x in 0..10 {
        let by_number = Statement::with("SELECT id, t FROM a WHERE x = ?", [Value::Integer(x)]);
        replays.push(Replay::begin(&setup.subscriptions, by_number).await);
        let by_text = statement(&format!("SELECT a.id, b.v FROM a LEFT JOIN b ON b.a_id = a.id WHERE a.t = 't{x}'"));
        replays.push(Replay::begin(&setup.subscriptions, by_text).await);
    }
    let mut looks = Vec::new();
    for sql in [
        "INSERT INTO a (id, x, t) VALUES ('1', 3, 't4')",
        "UPDATE a SET x = 5",
        "UPDATE a SET hidden = 1",
        "INSERT INTO a (id, x, t) VALUES ('2', 77, 'T4')",
        "DELETE FROM a",
    ] {
        let before = setup.subscriptions.figures().looks;
        setup.store.execute(vec![statement(sql)], None).await.unwrap();
        for replay in &mut replays {
            let answer = answer(&setup.store, replay.statement.clone()).await;
            replay.until(&answer).await;
        }
        looks.push(setup.subscriptions.figures().looks - before);
    }
    // x = 3 and t = 't4'; x = 3 and x = 5, as the joined query does not read x beside its own condition; nobody; nobody; both.
    assert_eq!(looks, [2, 2, 0, 0, 2]);
    setup.end().await;
}
