//! Files that are followed. Whether one has changed is asked of the file system each second. (inotify would tell at once, and
//! tells nothing of a folder that is mounted from elsewhere or replaced by a link, which is how files come into a container.)

use std::time::Duration;

use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often files are looked at: soon enough for whoever has just saved one, and far too seldom to cost anything.
const LOOK: Duration = Duration::from_secs(1);

/// Looks until told to stop, on a thread that may block: a disk may take its time.
pub(crate) async fn follow<T: Send + 'static>(
    mut watched: T,
    look: fn(&mut T),
    token: CancellationToken,
) -> Result<(), JoinError> {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Cancel-safe, both: nothing is begun before its arm runs.
            () = token.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        watched = spawn_blocking(move || {
            look(&mut watched);
            watched
        })
        .await?;
    }
}
