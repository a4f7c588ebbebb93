//! `kith watch`: a live query as NDJSON, in the forms of the API, and three more for what happens to the connection.

use futures_util::StreamExt;
use kith_gossip_client::{Client, Event};
use serde_json::{Value, json};

use super::query::statement;
use crate::args::Follow;
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// Prints every event until the stream fails, or nobody reads on.
pub(crate) async fn run(client: &Client, args: &Follow) -> Result<(), Failure> {
    let mut events = client.subscribe(statement(&args.sql, &args.params)).await?;
    let mut out = Out::new();
    while let Some(event) = events.next().await {
        let event = event?;
        if let Event::Lost { reason } = &event {
            tracing::warn!(reason, "the store is away, trying again");
        }
        out.json(&line(&event))?;
    }
    Err(Failure::message(Exit::Failed, "the stream ended"))
}

/// An event as it is printed.
fn line(event: &Event) -> Value {
    match event {
        Event::Columns(columns) => json!({ "columns": columns }),
        Event::Row { row_id, cells } => json!({ "row": [row_id, cells] }),
        Event::EndOfQuery { change_id } => json!({ "eoq": { "change_id": change_id } }),
        Event::Change { kind, row_id, cells, change_id } => {
            json!({ "change": [kind.as_str(), row_id, cells, change_id] })
        }
        Event::Committed { change_id } => json!({ "commit": { "change_id": change_id } }),
        Event::Lost { reason } => json!({ "lost": reason }),
        Event::Resumed { change_id } => json!({ "resumed": change_id }),
        Event::Reset => json!({ "reset": {} }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_gossip_client::subscription::ChangeKind;

    #[test]
    fn an_event_is_printed_as_the_api_writes_it() {
        let change =
            Event::Change { kind: ChangeKind::Delete, row_id: 2, cells: vec!["b".into(), 82.into()], change_id: 3 };
        assert_eq!(line(&change).to_string(), r#"{"change":["delete",2,["b",82],3]}"#);
        assert_eq!(line(&Event::Reset).to_string(), r#"{"reset":{}}"#);
    }
}
