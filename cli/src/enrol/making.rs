//! Files that are made together: all of them or none, and nothing that is there is touched.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use kith_gossip::identity::write_new;

use crate::exit::{Exit, Failure};

/// What was made so far. It goes away again with the value, unless it is kept.
#[derive(Debug, Default)]
pub(super) struct Making {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Making {
    /// Begins, if none of these is there.
    pub(super) fn of(files: &[&Path]) -> Result<Making, Failure> {
        match files.iter().find(|path| path.symlink_metadata().is_ok()) {
            None => Ok(Making::default()),
            Some(there) => Err(Failure::message(Exit::Failed, format!("{} is there already", there.display()))
                .hint("this host is a server of a cluster already; to begin anew, move its files away")),
        }
    }

    /// A folder for the owner alone, with those above it.
    pub(super) fn folder(&mut self, path: &Path) -> Result<(), Failure> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.folder(above)?;
        }
        DirBuilder::new().mode(0o700).create(path).map_err(|e| failed(path, e))?;
        self.folders.push(path.to_owned());
        Ok(())
    }

    /// A file for the owner alone, in a folder that is made if it is missing.
    pub(super) fn file(&mut self, path: &Path, text: &str) -> Result<(), Failure> {
        if let Some(folder) = path.parent() {
            self.folder(folder)?;
        }
        write_new(path, text.as_bytes()).map_err(|e| failed(path, e))?;
        self.files.push(path.to_owned());
        Ok(())
    }

    /// All is made.
    pub(super) fn keep(mut self) {
        self.files.clear();
        self.folders.clear();
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // What cannot be removed is named by the next attempt, which finds it there.
        self.files.iter().rev().for_each(|path| drop(fs::remove_file(path)));
        self.folders.iter().rev().for_each(|path| drop(fs::remove_dir(path)));
    }
}

fn failed(path: &Path, error: io::Error) -> Failure {
    Failure::new(Exit::Io, error).context(format!("cannot make {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_not_kept_leaves_nothing_behind_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (there, new) = (dir.path().join("there"), dir.path().join("a/b/new"));
        fs::write(&there, "as it was").unwrap();
        let refused = Making::of(&[&new, &there]).unwrap_err();
        assert!(refused.chain().contains("there is there already"), "{}", refused.chain());
        let mut making = Making::of(&[&new]).unwrap();
        making.file(&new, "text").unwrap();
        assert!(making.file(&there, "other").is_err());
        drop(making);
        assert!(!dir.path().join("a").exists());
        assert_eq!(fs::read_to_string(&there).unwrap(), "as it was");
        let mut making = Making::of(&[&new]).unwrap();
        making.file(&new, "text").unwrap();
        making.keep();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&new), mode(&dir.path().join("a"))), (0o600, 0o700));
    }
}
