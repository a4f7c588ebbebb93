//! A node that an operator has removed.

use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually};

#[tokio::test]
async fn a_removed_node_is_shut_out_told_why_and_can_come_back() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    let two = cluster.node("two", &[one.gossip]).await;
    let three = cluster.node("three", &[one.gossip]).await;
    two.execute("INSERT INTO cluster_metadata (key, value) VALUES ('before', '1')").await;
    for node in [&one, &three] {
        node.says("SELECT value FROM cluster_metadata WHERE key = 'before'", &json!("1")).await;
    }
    one.execute("INSERT INTO servers (id, removed_at) VALUES ('two', 1) ON CONFLICT DO UPDATE SET removed_at = 1")
        .await;
    assert!(two.alarm("removed").await.contains("removed from the cluster"));
    for node in [&one, &three] {
        eventually(async || {
            let refused = node.counts("gossip_refusals_removed_total").await;
            if refused > 0 { Ok(()) } else { Err(refused) }
        })
        .await;
    }
    // What it writes stays with it, for as long as it is removed; to the others goes what they write.
    two.execute("INSERT INTO cluster_metadata (key, value) VALUES ('during', '1')").await;
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('among us', '1')").await;
    three.says("SELECT value FROM cluster_metadata WHERE key = 'among us'", &json!("1")).await;
    assert_eq!(two.first("SELECT value FROM cluster_metadata WHERE key = 'among us'").await, Value::Null);
    for node in [&one, &three] {
        assert_eq!(node.first("SELECT value FROM cluster_metadata WHERE key = 'during'").await, Value::Null);
    }
    one.execute("UPDATE servers SET removed_at = NULL WHERE id = 'two'").await;
    for node in [&one, &three] {
        node.says("SELECT value FROM cluster_metadata WHERE key = 'during'", &json!("1")).await;
    }
    two.says("SELECT removed_at FROM servers WHERE id = 'two'", &Value::Null).await;
    for node in [one, two, three] {
        node.stop().await;
    }
}
