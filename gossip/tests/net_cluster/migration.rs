//! A schema that grows under load: what was acknowledged stays, no reader sees half of it, and who follows a query misses
//! nothing or is told why its stream ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kith_gossip::DevAuthority;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::{BOUND, Node, cluster, dirs, eventually, one_digest};

const WRITERS: usize = 3;

/// Transactions that must be acknowledged for a load to have gone on.
const MORE: usize = 100;

/// Writes of these ids as the statements of one transaction.
type Write = fn(&str) -> Value;

/// A row of its own, and one number to three rows.
fn known(id: &str) -> Value {
    json!([
        ["INSERT INTO containers (id, ip) VALUES (?, 'own')", [id]],
        [
            "INSERT INTO containers (id, ip) VALUES ('all-0', ?1), ('all-1', ?1), ('all-2', ?1)
             ON CONFLICT (id) DO UPDATE SET ip = excluded.ip",
            [id]
        ],
    ])
}
const KNOWN_TORN: &str = "SELECT count(*) FROM containers WHERE id LIKE 'all-%' HAVING count(DISTINCT ip) > 1";

/// What others come to know later: a row of its own in a new table, and one number to it and to a new column.
const NEWER: [&str; 2] = [
    "CREATE TABLE novelties (id TEXT NOT NULL PRIMARY KEY, what TEXT)",
    "CREATE TABLE containers (id TEXT NOT NULL PRIMARY KEY, mood TEXT)",
];
fn novel(id: &str) -> Value {
    json!([
        ["INSERT INTO novelties (id, what) VALUES (?, 'own')", [id]],
        [
            "INSERT INTO novelties (id, what) VALUES ('latest', ?)
             ON CONFLICT (id) DO UPDATE SET what = excluded.what",
            [id]
        ],
        [
            "INSERT INTO containers (id, mood) VALUES ('moody', ?) ON CONFLICT (id) DO UPDATE SET mood = excluded.mood",
            [id]
        ],
    ])
}
const NOVEL_TORN: &str = "SELECT 1 WHERE (SELECT what FROM novelties WHERE id = 'latest')
                          IS NOT (SELECT mood FROM containers WHERE id = 'moody')";

/// Writers of a node that go on until they are stopped.
struct Load {
    stop: CancellationToken,
    acknowledged: watch::Sender<usize>,
    writers: JoinSet<BTreeSet<String>>,
}

impl Load {
    fn on(node: &Arc<Node>, name: &'static str, write: Write) -> Self {
        let (stop, acknowledged, mut writers) = (CancellationToken::new(), watch::Sender::new(0), JoinSet::new());
        for writer in 0..WRITERS {
            let (node, stop, acknowledged) = (Arc::clone(node), stop.clone(), acknowledged.clone());
            writers.spawn(async move {
                let mut ids = BTreeSet::new();
                while !stop.is_cancelled() {
                    let id = format!("{name}-{writer}-{}", ids.len());
                    node.post("/v1/transactions", &write(&id)).await;
                    ids.insert(id);
                    acknowledged.send_modify(|count| *count += 1);
                }
                ids
            });
        }
        Self { stop, acknowledged, writers }
    }

    async fn goes_on(&self) {
        let mut count = self.acknowledged.subscribe();
        let wanted = *count.borrow() + MORE;
        let reached = timeout(BOUND, count.wait_for(|count| *count >= wanted)).await.map(|reached| *reached.unwrap());
        reached.unwrap_or_else(|_| panic!("{MORE} more writes to {wanted} are not acknowledged within {BOUND:?}"));
    }

    /// The ids of all that was acknowledged.
    async fn stop(self) -> BTreeSet<String> {
        self.stop.cancel();
        self.writers.join_all().await.into_iter().flatten().collect()
    }
}

async fn rows(node: &Node, sql: &str) -> Vec<Value> {
    let lines = node.post("/v1/queries", &json!(sql)).await;
    let mut lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.pop().is_some_and(|last| last["eoq"].is_object()), "{sql}");
    lines.into_iter().skip(1).map(|mut line| line["row"][1].take()).collect()
}

/// What a client holds that follows a query, and checks that what it is told makes sense.
#[derive(Default)]
struct Mirror {
    rows: BTreeMap<u64, Value>,
    last: u64,
    ended: Option<String>,
}

