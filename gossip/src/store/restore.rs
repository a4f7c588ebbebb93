//! A store from a backup, and a store's files moved out of the way. Neither ever destroys a file.
//!
//! A restored store is a copy of one that went on after the backup was made: its site has given out versions that the
//! backup does not know. So it begins as a site of its own. What its former self wrote since then is somebody else's, and
//! comes from the peers.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use kith_gossip_proto::Digest;
use rusqlite::{Connection, TransactionBehavior};

use super::copy::{Beside, COMING, with};
use super::error::RestoreError;
use super::install::sound;
use super::open::{alone, failed, lock};
use super::sites::Sites;
use super::verify::{Findings, Indexes, verify};

/// Files of one kind that are kept aside; the oldest is taken away when another comes. A store that is damaged again and
/// again must not fill the disk.
const KEPT: usize = 3;

/// What SQLite keeps a database in.
const PARTS: [&str; 2] = ["", "-wal"];

/// What is to become of a store that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the restoring is refused.
    Stays,
    /// It is kept aside under another name.
    KeptAside,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Live rows.
    pub rows: u64,
    /// The digest of the store.
    pub digest: Digest,
    /// Where the store that was there is now.
    pub aside: Option<PathBuf>,
}

/// Makes a backup the store at `path`, of a node that does not run. Blocks.
pub fn restore(backup: &Path, path: &Path, existing: Existing) -> Result<Restored, RestoreError> {
    let _lock = lock(path)?;
    if existing == Existing::Stays && path.try_exists().map_err(RestoreError::File)? {
        return Err(RestoreError::Exists { path: path.to_owned() });
    }
    let coming = Beside::new(path, COMING).map_err(RestoreError::File)?;
    fs::copy(backup, &coming.path).map_err(|source| RestoreError::Backup { path: backup.to_owned(), source })?;
    let (mut conn, found) = sound(&coming.path, backup)?;
    anew(&mut conn).map_err(RestoreError::Sqlite)?;
    conn.close().map_err(|(_, error)| RestoreError::Sqlite(error))?;
    File::open(&coming.path).and_then(|file| file.sync_all()).map_err(RestoreError::File)?;
    let aside = set_aside(path, "before-restore").map_err(RestoreError::File)?;
    fs::rename(&coming.path, path).map_err(RestoreError::File)?;
    sync_folder(path).map_err(RestoreError::File)?;
    Ok(Restored { rows: found.rows, digest: found.digest(), aside })
}

/// Looks through a file that no node has open: a backup, or the store of a node that does not run. Blocks.
pub fn verify_file(path: &Path) -> Result<Findings, RestoreError> {
    // The file may be all there is; it is looked at in a copy, for to open a database is to write to it.
    let scratch = Beside::new(path, "looked-at").map_err(RestoreError::File)?;
    for part in PARTS {
        match fs::copy(with(path, part), with(&scratch.path, part)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !part.is_empty() => {}
            copied => drop(copied.map_err(|source| RestoreError::Backup { path: path.to_owned(), source })?),
        }
    }
    let conn = alone(&scratch.path).map_err(|error| failed(path, error))?;
    super::open::check(&conn, path)?;
    verify(&conn, Indexes::Checked).map_err(|error| RestoreError::Unreadable(error.to_string()))
}

/// Gives the store a site of its own. That its file is another than the backup's source was is no news to the next start.
fn anew(conn: &mut Connection) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    Sites::anew(&tx)?;
    tx.execute("UPDATE __kith_meta SET place = ''", [])?;
    tx.commit()
}

/// Renames the store's files; says to what. None when there is no store. A log without its database goes too: SQLite would
/// take it for the log of the next one.
pub(crate) fn set_aside(path: &Path, why: &str) -> io::Result<Option<PathBuf>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let aside = with(path, &format!(".{why}-{now:013}"));
    let mut moved = 0;
    for part in PARTS {
        match fs::rename(with(path, part), with(&aside, part)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => moved += renamed.map(|()| 1)?,
        }
    }
    // An index into the log that has gone with it.
    match fs::remove_file(with(path, "-shm")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sync_folder(path)?;
    keep_few(path, why)?;
    Ok((moved > 0).then_some(aside))
}

pub(crate) fn keep_few(path: &Path, why: &str) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let prefix = format!("{}.{why}-", name.to_string_lossy());
    let mut kept = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && !name.ends_with("-wal") {
            kept.push(folder.join(name));
        }
    }
    kept.sort();
    let surplus = kept.len().saturating_sub(KEPT);
    for file in kept.iter().take(surplus) {
        for part in PARTS {
            match fs::remove_file(with(file, part)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
