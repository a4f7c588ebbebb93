//! An answer that says what failed: a status and one line.

use std::fmt::Display;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::subscriptions::line;

/// A refusal or failure, `{"error":"what failed and what to do"}`.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Display) -> Self {
        Self { status, message: message.to_string() }
    }

    pub(super) fn bad_request(message: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut line = line::error(&self.message);
        line.truncate(line.len() - 1);
        let mut response = Response::new(Body::from(line));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        response
    }
}

/// The type of every answer that is one JSON value.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The type of every answer that is a stream of lines.
pub(super) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
