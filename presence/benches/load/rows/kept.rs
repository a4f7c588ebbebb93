//! All users change at one leaf: how fast the center comes to keep it.

use std::time::Instant;

use serde_json::json;

use super::rates::all;
use super::{row, user, users};
use crate::client::put;
use crate::figures::Row;
use crate::stage::Stage;

const CONNECTIONS: usize = 64;

pub(super) async fn kept(stage: &mut Stage) -> Result<Row, String> {
    users::fill(stage).await?;
    stage.settled().await?;
    let (users, token) = (stage.sizes.users, stage.token.clone());
    let request = move |at: usize, turn: usize| {
        let at = (turn * CONNECTIONS + at).min(users - 1);
        put(&user(at), &token, &format!("{{\"status\":\"away\",\"ttl\":86400,\"message\":\"{at}\"}}"))
    };
    let (before, begun, meter) = (stage.puts().await?, Instant::now(), stage.meter(1));
    let answers = all(stage.addr(1), CONNECTIONS, request, move |turn, _| turn * CONNECTIONS < users).await?;
    stage.settled().await?;
    let (took, cores) = (begun.elapsed(), meter.cores());
    let puts = stage.puts().await? - before;
    let rate = puts as f64 / took.as_secs_f64();
    let written = answers.took.as_secs_f64();
    let measured = format!("{rate:.0} keys/s, {puts} in {:.2} s; written within {written:.2} s", took.as_secs_f64());
    let figures = json!({
        "users": users, "keys": puts, "per_second": rate, "seconds": took.as_secs_f64(), "written_seconds": written,
    });
    let named = ("what all users change at a leaf, kept by the center", "none: synced one by one");
    Ok(row(stage.sizes, named, (measured, true), cores, figures).wrong(answers.refused))
}
