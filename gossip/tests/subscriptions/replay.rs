//! A store with its live queries, and a client that follows one.

use std::collections::BTreeMap;
use std::time::Duration;

use kith_gossip::store::{Durability, SchemaSource, Statement, Store, StoreConfig};
use kith_gossip::subscriptions::{AttachOptions, Attached, SnapshotRows, Subscriptions};
use kith_gossip_proto::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that believes everything it is told, and checks that it makes sense.
pub(crate) struct Replay {
    pub(crate) statement: Statement,
    pub(crate) attached: Attached,
    pub(crate) rows: BTreeMap<u64, String>,
    buffer: Vec<u8>,
    columns: Vec<String>,
    pub(crate) last: u64,
    /// The reason given in a last line.
    ended: Option<String>,
}

impl Replay {
    pub(crate) async fn begin(subscriptions: &Subscriptions, statement: Statement) -> Self {
        let attached = subscriptions.subscribe(statement.clone(), AttachOptions::default()).await.unwrap();
        let mut replay = Self {
            statement,
            attached,
            rows: BTreeMap::new(),
            buffer: Vec::new(),
            columns: Vec::new(),
            last: 0,
            ended: None,
        };
        while !replay.read().await.iter().any(|line| line.get("eoq").is_some()) {}
        replay
    }

    /// Drops the stream and comes back where it was.
    pub(crate) async fn again(&mut self, subscriptions: &Subscriptions) {
        let skip = AttachOptions { from: Some(self.last), rows: SnapshotRows::Skipped, ..AttachOptions::default() };
        if self.last > 0 {
            self.attached = subscriptions.attach(self.attached.id(), skip).await.unwrap();
            self.buffer.clear();
        }
    }

    pub(crate) async fn read(&mut self) -> Vec<serde_json::Value> {
        let piece = tokio::time::timeout(Duration::from_secs(20), self.attached.next()).await;
        let piece = piece.unwrap_or_else(|_| panic!("{:?} said nothing more; has {:?}", self.statement.sql, self.rows));
        self.buffer.extend_from_slice(&piece.expect("the stream ended"));
        let end = self.buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.buffer.drain(..end).collect();
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let lines: Vec<serde_json::Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        for line in &lines {
            self.take(line);
        }
        lines
    }

    fn take(&mut self, line: &serde_json::Value) {
        if let Some(row) = line.get("row") {
            self.rows.insert(row[0].as_u64().unwrap(), row[1].to_string());
        } else if let Some(eoq) = line.get("eoq") {
            self.last = eoq["change_id"].as_u64().unwrap();
        } else if let Some(change) = line.get("change") {
            let (id, cells) = (change[1].as_u64().unwrap(), change[2].to_string());
            self.last += 1;
            assert_eq!(change[3].as_u64(), Some(self.last), "a hole in the change ids of {:?}", self.statement.sql);
            match change[0].as_str().unwrap() {
                "insert" => assert_eq!(self.rows.insert(id, cells), None, "inserted twice"),
                "update" => assert_ne!(self.rows.insert(id, cells.clone()).expect("updated, not there"), cells),
                "delete" => assert_eq!(self.rows.remove(&id), Some(cells), "the last cells"),
                kind => panic!("{kind}"),
            }
        } else if let Some(error) = line.get("error") {
            self.ended = Some(error.as_str().unwrap().to_owned());
        } else {
            let columns = line.get("columns").unwrap_or_else(|| panic!("{line}"));
            self.columns = serde_json::from_value(columns.clone()).unwrap();
        }
    }

    /// Follows a query across a migration: one whose columns it changes ends and says so, and is begun anew.
    pub(crate) async fn migrated(&mut self, setup: &Setup) {
        let answer = answer(&setup.store, self.statement.clone()).await;
        // Rows alone do not tell: of an empty result the columns change unseen.
        let columns = setup.store.query(self.statement.clone(), None).await.unwrap().columns;
        if columns == self.columns {
            return self.until(&answer).await;
        }
        while self.ended.is_none() {
            self.read().await;
        }
        assert_eq!(self.ended.as_deref(), Some("the schema changed and with it the columns: subscribe again"));
        *self = Self::begin(&setup.subscriptions, self.statement.clone()).await;
        self.until(&answer).await;
    }

    /// Reads until the replay is the answer.
    pub(crate) async fn until(&mut self, answer: &[String]) {
        loop {
            let mut rows: Vec<_> = self.rows.values().cloned().collect();
            rows.sort();
            if rows == answer {
                return;
            }
            assert_eq!(self.ended, None, "{:?} has {rows:?}, not {answer:?}", self.statement);
            self.read().await;
        }
    }
}

/// The query's answer as the store gives it, sorted.
pub(crate) async fn answer(store: &Store, statement: Statement) -> Vec<String> {
    let mut rows = store.query(statement, None).await.unwrap().rows;
    let mut answer = Vec::new();
    while let Some(row) = rows.recv().await {
        let cells: Vec<_> = row.unwrap().iter().map(json).collect();
        answer.push(serde_json::Value::Array(cells).to_string());
    }
    answer.sort();
    answer
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(i) => (*i).into(),
        Value::Real(f) => (*f).into(),
        Value::Text(_) => value.as_str().unwrap().into(),
        Value::Blob(bytes) => bytes.to_vec().into(),
    }
}

pub(crate) struct Setup {
    pub(crate) store: Store,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) tasks: TaskTracker,
    token: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Setup {
    pub(crate) async fn new(schema: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let schema = vec![SchemaSource { name: "test".to_owned(), sql: schema.to_owned() }];
        let config = StoreConfig { path: dir.path().join("kith.db"), schema, durability: Durability::Normal };
        let store = Store::open(config).unwrap();
        let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
        let subscriptions = Subscriptions::start(store.clone(), tasks.clone(), token.clone()).await.unwrap();
        Self { store, subscriptions, tasks, token, _dir: dir }
    }

    pub(crate) async fn end(self) {
        self.token.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await;
    }
}
