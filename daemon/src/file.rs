//! A small file of ours: read whole, written aside, synced and renamed, so that there is always a whole one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Most bytes of it. What is larger is not ours.
const MAX: u64 = 1024 * 1024;

/// Where it is.
#[derive(Debug, Clone)]
pub(crate) struct OwnFile(PathBuf);

impl OwnFile {
    /// The file at this path.
    pub(crate) fn at(path: PathBuf) -> OwnFile {
        OwnFile(path)
    }

    /// What it holds; nothing if there is none. One that `understood` makes nothing of is put aside.
    pub(crate) fn read<D: DeserializeOwned, T>(
        &self,
        understood: impl FnOnce(D) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        let text = match self.text() {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed(source)),
        };
        let read = serde_json::from_slice::<D>(&text).map_err(|error| error.to_string());
        match read.and_then(understood) {
            Ok(value) => Ok(Some(value)),
            Err(reason) => {
                let aside = self.0.with_extension("json.damaged");
                tracing::warn!(file = %self.0.display(), reason, aside = %aside.display(), "not understood, put aside");
                fs::rename(&self.0, aside).map_err(|source| self.failed(source))?;
                Ok(None)
            }
        }
    }

    fn text(&self) -> io::Result<Vec<u8>> {
        let size = fs::metadata(&self.0)?.len();
        if size > MAX { Ok(Vec::new()) } else { fs::read(&self.0) }
    }

    /// Writes it.
    pub(crate) fn write(&self, document: &impl Serialize) -> Result<(), Error> {
        let aside = self.0.with_extension("json.part");
        let written = || {
            let text = serde_json::to_vec_pretty(document)?;
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
