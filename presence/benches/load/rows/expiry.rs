//! All sessions end at once: for how long somebody who reads or writes is not answered meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::rates::all;
use super::{row, user};
use crate::client::{Client, get, post, put};
use crate::figures::{Row, Times};
use crate::stage::{Stage, until};

/// Heartbeats of one request.
const AT_ONCE: usize = 1_000;
const CONNECTIONS: usize = 64;
/// Before the first can end, and what is promised for the last.
const BEFORE: Duration = Duration::from_secs(2);
const BOUND: Duration = Duration::from_secs(30);

pub(super) async fn expiry(stage: &mut Stage) -> Result<Row, String> {
    let (users, ttl, token) = (stage.sizes.users, stage.sizes.ttl, stage.token.clone());
    let request = move |at: usize, turn: usize| {
        let user = user((turn * CONNECTIONS + at).min(users - 1));
        put(&user, &token, &format!("{{\"status\":\"online\",\"ttl\":{ttl}}}"))
    };
    let filled = all(stage.addr(1), CONNECTIONS, request, move |turn, _| turn * CONNECTIONS < users).await?;
    if filled.took >= Duration::from_secs(ttl) {
        return Err(format!("{users} users take {:?} to come, longer than they stay", filled.took));
    }
    stage.filled = 0;
    // All of them live on from here, within a moment.
    let begun = Instant::now();
    beat(stage).await?;
    let spread = begun.elapsed();
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tokio::time::sleep(Duration::from_secs(ttl).saturating_sub(BEFORE).saturating_sub(spread)).await;
    let meter = stage.meter(1);
    tasks.spawn(probe(stage.addr(1), stop.clone(), |_| get(&user(0))));
    let token = stage.token.clone();
    tasks.spawn(probe(stage.addr(1), stop.clone(), move |turn| {
        put("probe", &token, &format!("{{\"status\":\"busy\",\"ttl\":86400,\"message\":\"{turn}\"}}"))
    }));
    // Counting those who are online takes a look at each: it is done once they must be gone, and not before.
    tokio::time::sleep(BEFORE + spread + Duration::from_secs(2)).await;
    let left = left(stage).await?;
    // Who is shown for ever ends the measurement.
    until(BOUND, "all are offline", async || Ok(self::left(stage).await? == 0)).await?;
    let cores = meter.cores();
    stop.cancel();
    let mut times = Times::default();
    while let Some(ended) = tasks.join_next().await {
        times.merge(ended.map_err(|e| e.to_string())??);
    }
    let (longest, p99) = (times.at(1_000), times.at(990));
    let measured = format!(
        "longest answer {longest:.1} ms, p99 {p99:.2} ms of {}; {left} of {users} still shown ttl + 2 s after the last heartbeat",
        times.len()
    );
    let figures = json!({
        "users": users, "ttl_s": ttl, "heartbeats_within_ms": spread.as_secs_f64() * 1e3, "left": left,
        "max_ms": longest, "p99_ms": p99, "probes": times.len(),
    });
    let what = format!("{users} sessions expire together");
    let named = (what.as_str(), "no stall > 100 ms");
    Ok(row(stage.sizes, named, (measured, longest <= 100.0 && left == 0), cores, figures))
}

/// Sessions that the first leaf still has, but for the probe's and those of other rows.
async fn left(stage: &Stage) -> Result<u64, String> {
    let mut client = Client::connect(stage.addr(1)).await?;
    let mut left = 0;
    let ids: Vec<String> = (0..stage.sizes.users).map(user).collect();
    for users in ids.chunks(AT_ONCE) {
        let body = json!({ "user_ids": users }).to_string();
        client.ask(&post("/api/v2/presence/batch", "", &body)).await?;
        let text = client.body();
        let mark = b"\"status\":\"offline\"";
        let gone = text.windows(mark.len()).filter(|part| part == mark).count();
        left += users.len().saturating_sub(gone) as u64;
    }
    Ok(left)
}

async fn beat(stage: &Stage) -> Result<(), String> {
    let mut client = Client::connect(stage.addr(1)).await?;
    let ids: Vec<String> = (0..stage.sizes.users).map(user).collect();
    for users in ids.chunks(AT_ONCE) {
        let sessions: Vec<_> = users.iter().map(|user| json!({ "user_id": user })).collect();
        let body = json!({ "sessions": sessions }).to_string();
        let status = client.ask(&post("/api/v2/presence/heartbeat", &stage.token, &body)).await?;
        let answer = String::from_utf8_lossy(client.body()).into_owned();
        if status != 200 || !answer.contains("\"unknown\":[]") {
            return Err(format!("heartbeats are answered {status} {}", answer.chars().take(200).collect::<String>()));
        }
    }
    Ok(())
}

/// Asks all the time, one request after the other.
async fn probe(
    addr: SocketAddr,
    stop: CancellationToken,
    request: impl Fn(u64) -> String + Send,
) -> Result<Times, String> {
    let (mut client, mut times, mut turn) = (Client::connect(addr).await?, Times::default(), 0);
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        pace.tick().await;
        turn += 1;
        let asked = Instant::now();
        let status = client.ask(&request(turn)).await?;
        if status != 200 {
            return Err(format!("a probe is answered {status}"));
        }
        times.add(asked.elapsed());
    }
    Ok(times)
}
