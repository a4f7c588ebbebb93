//! A part's own status, left at the API beside the node's: how `kith status` sees what is joined by HTTP only, in this
//! process or in another.

use std::time::Duration;

use kith_gossip_client::Client;
use kith_gossip_client::error::Chain;
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How old a status may be. A PUT over the Unix socket costs some 100 µs of CPU.
const PERIOD: Duration = Duration::from_secs(2);

/// Reports figures in the same way, which `/metrics` then has.
pub(crate) async fn report_metrics(
    client: Client,
    part: &'static str,
    lines: impl Fn() -> String,
    token: CancellationToken,
) {
    let go_on = async {
        loop {
            if let Err(error) = client.report_metrics(part, &lines()).await {
                tracing::debug!(part, error = %Chain(&error), "metrics not reported");
            }
            sleep(PERIOD).await;
        }
    };
    token.run_until_cancelled(go_on).await;
}

/// Reports until the token is cancelled. That the store is away is nobody's failure here.
pub(crate) async fn report(client: Client, part: &'static str, status: impl Fn() -> Value, token: CancellationToken) {
    report_soon(client, part, status, std::future::pending, token).await;
}

/// The same, and at once when `changed` says so.
pub(crate) async fn report_soon<C: Future<Output = ()>>(
    client: Client,
    part: &'static str,
    status: impl Fn() -> Value,
    changed: impl Fn() -> C,
    token: CancellationToken,
) {
    let go_on = async {
        loop {
            if let Err(error) = client.report(part, &status()).await {
                tracing::debug!(part, error = %Chain(&error), "status not reported");
            }
            // Neither is lost by being dropped: a change stays noted, and the period begins anew.
            tokio::select! {
                () = sleep(PERIOD) => {}
                () = changed() => {}
            }
        }
    };
    token.run_until_cancelled(go_on).await;
}
