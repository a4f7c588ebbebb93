//! `nats-server -t`: whether a file is one that it would start with.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// How long it may take. It takes 50 ms.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most of what it says that is kept.
const LONGEST: usize = 400;

/// Who judges a file. Tests have one of their own.
pub(super) trait Check: Send + Sync {
    /// Why it is refused, in one line.
    fn check(&self, file: &Path) -> impl Future<Output = Result<(), String>> + Send;
}

/// nats-server.
pub(super) struct Binary(pub(super) PathBuf);

impl Check for Binary {
    async fn check(&self, file: &Path) -> Result<(), String> {
        let mut command = Command::new(&self.0);
        command.arg("-t").arg("-c").arg(file).stdin(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(PATIENCE, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(format!("{} does not run: {error}", self.0.display())),
            Err(_) => return Err(format!("{} -t did not end in {PATIENCE:?}", self.0.display())),
        };
        if output.status.success() { Ok(()) } else { Err(reason(&output.stderr)) }
    }
}

/// The last line that says something.
fn reason(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let line = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("refused without a word");
    line.chars().take(LONGEST).collect()
}
