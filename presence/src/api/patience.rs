//! A connection whose other side must take what it is sent: one that takes nothing for half a minute is cut off, whatever
//! it was sent, so that readers that stopped do not hold places for ever.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Two keep-alives; a link that is away for longer is as good as a new one.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stream with patience.
#[derive(Debug)]
pub(crate) struct Patient<S> {
    stream: S,
    /// Runs while the other side takes nothing. Made only then: there are thousands that only listen.
    waiting: Option<Pin<Box<Sleep>>>,
    cut: Arc<AtomicU64>,
}

impl<S> Patient<S> {
    /// Counts in `cut` if it is cut off.
    pub(crate) fn new(stream: S, cut: Arc<AtomicU64>) -> Self {
        Self { stream, waiting: None, cut }
    }

    fn judge<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        ready!(self.waiting.get_or_insert_with(|| Box::pin(sleep(PATIENCE))).as_mut().poll(cx));
        self.cut.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other side took nothing for 30 s")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_for_half_a_minute_is_cut_off_and_who_is_slow_is_not() {
        let (ours, mut theirs) = duplex(16);
        let cut = Arc::<AtomicU64>::default();
        let mut stream = Patient::new(ours, Arc::clone(&cut));
        stream.write_all(&[0; 16]).await.unwrap();
        // A little each 20 s: it takes minutes, and is served.
        let reads = async {
            for _ in 0..10 {
                sleep(Duration::from_secs(20)).await;
                theirs.read_exact(&mut [0; 4]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(stream.write_all(&[1; 40]), reads);
        written.unwrap();
        assert_eq!(cut.load(Ordering::Relaxed), 0);
        let begun = Instant::now();
        let error = timeout(Duration::from_secs(60), stream.write_all(&[2; 40])).await.expect("it ends").unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 30));
        assert_eq!(cut.load(Ordering::Relaxed), 1);
    }
}
