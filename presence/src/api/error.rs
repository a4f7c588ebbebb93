//! Errors, in the envelope of the inherited API.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::auth::Denied;
use crate::core::Refusal;
use crate::desk::WriteError;
use crate::hub::Full;

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    /// Seconds after which it is worth another try.
    retry_after: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn too_many(what: &str, most: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {most} {what} at once"))
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    pub(crate) fn limited(after: u64) -> Self {
        Self { retry_after: Some(after), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too many requests") }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Seconds after which it is worth another try.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// In the envelope.
    pub(crate) fn body(&self) -> String {
        json!({"success": false, "error": self.message}).to_string()
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let status = match denied {
            Denied::Missing | Denied::Invalid | Denied::Expired => StatusCode::UNAUTHORIZED,
            Denied::OfAnother => StatusCode::FORBIDDEN,
        };
        Self::new(status, denied.to_string())
    }
}

impl From<Full> for ApiError {
    fn from(full: Full) -> Self {
        Self::unavailable(full.to_string())
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Busy | WriteError::Journal(_) => Self::unavailable(error.to_string()),
            WriteError::Refused(Refusal::Changed) => Self::new(StatusCode::PRECONDITION_FAILED, error.to_string()),
            WriteError::Refused(Refusal::Sessions) => Self::new(StatusCode::CONFLICT, error.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], self.body()).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
