//! The programs that ask, each around one resolver. One that cannot be made or run here is said aloud.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kith_tests::fetched::cache;
use kith_tests::lab::kith;
use kith_tests::skip::skip;

pub(crate) fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/resolvers").join(name)
}

/// Compiles `libc.c`; a compiler that is not there is said aloud.
pub(crate) fn compiled(test: &str, compiler: &str, options: &[&str]) -> Option<String> {
    let program = kith().with_file_name(format!("resolver-{compiler}-{}", std::process::id()));
    let mut command = Command::new(compiler);
    match command.args(["-O1", "-Wall", "-o"]).arg(&program).arg(tool("libc.c")).args(options).output() {
        Err(error) => {
            skip(test, &format!("`{compiler}` cannot be run: {error}"));
            None
        }
        Ok(output) => {
            assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
            Some(program.display().to_string())
        }
    }
}

/// Whether that program is here; if not, that is said aloud.
pub(crate) fn runs(test: &str, program: &str, argument: &str) -> bool {
    let started = Command::new(program).arg(argument).stdout(Stdio::null()).status();
    started.is_ok_and(|status| status.success()) || {
        skip(test, &format!("`{program}` cannot be run"));
        false
    }
}

pub(crate) fn built_by_go(test: &str) -> Option<String> {
    if !runs(test, "go", "version") {
        return None;
    }
    let program = kith().with_file_name("resolver-go");
    let output = Command::new("go").args(["build", "-o"]).arg(&program).arg(tool("netgo.go")).output();
    let output = output.expect("it has just been run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program.display().to_string())
}

/// systemd-resolved, as `scripts/foreign` unpacks it.
pub(crate) fn resolved(test: &str) -> Option<String> {
    let program = cache().join("resolved/lib/systemd/systemd-resolved").display().to_string();
    runs(test, &program, "--version").then_some(program)
}
