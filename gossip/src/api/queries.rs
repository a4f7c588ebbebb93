//! `POST /v1/queries`: one read-only statement, its rows as lines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use kith_gossip_proto::Value;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::error::ApiError;
use super::metrics::Outcome;
use super::request::{json, parameters, seconds};
use super::routes::App;
use super::statement::SentStatement;
use super::stream::{self, Alive, Lines};
use crate::store::QueryError;
use crate::subscriptions::line;

/// A query that says nothing of its time may take this long.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Rows are gathered into pieces of about this size where that delays none of them.
const PIECE_BYTES: usize = 32 << 10;

#[derive(Deserialize)]
struct Parameters {
    timeout: Option<f64>,
}

/// The rows of a query that runs.
struct RowLines {
    head: Option<Bytes>,
    rows: Option<mpsc::Receiver<Result<Vec<Value>, QueryError>>>,
    count: u64,
    started: Instant,
}

pub(super) async fn post(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let started = Instant::now();
    let parameters: Parameters = parameters(request.uri())?;
    let timeout = if parameters.timeout.is_some() { seconds(parameters.timeout)? } else { Some(TIMEOUT) };
    let SentStatement(statement) = json(request).await?;
    if statement.sql.contains("__corro_members") {
        app.show_others();
    }
    let queried = app.store.query(statement, timeout).await;
    app.metrics.query(if queried.is_ok() { Outcome::Done } else { Outcome::Failed });
    let rows = queried.map_err(|error| ApiError::new(status(&error), error))?;
    let lines = RowLines { head: Some(line::columns(&rows.columns)), rows: Some(rows.rows), count: 0, started };
    Ok(stream::respond(lines, app.stopping.clone(), Alive::Unsaid))
}

fn status(error: &QueryError) -> StatusCode {
    match error {
        QueryError::NotReadOnly | QueryError::Prepare(_) => StatusCode::BAD_REQUEST,
        QueryError::ShuttingDown | QueryError::Malformed(_) => StatusCode::SERVICE_UNAVAILABLE,
        QueryError::Bind(_)
        | QueryError::Pool
        | QueryError::Failed(_)
        | QueryError::Broken(_)
        | QueryError::TimedOut => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Lines for RowLines {
    async fn next(&mut self) -> Option<Bytes> {
        let rows = self.rows.as_mut()?;
        let mut piece = Vec::new();
        if let Some(head) = self.head.take() {
            piece.extend_from_slice(&head);
        }
        let mut next = rows.recv().await;
        loop {
            match next {
                Some(Ok(row)) => {
                    self.count += 1;
                    push_row(&mut piece, self.count, &row);
                }
                Some(Err(error)) => {
                    piece.extend_from_slice(&line::error(&error.to_string()));
                    self.rows = None;
                    break;
                }
                None => {
                    piece.extend_from_slice(&line::end_of_query(self.started.elapsed(), None));
                    self.rows = None;
                    break;
                }
            }
            if piece.len() >= PIECE_BYTES {
                break;
            }
            match rows.try_recv() {
                Ok(row) => next = Some(row),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => next = None,
            }
        }
        Some(piece.into())
    }
}

fn push_row(piece: &mut Vec<u8>, number: u64, row: &[Value]) {
    let mut cells = Vec::with_capacity(row.len() * 16);
    line::push_cells(&mut cells, row.iter().map(line::borrowed));
    line::push_row(piece, number, &cells);
}
