//! What was changed on the host, and what was there before: a file beside the store, by which `kith uninstall` puts it back.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::file::OwnFile;

/// The file's name.
const NAME: &str = "changed.json";
/// Its format.
const VERSION: u32 = 1;
/// Most bytes of a file that is changed. Configurations are far smaller.
const MAX: u64 = 256 * 1024;

/// The files of others that were changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    version: u32,
    files: BTreeMap<PathBuf, Change>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its text before the first change; none if there was no file.
    pub before: Option<String>,
    /// Its text after the last one.
    pub wrote: String,
}

/// What is to become of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Back {
    /// It is as we wrote it: what was there before comes back.
    Restore(String),
    /// There was none.
    Remove,
    /// Somebody has changed it since.
    Differs {
        /// What we wrote.
        wrote: String,
        /// What is there.
        found: String,
    },
    /// It is gone, or as it was before.
    Nothing,
}

/// Why what was changed is not known, or cannot be changed.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct UndoError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Changed {
    /// What was changed, as remembered in `dir`.
    pub fn read(dir: &Path) -> Result<Changed, UndoError> {
        let understood = |changed: Changed| match changed.version {
            VERSION => Ok(changed),
            other => Err(format!("version {other}")),
        };
        let path = dir.join(NAME);
        let read = OwnFile::at(path.clone()).read(understood);
        Ok(read.map_err(|error| failed(&path, io::Error::other(error.chain())))?.unwrap_or_default())
    }

    /// The files, by path.
    pub fn files(&self) -> &BTreeMap<PathBuf, Change> {
        &self.files
    }

    /// Writes a file of others, after what was there is remembered in `dir`: whoever is interrupted between the two has remembered
    /// too much and not too little.
    pub fn write(&mut self, dir: &Path, path: &Path, text: &str) -> Result<(), UndoError> {
        let found = text_of(path)?;
        self.version = VERSION;
        match self.files.get_mut(path) {
            // What somebody else made of it meanwhile is what was there before.
            Some(change) if found.as_ref() != Some(&change.wrote) => {
                *change = Change { before: found, wrote: text.to_owned() };
            }
            Some(change) => text.clone_into(&mut change.wrote),
            None => {
                self.files.insert(path.to_owned(), Change { before: found, wrote: text.to_owned() });
            }
        }
        self.keep(dir)?;
        put(path, text)
    }

    /// Forgets a file that has been put back.
    pub fn forget(&mut self, dir: &Path, path: &Path) -> Result<(), UndoError> {
        self.version = VERSION;
        self.files.remove(path);
        self.keep(dir)
    }

    fn keep(&self, dir: &Path) -> Result<(), UndoError> {
        let path = dir.join(NAME);
        OwnFile::at(path.clone()).write(self).map_err(|error| failed(&path, io::Error::other(error.chain())))
    }
}

impl Change {
    /// What is to become of the file, of which `found` is there.
    pub fn back(&self, found: Option<&str>) -> Back {
        match (found, &self.before) {
            (None, _) => Back::Nothing,
            (Some(found), before) if before.as_deref() == Some(found) => Back::Nothing,
            (Some(found), Some(before)) if found == self.wrote => Back::Restore(before.clone()),
            (Some(found), None) if found == self.wrote => Back::Remove,
            (Some(found), _) => Back::Differs { wrote: self.wrote.clone(), found: found.to_owned() },
        }
    }
}

/// The text of a file; none if there is no file.
pub fn text_of(path: &Path) -> Result<Option<String>, UndoError> {
    let read = || match std::fs::metadata(path)?.len() {
        size if size > MAX => Err(io::Error::other(format!("{size} bytes are no configuration"))),
        _ => std::fs::read_to_string(path),
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

/// Puts a text into a file whole: written aside and renamed. Its folder is made if it is missing.
pub fn put(path: &Path, text: &str) -> Result<(), UndoError> {
    let aside = path.with_extension("kith-part");
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&aside, text)?;
        if let Ok(there) = std::fs::metadata(path) {
            std::fs::set_permissions(&aside, there.permissions())?;
        }
        std::fs::File::open(&aside)?.sync_all()?;
        std::fs::rename(&aside, path)
    };
    write().map_err(|error| failed(path, error))
}

fn failed(path: &Path, source: io::Error) -> UndoError {
    UndoError { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_the_first_change_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (file, new) = (dir.path().join("daemon.json"), dir.path().join("etc/kith.conf"));
        std::fs::write(&file, "{}").unwrap();
        let mut changed = Changed::read(dir.path()).unwrap();
        changed.write(dir.path(), &file, "{\"dns\": []}").unwrap();
        changed.write(dir.path(), &file, "{\"dns\": [\"a\"]}").unwrap();
        changed.write(dir.path(), &new, "[Resolve]").unwrap();
        let read = Changed::read(dir.path()).unwrap();
        assert_eq!(read, changed);
        let back = |path: &Path| read.files()[path].back(text_of(path).unwrap().as_deref());
        assert_eq!(back(&file), Back::Restore("{}".to_owned()));
        assert_eq!(back(&new), Back::Remove);

        std::fs::write(&file, "{}").unwrap();
        std::fs::write(&new, "[Resolve]\nDNS=").unwrap();
        assert_eq!(back(&file), Back::Nothing);
        assert!(matches!(back(&new), Back::Differs { .. }));
        std::fs::remove_file(&new).unwrap();
        assert_eq!(back(&new), Back::Nothing);
        changed.forget(dir.path(), &file).unwrap();
        assert_eq!(Changed::read(dir.path()).unwrap().files().len(), 1);
    }

    #[test]
    fn what_somebody_else_wrote_meanwhile_is_what_was_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("daemon.json");
        let mut changed = Changed::default();
        changed.write(dir.path(), &file, "ours").unwrap();
        std::fs::write(&file, "theirs").unwrap();
        changed.write(dir.path(), &file, "ours again").unwrap();
        assert_eq!(
            changed.files()[&file],
            Change { before: Some("theirs".to_owned()), wrote: "ours again".to_owned() }
        );
    }
}
