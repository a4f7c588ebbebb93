//! `?replicas=N`: a transaction is answered once that many other nodes have it stored and synced.

use std::time::Duration;

use http::StatusCode;
use thiserror::Error;

use super::error::ApiError;
use super::routes::App;

/// The transaction stands here, and was not seen on as many other nodes in time.
#[derive(Debug, Error)]
#[error("held by {held} of {wanted} other nodes in time: the transaction stands, and goes on to the others")]
pub(super) struct TooFew {
    held: usize,
    wanted: usize,
}

/// Refuses what cannot come true: more nodes than there are.
pub(super) fn check(app: &App, wanted: usize) -> Result<(), ApiError> {
    let others = app.others();
    if wanted <= others {
        return Ok(());
    }
    let message = format!("replicas={wanted}: there are {others} other nodes, so nothing was done");
    Err(ApiError::new(StatusCode::BAD_REQUEST, message))
}

/// Waits until the version is on `wanted` other nodes. A transaction that changed nothing is on all of them.
pub(super) async fn wait(
    app: &App,
    version: Option<u64>,
    wanted: usize,
    timeout: Option<Duration>,
) -> Result<(), TooFew> {
    let Some(version) = version.filter(|_| wanted > 0) else { return Ok(()) };
    let mut acknowledged = app.membership.acknowledged();
    let mut held = 0;
    let enough = acknowledged.wait_for(|heads| {
        held = heads.values().filter(|head| **head >= version).count();
        held >= wanted
    });
    let reached = tokio::select! {
        // Replication has ended with an error: nothing more will be told.
        told = enough => told.is_ok(),
        () = tokio::time::sleep(timeout.unwrap_or(Duration::MAX)) => false,
        () = app.stopping.cancelled() => false,
    };
    if reached { Ok(()) } else { Err(TooFew { held, wanted }) }
}
