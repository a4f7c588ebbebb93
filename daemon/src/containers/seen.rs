//! Which containers this daemon has seen in Docker, over its restarts: only their rows are its to delete.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::docker::ContainerId;
use crate::error::Error;
use crate::file::OwnFile;

/// The file's name.
const NAME: &str = "containers-seen.json";
/// Its format.
const VERSION: u32 = 1;

/// Where they are remembered.
#[derive(Debug, Clone)]
pub(crate) struct SeenFile(OwnFile);

/// The file as it is.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    ids: BTreeSet<ContainerId>,
}

impl SeenFile {
    pub(crate) fn within(dir: &Path) -> SeenFile {
        SeenFile(OwnFile::at(dir.join(NAME)))
    }

    /// Those that were seen; none if there is no file.
    pub(crate) fn read(&self) -> Result<BTreeSet<ContainerId>, Error> {
        let understood = |document: Document| match document.version {
            VERSION => Ok(document.ids),
            other => Err(format!("version {other}")),
        };
        Ok(self.0.read(understood)?.unwrap_or_default())
    }

    /// Remembers them.
    pub(crate) fn write(&self, ids: &BTreeSet<ContainerId>) -> Result<(), Error> {
        self.0.write(&Document { version: VERSION, ids: ids.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(SeenFile::within(dir.path()).read().unwrap(), BTreeSet::new());
        let ids = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        SeenFile::within(dir.path()).write(&ids).unwrap();
        assert_eq!(SeenFile::within(dir.path()).read().unwrap(), ids);
    }
}
