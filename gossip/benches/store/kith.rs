//! The store under measurement.

use std::path::Path;

use futures_util::{StreamExt as _, stream};
use kith_gossip::store::{Durability, SchemaSource, Statement, Store, StoreConfig};
use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::{Hlc, Vector, Version};
use tempfile::TempDir;

use crate::work::SCHEMA;

pub(crate) struct Kith {
    dir: TempDir,
    store: Store,
}

impl Kith {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self { store: open(dir.path()), dir }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn heads(&self) -> Vector {
        Vector::clone(&self.store.state().heads)
    }

    pub(crate) async fn run(&self, transactions: impl IntoIterator<Item = Vec<Statement>>) {
        for statements in transactions {
            self.store.execute(statements, None).await.unwrap();
        }
    }

    /// The same, with some always on their way, as clients beside each other have it.
    pub(crate) async fn run_together(&self, transactions: impl IntoIterator<Item = Vec<Statement>>, at_once: usize) {
        let written = stream::iter(transactions).map(|statements| self.store.execute(statements, None));
        written.buffer_unordered(at_once).for_each(async |outcome| drop(outcome.unwrap())).await;
    }

    pub(crate) async fn versions(&self, transactions: Vec<Vec<Statement>>) -> Vec<Version> {
        let mut commits = self.store.commits();
        let mut versions = Vec::new();
        for statements in transactions {
            self.store.execute(statements, None).await.unwrap();
            versions.extend(commits.recv().await.unwrap().versions.iter().map(|version| Version::clone(version)));
        }
        versions
    }

    /// Ten versions a call, as they come off a stream.
    pub(crate) async fn merge(&self, versions: Vec<Version>) {
        let mut versions = versions.into_iter();
        loop {
            let part: Vec<_> = versions.by_ref().take(10).collect();
            if part.is_empty() {
                break;
            }
            self.store.apply(part).await.unwrap();
        }
    }

    /// Writes a row, deletes it, and forgets that.
    pub(crate) async fn forget_a_deletion(&self) {
        for sql in ["INSERT INTO t (id) VALUES ('gone')", "DELETE FROM t WHERE id = 'gone'"] {
            self.store.execute(vec![Statement::new(sql)], None).await.unwrap();
        }
        let due = self.store.due(self.heads(), Hlc::MAX).await.unwrap();
        assert_eq!(self.store.purge(due).await.unwrap(), 1);
    }

    pub(crate) async fn join(&self, rows: Vec<PulledRow>, heads: Vector) {
        self.store.join(rows, heads).await.unwrap();
    }

    pub(crate) async fn collect(&self, above: Vector) -> Vec<PulledRow> {
        let mut collected = self.store.collect(above).await.unwrap();
        let mut rows = Vec::new();
        while let Some(part) = collected.rows.recv().await {
            rows.extend(part.unwrap());
        }
        rows
    }
}

/// Opens the store of this folder, or makes it.
pub(crate) fn open(folder: &Path) -> Store {
    let schema = vec![SchemaSource { name: "bench".to_owned(), sql: SCHEMA.to_owned() }];
    Store::open(StoreConfig { path: folder.join("kith.db"), schema, durability: Durability::Full }).unwrap()
}
