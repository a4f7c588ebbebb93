//! An image for a Docker that can pull none: a few of this machine's programs, and what they load.

use std::path::Path;
use std::process::{Command, Stdio};

/// What a container can run.
const PROGRAMS: [&str; 5] = ["/bin/sh", "/bin/sleep", "/bin/touch", "/bin/ping", "/usr/bin/getent"];

/// Writes it to `tar`, for `docker import`.
///
/// # Panics
/// If it cannot be made.
pub(super) fn pack(tar: &Path) {
    let mut files: Vec<String> = PROGRAMS.map(str::to_owned).into();
    let needed = Command::new("ldd").args(PROGRAMS).output().expect("ldd runs");
    let needed = String::from_utf8_lossy(&needed.stdout).into_owned();
    files.extend(needed.split_whitespace().filter(|word| word.starts_with("/lib")).map(str::to_owned));
    files.sort();
    files.dedup();
    let packed = Command::new("tar").arg("-chf").arg(tar).args(files).stderr(Stdio::null()).status();
    assert!(packed.is_ok_and(|status| status.success()), "the image cannot be packed");
}
