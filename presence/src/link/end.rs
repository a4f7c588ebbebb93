//! Ending sessions that another node holds: it alone ends them, so it is asked to.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use futures_util::StreamExt;
use kith_gossip_proto::NodeId;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{LinkError, key};
use crate::api::App;
use crate::core::board::What;
use crate::core::{SessionName, UserId, Write};

/// A node that does not answer within this is away: its sessions are stale in 3 s, and offline in 30.
const ANSWER: Duration = Duration::from_secs(1);

/// What is to end: one session of a user, or all that the node holds.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    user: UserId,
    #[serde(default)]
    session: Option<SessionName>,
}

/// Asks a node to end sessions. False if it did not say that it has.
pub(super) async fn ask(client: Client, node: NodeId, user: UserId, session: Option<SessionName>) -> bool {
    let payload = serde_json::to_vec(&End { user, session }).expect("names are JSON");
    let answer = tokio::time::timeout(ANSWER, client.request(key::end(&node), payload.into())).await;
    matches!(answer, Ok(Ok(message)) if message.payload.as_ref() == b"ended")
}

/// Ends what other nodes ask for.
pub(super) async fn serve(
    client: Client,
    node: NodeId,
    app: Arc<App>,
    done: CancellationToken,
) -> Result<(), LinkError> {
    let refused = |e: &dyn std::fmt::Display| LinkError::Refused(e.to_string());
    let mut asked = client.subscribe(key::end(&node)).await.map_err(|e| refused(&e))?;
    loop {
        // Who is not answered asks again, or sees that the session goes on.
        let message = tokio::select! {
            message = asked.next() => message,
            () = done.cancelled() => return Ok(()),
        };
        let Some(message) = message else { return Err(LinkError::Away("the subscription ended".to_owned())) };
        let Ok(End { user, session }) = serde_json::from_slice(&message.payload) else { continue };
        let ended = app.desk.write(Write { user, if_match: None, what: What::End { session } }).await;
        if let Some(reply) = message.reply {
            let answer: &'static [u8] = if ended.is_ok() { b"ended" } else { b"not ended" };
            drop(client.publish(reply, answer.into()).await);
        }
    }
}
