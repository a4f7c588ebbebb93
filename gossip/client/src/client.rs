//! The client: one method per route of the API.
//!
//! | route | method |
//! |---|---|
//! | POST /v1/transactions | [`Client::execute`] |
//! | POST /v1/queries | [`Client::query`] |
//! | POST and GET /v1/subscriptions | [`Client::subscribe`], [`Client::follow`] |
//! | POST /v1/updates/{table} | [`Client::updates`] |
//! | GET /v1/members | [`Client::members`], [`Client::watch_members`] |
//! | POST /v1/migrations | [`Client::migrate`] |
//! | GET /v1/health, /v1/status, /v1/digest | [`Client::health`], [`Client::status`], [`Client::digest`] |
//! | GET /v1/backup, /v1/verify | [`Client::backup`], [`Client::verify`] |
//! | PUT /v1/status/{part} | [`Client::report`] |
//! | PUT /v1/metrics/{part} | [`Client::report_metrics`] |
//! | GET /live, /ready, /metrics | [`Client::live`], [`Client::ready`], [`Client::metrics`] |

use std::time::Duration;

use http::{Method, StatusCode, header};
use reqwest::{RequestBuilder, Response, redirect};
use serde::{Deserialize, Serialize};

use crate::body;
use crate::endpoint::{Endpoint, Token};
use crate::error::{Cause, Error};
use crate::follow::Follow;
use crate::members::{Member, MemberEvent, MembersSource, Watched};
use crate::ndjson::Lines;
use crate::query::Query;
use crate::statement::Statement;
use crate::subscription::{Commits, Subscription, SubscriptionSource};
use crate::updates::Updates;

/// How long a connection may take to be made. The API is on this host or on the next.
const CONNECT: Duration = Duration::from_secs(5);

/// How long the head of an answer may take, and a whole one-shot answer. The server gives a statement 60 s; the rest is
/// the way there and back.
const ANSWER: Duration = Duration::from_secs(70);

/// Silence on a TCP connection after which the kernel probes the other end, three times: a subscription may rightly be
/// silent for days, so only this finds out that a host is gone.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A client of one store. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    token: Option<Token>,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Executed {
    /// One result per statement, in order.
    pub results: Vec<StatementResult>,
    /// The site's version that the transaction became; `None` when it changed no replicated row.
    #[serde(default)]
    pub version: Option<u64>,
    /// The site id: 32 hex digits.
    #[serde(default)]
    pub actor_id: Option<String>,
    /// How long it took in the store.
    #[serde(default, deserialize_with = "seconds")]
    pub time: Duration,
}

/// What one statement of a transaction did.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StatementResult {
    /// Rows inserted, updated or deleted.
    #[serde(default)]
    pub rows_affected: u64,
    /// How long it took in the store.
    #[serde(default, deserialize_with = "seconds")]
    pub time: Duration,
}

/// What a migration added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Migrated {
    /// Tables.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Columns, as `table.column`.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Indexes that were made, or made anew because their declaration changed.
    #[serde(default)]
    pub indexes: Vec<String>,
}

/// The store's health, as it judges itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Health {
    /// Versions known to exist and not held, which for stores without gap tables is 0.
    pub gaps: u64,
    /// Other members that are up.
    pub members: u64,
    /// Seconds from a commit elsewhere to its application here, 99th percentile.
    pub p99_lag: f64,
    /// Versions that wait to be applied.
    pub queue_size: u64,
}

/// What a node holds, in a few numbers. Nodes with equal heads have equal digests, or one of them is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Hash of the whole replicated state.
    pub digest: String,
    /// Hash of the last version of each site that is applied here.
    pub heads_hash: String,
    /// Hash of the schema.
    pub schema: String,
}

/// A copy of a store as it comes.
#[derive(Debug)]
pub struct Backup {
    endpoint: Endpoint,
    response: Response,
    left: Option<u64>,
}

impl Backup {
    /// The next bytes; None once all have come. Waits as long as it takes: whoever hangs up breaks the connection.
    pub async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, Error> {
        let chunk = self.response.chunk().await.map_err(|error| body::broken(&self.endpoint, &error))?;
        let length = chunk.as_ref().map_or(0, bytes::Bytes::len) as u64;
        self.left = self.left.map(|left| left.saturating_sub(length));
        match chunk {
            None if self.left.is_some_and(|left| left > 0) => Err(Error::Incomplete),
            chunk => Ok(chunk),
        }
    }
}

/// Whether the node serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Everything that must be ready is.
    Ready,
    /// What it waits for, in the server's words.
    Waiting(Vec<String>),
}

