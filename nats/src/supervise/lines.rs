//! What a process writes, line by line, in bounded memory: a line may be of any length, and is told up to a bound.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a line that are told. The longest that nats-server writes of itself have some hundreds; what is longer is counted and passed over.
const TOLD: usize = 4096;
/// Bytes read at once.
const CHUNK: usize = 8192;

/// A line without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its text, up to [`TOLD`] bytes. What is not UTF-8 stands as U+FFFD.
    pub(crate) text: String,
    /// How many bytes more it had.
    pub(crate) more: u64,
}

/// Reads lines from a pipe.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    from: R,
    chunk: Box<[u8]>,
    /// The part of the chunk that was not looked at yet.
    unread: std::ops::Range<usize>,
    line: Vec<u8>,
    more: u64,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Reads from there.
    pub(crate) fn new(from: R) -> Lines<R> {
        Lines { from, chunk: vec![0; CHUNK].into(), unread: 0..0, line: Vec::new(), more: 0 }
    }

    /// The next line; `None` at the end. What was read by then is kept when the wait is dropped.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            let read = self.from.read(&mut self.chunk).await?;
            if read == 0 {
                return Ok((!self.line.is_empty() || self.more > 0).then(|| self.finish()));
            }
            self.unread = 0..read;
        }
    }

    /// Moves what is in the chunk into the line, up to the line's end if it is there.
    fn take(&mut self) -> Option<Line> {
        let unread = &self.chunk[self.unread.clone()];
        let end = unread.iter().position(|byte| *byte == b'\n');
        let piece = &unread[..end.unwrap_or(unread.len())];
        let fits = piece.len().min(TOLD - self.line.len());
        self.line.extend_from_slice(&piece[..fits]);
        self.more += (piece.len() - fits) as u64;
        self.unread.start += piece.len() + usize::from(end.is_some());
        end.map(|_| self.finish())
    }

    fn finish(&mut self) -> Line {
        let text = String::from_utf8_lossy(&self.line).trim_end_matches('\r').to_owned();
        self.line.clear();
        Line { text, more: std::mem::take(&mut self.more) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn all(bytes: &[u8]) -> Vec<Line> {
        let mut lines = Lines::new(bytes);
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            read.push(line);
        }
        read
    }

    fn line(text: &str) -> Line {
        Line { text: text.to_owned(), more: 0 }
    }

    #[tokio::test]
    async fn lines_are_told_with_and_without_a_last_end() {
        assert_eq!(all(b"").await, []);
        assert_eq!(all(b"a\n\nb\r\nc").await, [line("a"), line(""), line("b"), line("c")]);
        assert_eq!(all(b"\xff\n").await, [line("\u{fffd}")]);
    }

    #[tokio::test]
    async fn ten_megabytes_are_one_line_of_bounded_length() {
        let mut bytes = vec![b'x'; 10 << 20];
        bytes.extend_from_slice(b"\nnext\n");
        let mut lines = Lines::new(&bytes[..]);
        let long = lines.next().await.unwrap().unwrap();
        assert_eq!((long.text.len(), long.more), (TOLD, (10 << 20) - TOLD as u64));
        assert_eq!(lines.next().await.unwrap(), Some(line("next")));
        assert!(lines.line.capacity() <= 2 * TOLD, "{}", lines.line.capacity());
    }

    #[tokio::test]
    async fn half_a_line_is_kept_when_the_wait_for_the_rest_is_dropped() {
        let (mut to, from) = tokio::io::duplex(64);
        let mut lines = Lines::new(from);
        to.write_all(b"half ").await.unwrap();
        tokio::select! {
            biased;
            _ = lines.next() => panic!("there is no line yet"),
            () = tokio::task::yield_now() => {}
        }
        to.write_all(b"and half\n").await.unwrap();
        assert_eq!(lines.next().await.unwrap(), Some(line("half and half")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_told_as_their_lines(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..3000)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(all(&bytes));
            let mut expected: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
            if expected.last().is_some_and(|last| last.is_empty()) {
                expected.pop();
            }
            prop_assert_eq!(read.len(), expected.len());
            for (line, expected) in read.iter().zip(expected) {
                let expected = String::from_utf8_lossy(expected);
                prop_assert_eq!(&line.text, expected.trim_end_matches('\r'));
            }
        }
    }
}
