//! The client against a scripted server, over real sockets: what it asks, what it makes of the answers, and how its
//! streams behave when the server goes away, forgets, or skips.

#[cfg(test)]
mod server;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use kith_gossip_client::client::Readiness;
use kith_gossip_client::error::Chain;
use kith_gossip_client::members::{MemberEvent, MemberState};
use kith_gossip_client::subscription::ChangeKind;
use kith_gossip_client::updates::{RowState, Update};
use kith_gossip_client::{Client, Endpoint, Error, Event, Statement, Value};
use server::{End, Reply, Server};

const ID: &str = "b7e1b2c0-5a53-4c93-a2cc-6d6a8f4e7f10";
const ALIVE: &str = r#"{"alive":{}}"#;
const COLUMNS: &str = r#"{"columns":["id","port"]}"#;
const ROW_A: &str = r#"{"row":[1,["a",80]]}"#;
const EOQ_0: &str = r#"{"eoq":{"time":8e-8,"change_id":0}}"#;
const INSERT_1: &str = r#"{"change":["insert",2,["b",81],1]}"#;
const UPDATE_2: &str = r#"{"change":["update",2,["b",82],2]}"#;
const DELETE_3: &str = r#"{"change":["delete",2,["b",82],3]}"#;

/// The next item within a generous bound.
async fn next<T: Debug>(stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    let item = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    item.expect("nothing came for 20 s").expect("the stream ended")
}

async fn take<T: Debug, E: Debug>(n: usize, stream: &mut (impl Stream<Item = Result<T, E>> + Unpin)) -> Vec<T> {
    let mut items = Vec::new();
    for _ in 0..n {
        items.push(next(stream).await.expect("the stream failed"));
    }
    items
}

fn change(kind: ChangeKind, row_id: u64, port: i64, change_id: u64) -> Event {
    Event::Change { kind, row_id, cells: vec!["b".into(), port.into()], change_id }
}

fn snapshot() -> [Event; 3] {
    [
        Event::Columns(vec!["id".into(), "port".into()]),
        Event::Row { row_id: 1, cells: vec!["a".into(), 80.into()] },
        Event::EndOfQuery { change_id: 0 },
    ]
}

