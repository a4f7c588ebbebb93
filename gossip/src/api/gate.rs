//! What every request passes: the token, its scope, then the limit of its route.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use tokio::sync::Semaphore;

use super::config::{Scope, Tokens};
use super::error::ApiError;
use super::metrics::Metrics;

/// Requests of one route that may be in work at once, until their answers' heads are sent. Beyond it 503: what cannot be
/// done soon is better tried again, or elsewhere, than queued here.
const IN_FLIGHT: usize = 128;

/// The tokens that open the API, if any are asked for, and where refusals are counted.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) tokens: Option<Tokens>,
    pub(super) metrics: Arc<Metrics>,
}

/// Refuses requests without a token, and notes what the others may do. The body of the refusal is empty.
pub(super) async fn check_token(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let presented = request.headers().get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    let scope = match (door.tokens, presented) {
        (None, _) => Some(Scope::Admin),
        (Some(tokens), Some(presented)) => tokens.scope(presented),
        (Some(_), None) => None,
    };
    let Some(scope) = scope else {
        door.metrics.unauthorized();
        return StatusCode::UNAUTHORIZED.into_response();
    };
    request.extensions_mut().insert(scope);
    next.run(request).await
}

/// Refuses those whose token may do less than the route needs.
pub(super) async fn check_scope(State(needed): State<Scope>, request: Request, next: Next) -> Response {
    match request.extensions().get::<Scope>() {
        Some(scope) if *scope >= needed => next.run(request).await,
        Some(scope) => {
            let message = format!("this token may {}, and {} is needed", scope.as_str(), needed.as_str());
            ApiError::new(StatusCode::FORBIDDEN, message).into_response()
        }
        // Nobody has asked for the token: a fault of ours, and not the client's to be let in by.
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The limit of one route, and where its requests are counted.
#[derive(Clone, Debug)]
pub(super) struct RouteLimit {
    route: &'static str,
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl RouteLimit {
    pub(super) fn new(route: &'static str, metrics: &Arc<Metrics>) -> Self {
        Self { route, permits: Arc::new(Semaphore::new(IN_FLIGHT)), metrics: Arc::clone(metrics) }
    }
}

/// Lets at most [`IN_FLIGHT`] requests of a route in, and measures them.
pub(super) async fn limit(State(limit): State<RouteLimit>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let response = match limit.permits.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "max concurrency limit reached").into_response(),
    };
    limit.metrics.answered(limit.route, response.status(), started.elapsed());
    response
}
