//! Reads of one user, answered before the routes: they are nearly all that is asked.
//!
//! A read is plain where it leaves nothing to decide: GET, an id that stands in the path as it is, no query. What is answered is
//! what the routes answer, byte for byte; where they would answer an error, they do.

use axum::body::Body;
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderValue, Method, Request, Response};

use super::App;
use super::record::{Records, Sessions};
use super::users::{Envelope, entity_tag};
use crate::core::UserId;

/// Where users are.
const PATH: &str = "/api/v2/presence/";
/// Paths that look like a user's, and are none.
const OTHERS: [&str; 4] = ["stream", "ws", "batch", "heartbeat"];

/// The answer to a plain read; none: the routes answer.
pub(super) fn answer<B>(app: &App, request: &Request<B>) -> Option<Response<Body>> {
    let user = user(request).filter(|_| app.shown.is_filled())?;
    let records = Records::of(&app.shown, [&user], Sessions::Hidden);
    let tag = records.tag();
    let mut response = Response::new(Body::from(Envelope::of(records).into_bytes()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.extend(tag.map(|tag| (ETAG, entity_tag(tag))));
    Some(response)
}

/// Who is asked for by a plain read.
fn user<B>(request: &Request<B>) -> Option<UserId> {
    let uri = request.uri();
    let id = uri.path().strip_prefix(PATH).filter(|id| uri.query().is_none() && !OTHERS.contains(id))?;
    let as_it_is = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@:".contains(&byte);
    let is_plain = request.method() == Method::GET && id.bytes().all(as_it_is);
    UserId::try_from(id).ok().filter(|_| is_plain)
}
