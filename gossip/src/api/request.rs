//! What a request carries, read with a bound and a deadline, and refused in words.

use std::time::Duration;

use axum::extract::{Query, Request};
use http::{HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::error::ApiError;

/// A body may be this long.
pub(super) const BODY_BYTES: usize = 1 << 20;
/// A body must have arrived by then.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The JSON of a body. 415 for another content type and for what is compressed, 413 beyond the bound, 408 beyond the deadline, 400 for what is not
/// JSON, 422 for JSON of another shape.
pub(super) async fn json<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !kind.is_some_and(is_json) {
        let message = "the body must be JSON: send content-type: application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    // A short body that unpacks to a long one would pass by the bound, so nothing is unpacked.
    if request.headers().get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let message = "the body must not be compressed: leave content-encoding out";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let body = Limited::new(request.into_body(), BODY_BYTES).collect();
    let body = match tokio::time::timeout(BODY_TIME, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 1 MiB: split it"));
        }
        Ok(Err(error)) => return Err(ApiError::bad_request(format!("the body did not arrive whole: {error}"))),
        Err(_) => return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body took longer than 30 s")),
    };
    serde_json::from_slice(&body).map_err(|error| match error.classify() {
        Category::Data => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the body does not fit: {error}")),
        Category::Syntax | Category::Eof | Category::Io => ApiError::bad_request(format!("not JSON: {error}")),
    })
}

/// `application/json` or `application/…+json`, with any parameters.
fn is_json(kind: &[u8]) -> bool {
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    kind == b"application/json" || (kind.starts_with(b"application/") && kind.ends_with(b"+json"))
}

/// The parameters behind the `?`. Unknown ones are ignored.
pub(super) fn parameters<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let Query(parameters) = Query::try_from_uri(uri).map_err(|error| ApiError::bad_request(error.body_text()))?;
    Ok(parameters)
}

/// Seconds as clients write them, whole or with a fraction; none for 0.
pub(super) fn seconds(seconds: Option<f64>) -> Result<Option<Duration>, ApiError> {
    match seconds {
        None | Some(0.0) => Ok(None),
        Some(seconds) => Duration::try_from_secs_f64(seconds)
            .map(Some)
            .map_err(|_| ApiError::bad_request("timeout must be a number of seconds, 0 for none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_goes_by_several_names() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            assert!(is_json(good.as_bytes()), "{good}");
        }
        for bad in ["", "text/plain", "text/json", "application/x-ndjson", "json"] {
            assert!(!is_json(bad.as_bytes()), "{bad}");
        }
    }
}
