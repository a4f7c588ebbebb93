//! The answer to one read-only statement: columns at once, rows as they come.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::Error;
use crate::ndjson::Lines;
use crate::value::Value;

/// The answer to a query: a stream of rows that ends, after the last one, without an error only if the answer was
/// complete.
pub struct Query {
    columns: Vec<String>,
    rows: Pin<Box<dyn Stream<Item = Result<Vec<Value>, Error>> + Send>>,
}

/// One line of the answer.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Columns(Vec<String>),
    Row(IgnoredAny, Vec<Value>),
    Eoq(IgnoredAny),
    Error(String),
}

impl Query {
    /// The columns' names, in the order of the cells.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// All rows that are left, held in memory.
    pub async fn collect(mut self) -> Result<Vec<Vec<Value>>, Error> {
        let mut rows = Vec::new();
        while let Some(row) = self.rows.next().await {
            rows.push(row?);
        }
        Ok(rows)
    }

    /// Reads the first line.
    pub(crate) async fn begin(mut lines: Lines) -> Result<Query, Error> {
        match line(&mut lines).await? {
            Line::Columns(columns) => Ok(Query { columns, rows: Box::pin(rows(lines).fuse()) }),
            Line::Error(message) => Err(Error::Stopped(message)),
            Line::Row(..) | Line::Eoq(_) => Err(Error::Incomplete),
        }
    }
}

/// The rows, up to the end marker.
fn rows(lines: Lines) -> impl Stream<Item = Result<Vec<Value>, Error>> + Send {
    stream::unfold(Some(lines), |lines| async move {
        let mut lines = lines?;
        match line(&mut lines).await {
            Ok(Line::Row(_, cells)) => Some((Ok(cells), Some(lines))),
            Ok(Line::Eoq(_)) => None,
            Ok(Line::Error(message)) => Some((Err(Error::Stopped(message)), None)),
            Ok(Line::Columns(_)) => Some((Err(Error::Incomplete), None)),
            Err(error) => Some((Err(error), None)),
        }
    })
}

async fn line(lines: &mut Lines) -> Result<Line, Error> {
    let text = lines.next().await?.ok_or(Error::Incomplete)?;
    serde_json::from_str(&text).map_err(|e| Error::malformed(text.as_bytes(), &e))
}

impl Stream for Query {
    type Item = Result<Vec<Value>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.rows.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("columns", &self.columns).finish_non_exhaustive()
    }
}
