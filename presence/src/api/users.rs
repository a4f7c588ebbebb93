//! Reading and writing users.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kith_gossip_proto::NodeId;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::query::Query;
use super::record::{Records, Sessions};
use super::{App, Center};
use crate::auth::Who;
use crate::core::board::What;
use crate::core::{Message, Refusal, SessionName, Status, Ttl, User, UserId, Write};
use crate::desk::WriteError;

/// Most users of one `?users=`.
pub(crate) const USERS: usize = 200;
/// Most users of one batch, and most heartbeats.
pub(crate) const BATCH: usize = 1_000;
/// A batch of 1,000 ids of 128 bytes, each of them escaped.
const BODY_BYTES: usize = 1 << 20;
/// A body that takes longer is not waited for.
const BODY_TIME: Duration = Duration::from_secs(30);

/// How long to wait for what another node says to all, after it has answered us.
const HEARD: Duration = Duration::from_millis(250);

/// Whose connection a request came by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// A good answer.
#[derive(Serialize)]
pub(crate) struct Envelope<T> {
    success: bool,
    data: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<&'static str>,
}

impl<T: Serialize> Envelope<T> {
    pub(crate) fn of(data: T) -> Self {
        Self { success: true, data, durability: None }
    }

    pub(crate) fn durable(data: T, durability: &'static str) -> Self {
        Self { success: true, data, durability: Some(durability) }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        serde_json::to_vec(&self).expect("records are JSON").into()
    }
}

impl<T: Serialize> IntoResponse for Envelope<T> {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], self.into_bytes()).into_response()
    }
}

pub(crate) fn id(text: &str) -> Result<UserId, ApiError> {
    UserId::try_from(text).map_err(|e| ApiError::bad(e.to_string()))
}

fn path(path: Result<Path<String>, axum::extract::rejection::PathRejection>) -> Result<UserId, ApiError> {
    let Path(text) = path.map_err(|_| ApiError::bad("the user id is not text"))?;
    id(&text)
}

/// The users of `?users=a,b`.
pub(crate) fn listed(query: &Query) -> Result<Vec<UserId>, ApiError> {
    let text = query.get("users").ok_or_else(|| ApiError::bad("the parameter users is missing"))?;
    let users: Vec<_> = text.split(',').filter(|user| !user.is_empty()).collect();
    match users.len() {
        0 => Err(ApiError::bad("the parameter users names nobody")),
        1..=USERS => users.into_iter().map(id).collect(),
        _ => Err(ApiError::too_many("users", USERS)),
    }
}

/// `GET /api/v2/presence/{user_id}`.
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    user: Result<Path<String>, axum::extract::rejection::PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    app.readable()?;
    let (user, query) = (path(user)?, Query::parse(query.as_deref())?);
    let records = Records::of(&app.shown, [&user], sessions(&query));
    let tag = records.tag();
    if tag.is_none() && query.is_set("strict") {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "nothing is known of this user"));
    }
    Ok(tagged(Envelope::of(records).into_response(), tag))
}

/// `GET /api/v2/presence?users=a,b`, or `?online=1` for those who are here.
pub(crate) async fn list(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    app.readable()?;
    let query = Query::parse(query.as_deref())?;
    let users = if query.is_set("online") { app.shown.online(USERS) } else { listed(&query)? };
    Ok(Envelope::of(Records::of(&app.shown, &users, sessions(&query))).into_response())
}

fn sessions(query: &Query) -> Sessions {
    if query.is_set("sessions") { Sessions::Listed } else { Sessions::Hidden }
}

#[derive(Deserialize)]
pub(crate) struct BatchBody {
    user_ids: Vec<String>,
}

impl BatchBody {
    pub(crate) fn users(self) -> Result<Vec<UserId>, ApiError> {
        if self.user_ids.is_empty() {
            return Err(ApiError::bad("user_ids names nobody"));
        }
        if self.user_ids.len() > BATCH {
            return Err(ApiError::too_many("users", BATCH));
        }
        self.user_ids.iter().map(|user| id(user)).collect()
    }
}

/// `POST /api/v2/presence/batch`.
pub(crate) async fn batch(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    app.readable()?;
    let users = json::<BatchBody>(request.into_body()).await?.users()?;
    Ok(Envelope::of(Records::of(&app.shown, &users, Sessions::Hidden)).into_response())
}

