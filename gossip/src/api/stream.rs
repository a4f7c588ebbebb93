//! An answer that is a stream of lines, ended by the client, by its own end, or by a line that says the server stops.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header;
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

/// The answer made of these pieces, each sent as soon as it is there.
pub(super) fn respond(lines: impl Lines, stopping: CancellationToken) -> Response {
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
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, NDJSON);
    response
}
