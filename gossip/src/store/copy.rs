//! The whole store as one file: for a peer that has nothing, and for a backup.
//!
//! A copy is made by SQLite's backup interface, page by page, from one read transaction: it is the store as of one commit,
//! writers go on meanwhile, and rowids stay what they are, on which stamps and log rely. The file stands by itself, with
//! no write-ahead log beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use kith_gossip_proto::Vector;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use tokio::sync::OwnedSemaphorePermit;

use super::error::CopyError;
use super::open::alone;
use super::snapshot::Snapshot;

/// Copies that may exist at the same time, for peers and for backups. Each costs the room of the store on disk and the
/// reading of it; who comes on top is refused, and asks another node or later.
pub(crate) const COPIES: usize = 2;

/// Pages that are copied between two looks at whether the store is closing: a megabyte.
const PAGES: i32 = 256;

/// Where a database's header says how it is journalled: once for readers, once for writers; 1 is without a log (SQLite's
/// file format, §1.3).
const JOURNALLED_AT: u64 = 18;
const WITHOUT_LOG: [u8; 2] = [1, 1];

/// What copies are called while they have a name, by where they go.
const SENT: &str = "sent";
pub(crate) const COMING: &str = "coming";

/// A copy of a store, in a file that has no name any more: it is gone with this.
#[derive(Debug)]
pub struct StoreCopy {
    /// At its beginning.
    pub file: File,
    /// Its length.
    pub bytes: u64,
    /// What the copy holds.
    pub heads: Vector,
    /// Held for as long as the file takes room.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Copies what the connection reads to a file, which must not be there; returns the heads in the copy. The file is synced.
pub(crate) fn copy(conn: &Connection, to: &Path, unwanted: impl Fn() -> bool) -> Result<(File, Vector), CopyError> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(to)?;
    let snapshot = Snapshot::begin(conn)?;
    let heads = Vector::clone(snapshot.ledger.sites.heads());
    let mut target = alone(to)?;
    // Synced once, at the end.
    target.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")?;
    let backup = Backup::new(snapshot.conn, &mut target)?;
    loop {
        match backup.step(PAGES)? {
            StepResult::Done => break,
            _ if unwanted() => return Err(CopyError::Unwanted),
            _ => {}
        }
    }
    drop(backup);
    target.close().map_err(|(_, error)| error)?;
    file.write_all_at(&WITHOUT_LOG, JOURNALLED_AT)?;
    file.sync_all()?;
    Ok((file, heads))
}

/// Copies to a file beside the store, and takes its name away.
pub(crate) fn nameless(
    conn: &Connection,
    store: &Path,
    permit: OwnedSemaphorePermit,
    unwanted: impl Fn() -> bool,
) -> Result<StoreCopy, CopyError> {
    let named = Beside::new(store, SENT)?;
    let (mut file, heads) = copy(conn, &named.path, unwanted)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    Ok(StoreCopy { file, bytes, heads, permit })
}

/// A file beside the store that is gone, with what SQLite puts beside it, when this is dropped.
#[derive(Debug)]
pub(crate) struct Beside {
    pub(crate) path: PathBuf,
}

impl Beside {
    /// A name that is free. What an earlier process left under it is taken away.
    pub(crate) fn new(store: &Path, what: &str) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let beside = Self { path: with(store, &format!("-{what}-{number}")) };
        beside.clear();
        Ok(beside)
    }

    fn clear(&self) {
        for name in ["", "-wal", "-shm", "-journal"] {
            if let Err(error) = fs::remove_file(with(&self.path, name))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %self.path.display(), %error, "a file that is not needed any more stays");
            }
        }
    }
}

/// Takes away what a process that ended in the middle has left beside the store.
pub(crate) fn sweep(store: &Path) {
    let (Some(folder), Some(name)) = (store.parent(), store.file_name()) else { return };
    let names = [SENT, COMING].map(|what| format!("{}-{what}-", name.to_string_lossy()));
    // A folder that cannot be read is found by what follows, which opens the store in it.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let left = names.iter().any(|name| file.to_string_lossy().starts_with(name));
        if left && let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "a file that is not needed any more stays");
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.clear();
    }
}

pub(crate) fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A snapshot of a peer as it comes in.
#[derive(Debug)]
pub struct Incoming {
    pub(crate) beside: Beside,
    file: File,
}

impl Incoming {
    pub(crate) fn new(store: &Path) -> io::Result<Self> {
        let beside = Beside::new(store, COMING)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside.path)?;
        Ok(Self { beside, file })
    }

    /// Appends bytes. Blocks, as long as a write to a file does.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }
}
