//! How long a write on one leaf takes to be an event on another.

use std::time::{Duration, Instant};

use serde_json::json;

use super::row;
use crate::client::{Client, put};
use crate::figures::Row;
use crate::follow::{By, Followers};
use crate::stage::{Stage, until};

/// Beyond the window within which changes of one user are one event.
const APART: Duration = Duration::from_millis(60);
const HEARD: Duration = Duration::from_secs(5);

pub(super) async fn events(stage: &mut Stage) -> Result<Row, String> {
    let followers = Followers::connect(stage.addr(2), By::Stream, [vec!["watched".to_owned()]].into_iter()).await?;
    let mut client = Client::connect(stage.addr(1)).await?;
    let (stamp, begun, meter, mut sent) = (followers.stamp(), Instant::now(), stage.meter(1), 0);
    while begun.elapsed() < stage.sizes.time {
        sent += 1;
        let body = format!("{{\"status\":\"busy\",\"ttl\":86400,\"message\":\"{}\"}}", stamp.message());
        let status = client.ask(&put("watched", &stage.token, &body)).await?;
        if status != 200 {
            return Err(format!("a write is answered {status}"));
        }
        until(HEARD, "the event is there", async || Ok(followers.times().len() >= sent)).await?;
        tokio::time::sleep(APART).await;
    }
    let cores = meter.cores();
    let times = followers.times();
    let (p50, p99, longest) = (times.at(500), times.at(990), times.at(1_000));
    let measured = format!("{sent} events: p50 {p50:.2} ms, p99 {p99:.2} ms, longest {longest:.2} ms, all on loopback");
    let figures = json!({ "events": sent, "p50_ms": p50, "p99_ms": p99, "max_ms": longest });
    let named = ("write on one leaf → event on another", "p99 ≤ 10 ms");
    Ok(row(stage.sizes, named, (measured, p99 <= 10.0), cores, figures))
}
