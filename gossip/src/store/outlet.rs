//! Where a reading thread puts what it finds: a channel that may be full for long, and a store that may be closing.

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The sending half of a bounded channel, for a thread that may block.
pub(crate) struct Outlet<T> {
    out: mpsc::Sender<T>,
    closing: CancellationToken,
    runtime: Handle,
}

/// Nobody takes any more, or the store is closing.
#[derive(Debug)]
pub(crate) struct Unwanted;

impl<T> Outlet<T> {
    pub(crate) fn new(out: mpsc::Sender<T>, closing: CancellationToken, runtime: Handle) -> Self {
        Self { out, closing, runtime }
    }

    /// Waits for room, but not beyond the end of the store.
    pub(crate) fn put(&self, item: T) -> Result<(), Unwanted> {
        match self.out.try_send(item) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Unwanted),
            Err(mpsc::error::TrySendError::Full(item)) => {
                let sent = self.runtime.block_on(self.closing.run_until_cancelled(self.out.send(item)));
                if matches!(sent, Some(Ok(()))) { Ok(()) } else { Err(Unwanted) }
            }
        }
    }

    /// Something that tells whether it is of any use to go on.
    pub(crate) fn unwanted(&self) -> impl Fn() -> bool + Send + 'static
    where
        T: Send + 'static,
    {
        let (out, closing) = (self.out.clone(), self.closing.clone());
        move || out.is_closed() || closing.is_cancelled()
    }
}
