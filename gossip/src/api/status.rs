//! What the node says of itself: figures, health, members, readiness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use kith_gossip_proto::Day;
use kith_gossip_proto::agreement::Agreement;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::error::ApiError;
use super::membership::{Member, MemberState, PeerFigures, RefusedFigures};
use super::request::{json as read_json, parameters};
use super::routes::App;
use super::stream::{self, Lines};

/// `POST /v1/table_stats`: rows of some tables together, and which of the names are no tables.
pub(super) async fn table_stats(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    #[derive(Deserialize)]
    struct Body {
        tables: Vec<String>,
    }

    let Body { tables } = read_json(request).await?;
    let known = app.store.tables();
    let (valid, invalid): (Vec<_>, Vec<_>) = tables.into_iter().partition(|table| known.get(table).is_some());
    let counted = app
        .store
        .read(move |conn| {
            let count = |table: &String| {
                let sql = format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\""));
                conn.query_row(&sql, [], |row| row.get::<_, i64>(0))
            };
            valid.iter().map(count).sum::<rusqlite::Result<i64>>()
        })
        .await;
    let failed = |error: &dyn std::error::Error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let total = counted.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(Json(json!({ "total_row_count": total, "invalid_tables": invalid })).into_response())
}

/// `GET /v1/health`: lag, queue and members, with a status of failure when a given threshold is passed.
pub(super) async fn health(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    #[derive(Deserialize)]
    struct Thresholds {
        gaps: Option<u64>,
        p99_lag: Option<f64>,
        max_queue: Option<u64>,
        failure_status: Option<u16>,
    }

    let thresholds: Thresholds = parameters(request.uri())?;
    let failure = match thresholds.failure_status {
        None => StatusCode::SERVICE_UNAVAILABLE,
        Some(code) => StatusCode::from_u16(code)
            .ok()
            .filter(|status| !status.is_informational())
            .ok_or_else(|| ApiError::bad_request("failure_status must be a status code from 200 to 999"))?,
    };
    let figures = app.membership.figures();
    let waiting = app.membership.waiting();
    let lag = figures.lag_p99.as_secs_f64();
    // Versions are applied in order: there are no gaps, only versions that are not here yet.
    let passed = thresholds.gaps.is_some_and(|most| figures.behind > most)
        || thresholds.p99_lag.is_some_and(|most| lag > most)
        || thresholds.max_queue.is_some_and(|most| figures.queued > most);
    let response = json!({
        "gaps": figures.behind,
        "members": app.others_up(),
        "p99_lag": lag,
        "queue_size": figures.queued,
        "waiting": waiting,
    });
    let status = if passed { failure } else { StatusCode::OK };
    Ok((status, Json(json!({ "response": response }))).into_response())
}

/// `GET /v1/digest`: two nodes with equal heads have equal digests, or one of them is damaged. Deletions of days that some
/// node has begun to forget are left out.
pub(super) async fn digest(State(app): State<Arc<App>>) -> Response {
    let state = app.store.state();
    Json(json!({
        "digest": app.store.fingerprint().digest.to_string(),
        "heads_hash": format!("{:016x}", state.heads.hash()),
        "schema": format!("{:016x}", state.schema),
    }))
    .into_response()
}

