//! `POST /v1/migrations`: a list of schema texts, all or none, under the rules of a schema file. With `?dry_run=true` it is
//! said what they would add, or why they would be refused, and nothing is changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;

use super::error::ApiError;
use super::request::{json, parameters};
use super::routes::App;
use super::transactions::Envelope;
use crate::store::{SchemaError, SchemaSource, StatementResult};

#[derive(Deserialize)]
struct Parameters {
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn post(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let started = Instant::now();
    let parameters: Parameters = parameters(request.uri())?;
    let texts: Vec<String> = json(request).await?;
    let site = app.store.site();
    if texts.is_empty() {
        let envelope = Envelope::failed(&"at least 1 statement is required", Duration::ZERO, site);
        return Ok(envelope.respond(StatusCode::BAD_REQUEST));
    }
    let results = vec![StatementResult { rows_affected: 0, time: Duration::ZERO }; texts.len()];
    let sources = texts.into_iter().zip(1..).map(|(sql, n)| SchemaSource { name: format!("statement {n}"), sql });
    let sources = sources.collect();
    let migrated =
        if parameters.dry_run { app.store.try_migration(sources).await } else { app.store.migrate(sources).await };
    Ok(match migrated {
        Ok(migrated) => {
            Envelope::done(&results, None, started.elapsed(), site).with_migrated(migrated).respond(StatusCode::OK)
        }
        Err(error) => Envelope::failed(&error, started.elapsed(), site).respond(status(&error)),
    })
}

fn status(error: &SchemaError) -> StatusCode {
    match error {
        SchemaError::Syntax { .. } | SchemaError::Refused { .. } => StatusCode::BAD_REQUEST,
        SchemaError::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        SchemaError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        SchemaError::Sqlite(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
