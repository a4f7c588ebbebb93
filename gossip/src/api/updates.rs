//! `POST /v1/updates/{table}`: which rows change, by their primary keys, from now on.
//!
//! What is told is whether the row is there when it is looked at, just after the commit: a row that comes and goes quickly
//! may be told as deleted twice, never as there when it is not. A feed that would miss a change ends with a line that says
//! so: then the table is to be read anew.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use kith_gossip_proto::Name;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use uuid::Uuid;

use super::error::ApiError;
use super::routes::App;
use super::stream::{self, Alive, Lines};
use crate::store::{Commit, Keys, Presence, QueryError, Store};
use crate::subscriptions::line;

pub(super) async fn post(State(app): State<Arc<App>>, Path(table): Path<String>) -> Result<Response, ApiError> {
    // The commits first: none falls between.
    let commits = app.store.commits();
    let tables = app.store.tables();
    let table = tables.get(&table).ok_or_else(|| ApiError::bad_request(format!("there is no table {table}")))?;
    let lines = Updates { store: app.store.clone(), table: table.name.clone(), commits: Some(commits) };
    let mut response = stream::respond(lines, app.stopping.clone(), Alive::Unsaid);
    let id = HeaderValue::try_from(Uuid::new_v4().to_string()).expect("hex digits and dashes");
    response.headers_mut().insert("corro-query-id", id);
    Ok(response)
}

struct Updates {
    store: Store,
    table: Name,
    /// None after the last line.
    commits: Option<Receiver<Arc<Commit>>>,
}

impl Lines for Updates {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let commit = match self.commits.as_mut()?.recv().await {
                Ok(commit) => commit,
                Err(RecvError::Lagged(_)) => return self.end("changes came faster than they were read: read anew"),
                Err(RecvError::Closed) => return self.end("the store ended"),
            };
            match commit.touched.get(&self.table).map(|touched| &touched.keys) {
                None => {}
                Some(Keys::Many) => return self.end("more rows changed at once than are listed: read anew"),
                Some(Keys::These(keys)) => match self.told(keys.iter().cloned().collect()).await {
                    Ok(piece) if piece.is_empty() => {}
                    Ok(piece) => return Some(piece),
                    Err(error) => return self.end(&error.to_string()),
                },
            }
        }
    }
}

impl Updates {
    fn end(&mut self, why: &str) -> Option<Bytes> {
        self.commits = None;
        Some(line::error(why))
    }

    /// One line per row.
    async fn told(&self, keys: Vec<kith_gossip_proto::Key>) -> Result<Bytes, QueryError> {
        let tables = self.store.tables();
        let Some(table) = tables.get(self.table.as_str()) else { return Ok(Bytes::new()) };
        let mut out = Vec::new();
        for (key, presence) in self.store.there(Arc::clone(table), keys).await? {
            let values = key.decode().unwrap_or_default();
            let kind = match presence {
                Presence::Here => line::ChangeKind::Update,
                Presence::Gone => line::ChangeKind::Delete,
            };
            line::push_notice(&mut out, kind, values.iter().map(line::borrowed));
        }
        Ok(out.into())
    }
}
