//! Reads and writes, as many as come through.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use super::{row, user, users};
use crate::client::{Client, get, put};
use crate::figures::{Answers, Row};
use crate::stage::Stage;

/// What is to be reached.
#[derive(Clone, Copy)]
struct Wanted {
    per_second: f64,
    p99_ms: f64,
}

/// Runs `request` on every connection, (connection, turn) to a request, while `goes_on`.
pub(super) async fn all(
    addr: SocketAddr,
    connections: usize,
    request: impl Fn(usize, usize) -> String + Clone + Send + 'static,
    goes_on: impl Fn(usize, Instant) -> bool + Clone + Send + 'static,
) -> Result<Answers, String> {
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for at in 0..connections {
        let (request, goes_on) = (request.clone(), goes_on.clone());
        tasks.spawn(async move {
            let mut client = Client::connect(addr).await?;
            let mut answers = Answers::default();
            let mut turn = 0;
            while goes_on(turn, begun) {
                let asked = Instant::now();
                let status = client.ask(&request(at, turn)).await?;
                answers.add(asked.elapsed(), status);
                turn += 1;
            }
            Ok::<_, String>(answers)
        });
    }
    let mut answers = Answers::default();
    while let Some(ended) = tasks.join_next().await {
        answers.merge(ended.map_err(|e| e.to_string())??);
    }
    answers.took = begun.elapsed();
    Ok(answers)
}

/// Requests for as long as is measured.
pub(super) fn for_a_while(time: Duration) -> impl Fn(usize, Instant) -> bool + Clone + Send + 'static {
    move |_, begun| begun.elapsed() < time
}

pub(super) async fn reads(stage: &mut Stage) -> Result<Vec<Row>, String> {
    users::fill(stage).await?;
    stage.settled().await?;
    let mut rows = Vec::new();
    for (connections, target, wanted) in [
        (64, "≥ 60,000/s, p99 < 5 ms", Wanted { per_second: 60_000.0, p99_ms: 5.0 }),
        (32, "p99 < 2 ms", Wanted { per_second: 0.0, p99_ms: 2.0 }),
    ] {
        let users = stage.sizes.users;
        // A walk through the users that meets each, in no order that helps a cache.
        let request = move |at: usize, turn: usize| get(&user((at * 7_919 + turn * 104_729) % users));
        let meter = stage.meter(1);
        let answers = all(stage.addr(1), connections, request, for_a_while(stage.sizes.time)).await?;
        let what = format!("cached reads, {connections} keep-alive connections");
        rows.push(rate_row(stage, (&what, target), &answers, wanted, meter.cores()));
    }
    Ok(rows)
}

pub(super) async fn writes(stage: &mut Stage) -> Result<Row, String> {
    let (users, token) = (stage.sizes.users, stage.token.clone());
    let request = move |at: usize, turn: usize| {
        let user = user((at * 7_919 + turn * 104_729) % users);
        // Each write changes something: one that does not is not stored.
        let status = ["online", "busy", "away"][(turn + turn / users.max(1)) % 3];
        put(&user, &token, &format!("{{\"status\":\"{status}\",\"ttl\":86400,\"message\":\"{turn}\"}}"))
    };
    let meter = stage.meter(1);
    let answers = all(stage.addr(1), 64, request, for_a_while(stage.sizes.time)).await?;
    let wanted = Wanted { per_second: 10_000.0, p99_ms: 20.0 };
    let named = ("writes acknowledged locally, synced, 64 connections", "≥ 10,000/s, p99 < 20 ms");
    Ok(rate_row(stage, named, &answers, wanted, meter.cores()))
}

fn rate_row(stage: &Stage, named: (&str, &str), answers: &Answers, wanted: Wanted, cores: [f64; 2]) -> Row {
    let (rate, times) = (answers.rate(), &answers.times);
    let (p50, p99, longest) = (times.at(500), times.at(990), times.at(1_000));
    let refused = answers.refused;
    let holds = rate >= wanted.per_second && p99 < wanted.p99_ms && refused == 0;
    let measured = format!("{rate:.0}/s, p50 {p50:.2} ms, p99 {p99:.2} ms, longest {longest:.1} ms, {refused} refused");
    let figures = json!({
        "per_second": rate, "p50_ms": p50, "p99_ms": p99, "max_ms": longest, "refused": refused,
        "count": times.len(), "seconds": answers.took.as_secs_f64(),
    });
    row(stage.sizes, named, (measured, holds), cores, figures).wrong(refused)
}
