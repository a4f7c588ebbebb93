//! Ending sessions that another node holds: it alone ends them, so it is asked to, with the token of who wants it.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use kith_gossip_proto::NodeId;
use serde::Deserialize;
use serde_json::json;

use super::key;
use crate::core::{SessionName, UserId};

/// A node that does not answer within this is away: its sessions are stale in 3 s, and offline in 30.
const ANSWER: Duration = Duration::from_secs(1);

/// As much of an answer as it takes to know.
#[derive(Deserialize)]
struct Answer {
    success: bool,
}

/// Asks a node to end sessions. False if it did not say that it has.
pub(super) fn ask(
    client: Client,
    node: &NodeId,
    user: &UserId,
    session: Option<&SessionName>,
    authorization: String,
) -> impl Future<Output = bool> + Send + use<> {
    let mut body = json!({"user_id": user.as_str()});
    if let Some(session) = session {
        body["session"] = session.as_str().into();
    }
    let mut headers = HeaderMap::new();
    headers.insert("Authorization", authorization);
    let subject = key::end(node);
    async move {
        let request = client.request_with_headers(subject, headers, body.to_string().into());
        let Ok(Ok(message)) = tokio::time::timeout(ANSWER, request).await else { return false };
        serde_json::from_slice::<Answer>(&message.payload).is_ok_and(|answer| answer.success)
    }
}
