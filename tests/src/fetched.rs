//! What `scripts/setup test` installs and fetches for the tests, outside the tree.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::skip::skip;

/// Where they put it.
#[must_use]
pub fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("kith")
}

/// A Python that has dnspython; none, said aloud in the name of `test`, where it was not fetched.
#[must_use]
pub fn python_with_dns(test: &str) -> Option<PathBuf> {
    let python = cache().join("venv/bin/python");
    let knows = Command::new(&python).args(["-c", "import dns.message"]).stderr(Stdio::null()).status();
    if knows.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    skip(test, "no Python with dnspython: run scripts/setup test");
    None
}

/// The real nats-server; none, said aloud in the name of `test`, where it was not fetched.
#[must_use]
pub fn nats_server(test: &str) -> Option<PathBuf> {
    let binary = cache().join("bin/nats-server");
    if binary.exists() {
        return Some(binary);
    }
    skip(test, "no nats-server: run scripts/setup test");
    None
}

/// A real browser, which needs no screen; none, said aloud in the name of `test`, where it was not installed.
#[must_use]
pub fn browser(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian's two packages; either will do.
    let names = ["chromium-headless-shell", "chromium"];
    let found = names.iter().flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        skip(test, "no Chromium: run scripts/setup test");
    }
    found
}
