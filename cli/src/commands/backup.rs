//! `kith backup`, `kith restore` and `kith store verify`: a store as a file, and whether one is sound.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kith_gossip::store::{Existing, OpenError, RestoreError, restore as restore_file, verify_file};
use serde_json::{Value, json};

use super::config::load;
use crate::args::{Backup, Restore, StoreAction};
use crate::config::Purpose;
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// Writes a copy of a running node's store to a file.
pub(crate) async fn backup(args: &Backup) -> Result<(), Failure> {
    let file = &args.file;
    if !args.force && file.exists() {
        let there = format!("{} is there already", file.display());
        return Err(Failure::message(Exit::Failed, there).hint("choose another file, or --force"));
    }
    let mut copy = args.store.client()?.backup().await?;
    let part = Part::new(file).map_err(|error| cannot_write(file, error))?;
    let (mut out, mut bytes) = (&part.file, 0_u64);
    while let Some(chunk) = copy.chunk().await? {
        bytes += chunk.len() as u64;
        out.write_all(&chunk).map_err(|error| cannot_write(file, error))?;
    }
    part.keep(file).map_err(|error| cannot_write(file, error))?;
    let mut out = Out::new();
    if args.output.json {
        return out.json(&json!({ "file": file, "bytes": bytes }));
    }
    out.line(format!("{}: {bytes} bytes", file.display()))
}

fn cannot_write(file: &Path, error: io::Error) -> Failure {
    Failure::new(Exit::Io, error).context(format!("cannot write {}", file.display()))
}

/// A file under another name until it is whole; gone if it never is.
struct Part {
    path: PathBuf,
    file: std::fs::File,
}

impl Part {
    fn new(whole: &Path) -> io::Result<Part> {
        let mut path = whole.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        Ok(Part { path, file })
    }

    fn keep(self, whole: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, whole)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Not there any more when it was kept.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Makes a backup the store of the node that is configured here and does not run.
pub(crate) fn restore(args: &Restore) -> Result<(), Failure> {
    // Of the configuration only the folder counts: a server may get its rows before its certificate.
    let config = load(&args.configured, Purpose::Dns)?;
    let path = config.node.data_dir.join("kith.db");
    let existing = if args.force { Existing::KeptAside } else { Existing::Stays };
    let restored = restore_file(&args.file, &path, existing).map_err(failure)?;
    let mut out = Out::new();
    if args.output.json {
        let (rows, digest) = (restored.rows, restored.digest.to_string());
        return out.json(&json!({ "store": path, "rows": rows, "digest": digest, "aside": restored.aside }));
    }
    out.line(format!("{}: {} rows, digest {}", path.display(), restored.rows, restored.digest))?;
    match restored.aside {
        Some(aside) => out.line(format!("the store that was there is {}", aside.display())),
        None => Ok(()),
    }
}

fn failure(error: RestoreError) -> Failure {
    match &error {
        RestoreError::Exists { .. } => {
            Failure::new(Exit::Failed, error).hint("--force keeps it aside under another name")
        }
        RestoreError::File(_) | RestoreError::Backup { .. } => Failure::new(Exit::Io, error),
        RestoreError::Open(OpenError::InUse { .. }) => Failure::new(Exit::Failed, error).hint("stop the node first"),
        RestoreError::Open(_) | RestoreError::Unsound(_) | RestoreError::Unreadable(_) | RestoreError::Sqlite(_) => {
            Failure::new(Exit::Failed, error)
        }
    }
}

/// Looks through a store.
pub(crate) async fn store(action: &StoreAction) -> Result<(), Failure> {
    let StoreAction::Verify { file, output, store } = action;
    let found = match file {
        Some(file) => {
            let found = verify_file(file).map_err(failure)?;
            json!({
                "rows": found.rows,
                "tombstones": found.tombstones,
                "set_aside": found.set_aside,
                "stamps": found.stamps,
                "digest": found.digest().to_string(),
                "wrong": found.wrong,
            })
        }
        None => store.client()?.verify().await?,
    };
    let mut out = Out::new();
    if output.json {
        out.json(&found)?;
    } else {
        lines(&found).into_iter().try_for_each(|line| out.line(line))?;
    }
    match found["wrong"].as_array().map(Vec::len) {
        Some(0) => Ok(()),
        _ => Err(Failure::message(Exit::Failed, "the store is damaged")),
    }
}

fn lines(found: &Value) -> Vec<String> {
    let figures = ["rows", "tombstones", "set_aside", "stamps"].map(|name| format!("{name} {}", found[name]));
    let digest = found["digest"].as_str().unwrap_or_default();
    let mut lines = vec![format!("{} digest {digest}", figures.join(" "))];
    let wrong = found["wrong"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.extend(wrong.map(|wrong| format!("wrong: {wrong}")));
    lines
}