/// `GET /v1/status`: all of it.
pub(super) async fn status(State(app): State<Arc<App>>) -> Response {
    let state = app.store.state();
    let figures = app.membership.figures();
    let subscriptions = app.subscriptions.figures();
    let heads: BTreeMap<String, u64> = state.heads.iter().map(|(site, head)| (site.to_string(), head)).collect();
    let members = app.membership.members().borrow().clone();
    let looked = app.store.looks().borrow().clone();
    let ms = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let count = |state| members.iter().filter(|member| member.state == state).count();
    Json(json!({
        "node": app.node.as_str(),
        "release": app.release,
        "up_seconds": app.started.elapsed().as_secs(),
        "waiting": app.membership.waiting(),
        "store": {
            "site": state.site.to_string(),
            "boot": state.boot,
            "heads": heads,
            "heads_hash": format!("{:016x}", state.heads.hash()),
            "digest": app.store.fingerprint().digest.to_string(),
            "schema": format!("{:016x}", state.schema),
            "clock_ms": state.hlc.ms(),
            "commits": state.commits,
            "set_aside_cells": state.set_aside,
            "deletions": app.store.tombstones().await.ok(),
            "oldest_deletion_ms": state.digests.days().next().map(|(day, _)| day.ms()),
            "forgotten_before_ms": (state.purged.floor != Day::default()).then(|| state.purged.floor.ms()),
            "looked_through_ms": looked.as_ref().map(|looked| ms(looked.at)),
            "damage": looked.as_ref().map_or(0, |looked| looked.wrong.len()),
        },
        "replication": {
            "behind": figures.behind,
            "lag_p99_ms": figures.lag_p99.as_secs_f64() * 1e3,
            "queued": figures.queued,
            "applied": figures.applied,
            "pushed": figures.pushed,
            "pulls": figures.pulls,
            "pulls_failed": figures.pulls_failed,
            "peers": app.membership.peers().iter().map(peer).collect::<serde_json::Map<_, _>>(),
        },
        "members": {
            "up": count(MemberState::Up),
            "silent": count(MemberState::Silent),
            "removed": count(MemberState::Removed),
        },
        "subscriptions": {
            "queries": subscriptions.queries,
            "listeners": subscriptions.listeners,
            "looks": subscriptions.looks,
            "looks_whole": subscriptions.looks_whole,
            "events": subscriptions.events,
            "cut": subscriptions.cut,
            "damaged": subscriptions.damaged,
            "bytes": subscriptions.bytes,
        },
        "refusals": app.membership.refusals().iter().map(refusal).collect::<serde_json::Map<_, _>>(),
        "certificate": app.membership.certificate().map(|certificate| json!({
            "ends_ms": ms(certificate.ends),
            "days_left": certificate.left.as_secs() / 86_400,
        })),
        "alarms": app.alarms().into_iter().map(|(name, text)| json!({ "name": name, "text": text })).collect::<Vec<_>>(),
        "parts": app.reports.all(),
    }))
    .into_response()
}

/// A refusal, under the peer's address.
fn refusal(refused: &RefusedFigures) -> (String, Value) {
    (refused.address.to_string(), json!({ "by": refused.by, "why": refused.why }))
}

/// How far one peer and this node are apart, under its name.
fn peer(peer: &PeerFigures) -> (String, Value) {
    let about = json!({
        "behind": peer.behind,
        "ahead": peer.ahead,
        "queued_bytes": peer.queued_bytes,
        "digest": match peer.agreement {
            Agreement::Unknown => None,
            Agreement::Equal => Some("equal"),
            Agreement::Differs { .. } => Some("differs"),
        },
        "differs_s": peer.differs_for.map(|time| time.as_secs()),
        "clock_ms": peer.clock_ms,
    });
    (peer.server.to_string(), about)
}

/// `GET /live`: the process answers.
pub(super) async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

/// `GET /ready`: answers are complete; else 503 and what is missing.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let waiting = app.membership.waiting();
    let status = if waiting.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": waiting.is_empty(), "waiting": waiting }))).into_response()
}

/// `GET /metrics`: in the Prometheus text format.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let text = app.metrics.text(&app).map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// `GET /v1/members`: a line per member, `{"eom":{}}`, then with `watch=true` the same line for each change.
pub(super) async fn members(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    #[derive(Deserialize)]
    struct Parameters {
        watch: Option<bool>,
        alive: Option<bool>,
    }

    let Parameters { watch, alive } = parameters(request.uri())?;
    let members = app.membership.members();
    let lines =
        MemberLines { members, told: BTreeMap::new(), phase: Phase::Snapshot, follow: watch.unwrap_or(false).into() };
    Ok(stream::respond(lines, app.stopping.clone(), alive.into()))
}

