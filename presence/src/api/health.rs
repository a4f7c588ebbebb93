//! Whether the node is well, and its figures.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::json;

use super::App;
use super::error::ApiError;
use super::users::Envelope;

/// `GET /health/liveness`.
pub(crate) async fn liveness() -> Response {
    Envelope::of(json!({"status": "alive"})).into_response()
}

/// `GET /health/readiness`.
pub(crate) async fn readiness(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    app.readable()?;
    let writes = if app.journal.is_up() { "taken" } else { "refused" };
    Ok(Envelope::of(json!({"status": "ready", "node_id": app.shown.sight().me.as_str(), "writes": writes}))
        .into_response())
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let (users, online) = app.shown.counts();
    let (events, followed) = app.hub.counts();
    let tally = &app.tally;
    let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let figures = [
        ("users", "gauge", "Users of whom anything is known", users as u64),
        ("users_online", "gauge", "Users that are shown as here", online as u64),
        ("sessions", "gauge", "Sessions of this node", tally.sessions.load(Ordering::Relaxed) as u64),
        ("peers", "gauge", "Other nodes that are heard", tally.peers.load(Ordering::Relaxed) as u64),
        ("head", "gauge", "Changes of this node since it was started", of(&tally.head)),
        (
            "unforwarded",
            "gauge",
            "What this node says and the center does not keep yet; one more while nobody knows what it keeps",
            app.others.unforwarded() as u64,
        ),
        ("ready", "gauge", "Whether reads are answered", u64::from(app.shown.is_filled())),
        ("writable", "gauge", "Whether writes are taken", u64::from(app.journal.is_up())),
        ("connections", "gauge", "HTTP connections", app.connections.load(Ordering::Relaxed) as u64),
        ("followed", "gauge", "Users that are followed, once for each follower", followed as u64),
        ("connections_refused", "counter", "Connections beyond the limit", of(&app.refused)),
        (
            "connections_cut",
            "counter",
            "Connections cut off: nothing was taken for 30 s, or a message on a WebSocket not within 20 s",
            of(&app.cut),
        ),
        ("events", "counter", "Changes that followers could see", events),
        ("writes", "counter", "Writes that are in force", of(&tally.writes)),
        ("batches", "counter", "Messages to the log", of(&tally.batches)),
        ("batches_failed", "counter", "Messages to the log that were not kept", of(&tally.failed)),
        ("heartbeats", "counter", "Heartbeats", of(&tally.beats)),
        (
            "unsaid",
            "counter",
            "Messages to other nodes that were dropped, to be found by the next beat",
            of(&tally.unsaid),
        ),
    ];
    let mut text = String::new();
    for (name, kind, meaning, value) in figures {
        let total = if kind == "counter" { "_total" } else { "" };
        text += &format!(
            "# HELP presence_{name} {meaning}.\n# TYPE presence_{name} {kind}\npresence_{name}{total} {value}\n"
        );
    }
    text += "# EOF\n";
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
