//! What this server remembers of its own row: a file, so that a row that was deleted comes back whole also if we were not
//! running, and a removal is not forgotten with the row.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::file::OwnFile;
use crate::own::{Column, Columns};

/// The file's name.
const NAME: &str = "own-row.json";
/// Its format.
const VERSION: u32 = 1;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// When an operator removed this server, in ms since 1970 by the operator's clock; 0 if the row does not say.
    pub(crate) removed_at: Option<i64>,
    /// The row's columns.
    pub(crate) columns: Columns,
    /// The operator's labels.
    pub(crate) labels: String,
    /// 1 while the operator keeps new work away.
    pub(crate) draining: i64,
}

/// Where it is remembered.
#[derive(Debug, Clone)]
pub(crate) struct KeptFile(OwnFile);

/// The file as it is.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    removed_at: Option<i64>,
    #[serde(default)]
    columns: BTreeMap<String, String>,
    #[serde(default)]
    labels: String,
    #[serde(default)]
    draining: i64,
}

impl KeptFile {
    pub(crate) fn within(dir: &Path) -> KeptFile {
        KeptFile(OwnFile::at(dir.join(NAME)))
    }

    /// What was kept; nothing if there is no file.
    pub(crate) fn read(&self) -> Result<Kept, Error> {
        let understood = |document: Document| match document.version {
            VERSION => Ok(Kept::from(document)),
            other => Err(format!("version {other}")),
        };
        Ok(self.0.read(understood)?.unwrap_or_default())
    }

    /// Keeps it.
    pub(crate) fn write(&self, kept: &Kept) -> Result<(), Error> {
        self.0.write(&Document::from(kept))
    }
}

impl From<&Kept> for Document {
    fn from(kept: &Kept) -> Document {
        Document {
            version: VERSION,
            removed_at: kept.removed_at,
            columns: kept.columns.iter().map(|(column, value)| (column.name().to_owned(), value.clone())).collect(),
            labels: kept.labels.clone(),
            draining: kept.draining,
        }
    }
}

impl From<Document> for Kept {
    fn from(document: Document) -> Kept {
        let known = |column: Column| Some((column, document.columns.get(column.name())?.clone()));
        Kept {
            removed_at: document.removed_at,
            columns: Column::ALL.into_iter().filter_map(known).collect(),
            labels: document.labels,
            draining: document.draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_what_is_damaged_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeptFile::within(dir.path());
        assert_eq!(file.read().unwrap(), Kept::default());
        let kept = Kept {
            removed_at: Some(1_700_000_000_000),
            columns: [(Column::Subnet, "10.210.7.0/24".to_owned())].into(),
            labels: "{\"disk\":\"ssd\"}".to_owned(),
            draining: 1,
        };
        file.write(&kept).unwrap();
        assert_eq!(file.read().unwrap(), kept);

        std::fs::write(dir.path().join(NAME), "{\"version\": 2, \"removed_at\": null}").unwrap();
        assert_eq!(file.read().unwrap(), Kept::default());
        assert!(dir.path().join("own-row.json.damaged").exists() && !dir.path().join(NAME).exists());
    }
}
