//! `POST /v1/subscriptions` and `GET /v1/subscriptions/{uuid}`: a live query, joined or begun, and attached to again.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::{HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use tokio::time::{Instant, interval};
use uuid::Uuid;

use super::error::ApiError;
use super::membership::Holding;
use super::request::{json, parameters};
use super::routes::App;
use super::statement::SentStatement;
use super::stream::{self, Alive};
use crate::subscriptions::{AttachOptions, Attached, Marks, SnapshotRows, SubscribeError};

/// Why a store that was begun anew tells nobody what it holds.
const NOTHING_YET: &str =
    "this store was begun at this start and has not caught up with any peer yet: try again, or see /ready";

/// How long it is waited for that: catching up takes about a second, and who has to ask again waits longer each time.
const NOTHING_YET_MAX: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Deserialize)]
struct Parameters {
    from: Option<u64>,
    skip_rows: Option<Switch>,
    commits: Option<Switch>,
    alive: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    True,
    False,
}

pub(super) async fn post(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let (options, alive) = options(request.uri())?;
    let SentStatement(statement) = json(request).await?;
    something_to_tell(&app).await?;
    let attached = app.subscriptions.subscribe(statement, options).await.map_err(refused)?;
    Ok(respond(attached, &app, alive))
}

/// Waits for a store that was begun at this start to catch up with somebody: an empty result would say that everything is
/// gone, to a follower that knows better.
async fn something_to_tell(app: &App) -> Result<(), ApiError> {
    let deadline = Instant::now() + NOTHING_YET_MAX;
    let mut period = interval(LOOK);
    loop {
        period.tick().await;
        match app.membership.holding() {
            Holding::Something => return Ok(()),
            Holding::Nothing if Instant::now() < deadline => {}
            Holding::Nothing => return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, NOTHING_YET)),
        }
    }
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (options, alive) = options(request.uri())?;
    let id: Uuid = id.parse().map_err(|_| ApiError::bad_request(format!("{id:?} is not a UUID")))?;
    let attached = app.subscriptions.attach(id, options).await.map_err(refused)?;
    Ok(respond(attached, &app, alive))
}

fn options(uri: &Uri) -> Result<(AttachOptions, Alive), ApiError> {
    let Parameters { from, skip_rows, commits, alive } = parameters(uri)?;
    let rows = match skip_rows {
        Some(Switch::True) => SnapshotRows::Skipped,
        Some(Switch::False) | None => SnapshotRows::Sent,
    };
    let marks = match commits {
        Some(Switch::True) => Marks::Sent,
        Some(Switch::False) | None => Marks::Omitted,
    };
    Ok((AttachOptions { from, rows, marks }, alive.into()))
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

fn respond(attached: Attached, app: &App, alive: Alive) -> Response {
    let header = |text: String| HeaderValue::try_from(text).expect("hex digits and dashes");
    let (id, hash) = (header(attached.id().to_string()), header(format!("{:016x}", attached.hash())));
    let mut response = stream::respond(attached, app.stopping.clone(), alive);
    response.headers_mut().insert("corro-query-id", id);
    response.headers_mut().insert("corro-query-hash", hash);
    response
}
