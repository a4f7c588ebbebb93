//! Joining by a token: what lets a node in, and what does not.

use std::time::{Duration, SystemTime};

use kith_gossip::identity::{Clock, Identity, JoinError, NewKey, Token, join};
use serde_json::json;

use crate::cluster::{Cluster, DAY, LOOPBACK, Node, config, eventually, id};

#[tokio::test]
async fn a_token_brings_a_node_in_with_its_number_and_nobody_sees_its_key() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    one.says("SELECT subnet FROM servers WHERE id = 'one'", &json!("10.210.1.0/24")).await;
    let token = cluster.invite("two", one.gossip);
    let (grant, key) = cluster.join(&token).await.unwrap();
    assert_eq!((grant.cluster.as_str(), grant.cidr.as_str()), ("test", "10.210.0.0/16"));
    assert_eq!(grant.seeds, [one.gossip.to_string()]);
    one.says("SELECT hostname FROM servers WHERE id = 'two'", &json!("host")).await;

    let dir = cluster.dir.path();
    let files = ["ca.pem", "node.pem", "node.key"].map(|name| dir.join(name));
    for (file, text) in files.iter().zip([&grant.authority, &grant.certificate, &key.pem()]) {
        kith_gossip::identity::write_new(file, text.as_bytes()).unwrap();
    }
    let identity = Identity::from_files(&files[0], &files[1], &files[2]).unwrap();
    let two = Node::start(config(identity, dir, &[one.gossip])).await;
    one.execute("INSERT INTO cluster_metadata (key, value) VALUES ('a', 'b')").await;
    two.says("SELECT value FROM cluster_metadata WHERE key = 'a'", &json!("b")).await;
    eventually(async || {
        let peer = one.status().await["replication"]["peers"]["two"].clone();
        let apart = ["behind", "ahead", "queued_bytes"].map(|figure| peer[figure].clone());
        if apart == [json!(0), json!(0), json!(0)] { Ok(()) } else { Err(peer) }
    })
    .await;
    assert_eq!((one.counts("gossip_joins_total").await, one.counts("gossip_joins_refused_total").await), (1, 0));
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn g16_a_token_that_is_used_late_or_by_another_name_is_refused_on_both_sides() {
    let cluster = Cluster::found();
    let one = cluster.founder().await;
    let refused = |token: Token| {
        let cluster = &cluster;
        async move {
            match cluster.join(&token).await.map(|_| ()) {
                Err(JoinError::Refused(reason)) => reason,
                other => panic!("{other:?}"),
            }
        }
    };
    let token = cluster.invite("two", one.gossip);
    let other = Token { node: id("three"), ..token.clone() };
    assert!(refused(other).await.contains("is for two"));
    cluster.join(&token).await.unwrap();
    assert!(refused(token).await.contains("used already"));
    let late = cluster.invite("late", one.gossip);
    cluster.wall.forward(Duration::from_secs(16 * 60));
    assert!(refused(late).await.contains("expired"));
    let gone = cluster.invite("gone", one.gossip);
    one.execute("INSERT INTO servers (id, removed_at) VALUES ('gone', 1)").await;
    assert!(refused(gone).await.contains("kith server remove gone --undo"));
    assert_eq!(one.counts("gossip_joins_refused_total").await, 4);
    // Ten attempts a minute: six are left.
    let token = cluster.invite("four", one.gossip);
    let wrong = Token { node: id("five"), ..token.clone() };
    for _ in 0..5 {
        assert!(refused(wrong.clone()).await.contains("is for four"));
    }
    assert!(refused(wrong).await.contains("too many attempts"));
    one.stop().await;
}

#[tokio::test]
async fn a_newcomer_believes_no_other_authority_and_no_clock_far_off() {
    let (cluster, other) = (Cluster::found(), Cluster::found());
    let (one, two) = (cluster.founder().await, cluster.node("two", &[]).await);
    // The right token at somebody else's door: what it holds is not shown there.
    let stranger = other.founder().await;
    let token = cluster.invite("new", stranger.gossip);
    let error = cluster.join(&token).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, JoinError::OtherAuthority { .. }), "{error}");
    // A node of ours that has not the authority's key, and nobody at all.
    let nowhere = std::net::UdpSocket::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let token = Token { addresses: vec![two.gossip.to_string()], ..token };
    let error = cluster.join(&token).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("the authority's key is not there"), "{error}");
    // The next address is tried; a clock that is behind has the token left for later.
    let token = Token { addresses: vec![nowhere.to_string(), one.gossip.to_string()], ..token };
    let key = NewKey::generate().unwrap();
    let slow = Clock::turned(|| SystemTime::now() - Duration::from_secs(200));
    let wall = cluster.wall.clone();
    wall.forward(Duration::from_secs(200));
    let error = join(&token, &key, "", &slow).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("s behind ours"), "{error}");
    let ancient = Clock::turned(|| SystemTime::now() - 30 * DAY);
    let error = join(&token, &key, "", &ancient).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, JoinError::Clock { .. }), "{error}");
    cluster.join(&token).await.unwrap();
    for node in [one, two, stranger] {
        node.stop().await;
    }
}
