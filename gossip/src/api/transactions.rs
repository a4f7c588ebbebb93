//! `POST /v1/transactions`: a list of statements, all or none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use kith_gossip_proto::SiteId;
use serde::{Deserialize, Serialize};

use super::error::{ApiError, JSON};
use super::metrics::Outcome;
use super::replicas;
use super::request::{json, parameters, seconds};
use super::routes::App;
use super::statement::SentStatement;
use crate::store::{ExecuteError, Migrated, StatementResult};

/// A transaction that says nothing of its time may take this long. It holds the one writer, so everybody waits for it.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Parameters {
    timeout: Option<f64>,
    replicas: Option<usize>,
}

/// What is answered, also to migrations: one result per statement, or exactly one error.
#[derive(Serialize)]
pub(super) struct Envelope {
    results: Vec<StatementOutcome>,
    /// Seconds.
    time: f64,
    version: Option<u64>,
    actor_id: String,
    /// The transaction stands, and something else that was asked for failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Of a migration only.
    #[serde(skip_serializing_if = "Option::is_none")]
    migrated: Option<Migrated>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum StatementOutcome {
    Done { rows_affected: u64, time: f64 },
    Failed { error: String },
}

pub(super) async fn post(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let started = Instant::now();
    let parameters: Parameters = parameters(request.uri())?;
    let timeout = if parameters.timeout.is_some() { seconds(parameters.timeout)? } else { Some(TIMEOUT) };
    let replicas = parameters.replicas.unwrap_or(0);
    replicas::check(&app, replicas)?;
    let statements: Vec<SentStatement> = json(request).await?;
    let statements = statements.into_iter().map(|SentStatement(statement)| statement).collect();
    let executed = app.store.execute(statements, timeout).await;
    let site = app.store.site();
    app.metrics.transaction(if executed.is_ok() { Outcome::Done } else { Outcome::Failed });
    Ok(match executed {
        Ok(executed) => {
            let left = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()));
            let held = replicas::wait(&app, executed.version, replicas, left).await;
            let envelope = Envelope::done(&executed.results, executed.version, started.elapsed(), site);
            match held {
                Ok(()) => envelope.respond(StatusCode::OK),
                Err(too_few) => {
                    Envelope { error: Some(too_few.to_string()), ..envelope }.respond(StatusCode::GATEWAY_TIMEOUT)
                }
            }
        }
        Err(error) => {
            let time = if error == ExecuteError::Empty { Duration::ZERO } else { started.elapsed() };
            Envelope::failed(&error, time, site).respond(status(&error))
        }
    })
}

fn status(error: &ExecuteError) -> StatusCode {
    match error {
        ExecuteError::Empty => StatusCode::BAD_REQUEST,
        ExecuteError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        ExecuteError::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        ExecuteError::ReadOnly | ExecuteError::Disk(_) | ExecuteError::ShuttingDown | ExecuteError::Malformed(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ExecuteError::Statement { .. }
        | ExecuteError::Key { .. }
        | ExecuteError::KeyChosen { .. }
        | ExecuteError::TimedOut
        | ExecuteError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Envelope {
    pub(super) fn done(results: &[StatementResult], version: Option<u64>, time: Duration, site: SiteId) -> Self {
        let outcome = |result: &StatementResult| StatementOutcome::Done {
            rows_affected: result.rows_affected,
            time: result.time.as_secs_f64(),
        };
        let results = results.iter().map(outcome).collect();
        Self { results, time: time.as_secs_f64(), version, actor_id: site.to_string(), error: None, migrated: None }
    }

    pub(super) fn failed(error: &impl ToString, time: Duration, site: SiteId) -> Self {
        let results = vec![StatementOutcome::Failed { error: error.to_string() }];
        Self {
            results,
            time: time.as_secs_f64(),
            version: None,
            actor_id: site.to_string(),
            error: None,
            migrated: None,
        }
    }

    pub(super) fn with_migrated(self, migrated: Migrated) -> Self {
        Self { migrated: Some(migrated), ..self }
    }

    pub(super) fn respond(self, status: StatusCode) -> Response {
        let body = serde_json::to_vec(&self).expect("an envelope is numbers and texts");
        (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
    }
}
