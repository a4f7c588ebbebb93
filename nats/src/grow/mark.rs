//! What says that the cluster has taken a stream: from then on that one lives, and is no more like what was put aside.
//!
//! ```text
//!  kith/alone/restored/ACCOUNT/STREAM/restored     an empty file, on disk before the next stream is begun
//!                                     /begun        the same, on disk before anything of the stream is sent
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::identity;

const FOLDER: &str = "restored";
const FILE: &str = "restored";
const BEGUN: &str = "begun";

/// That of one stream. Names of accounts and streams are those of folders already, below `jetstream`.
pub(super) struct Mark {
    aside: PathBuf,
    folder: PathBuf,
}

impl Mark {
    pub(super) fn of(aside: &Path, account: &str, stream: &str) -> Self {
        Self { aside: aside.to_owned(), folder: aside.join(FOLDER).join(account).join(stream) }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    pub(super) fn is_set(&self) -> io::Result<bool> {
        self.path().try_exists()
    }

    /// Sets it, and returns when it is on disk, with all folders above it.
    pub(super) fn set(&self) -> io::Result<()> {
        self.write(FILE)
    }

    /// Whether we have begun to send the stream.
    pub(super) fn is_begun(&self) -> io::Result<bool> {
        self.folder.join(BEGUN).try_exists()
    }

    /// We begin: on disk as above.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.write(BEGUN)
    }

    /// It was somebody else who had begun.
    pub(super) fn unbegin(&self) -> io::Result<()> {
        fs::remove_file(self.folder.join(BEGUN))
    }

    fn write(&self, file: &str) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        identity::write(&self.folder.join(file), b"")?;
        for folder in self.folder.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.aside)) {
            fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Mark;

    #[test]
    fn it_is_that_of_one_stream_alone_whatever_its_name() {
        let aside = tempfile::tempdir().expect("a folder");
        let long = "s".repeat(255);
        let mark = Mark::of(aside.path(), "$G", &long);
        assert!(!mark.is_set().expect("it is read"));
        mark.set().expect("room");
        mark.set().expect("once more");
        assert!(!mark.is_begun().expect("it is read"));
        mark.begin().expect("room");
        assert!(mark.is_begun().expect("it is read"));
        mark.unbegin().expect("it is there");
        assert_eq!((mark.is_begun().ok(), mark.is_set().ok()), (Some(false), Some(true)));
        assert!(Mark::of(aside.path(), "$G", &long).is_set().expect("it is read"));
        for (account, stream) in [("$G", "new"), ("APP", long.as_str())] {
            assert!(!Mark::of(aside.path(), account, stream).is_set().expect("it is read"));
        }
    }
}
