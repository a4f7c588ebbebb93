//! What the `servers` rows say of members: their number, and whether an operator removed them.

use kith_gossip_proto::NodeId;
use rusqlite::{Connection, Row};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Belongs, ServerRow, Servers};
use crate::chain::Chain;
use crate::identity::number_of;
use crate::store::{SchemaChange, Store};

/// The rows as they are now. What cannot be read says nothing of anybody.
pub(crate) async fn load(store: &Store) -> Servers {
    observe(store).await.unwrap_or_default()
}

/// Follows the rows until the token is cancelled or the store is closed.
pub(crate) async fn follow(store: Store, servers: watch::Sender<Servers>, token: CancellationToken) {
    // The commits first: what is committed while the rows are read is seen again.
    let mut commits = store.commits();
    loop {
        // What cannot be read says nothing of anybody: what was read last holds, until a commit touches the rows again.
        if let Some(rows) = observe(&store).await {
            drop(servers.send_replace(rows));
        }
        loop {
            // Cancel-safe: recv takes nothing that it does not return.
            let commit = tokio::select! {
                () = token.cancelled() => return,
                commit = commits.recv() => commit,
            };
            match commit {
                Ok(commit) if commit.schema == SchemaChange::Changed || commit.touched.contains_key("servers") => break,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}

/// The rows, or the log's word on why there are none.
pub(crate) async fn observe(store: &Store) -> Option<Servers> {
    let error = match store.read(|connection| read(connection)).await {
        Ok(Ok(rows)) => return Some(rows),
        Ok(Err(error)) => error.to_string(),
        Err(error) => Chain(&error).to_string(),
    };
    tracing::warn!(error, "the servers rows cannot be read");
    None
}

/// Reads the rows. A schema without the table or its columns has none, and a row that names no node is none.
fn read(connection: &Connection) -> rusqlite::Result<Servers> {
    let mut columns = connection
        .prepare("SELECT count(*) FROM pragma_table_info('servers') WHERE name IN ('id', 'subnet', 'removed_at')")?;
    if columns.query_row([], |row| row.get::<_, i64>(0))? < 3 {
        return Ok(Servers::default());
    }
    let mut rows = connection.prepare("SELECT id, subnet, removed_at IS NOT NULL FROM servers")?;
    let read: Vec<_> = rows.query_map([], |row| Ok(server(row)))?.collect::<Result<_, _>>()?;
    Ok(read.into_iter().flatten().collect())
}

fn server(row: &Row<'_>) -> Option<(NodeId, ServerRow)> {
    let node = row.get_ref(0).ok()?.as_str().ok()?.parse().ok()?;
    let subnet = row.get_ref(1).ok().and_then(|value| value.as_str().ok()).unwrap_or_default();
    let belongs = if row.get(2) == Ok(true) { Belongs::Removed } else { Belongs::Yes };
    Some((node, ServerRow { number: number_of(subnet), belongs }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_kind_give_what_they_can() {
        let connection = Connection::open_in_memory().unwrap();
        assert_eq!(read(&connection), Ok(Servers::default()));
        connection
            .execute_batch(
                "CREATE TABLE servers (id, subnet, removed_at);
                 INSERT INTO servers VALUES ('a', '10.210.7.0/24', NULL), ('b', '10.210.200.0/24', 1), ('c', 7, NULL),
                     ('Not a node', '10.210.1.0/24', NULL), (x'00', '', NULL), (NULL, NULL, NULL), ('d', '10.0.0.0/8', '');",
            )
            .unwrap();
        let row = |name: &str, number, belongs| (name.parse().unwrap(), ServerRow { number, belongs });
        let expected = [
            row("a", Some(7), Belongs::Yes),
            row("b", None, Belongs::Removed),
            row("c", None, Belongs::Yes),
            row("d", None, Belongs::Removed),
        ];
        assert_eq!(read(&connection), Ok(expected.into()));
    }
}
