//! The HTTP API, with the paths and the envelope of the inherited one.
//!
//! | | |
//! |---|---|
//! | `users` | a user, several, writes, heartbeats |
//! | `stream`, `socket` | who changes, as server-sent events and on a WebSocket |
//! | `health`, `openapi` | how the node is, and what it answers |
//!
//! `server` accepts connections, within the limits of the process; `plain` answers what is asked most before the routes; `head`
//! answers requests that are none. `limit` says who writes too often, `patience` who reads too slowly.

mod error;
mod query;

pub(crate) mod record;
pub(crate) mod users;

mod socket;
mod stream;

mod health;
mod openapi;

mod head;
mod limit;
mod patience;
mod plain;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use axum::Router;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use http::StatusCode;
use kith_gossip_proto::NodeId;
use tokio_util::sync::CancellationToken;

pub(crate) use error::ApiError;
pub(crate) use limit::Limits;
pub use limit::Rates;
pub(crate) use server::{FAREWELLS, Server, Tls};

use crate::auth::Auth;
use crate::core::{SessionName, UserId};
use crate::desk::{Desk, Tally};
use crate::hub::{FOLLOWED, Hub};
use crate::journal::Journal;
use crate::shown::Shown;

/// All that answers are made of.
pub(crate) struct App {
    pub(crate) shown: Arc<Shown>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) desk: Desk,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) others: Arc<dyn Others>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) limits: Limits,
    /// Which start of the node this is, in ids of events.
    pub(crate) start: u64,
    pub(crate) release: String,
    /// A page at `/`.
    pub(crate) page: Option<&'static str>,
    pub(crate) stopping: CancellationToken,
    pub(crate) connections: AtomicUsize,
    pub(crate) refused: AtomicU64,
    /// Connections whose other side took nothing, or a message on a WebSocket, for too long.
    pub(crate) cut: Arc<AtomicU64>,
}

impl App {
    /// Whether new connections are to go elsewhere: nine tenths of what can be followed are.
    fn is_crowded(&self) -> bool {
        self.hub.counts().1 >= FOLLOWED / 10 * 9
    }
}

/// What is asked of the center, and of other nodes.
pub(crate) trait Others: Send + Sync + 'static {
    /// How much of what this node said the center does not keep yet.
    fn unforwarded(&self) -> usize;

    /// Waits until the center keeps all that this node said of a user, for a few seconds at most.
    fn confirm(&self, user: &UserId) -> BoxFuture<'static, Center>;

    /// Asks a node to end a session of a user, or all that it holds, by the token of who wants it. False if it did not say
    /// that it has.
    fn end(
        &self,
        node: &NodeId,
        user: &UserId,
        session: Option<&SessionName>,
        authorization: &str,
    ) -> BoxFuture<'static, bool>;
}

/// Whether the center keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Center {
    /// It does.
    Kept,
    /// It is not there.
    Away,
}

/// The routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/api/v2/presence/{user_id}", get(users::get).put(users::put).delete(users::delete))
        .route("/api/v2/presence", get(users::list))
        .route("/api/v2/presence/batch", post(users::batch))
        .route("/api/v2/presence/heartbeat", post(users::heartbeat))
        .route("/api/v2/presence/stream", get(stream::stream))
        .route("/api/v2/presence/ws", get(socket::upgrade))
        .route("/health/liveness", get(health::liveness))
        .route("/health/readiness", get(health::readiness))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi::openapi))
        .route("/", get(page))
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "no such path"))
        .method_not_allowed_fallback(async || ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "no such method here"))
        .with_state(app)
}

async fn page(State(app): State<Arc<App>>) -> Response {
    match app.page {
        Some(page) => Html(page).into_response(),
        None => ApiError::new(StatusCode::NOT_FOUND, "no such path").into_response(),
    }
}

#[cfg(test)]
mod tests;
