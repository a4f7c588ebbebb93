//! What parts that are joined by this API only, in this process or in another, say of themselves: kept here beside the
//! node's own status, so that whoever asks one place sees all of the node. Nothing of it is replicated or outlives the
//! process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::error::ApiError;
use super::request::json as read_json;
use super::routes::App;

/// Parts that are remembered. A node has a handful; beyond this a new name is refused, a known one still replaces.
const PARTS: usize = 32;
/// Bytes of one report, as JSON. Beyond it the report is refused: status is a screen, not a table.
const BYTES: usize = 64 * 1024;

/// The last report of each part.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<BTreeMap<String, Report>>);

#[derive(Debug)]
struct Report {
    status: Value,
    at: Instant,
}

impl Reports {
    fn put(&self, part: String, status: Value) -> Result<(), ApiError> {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() >= PARTS && !reports.contains_key(&part) {
            let message = format!("there are {PARTS} parts already");
            return Err(ApiError::new(StatusCode::INSUFFICIENT_STORAGE, message));
        }
        reports.insert(part, Report { status, at: Instant::now() });
        Ok(())
    }

    /// All reports by part, each with its age.
    pub(super) fn all(&self) -> Value {
        let reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let aged = |report: &Report| {
            let mut status = report.status.clone();
            let age = u64::try_from(report.at.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Some(map) = status.as_object_mut() {
                map.insert("reported_ms_ago".to_owned(), age.into());
            }
            status
        };
        reports.iter().map(|(part, report)| (part.clone(), aged(report))).collect()
    }
}

/// `PUT /v1/status/{part}`: a JSON object that replaces the part's last one.
pub(super) async fn put(
    State(app): State<Arc<App>>,
    Path(part): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if !(1..=32).contains(&part.len()) || !part.bytes().all(letters) {
        return Err(ApiError::bad_request("a part's name is 1 to 32 of a-z, 0-9, - and _"));
    }
    let status: Value = read_json(request).await?;
    if !status.is_object() || status.to_string().len() > BYTES {
        return Err(ApiError::bad_request(format!("a status is a JSON object of at most {BYTES} bytes")));
    }
    app.reports.put(part, status)?;
    Ok(Json(json!({})).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_replaces_the_last_one_and_a_part_too_many_is_refused() {
        let reports = Reports::default();
        for n in 0..PARTS {
            reports.put(format!("part{n}"), json!({ "n": 0 })).unwrap();
        }
        reports.put("part0".to_owned(), json!({ "n": 1 })).unwrap();
        assert!(reports.put("one-more".to_owned(), json!({})).is_err());
        let all = reports.all();
        assert_eq!((all.as_object().map(serde_json::Map::len), &all["part0"]["n"]), (Some(PARTS), &json!(1)));
        assert!(all["part0"]["reported_ms_ago"].is_u64(), "{all}");
    }
}
