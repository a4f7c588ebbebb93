//! Recomputes what the ledger keeps, from the rows.

use rusqlite::Connection;

use super::error::QueryError;

/// What does not agree; empty in a sound store.
pub type Findings = Vec<String>;

pub(crate) fn verify(_conn: &Connection) -> Result<Findings, QueryError> {
    Err(QueryError::Failed("verify is not there yet".to_owned()))
}
