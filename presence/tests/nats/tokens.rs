//! The operations over NATS: the same payloads as over HTTP, and the same tokens.

use async_nats::{Client, HeaderMap, HeaderValue};
use kith_presence::Writes;
use serde_json::Value;

use super::servers::NatsServer;
use super::wire::{bad_tokens, put, shown, token};
use super::{Cluster, NAMES};

async fn client(server: &NatsServer) -> Client {
    let kith_presence::Nats::Server(server) = server.nats() else { unreachable!() };
    async_nats::connect(server.url).await.unwrap()
}

/// Asks with a token. The answer, and the status in its headers; 200 if there is none.
async fn ask(client: &Client, subject: &str, token: Option<&str>, body: &str) -> (u16, Value) {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert("Authorization", format!("Bearer {token}"));
    }
    let answer = client.request_with_headers(subject.to_owned(), headers, body.to_owned().into()).await.unwrap();
    let code = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
    let json = serde_json::from_slice(&answer.payload).unwrap();
    (code.map_or(200, |code: &HeaderValue| code.as_str().parse().unwrap()), json)
}

#[tokio::test]
async fn the_operations_are_a_micro_service_too() {
    let Some(cluster) = Cluster::start("the_operations_are_a_micro_service_too").await else { return };
    let client = client(&cluster.servers[2]).await;
    let (ann, bob) = (token("ann", Writes::Own), token("bob", Writes::Own));
    let body = r#"{"user_id":"ann","status":"busy","ttl":30}"#;
    let (status, json) = ask(&client, "presence.v2.put", Some(&ann), body).await;
    assert_eq!((status, &json["success"], &json["data"]["ann"]["status"]), (200, &true.into(), &"busy".into()));
    cluster.all_show("ann", "busy").await;
    let (_, json) = ask(&client, "presence.v2.get", None, r#"{"user_id":"ann"}"#).await;
    assert_eq!(json["data"]["ann"]["status"], "busy");
    let (_, json) = ask(&client, "presence.v2.batch", None, r#"{"user_ids":["ann","bob"]}"#).await;
    assert_eq!((&json["data"]["ann"]["status"], &json["data"]["bob"]["status"]), (&"busy".into(), &"offline".into()));
    let beat = r#"{"sessions":[{"user_id":"ann"}]}"#;
    let (status, json) = ask(&client, "presence.v2.heartbeat", Some(&ann), beat).await;
    assert_eq!((status, &json["success"]), (200, &true.into()));
    for (subject, token, body, wanted) in [
        ("put", None, body, 401),
        ("put", Some(&bob), body, 403),
        ("put", Some(&ann), r#"{"user_id":"ann","status":"asleep"}"#, 400),
        ("put", Some(&ann), "{", 400),
        ("get", None, r#"{"user_id":""}"#, 400),
        ("batch", None, r#"{"user_ids":[]}"#, 400),
        ("delete", None, r#"{"user_id":"ann"}"#, 401),
        ("delete", Some(&bob), r#"{"user_id":"ann"}"#, 403),
        ("heartbeat", None, beat, 401),
        ("heartbeat", Some(&bob), beat, 403),
    ] {
        let (status, json) = ask(&client, &format!("presence.v2.{subject}"), token.map(String::as_str), body).await;
        assert_eq!((status, &json["success"]), (wanted, &false.into()), "{subject} {body}: {json}");
        assert!(json["error"].is_string(), "{subject} {body}: {json}");
    }
    let (status, json) = ask(&client, "presence.v2.delete", Some(&ann), r#"{"user_id":"ann"}"#).await;
    assert_eq!((status, &json["data"]["ann"]["status"]), (200, &"offline".into()));
    cluster.all_show("ann", "offline").await;
}

#[tokio::test]
async fn nobody_ends_a_session_over_nats_without_a_token_for_it() {
    let Some(cluster) = Cluster::start("nobody_ends_a_session_over_nats_without_a_token_for_it").await else { return };
    let client = client(&cluster.servers[2]).await;
    assert_eq!(put(cluster.addr(1), "ann", r#"{"status":"busy"}"#).await.status, 200);
    cluster.all_show("ann", "busy").await;
    let body = r#"{"user_id":"ann"}"#;
    for subject in ["presence.v2.delete", "presence.end.one"] {
        for (what, bad) in bad_tokens("ann") {
            let (status, json) = ask(&client, subject, Some(&bad), body).await;
            assert_eq!((status, &json["success"]), (401, &false.into()), "{subject}, {what}: {json}");
        }
        let (status, _) = ask(&client, subject, None, body).await;
        assert_eq!(status, 401, "{subject}");
        let (status, _) = ask(&client, subject, Some(&token("bob", Writes::Own)), body).await;
        assert_eq!(status, 403, "{subject}");
    }
    for (at, name) in NAMES.iter().enumerate() {
        assert_eq!(shown(cluster.addr(at), "ann").await, "busy", "{name}");
    }
    let (status, json) = ask(&client, "presence.end.one", Some(&token("ann", Writes::Own)), body).await;
    assert_eq!((status, &json["success"]), (200, &true.into()), "{json}");
    cluster.all_show("ann", "offline").await;
}
