//! How long a connection may keep us waiting: for its first request, between requests, and for reading what it asked for.
//!
//! hyper's own header time-out is not used: it also runs while an idle connection is kept alive, and would close pooled
//! connections of clients after those ten seconds, in the middle of their next request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::room::Place;

/// A connection must have sent its first request's head by then.
pub(super) const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A connection without a request is closed after this long: longer than clients' pools keep theirs (90 s in Go and in
/// hyper), so that it is the client who closes and no request meets a closing connection.
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// A peer that takes no byte for this long is gone, or as good as.
pub(super) const STALLED: Duration = Duration::from_secs(30);

/// What a connection is doing, shared by its service and its watch.
#[derive(Debug)]
pub(super) struct Activity {
    begun: AtomicUsize,
    place: Place,
}

/// A request from its head to the end of its answer's body.
#[derive(Debug)]
pub(super) struct Running(Arc<Activity>);

impl Activity {
    pub(super) fn new(place: Place) -> Self {
        Self { begun: AtomicUsize::new(0), place }
    }

    /// A request's head has arrived.
    pub(super) fn begin(self: &Arc<Self>) -> Running {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.place.begin();
        Running(Arc::clone(self))
    }

    /// Whether there was a request yet.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed) > 0
    }

    /// Completes when somebody else needs the connection's place more. Cancel-safe.
    pub(super) async fn asked_to_make_way(&self) {
        self.place.make_way().cancelled().await;
    }

    /// Completes when the connection has been idle for too long.
    pub(super) async fn idle_for_too_long(&self) {
        sleep(FIRST_REQUEST).await;
        let mut seen = self.begun.load(Ordering::Relaxed);
        if seen == 0 {
            return;
        }
        // Looked at once a period: a connection is closed after one to two of them.
        loop {
            let idle_before = self.place.is_quiet();
            sleep(IDLE).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if idle_before && begun == seen {
                return;
            }
            seen = begun;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.place.end();
    }
}

/// A connection that fails when its peer takes nothing for [`STALLED`].
#[derive(Debug)]
pub(super) struct Watched<T> {
    inner: T,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, stalled: None }
    }

    /// Passes the outcome of a write on, unless nothing has been taken for too long.
    fn watch<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let deadline = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STALLED)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads nothing")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::AsyncWriteExt;

    use super::super::room::Room;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_ends_the_connection() {
        let (ours, theirs) = tokio::io::duplex(16);
        let mut watched = Watched::new(ours);
        let started = Instant::now();
        let error = watched.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), STALLED);
        drop(theirs);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_closed_without_a_first_request_and_when_idle_but_not_during_one() {
        let room = Room::new(2, Counter::default());
        let started = Instant::now();
        Activity::new(room.enter().await).idle_for_too_long().await;
        assert_eq!(started.elapsed(), FIRST_REQUEST);

        let activity = Arc::new(Activity::new(room.enter().await));
        let running = activity.begin();
        let watch = activity.idle_for_too_long();
        tokio::pin!(watch);
        assert!(tokio::time::timeout(Duration::from_secs(3600), &mut watch).await.is_err(), "closed during a request");
        drop(running);
        let started = Instant::now();
        watch.await;
        assert!(started.elapsed() >= IDLE && started.elapsed() <= 2 * IDLE, "{:?}", started.elapsed());
    }
}
