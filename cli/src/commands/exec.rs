//! `kith exec`: one statement, one transaction.

use kith_gossip_client::Client;
use serde_json::json;

use super::query::statement;
use crate::args::Sql;
use crate::exit::Failure;
use crate::out::Out;

/// Runs the statement and says what it did.
pub(crate) async fn run(client: &Client, args: &Sql) -> Result<(), Failure> {
    let done = client.execute(&[statement(&args.sql, &args.params)]).await?;
    let rows: u64 = done.results.iter().map(|result| result.rows_affected).sum();
    let mut out = Out::new();
    if args.output.json {
        return out.json(&json!({
            "rows_affected": rows,
            "version": done.version,
            "actor_id": done.actor_id,
            "time": done.time.as_secs_f64(),
        }));
    }
    let count = if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
    match done.version {
        Some(version) => out.line(format!("{count}, version {version}")),
        None => out.line(format!("{count}, nothing to replicate")),
    }
}
