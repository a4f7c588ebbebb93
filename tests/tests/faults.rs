//! The promises while things break: five servers on links that are cut, lose, and heal.
//!
//! Each test is named after its promise. What it measured is printed; `scripts/soak faults` runs the same for as long as
//! the promises name, here they are short.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_tests::lab::{Api, Authority, Lab, Links, Node, agree, eventually};
use kith_tests::verify::lasts;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Rows that every transaction sets to one number: whoever sees two numbers has seen half a transaction.
const ROWS: usize = 5;

/// How long a link flaps.
const FLAPPING: Duration = Duration::from_secs(150);

/// For five nodes to find each other.
const TOGETHER: Duration = Duration::from_secs(40);

/// How long faults last: as promised with `KITH_FAULTS=long`, else long enough to be felt.
fn lasting(promised: Duration) -> Duration {
    if std::env::var_os("KITH_FAULTS").is_some_and(|value| value == "long") { promised } else { promised / 12 }
}

struct Five {
    nodes: Vec<Node>,
    links: Links,
    _lab: Lab,
}

impl Five {
    async fn up(test: &str) -> Option<Five> {
        let links = Links::up(test, 5)?;
        let lab = Lab::new("faults");
        let names = ["n1", "n2", "n3", "n4", "n5"];
        let mut nodes = lab.nodes_apart(&Authority::new("faults"), &names, &links);
        nodes.iter_mut().for_each(Node::launch);
        for node in &mut nodes {
            node.ready().await;
        }
        for node in &nodes {
            eventually(&format!("{} sees all five", node.name), TOGETHER, async || {
                let members = node.api().members_up().await?;
                if members == names { Ok(()) } else { Err(format!("{members:?}")) }
            })
            .await;
        }
        Some(Five { nodes, links, _lab: lab })
    }

    /// Writes on these nodes, and reads on all, for that long. Returns how often each was acknowledged.
    async fn write(&self, writers: &[usize], lasting: Duration) -> BTreeMap<String, u64> {
        let over = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for &at in writers {
            let (node, api, over) = (self.nodes[at].name.clone(), self.nodes[at].api().clone(), over.clone());
            tasks.spawn(async move { (node.clone(), writer(&node, &api, &over).await) });
        }
        let mut readers = JoinSet::new();
        for node in &self.nodes {
            let (name, api, over) = (node.name.clone(), node.api().clone(), over.clone());
            readers.spawn(async move { reader(&name, &api, &over).await });
        }
        // Only a reader that has seen half a transaction ends before its time.
        let early = tokio::time::timeout(lasting, readers.join_next()).await;
        over.cancel();
        if let Ok(Some(read)) = early {
            read.expect("a reader reads to the end");
        }
        readers.join_all().await;
        tasks.join_all().await.into_iter().collect()
    }

    /// That the fault was felt: these two do not hold the same.
    async fn differ(&self, one: usize, other: usize) {
        let digest = async |at: usize| self.nodes[at].api().digest().await.expect("a digest");
        assert_ne!(digest(one).await, digest(other).await, "the cut lets something through");
    }

