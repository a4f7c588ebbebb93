//! Work on files, off the threads that run tasks: a disk that is slow, or a network disk that is gone, holds a thread of its own.

use std::panic::resume_unwind;

use tokio::task::spawn_blocking;

/// Does it on a thread that may be held, and waits. A wait that is dropped leaves the work to end by itself.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => resume_unwind(panic),
        // Never begun: the runtime ends, and whoever waits with it.
        Err(Err(_)) => std::future::pending().await,
    }
}