impl Client {
    /// A client of the store at `endpoint`. Connects when first used.
    pub fn new(endpoint: Endpoint, token: Option<Token>) -> Result<Client, Error> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            .tcp_keepalive_interval(KEEPALIVE)
            .tcp_keepalive_retries(3);
        if let Endpoint::Unix(path) = &endpoint {
            builder = builder.unix_socket(path.as_path());
        }
        let http = builder.build().map_err(|e| Error::Prepare(Cause::of(&e)))?;
        Ok(Client { http, endpoint, token })
    }

    /// Where this client sends its requests.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Runs statements in one transaction, all or none. One attempt: after [`Error::TimedOut`] or [`Error::Broken`] the
    /// caller must find out whether it happened.
    pub async fn execute(&self, statements: &[Statement]) -> Result<Executed, Error> {
        let request = self.json(Method::POST, "v1/transactions", statements)?;
        self.whole(async { body::read_json(&self.endpoint, self.send(request).await?).await }).await
    }

    /// The same, answered once so many other nodes have the transaction stored and synced, within a time. Where they have not
    /// the error is the store's with status 504, and the transaction stands.
    pub async fn execute_on(
        &self,
        statements: &[Statement],
        replicas: usize,
        within: Duration,
    ) -> Result<Executed, Error> {
        let path = format!("v1/transactions?replicas={replicas}&timeout={}", within.as_secs_f64());
        let request = self.json(Method::POST, &path, statements)?;
        self.whole(async { body::read_json(&self.endpoint, self.send(request).await?).await }).await
    }

    /// Runs one read-only statement; returns when its columns are known.
    pub async fn query(&self, statement: impl Into<Statement>) -> Result<Query, Error> {
        let request = self.json(Method::POST, "v1/queries", &statement.into())?;
        let response = self.send(request).await?;
        Query::begin(Lines::of(&self.endpoint, response)).await
    }

    /// A live query. Returns once the server has accepted it, so that a statement that cannot work fails here; from
    /// then on the stream reconnects by itself, see [`Event`](crate::Event).
    pub async fn subscribe(&self, statement: impl Into<Statement>) -> Result<Subscription, Error> {
        Follow::begun(self.clone(), SubscriptionSource::new(statement.into(), Commits::Unmarked)).await
    }

    /// A live query whose stream also makes the first connection, and goes on trying: for parts that may start before
    /// their store does.
    pub fn follow(&self, statement: impl Into<Statement>) -> Subscription {
        Follow::new(self.clone(), SubscriptionSource::new(statement.into(), Commits::Unmarked))
    }

    /// The same, with an [`Event::Committed`](crate::Event::Committed) behind the rows, and behind the changes of each commit or
    /// several: for who must not show half of a transaction. A store that knows no such marks sends none.
    pub fn follow_commits(&self, statement: impl Into<Statement>) -> Subscription {
        Follow::new(self.clone(), SubscriptionSource::new(statement.into(), Commits::Marked))
    }

    /// The members as this node sees them, once.
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        self.whole(async {
            let mut stream = Follow::begun(self.clone(), MembersSource::new(Watched::Once)).await?;
            let mut members = Vec::new();
            loop {
                match stream.next_event().await {
                    Some(Ok(MemberEvent::Member(member))) => members.push(member),
                    Some(Ok(MemberEvent::Synced)) => return Ok(members),
                    Some(Ok(MemberEvent::Reset)) => members.clear(),
                    Some(Ok(MemberEvent::Lost { .. })) | None => return Err(Error::Incomplete),
                    Some(Err(error)) => return Err(error),
                }
            }
        })
        .await
    }

    /// The rows of a table that change, by their keys, from now on.
    pub async fn updates(&self, table: &str) -> Result<Updates, Error> {
        let request = self.bare(Method::POST, &format!("v1/updates/{}", segment(table)));
        Ok(Updates::of(Lines::of(&self.endpoint, self.send(request).await?)))
    }

    /// The members, and each change of one from then on. The stream makes its first connection itself and goes on
    /// trying.
    pub fn watch_members(&self) -> Follow<MemberEvent> {
        Follow::new(self.clone(), MembersSource::new(Watched::OnAndOn))
    }

    /// Adds tables, columns and indexes by texts of schema, all or none.
    pub async fn migrate(&self, schema: &[String]) -> Result<Migrated, Error> {
        self.migration("v1/migrations", schema).await
    }

    /// What [`migrate`](Self::migrate) would add. Nothing is changed.
    pub async fn try_migration(&self, schema: &[String]) -> Result<Migrated, Error> {
        self.migration("v1/migrations?dry_run=true", schema).await
    }

    async fn migration(&self, path: &str, schema: &[String]) -> Result<Migrated, Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            migrated: Migrated,
        }
        let request = self.json(Method::POST, path, schema)?;
        let answer: Answer =
            self.whole(async { body::read_json(&self.endpoint, self.send(request).await?).await }).await?;
        Ok(answer.migrated)
    }

    /// The store's own figures of health.
    pub async fn health(&self) -> Result<Health, Error> {
        #[derive(Deserialize)]
        struct Answer {
            response: Health,
        }
        let answer: Answer = self.get("v1/health").await?;
        Ok(answer.response)
    }

    /// The node's status, every part of it, as the server shapes it.
    pub async fn status(&self) -> Result<serde_json::Value, Error> {
        self.get("v1/status").await
    }

    /// Leaves the status of a part beside the node's own, until it is replaced or the store restarts: this is how a
    /// part that is joined by the API only, perhaps from another process, is seen in [`Client::status`].
    pub async fn report<T: Serialize + ?Sized>(&self, part: &str, status: &T) -> Result<(), Error> {
        let request = self.json(Method::PUT, &format!("v1/status/{part}"), status)?;
        self.whole(async { body::read(&self.endpoint, self.send(request).await?).await.map(drop) }).await
    }

    /// Leaves a part's figures beside the node's own, for some seconds: lines of OpenMetrics that all begin with
    /// `kith_{part}_`. They are then among what [`Client::metrics`] gives.
    pub async fn report_metrics(&self, part: &str, lines: &str) -> Result<(), Error> {
        let request = self.json(Method::PUT, &format!("v1/metrics/{part}"), lines)?;
        self.whole(async { body::read(&self.endpoint, self.send(request).await?).await.map(drop) }).await
    }

    /// A copy of the node's whole store, as a database file.
    pub async fn backup(&self) -> Result<Backup, Error> {
        let response = self.send(self.bare(Method::GET, "v1/backup")).await?;
        Ok(Backup { endpoint: self.endpoint.clone(), left: response.content_length(), response })
    }

    /// Lets the node make its log and digest anew from the rows, and compare.
    pub async fn verify(&self) -> Result<serde_json::Value, Error> {
        self.get("v1/verify").await
    }

    /// What this node holds, in a few numbers.
    pub async fn digest(&self) -> Result<Digest, Error> {
        self.get("v1/digest").await
    }

    /// Whether the process answers at all.
    pub async fn live(&self) -> Result<(), Error> {
        self.text("live").await.map(drop)
    }

    /// Whether the node serves, and if not what it waits for.
    pub async fn ready(&self) -> Result<Readiness, Error> {
        #[derive(Deserialize)]
        struct Answer {
            waiting: Vec<String>,
        }
        let request = self.bare(Method::GET, "ready");
        self.whole(async {
            let response = request.send().await.map_err(|e| self.failed(&e))?;
            if !matches!(response.status(), StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE) {
                return Err(body::refusal(response).await);
            }
            let Answer { waiting } = body::read_json(&self.endpoint, response).await?;
            Ok(if waiting.is_empty() { Readiness::Ready } else { Readiness::Waiting(waiting) })
        })
        .await
    }

    /// The metrics in Prometheus' text form.
    pub async fn metrics(&self) -> Result<String, Error> {
        self.text("metrics").await
    }

    /// A request without a body.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        let url = self.endpoint.base().join(path).expect("the paths of the API are valid");
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    /// A request with a JSON body.
    pub(crate) fn json<T: Serialize + ?Sized>(
        &self,
        method: Method,
        path: &str,
        body: &T,
    ) -> Result<RequestBuilder, Error> {
        let body = serde_json::to_vec(body).map_err(|e| Error::Prepare(Cause::of(&e)))?;
        Ok(self.bare(method, path).header(header::CONTENT_TYPE, "application/json").body(body))
    }

    /// Sends a request and waits for the head of a successful answer.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = self.whole(async { request.send().await.map_err(|e| self.failed(&e)) }).await?;
        if response.status().is_success() { Ok(response) } else { Err(body::refusal(response).await) }
    }

    async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T, Error> {
        let request = self.bare(Method::GET, path);
        self.whole(async { body::read_json(&self.endpoint, self.send(request).await?).await }).await
    }

    async fn text(&self, path: &str) -> Result<String, Error> {
        let request = self.bare(Method::GET, path);
        let body = self.whole(async { body::read(&self.endpoint, self.send(request).await?).await }).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Bounds the time of a call that has an end.
    async fn whole<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let late = || Error::TimedOut { endpoint: self.endpoint.clone(), waited: ANSWER };
        tokio::time::timeout(ANSWER, call).await.unwrap_or_else(|_| Err(late()))
    }

    /// Sorts a failure to send by what the caller may conclude: nothing was sent, or something may have been.
    fn failed(&self, error: &reqwest::Error) -> Error {
        let (endpoint, source) = (self.endpoint.clone(), Cause::of(error));
        if error.is_builder() {
            Error::Prepare(source)
        } else if error.is_connect() {
            Error::Unreachable { endpoint, source }
        } else {
            Error::Broken { endpoint, source }
        }
    }
}

/// A time in seconds as the API writes it. What is no duration (negative, not finite) is zero: it is shown, never used.
fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// One segment of a path: what is not unreserved is escaped (RFC 3986 §2.3).
fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