    /// How long it takes from now until all nodes have one digest, each holding what was acknowledged.
    async fn converge(&self, within: Duration, acknowledged: &BTreeMap<String, u64>) -> Duration {
        let began = Instant::now();
        agree(&self.nodes, within).await;
        let took = began.elapsed();
        for node in &self.nodes {
            let rows = node.api().query("SELECT key, value FROM cluster_metadata").await.expect("rows");
            let held: BTreeMap<_, _> = rows.iter().map(|row| (text(&row[0]), text(&row[1]))).collect();
            for (writer, count) in acknowledged {
                for row in 0..ROWS {
                    let value = &held[&format!("{writer}-{row}")];
                    // One more may have been kept without having been acknowledged.
                    let kept = value.parse::<u64>().expect("a number");
                    assert!((*count..=count + 1).contains(&kept), "{} has {value} of {writer}, not {count}", node.name);
                }
            }
        }
        took
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Sets its rows to 1, 2, 3 … until it is over.
async fn writer(node: &str, api: &Api, over: &CancellationToken) -> u64 {
    let mut count = 0;
    while !over.is_cancelled() {
        let sql = "INSERT INTO cluster_metadata (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        let number = (count + 1).to_string();
        let statements: Vec<_> = (0..ROWS).map(|row| json!([sql, [format!("{node}-{row}"), number]])).collect();
        let reply = api.post("/v1/transactions", &json!(statements)).await.expect("a node answers its own host");
        assert_eq!(reply.status, 200, "{node}: {}", reply.body);
        count += 1;
    }
    count
}

/// Every transaction wrote one number to all of its rows.
async fn reader(node: &str, api: &Api, over: &CancellationToken) {
    let sql = "SELECT substr(key, 1, 2), count(DISTINCT value), count(*) FROM cluster_metadata GROUP BY 1";
    while !over.is_cancelled() {
        for row in api.query(sql).await.expect("a node answers its own host") {
            assert_eq!((&row[1], &row[2]), (&json!(1), &json!(ROWS)), "{node} sees half a transaction: {row}");
        }
    }
}

#[tokio::test]
async fn g1_two_sides_of_a_partition_are_equal_seconds_after_it_heals() {
    let Some(five) = Five::up("g1_two_sides_of_a_partition_are_equal_seconds_after_it_heals").await else { return };
    let apart = lasting(Duration::from_secs(60));
    five.links.cut("1,2", "3-5");
    let acknowledged = five.write(&[0, 1, 2, 3, 4], apart).await;
    five.differ(0, 4).await;
    five.links.heal();
    let took = five.converge(Duration::from_secs(10), &acknowledged).await;
    eprintln!("partition 2|3 of {apart:?} under writes: {acknowledged:?}, equal digests {took:?} after it healed");
}

#[tokio::test]
async fn g1_a_partition_heals_also_on_links_that_lose_a_tenth() {
    let Some(five) = Five::up("g1_a_partition_heals_also_on_links_that_lose_a_tenth").await else { return };
    let apart = lasting(Duration::from_secs(60));
    five.links.lose(10);
    five.links.cut("1,2", "3-5");
    let acknowledged = five.write(&[0, 1, 2, 3, 4], apart).await;
    five.differ(0, 4).await;
    five.links.heal();
    five.links.lose(10);
    let took = five.converge(Duration::from_secs(20), &acknowledged).await;
    eprintln!("partition of {apart:?} under writes and 10 % loss: {acknowledged:?}, equal digests {took:?} after");
}

#[tokio::test]
async fn g1_who_was_cut_off_during_many_changes_has_them_soon_after() {
    let Some(five) = Five::up("g1_who_was_cut_off_during_many_changes_has_them_soon_after").await else { return };
    five.links.cut("5", "1-4");
    let changes = if lasting(Duration::from_secs(12)) > Duration::from_secs(1) { 10_000 } else { 1_000 };
    let api = Arc::new(five.nodes[0].api().clone());
    let mut tasks = JoinSet::new();
    for writer in 0..10 {
        let api = Arc::clone(&api);
        tasks.spawn(async move {
            for n in 0..changes / 10 {
                let sql = "INSERT INTO cluster_metadata (key, value) VALUES (?, ?)";
                api.execute(sql, &json!([format!("s-{writer}-{n}"), "x"])).await.expect("acknowledged");
            }
        });
    }
    tasks.join_all().await;
    five.differ(0, 4).await;
    five.links.heal();
    let took = five.converge(Duration::from_secs(30), &BTreeMap::new()).await;
    let rows =
        five.nodes[4].api().query("SELECT count(*) FROM cluster_metadata WHERE key LIKE 's-%'").await.expect("rows");
    assert_eq!(rows, [json!([changes])]);
    eprintln!("one node cut off during {changes} changes: equal digests {took:?} after it healed");
}

#[tokio::test]
async fn g1_what_only_one_direction_carries_is_enough_to_stay_whole() {
    let Some(five) = Five::up("g1_what_only_one_direction_carries_is_enough_to_stay_whole").await else { return };
    // Neither hears the other, nor can a handshake end; both are joined by the rest.
    five.links.cut_one_way("1", "2");
    let acknowledged = five.write(&[0, 1], lasting(Duration::from_secs(60))).await;
    let took = five.converge(Duration::from_secs(20), &acknowledged).await;
    eprintln!("one way cut between two of five under writes: equal digests {took:?} after the last write");
}

#[tokio::test]
async fn g1_a_link_that_flaps_keeps_nobody_apart() {
    let Some(five) = Five::up("g1_a_link_that_flaps_keeps_nobody_apart").await else { return };
    let flapping = async {
        let until = Instant::now() + lasting(FLAPPING);
        while Instant::now() < until {
            five.links.cut("1", "2-5");
            lasts(Duration::from_secs(2)).await;
            five.links.heal();
            lasts(Duration::from_secs(2)).await;
        }
    };
    let (acknowledged, ()) = tokio::join!(five.write(&[0, 1], lasting(FLAPPING)), flapping);
    let took = five.converge(Duration::from_secs(10), &acknowledged).await;
    eprintln!("a link that is cut for 2 s of 4, under writes: {acknowledged:?}, equal digests {took:?} after");
}
