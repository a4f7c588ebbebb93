//! `GET /api/v2/presence/ws`: a WebSocket on which a client says whom it follows.
//!
//! ```text
//!  ─► {"op":"subscribe","users":[…],"since":"id"?}   ◄─ {"op":"snapshot","id":…,"data":{…}}
//!  ─► {"op":"unsubscribe","users":[…]}               ◄─ {"op":"change","id":…?,"data":{…}}
//!                                                    ◄─ {"op":"error","error":"…"}
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::App;
use super::error::ApiError;
use super::record::Records;
use super::users::id;
use crate::core::UserId;
use crate::hub::Follower;

/// A client's message: 1,000 ids of 128 bytes fit.
const MESSAGE_BYTES: usize = 256 << 10;
/// Most users in one message, and followed by one connection.
const USERS: usize = 1_000;
const FOLLOWED: usize = 10_000;
/// Changes in one message.
const AT_ONCE: usize = 256;
/// A client that takes nothing for so long is closed.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Proxies cut connections on which nothing comes for a minute; a client that is gone is found by it.
const PING: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Asks {
    Subscribe {
        users: Vec<String>,
        #[serde(default)]
        since: Option<String>,
    },
    Unsubscribe {
        users: Vec<String>,
    },
}

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Tells<'a> {
    Snapshot {
        id: String,
        data: Records<'a>,
    },
    Change {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        data: Records<'a>,
    },
    Error {
        error: &'a str,
    },
}

/// Begins a WebSocket.
pub(crate) async fn upgrade(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    app.readable()?;
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|e| ApiError::new(e.status(), e.body_text()))?;
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES).max_frame_size(MESSAGE_BYTES);
    // Nothing is kept for a client that does not read beyond one message of ours and what the socket holds.
    let upgrade = upgrade.write_buffer_size(0).max_write_buffer_size(8 << 20).read_buffer_size(4 << 10);
    Ok(upgrade.on_upgrade(move |socket| async move { serve(&app, socket).await }))
}

async fn serve(app: &Arc<App>, mut socket: WebSocket) {
    let mut follower = app.hub.follower();
    // Whatever else there is: who is woken for nothing new sends nothing.
    let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
    loop {
        // Receiving and taking changes are cancel-safe; the others are moments.
        let sent = tokio::select! {
            received = socket.recv() => match received {
                Some(Ok(Message::Text(text))) => {
                    let answer = answer(app, &mut follower, text.as_str());
                    match answer {
                        Some(answer) => send(&mut socket, Message::text(answer)).await,
                        None => Ok(()),
                    }
                }
                Some(Ok(Message::Binary(_))) => {
                    send(&mut socket, Message::text(error("only text is understood"))).await
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            (users, upto) = follower.changed(AT_ONCE) => {
                let data = Records::news(&app.shown, &users, &mut follower);
                if data.is_empty() {
                    continue;
                }
                let change = Tells::Change { id: upto.map(|upto| app.event_id(upto)), data };
                send(&mut socket, Message::text(text(&change))).await
            }
            _ = ping.tick() => send(&mut socket, Message::Ping(axum::body::Bytes::new())).await,
            () = app.stopping.cancelled() => {
                let close = CloseFrame { code: close_code::AWAY, reason: "stopping".into() };
                drop(send(&mut socket, Message::Close(Some(close))).await);
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The client does not read, or is gone.
struct Gone;

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), Gone> {
    match tokio::time::timeout(WRITE_TIME, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone),
    }
}

fn answer(app: &App, follower: &mut Follower, asked: &str) -> Option<String> {
    let parsed = |users: Vec<String>| {
        if users.len() > USERS {
            return Err(ApiError::too_many("users", USERS));
        }
        users.iter().map(|user| id(user)).collect::<Result<Vec<UserId>, _>>()
    };
    let done = match serde_json::from_str(asked) {
        Ok(Asks::Subscribe { users, since }) => parsed(users).and_then(|users| subscribe(app, follower, users, since)),
        Ok(Asks::Unsubscribe { users }) => parsed(users).map(|users| {
            follower.unfollow(&users);
            None
        }),
        Err(e) => Err(ApiError::bad(format!("not understood: {e}"))),
    };
    done.unwrap_or_else(|e| Some(error(e.message())))
}

fn subscribe(
    app: &App,
    follower: &mut Follower,
    users: Vec<UserId>,
    since: Option<String>,
) -> Result<Option<String>, ApiError> {
    if follower.len() + users.len() > FOLLOWED {
        return Err(ApiError::too_many("users on one connection", FOLLOWED));
    }
    let last = follower.follow(users.iter().cloned())?;
    let missed = since.and_then(|id| app.number(&id)).and_then(|since| follower.missed(since));
    let told: Vec<UserId> = match missed {
        Some(missed) => users.into_iter().filter(|user| missed.contains(user)).collect(),
        None => users,
    };
    let data = Records::told(&app.shown, &told, follower);
    Ok(Some(text(&Tells::Snapshot { id: app.event_id(last), data })))
}

fn error(error: &str) -> String {
    text(&Tells::Error { error })
}

fn text(tells: &Tells<'_>) -> String {
    serde_json::to_string(tells).expect("records are JSON")
}
