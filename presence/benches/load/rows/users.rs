//! A hundred thousand users online: what a node takes for them.

use std::time::Duration;

use serde_json::json;

use super::rates::all;
use super::{row, user};
use crate::client::put;
use crate::figures::Row;
use crate::process::resident;
use crate::stage::{Stage, until};

/// For the other nodes to have heard of all.
const HEARD: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 64;
const MIB: f64 = 1_048_576.0;

/// Has all users be online at the first leaf.
pub(super) async fn fill(stage: &mut Stage) -> Result<(), String> {
    let (users, token) = (stage.sizes.users, stage.token.clone());
    if stage.filled >= users {
        return Ok(());
    }
    let request = move |at: usize, turn: usize| {
        // Those beyond the last are the last.
        let user = user((turn * CONNECTIONS + at).min(users - 1));
        put(&user, &token, "{\"status\":\"online\",\"ttl\":86400}")
    };
    let answers = all(stage.addr(1), CONNECTIONS, request, move |turn, _| turn * CONNECTIONS < users).await?;
    if answers.refused > 0 {
        return Err(format!("{} of {users} users were refused", answers.refused));
    }
    for at in 0..3 {
        until(HEARD, "all nodes know all users", async || Ok(stage.figure(at, "users_online").await? >= users as u64))
            .await?;
    }
    stage.filled = users;
    Ok(())
}

pub(super) async fn users(stage: &mut Stage) -> Result<Row, String> {
    let before = [1, 2].map(|at| resident(stage.id(at)));
    let meter = stage.meter(1);
    fill(stage).await?;
    let cores = meter.cores();
    let after = [1, 2].map(|at| resident(stage.id(at)));
    let [owner, other] = after.map(|bytes| bytes as f64 / MIB);
    let nats = stage.servers[1].id().map_or(0.0, |id| resident(id) as f64 / MIB);
    let measured = format!("{owner:.0} MiB where they write, {other:.0} MiB elsewhere (nats-server {nats:.0} MiB)");
    let figures = json!({
        "users": stage.sizes.users, "owner_bytes": after[0], "other_bytes": after[1],
        "before_bytes": before, "nats_mib": nats,
    });
    let most = after.into_iter().max().unwrap_or(0);
    let what = format!("{} online users, resident", stage.sizes.users);
    let named = (what.as_str(), "≤ 150 MB beside nats-server");
    Ok(row(stage.sizes, named, (measured, most <= 150_000_000), cores, figures))
}
