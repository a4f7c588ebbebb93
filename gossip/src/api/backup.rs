//! The store as a file, and what a look through it finds.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tokio_util::io::ReaderStream;

use super::error::ApiError;
use super::routes::App;
use crate::chain::Chain;
use crate::store::{CopyError, Pace};

/// The type of SQLite's databases.
const SQLITE: HeaderValue = HeaderValue::from_static("application/vnd.sqlite3");

/// Bytes that are read of the file at once.
const READ: usize = 256 << 10;

/// `GET /v1/backup`: a copy of the store as of one commit, whose length is in the answer's head.
pub(super) async fn get(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let copy = app.store.copy().await.map_err(|error| {
        let status = match &error {
            CopyError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            CopyError::File(_) | CopyError::Sqlite(_) | CopyError::Query(_) | CopyError::Unwanted => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        ApiError::new(status, Chain(&error))
    })?;
    let length = copy.bytes;
    let (file, permit) = (tokio::fs::File::from_std(copy.file), copy.permit);
    let body = ReaderStream::with_capacity(file, READ).inspect(move |_| {
        // Moved in here, and so held until the stream is dropped.
        let _held = &permit;
    });
    let head = [(header::CONTENT_TYPE, SQLITE), (header::CONTENT_LENGTH, length.into())];
    Ok((head, Body::from_stream(body)).into_response())
}

/// `GET /v1/verify`: log and digest, made anew from the rows and compared.
pub(super) async fn verify(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let failed = |error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let found = app.store.verify(Pace::AtOnce).await.map_err(failed)?;
    Ok(Json(json!({
        "rows": found.rows,
        "tombstones": found.tombstones,
        "set_aside": found.set_aside,
        "stamps": found.stamps,
        "digest": found.digest().to_string(),
        "wrong": found.wrong,
    }))
    .into_response())
}
