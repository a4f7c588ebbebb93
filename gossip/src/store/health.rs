//! What is known of a store that its disk or memory may have changed.
//!
//! Two kinds of damage, and what becomes of them. **Rows** that are not what was written: SQLite reads them like any other.
//! Whoever looks through them says what it found here, and replication follows it: until they are repaired, peers get
//! nothing. **The file**, where SQLite itself stumbles: nothing that it says can be relied on, so the store ends, and the
//! next start reads all of it before it trusts it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;
use std::{fs, io};

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
    /// Whether peers are known that have its rows.
    replaceable: AtomicBool,
}

/// What the next start has to know of the file: the text of a mark beside it.
const SUSPECT: &str = "SQLite has stumbled over this store: its next start reads it whole\n";
const HOPELESS: &str = "the rows of this store cannot be put right in its file: its next start keeps it aside\n";

impl Health {
    pub(crate) fn new(store: &Path) -> Self {
        Self {
            looked: watch::Sender::default(),
            malformed: CancellationToken::new(),
            store: store.to_owned(),
            replaceable: AtomicBool::new(false),
        }
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
        self.end(SUSPECT);
    }

    /// The store was opened by somebody who would begin it anew.
    pub(crate) fn may_begin_anew(&self) {
        self.replaceable.store(true, Ordering::Relaxed);
    }

    /// Rows cannot be put right in this file.
    pub(crate) fn hopeless(&self) {
        if self.replaceable.load(Ordering::Relaxed) {
            tracing::error!(path = %self.store.display(), "repairs are in vain: the store ends, and begins anew");
            self.end(HOPELESS);
        } else {
            tracing::error!(path = %self.store.display(), "repairs are in vain, and without seeds it cannot begin anew");
        }
    }

    fn end(&self, text: &str) {
        if let Err(error) = fs::write(mark(&self.store), text) {
            tracing::warn!(%error, "the next start will not know what is wrong with the store");
        }
        self.malformed.cancel();
    }

    /// Waits until SQLite stumbles over the file. Cancel-safe: it only waits.
    pub(crate) async fn is_malformed(&self) {
        self.malformed.cancelled().await;
    }
}

/// What the last run has left to say of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    None,
    /// SQLite has stumbled over it, and nobody has read it whole since.
    Suspect,
    /// Its rows cannot be put right.
    Hopeless,
}

pub(crate) fn marked(store: &Path) -> Mark {
    match fs::read_to_string(mark(store)) {
        Ok(text) if text == HOPELESS => Mark::Hopeless,
        Ok(_) => Mark::Suspect,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Mark::None,
        Err(_) => Mark::Suspect,
    }
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
