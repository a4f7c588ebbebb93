//! What parts that are joined by this API only, in this process or in another, say of themselves: kept here beside the
//! node's own status and figures, so that whoever asks one place sees all of the node. Nothing of it is replicated or
//! outlives the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
/// Bytes of one part's figures. Beyond it they are refused: some thousand series.
const FIGURE_BYTES: usize = 256 * 1024;
/// Alarms of one part that are shown; what is beyond shows when those are gone.
const ALARMS: usize = 32;
/// How long figures are given, and alarms shown, after they were reported. A part reports every 2 s; one that is gone has no figures, which
/// an alert can see, rather than those of its last moment for ever.
const LIFE: Duration = Duration::from_secs(15);

/// The last report of each part.
#[derive(Debug, Default)]
pub(super) struct Reports {
    statuses: Mutex<BTreeMap<String, Report>>,
    figures: Mutex<BTreeMap<String, Figures>>,
}

#[derive(Debug)]
struct Figures {
    text: String,
    at: Instant,
}

#[derive(Debug)]
struct Report {
    status: Value,
    at: Instant,
}

impl Reports {
    fn put(&self, part: String, status: Value) -> Result<(), ApiError> {
        let mut reports = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() >= PARTS && !reports.contains_key(&part) {
            let message = format!("there are {PARTS} parts already");
            return Err(ApiError::new(StatusCode::INSUFFICIENT_STORAGE, message));
        }
        reports.insert(part, Report { status, at: Instant::now() });
        Ok(())
    }

    fn put_figures(&self, part: String, text: String) -> Result<(), ApiError> {
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        if figures.len() >= PARTS && !figures.contains_key(&part) {
            let message = format!("there are figures of {PARTS} parts already");
            return Err(ApiError::new(StatusCode::INSUFFICIENT_STORAGE, message));
        }
        figures.insert(part, Figures { text, at: Instant::now() });
        Ok(())
    }

    /// The figures of all parts that reported theirs of late.
    pub(super) fn figures(&self) -> String {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let current = figures.values().filter(|figures| figures.at.elapsed() < LIFE);
        current.map(|figures| figures.text.as_str()).collect()
    }

    /// What parts that reported of late want seen to: the `alarms` of their reports, as name and text.
    pub(super) fn alarms(&self) -> Vec<(String, String)> {
        let reports = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |alarm: &Value| {
            let name = alarm["name"].as_str().filter(|name| check(name).is_ok())?;
            Some((name.to_owned(), alarm["text"].as_str()?.to_owned()))
        };
        let current = reports.values().filter(|report| report.at.elapsed() < LIFE);
        current
            .flat_map(|report| report.status["alarms"].as_array().into_iter().flatten().take(ALARMS))
            .filter_map(read)
            .collect()
    }

    /// All reports by part, each with its age, but for their alarms.
    pub(super) fn all(&self) -> Value {
        let reports = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        let aged = |report: &Report| {
            let mut status = report.status.clone();
            let age = u64::try_from(report.at.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Some(map) = status.as_object_mut() {
                map.remove("alarms");
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
    check(&part)?;
    let status: Value = read_json(request).await?;
    if !status.is_object() || status.to_string().len() > BYTES {
        return Err(ApiError::bad_request(format!("a status is a JSON object of at most {BYTES} bytes")));
    }
    app.reports.put(part, status)?;
    Ok(Json(json!({})).into_response())
}

/// `PUT /v1/metrics/{part}`: the part's figures, which replace its last ones.
pub(super) async fn put_figures(
    State(app): State<Arc<App>>,
    Path(part): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    check(&part)?;
    let mut text: String = read_json(request).await?;
    let prefix = format!("kith_{}_", part.replace('-', "_"));
    if text.len() > FIGURE_BYTES || !are_of(&text, &prefix) {
        let message = format!("figures are lines of {prefix}…, of at most {FIGURE_BYTES} bytes");
        return Err(ApiError::bad_request(message));
    }
    // A family may be there once only, or nothing of the whole can be read.
    let own = app.metrics.own(&app).map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    if own.contains(&format!("# TYPE {prefix}")) {
        return Err(ApiError::bad_request(format!("figures of {prefix}… are the node's own")));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    app.reports.put_figures(part, text)?;
    Ok(Json(json!({})).into_response())
}

fn check(part: &str) -> Result<(), ApiError> {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if !(1..=32).contains(&part.len()) || !part.bytes().all(letters) {
        return Err(ApiError::bad_request("a part's name is 1 to 32 of a-z, 0-9, - and _"));
    }
    Ok(())
}

/// Whether every line is a figure with this prefix, or describes one. The end of all figures, `# EOF`, is not the part's
/// to say.
fn are_of(text: &str, prefix: &str) -> bool {
    text.lines().all(|line| {
        let described = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        match described {
            Some(("HELP" | "TYPE" | "UNIT", rest)) => rest.starts_with(prefix),
            Some(_) => false,
            None => line.starts_with(prefix),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_their_part_alone() {
        let good = "# HELP kith_dns_x What.\n# TYPE kith_dns_x counter\nkith_dns_x_total{zone=\"a\"} 1\n";
        assert!(are_of(good, "kith_dns_") && are_of("", "kith_dns_"));
        for bad in ["kith_x 1\n", "# EOF\n", "# TYPE kith_members gauge\n", "kith_dns_x 1\n\nkith_dns_y 1\n", "#\n"] {
            assert!(!are_of(bad, "kith_dns_"), "{bad}");
        }
    }

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
        let alarm = json!({ "name": "flat-name", "text": "a and b" });
        let wrong = json!({ "name": "A name", "text": "" });
        reports.put("part1".to_owned(), json!({ "alarms": [alarm, wrong, 7] })).unwrap();
        assert_eq!(reports.alarms(), [("flat-name".to_owned(), "a and b".to_owned())]);
        assert_eq!(reports.all()["part1"]["alarms"], Value::Null, "they are shown with the node's");
        assert!(all["part0"]["reported_ms_ago"].is_u64(), "{all}");
    }
}
