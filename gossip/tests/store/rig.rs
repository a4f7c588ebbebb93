//! A store in a folder of its own, and words to say what it did.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use kith_gossip::store::{
    Durability, ExecuteError, Executed, Pace, QueryError, SchemaSource, Statement, Store, StoreConfig,
};
use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::version::Life;
use kith_gossip_proto::{Key, Name, Row, Value, Vector, Version};
use tempfile::TempDir;

pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
}

pub(crate) type State = BTreeMap<(Name, Key), Row>;

impl Rig {
    pub(crate) fn new(schema: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let store = Store::open(config(&dir, schema)).unwrap();
        Self { dir, store }
    }

    pub(crate) async fn reopen(self, schema: &str) -> Self {
        self.store.close().await;
        let store = Store::open(config(&self.dir, schema)).unwrap();
        Self { dir: self.dir, store }
    }

    /// What this store writes next is later than all that the other has written, though it has seen none of it.
    pub(crate) async fn waits_for_a_later_millisecond(&self, other: &Self) {
        let last = other.store.state().hlc.ms();
        while SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() <= u128::from(last) {
            tokio::task::yield_now().await;
        }
    }

    /// Runs the statements, separated by `;`, as one transaction.
    pub(crate) async fn run(&self, sql: &str) -> Result<Executed, ExecuteError> {
        let parts = sql.split(';').map(str::trim).filter(|part| !part.is_empty());
        self.store.execute(parts.map(Statement::new).collect(), None).await
    }

    /// Runs a transaction that must be kept; says what it became.
    pub(crate) async fn said(&self, sql: &str) -> String {
        let mut commits = self.store.commits();
        let done = self.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        match done.version {
            None => String::new(),
            Some(number) => {
                let commit = commits.recv().await.unwrap();
                let version = commit.versions.iter().find(|version| version.version == number).unwrap();
                describe(version)
            }
        }
    }

    /// Runs a transaction that must become a version.
    pub(crate) async fn version(&self, sql: &str) -> Version {
        let mut commits = self.store.commits();
        let done = self.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let commit = commits.recv().await.unwrap();
        let found = commit.versions.iter().find(|version| Some(version.version) == done.version);
        Version::clone(found.unwrap_or_else(|| panic!("{sql}: no version")))
    }

    pub(crate) async fn rows(&self, sql: &str) -> Result<Vec<Vec<Value>>, QueryError> {
        rows(&self.store, Statement::new(sql)).await
    }

    /// The only value of the only row.
    pub(crate) async fn one(&self, sql: &str) -> Value {
        let rows = self.rows(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.into_iter().next().and_then(|row| row.into_iter().next()).unwrap_or_else(|| panic!("{sql}: no rows"))
    }

    pub(crate) async fn is_sound(&self) {
        is_sound(&self.store).await;
    }
}

pub(crate) fn config(dir: &TempDir, schema: &str) -> StoreConfig {
    StoreConfig {
        path: dir.path().join("kith.db"),
        schema: vec![SchemaSource { name: "test".to_owned(), sql: schema.to_owned() }],
        durability: Durability::Full,
    }
}

pub(crate) async fn rows(store: &Store, statement: Statement) -> Result<Vec<Vec<Value>>, QueryError> {
    let mut rows = store.query(statement, None).await?;
    let mut all = Vec::new();
    while let Some(row) = rows.rows.recv().await {
        all.push(row?);
    }
    Ok(all)
}

pub(crate) async fn is_sound(store: &Store) {
    let found = store.verify(Pace::AtOnce).await.unwrap();
    assert!(found.wrong.is_empty(), "{:#?}", found.wrong);
    assert_eq!(found.digests, store.state().digests);
}

/// Everything above a vector.
pub(crate) async fn collect(store: &Store, above: Vector) -> (Vec<PulledRow>, Vector) {
    let mut collected = store.collect(above).await.unwrap();
    let mut all = Vec::new();
    while let Some(part) = collected.rows.recv().await {
        all.extend(part.unwrap());
    }
    (all, collected.heads)
}

/// All replicated state.
pub(crate) async fn state(store: &Store) -> State {
    let (rows, _) = collect(store, Vector::default()).await;
    let count = rows.len();
    let state: State = rows.into_iter().map(|pulled| ((pulled.table, pulled.key), pulled.row)).collect();
    assert_eq!(state.len(), count, "a row was collected twice");
    state
}

/// One line per change: what happened to which row, and the cells it wrote.
pub(crate) fn describe(version: &Version) -> String {
    let mut out = String::new();
    for change in &version.changes {
        let what = match change.life {
            Life::Changed if change.cl % 2 == 1 => "new",
            Life::Changed => "gone",
            Life::Since(_) => "set",
        };
        let key: Vec<_> = change.key.decode().unwrap().iter().map(show).collect();
        write!(out, "{what} {}[{}]@{}", change.table, key.join(", "), change.cl).unwrap();
        for (column, value) in &change.cells {
            write!(out, " {column}={}", show(value)).unwrap();
        }
        out.push('\n');
    }
    out
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(i) => i.to_string(),
        Value::Real(f) => format!("{f:?}"),
        Value::Text(bytes) => format!("'{}'", String::from_utf8_lossy(bytes)),
        Value::Blob(bytes) => format!("x'{}'", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}
