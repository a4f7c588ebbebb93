//! `GET /api/v2/presence/ws`: a WebSocket on which a client says whom it follows.
//!
//! ```text
//!  ─► {"op":"subscribe","users":[…],"since":"id"?}   ◄─ {"op":"snapshot","id":…,"data":{…}}
//!  ─► {"op":"unsubscribe","users":[…]}               ◄─ {"op":"change","id":…?,"data":{…}}
//!                                                    ◄─ {"op":"error","error":"…"}
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::App;
use super::error::ApiError;
use super::record::Records;
use super::server::Place;
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
/// A client that does not take a whole message within this is closed, also where it takes a little all the time. Less than the connection's own patience, so that there is somebody to
/// say why.
const WRITE_TIME: Duration = Duration::from_secs(20);
/// For a last word, and for the client to read it.
const LAST_WORD: Duration = Duration::from_secs(1);
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
    // What was a request's connection goes on as a socket, and keeps its place.
    let place = parts.extensions.remove::<Arc<Place>>();
    Ok(upgrade.on_upgrade(move |mut socket| async move {
        let stopped = async {
            app.stopping.cancelled().await;
            tokio::time::sleep(LAST_WORD).await;
        };
        // Whoever is served when the node stops is told so; whoever does not listen is left.
        tokio::select! {
            end = serve(&app, &mut socket) => end.say(&app, &mut socket).await,
            () = stopped => {}
        }
        drop(place);
    }))
}

/// Why a socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client has closed it, or is gone.
    Gone,
    /// The node stops.
    Stopping,
    /// The client does not take a message in time.
    Slow,
    /// A message of the client is too long.
    TooLong,
    /// What the client sends is none of the protocol.
    Wrong,
}

impl End {
    /// Says why to the client, as far as he listens.
    async fn say(self, app: &App, socket: &mut WebSocket) {
        let (code, reason) = match self {
            Self::Gone => return,
            Self::Stopping => (close_code::AWAY, "stopping".to_owned()),
            Self::Slow => {
                app.cut.fetch_add(1, Ordering::Relaxed);
                (close_code::POLICY, format!("a message was not taken within {} s", WRITE_TIME.as_secs()))
            }
            Self::TooLong => (close_code::SIZE, format!("a message has at most {MESSAGE_BYTES} bytes")),
            Self::Wrong => (close_code::PROTOCOL, "this is no WebSocket (RFC 6455)".to_owned()),
        };
        tracing::debug!(code, reason, "a socket is closed");
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        let said = async {
            if socket.send(close).await.is_err() {
                return;
            }
            while let Some(received) = socket.recv().await {
                if received.is_err() {
                    // He goes on sending what is not understood. Closed while some of it is unread, the system would
                    // throw the reason away.
                    return std::future::pending().await;
                }
            }
        };
        drop(tokio::time::timeout(LAST_WORD, said).await);
    }
}

async fn serve(app: &Arc<App>, socket: &mut WebSocket) -> End {
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
                        Some(answer) => send(socket, Message::text(answer)).await,
                        None => Ok(()),
                    }
                }
                Some(Ok(Message::Binary(_))) => {
                    send(socket, Message::text(error("only text is understood"))).await
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                Some(Ok(Message::Close(_))) | None => return End::Gone,
                // Of the library's errors only its text is to be had.
                Some(Err(error)) if error.to_string().contains("too long") => return End::TooLong,
                Some(Err(_)) => return End::Wrong,
            },
            (users, upto) = follower.changed(AT_ONCE) => {
                let data = Records::news(&app.shown, &users, &mut follower);
                if data.is_empty() {
                    continue;
                }
                let change = Tells::Change { id: upto.map(|upto| app.event_id(upto)), data };
                send(socket, Message::text(text(&change))).await
            }
            _ = ping.tick() => send(socket, Message::Ping(axum::body::Bytes::new())).await,
            () = app.stopping.cancelled() => return End::Stopping,
        };
        if let Err(end) = sent {
            return end;
        }
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), End> {
    match tokio::time::timeout(WRITE_TIME, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => Err(End::Slow),
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
