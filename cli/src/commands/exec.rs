//! `kith exec`: one statement, one transaction.

use std::time::Duration;

use kith_gossip_client::Client;
use serde_json::json;

use super::query::statement;
use crate::args::Exec;
use crate::exit::Failure;
use crate::out::Out;

/// How long one waits for other servers.
const REPLICATED_WITHIN: Duration = Duration::from_secs(10);

/// Runs the statement and says what it did.
pub(crate) async fn run(client: &Client, args: &Exec) -> Result<(), Failure> {
    let Exec { replicas, statement: args } = args;
    let statements = [statement(&args.sql, &args.params)];
    let done = match *replicas {
        0 => client.execute(&statements).await?,
        replicas => client.execute_on(&statements, replicas, REPLICATED_WITHIN).await?,
    };
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
