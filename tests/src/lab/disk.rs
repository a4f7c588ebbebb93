//! A small disk of its own for one node: it loses its power, dies, fills up, becomes read-only.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;
use tempfile::TempDir;

use super::links::{must, tool};
use crate::skip::skip;

/// A mounted file system on a loop device; unmounted and removed when it is dropped.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
    _folder: TempDir,
}

impl Disk {
    /// A fresh one of so many megabytes; none, said aloud in the name of `test`, where this host does not let us.
    ///
    /// # Panics
    /// If no temporary folder can be made.
    #[must_use]
    pub fn make(test: &str, megabytes: u32) -> Option<Disk> {
        if !geteuid().is_root() {
            skip(test, "mounting a disk needs root");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("kith-disk-").tempdir().expect("a temporary folder can be made");
        let at = folder.path().join("disk");
        let made = Command::new(tool("powercut")).arg("make").arg(&at).arg(megabytes.to_string()).output();
        match made {
            Ok(made) if made.status.success() => Some(Disk { at, _folder: folder }),
            Ok(made) => {
                skip(test, &format!("no loop devices here: {}", String::from_utf8_lossy(&made.stderr).trim()));
                None
            }
            Err(error) => {
                skip(test, &format!("`powercut` cannot be run: {error}"));
                None
            }
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// The power is cut, or the disk dies: what is not on the device is lost, every later call fails.
    pub fn cut(&self) {
        self.does("cut", &[]);
    }

    /// Back with power: its journal is replayed. Whoever used it must have ended.
    pub fn restore(&self) {
        self.does("restore", &[]);
    }

    /// Fills it up.
    pub fn fill(&self) {
        self.does("fill", &[]);
    }

    /// Takes out what filled it up.
    pub fn unfill(&self) {
        self.does("unfill", &[]);
    }

    /// Its file system meets an error, and lets nobody write any more, until it is restored.
    pub fn read_only(&self) {
        self.does("ro", &[]);
    }

    fn does(&self, what: &str, more: &[&str]) {
        must("powercut", Command::new(tool("powercut")).arg(what).arg(&self.at).args(more));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that fails must not leave its disk behind; if it cannot be removed, that is said.
        let dropped = Command::new(tool("powercut")).arg("drop").arg(&self.at).output();
        match dropped {
            Ok(dropped) if dropped.status.success() => {}
            Ok(dropped) => eprintln!("{} is left: {}", self.at.display(), String::from_utf8_lossy(&dropped.stderr)),
            Err(error) => eprintln!("{} is left: {error}", self.at.display()),
        }
    }
}
