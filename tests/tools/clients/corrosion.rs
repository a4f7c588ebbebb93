//! What Corrosion's own client makes of a server at the address given: each call that it has, and what came of it.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;

use corro_api_types::{ChangeId, ExecResult, SqliteParam, SqliteValue, Statement, TypedNotifyEvent, TypedQueryEvent};
use corro_client::CorrosionApiClient;
use futures::StreamExt;

type Done = Result<(), Box<dyn Error>>;

const FOLLOWED: &str = "SELECT id, health_port FROM containers WHERE service = 'followed'";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Done {
    let address: SocketAddr = std::env::args().nth(1).ok_or("usage: corrosion-check ADDRESS")?.parse()?;
    let client = CorrosionApiClient::new(address)?;
    statements(&client).await?;
    queries(&client).await?;
    updates(&client).await?;
    follow(&client).await
}

/// Every form of a statement, and what is refused.
async fn statements(client: &CorrosionApiClient) -> Done {
    let named = |value: &str| HashMap::from([(":value".to_owned(), SqliteParam::from(value))]);
    let forms = [
        Statement::Simple("INSERT INTO cluster_metadata (key, value) VALUES ('simple', 'a')".to_owned()),
        Statement::WithParams(
            "INSERT INTO cluster_metadata (key, value) VALUES (?, ?)".to_owned(),
            vec!["params".into(), "b".into()],
        ),
        Statement::WithNamedParams(
            "INSERT INTO cluster_metadata (key, value) VALUES ('named', :value)".to_owned(),
            named("c"),
        ),
        Statement::Verbose {
            query: "INSERT INTO cluster_metadata (key, value) VALUES ('verbose', ?)".to_owned(),
            params: Some(vec![SqliteParam::Text("d".into())]),
            named_params: None,
        },
        Statement::Verbose {
            query: "INSERT INTO cluster_metadata (key, value) VALUES ('verbose named', :value)".to_owned(),
            params: None,
            named_params: Some(named("e")),
        },
    ];
    let done = client.execute(&forms, Some(10)).await?;
    let rows = done.results.iter().map(|result| match result {
        ExecResult::Execute { rows_affected, .. } => rows_affected.to_string(),
        ExecResult::Error { error } => error.clone(),
    });
    let rows = rows.collect::<Vec<_>>().join(" ");
    println!(
        "executed {rows}, version {}, actor {}",
        done.version.is_some(),
        done.actor_id.is_some_and(|id| id.len() == 32)
    );
    let nothing = client.execute(&["UPDATE cluster_metadata SET value = 1 WHERE 0".into()], None).await?;
    println!("nothing changed: version {:?}", nothing.version);
    for wrong in ["INSERT INTO nowhere VALUES (1)", "SELECT 1"] {
        println!("refused: {}", client.execute(&[wrong.into()], None).await.expect_err("it is wrong"));
    }
    Ok(())
}

async fn queries(client: &CorrosionApiClient) -> Done {
    let odd =
        "SELECT NULL, 1, -9223372036854775808, 1.5, 2.0, 'text', x'00ff', key FROM cluster_metadata WHERE key = ?";
    let statement = Statement::WithParams(odd.to_owned(), vec!["simple".into()]);
    let mut rows = client.query(&statement, Some(5)).await?;
    while let Some(event) = rows.next().await {
        print_event(event?);
    }
    // As its other methods are called: with rows of a type.
    let mut typed = client
        .query_typed::<(String, String)>(&"SELECT key, value FROM cluster_metadata ORDER BY key".into(), None)
        .await?;
    while let Some(event) = typed.next().await {
        if let TypedQueryEvent::Row(id, (key, value)) = event? {
            println!("typed {id} {key} {value}");
        }
    }
    let refused = client.query(&"SELECT wrong FROM cluster_metadata".into(), None).await;
    println!("refused: {}", refused.err().ok_or("it is wrong")?);
    let refused = client.query(&"DELETE FROM cluster_metadata".into(), None).await;
    println!("refused: {}", refused.err().ok_or("it is wrong")?);
    Ok(())
}

async fn updates(client: &CorrosionApiClient) -> Done {
    let mut updates = client.updates("services").await?;
    for sql in [
        "INSERT INTO services (project, name) VALUES ('p', 'n')",
        "UPDATE services SET ttl = 5 WHERE name = 'n'",
        "DELETE FROM services WHERE name = 'n'",
    ] {
        client.execute(&[sql.into()], None).await?;
        match updates.next().await.ok_or("the updates ended")?? {
            TypedNotifyEvent::Notify(kind, key) => println!("notify {kind:?} {}", shown(&key)),
            TypedNotifyEvent::Error(error) => return Err(error.to_string().into()),
        }
    }
    Ok(())
}

/// A live query that is cut off, and comes back by itself.
async fn follow(client: &CorrosionApiClient) -> Done {
    let insert = |id: &str, port: i64| {
        let sql = "INSERT INTO containers (id, service, health_port) VALUES (?, 'followed', ?)";
        Statement::WithParams(sql.to_owned(), vec![id.into(), port.into()])
    };
    client.execute(&[insert("a", 80)], None).await?;
    let mut stream = client.subscribe(&FOLLOWED.into(), false, None).await?;
    println!("subscribed, hash {}", stream.hash().is_some_and(|hash| hash.len() == 16));
    let mut last = None;
    while let Some(event) = stream.next().await {
        let event = event?;
        let (began, told, ended) = match &event {
            TypedQueryEvent::EndOfQuery { .. } => (true, false, false),
            TypedQueryEvent::Change(kind, _, _, id) => {
                last = Some(*id);
                (false, id.0 == 1, *kind == corro_api_types::sqlite::ChangeType::Delete)
            }
            TypedQueryEvent::Columns(_) | TypedQueryEvent::Row(..) | TypedQueryEvent::Error(_) => (false, false, false),
        };
        print_event(event);
        if began {
            client.execute(&[insert("b", 81)], None).await?;
        } else if told {
            println!("following");
        } else if ended {
            break;
        }
    }
    // And once more by its id, as after a restart of the client.
    let mut again = client.subscription(stream.id(), false, last.map(|last| ChangeId(last.0 - 1))).await?;
    print_event(again.next().await.ok_or("the stream ended")??);
    let gone = client.subscription("00000000-0000-4000-8000-000000000000".parse()?, false, None).await;
    println!("refused: {}", gone.err().ok_or("there is no such query")?);
    Ok(())
}

fn print_event(event: TypedQueryEvent<Vec<SqliteValue>>) {
    match event {
        TypedQueryEvent::Columns(names) => {
            println!("columns {}", names.iter().map(|name| name.0.as_str()).collect::<Vec<_>>().join(" "));
        }
        TypedQueryEvent::Row(id, cells) => println!("row {id} {}", shown(&cells)),
        TypedQueryEvent::EndOfQuery { change_id, .. } => println!("eoq {:?}", change_id.map(|id| id.0)),
        TypedQueryEvent::Change(kind, id, cells, change) => println!("change {kind:?} {id} {} {change}", shown(&cells)),
        TypedQueryEvent::Error(error) => println!("error {error}"),
    }
}

fn shown(cells: &[SqliteValue]) -> String {
    let cell = |cell: &SqliteValue| match cell {
        SqliteValue::Null => "NULL".to_owned(),
        SqliteValue::Integer(i) => i.to_string(),
        SqliteValue::Real(f) => format!("{:?}", f.0),
        SqliteValue::Text(text) => format!("'{text}'"),
        SqliteValue::Blob(bytes) => format!("{bytes:?}"),
    };
    cells.iter().map(cell).collect::<Vec<_>>().join(" ")
}