/// What is put.
#[derive(Deserialize)]
pub(crate) struct PutBody {
    status: String,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    ttl: Option<i64>,
    #[serde(default)]
    session: Option<String>,
}

impl PutBody {
    pub(crate) fn what(self) -> Result<What, ApiError> {
        let bad = |error: &dyn std::fmt::Display| ApiError::bad(error.to_string());
        let status: Status = self.status.parse().map_err(|e| bad(&e))?;
        let ttl = match self.ttl {
            Some(secs) => Ttl::from_secs(secs).map_err(|e| bad(&e))?,
            None => Ttl::default(),
        };
        let message = self.message.filter(|message| !message.is_empty());
        let message = message.map(Message::try_from).transpose().map_err(|e| bad(&e))?;
        let session = self.session.map(SessionName::try_from).transpose().map_err(|e| bad(&e))?;
        Ok(What::Put { session, status, message, ttl })
    }
}

/// `PUT /api/v2/presence/{user_id}`.
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    user: Result<Path<String>, axum::extract::rejection::PathRejection>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, ApiError> {
    let (user, query) = (path(user)?, Query::parse(query.as_deref())?);
    app.writer(&request)?.may_write(user.as_str())?;
    let if_match = if_match(request.headers())?;
    let what = json::<PutBody>(request.into_body()).await?.what()?;
    app.written(Write { user, if_match, what }, &query).await
}

/// `DELETE /api/v2/presence/{user_id}`.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    user: Result<Path<String>, axum::extract::rejection::PathRejection>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, ApiError> {
    let (user, query) = (path(user)?, Query::parse(query.as_deref())?);
    app.writer(&request)?.may_write(user.as_str())?;
    let token = authorization(request.headers()).unwrap_or_default();
    let session = query.get("session").map(SessionName::try_from).transpose();
    let session = session.map_err(|e| ApiError::bad(e.to_string()))?;
    let if_match = if_match(request.headers())?;
    let tag = app.shown.get(&user).map_or_else(|| User::default().tag(), |entry| entry.user.tag());
    if if_match.is_some_and(|wanted| wanted != tag) {
        return Err(ApiError::from(WriteError::Refused(Refusal::Changed)));
    }
    app.end_elsewhere(&user, session.as_ref(), token).await;
    // The tag was checked: what ended elsewhere has changed it, and is not undone.
    app.written(Write { user, if_match: None, what: What::End { session } }, &query).await
}

#[derive(Deserialize)]
pub(crate) struct Beats {
    sessions: Vec<BeatBody>,
}

#[derive(Deserialize)]
struct BeatBody {
    user_id: String,
    #[serde(default)]
    session: Option<String>,
}

impl Beats {
    /// The sessions; every one must be of a user of whom `who` may write.
    pub(crate) fn sessions(self, who: Option<&Who>) -> Result<Vec<(UserId, SessionName)>, ApiError> {
        if self.sessions.len() > BATCH {
            return Err(ApiError::too_many("heartbeats", BATCH));
        }
        let one = |beat: BeatBody| {
            let user = id(&beat.user_id)?;
            who.map_or(Ok(()), |who| who.may_write(user.as_str()))?;
            let session = beat.session.map(SessionName::try_from).transpose();
            Ok((user, session.map_err(|e| ApiError::bad(e.to_string()))?.unwrap_or_default()))
        };
        self.sessions.into_iter().map(one).collect()
    }
}

/// What became of heartbeats.
#[derive(Serialize)]
pub(crate) struct Beaten<'a> {
    extended: usize,
    /// Sessions that are over, which only a PUT begins again.
    unknown: Vec<Unknown<'a>>,
}

#[derive(Serialize)]
struct Unknown<'a> {
    user_id: &'a str,
    session: &'a str,
}

impl<'a> Beaten<'a> {
    pub(crate) fn new(beats: &'a [(UserId, SessionName)], known: &[bool]) -> Self {
        let unknown = beats.iter().zip(known).filter(|(_, known)| !**known);
        let unknown: Vec<_> =
            unknown.map(|((user, session), _)| Unknown { user_id: user.as_str(), session: session.as_str() }).collect();
        Self { extended: beats.len() - unknown.len(), unknown }
    }
}

/// `POST /api/v2/presence/heartbeat`.
pub(crate) async fn heartbeat(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let who = app.writer(&request)?;
    let beats = json::<Beats>(request.into_body()).await?.sessions(Some(&who))?;
    app.readable()?;
    let known = app.desk.beats(beats.clone()).await?;
    Ok(Envelope::of(Beaten::new(&beats, &known)).into_response())
}

