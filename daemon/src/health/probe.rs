//! A probe: one connection, or one request, to a container's own address and to nothing else.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Check;

/// How long a probe may take. An answer that comes later is none.
const PROBE: Duration = Duration::from_secs(2);
/// Most bytes of an answer's head; its body is not read.
const HEAD: usize = 64 * 1024;

/// Probes a container at `ip`. What is wrong comes back in a few words, of a bounded number, since they are written into a
/// row.
pub(crate) async fn probe(ip: IpAddr, check: Check) -> Result<(), String> {
    let probe = async {
        match check {
            Check::Tcp(port) => connect(ip, port).await.map(drop),
            Check::Http { port, path } => http(ip, port, &path).await,
            Check::Docker | Check::Running => Ok(()),
        }
    };
    timeout(PROBE, probe).await.unwrap_or_else(|_| Err(format!("no answer within {} s", PROBE.as_secs())))
}

async fn connect(ip: IpAddr, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((ip, port)).await.map_err(|error| format!("port {port}: {}", error.kind()))
}

async fn http(ip: IpAddr, port: u16, path: &str) -> Result<(), String> {
    let stream = connect(ip, port).await?;
    let wrong = |what: &str| format!("port {port}: {what}");
    let connected = http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|_| wrong("no answer in HTTP"))?;
    let request = Request::get(path)
        .header(HOST, SocketAddr::new(ip, port).to_string())
        .header(USER_AGENT, "kith")
        .body(Empty::<Bytes>::new())
        .map_err(|_| wrong("the path cannot be asked for"))?;
    // The connection makes the request's progress; when it ends first, the request knows why. Dropping both closes it. A
    // redirection is an answer, and is not followed.
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    };
    match answer.map(|answer| answer.status()) {
        Ok(status) if is_well(status) => Ok(()),
        Ok(status) => Err(wrong(&format!("HTTP {}", status.as_u16()))),
        Err(_) => Err(wrong("no answer in HTTP")),
    }
}

fn is_well(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::header::LOCATION;
    use axum::routing::get;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    fn http(port: u16, path: &str) -> Check {
        Check::Http { port, path: path.to_owned() }
    }

    #[tokio::test]
    async fn an_answer_is_judged_by_its_status_and_a_redirection_is_not_followed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/ok", get(|| async { "fine" }))
            .route("/down", get(|| async { axum::http::StatusCode::SERVICE_UNAVAILABLE }))
            // Whoever followed it would find nothing there.
            .route("/moved", get(|| async { (axum::http::StatusCode::FOUND, [(LOCATION, "http://127.0.0.1:1/")]) }));
        let mut server = JoinSet::new();
        server.spawn(async { axum::serve(listener, routes).await });
        let (ip, port) = (at.ip(), at.port());
        assert_eq!(probe(ip, http(port, "/ok")).await, Ok(()));
        assert_eq!(probe(ip, http(port, "/moved")).await, Ok(()));
        assert_eq!(probe(ip, http(port, "/down")).await, Err(format!("port {port}: HTTP 503")));
        assert_eq!(probe(ip, Check::Tcp(port)).await, Ok(()));
    }

    #[tokio::test]
    async fn who_does_not_listen_or_speaks_something_else_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (ip, port) = (at.ip(), at.port());
        let mut server = JoinSet::new();
        server.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                stream.write_all(&[b'x'; 4096]).await.expect("it is read");
            }
        });
        assert_eq!(probe(ip, http(port, "/")).await, Err(format!("port {port}: no answer in HTTP")));
        server.shutdown().await;
        assert_eq!(probe(ip, Check::Tcp(port)).await, Err(format!("port {port}: connection refused")));
    }
}
