//! Which rows of a table change, by their keys.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Stream, stream};
use serde::Deserialize;

use crate::error::Error;
use crate::ndjson::Lines;
use crate::value::Value;

/// What is true of a row that changed, when it was looked at just after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowState {
    /// It is there: new, or otherwise than before.
    #[serde(rename = "update")]
    Here,
    /// It is not, or no longer.
    #[serde(rename = "delete")]
    Gone,
}

/// A row that changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Whether it is there.
    pub state: RowState,
    /// Its primary key.
    pub key: Vec<Value>,
}

/// The rows of one table that change, from the request on. Ends with an error when changes may have been missed: then the
/// table is to be read anew, and the feed asked for again.
pub struct Updates {
    updates: Pin<Box<dyn Stream<Item = Result<Update, Error>> + Send>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Notify(RowState, Vec<Value>),
    Error(String),
}

impl Updates {
    pub(crate) fn of(lines: Lines) -> Updates {
        let updates = stream::unfold(Some(lines), |lines| async move {
            let mut lines = lines?;
            match line(&mut lines).await {
                Ok(Line::Notify(state, key)) => Some((Ok(Update { state, key }), Some(lines))),
                Ok(Line::Error(message)) => Some((Err(Error::Stopped(message)), None)),
                Err(error) => Some((Err(error), None)),
            }
        });
        Updates { updates: Box::pin(updates) }
    }
}

async fn line(lines: &mut Lines) -> Result<Line, Error> {
    let text = lines.next().await?.ok_or(Error::Incomplete)?;
    serde_json::from_str(&text).map_err(|e| Error::malformed(text.as_bytes(), &e))
}

impl Stream for Updates {
    type Item = Result<Update, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.updates.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updates").finish_non_exhaustive()
    }
}
