//! What another node holds: ended by it, known at the start, and waited for at the end.

use kith_presence::{Nats, Writes};
use serde_json::json;

use super::servers::{NatsServer, binary};
use super::wire::{ask, ask_with, config, put, shown, token, until};
use super::{Cluster, Running};

#[tokio::test]
async fn a_delete_with_if_match_takes_effect_on_all_nodes_and_is_not_refused_after_that() {
    let test = "a_delete_with_if_match_takes_effect_on_all_nodes_and_is_not_refused_after_that";
    let Some(cluster) = Cluster::start(test).await else { return };
    for (leaf, session) in [(1, "phone"), (2, "desk")] {
        let body = format!(r#"{{"status":"online","session":"{session}"}}"#);
        assert_eq!(put(cluster.addr(leaf), "ann", &body).await.status, 200);
    }
    let path = "/api/v2/presence/ann?sessions=1";
    until("the leaf knows both sessions", async || {
        let answer = ask(cluster.addr(2), "GET", path, None, "").await;
        answer.json()["data"]["ann"]["sessions"].as_array().is_some_and(|sessions| sessions.len() == 2)
    })
    .await;
    let tag = ask(cluster.addr(2), "GET", path, None, "").await.header("etag").expect("a tag").to_owned();
    let ann = token("ann", Writes::Own);
    let delete = async |tag: &str| {
        let line = format!("if-match: {tag}\r\n");
        ask_with(cluster.addr(2), "DELETE", "/api/v2/presence/ann", Some(&ann), &line, "").await
    };
    let refused = delete("\"0000000000000001\"").await;
    assert_eq!(refused.status, 412, "{refused:?}");
    for leaf in [1, 2] {
        assert_eq!(shown(cluster.addr(leaf), "ann").await, "online", "a refused one ends nothing");
    }
    let gone = delete(&tag).await;
    assert_eq!((gone.status, &gone.json()["data"]["ann"]["status"]), (200, &"offline".into()), "{gone:?}");
    cluster.all_show("ann", "offline").await;
}

/// The bucket may be one that is being filled: it holds somebody, and not everybody.
#[tokio::test]
async fn a_node_whose_center_keeps_little_hears_the_others_before_it_answers() {
    let Some(binary) = binary("a_node_whose_center_keeps_little_hears_the_others_before_it_answers") else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(&binary, dir.path(), "center", None);
    let Nats::Server(mut elsewhere) = server.nats() else { unreachable!() };
    // It copies to nobody.
    elsewhere.domain = "nowhere".to_owned();
    let other = Running::start(config(dir.path(), "other", Nats::Server(elsewhere.clone()))).await.ready().await;
    assert_eq!(put(other.addr, "bob", r#"{"status":"busy"}"#).await.status, 200);
    let client = async_nats::connect(elsewhere.url).await.unwrap();
    let bucket = async_nats::jetstream::with_domain(client, "center");
    let kept = async_nats::jetstream::kv::Config { bucket: "presence".to_owned(), ..Default::default() };
    let bucket = bucket.create_key_value(kept).await.unwrap();
    let session =
        json!({"session": ["default", {"v": [1, 1], "life": "live", "status": "online", "ttl": 60, "at": 1}]});
    bucket.put("s.YW5u.gone.ZGVmYXVsdA", session.to_string().into()).await.unwrap();
    let node = Running::start(config(dir.path(), "one", server.nats())).await.ready().await;
    assert_eq!(shown(node.addr, "bob").await, "busy", "as soon as it answers at all");
    assert_eq!(shown(node.addr, "ann").await, "online stale", "whom only the center knows");
    node.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_write_while_the_node_stops_is_answered_and_it_stops_in_time() {
    let test = "who_waits_for_a_write_while_the_node_stops_is_answered_and_it_stops_in_time";
    let Some(binary) = binary(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(&binary, dir.path(), "center", None);
    let node = Running::start(config(dir.path(), "center", server.nats())).await.ready().await;
    assert_eq!(put(node.addr, "ann", r#"{"status":"online"}"#).await.status, 200);
    // It hangs: what is written from here on is neither kept nor refused.
    server.signal("STOP");
    let addr = node.addr;
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..20 {
        waiting.spawn(async move { put(addr, &format!("u{n}"), r#"{"status":"busy"}"#).await });
    }
    // One batch is under way, and the rest is asked for.
    until("they wait", async || {
        let metrics = ask(addr, "GET", "/metrics", None, "").await.body;
        metrics
            .lines()
            .any(|line| line.strip_prefix("presence_connections ").is_some_and(|n| n.parse::<u32>().unwrap() > 20))
    })
    .await;
    // Within a bound: the server never answers.
    node.stop().await;
    while let Some(answer) = waiting.join_next().await {
        let answer = answer.expect("an answer, and no connection that is cut off");
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    }
    server.signal("CONT");
}
