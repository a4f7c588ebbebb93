//! What the runner answers about itself and its nats-server, by HTTP.
//!
//! | path | who asks | answer |
//! |---|---|---|
//! | `/status` | the daemon, `kith nats status` | all that is known, as JSON |
//! | `/flycheck/vm` | inherited | 200 or 500, and a JSON text of a line for each check of the host |
//! | `/healthz` | whoever restarts what is dead | 200 while nats-server lives |
//! | `/readyz` | whoever sends it work | 200 while it has caught up with all others |
//! | `/checks` | people, alarms | every check, as JSON |
//! | `/metrics` | Prometheus | figures |
//!
//! Each check has a time-out of its own, and all are made side by side, when somebody asks.

mod check;
mod host;
mod metrics;
mod peers;
mod server;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::check::{Check, Outcome, all};
use crate::config::{Config, Role, Servers};
use crate::monitor::Monitor;
use crate::status::{Health, Phase, Status, StatusHandle};
use crate::trouble::NAMESAKE;

/// What answers are made of.
#[derive(Debug)]
pub(crate) struct Asked {
    status: StatusHandle,
    /// None of a server that somebody else runs: it is known by a connection to it.
    monitor: Option<Monitor>,
    store: PathBuf,
    role: Role,
    servers: Servers,
}

impl Asked {
    /// By this status, and by what nats-server says.
    pub(crate) fn new(config: &Config, status: StatusHandle, monitor: Monitor) -> Asked {
        let monitor = Some(monitor);
        Asked { status, monitor, store: config.store.dir.clone(), role: config.role, servers: config.servers }
    }

    /// Of a server that somebody else runs.
    pub(crate) fn of_external(config: &Config, status: StatusHandle) -> Asked {
        Asked { status, monitor: None, store: config.store.dir.clone(), role: config.role, servers: config.servers }
    }

    fn host(&self) -> Vec<Check<'_>> {
        vec![
            Check::new("checkDisk", host::disk(&self.store)),
            Check::new("checkLoad", host::load()),
            Check::new("memory", host::pressure("memory")),
            Check::new("cpu", host::pressure("cpu")),
            Check::new("io", host::pressure("io")),
        ]
    }

    fn server(&self) -> Vec<Check<'_>> {
        let status = self.status.get();
        let Some(monitor) = &self.monitor else {
            return vec![Check::new("live", async move { connected(&status) })];
        };
        let (own, named, namesake) = (status.id, status.following.named, status.namesake);
        vec![
            Check::new("live", server::live(monitor)),
            Check::new("ready", server::ready(monitor)),
            Check::new("name", async move {
                if namesake { Err(NAMESAKE.to_owned()) } else { server::name(monitor, &own).await }
            }),
            Check::new("peers", async move { peers::peers(monitor, &named).await }),
            Check::new("meta", server::meta(monitor, self.role, self.servers)),
        ]
    }

    async fn every(&self) -> Vec<Outcome> {
        all(self.host().into_iter().chain(self.server()).collect()).await
    }
}

/// How a server is that somebody else runs.
fn connected(status: &Status) -> check::Found {
    match status.phase {
        Phase::Running => Ok(format!("connected, version {}", status.version)),
        phase => Err(status.reason.clone().unwrap_or_else(|| format!("{phase:?}"))),
    }
}

/// Answers until the token is cancelled.
pub(crate) async fn serve(listener: TcpListener, asked: Asked, token: CancellationToken) {
    let serving = axum::serve(listener, routes(asked)).with_graceful_shutdown(token.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "health is answered no more");
    }
}

fn routes(asked: Asked) -> Router {
    Router::new()
        .route("/status", get(whole))
        .route("/flycheck/vm", get(vm))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/checks", get(checks))
        .route("/metrics", get(figures))
        .with_state(Arc::new(asked))
}

async fn whole(State(asked): State<Arc<Asked>>) -> Json<Status> {
    Json(asked.status.get())
}

/// The inherited shape: a JSON text, one line for each check; 500 if one is not well.
async fn vm(State(asked): State<Arc<Asked>>) -> (StatusCode, Json<String>) {
    let made = all(asked.host()).await;
    let lines: Vec<String> = made.iter().map(ToString::to_string).collect();
    let code = if made.iter().all(|one| one.ok) { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    (code, Json(lines.join("\n")))
}

async fn live(State(asked): State<Arc<Asked>>) -> Response {
    let status = asked.status.get();
    let reason = status.reason.unwrap_or_else(|| format!("{:?}", status.phase));
    match status.health {
        Health::Healthy => said(Ok(reason)),
        Health::Unhealthy => said(Err(reason)),
    }
}

async fn ready(State(asked): State<Arc<Asked>>) -> Response {
    let phase = asked.status.get().phase;
    if phase != Phase::Running {
        return said(Err(format!("{phase:?}")));
    }
    let Some(monitor) = &asked.monitor else { return said(connected(&asked.status.get())) };
    match all(vec![Check::new("ready", server::ready(monitor))]).await.pop() {
        Some(Outcome { ok: true, message, .. }) => said(Ok(message)),
        Some(Outcome { ok: false, message, .. }) => said(Err(message)),
        None => said(Err("not asked".to_owned())),
    }
}

/// 200 or 503, and a line for people.
fn said(found: check::Found) -> Response {
    let (code, line) = match found {
        Ok(line) => (StatusCode::OK, line),
        Err(line) => (StatusCode::SERVICE_UNAVAILABLE, line),
    };
    (code, line + "\n").into_response()
}

async fn checks(State(asked): State<Arc<Asked>>) -> Json<Vec<Outcome>> {
    Json(asked.every().await)
}

async fn figures(State(asked): State<Arc<Asked>>) -> Response {
    let text = metrics::text(&asked.status.get(), &asked.every().await);
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (kind, text).into_response()
}
