//! Certificates near their end, and after it.

use serde_json::json;

use crate::cluster::{Cluster, DAY, Node, config, eventually, id};

#[tokio::test]
async fn a_certificate_is_renewed_before_its_end_without_a_new_connection() {
    let cluster = Cluster::found();
    let identity = cluster.authority.issue(&id("two")).unwrap();
    cluster.wall.forward(61 * DAY);
    let one = cluster.founder().await;
    let two = Node::start(config(identity.clone(), cluster.dir.path(), &[one.gossip])).await;
    eventually(async || {
        let days = two.status().await["certificate"]["days_left"].as_u64();
        if days == Some(89) { Ok(()) } else { Err(days) }
    })
    .await;
    assert_eq!(two.status().await["alarms"], json!([]));
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('n', '1')").await;
    two.says("SELECT value FROM cluster_metadata WHERE key = 'n'", &json!("1")).await;
    assert_eq!(two.counts("gossip_connections_total").await, 1);
    assert_eq!((two.counts("gossip_renewals_total").await, one.counts("gossip_renewals_given_total").await), (1, 1));
    // The renewed one is shown from here on: by day 100 the first would be over.
    one.stop().await;
    two.stop().await;
    cluster.wall.forward(39 * DAY);
    let one = cluster.founder().await;
    let two = Node::start(config(identity, cluster.dir.path(), &[one.gossip])).await;
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('m', '1')").await;
    two.says("SELECT value FROM cluster_metadata WHERE key = 'm'", &json!("1")).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_renewed_is_alarmed_until_it_can() {
    let cluster = Cluster::found();
    let [first, identity] = ["one", "two"].map(|name| cluster.authority.issue(&id(name)).unwrap());
    let mut days = 0;
    for (day, said) in [(61, "ends in 28 days"), (84, "ends in 5 days"), (89, "less than a day"), (91, "is over")] {
        cluster.wall.forward((day - days) * DAY);
        days = day;
        let two = Node::start(config(identity.clone(), cluster.dir.path(), &[])).await;
        let text = two.alarm("certificate").await;
        assert!(text.contains(said), "after {day} days: {text}");
        assert!(two.counts("gossip_renewals_failed_total").await > 0);
        two.stop().await;
    }
    // The same age, and with the authority's key: that node renews itself, whatever the time away.
    let one = cluster.founder_as(first).await;
    eventually(async || {
        let days = one.status().await["certificate"]["days_left"].as_u64();
        if days == Some(89) { Ok(()) } else { Err(days) }
    })
    .await;
    assert_eq!(one.status().await["alarms"], json!([]));
    one.stop().await;
}

#[tokio::test]
async fn the_end_of_a_certificate_cuts_nothing_and_lets_nobody_connect_anew() {
    let cluster = Cluster::found();
    let identity = cluster.authority.issue(&id("two")).unwrap();
    let one = cluster.founder().await;
    let two = Node::start(config(identity.clone(), cluster.dir.path(), &[one.gossip])).await;
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('n', '1')").await;
    two.says("SELECT value FROM cluster_metadata WHERE key = 'n'", &json!("1")).await;
    cluster.wall.forward(91 * DAY);
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('m', '1')").await;
    two.says("SELECT value FROM cluster_metadata WHERE key = 'm'", &json!("1")).await;
    assert_eq!(two.counts("gossip_connections_total").await, 1);
    // One that has a certificate of today does not believe one that is over, and says so; neither way round.
    let three = cluster.node("three", &[two.gossip]).await;
    eventually(async || {
        let refused = three.counts("gossip_refusals_not_in_force_total").await;
        if refused > 0 { Ok(()) } else { Err(refused) }
    })
    .await;
    let said = three.status().await["refusals"][two.gossip.to_string()].clone();
    assert_eq!(said, json!({ "by": "us", "why": "not_in_force" }));
    two.stop().await;
    let two = Node::start(config(identity, cluster.dir.path(), &[three.gossip])).await;
    assert!(two.alarm("certificate").await.contains("is over"));
    assert_eq!(
        (two.counts("alarms{alarm=\"certificate\"}").await, two.counts("certificate_left_seconds").await),
        (1, 0)
    );
    eventually(async || {
        let refused = two.counts("gossip_refusals_not_in_force_total").await;
        if refused > 0 { Ok(()) } else { Err(refused) }
    })
    .await;
    for node in [one, two, three] {
        node.stop().await;
    }
}