impl Mirror {
    fn take(&mut self, line: &str) {
        let line: Value = serde_json::from_str(line).unwrap();
        let number = |value: &Value| value.as_u64().unwrap();
        if let Some(row) = line.get("row") {
            self.rows.insert(number(&row[0]), row[1].clone());
        } else if let Some(change) = line.get("change") {
            let (id, cells) = (number(&change[1]), change[2].clone());
            assert_eq!(number(&change[3]), self.last + 1, "a hole in front of {line}");
            self.last += 1;
            let was = match change[0].as_str() {
                Some("delete") => self.rows.remove(&id),
                _ => self.rows.insert(id, cells.clone()),
            };
            match change[0].as_str() {
                Some("insert") => assert_eq!(was, None, "{line}"),
                Some("update") => assert!(was.is_some_and(|was| was != cells), "{line}"),
                Some("delete") => assert_eq!(was, Some(cells), "{line}"),
                _ => panic!("{line}"),
            }
        } else if let Some(eoq) = line.get("eoq") {
            self.last = number(&eoq["change_id"]);
        } else if let Some(error) = line.get("error") {
            self.ended = Some(error.to_string());
        }
    }
}

/// Clients that look on until the load is over.
#[derive(Default)]
struct Watchers {
    over: CancellationToken,
    tasks: TaskTracker,
}

