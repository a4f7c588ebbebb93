//! What a peer lacks: every row with a stamp above its vector, from one snapshot.

use std::sync::Arc;

use kith_gossip_proto::Vector;
use kith_gossip_proto::frame::PulledRow;
use tokio::sync::mpsc;

use super::error::QueryError;
use super::read::Pool;
use super::shared::Shared;

/// The answer to a pull.
#[derive(Debug)]
pub struct Collected {
    /// The heads in the snapshot the rows are read from.
    pub heads: Vector,
    /// The rows, in parts. The channel closes at the end; an error is the last item. Dropping it ends the reading.
    pub rows: mpsc::Receiver<Result<Vec<PulledRow>, QueryError>>,
}

pub(crate) async fn collect(_pool: &Arc<Pool>, _shared: &Arc<Shared>, _above: Vector) -> Result<Collected, QueryError> {
    Err(QueryError::Failed("collect is not there yet".to_owned()))
}
