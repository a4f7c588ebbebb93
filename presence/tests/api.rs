//! The HTTP API of a single node: every row of its table, success and error, in the envelope.

#![allow(clippy::unwrap_used, reason = "a test's functions are tests as well")]

mod wire;

use kith_presence::{Nats, Page, Rates, Writes};
use serde_json::Value;
use tempfile::TempDir;
use wire::{Events, Running, ask, ask_with, bad_tokens, config, long_token, put, shown, token, until};

async fn alone() -> (TempDir, Running) {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(config(dir.path(), "n1", Nats::Alone)).await.ready().await;
    (dir, running)
}

const ANN: &str = r#"{"data":{"ann":{"expires_at":"T","last_seen":"T","message":"at lunch","node_id":"n1","stale":false,"status":"away","ttl":30,"updated_at":"T","user_id":"ann"}},"durability":"local","success":true}"#;
const NOBODY: &str = r#"{"data":{"bob":{"expires_at":null,"last_seen":null,"node_id":null,"stale":false,"status":"offline","ttl":null,"updated_at":null,"user_id":"bob"}},"success":true}"#;

#[tokio::test]
async fn a_user_is_put_read_extended_and_gone() {
    let (_dir, node) = alone().await;
    let ann = token("ann", Writes::Own);
    let asked = |method, path, body| ask(node.addr, method, path, Some(&ann), body);
    let answer = asked("PUT", "/api/v2/presence/ann", r#"{"status":"away","message":"at lunch","ttl":30}"#).await;
    assert_eq!((answer.status, answer.golden()), (200, ANN.to_owned()));
    let tag = answer.header("etag").expect("a tag").to_owned();

    let read = ask(node.addr, "GET", "/api/v2/presence/ann", None, "").await;
    assert_eq!((read.status, read.golden()), (200, ANN.replace(r#""durability":"local","#, "")));
    assert_eq!(read.header("etag"), Some(tag.as_str()));
    assert_eq!(ask(node.addr, "GET", "/api/v2/presence/bob", None, "").await.golden(), NOBODY);
    let listed = ask(node.addr, "GET", "/api/v2/presence?users=ann,bob&sessions=1", None, "").await;
    let sessions =
        r#""sessions":[{"node_id":"n1","session":"default","stale":false,"status":"away","ttl":30,"updated_at":"T"}]"#;
    assert!(listed.golden().contains(sessions), "{}", listed.golden());
    assert_eq!(listed.json()["data"].as_object().map(serde_json::Map::len), Some(2));
    let batch = ask(node.addr, "POST", "/api/v2/presence/batch", None, r#"{"user_ids":["ann","bob"]}"#).await;
    assert_eq!(batch.json()["data"]["ann"]["status"], "away");

    let beat = asked(
        "POST",
        "/api/v2/presence/heartbeat",
        r#"{"sessions":[{"user_id":"ann"},{"user_id":"ann","session":"tv"}]}"#,
    )
    .await;
    let beaten = r#"{"data":{"extended":1,"unknown":[{"session":"tv","user_id":"ann"}]},"success":true}"#;
    assert_eq!((beat.status, beat.golden()), (200, beaten.to_owned()));

    // A second session: the best of them counts once nothing is said in the name of all.
    asked("PUT", "/api/v2/presence/ann", r#"{"status":"online"}"#).await;
    asked("PUT", "/api/v2/presence/ann", r#"{"status":"away","session":"phone"}"#).await;
    assert_eq!(shown(node.addr, "ann").await, "online");
    let gone = asked("DELETE", "/api/v2/presence/ann?session=default", "").await;
    assert_eq!(gone.json()["data"]["ann"]["status"], "away");
    let gone = asked("DELETE", "/api/v2/presence/ann", "").await;
    assert_eq!(gone.json()["data"]["ann"]["status"], "offline");
    assert!(gone.json()["data"]["ann"]["last_seen"].is_string());
    asked("PUT", "/api/v2/presence/ann", r#"{"status":"online"}"#).await;
    let offline = asked("PUT", "/api/v2/presence/ann", r#"{"status":"offline"}"#).await;
    assert_eq!(offline.json()["data"]["ann"]["status"], "offline");
    node.stop().await;
}

#[tokio::test]
async fn every_error_has_its_status_and_the_envelope() {
    let (_dir, node) = alone().await;
    let (ann, any) = (token("ann", Writes::Own), token("tool", Writes::Any));
    let many = |n: usize| (0..n).map(|at| format!("\"u{at}\"")).collect::<Vec<_>>().join(",");
    let users = |n: usize| (0..n).map(|at| format!("u{at}")).collect::<Vec<_>>().join(",");
    let beats = |n: usize| {
        let beats: Vec<_> = (0..n).map(|at| format!(r#"{{"user_id":"u{at}"}}"#)).collect();
        format!(r#"{{"sessions":[{}]}}"#, beats.join(","))
    };
    let long = "x".repeat(129);
    let online = r#"{"status":"online"}"#;
    let of_ann = "/api/v2/presence/ann";
    let cases: Vec<(&str, String, Option<&str>, String, u16)> = vec![
        ("GET", "/api/v2/presence/zoe?strict=1".into(), None, String::new(), 404),
        ("GET", format!("/api/v2/presence/{long}"), None, String::new(), 400),
        ("GET", "/api/v2/presence/%ff".into(), None, String::new(), 400),
        ("GET", "/api/v2/presence/a%00b".into(), None, String::new(), 200),
        ("GET", "/api/v2/presence/a.b%20*%3E".into(), None, String::new(), 200),
        ("GET", "/api/v2/presence".into(), None, String::new(), 400),
        ("GET", "/api/v2/presence?users=".into(), None, String::new(), 400),
        ("GET", "/api/v2/presence?users=%".into(), None, String::new(), 400),
        ("GET", format!("/api/v2/presence?users={}", users(200)), None, String::new(), 200),
        ("GET", format!("/api/v2/presence?users={}", users(201)), None, String::new(), 413),
        ("GET", format!("/api/v2/presence/stream?users={}", users(201)), None, String::new(), 413),
        ("GET", "/api/v2/presence/stream".into(), None, String::new(), 400),
        ("GET", "/api/v2/presence/ws".into(), None, String::new(), 400),
        ("POST", "/api/v2/presence/batch".into(), None, r#"{"user_ids":[]}"#.into(), 400),
        ("POST", "/api/v2/presence/batch".into(), None, format!("{{\"user_ids\":[{}]}}", many(1_000)), 200),
        ("POST", "/api/v2/presence/batch".into(), None, format!("{{\"user_ids\":[{}]}}", many(1_001)), 413),
        ("POST", "/api/v2/presence/batch".into(), None, "[".into(), 400),
        ("POST", "/api/v2/presence/batch".into(), None, " ".repeat((1 << 20) + 1), 413),
        ("PUT", of_ann.into(), None, online.into(), 401),
        ("PUT", of_ann.into(), Some("x"), online.into(), 401),
        ("PUT", "/api/v2/presence/bob".into(), Some(&ann), online.into(), 403),
        ("PUT", "/api/v2/presence/bob".into(), Some(&any), online.into(), 200),
        ("PUT", of_ann.into(), Some(&ann), "{".into(), 400),
        ("PUT", of_ann.into(), Some(&ann), "{}".into(), 400),
        ("PUT", of_ann.into(), Some(&ann), r#"{"status":"asleep"}"#.into(), 400),
        ("PUT", of_ann.into(), Some(&ann), r#"{"status":7}"#.into(), 400),
        ("PUT", of_ann.into(), Some(&ann), r#"{"status":"online","ttl":4}"#.into(), 400),
        ("PUT", of_ann.into(), Some(&ann), r#"{"status":"online","ttl":-1}"#.into(), 400),
        ("PUT", of_ann.into(), Some(&ann), r#"{"status":"online","ttl":86401}"#.into(), 400),
        ("PUT", of_ann.into(), Some(&ann), r#"{"status":"online","ttl":1.5}"#.into(), 400),
        ("PUT", of_ann.into(), Some(&ann), format!(r#"{{"status":"away","message":"{}"}}"#, "m".repeat(257)), 400),
        ("PUT", of_ann.into(), Some(&ann), r#"{"status":"online","session":""}"#.into(), 400),
        ("PUT", format!("{of_ann}?durability=moon"), Some(&ann), online.into(), 400),
        ("PUT", format!("{of_ann}?durability=center"), Some(&ann), online.into(), 503),
        ("DELETE", of_ann.into(), None, String::new(), 401),
        ("DELETE", format!("{of_ann}?session="), Some(&ann), String::new(), 400),
        ("DELETE", format!("{of_ann}?durability=moon"), Some(&ann), String::new(), 400),
        ("DELETE", format!("/api/v2/presence/{long}"), Some(&any), String::new(), 400),
        ("PUT", format!("/api/v2/presence/{long}"), Some(&any), online.into(), 400),
        ("PUT", of_ann.into(), Some(&ann), " ".repeat((1 << 20) + 1), 413),
        ("PUT", of_ann.into(), Some(&ann), format!(r#"{{"status":"online","session":"{long}"}}"#), 400),
        ("DELETE", "/api/v2/presence/bob".into(), Some(&ann), String::new(), 403),
        ("DELETE", "/api/v2/presence/never".into(), Some(&any), String::new(), 200),
        ("POST", "/api/v2/presence/heartbeat".into(), None, r#"{"sessions":[]}"#.into(), 401),
        ("POST", "/api/v2/presence/heartbeat".into(), Some(&ann), r#"{"sessions":[{"user_id":"bob"}]}"#.into(), 403),
        ("POST", "/api/v2/presence/heartbeat".into(), Some(&ann), r#"{"sessions":[{"user_id":""}]}"#.into(), 400),
        ("POST", "/api/v2/presence/heartbeat".into(), Some(&ann), "{}".into(), 400),
        ("POST", "/api/v2/presence/heartbeat".into(), Some(&any), beats(1_000), 200),
        ("POST", "/api/v2/presence/heartbeat".into(), Some(&any), beats(1_001), 413),
        ("PATCH", of_ann.into(), Some(&ann), String::new(), 405),
        ("GET", "/api/v1/presence/ann".into(), None, String::new(), 404),
        ("GET", "/".into(), None, String::new(), 404),
    ];
    let (mut golden, short) = (String::new(), |text: &str| text[..text.len().min(100)].trim().to_owned());
    for (method, path, token, body, status) in cases {
        let answer = ask(node.addr, method, &path, token, &body).await;
        let what = format!("{method} {} {}", short(&path), short(&body));
        let told = if answer.body.len() < 400 { answer.golden() } else { format!("{} bytes", answer.body.len()) };
        let told = if status == 200 && answer.body.len() >= 400 { "…".to_owned() } else { told };
        golden += &format!("{}\n  {status} {told}\n", what.trim_end());
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
        let good = status == 200 || path.ends_with("durability=center");
        assert_eq!(answer.json()["success"], Value::Bool(good), "{what}");
        assert_eq!(answer.json()["error"].is_string(), !good, "{what}: {}", answer.body);
        assert_eq!(answer.header("retry-after").is_some(), status == 503, "{what}");
    }
    assert_eq!(golden, include_str!("golden/answers.txt"), "{golden}");
    // What the center did not keep is kept here.
    assert_eq!(shown(node.addr, "ann").await, "online");
    node.stop().await;
}

#[tokio::test]
async fn no_bad_token_writes_anything() {
    let (_dir, node) = alone().await;
    put(node.addr, "ann", r#"{"status":"online"}"#).await;
    let of_ann = "/api/v2/presence/ann";
    let beat = r#"{"sessions":[{"user_id":"ann"}]}"#;
    let mut bad = bad_tokens("ann");
    bad.push(("10 KB", long_token("ann", 10 << 10)));
    for (method, path, body) in
        [("PUT", of_ann, r#"{"status":"busy"}"#), ("DELETE", of_ann, ""), ("POST", "/api/v2/presence/heartbeat", beat)]
    {
        for (what, token) in &bad {
            let answer = ask(node.addr, method, path, Some(token), body).await;
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{method}, {what}");
            assert_eq!(answer.json()["success"], false, "{method}, {what}: {answer:?}");
        }
        let answer = ask(node.addr, method, path, Some(&token("bob", Writes::Own)), body).await;
        assert_eq!((answer.status, &answer.json()["success"]), (403, &false.into()), "{method}: another's");
    }
    assert_eq!(shown(node.addr, "ann").await, "online");
    // As long as it fits, a token may have what it likes.
    let fits = long_token("ann", 4 << 10);
    assert_eq!(ask(node.addr, "PUT", of_ann, Some(&fits), r#"{"status":"busy"}"#).await.status, 200);
    node.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_long_or_none_at_all_is_answered_in_the_envelope() {
    let (_dir, node) = alone().await;
    let megabyte = long_token("ann", 1 << 20);
    let long = format!("/api/v2/presence/{}", "x".repeat(20 << 10));
    let over = r#"{"error":"the head of the request is over 16 KiB","success":false}"#;
    for _ in 0..5 {
        for (path, token) in [("/api/v2/presence/ann", Some(megabyte.as_str())), (&long, None)] {
            let answer = ask(node.addr, "PUT", path, token, r#"{"status":"busy"}"#).await;
            assert_eq!((answer.status, answer.golden()), (431, over.to_owned()), "{answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
        }
    }
    let none = ask(node.addr, "GET", "/ HTTP/9 ", None, "").await;
    assert_eq!(
        (none.status, none.golden()),
        (400, r#"{"error":"this is no HTTP request","success":false}"#.to_owned())
    );
    assert_eq!(shown(node.addr, "ann").await, "offline");
    node.stop().await;
}

#[tokio::test]
async fn a_write_on_what_was_changed_since_is_refused() {
    let (_dir, node) = alone().await;
    let any = token("tool", Writes::Any);
    let tag = put(node.addr, "ann", r#"{"status":"online"}"#).await.header("etag").unwrap().to_owned();
    let with = |tag: String, body: &'static str| {
        let (any, addr) = (any.clone(), node.addr);
        async move { ask_with(addr, "PUT", "/api/v2/presence/ann", Some(&any), &format!("if-match: {tag}\r\n"), body).await }
    };
    assert_eq!(with(tag.clone(), r#"{"status":"busy"}"#).await.status, 200);
    let refused = with(tag, r#"{"status":"away"}"#).await;
    assert_eq!(
        (refused.status, refused.golden()),
        (412, r#"{"error":"the user was changed since","success":false}"#.to_owned())
    );
    assert_eq!(with("x".into(), r#"{"status":"away"}"#).await.status, 412);
    assert_eq!(shown(node.addr, "ann").await, "busy");
    node.stop().await;
}

#[tokio::test]
async fn who_writes_too_often_is_told_when_to_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), "n1", Nats::Alone);
    config.rates = Rates { token: std::num::NonZeroU32::new(2), address: None };
    let node = Running::start(config).await.ready().await;
    let mut last = put(node.addr, "ann", r#"{"status":"online"}"#).await;
    for _ in 0..20 {
        last = put(node.addr, "ann", r#"{"status":"online"}"#).await;
    }
    assert_eq!((last.status, last.header("retry-after")), (429, Some("1")));
    let body = r#"{"error":"too many requests","success":false}"#;
    assert_eq!(last.golden(), body);
    let any = token("tests", Writes::Any);
    for (method, path) in [("DELETE", "/api/v2/presence/ann"), ("POST", "/api/v2/presence/heartbeat")] {
        let answer = ask(node.addr, method, path, Some(&any), r#"{"sessions":[]}"#).await;
        assert_eq!((answer.status, answer.golden().as_str()), (429, body), "{method}");
    }
    assert_eq!(shown(node.addr, "ann").await, "online", "reads go on");
    node.stop().await;
}

#[tokio::test]
async fn a_node_holds_a_bounded_number_of_sessions_of_one_user() {
    let (_dir, node) = alone().await;
    for session in 0..64 {
        assert_eq!(
            put(node.addr, "ann", &format!(r#"{{"status":"online","session":"s{session}"}}"#)).await.status,
            200
        );
    }
    assert_eq!(put(node.addr, "ann", r#"{"status":"online","session":"one more"}"#).await.status, 409);
    assert_eq!(put(node.addr, "ann", r#"{"status":"away","session":"s5"}"#).await.status, 200);
    node.stop().await;
}

#[tokio::test]
async fn a_stream_begins_with_a_snapshot_tells_changes_and_goes_on_where_it_was() {
    let (_dir, node) = alone().await;
    put(node.addr, "ann", r#"{"status":"online"}"#).await;
    let mut events = Events::open(node.addr, "ann,bob", None).await;
    let first = events.next().await;
    assert_eq!(first.name, "snapshot");
    assert_eq!(
        (&first.json["data"]["ann"]["status"], &first.json["data"]["bob"]["status"]),
        (&"online".into(), &"offline".into())
    );
    put(node.addr, "eve", r#"{"status":"busy"}"#).await;
    put(node.addr, "bob", r#"{"status":"busy","message":"no"}"#).await;
    let second = events.next().await;
    assert_eq!((second.name.as_str(), &second.json["data"]["bob"]["message"]), ("presence", &"no".into()));
    drop(events);
    put(node.addr, "ann", r#"{"status":"away"}"#).await;
    let mut again = Events::open(node.addr, "ann,bob", second.id.as_deref()).await;
    let missed = again.next().await;
    assert_eq!((missed.name.as_str(), &missed.json["data"]["ann"]["status"]), ("presence", &"away".into()));
    assert!(missed.json["data"].get("bob").is_none(), "what was told is not told again");
    drop(again);
    for unknown in ["0-1", "nonsense", "ffff-99999"] {
        assert_eq!(Events::open(node.addr, "ann", Some(unknown)).await.next().await.name, "snapshot", "{unknown}");
    }
    node.stop().await;
}

#[tokio::test]
async fn nobody_is_told_again_what_his_snapshot_shows() {
    let (_dir, node) = alone().await;
    put(node.addr, "bob", r#"{"status":"online"}"#).await;
    for turn in 0..40 {
        // The second change of a user within 50 ms waits for their end, and is shown at once.
        put(node.addr, "ann", r#"{"status":"online"}"#).await;
        put(node.addr, "ann", &format!(r#"{{"status":"busy","message":"{turn}"}}"#)).await;
        let mut events = Events::open(node.addr, "ann,bob", None).await;
        let snapshot = events.next().await;
        assert_eq!(snapshot.json["data"]["ann"]["message"], turn.to_string().as_str());
        let status = if turn % 2 == 0 { "away" } else { "online" };
        put(node.addr, "bob", &format!(r#"{{"status":"{status}"}}"#)).await;
        let next = events.next().await;
        assert_eq!(next.json["data"]["bob"]["status"], status, "{next:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_stream_on_which_nothing_happens_is_kept_alive() {
    let (_dir, node) = alone().await;
    let begun = std::time::Instant::now();
    let mut events = Events::open(node.addr, "ann", None).await;
    events.next().await;
    while events.line().await != ": alive" {}
    let took = begun.elapsed().as_secs_f64();
    assert!((14.5..17.0).contains(&took), "after {took} s");
    node.stop().await;
}

#[tokio::test]
async fn a_session_without_heartbeats_is_over_and_followers_hear_of_it() {
    let (_dir, node) = alone().await;
    put(node.addr, "ann", r#"{"status":"online","ttl":5}"#).await;
    let begun = std::time::Instant::now();
    let mut events = Events::open(node.addr, "ann", None).await;
    assert_eq!(events.next().await.json["data"]["ann"]["status"], "online");
    let over = events.next().await;
    assert_eq!(over.json["data"]["ann"]["status"], "offline");
    let took = begun.elapsed().as_secs_f64();
    assert!((4.9..7.0).contains(&took), "after {took} s");
    node.stop().await;
}

#[tokio::test]
async fn what_is_described_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), "n1", Nats::Alone);
    config.page = Page::Served;
    let node = Running::start(config).await.ready().await;
    let described = ask(node.addr, "GET", "/openapi.json", None, "").await.json();
    let mut routes = 0;
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{user_id}", "ann");
            if path.ends_with("stream") {
                Events::open(node.addr, "ann", None).await;
            } else {
                let (method, path) = (method.to_uppercase(), format!("{path}?users=a"));
                let answer = ask(node.addr, &method, &path, None, "{}").await;
                assert!(![404, 405].contains(&answer.status), "{method} {path}: {answer:?}");
                let described = &methods[method.to_lowercase()]["responses"];
                let long = ask(node.addr, &method, &path, Some(&"x".repeat(20_000)), "{}").await;
                assert_eq!(long.status, 431);
                for status in [answer.status, long.status] {
                    assert!(described.get(status.to_string()).is_some(), "{method} {path} answers {status}");
                }
            }
            routes += 1;
        }
    }
    let source = include_str!("../src/api.rs");
    let routed = source.matches("get(").count()
        + source.matches("post(").count()
        + source.matches(".put(").count()
        + source.matches(".delete(").count();
    assert_eq!(routes, routed, "every route is described");
    let metrics = ask(node.addr, "GET", "/metrics", None, "").await;
    assert!(metrics.body.contains("presence_ready 1\n") && metrics.body.ends_with("# EOF\n"), "{}", metrics.body);
    assert_eq!(
        ask(node.addr, "GET", "/health/liveness", None, "").await.golden(),
        r#"{"data":{"status":"alive"},"success":true}"#
    );
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_is_stopped_leaves_its_port_and_ends_its_streams() {
    let (_dir, node) = alone().await;
    let addr = node.addr;
    let mut events = Events::open(addr, "ann", None).await;
    events.next().await;
    node.stop().await;
    until("the port is free", async || tokio::net::TcpListener::bind(addr).await.is_ok()).await;
}
