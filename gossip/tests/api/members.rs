//! Other nodes, as the API tells of them and waits for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kith_gossip::api::{ApiConfig, Member, MemberState, Membership, ReplicationFigures};
use kith_gossip_proto::{NodeId, SiteId};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::server::{BOUND, Lines, Server, shown};

/// Members that a test changes.
#[derive(Debug)]
struct TestMembers {
    members: watch::Sender<Arc<Vec<Member>>>,
    acknowledged: watch::Sender<BTreeMap<NodeId, u64>>,
    waiting: Vec<String>,
}

impl TestMembers {
    fn new(members: &watch::Sender<Arc<Vec<Member>>>, waiting: &[&str]) -> Self {
        let waiting = waiting.iter().map(|text| (*text).to_owned()).collect();
        Self { members: members.clone(), acknowledged: watch::Sender::default(), waiting }
    }
}

impl Membership for TestMembers {
    fn members(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.subscribe()
    }

    fn acknowledged(&self) -> watch::Receiver<BTreeMap<NodeId, u64>> {
        self.acknowledged.subscribe()
    }

    fn figures(&self) -> ReplicationFigures {
        let lag_p99 = Duration::from_millis(40);
        ReplicationFigures { behind: 3, lag_p99, queued: 5, applied: 7, ..ReplicationFigures::default() }
    }

    fn waiting(&self) -> Vec<String> {
        self.waiting.clone()
    }
}