/// Whether a list of members goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    Yes,
    No,
}

impl From<bool> for Follow {
    fn from(watch: bool) -> Self {
        if watch { Self::Yes } else { Self::No }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Snapshot,
    Changes,
}

/// The members as lines.
struct MemberLines {
    members: watch::Receiver<Arc<Vec<Member>>>,
    /// What was last said of each.
    told: BTreeMap<String, Member>,
    phase: Phase,
    follow: Follow,
}

#[derive(Serialize)]
struct MemberLine<'m> {
    member: JsonMember<'m>,
}

#[derive(Serialize)]
struct JsonMember<'m> {
    server: &'m str,
    number: Option<u8>,
    addr: String,
    site: Option<String>,
    boot_id: &'m str,
    state: &'static str,
    heard_ms_ago: Option<u64>,
    rtt_us: Option<u64>,
    release: &'m str,
}

impl Lines for MemberLines {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match (self.phase, self.follow) {
                (Phase::Snapshot, _) => {
                    self.phase = Phase::Changes;
                    let mut piece = self.changes();
                    piece.extend_from_slice(b"{\"eom\":{}}\n");
                    return Some(piece.into());
                }
                (Phase::Changes, Follow::No) => return None,
                (Phase::Changes, Follow::Yes) => {
                    self.members.changed().await.ok()?;
                    let piece = self.changes();
                    if !piece.is_empty() {
                        return Some(piece.into());
                    }
                }
            }
        }
    }
}

impl MemberLines {
    /// Lines for those that differ from what was last said of them; one that is gone is said to be removed.
    fn changes(&mut self) -> Vec<u8> {
        let members = self.members.borrow_and_update().clone();
        let mut piece = Vec::new();
        let mut told = BTreeMap::new();
        for member in members.iter() {
            let before = self.told.remove(member.server.as_str()).filter(|before| !member.is_news_after(before));
            if before.is_none() {
                push_member(&mut piece, member);
            }
            told.insert(member.server.as_str().to_owned(), before.unwrap_or_else(|| member.clone()));
        }
        for gone in self.told.values() {
            push_member(&mut piece, &Member { state: MemberState::Removed, heard: None, rtt: None, ..gone.clone() });
        }
        self.told = told;
        piece
    }
}

fn push_member(piece: &mut Vec<u8>, member: &Member) {
    let clamp = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
    let line = MemberLine {
        member: JsonMember {
            server: member.server.as_str(),
            number: member.number,
            addr: member.addr.to_string(),
            site: member.site.map(|site| site.to_string()),
            boot_id: &member.boot_id,
            state: member.state.as_str(),
            heard_ms_ago: member.heard.map(|heard| clamp(heard.as_millis())),
            rtt_us: member.rtt.map(|rtt| clamp(rtt.as_micros())),
            release: &member.release,
        },
    };
    serde_json::to_writer(&mut *piece, &line).expect("a member is numbers and texts");
    piece.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_round_trip_that_moves_is_told() {
        let member = |rtt| Member {
            server: "n1".parse().unwrap(),
            number: None,
            addr: ([127, 0, 0, 1], 1).into(),
            site: None,
            boot_id: String::new(),
            state: MemberState::Up,
            heard: None,
            rtt: Some(Duration::from_millis(rtt)),
            release: String::new(),
        };
        let (list, members) = watch::channel(Arc::new(vec![member(20)]));
        let mut lines = MemberLines { members, told: BTreeMap::new(), phase: Phase::Changes, follow: Follow::Yes };
        let mut told = Vec::new();
        // By little each time, it has moved as well.
        for rtt in [20, 22, 24, 25, 27, 90, 91] {
            list.send_replace(Arc::new(vec![member(rtt)]));
            told.push(lines.changes().is_empty());
        }
        assert_eq!(told, [false, true, true, false, true, false, true]);
    }
}