#[tokio::test]
async fn a_transaction_is_sent_whole_and_its_result_read() {
    let ok = r#"{"results":[{"rows_affected":1,"time":0.00021}],"time":0.0009,"version":17,"actor_id":"0f1c"}"#;
    let server = Server::tcp(vec![Reply::new(200, ok)]).await;
    let statement = Statement::new("INSERT INTO svc VALUES (?, ?)").with([Value::from("a"), Value::Null]);
    let done = server.client.execute(&[statement]).await.unwrap();
    assert_eq!((done.version, done.results[0].rows_affected), (Some(17), 1));
    assert_eq!(done.time, Duration::from_micros(900));
    assert_eq!(server.seen(), [r#"Bearer t0ken POST /v1/transactions [["INSERT INTO svc VALUES (?, ?)",["a",null]]]"#]);
}

#[tokio::test]
async fn a_refusal_carries_status_message_and_hint() {
    let envelope = r#"{"results":[{"error":"no such table: x"}],"time":0.0,"version":null,"actor_id":"00"}"#;
    let server =
        Server::tcp(vec![Reply::new(500, envelope), Reply::new(401, ""), Reply::new(400, r#"{"error":"no"}"#)]).await;
    let error = server.client.execute(&["x".into()]).await.unwrap_err();
    assert_eq!(error.to_string(), "no such table: x (HTTP 500)");
    let error = server.client.migrate(&["x".into()]).await.unwrap_err();
    assert_eq!(error.to_string(), "Unauthorized (HTTP 401)");
    assert!(error.hint().unwrap().contains("--token-file"));
    let error = server.client.query("x").await.unwrap_err();
    assert!(matches!(error, Error::Refused { status, .. } if status == 400), "{error:?}");
}

#[tokio::test]
async fn an_endpoint_nobody_listens_at_is_unreachable() {
    // Bound and dropped: a port that was free a moment ago.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for endpoint in [Endpoint::from(addr), Endpoint::unix(dir.path().join("none.sock"))] {
        let error = Client::new(endpoint.clone(), None).unwrap().live().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        let text = Chain(&error).to_string();
        assert!(text.starts_with(&format!("cannot reach {endpoint}: ")), "{text}");
        assert!(text.contains("Connection refused") || text.contains("No such file"), "{text}");
    }
}

#[tokio::test]
async fn a_query_survives_cuts_inside_lines_and_characters() {
    let lines =
        [COLUMNS, r#"{"row":[1,["käse 🧀",1.0]]}"#, r#"{"row":[2,[[0,255],null]]}"#, r#"{"eoq":{"time":1e-6}}"#];
    let server = Server::tcp(vec![Reply::lines(&lines, End::Done).byte_by_byte()]).await;
    let mut query = server.client.query("SELECT 1").await.unwrap();
    assert_eq!(query.columns(), ["id", "port"]);
    let rows = take(2, &mut query).await;
    assert!(query.next().await.is_none());
    assert!(query.next().await.is_none(), "an ended stream may be asked again");
    assert_eq!(rows, [vec!["käse 🧀".into(), 1.0.into()], vec![vec![0u8, 255].into(), Value::Null]]);
}

#[tokio::test]
async fn a_query_cut_short_is_an_error_and_not_a_short_answer() {
    let server = Server::tcp(vec![
        Reply::lines(&[COLUMNS, ROW_A], End::Done),
        Reply::lines(&[COLUMNS, ROW_A], End::Cut),
        Reply::lines(&[COLUMNS, ROW_A, r#"{"error":"interrupted"}"#], End::Done),
        Reply::lines(&[COLUMNS, "[]"], End::Done),
    ])
    .await;
    let mut ends = Vec::new();
    for _ in 0..4 {
        ends.push(server.client.query("SELECT 1").await.unwrap().collect().await.unwrap_err());
    }
    assert!(matches!(&ends[0], Error::Incomplete), "{ends:?}");
    assert!(matches!(&ends[1], Error::Broken { .. }), "{ends:?}");
    assert!(matches!(&ends[2], Error::Stopped(m) if m == "interrupted"), "{ends:?}");
    assert!(matches!(&ends[3], Error::Malformed { excerpt, .. } if excerpt == "[]"), "{ends:?}");
}

#[tokio::test]
async fn a_line_without_end_is_cut_at_its_bound() {
    let endless = Reply::new(200, &"x".repeat(17 << 20));
    let server = Server::tcp(vec![endless]).await;
    let error = server.client.query("SELECT 1").await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn a_subscription_resumes_behind_its_last_change() {
    let server = Server::tcp(vec![
        Reply::lines(&[COLUMNS, ROW_A, EOQ_0, INSERT_1], End::Cut).id(ID),
        Reply::new(503, ""),
        Reply::lines(&[UPDATE_2, DELETE_3], End::Open).id(ID),
    ])
    .await;
    let mut events = server.client.subscribe("SELECT id, port FROM svc").await.unwrap();
    assert_eq!(take(3, &mut events).await, snapshot());
    assert_eq!(next(&mut events).await.unwrap(), change(ChangeKind::Insert, 2, 81, 1));
    assert!(matches!(next(&mut events).await.unwrap(), Event::Lost { .. }));
    assert_eq!(
        take(3, &mut events).await,
        [Event::Resumed { change_id: 1 }, change(ChangeKind::Update, 2, 82, 2), change(ChangeKind::Delete, 2, 82, 3),]
    );
    let resume = format!("Bearer t0ken GET /v1/subscriptions/{ID}?from=1&skip_rows=true&alive=true");
    assert_eq!(
        server.seen(),
        ["Bearer t0ken POST /v1/subscriptions?alive=true \"SELECT id, port FROM svc\"", &resume, &resume]
    );
}

#[tokio::test]
async fn a_gap_ends_the_stream() {
    for (line, got) in [(DELETE_3, 3), (INSERT_1, 1)] {
        let server = Server::tcp(vec![Reply::lines(&[COLUMNS, ROW_A, EOQ_0, INSERT_1, line], End::Open).id(ID)]).await;
        let mut events = server.client.subscribe("SELECT 1").await.unwrap();
        take(4, &mut events).await;
        let error = next(&mut events).await.unwrap_err();
        assert!(matches!(error, Error::Gap { expected: 2, got: g } if g == got), "{error:?}");
        assert!(events.next().await.is_none(), "a stream ends at its error");
    }
}

#[tokio::test]
async fn a_subscription_the_server_forgot_starts_anew_and_says_so() {
    let server = Server::tcp(vec![
        Reply::lines(&[COLUMNS, ROW_A, EOQ_0, INSERT_1], End::Done).id(ID),
        Reply::new(404, r#"{"error":"could not find subscription with id"}"#),
        Reply::lines(&[COLUMNS, ROW_A, EOQ_0], End::Open).id(ID),
    ])
    .await;
    let mut events = server.client.subscribe("SELECT 1").await.unwrap();
    take(4, &mut events).await;
    assert!(matches!(next(&mut events).await.unwrap(), Event::Lost { .. }));
    assert_eq!(next(&mut events).await.unwrap(), Event::Reset);
    assert_eq!(take(3, &mut events).await, snapshot());
    assert_eq!(server.seen()[2], "Bearer t0ken POST /v1/subscriptions?alive=true \"SELECT 1\"");
}

#[tokio::test]
async fn changes_that_are_no_longer_kept_make_it_start_anew() {
    let server = Server::tcp(vec![
        Reply::lines(&[COLUMNS, ROW_A, EOQ_0, INSERT_1, r#"{"error":"slow consumer: 8 MiB behind"}"#], End::Done)
            .id(ID),
        Reply::lines(&[r#"{"error":"out of range, min change id: 900"}"#], End::Done).id(ID),
        Reply::lines(&[COLUMNS, ROW_A, EOQ_0], End::Open).id(ID),
    ])
    .await;
    let mut events = server.client.subscribe("SELECT 1").await.unwrap();
    take(4, &mut events).await;
    assert!(matches!(next(&mut events).await.unwrap(), Event::Lost { reason } if reason.contains("slow consumer")));
    assert_eq!(take(2, &mut events).await, [Event::Resumed { change_id: 1 }, Event::Reset]);
    assert_eq!(take(3, &mut events).await, snapshot());
}

#[tokio::test]
async fn a_server_that_stops_is_waited_for() {
    let stopping = r#"{"error":"the server is shutting down"}"#;
    let server = Server::tcp(vec![
        Reply::lines(&[COLUMNS, ROW_A, EOQ_0, INSERT_1, stopping], End::Done).id(ID),
        Reply::lines(&[UPDATE_2], End::Open).id(ID),
        Reply::lines(&[r#"{"eom":{}}"#, stopping], End::Done),
        Reply::lines(&[r#"{"eom":{}}"#], End::Open),
    ])
    .await;
    let mut events = server.client.subscribe("SELECT 1").await.unwrap();
    take(4, &mut events).await;
    assert!(matches!(next(&mut events).await.unwrap(), Event::Lost { .. }));
    assert_eq!(next(&mut events).await.unwrap(), Event::Resumed { change_id: 1 });
    next(&mut events).await.unwrap();
    let members = take(5, &mut server.client.watch_members()).await;
    assert_eq!(members[3..], [MemberEvent::Reset, MemberEvent::Synced]);
}

#[tokio::test]
async fn a_stream_that_no_longer_says_that_it_is_alive_is_lost_and_resumed() {
    let server = Server::tcp(vec![
        Reply::lines(&[COLUMNS, ROW_A, EOQ_0, INSERT_1], End::Hangs(ALIVE, 20)).id(ID).alive(),
        Reply::lines(&[UPDATE_2], End::Open).id(ID),
    ])
    .await;
    let mut events = server.client.subscribe("SELECT 1").await.unwrap();
    take(4, &mut events).await;
    let begun = Instant::now();
    assert!(
        matches!(next(&mut events).await.unwrap(), Event::Lost { reason } if reason.contains("has said nothing for 3 s"))
    );
    // Two seconds of it is alive.
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(take(2, &mut events).await, [Event::Resumed { change_id: 1 }, change(ChangeKind::Update, 2, 82, 2)]);
}

#[tokio::test]
async fn before_its_first_change_a_subscription_cannot_be_resumed() {
    // `from=0` means no `from` to the server, and with skip_rows what happened meanwhile would be lost.
    for lines in [&[COLUMNS, ROW_A, EOQ_0][..], &[COLUMNS, ROW_A][..]] {
        let server = Server::tcp(vec![
            Reply::lines(lines, End::Cut).id(ID),
            Reply::lines(&[COLUMNS, ROW_A, EOQ_0], End::Open).id(ID),
        ])
        .await;
        let mut events = server.client.subscribe("SELECT 1").await.unwrap();
        take(lines.len(), &mut events).await;
        assert!(matches!(next(&mut events).await.unwrap(), Event::Lost { .. }));
        assert_eq!(next(&mut events).await.unwrap(), Event::Reset);
        assert_eq!(take(3, &mut events).await, snapshot());
        assert!(server.seen().iter().all(|r| r.contains("POST")), "{:?}", server.seen());
    }
}

#[tokio::test]
async fn a_statement_the_server_refuses_ends_the_stream_at_once() {
    let refusal = || Reply::new(400, r#"{"error":"no such table: x"}"#);
    let server = Server::tcp(vec![refusal(), refusal()]).await;
    assert!(matches!(server.client.subscribe("SELECT x").await, Err(Error::Refused { .. })));
    let mut events = server.client.follow("SELECT x");
    assert!(matches!(next(&mut events).await, Err(Error::Refused { .. })));
    assert!(events.next().await.is_none());
    assert!(events.next().await.is_none(), "an ended stream may be asked again");

    let fatal = Reply::lines(&[COLUMNS, r#"{"error":"the table was dropped"}"#], End::Done).id(ID);
    let server = Server::tcp(vec![fatal]).await;
    let mut events = server.client.follow("SELECT 1");
    take(1, &mut events).await;
    assert!(matches!(next(&mut events).await, Err(Error::Stopped(m)) if m == "the table was dropped"));
}

#[tokio::test]
async fn a_followed_store_may_start_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kith.sock");
    let mut events = Client::new(Endpoint::unix(&path), None).unwrap().follow("SELECT 1");
    assert!(matches!(next(&mut events).await.unwrap(), Event::Lost { .. }));
    let server = Server::unix(&path, vec![Reply::lines(&[COLUMNS, ROW_A, EOQ_0], End::Open).id(ID)]).await;
    assert_eq!(take(3, &mut events).await, snapshot());
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn members_are_listed_and_watched() {
    let up = r#"{"member":{"server":"n1","number":1,"addr":"127.0.0.1:1","site":"00","boot_id":"b","state":"up","heard_ms_ago":12,"rtt_us":null,"release":"0.1.0"}}"#;
    let silent = r#"{"member":{"server":"n2","state":"silent"}}"#;
    let server = Server::tcp(vec![
        Reply::lines(&[up, silent, r#"{"eom":{}}"#], End::Done),
        Reply::lines(&[up, r#"{"eom":{}}"#, ALIVE, silent], End::Cut),
        Reply::lines(&[silent, r#"{"eom":{}}"#], End::Open),
        Reply::lines(&[up], End::Done),
    ])
    .await;
    let members = server.client.members().await.unwrap();
    assert_eq!(members.iter().map(|m| m.state).collect::<Vec<_>>(), [MemberState::Up, MemberState::Silent]);
    let mut watch = server.client.watch_members();
    let seen = take(8, &mut watch).await;
    let words: String = seen
        .iter()
        .map(|event| match event {
            MemberEvent::Reset => "reset ",
            MemberEvent::Member(m) if m.server == "n1" => "n1 ",
            MemberEvent::Member(_) => "n2 ",
            MemberEvent::Synced => "synced ",
            MemberEvent::Lost { .. } => "lost ",
        })
        .collect();
    assert_eq!(words, "reset n1 synced n2 lost reset n2 synced ");
    assert!(matches!(server.client.members().await, Err(Error::Incomplete)));
}

#[tokio::test]
async fn keys_of_changed_rows_are_read_until_some_are_missed() {
    let lines = "{\"notify\":[\"update\",[\"a\",1]]}\n{\"notify\":[\"delete\",[\"b\",2]]}\n{\"error\":\"read anew\"}\n";
    let server = Server::tcp(vec![Reply::new(200, lines), Reply::new(200, "")]).await;
    let mut updates = server.client.updates("two parts").await.unwrap();
    let update = |state, name: &str, number: i64| Update { state, key: vec![name.into(), number.into()] };
    let told = take(2, &mut updates).await;
    assert_eq!(told, [update(RowState::Here, "a", 1), update(RowState::Gone, "b", 2)]);
    assert!(matches!(next(&mut updates).await, Err(Error::Stopped(why)) if why == "read anew"));
    assert!(updates.next().await.is_none());
    let mut cut = server.client.updates("t").await.unwrap();
    assert!(matches!(next(&mut cut).await, Err(Error::Incomplete)), "a feed has no orderly end");
    assert_eq!(server.seen()[0], "Bearer t0ken POST /v1/updates/two%20parts");
}

#[tokio::test]
async fn the_small_routes_are_read() {
    let health = r#"{"response":{"gaps":0,"members":2,"p99_lag":0.04,"queue_size":0}}"#;
    let server = Server::tcp(vec![
        Reply::new(200, health),
        Reply::new(200, r#"{"ready":true,"waiting":[]}"#),
        Reply::new(503, r#"{"ready":false,"waiting":["the first pull"]}"#),
        Reply::new(200, "kith_up 1\n"),
        Reply::new(200, "{}"),
        Reply::new(200, "{}"),
        Reply::new(200, r#"{"digest":"0f","heads_hash":"01","schema":"02"}"#),
    ])
    .await;
    assert_eq!(server.client.health().await.unwrap().members, 2);
    assert_eq!(server.client.ready().await.unwrap(), Readiness::Ready);
    assert_eq!(server.client.ready().await.unwrap(), Readiness::Waiting(vec!["the first pull".into()]));
    assert_eq!(server.client.metrics().await.unwrap(), "kith_up 1\n");
    server.client.report("dns", &["x"]).await.unwrap();
    server.client.report_metrics("dns", "kith_dns_names 7\n").await.unwrap();
    assert_eq!(server.client.digest().await.unwrap().digest, "0f");
    assert_eq!(server.seen()[5], r#"Bearer t0ken PUT /v1/metrics/dns "kith_dns_names 7\n""#);
    assert_eq!(server.seen()[4], r#"Bearer t0ken PUT /v1/status/dns ["x"]"#);
}
