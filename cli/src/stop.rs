//! Ctrl-C and SIGTERM: the first asks for an orderly end, a second Ctrl-C does not wait for it.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure};

/// What a shell reports of a process that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// The signals that end the process, caught from the moment this is made.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches them.
    pub(crate) fn catch() -> Result<Signals, Failure> {
        let catch = |kind| signal(kind).map_err(|e| Failure::new(Exit::Software, e).context("cannot catch signals"));
        Ok(Signals { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    /// Runs `work` to its end; a signal cancels `token`, upon which `work` is expected to end soon.
    pub(crate) async fn during<T>(mut self, token: &CancellationToken, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            // A signal that arrives while another arm is taken stays noted; the work is pinned outside and is not lost.
            tokio::select! {
                done = &mut work => return done,
                _ = self.interrupt.recv() => {
                    if token.is_cancelled() {
                        leave_at_once(INTERRUPTED);
                    }
                    tracing::info!("interrupted, stopping");
                    token.cancel();
                }
                _ = self.terminate.recv() => {
                    tracing::info!("terminated, stopping");
                    token.cancel();
                }
            }
        }
    }
}

/// Ends the process without closing anything: for who presses Ctrl-C twice, and where what would have to be closed is stuck.
#[allow(clippy::disallowed_methods, reason = "nothing is to be closed first, or nothing can be")]
pub(crate) fn leave_at_once(code: i32) -> ! {
    std::process::exit(code)
}
