//! What the service manager is told (sd_notify): that this process is ready, that it lives, and that it stops.
//!
//! It is told that the process lives by a task like any other: one that does not come to run any more, because every thread is stuck, says
//! nothing, and the service manager starts the process again. Without a service manager nothing is told to anybody.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Who is told, and how often.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the service manager has asked for it, in the environment.
    pub(crate) fn from_environment() -> Notifier {
        Notifier::asked(|name| std::env::var_os(name), std::process::id())
    }

    fn asked(variable: impl Fn(&str) -> Option<OsString>, process: u32) -> Notifier {
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let socket = variable("NOTIFY_SOCKET").and_then(|name| {
            let made = address(&name).and_then(|address| Ok((UnixDatagram::unbound()?, address)));
            made.inspect_err(|error| tracing::warn!(%error, "the service manager cannot be told anything")).ok()
        });
        // Another process of the service may be the one that is watched.
        let ours = number("WATCHDOG_PID").is_none_or(|watched| watched == u64::from(process));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0).map(Duration::from_micros);
        Notifier { socket, watchdog }
    }

    /// Tells that the process is ready, and runs `work` to its end, telling that it lives; once the token is cancelled, that it stops.
    pub(crate) async fn during<T>(&self, token: &CancellationToken, work: impl Future<Output = T>) -> T {
        self.tell("READY=1");
        let mut work = std::pin::pin!(work);
        let mut ticks = self.watchdog.map(|limit| ticks(limit / 2));
        let mut stopping = false;
        loop {
            // The work is pinned outside and is not lost; a tick that is dropped is told again.
            tokio::select! {
                done = &mut work => return done,
                () = token.cancelled(), if !stopping => {
                    stopping = true;
                    self.tell("STOPPING=1");
                }
                () = next(&mut ticks) => self.tell("WATCHDOG=1"),
            }
        }
    }

    fn tell(&self, state: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::debug!(%error, state, "the service manager was not told");
        }
    }
}

/// A path, or behind an @ a name that is in no folder.
fn address(name: &OsStr) -> std::io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn next(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut text = [0; 64];
        let length = socket.recv(&mut text).expect("something is told");
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    #[tokio::test]
    async fn the_service_manager_hears_that_it_is_ready_lives_and_stops() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let asked = |name: &str| match name {
            "NOTIFY_SOCKET" => Some(path.clone().into_os_string()),
            "WATCHDOG_USEC" => Some("2000".into()),
            "WATCHDOG_PID" => Some("7".into()),
            _ => None,
        };
        let (notifier, token) = (Notifier::asked(asked, 7), CancellationToken::new());
        let mut told = Vec::new();
        let work = async {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            let listen = manager.try_clone().unwrap();
            let first = tokio::task::spawn_blocking(move || [heard(&listen), heard(&listen), heard(&listen)]);
            told.extend(first.await.unwrap());
            token.cancel();
            let listen = manager.try_clone().unwrap();
            let last = tokio::task::spawn_blocking(move || {
                let all = std::iter::repeat_with(|| heard(&listen));
                all.take(10_000).find(|state| state != "WATCHDOG=1")
            });
            told.extend(last.await.unwrap());
        };
        notifier.during(&token, work).await;
        assert_eq!(told, ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]);
    }

    #[tokio::test]
    async fn nobody_is_told_where_nobody_asks_and_another_process_is_not_watched() {
        let none = Notifier::asked(|_| None, 7);
        assert!(none.socket.is_none() && none.watchdog.is_none());
        assert_eq!(none.during(&CancellationToken::new(), async { 5 }).await, 5);
        let other = |name: &str| match name {
            "NOTIFY_SOCKET" => Some("@kith-test-nobody".into()),
            "WATCHDOG_USEC" => Some("2000".into()),
            "WATCHDOG_PID" => Some("8".into()),
            _ => None,
        };
        let other = Notifier::asked(other, 7);
        assert!(other.watchdog.is_none() && other.socket.is_some());
        // Nobody listens there: that is nobody's failure.
        assert_eq!(other.during(&CancellationToken::new(), async { 5 }).await, 5);
    }
}
