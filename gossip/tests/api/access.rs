//! Who may ask for what.

use kith_gossip::api::ApiConfig;
use serde_json::{Value, json};

use crate::server::{Server, bind, shown};

#[tokio::test(flavor = "multi_thread")]
async fn an_open_address_needs_a_token_and_a_taken_one_is_named() {
    let open = ApiConfig { listen: vec!["0.0.0.0:0".parse().unwrap()], ..ApiConfig::default() };
    let error = bind(open.clone()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the API would be open to the network at 0.0.0.0:0 without a token: set one, or listen on loopback"
    );
    let tokens = Some("0123456789abcdef".parse().unwrap());
    assert!(bind(ApiConfig { tokens, ..open }).await.is_ok());

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = vec![taken.local_addr().unwrap()];
    let error = bind(ApiConfig { listen: listen.clone(), ..ApiConfig::default() }).await.unwrap_err().to_string();
    assert_eq!(error, format!("the API cannot listen on {}", listen[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_wants_the_token() {
    let server = Server::start_with_tokens("0123456789abcdef").await;
    for (authorization, status) in [
        (None, 401),
        (Some("Bearer 0123456789abcdee"), 401),
        (Some("0123456789abcdef"), 401),
        (Some("Basic 0123456789abcdef"), 401),
        (Some("Bearer 0123456789abcdef"), 200),
        (Some("bearer 0123456789abcdef"), 200),
    ] {
        let mut request = server.client.get(server.url("/v1/status"));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{authorization:?}");
        assert_eq!(response.text().await.unwrap().is_empty(), status == 401);
    }
    assert_eq!(server.get("/nowhere").await.status(), 401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_its_scope_says() {
    let [read, write, admin] = ["read-aaaaaaaaaaaa", "write-bbbbbbbbbbb", "admin-ccccccccccc"];
    let server = Server::start_with_tokens(&format!("read {read}\nwrite {write}\nadmin {admin}")).await;
    let post = async |token: &str, path: &str, body: Value| {
        let request = server.client.post(server.url(path)).bearer_auth(token);
        let request = request.header("content-type", "application/json").body(body.to_string());
        shown(request.send().await.unwrap()).await
    };
    let (insert, table) =
        (json!(["INSERT INTO svc (id) VALUES ('a')"]), json!(["CREATE TABLE m (id TEXT NOT NULL PRIMARY KEY)"]));
    assert!(post(read, "/v1/queries", json!("SELECT 1")).await.starts_with("200"));
    let refused = post(read, "/v1/transactions", insert.clone()).await;
    assert_eq!(refused, r#"403 {"error":"this token may read, and write is needed"}"#);
    assert!(post(write, "/v1/transactions", insert).await.starts_with("200"));
    let refused = post(write, "/v1/migrations", table.clone()).await;
    assert_eq!(refused, r#"403 {"error":"this token may write, and admin is needed"}"#);
    assert!(post(admin, "/v1/migrations", table).await.starts_with("200"));
    assert!(post(admin, "/v1/queries", json!("SELECT * FROM m")).await.starts_with("200"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_do_not_suffice_are_counted() {
    let [read, write] = ["read-aaaaaaaaaaaa", "write-bbbbbbbbbbb"];
    let server = Server::start_with_tokens(&format!("read {read}\nwrite {write}")).await;
    let delete = || server.request("/v1/transactions", r#"["DELETE FROM svc"]"#);
    for (request, status) in [
        (delete(), 401),
        (delete().bearer_auth("wrong-dddddddddddd"), 401),
        (delete().bearer_auth(read), 403),
        (delete().bearer_auth(write), 200),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.text().await.unwrap().is_empty(), status == 401);
    }
    let metrics = server.client.get(server.url("/metrics")).bearer_auth(read).send().await.unwrap();
    let figures = metrics.text().await.unwrap();
    for line in [
        "kith_http_unauthorized_total 2",
        r#"kith_http_requests_total{route="/v1/transactions",status="403"} 1"#,
        r#"kith_http_requests_total{route="/v1/transactions",status="200"} 1"#,
        "kith_http_connections_closed_total 0",
    ] {
        assert!(figures.lines().any(|found| found == line), "{line} is not in\n{figures}");
    }
    server.stop().await;
}