fn member(server: &str, state: MemberState) -> Member {
    Member {
        server: server.parse().unwrap(),
        number: Some(2),
        addr: "10.0.0.2:31280".parse().unwrap(),
        site: Some(SiteId::new([0xAB; 16])),
        boot_id: "b0".to_owned(),
        state,
        heard: Some(Duration::from_millis(120)),
        rtt: Some(Duration::from_micros(350)),
        release: "0.1.0".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_listed_and_watched() {
    let up = |server| member(server, MemberState::Up);
    let (members, _) = watch::channel(Arc::new(vec![up("a"), up("b")]));
    let server = Server::start_with(ApiConfig::default(), Arc::new(TestMembers::new(&members, &[]))).await;
    insta::assert_snapshot!(shown(server.get("/v1/members").await).await, @r#"
    200 {"member":{"server":"a","number":2,"addr":"10.0.0.2:31280","site":"abababababababababababababababab","boot_id":"b0","state":"up","heard_ms_ago":120,"rtt_us":350,"release":"0.1.0"}}
    {"member":{"server":"b","number":2,"addr":"10.0.0.2:31280","site":"abababababababababababababababab","boot_id":"b0","state":"up","heard_ms_ago":120,"rtt_us":350,"release":"0.1.0"}}
    {"eom":{}}
    "#);
    let sql = "SELECT hex(actor_id), address, foca_state ->> '$.state', rtt_min FROM __corro_members LIMIT 1";
    insta::assert_snapshot!(shown(server.post("/v1/queries", &json!(sql)).await).await, @r#"
    200 {"columns":["hex(actor_id)","address","foca_state ->> '$.state'","rtt_min"]}
    {"row":[1,["ABABABABABABABABABABABABABABABAB","10.0.0.2:31280","Alive",0]]}
    {"eoq":{"time":~}}
    "#);
    let mut lines = Lines::of(server.get("/v1/members?watch=true").await);
    lines.take(3).await;
    // Only that it was heard again is no change.
    members.send_replace(Arc::new(vec![Member { heard: None, ..up("a") }, up("b")]));
    members.send_replace(Arc::new(vec![Member {
        heard: None,
        site: None,
        number: None,
        rtt: None,
        ..member("a", MemberState::Silent)
    }]));
    insta::assert_snapshot!(lines.take(2).await, @r#"
    {"member":{"server":"a","number":null,"addr":"10.0.0.2:31280","site":null,"boot_id":"b0","state":"silent","heard_ms_ago":null,"rtt_us":null,"release":"0.1.0"}}
    {"member":{"server":"b","number":2,"addr":"10.0.0.2:31280","site":"abababababababababababababababab","boot_id":"b0","state":"removed","heard_ms_ago":null,"rtt_us":null,"release":"0.1.0"}}
    "#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_figures_are_told() {
    let (members, _) = watch::channel(Arc::new(vec![member("fra-1", MemberState::Up), member("b", MemberState::Up)]));
    let server = Server::start_with(
        ApiConfig::default(),
        Arc::new(TestMembers::new(&members, &["replication: 3 versions behind"])),
    )
    .await;
    server.execute("INSERT INTO svc (id) VALUES ('a'), ('b')").await;
    let mut answers = String::new();
    for path in [
        "/v1/health",
        "/v1/health?gaps=3&p99_lag=0.04&max_queue=5",
        "/v1/health?gaps=2",
        "/v1/health?p99_lag=0.039",
        "/v1/health?max_queue=4&failure_status=418",
        "/live",
        "/ready",
    ] {
        answers.push_str(&format!("{path} -> {}\n", shown(server.get(path).await).await));
    }
    let stats = server.post("/v1/table_stats", &json!({"tables": ["svc", "zz"]})).await;
    answers.push_str(&format!("/v1/table_stats -> {}\n", shown(stats).await));
    insta::assert_snapshot!(answers, @r#"
    /v1/health -> 200 {"response":{"gaps":3,"members":1,"p99_lag":0.04,"queue_size":5,"waiting":["replication: 3 versions behind"]}}
    /v1/health?gaps=3&p99_lag=0.04&max_queue=5 -> 200 {"response":{"gaps":3,"members":1,"p99_lag":0.04,"queue_size":5,"waiting":["replication: 3 versions behind"]}}
    /v1/health?gaps=2 -> 503 {"response":{"gaps":3,"members":1,"p99_lag":0.04,"queue_size":5,"waiting":["replication: 3 versions behind"]}}
    /v1/health?p99_lag=0.039 -> 503 {"response":{"gaps":3,"members":1,"p99_lag":0.04,"queue_size":5,"waiting":["replication: 3 versions behind"]}}
    /v1/health?max_queue=4&failure_status=418 -> 418 {"response":{"gaps":3,"members":1,"p99_lag":0.04,"queue_size":5,"waiting":["replication: 3 versions behind"]}}
    /live -> 200 {"live":true}
    /ready -> 503 {"ready":false,"waiting":["replication: 3 versions behind"]}
    /v1/table_stats -> 200 {"invalid_tables":["zz"],"total_row_count":2}
    "#);

    let json = async |path: &str| server.get(path).await.text().await.unwrap().parse::<Value>().unwrap();
    let status = json("/v1/status").await;
    assert_eq!((&status["node"], &status["members"]["up"]), (&json!("fra-1"), &json!(2)));
    let digest = json("/v1/digest").await;
    assert_eq!(digest["digest"], status["store"]["digest"]);
    let put = async |part: &str, text: &str| {
        let request = server.client.put(server.url(&format!("/v1/metrics/{part}")));
        let request = request.header("content-type", "application/json").body(json!(text).to_string());
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(put("dns", "# TYPE kith_dns_names gauge\nkith_dns_names 7").await, 200);
    assert_eq!(put("dns", "kith_nats_up 1\n").await, 400, "of another part");
    assert_eq!(put("store", "kith_store_commits_total 9\n").await, 400, "the node's own");
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(metrics.ends_with("\n# TYPE kith_dns_names gauge\nkith_dns_names 7\n# EOF\n"), "{metrics}");
    for line in [
        "kith_transactions_total{outcome=\"done\"} 1",
        "kith_members{state=\"up\"} 2",
        "kith_replication_lag_p99_seconds 0.04",
        "kith_store_commits_total 1",
        "kith_http_requests_total{route=\"/v1/transactions\",status=\"200\"} 1",
        "kith_http_request_seconds_count{route=\"/v1/transactions\"} 1",
        "# EOF",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_node_is_healthy_and_ready() {
    let server = Server::start().await;
    let health = shown(server.get("/v1/health?gaps=0&p99_lag=1&max_queue=0").await).await;
    assert_eq!(health, r#"200 {"response":{"gaps":0,"members":0,"p99_lag":0.0,"queue_size":0,"waiting":[]}}"#);
    assert_eq!(server.get("/ready").await.status(), 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_waits_until_other_nodes_hold_it() {
    let up = |server| member(server, MemberState::Up);
    let removed = member("d", MemberState::Removed);
    let (members, _) = watch::channel(Arc::new(vec![up("fra-1"), up("b"), up("c"), removed]));
    let membership = TestMembers::new(&members, &[]);
    let acknowledged = membership.acknowledged.clone();
    let server = Server::start_with(ApiConfig::default(), Arc::new(membership)).await;
    let insert = |id: &str| json!([format!("INSERT INTO svc (id) VALUES ('{id}')")]);
    let tell = |heads: &[(&str, u64)]| {
        acknowledged.send_replace(heads.iter().map(|(node, head)| (node.parse().unwrap(), *head)).collect());
    };

    let many = shown(server.post("/v1/transactions?replicas=3", &insert("a")).await).await;
    assert_eq!(many, r#"400 {"error":"replicas=3: there are 2 other nodes, so nothing was done"}"#);
    tell(&[("b", 1)]);
    let late = server.post("/v1/transactions?replicas=2&timeout=0.2", &insert("a")).await;
    insta::assert_snapshot!(shown(late).await, @r#"504 {"results":[{"rows_affected":1,"time":~}],"time":~,"version":1,"actor_id":~,"error":"held by 1 of 2 other nodes in time: the transaction stands, and goes on to the others"}"#);
    // The second version: one node tells of it after the other, and only then comes the answer.
    let second = insert("b");
    let mut answer = Box::pin(server.post("/v1/transactions?replicas=2", &second));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut answer).await;
    assert!(early.is_err(), "nobody holds it yet");
    tell(&[("b", 2), ("c", 1)]);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut answer).await;
    assert!(early.is_err(), "one of two");
    tell(&[("b", 2), ("c", 7)]);
    assert_eq!(tokio::time::timeout(BOUND, answer).await.expect("both hold it").status(), 200);
    let nothing = server.post("/v1/transactions?replicas=2", &json!(["DELETE FROM svc WHERE id = 'z'"])).await;
    assert_eq!(nothing.status(), 200, "a transaction that changed nothing is everywhere");
    server.stop().await;
}
