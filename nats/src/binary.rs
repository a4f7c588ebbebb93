//! The nats-server that is run: found in one order, and new enough.

use std::env;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// The oldest that will do. Those before it have no time to live per key, which leases are made of, and do not reload the remotes of
/// a leaf.
pub const OLDEST: Version = Version(2, 14, 0);
/// How long it may take to say its version. One that hangs here would hang later.
const ANSWER: Duration = Duration::from_secs(5);
/// What it is called.
const NAME: &str = "nats-server";

/// A version, as `v2.15.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

/// A nats-server that can be run.
#[derive(Debug, Clone)]
pub struct Binary {
    /// Where it is.
    pub path: PathBuf,
    /// Which it is.
    pub version: Version,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// None was found.
    #[error("no nats-server: neither nats.bin, NATS_SERVER_BIN, {} nor PATH has one", searched.display())]
    Missing {
        /// Where setup would have put it.
        searched: PathBuf,
    },
    /// It cannot be run.
    #[error("{path} cannot be run")]
    Run {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not say its version.
    #[error("{path} is no nats-server: asked for its version it {said}")]
    Foreign {
        /// Which.
        path: PathBuf,
        /// What it did instead.
        said: String,
    },
    /// It is too old.
    #[error("{path} is {found}, older than {OLDEST}")]
    Old {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
}

impl BinaryError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "scripts/setup run fetches one that fits; nats.bin or NATS_SERVER_BIN names another"
    }
}

impl Binary {
    /// The one that is named, or the first that is found: what setup has fetched, then along PATH.
    pub async fn find(named: Option<&Path>) -> Result<Binary, BinaryError> {
        let fetched = cache(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")).join("kith/bin");
        let path = match named {
            Some(path) => path.to_owned(),
            None => search(&fetched).ok_or(BinaryError::Missing { searched: fetched })?,
        };
        let version = ask(&path).await?;
        if version < OLDEST {
            return Err(BinaryError::Old { path, found: version });
        }
        Ok(Binary { path, version })
    }
}

/// The user's cache, as scripts have it.
fn cache(xdg: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> PathBuf {
    xdg.map_or_else(|| PathBuf::from(home.unwrap_or_default()).join(".cache"), PathBuf::from)
}

fn search(fetched: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let along: Vec<PathBuf> = env::split_paths(&path).collect();
    std::iter::once(fetched.to_owned()).chain(along).map(|folder| folder.join(NAME)).find(|file| file.is_file())
}

async fn ask(path: &Path) -> Result<Version, BinaryError> {
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let foreign = |said: String| BinaryError::Foreign { path: path.to_owned(), said };
    let output = match timeout(ANSWER, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(source)) => return Err(BinaryError::Run { path: path.to_owned(), source }),
        Err(_) => return Err(foreign(format!("says nothing for {} s", ANSWER.as_secs()))),
    };
    let text: String = String::from_utf8_lossy(&output.stdout).chars().take(80).collect();
    parse(&text).ok_or_else(|| foreign(format!("says `{}`", text.trim())))
}

/// `nats-server: v2.15.1`. What follows the third number, as `-beta.1`, is not looked at.
fn parse(text: &str) -> Option<Version> {
    let version = text.trim().strip_prefix("nats-server: v")?;
    let mut numbers = version.split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse().ok()
    });
    Some(Version(numbers.next()??, numbers.next()??, numbers.next()??))
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(dir: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = dir.path().join(NAME);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn versions_are_read_as_nats_server_writes_them() {
        assert_eq!(parse("nats-server: v2.15.1\n"), Some(Version(2, 15, 1)));
        assert_eq!(parse("nats-server: v2.14.0-beta.3"), Some(Version(2, 14, 0)));
        for wrong in ["", "nats-server: 2.15.1", "nats-server: v2.15", "nats-server: vx.1.2", "2.15.1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_named_one_is_taken_if_it_is_new_enough_and_no_other_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(&dir, "echo nats-server: v2.14.0");
        assert_eq!(Binary::find(Some(&path)).await.unwrap().version, OLDEST);
        for (text, expected) in [
            ("echo nats-server: v2.13.9", "is 2.13.9, older than 2.14.0"),
            ("echo hello", "is no nats-server: asked for its version it says `hello`"),
            ("exit 3", "is no nats-server: asked for its version it says ``"),
        ] {
            let error = Binary::find(Some(&script(&dir, text))).await.unwrap_err();
            assert!(error.to_string().ends_with(expected), "{error}");
        }
        let error = Binary::find(Some(&dir.path().join("absent"))).await.unwrap_err();
        assert!(matches!(error, BinaryError::Run { .. }), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let error = Binary::find(Some(&script(&dir, "exec sleep 1000"))).await.unwrap_err();
        assert!(error.to_string().ends_with("it says nothing for 5 s"), "{error}");
    }
}
