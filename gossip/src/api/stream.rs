//! An answer that is a stream of lines, ended by the client, by its own end, or by a line that says the server stops.
//!
//! A follower may rightly hear nothing for days, and then cannot tell a store that has nothing to say from one that hangs. Who asks
//! for it gets a line every few seconds, and the header says how often. Nobody else does: other clients know no such line.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderValue, header};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::error::NDJSON;
use crate::subscriptions::{Attached, line};

/// Pieces of whole lines, between which the stream may be ended by a line of its own.
pub(super) trait Lines: Send + 'static {
    /// The next piece; `None` at the end. Dropped at shutdown and when the client goes.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

impl Lines for Attached {
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send {
        Self::next(self)
    }
}

/// How often a stream says that it is alive where it has nothing else to say.
const ALIVE: Duration = Duration::from_secs(3);

/// The header that says how often, in milliseconds.
const ALIVE_HEADER: &str = "kith-alive-ms";

/// Whether a stream says that it is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alive {
    Said,
    Unsaid,
}

impl From<Option<bool>> for Alive {
    fn from(asked: Option<bool>) -> Self {
        match asked {
            Some(true) => Self::Said,
            Some(false) | None => Self::Unsaid,
        }
    }
}

/// The answer made of these pieces, each sent as soon as it is there.
pub(super) fn respond(lines: impl Lines, stopping: CancellationToken, alive: Alive) -> Response {
    let pieces = stream::unfold(Some((lines, stopping)), |state| async {
        let (mut lines, stopping) = state?;
        // Either arm may be dropped: a stream that stops loses nothing that its last line does not say is lost.
        let piece = tokio::select! {
            biased;
            () = stopping.cancelled() => return Some((Ok(line::error("the server is shutting down")), None)),
            piece = lines.next() => piece,
        };
        piece.map(|piece| (Ok::<_, Infallible>(piece), Some((lines, stopping))))
    });
    let mut response = Response::new(match alive {
        Alive::Unsaid => Body::from_stream(pieces),
        Alive::Said => Body::from_stream(alive_between(pieces)),
    });
    response.headers_mut().insert(header::CONTENT_TYPE, NDJSON);
    if alive == Alive::Said {
        let period = HeaderValue::from(ALIVE.as_secs() * 1_000);
        response.headers_mut().insert(ALIVE_HEADER, period);
    }
    response
}

/// The same pieces, with a line between two that are further apart.
fn alive_between<E>(
    pieces: impl Stream<Item = Result<Bytes, E>> + Send,
) -> impl Stream<Item = Result<Bytes, E>> + Send {
    let mut period = interval_at(Instant::now() + ALIVE, ALIVE);
    // For a reader that takes nothing for long they do not pile up.
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((Box::pin(pieces), period), |(mut pieces, mut period)| async move {
        let piece = tokio::select! {
            biased;
            // Dropping this wait loses nothing: what it waits in stays in the stream.
            piece = pieces.next() => piece?,
            _ = period.tick() => Ok(line::alive()),
        };
        period.reset();
        Some((piece, (pieces, period)))
    })
}
