//! What waits to be written on one stream.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Bytes that may wait for one peer: some 50,000 versions of a usual size, or eight of the greatest. What comes on top is
/// not sent at all; the peer sees from our heads what it lacks, and pulls it.
pub(super) const BYTES: usize = 8 << 20;

/// A queue with one writer of the stream at its end.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: Vec<Bytes>,
    /// Of the frames, and of those that were taken and are not yet written.
    bytes: usize,
}

/// The queue is full; the frame was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Outbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame. A frame that is larger than the bound still passes when nothing else waits.
    pub(super) fn push(&self, frame: Bytes) -> Result<(), Full> {
        let mut queue = self.queue();
        if queue.bytes > 0 && queue.bytes + frame.len() > BYTES {
            return Err(Full);
        }
        queue.bytes += frame.len();
        queue.frames.push(frame);
        drop(queue);
        self.ready.notify_one();
        Ok(())
    }

    /// Waits for frames and takes all there are, to be written at once and then to be reported as [`Outbox::written`].
    /// Cancel-safe: nothing is awaited after frames were taken.
    pub(super) async fn take(&self) -> Vec<Bytes> {
        loop {
            let frames = std::mem::take(&mut self.queue().frames);
            if !frames.is_empty() {
                return frames;
            }
            self.ready.notified().await;
        }
    }

    /// Makes room.
    pub(super) fn written(&self, bytes: usize) {
        self.queue().bytes -= bytes;
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.queue().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_taken_together_and_counts_until_it_is_written() {
        let outbox = Outbox::default();
        let half = Bytes::from(vec![0; BYTES / 2]);
        outbox.push(half.clone()).unwrap();
        outbox.push(half.clone()).unwrap();
        assert_eq!(outbox.push(Bytes::from_static(b"x")), Err(Full));
        assert_eq!(outbox.take().await.len(), 2);
        assert_eq!(outbox.push(Bytes::from_static(b"x")), Err(Full));
        outbox.written(BYTES);
        assert_eq!(outbox.push(Bytes::from(vec![0; 2 * BYTES])), Ok(()));
        assert_eq!(outbox.bytes(), 2 * BYTES);
    }
}
