//! How it is spoken: HTTP/2, keep-alive, the Unix socket, how much at once, and that the description is of what is there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Instant;

use kith_gossip::api::{Alone, ApiConfig, BindError};
use reqwest::Client;
use serde_json::{Value, json};

use crate::server::{BOUND, Lines, Server, bind, shown};

#[tokio::test(flavor = "multi_thread")]
async fn http_2_with_prior_knowledge_is_spoken_on_the_same_port() {
    let server = Server::start().await;
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let post = |path: &str, body: Value| {
        client.post(server.url(path)).header("content-type", "application/json").body(body.to_string()).send()
    };
    let response = post("/v1/subscriptions", json!("SELECT id FROM svc")).await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    let mut lines = Lines::of(response);
    lines.take(2).await;
    let response = post("/v1/transactions", json!(["INSERT INTO svc (id) VALUES ('two')"])).await.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    assert_eq!(lines.next().await.unwrap(), r#"{"change":["insert",1,["two"],1]}"#);
    drop(lines);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_alive_serves_one_request_after_the_other_with_lengths() {
    let server = Server::start().await;
    let mut connection = TcpStream::connect(server.addr).unwrap();
    connection.set_read_timeout(Some(BOUND)).unwrap();
    let body = json!(["INSERT INTO svc (id) VALUES ('a') ON CONFLICT DO UPDATE SET port = 1"]).to_string();
    let head = "POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
    let answers = tokio::task::spawn_blocking(move || {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            write!(connection, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
            let mut reader = BufReader::new(&connection);
            let (mut line, mut length) = (String::new(), None);
            reader.read_line(&mut line).unwrap();
            statuses.push(line.trim_end().to_owned());
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim_end().parse().ok();
                }
            }
            let mut body = vec![0; length.expect("an answer that is whole has a length")];
            reader.read_exact(&mut body).unwrap();
        }
        statuses
    });
    assert_eq!(answers.await.unwrap(), ["HTTP/1.1 200 OK"; 3]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unix_socket_is_for_its_group_and_a_stale_one_is_replaced() {
    let path = tempfile::tempdir().unwrap().keep().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let config = || ApiConfig { unix: Some(path.clone()), ..ApiConfig::default() };
    let server = Server::start_with(config(), Arc::new(Alone::default())).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let client = Client::builder().unix_socket(path.clone()).build().unwrap();
    assert_eq!(client.get("http://kith/live").send().await.unwrap().text().await.unwrap(), r#"{"live":true}"#);

    assert!(matches!(bind(config()).await, Err(BindError::SocketInUse { .. })));
    server.stop().await;
    assert!(!path.exists(), "the socket's file is removed at the end");
    std::fs::write(&path, "a file").unwrap();
    assert!(matches!(bind(config()).await, Err(BindError::NotASocket { .. })));
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_takes_128_requests_at_once_and_streams_do_not_count() {
    let server = Server::start().await;
    let mut streams = Vec::new();
    for _ in 0..130 {
        streams.push(server.post("/v1/subscriptions", &json!("SELECT id FROM svc")).await);
    }
    assert!(streams.iter().all(|stream| stream.status() == 200));
    // A request whose body does not come is in flight.
    let head = "POST /v1/queries HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n";
    let begin = || {
        let mut connection = TcpStream::connect(server.addr).unwrap();
        connection.write_all(head.as_bytes()).unwrap();
        connection
    };
    let mut waiting: Vec<_> = (0..128).map(|_| begin()).collect();
    let deadline = Instant::now() + BOUND;
    loop {
        let answer = shown(server.post("/v1/queries", &json!("SELECT 1")).await).await;
        if answer.starts_with("503") {
            assert_eq!(answer, r#"503 {"error":"max concurrency limit reached"}"#);
            break;
        }
        assert!(Instant::now() < deadline, "still answered: {answer}");
        // One of them may have been refused because of the question just answered.
        waiting.push(begin());
    }
    assert_eq!(server.get("/live").await.status(), 200, "other routes are not concerned");
    drop(waiting);
    let deadline = Instant::now() + BOUND;
    while server.post("/v1/queries", &json!("SELECT 1")).await.status() != 200 {
        assert!(Instant::now() < deadline, "permits did not come back");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_of_what_is_there() {
    let server = Server::start().await;
    let document: Value = server.get("/openapi.json").await.text().await.unwrap().parse().unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in paths {
        let real = path
            .replace("{id}", "ba247cbc-2a7f-486b-873c-8a9620e72182")
            .replace("{table}", "svc")
            .replace("{part}", "x");
        for (method, described) in methods.as_object().unwrap() {
            // Without a body, so that nothing is done; a stream that begins is dropped.
            let request = server.client.request(method.to_uppercase().parse().unwrap(), server.url(&real));
            let status = request.send().await.unwrap().status().as_u16();
            assert!(
                described["responses"][status.to_string()].is_object(),
                "{method} {path}: {status} is not described"
            );
            assert_ne!(status, 405, "{method} {path}");
        }
        let other = if methods.get("get").is_some() { "DELETE" } else { "GET" };
        let request = server.client.request(other.parse().unwrap(), server.url(&real));
        assert_eq!(request.send().await.unwrap().status(), 405, "{other} {path} is not described");
    }
    // Whatever a route answers is described.
    for (path, body, query) in [
        ("/v1/transactions", "[[", ""),
        ("/v1/transactions", "{}", ""),
        ("/v1/transactions", "[]", ""),
        ("/v1/transactions", "[\"SELECT 1\"]", ""),
        ("/v1/transactions", "[\"DELETE FROM svc\"]", "?replicas=1"),
        ("/v1/queries", "\"SELECT\"", ""),
        ("/v1/queries", "\"SELECT 1\"", "?timeout=x"),
        ("/v1/subscriptions", "\"SELECT random()\"", ""),
        ("/v1/migrations", "[\"CREATE TABLE u (id TEXT NOT NULL PRIMARY KEY, v UNIQUE)\"]", ""),
        ("/v1/table_stats", "[]", ""),
    ] {
        let status = server.post_raw(&format!("{path}{query}"), body.to_owned()).await.status().as_u16();
        let described = &paths[path]["post"]["responses"][status.to_string()];
        assert!(described.is_object(), "{path}{query} {body}: {status} is not described");
    }
    let named: Vec<_> =
        paths["/v1/transactions"]["post"]["parameters"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    assert_eq!(named, ["timeout", "replicas"]);
    server.stop().await;
}