impl Watchers {
    /// Asks again and again for what nobody may see, until it was answered and there is no load any more: what names a table
    /// that is not there yet is refused.
    fn nobody_sees(&self, node: &Arc<Node>, torn: &'static str) -> JoinHandle<()> {
        let (node, over) = (Arc::clone(node), self.over.clone());
        self.tasks.spawn(async move {
            let mut answered = false;
            while !(over.is_cancelled() && answered) {
                let response = node.ask("/v1/queries", &json!(torn)).await;
                let (status, lines) = (response.status(), response.text().await.unwrap());
                if status == 200 {
                    assert!(lines.contains(r#""eoq""#) && !lines.contains(r#""row""#), "{torn}: {lines}");
                    answered = true;
                } else {
                    assert!(status == 400 && !answered && !over.is_cancelled(), "{torn}: {status} {lines}");
                }
            }
        })
    }

    /// Follows a query, begun anew wherever the stream ends, until there is no load any more and it holds what a query answers.
    /// Returns the reasons that streams ended with.
    fn follow(&self, node: &Arc<Node>, sql: &'static str) -> JoinHandle<Vec<String>> {
        let (node, over) = (Arc::clone(node), self.over.clone());
        self.tasks.spawn(async move {
            let mut reasons = Vec::new();
            loop {
                let (mut mirror, mut part) = (Mirror::default(), Vec::new());
                let mut stream = node.ask("/v1/subscriptions", &json!(sql)).await;
                assert_eq!(stream.status(), 200);
                let mut wanted = None;
                loop {
                    let held = || mirror.rows.values().map(ToString::to_string).collect::<BTreeSet<_>>();
                    if mirror.ended.is_none() && wanted.as_ref().is_some_and(|wanted| held() == *wanted) {
                        return reasons;
                    }
                    // Both are cancel-safe: what is not taken yet stays in the body.
                    let piece = tokio::select! {
                        () = over.cancelled(), if wanted.is_none() => {
                            wanted = Some(rows(&node, sql).await.iter().map(ToString::to_string).collect());
                            continue;
                        }
                        piece = timeout(BOUND, stream.chunk()) => piece,
                    };
                    let piece = piece.unwrap_or_else(|_| panic!("{sql} says no more, and is not {:?}", wanted));
                    let Some(piece) = piece.unwrap() else { break };
                    part.extend_from_slice(&piece);
                    while let Some(end) = part.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = part.drain(..=end).collect();
                        mirror.take(std::str::from_utf8(&line).unwrap());
                    }
                }
                reasons.push(mirror.ended.expect("a stream that ends says why"));
            }
        })
    }
}

/// All of these ids are there.
async fn holds(node: &Node, table: &str, ids: &BTreeSet<String>) {
    let held = rows(node, &format!("SELECT id FROM {table}")).await;
    let held: BTreeSet<_> = held.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect();
    let lost: Vec<_> = ids.difference(&held).collect();
    assert!(lost.is_empty(), "{} of {} that were acknowledged are not in {table}: {lost:?}", lost.len(), ids.len());
}

async fn is_sound(node: &Node) {
    let found: Value = serde_json::from_str(&node.get("/v1/verify").await).unwrap();
    assert_eq!(found["wrong"], json!([]), "{found}");
}

async fn end(nodes: Vec<Arc<Node>>) {
    for node in nodes {
        Arc::into_inner(node).expect("nobody else uses it any more").stop().await;
    }
}

const COLUMNS_CHANGED: &str = r#""the schema changed and with it the columns: subscribe again""#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_g7_a_schema_that_grows_under_load_loses_nothing_and_leaves_no_hole() {
    let (authority, dirs) = (DevAuthority::new("test").unwrap(), dirs::<1>());
    let nodes: Vec<_> = cluster(&authority, &dirs).await.into_iter().map(Arc::new).collect();
    let node = &nodes[0];
    let watchers = Watchers::default();
    let load = Load::on(node, "a", known);
    let reads = watchers.nobody_sees(node, KNOWN_TORN);
    let named = watchers.follow(node, "SELECT id, ip FROM containers");
    let all = watchers.follow(node, "SELECT * FROM containers");
    let grouped = watchers.follow(node, "SELECT ip, count(*) FROM containers GROUP BY ip");
    load.goes_on().await;
    for round in 0..5 {
        let newer = json!([
            format!("CREATE TABLE newer_{round} (id TEXT NOT NULL PRIMARY KEY, what TEXT)"),
            format!("CREATE TABLE containers (id TEXT NOT NULL PRIMARY KEY, newer_{round} TEXT)"),
        ]);
        node.post("/v1/migrations", &newer).await;
        // What was added can be used from then on.
        let rows = json!([
            format!("INSERT INTO newer_{round} VALUES ('x', 'y')"),
            format!("INSERT INTO containers (id, newer_{round}) VALUES ('with-newer-{round}', 'z')"),
        ]);
        node.post("/v1/transactions", &rows).await;
        load.goes_on().await;
    }
    let acknowledged = load.stop().await;
    watchers.over.cancel();
    assert_eq!(named.await.unwrap(), [] as [&str; 0], "its columns are not concerned");
    assert_eq!(grouped.await.unwrap(), [] as [&str; 0], "its columns are not concerned");
    let reasons = all.await.unwrap();
    assert!(!reasons.is_empty() && reasons.iter().all(|reason| reason == COLUMNS_CHANGED), "{reasons:?}");
    reads.await.unwrap();
    holds(node, "containers", &acknowledged).await;
    assert_eq!(rows(node, "SELECT newer_0 FROM containers WHERE newer_0 IS NOT NULL").await, [json!(["z"])]);
    is_sound(node).await;
    end(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_a_node_that_is_migrated_later_under_load_has_by_name_all_that_came_before() {
    let (authority, dirs) = (DevAuthority::new("test").unwrap(), dirs::<2>());
    let nodes: Vec<_> = cluster(&authority, &dirs).await.into_iter().map(Arc::new).collect();
    let (first, later) = (&nodes[0], &nodes[1]);
    let watchers = Watchers::default();
    let loads = [Load::on(first, "a", known), Load::on(later, "b", known)];
    let reads = [
        watchers.nobody_sees(first, KNOWN_TORN),
        watchers.nobody_sees(later, KNOWN_TORN),
        watchers.nobody_sees(first, NOVEL_TORN),
        watchers.nobody_sees(later, NOVEL_TORN),
    ];
    let named = [first, later].map(|node| watchers.follow(node, "SELECT id, ip FROM containers"));
    let all = watchers.follow(later, "SELECT * FROM containers");
    loads[0].goes_on().await;

    first.post("/v1/migrations", &json!(NEWER)).await;
    let novelties = Load::on(first, "n", novel);
    first.post("/v1/transactions", &json!(["INSERT INTO novelties VALUES ('gone', 'soon')"])).await;
    novelties.goes_on().await;
    let set_aside = async |node: &Arc<Node>| {
        let status: Value = serde_json::from_str(&node.get("/v1/status").await).unwrap();
        status["store"]["set_aside_cells"].as_u64().unwrap()
    };
    eventually(async || match set_aside(later).await {
        0 => Err("nothing is set aside"),
        _ => Ok(()),
    })
    .await;
    first.post("/v1/transactions", &json!(["DELETE FROM novelties WHERE id = 'gone'"])).await;
    loads[1].goes_on().await;
    later.post("/v1/migrations", &json!(NEWER)).await;
    novelties.goes_on().await;
    loads[1].goes_on().await;

    let known = loads.map(Load::stop);
    let novel = novelties.stop().await;
    let known: BTreeSet<_> = futures_util::future::join_all(known).await.into_iter().flatten().collect();
    one_digest(&nodes).await;
    watchers.over.cancel();
    for following in named {
        assert_eq!(following.await.unwrap(), [] as [&str; 0], "its columns are not concerned");
    }
    assert_eq!(all.await.unwrap(), [COLUMNS_CHANGED]);
    for read in reads {
        read.await.unwrap();
    }
    for node in &nodes {
        holds(node, "containers", &known).await;
        holds(node, "novelties", &novel).await;
        assert_eq!(rows(node, "SELECT id FROM novelties WHERE id = 'gone'").await, [] as [Value; 0]);
        assert_eq!(set_aside(node).await, 0);
        is_sound(node).await;
    }
    end(nodes).await;
}
