//! `GET /api/v2/presence/stream`: server-sent events. A snapshot, then each change.
//!
//! An id is `<start of the node>-<number of the event>`. Whoever comes back with the last one is told what he missed; of
//! another start, or too long ago, he is told everything.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::header;
use tokio::time::{Instant, Interval, interval_at};

use super::App;
use super::error::ApiError;
use super::query::Query;
use super::record::Records;
use super::users::{Envelope, listed};
use crate::core::UserId;
use crate::hub::Follower;

/// Proxies cut connections on which nothing comes for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Changes that are written at once.
const AT_ONCE: usize = 64;

/// One reader.
struct Reader {
    app: Arc<App>,
    follower: Follower,
    ready: VecDeque<Bytes>,
    /// Whatever else there is: who is woken for nothing new sends nothing.
    alive: Interval,
}

/// Begins a stream.
pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, ApiError> {
    let since = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    let reader = begin(&app, query.as_deref(), since)?;
    let events = stream::unfold(reader, async |mut reader| Some((Ok::<_, Infallible>(reader.next().await?), reader)));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// A reader of the users of a query, who heard the event `since` last.
fn begin(app: &Arc<App>, query: Option<&str>, since: Option<&str>) -> Result<Reader, ApiError> {
    app.readable()?;
    let users = listed(&Query::parse(query)?)?;
    let mut follower = app.hub.follower();
    let last = follower.follow(users.iter().cloned())?;
    let mut ready = VecDeque::new();
    match since.and_then(|id| app.number(id)).and_then(|since| follower.missed(since)) {
        Some(missed) => ready.extend(changes(app, &missed, Some(last), &mut follower)),
        None => ready.push_back(snapshot(app, &users, last, &mut follower)),
    }
    if ready.is_empty() {
        // The head of an answer is sent with its first bytes: a reader is to know that he is heard.
        ready.push_back(Bytes::from_static(b": here\n\n"));
    }
    let alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    Ok(Reader { app: Arc::clone(app), follower, ready, alive })
}

impl Reader {
    /// The next event, once there is one; none: the node stops. Cancel-safe.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                if self.ready.is_empty() {
                    // There are thousands of readers to whom nothing is written for minutes.
                    self.ready = VecDeque::new();
                }
                return Some(bytes);
            }
            // Taking changes is cancel-safe; the others are moments.
            tokio::select! {
                (users, upto) = self.follower.changed(AT_ONCE) => {
                    self.ready.extend(changes(&self.app, &users, upto, &mut self.follower));
                }
                _ = self.alive.tick() => self.ready.push_back(Bytes::from_static(b": alive\n\n")),
                () = self.app.stopping.cancelled() => return None,
            }
        }
    }
}

fn snapshot(app: &App, users: &[UserId], last: u64, follower: &mut Follower) -> Bytes {
    let records = Envelope::of(Records::told(&app.shown, users, follower)).into_bytes();
    event("snapshot", &records, Some(&app.event_id(last)))
}

/// An event for each user. The id comes with the last: whoever is cut off before is told all of them again.
fn changes<'a>(
    app: &App,
    users: impl IntoIterator<Item = &'a UserId>,
    upto: Option<u64>,
    follower: &mut Follower,
) -> Vec<Bytes> {
    let mut news = Records::news(&app.shown, users, follower).each().peekable();
    let mut events = Vec::new();
    while let Some(record) = news.next() {
        let id = upto.filter(|_| news.peek().is_none()).map(|upto| app.event_id(upto));
        events.push(event("presence", &Envelope::of(record).into_bytes(), id.as_deref()));
    }
    events
}

/// JSON holds no line ends, so it is one line of data.
fn event(name: &str, json: &[u8], id: Option<&str>) -> Bytes {
    let mut text = Vec::with_capacity(json.len() + 80);
    if let Some(id) = id {
        text.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    text.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
    text.extend_from_slice(json);
    text.extend_from_slice(b"\n\n");
    text.into()
}

impl App {
    /// The id of an event.
    pub(crate) fn event_id(&self, number: u64) -> String {
        format!("{:x}-{number}", self.start)
    }

    /// The number in an id, if it is of this start of the node.
    pub(crate) fn number(&self, id: &str) -> Option<u64> {
        let (start, number) = id.split_once('-')?;
        (u64::from_str_radix(start, 16) == Ok(self.start)).then(|| number.parse().ok())?
    }
}
