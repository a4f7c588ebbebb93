//! What is known of a store that its disk or memory may have changed.
//!
//! Two kinds of damage, and what becomes of them. **Rows** that are not what was written: SQLite reads them like any other.
//! Whoever looks through them says what it found here, and replication follows it: until they are repaired, peers get
//! nothing. **The file**, where SQLite itself stumbles: nothing that it says can be relied on, so the store ends, and the
//! next start reads all of it before it trusts it again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::copy::with;
use super::error::QueryError;

/// What the last look at the rows has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// When it ended, by this host's clock.
    pub at: SystemTime,
    /// What is wrong, if anything is.
    pub wrong: Vec<String>,
}

/// Of one store, until it is closed.
#[derive(Debug)]
pub(crate) struct Health {
    looked: watch::Sender<Option<Arc<Looked>>>,
    malformed: CancellationToken,
    store: PathBuf,
}

impl Health {
    pub(crate) fn new(store: &Path) -> Self {
        Self { looked: watch::Sender::default(), malformed: CancellationToken::new(), store: store.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.store
    }

    /// Rows were looked at.
    pub(crate) fn looked(&self, wrong: Vec<String>) {
        self.looked.send_replace(Some(Arc::new(Looked { at: SystemTime::now(), wrong })));
    }

    pub(crate) fn looks(&self) -> watch::Receiver<Option<Arc<Looked>>> {
        self.looked.subscribe()
    }

    /// Draws the conclusions from an error, and passes it on.
    pub(crate) fn note(&self, error: QueryError) -> QueryError {
        match &error {
            QueryError::Malformed(detail) => self.malformed(detail),
            QueryError::Broken(finding) => self.looked(vec![finding.clone()]),
            QueryError::NotReadOnly
            | QueryError::Prepare(_)
            | QueryError::Bind(_)
            | QueryError::Pool
            | QueryError::Failed(_)
            | QueryError::TimedOut
            | QueryError::ShuttingDown => {}
        }
        error
    }

    /// SQLite stumbles over the file. Said once: what goes on until the store has ended stumbles again.
    pub(crate) fn malformed(&self, detail: &str) {
        if self.malformed.is_cancelled() {
            return;
        }
        tracing::error!(path = %self.store.display(), detail, "the database is damaged: the store ends, and is read anew");
        if let Err(error) = File::create(mark(&self.store)) {
            tracing::warn!(%error, "the next start will not know that the store is to be read whole");
        }
        self.malformed.cancel();
    }

    /// Waits until SQLite stumbles over the file. Cancel-safe: it only waits.
    pub(crate) async fn is_malformed(&self) {
        self.malformed.cancelled().await;
    }
}

/// Whether SQLite has stumbled over this store, and nobody has read it whole since.
pub(crate) fn is_suspect(store: &Path) -> bool {
    mark(store).exists()
}

/// The store was read whole, or is not there any more.
pub(crate) fn clear(store: &Path) -> io::Result<()> {
    match fs::remove_file(mark(store)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn mark(store: &Path) -> PathBuf {
    with(store, "-suspect")
}
