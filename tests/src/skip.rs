//! Skipping, said aloud.
//!
//! A test that cannot run here (no privilege, no program) returns early, which a test runner counts as passed. So it first
//! writes a line to the file named by `KITH_SKIPPED`; `scripts/test` names that file, takes these tests out of the count of
//! the passed and prints each with its reason.

use std::io::Write;

/// Reports that `test` does not run here because of `reason`; the caller returns right after.
///
/// # Panics
/// If the file named by `KITH_SKIPPED` cannot be written: a skip that nobody hears of is worse than a failure.
pub fn skip(test: &str, reason: &str) {
    eprintln!("skipped {test}: {reason}");
    if let Some(path) = std::env::var_os("KITH_SKIPPED") {
        let mut file =
            std::fs::File::options().create(true).append(true).open(path).expect("KITH_SKIPPED names a file");
        writeln!(file, "{test}: {reason}").expect("the line is written");
    }
}
