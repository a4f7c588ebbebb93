//! How fast much is read: at once for who waits, in slices for what nobody waits for.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::error::QueryError;
use super::read::trouble;

/// How fast to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it goes: somebody waits.
    AtOnce,
    /// A quarter of one core, so that nobody is in its way. A million rows take about half a minute, for which their
    /// snapshot keeps the write-ahead log from being tidied.
    InSlices,
}

/// A slice is shorter than what a request may take, and a rest three times as long.
const SLICE: Duration = Duration::from_millis(4);
const REST: Duration = Duration::from_millis(12);

/// Steps of SQLite's machine between two looks at the time: some tens of microseconds.
const LOOK_EVERY: i32 = 4_000;

impl Pace {
    /// Reads at this pace, on a thread that may block, and no longer than until the store closes.
    pub(crate) fn read<T>(
        self,
        conn: &mut Connection,
        closing: &CancellationToken,
        work: impl FnOnce(&Connection) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        let (mut since, over, runtime) = (Instant::now(), closing.clone(), Handle::current());
        let look = move || {
            match self {
                Self::InSlices if since.elapsed() >= SLICE => {
                    runtime.block_on(over.run_until_cancelled(sleep(REST)));
                    since = Instant::now();
                }
                Self::InSlices | Self::AtOnce => {}
            }
            over.is_cancelled()
        };
        conn.progress_handler(LOOK_EVERY, Some(look)).map_err(|error| trouble(&error))?;
        let read = work(conn);
        conn.progress_handler(0, None::<fn() -> bool>).map_err(|error| trouble(&error))?;
        if closing.is_cancelled() { Err(QueryError::ShuttingDown) } else { read }
    }
}
