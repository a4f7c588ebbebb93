//! One runner for each store: whoever opens it holds a lock on a file in it, which the kernel takes back however its holder ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::identity;

/// The file, in the runner's own folder. It is never removed: who removes a lock may remove another's.
const FILE: &str = "lock";
/// Most bytes of it that are read: a process id.
const LONGEST: u64 = 20;

/// A store that is this runner's until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    mark: String,
}

/// Why a store is not ours.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    /// Its folder cannot be used: it is read-only, full, or not ours.
    #[error("the store's folder {path} cannot be used")]
    Folder {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another runner has it.
    #[error("the store {store} is another runner's, process {holder}")]
    Taken {
        /// Which.
        store: PathBuf,
        /// The other's process id, as it sees it itself.
        holder: String,
    },
}

impl Lock {
    /// Takes it, if nobody has it.
    pub(crate) fn take(store: &Path) -> Result<Lock, NotOurs> {
        let failed = |source| NotOurs::Folder { path: store.to_owned(), source };
        identity::make_folder(store).map_err(failed)?;
        let path = identity::folder(store).join(FILE);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(NotOurs::Taken { store: store.to_owned(), holder: holder(&file) });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        Ok(Lock { _file: file, mark: format!("{:x}:{:x}", metadata.dev(), metadata.ino()) })
    }

    /// Stands for this store on this host, and for no copy of it.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }
}

/// Who has written it. One that has just taken it may not have done so yet.
fn holder(file: &File) -> String {
    let mut text = String::new();
    match file.take(LONGEST).read_to_string(&mut text) {
        Ok(read) if read > 0 => text,
        Ok(_) | Err(_) => "not known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Lock, NotOurs};

    #[test]
    fn a_store_has_one_runner_at_a_time_and_each_has_its_mark() {
        let store = tempfile::tempdir().expect("a folder");
        let first = Lock::take(store.path()).expect("nobody has it");
        let error = Lock::take(store.path()).expect_err("it is taken");
        let own = std::process::id().to_string();
        assert!(matches!(&error, NotOurs::Taken { holder, .. } if *holder == own), "{error}");
        let mark = first.mark().to_owned();
        drop(first);
        assert_eq!(Lock::take(store.path()).expect("it is free again").mark(), mark);
        let copy = tempfile::tempdir().expect("a folder");
        assert_ne!(Lock::take(copy.path()).expect("another").mark(), mark);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("file"), "").expect("room");
        let error = Lock::take(&dir.path().join("file")).expect_err("it is a file");
        assert!(error.to_string().ends_with("file cannot be used"), "{error}");
    }
}
