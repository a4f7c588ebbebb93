//! Requests that are none: what the HTTP library answers by itself to a head that it cannot take, in the envelope.
//!
//! It answers such a head without a body, below all routes, so the answer is put in its place on its way out. And it closes
//! the connection with half a head unread, on which the system would cut off the answer as well: the rest is read first,
//! within bounds.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::StatusCode;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// What is read of a head that was refused; who sends more is cut off.
const REST_BYTES: usize = 4 << 20;
const REST_TIME: Duration = Duration::from_secs(2);

/// A connection.
pub(super) struct Heads<S> {
    stream: S,
    /// An answer of ours that is on its way, and how long the one is that it stands for.
    answer: Option<(Bytes, usize)>,
    rest: Option<Rest>,
}

/// What is still read of a connection on which a head was refused.
struct Rest {
    left: usize,
    until: Pin<Box<Sleep>>,
    ended: bool,
}

impl<S> Heads<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, answer: None, rest: None }
    }
}

/// What to answer instead of this, if it is an answer without a body to a request that is none.
fn instead(answer: &[u8]) -> Option<Bytes> {
    let status = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let status = StatusCode::from_bytes(status).ok()?;
    let error = match status {
        StatusCode::BAD_REQUEST => "this is no HTTP request",
        StatusCode::URI_TOO_LONG => "the path is too long",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the head of the request is over 16 KiB",
        _ => return None,
    };
    let head = answer.strip_suffix(b"\r\n\r\n")?;
    let empty = head.split(|byte| *byte == b'\n').any(|line| line.trim_ascii() == b"content-length: 0");
    let body = json!({"success": false, "error": error}).to_string();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close");
    empty.then(|| format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into())
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Heads<S> {
    /// Writes the answer that stands for another one of `length` bytes.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some((answer, length)) = &mut self.answer {
            if answer.is_empty() {
                let length = *length;
                self.answer = None;
                self.rest = Some(Rest { left: REST_BYTES, until: Box::pin(sleep(REST_TIME)), ended: false });
                return Poll::Ready(Ok(length));
            }
            match ready!(Pin::new(&mut self.stream).poll_write(cx, answer))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => answer.advance(written),
            }
        }
        Poll::Ready(Ok(0))
    }

    /// Reads what is left, until there is nothing, or too much, or it takes too long.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(()) };
        let mut bytes = [0; 4 << 10];
        while !rest.ended {
            if rest.until.as_mut().poll(cx).is_ready() {
                break;
            }
            let mut buf = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf));
            let read = read.map_or(0, |()| buf.filled().len());
            rest.left = rest.left.saturating_sub(read);
            rest.ended = read == 0 || rest.left == 0;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.answer.is_none() {
            self.answer = instead(buf).map(|answer| (answer, buf.len()));
        }
        if self.answer.is_some() {
            return self.poll_answer(cx);
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty());
        match first {
            Some(first) if self.answer.is_some() || instead(first).is_some() => self.poll_write(cx, first),
            Some(_) | None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The other side is told that nothing more comes, and then heard to its end.
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        ready!(self.poll_rest(cx));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_without_a_body_to_what_is_no_request_is_replaced() {
        let told = |answer: &str| instead(answer.as_bytes()).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
        let long =
            told("HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        let long = long.expect("it is replaced");
        let (head, body) = long.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 431 ") && head.ends_with(&format!("content-length: {}", body.len())),
            "{long}"
        );
        assert_eq!(body, r#"{"error":"the head of the request is over 16 KiB","success":false}"#);
        for other in [
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 9\r\n\r\n{\"a\": 1}\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "data: HTTP/1.1 431 ",
            "",
        ] {
            assert_eq!(told(other), None, "{other}");
        }
    }
}