impl App {
    /// Reads wait until there is something to read.
    pub(crate) fn readable(&self) -> Result<(), ApiError> {
        if self.shown.is_filled() { Ok(()) } else { Err(ApiError::unavailable("the node has not read its users yet")) }
    }

    /// Who writes by this request.
    fn writer(&self, request: &Request) -> Result<Who, ApiError> {
        if let Some(Peer(peer)) = request.extensions().get::<Peer>() {
            self.limits.address(peer.ip()).map_err(ApiError::limited)?;
        }
        self.who(authorization(request.headers()))
    }

    /// Who writes with this token.
    pub(crate) fn who(&self, authorization: Option<&str>) -> Result<Who, ApiError> {
        let who = self.auth.check(authorization)?;
        self.limits.token(&who.sub).map_err(ApiError::limited)?;
        Ok(who)
    }

    async fn written(&self, write: Write, query: &Query) -> Result<Response, ApiError> {
        let wanted = Durability::of(query)?;
        let user = write.user.clone();
        self.write(write).await?;
        let entry = self.shown.get(&user);
        let tag = entry.map(|entry| entry.user.tag());
        let answer = |durability| Envelope::durable(Records::of(&self.shown, [&user], Sessions::Hidden), durability);
        if wanted == Durability::Center && self.others.confirm(&user).await == Center::Away {
            let mut response = answer("local").into_response();
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(1));
            return Ok(response);
        }
        let durability = if wanted == Durability::Center { "center" } else { "local" };
        Ok(tagged(answer(durability).into_response(), tag))
    }

    /// Has other nodes end what they hold of a user, by the token of who asks. One that is away keeps it, and one that does
    /// not believe the token; what is answered shows that.
    pub(crate) async fn end_elsewhere(&self, user: &UserId, session: Option<&SessionName>, authorization: &str) {
        let mut follower = self.hub.follower();
        let follows = follower.follow([user.clone()]);
        let elsewhere = || {
            let (entry, sight) = (self.shown.get(user), self.shown.sight());
            let nodes: BTreeSet<NodeId> = entry
                .iter()
                .flat_map(|entry| entry.user.sessions())
                .filter(|(node, name, _)| **node != sight.me && session.is_none_or(|session| session == *name))
                .map(|(node, ..)| node.clone())
                .collect();
            nodes
        };
        let nodes = elsewhere();
        let asked = nodes.iter().map(|node| self.others.end(node, user, session, authorization));
        let ended = futures_util::future::join_all(asked).await.into_iter().filter(|ended| *ended).count();
        // They say so to all as they answer us; both come by different ways.
        let heard = async {
            while nodes.len() - elsewhere().len().min(nodes.len()) < ended {
                follower.changed(1).await;
            }
        };
        if follows.is_ok() {
            drop(tokio::time::timeout(HEARD, heard).await);
        }
    }

    pub(crate) async fn write(&self, write: Write) -> Result<(), ApiError> {
        self.readable()?;
        Ok(self.desk.write(write).await?)
    }
}

/// What a writer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    Local,
    Center,
}

impl Durability {
    fn of(query: &Query) -> Result<Self, ApiError> {
        match query.get("durability") {
            None | Some("local") => Ok(Self::Local),
            Some("center") => Ok(Self::Center),
            Some(_) => Err(ApiError::bad("durability is local or center")),
        }
    }
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()
}

fn if_match(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(header) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let tag = header.to_str().ok().and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"'));
    let tag = tag.and_then(|tag| u64::from_str_radix(tag, 16).ok());
    // A tag that we never gave matches nothing.
    Ok(Some(tag.ok_or_else(|| ApiError::new(StatusCode::PRECONDITION_FAILED, "the user was changed since"))?))
}

fn tagged(mut response: Response, tag: Option<u64>) -> Response {
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, entity_tag(tag))));
    response
}

/// The tag as it stands in a head.
pub(super) fn entity_tag(tag: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{tag:016x}\"")).expect("hex digits between quotes")
}

pub(crate) async fn json<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let read = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, BODY_BYTES)).await;
    let read = read.map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body took longer than 30 s"))?;
    let bytes =
        read.map_err(|_| ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 1 MiB, or broken off"))?;
    serde_json::from_slice(&bytes).map_err(|e| ApiError::bad(format!("not the JSON that is wanted: {e}")))
}
