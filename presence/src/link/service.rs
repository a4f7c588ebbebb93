//! The operations of the API as a NATS micro service: `presence.v2.get`, `batch`, `put`, `delete`, `heartbeat`; and
//! `presence.end.<node>`, by which nodes ask the one that holds a session to end it: `delete` of that node alone.
//!
//! Payloads are the bodies of the API, with `user_id` in them where the API has it in the path; a token comes in the header
//! `Authorization`. Answers are the API's envelope; one that is no success also has the headers of a service error. Any node
//! may answer: NATS takes one near the asker. Tokens are checked as those of HTTP are, by the same rules, whoever asks.

use std::sync::Arc;

use async_nats::service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE, Request, ServiceExt};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::StreamExt;
use kith_gossip_proto::NodeId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{LinkError, key};
use crate::api::record::{Records, Sessions};
use crate::api::users::{BatchBody, Beaten, Beats, Envelope, PutBody};
use crate::api::{ApiError, App};
use crate::core::board::What;
use crate::core::{SessionName, UserId, Write};

/// Requests that are in work. Those beyond wait in the subscription, where NATS drops what is too much.
const AT_ONCE: usize = 256;

#[derive(Debug, Clone, Copy)]
enum Operation {
    Get,
    Batch,
    Put,
    Delete,
    Heartbeat,
    /// Of what this node holds.
    End,
}

const OPERATIONS: [(&str, Operation); 5] = [
    ("get", Operation::Get),
    ("batch", Operation::Batch),
    ("put", Operation::Put),
    ("delete", Operation::Delete),
    ("heartbeat", Operation::Heartbeat),
];

#[derive(Deserialize)]
struct OfUser<T> {
    user_id: UserId,
    #[serde(flatten)]
    rest: T,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize)]
struct DeleteBody {
    #[serde(default)]
    session: Option<SessionName>,
}

/// Serves until it is told to end.
pub(super) async fn serve(
    client: Client,
    node: NodeId,
    app: Arc<App>,
    done: CancellationToken,
) -> Result<(), LinkError> {
    let wrong = |e: Box<dyn std::error::Error + Send + Sync>| LinkError::Refused(e.to_string());
    let version = app.release.split(['-', '+']).next().unwrap_or("0.0.0").to_owned();
    let service = client.service_builder().description("who is online").start("kith-presence", version).await;
    let service = service.map_err(wrong)?;
    let group = service.group("presence.v2");
    let mut requests = futures_util::stream::SelectAll::new();
    for (name, operation) in OPERATIONS {
        let endpoint = group.endpoint(name).await.map_err(wrong)?;
        requests.push(endpoint.map(move |request| (operation, request)).boxed());
    }
    let endpoint = service.endpoint_builder().name("end").add(key::end(&node)).await.map_err(wrong)?;
    requests.push(endpoint.map(|request| (Operation::End, request)).boxed());
    let mut working: JoinSet<()> = JoinSet::new();
    loop {
        // A request that is dropped here is asked again by whoever waits for its answer.
        let next = tokio::select! {
            next = requests.next() => next,
            Some(_) = working.join_next() => continue,
            () = done.cancelled() => break,
        };
        let Some((operation, request)) = next else { break };
        if working.len() >= AT_ONCE {
            working.join_next().await;
        }
        let app = Arc::clone(&app);
        working.spawn(async move { respond(operation, &app, &request).await });
    }
    working.shutdown().await;
    drop(requests);
    done.cancelled().await;
    Ok(())
}

async fn respond(operation: Operation, app: &App, request: &Request) {
    let mut headers = HeaderMap::new();
    let answer = answer(operation, app, request).await.unwrap_or_else(|error| {
        // A header holds one line.
        let line: String = error.message().chars().filter(|c| !c.is_control()).collect();
        headers.insert(NATS_SERVICE_ERROR, line);
        headers.insert(NATS_SERVICE_ERROR_CODE, error.status().as_str());
        if let Some(after) = error.retry_after() {
            headers.insert("Retry-After", after.to_string());
        }
        error.body().into()
    });
    if let Err(error) = request.respond_with_headers(Ok(answer), headers).await {
        tracing::debug!(%error, "a request is not answered");
    }
}

async fn answer(operation: Operation, app: &App, request: &Request) -> Result<Bytes, ApiError> {
    app.readable()?;
    let payload = &request.message.payload;
    let header = request.message.headers.as_ref().and_then(|headers| headers.get("Authorization"));
    let authorization = header.map(async_nats::HeaderValue::as_str);
    let users = match operation {
        Operation::Get => vec![parse::<OfUser<Nothing>>(payload)?.user_id],
        Operation::Batch => parse::<BatchBody>(payload)?.users()?,
        Operation::Put => {
            let who = app.who(authorization)?;
            let OfUser { user_id: user, rest } = parse::<OfUser<PutBody>>(payload)?;
            who.may_write(user.as_str())?;
            app.write(Write { user: user.clone(), if_match: None, what: rest.what()? }).await?;
            vec![user]
        }
        Operation::Delete => {
            let who = app.who(authorization)?;
            let OfUser { user_id: user, rest } = parse::<OfUser<DeleteBody>>(payload)?;
            who.may_write(user.as_str())?;
            app.end_elsewhere(&user, rest.session.as_ref(), authorization.unwrap_or_default()).await;
            app.write(Write { user: user.clone(), if_match: None, what: What::End { session: rest.session } }).await?;
            vec![user]
        }
        Operation::End => {
            let who = app.who(authorization)?;
            let OfUser { user_id: user, rest } = parse::<OfUser<DeleteBody>>(payload)?;
            who.may_write(user.as_str())?;
            app.write(Write { user: user.clone(), if_match: None, what: What::End { session: rest.session } }).await?;
            vec![user]
        }
        Operation::Heartbeat => {
            let who = app.who(authorization)?;
            let beats = parse::<Beats>(payload)?.sessions(Some(&who))?;
            let known = app.desk.beats(beats.clone()).await?;
            return Ok(Envelope::of(Beaten::new(&beats, &known)).into_bytes());
        }
    };
    Ok(Envelope::of(Records::of(&app.shown, &users, Sessions::Hidden)).into_bytes())
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(payload).map_err(|e| ApiError::bad(format!("not the JSON that is wanted: {e}")))
}
