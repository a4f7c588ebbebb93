//! Many who follow: what each connection takes, and whether all hear of every change in time.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{row, user};
use crate::client::{Client, put};
use crate::figures::{Row, Times};
use crate::follow::{By, Followers, Stamp};
use crate::process::resident;
use crate::stage::Stage;

/// Changes are paced in steps of this.
const STEP: Duration = Duration::from_millis(10);
/// What is not heard by then stands in a queue.
const LATE: Duration = Duration::from_secs(1);
/// What is not heard by then is lost.
const BOUND: Duration = Duration::from_secs(30);
/// Users of one socket.
const OF_A_SOCKET: usize = 100;
/// From the user of one change to that of the next, so that changes meet all connections and not one after the other. A
/// prime that divides no number of users: each is changed once before any is changed twice.
const STRIDE: usize = 7_919;
/// Of the changes that are asked for, this share must have come through: fewer were no test.
const PACE: f64 = 0.95;

pub(super) async fn streams(stage: &mut Stage) -> Result<Row, String> {
    let sizes = stage.sizes;
    let count = sizes.streams;
    let what = format!("{count} SSE connections in one process, {} changes/s", sizes.changes);
    let named = (what.as_str(), "≤ 15 KB each, no queue growth");
    let users = (0..count).map(move |at| vec![user(at % sizes.users)]);
    following(stage, named, By::Stream, users, 15_000.0).await
}

pub(super) async fn sockets(stage: &mut Stage) -> Result<Row, String> {
    let count = stage.sizes.sockets;
    let changes = stage.sizes.changes;
    let what = format!("{} users over {count} WebSockets, {changes} changes/s", count * OF_A_SOCKET);
    let named = (what.as_str(), "no queue growth");
    let users = (0..count).map(move |at| (0..OF_A_SOCKET).map(|of| user(at * OF_A_SOCKET + of)).collect());
    following(stage, named, By::Socket, users, f64::INFINITY).await
}

async fn following(
    stage: &mut Stage,
    named: (&str, &str),
    by: By,
    users: impl ExactSizeIterator<Item = Vec<String>>,
    most: f64,
) -> Result<Row, String> {
    // What follows is heard at the second leaf, and written at the first.
    let (addr, id, count) = (stage.addr(2), stage.id(2), users.len());
    let before = resident(id);
    let followers = Followers::connect(addr, by, users).await?;
    let each = resident(id).saturating_sub(before) as f64 / count as f64;
    let meter = stage.meter(2);
    let followed = if by == By::Stream { count } else { count * OF_A_SOCKET };
    let (sent, took) = change(stage, followers.stamp(), followed).await?;
    tokio::time::sleep(LATE).await;
    let (cores, times) = (meter.cores(), followers.times());
    let unheard = sent.saturating_sub(times.len());
    let never = never(&followers, sent).await;
    let [first, second]: [f64; 2] = times.halves().map(|half: Times| half.at(990));
    let rate = sent as f64 / took.as_secs_f64();
    // A queue that grows makes what comes later come ever later.
    let grows = unheard > 0 || second > 2.0 * first + 50.0;
    let size = if by == By::Stream { format!("{each:.0} B each, ") } else { format!("{each:.0} B a socket, ") };
    let holds = each <= most && !grows && rate >= PACE * stage.sizes.changes as f64;
    let measured = format!(
        "{size}{rate:.0} changes/s, unheard {unheard} of {sent}, p99 {:.1} ms (first half {first:.1}, second {second:.1})",
        times.at(990)
    );
    let figures = json!({
        "connections": count, "bytes_each": each, "changes": sent, "per_second": rate, "unheard": unheard,
        "p99_ms": times.at(990), "p99_first_half_ms": first, "p99_second_half_ms": second, "max_ms": times.at(1_000),
    });
    Ok(row(stage.sizes, named, (measured, holds), cores, figures).wrong(never))
}

/// How many changes are not heard at all, however late.
async fn never(followers: &Followers, sent: usize) -> u64 {
    let begun = Instant::now();
    while followers.times().len() < sent && begun.elapsed() < BOUND {
        tokio::time::sleep(STEP).await;
    }
    sent.saturating_sub(followers.times().len()) as u64
}

/// Changes users in turn, so many a second; each of them once.
async fn change(stage: &Stage, stamp: Stamp, followed: usize) -> Result<(usize, Duration), String> {
    let each_step = stage.sizes.changes * STEP.as_millis() as usize / 1_000;
    let steps = (stage.sizes.time.as_millis() / STEP.as_millis()) as usize;
    // One connection for each change of a step.
    let mut clients = Vec::new();
    for _ in 0..each_step {
        clients.push(Client::connect(stage.addr(1)).await?);
    }
    let mut pace = tokio::time::interval(STEP);
    let (begun, mut sent) = (Instant::now(), 0);
    for step in 0..steps {
        pace.tick().await;
        let writes = clients.iter_mut().enumerate().map(|(at, client)| {
            let number = step * each_step + at;
            let body = format!("{{\"status\":\"busy\",\"ttl\":86400,\"message\":\"{}\"}}", stamp.message());
            let request = put(&user(number * STRIDE % followed), &stage.token, &body);
            async move { client.ask(&request).await }
        });
        for status in futures_util::future::join_all(writes).await {
            if status? != 200 {
                return Err("a write is refused".to_owned());
            }
            sent += 1;
        }
    }
    Ok((sent, begun.elapsed()))
}
