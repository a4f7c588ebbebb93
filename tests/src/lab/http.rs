//! The HTTP API, spoken plainly: the lab sees bytes and status codes, not what a client makes of them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One request, its answer read whole. Nothing the lab asks for takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A stream has no end of its own; no test lasts longer.
const A_DAY: Duration = Duration::from_secs(86_400);

/// The API of one node.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    client: reqwest::Client,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status code.
    pub status: u16,
    /// The whole body.
    pub body: String,
}

impl Reply {
    /// The body as JSON; `Null` if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The lines of the body as JSON.
    #[must_use]
    pub fn lines(&self) -> Vec<Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap_or_default()).collect()
    }
}

impl Api {
    /// # Panics
    /// If the HTTP client cannot be made.
    #[must_use]
    pub fn new(address: SocketAddr) -> Api {
        Api { base: format!("http://{address}"), client: client().build().expect("a plain client can be made") }
    }

    /// By its Unix socket, which is reached from any network namespace.
    ///
    /// # Panics
    /// If the HTTP client cannot be made.
    #[must_use]
    pub fn unix(socket: &Path) -> Api {
        let client = client().unix_socket(socket).build().expect("a plain client can be made");
        Api { base: "http://localhost".to_owned(), client }
    }

    /// GET of `path`.
    ///
    /// # Errors
    /// When no whole answer comes within 10 s.
    pub async fn get(&self, path: &str) -> Result<Reply, String> {
        self.send(self.client.get(format!("{}{path}", self.base))).await
    }

    /// POST of `body` as it is, said to be `content_type`.
    ///
    /// # Errors
    /// When no whole answer comes within 10 s.
    pub async fn post_raw(&self, path: &str, content_type: &str, body: impl Into<String>) -> Result<Reply, String> {
        let request = self.client.post(format!("{}{path}", self.base)).header("content-type", content_type);
        self.send(request.body(body.into())).await
    }

    /// POST of `body`.
    ///
    /// # Errors
    /// When no whole answer comes within 10 s.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply, String> {
        self.post_raw(path, "application/json", body.to_string()).await
    }

    /// One transaction of one statement; returns its version once it is acknowledged.
    ///
    /// # Errors
    /// When it is not acknowledged, with what was said instead.
    pub async fn execute(&self, sql: &str, parameters: &Value) -> Result<u64, String> {
        let reply = self.post("/v1/transactions", &json!([[sql, parameters]])).await?;
        let version = reply.json()["version"].as_u64().filter(|_| reply.status == 200);
        version.ok_or_else(|| format!("{sql}: {} {}", reply.status, reply.body))
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// When it does not end well, with what was said instead.
    pub async fn query(&self, sql: &str) -> Result<Vec<Value>, String> {
        let reply = self.post("/v1/queries", &json!(sql)).await?;
        let lines = reply.lines();
        if reply.status != 200 || lines.last().is_none_or(|last| last.get("eoq").is_none()) {
            return Err(format!("{sql}: {} {}", reply.status, reply.body));
        }
        Ok(lines.iter().filter_map(|line| line.get("row")).map(|row| row[1].clone()).collect())
    }

    /// The digest of all that the node knows, as text.
    ///
    /// # Errors
    /// When the node does not tell it.
    pub async fn digest(&self) -> Result<String, String> {
        let reply = self.get("/v1/digest").await?;
        let digest = reply.json()["digest"].as_str().map(str::to_owned).filter(|_| reply.status == 200);
        digest.ok_or_else(|| format!("{} {}", reply.status, reply.body))
    }

    /// The members that the node sees up, sorted.
    ///
    /// # Errors
    /// When the node does not tell.
    pub async fn members_up(&self) -> Result<Vec<String>, String> {
        let reply = self.get("/v1/members").await?;
        let lines = reply.lines();
        let members = lines.iter().filter_map(|line| line.get("member")).filter(|m| m["state"] == "up");
        let mut names: Vec<_> = members.filter_map(|m| m["server"].as_str()).map(str::to_owned).collect();
        names.sort();
        if reply.status == 200 { Ok(names) } else { Err(format!("{} {}", reply.status, reply.body)) }
    }

    /// The head of a stream of lines that goes on until somebody ends it: POST of `body`, or GET.
    ///
    /// # Errors
    /// When there is no head, or one that refuses.
    pub async fn stream(&self, path: &str, body: Option<&Value>) -> Result<reqwest::Response, String> {
        let url = format!("{}{path}", self.base);
        let request = match body {
            Some(body) => self.client.post(url).header("content-type", "application/json").body(body.to_string()),
            None => self.client.get(url),
        };
        let answer = request.timeout(A_DAY).send().await.map_err(|e| chain(&e))?;
        if answer.status() == 200 { Ok(answer) } else { Err(format!("{path}: {}", answer.status())) }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Reply, String> {
        let answer = request.send().await.map_err(|e| chain(&e))?;
        let status = answer.status().as_u16();
        let body = answer.text().await.map_err(|e| chain(&e))?;
        Ok(Reply { status, body })
    }
}

/// GET of `path` from whoever is at the other end of this connection, which is used up.
///
/// # Errors
/// When no whole answer comes within 10 s.
pub(super) async fn get_by(connection: std::net::TcpStream, path: &str) -> Result<Reply, String> {
    let exchange = async {
        connection.set_nonblocking(true)?;
        let mut connection = TcpStream::from_std(connection)?;
        // HTTP/1.0 ends an answer with the connection, so that there is nothing to decode.
        connection.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer: std::io::Result<String> = timeout(PATIENCE, exchange).await.map_err(|e| e.to_string())?;
    let answer = answer.map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {answer}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Reply { status: status.ok_or_else(|| format!("no answer: {head}"))?, body: body.to_owned() })
}

fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE)
}

/// An error with all its sources: reqwest's own words leave out why.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |e| e.source()).map(|e| format!(": {e}"));
    std::iter::once(error.to_string()).chain(sources).collect()
}
