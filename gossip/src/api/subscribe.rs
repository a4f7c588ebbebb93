//! `POST /v1/subscriptions` and `GET /v1/subscriptions/{uuid}`: a live query, joined or begun, and attached to again.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::{HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use uuid::Uuid;

use super::error::ApiError;
use super::request::{json, parameters};
use super::routes::App;
use super::statement::SentStatement;
use super::stream;
use crate::subscriptions::{AttachOptions, Attached, SnapshotRows, SubscribeError};

#[derive(Deserialize)]
struct Parameters {
    from: Option<u64>,
    skip_rows: Option<Switch>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    True,
    False,
}

pub(super) async fn post(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let options = options(request.uri())?;
    let SentStatement(statement) = json(request).await?;
    let attached = app.subscriptions.subscribe(statement, options).await.map_err(refused)?;
    Ok(respond(attached, &app))
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let options = options(request.uri())?;
    let id: Uuid = id.parse().map_err(|_| ApiError::bad_request(format!("{id:?} is not a UUID")))?;
    let attached = app.subscriptions.attach(id, options).await.map_err(refused)?;
    Ok(respond(attached, &app))
}

fn options(uri: &Uri) -> Result<AttachOptions, ApiError> {
    let Parameters { from, skip_rows } = parameters(uri)?;
    let rows = match skip_rows {
        Some(Switch::True) => SnapshotRows::Skipped,
        Some(Switch::False) | None => SnapshotRows::Sent,
    };
    Ok(AttachOptions { from, rows })
}

fn refused(error: SubscribeError) -> ApiError {
    let status = match &error {
        SubscribeError::Refused(_) | SubscribeError::NothingToContinue => StatusCode::BAD_REQUEST,
        SubscribeError::Unknown(_) => StatusCode::NOT_FOUND,
        SubscribeError::TooMany => StatusCode::SERVICE_UNAVAILABLE,
        SubscribeError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    ApiError::new(status, error)
}

fn respond(attached: Attached, app: &App) -> Response {
    let header = |text: String| HeaderValue::try_from(text).expect("hex digits and dashes");
    let (id, hash) = (header(attached.id().to_string()), header(format!("{:016x}", attached.hash())));
    let mut response = stream::respond(attached, app.stopping.clone());
    response.headers_mut().insert("corro-query-id", id);
    response.headers_mut().insert("corro-query-hash", hash);
    response
}
