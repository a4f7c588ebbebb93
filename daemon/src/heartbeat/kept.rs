//! What this server remembers of its own row: a file, so that a row that was deleted comes back whole also if we were not
//! running, and a removal is not forgotten with the row.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::own::{Column, Columns};

/// The file's name.
const NAME: &str = "own-row.json";
/// Its format.
const VERSION: u32 = 1;
/// Most bytes of it: endpoints and labels are what can be long.
const MAX: u64 = 1024 * 1024;

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
pub(crate) struct KeptFile(PathBuf);

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
        KeptFile(dir.join(NAME))
    }

    /// What was kept; nothing if there is no file. One that cannot be understood is put aside, and nothing is known.
    pub(crate) fn read(&self) -> Result<Kept, Error> {
        let text = match self.text() {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
            Err(source) => return Err(self.failed(source)),
        };
        match serde_json::from_slice::<Document>(&text) {
            Ok(document) if document.version == VERSION => Ok(document.into()),
            other => {
                let reason = other.map_or_else(|e| e.to_string(), |document| format!("version {}", document.version));
                let aside = self.0.with_extension("json.damaged");
                tracing::warn!(file = %self.0.display(), reason, aside = %aside.display(), "not understood, put aside");
                fs::rename(&self.0, aside).map_err(|source| self.failed(source))?;
                Ok(Kept::default())
            }
        }
    }

    fn text(&self) -> io::Result<Vec<u8>> {
        let size = fs::metadata(&self.0)?.len();
        // What is larger is not ours: it reads as nothing, and is put aside.
        if size > MAX { Ok(Vec::new()) } else { fs::read(&self.0) }
    }

    /// Writes it aside, syncs and renames: there is always a whole file.
    pub(crate) fn write(&self, kept: &Kept) -> Result<(), Error> {
        let aside = self.0.with_extension("json.part");
        let text = serde_json::to_vec_pretty(&Document::from(kept)).expect("texts and numbers are JSON");
        let written = || {
            let mut file = File::options().create(true).truncate(true).write(true).mode(0o640).open(&aside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&aside, &self.0)?;
            self.0.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        };
        written().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::File { path: self.0.clone(), source }
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

        fs::write(dir.path().join(NAME), "{\"version\": 2, \"removed_at\": null}").unwrap();
        assert_eq!(file.read().unwrap(), Kept::default());
        assert!(dir.path().join("own-row.json.damaged").exists() && !dir.path().join(NAME).exists());
    }
}
