//! Plain requests, answered without the HTTP library: a read of one user, and a stream of events.
//!
//! ```text
//!   a head ─► a read of a user ─► its answer, and the next head
//!        ├──► a stream of events ─► events, until one side ends it
//!        └──► anything else, or not whole in HEAD_BYTES ─► the HTTP library, from this head on
//! ```
//! They are nearly all that is asked, and most connections ask nothing else. By the library a read takes 11 µs of CPU and a
//! stream 16.7 KB, here 4.9 µs and 4.5 KB, as `--bench load` measures them. A head is plain where it leaves nothing to
//! decide: GET, HTTP/1.1, an id that stands in the path as it is, no body, and nothing that changes what the connection is.
//! What is answered is what the routes answer, byte for byte, and where they would answer an error, they do.

use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;

use bytes::BufMut;
use httparse::{Header, Request, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use super::App;
use super::record::{Records, Sessions};
use super::server::{GRACE, HEAD_TIME};
use super::stream::{self, Reader};
use super::users::Envelope;
use crate::clock::http_date;
use crate::core::UserId;

/// What is buffered of a connection. Heads of browsers are a third of it; a longer one is not plain.
const HEAD_BYTES: usize = 2 << 10;
/// Lines of a plain head.
const LINES: usize = 32;
/// Where users are.
const PATH: &str = "/api/v2/presence/";
/// Paths that look like a user's, and are none.
const OTHERS: [&str; 4] = ["stream", "ws", "batch", "heartbeat"];

const MEMORY: &str = "memory takes what is written";

/// A head that was read.
#[derive(Debug, PartialEq, Eq)]
enum Head<'a> {
    /// It is not whole.
    Part,
    /// A read of a user, and how long the head is.
    Read(UserId, usize),
    /// A stream: its query, and the last event that was heard.
    Stream(&'a str, Option<&'a str>),
    /// Not plain.
    Other,
}

impl<'a> Head<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let mut lines = [httparse::EMPTY_HEADER; LINES];
        let mut request = Request::new(&mut lines);
        match request.parse(bytes) {
            Ok(Status::Complete(length)) => Self::whole(&request, length).unwrap_or(Self::Other),
            Ok(Status::Partial) if bytes.len() < HEAD_BYTES => Self::Part,
            Ok(Status::Partial) | Err(_) => Self::Other,
        }
    }

    fn whole(request: &Request<'_, 'a>, length: usize) -> Option<Self> {
        if request.method != Some("GET") || request.version != Some(1) || !request.headers.iter().all(is_plain) {
            return None;
        }
        let rest = request.path?.strip_prefix(PATH)?;
        if let Some(query) = rest.strip_prefix("stream?") {
            let mut since = request.headers.iter().filter(|line| line.name.eq_ignore_ascii_case("last-event-id"));
            let since = since.next().and_then(|line| std::str::from_utf8(line.value).ok());
            return Some(Self::Stream(query, since));
        }
        let as_it_is = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@:".contains(&byte);
        let is_user = rest.bytes().all(as_it_is) && !OTHERS.contains(&rest);
        Some(Self::Read(UserId::try_from(rest).ok().filter(|_| is_user)?, length))
    }
}

/// Whether a line of a head leaves a request plain.
fn is_plain(line: &Header<'_>) -> bool {
    let is = |name: &str| line.name.eq_ignore_ascii_case(name);
    if is("connection") {
        return line.value.eq_ignore_ascii_case(b"keep-alive");
    }
    !["content-length", "transfer-encoding", "upgrade", "expect"].into_iter().any(is)
}

/// Answers plain requests. What is not plain is given back, with what was read of it; none: the connection is over.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    app: &Arc<App>,
    mut stream: S,
) -> io::Result<Option<(S, Vec<u8>)>> {
    let (mut read, mut answers) = (Vec::with_capacity(HEAD_BYTES), Vec::new());
    let (mut stopping, mut idle) = (pin!(app.stopping.cancelled()), pin!(sleep(HEAD_TIME)));
    let mut since = Instant::now();
    loop {
        match Head::of(&read) {
            Head::Read(user, length) if app.shown.is_filled() => {
                answer(app, &user, &mut answers);
                read.drain(..length);
                since = Instant::now();
                continue;
            }
            Head::Stream(query, last) => {
                let reader = stream::begin(app, Some(query), last);
                send(app, &mut stream, &answers).await?;
                // The routes say what is wrong.
                let Ok(reader) = reader else { return Ok(Some((stream, read))) };
                drop((read, answers));
                tell(app, stream, reader).await?;
                return Ok(None);
            }
            Head::Read(..) | Head::Other => {
                send(app, &mut stream, &answers).await?;
                return Ok(Some((stream, read)));
            }
            Head::Part => {
                send(app, &mut stream, &answers).await?;
                answers.clear();
            }
        }
        let room = HEAD_BYTES - read.len();
        let mut room = (&mut read).limit(room);
        // A read that is dropped has read nothing; the others are polled again.
        tokio::select! {
            biased;
            got = stream.read_buf(&mut room) => if got? == 0 { break },
            () = idle.as_mut() => {
                if since.elapsed() >= HEAD_TIME { break }
                idle.as_mut().reset(since + HEAD_TIME);
            }
            () = stopping.as_mut() => break,
        }
    }
    stream.shutdown().await?;
    Ok(None)
}

/// The answer to a read.
fn answer(app: &App, user: &UserId, out: &mut Vec<u8>) {
    let records = Records::of(&app.shown, [user], Sessions::Hidden);
    let tag = records.tag();
    let body = Envelope::of(records).into_bytes();
    out.reserve(160 + body.len());
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n");
    if let Some(tag) = tag {
        write!(out, "etag: \"{tag:016x}\"\r\n").expect(MEMORY);
    }
    write!(out, "content-length: {}\r\ndate: ", body.len()).expect(MEMORY);
    out.extend_from_slice(&http_date());
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(&body);
}

/// Sends. When the node stops, who does not take it is not waited for.
async fn send<S: AsyncWrite + Unpin>(app: &App, stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let sent = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    let late = async {
        app.stopping.cancelled().await;
        sleep(GRACE).await;
    };
    // Dropped half-way, the connection is over.
    tokio::select! {
        biased;
        sent = sent => sent,
        () = late => Err(io::Error::new(io::ErrorKind::TimedOut, "the other side took too long at shutdown")),
    }
}

/// Sends events, each as a chunk. What the other side says meanwhile is not heard.
async fn tell<S: AsyncRead + AsyncWrite + Unpin>(app: &App, mut stream: S, mut reader: Reader) -> io::Result<()> {
    let mut out = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
        transfer-encoding: chunked\r\ndate: "
        .to_vec();
    out.extend_from_slice(&http_date());
    out.extend_from_slice(b"\r\n\r\n");
    let mut heard = [0; 64];
    loop {
        // Waiting for an event takes none, and a read that is dropped has read nothing.
        let event = tokio::select! {
            biased;
            event = reader.next() => event,
            got = stream.read(&mut heard) => if got? == 0 { return Ok(()) } else { continue },
        };
        let is_last = event.is_none();
        let event = event.unwrap_or_default();
        write!(out, "{:X}\r\n", event.len()).expect(MEMORY);
        out.extend_from_slice(&event);
        out.extend_from_slice(b"\r\n");
        send(app, &mut stream, &out).await?;
        if is_last {
            return stream.shutdown().await;
        }
        out = Vec::new();
    }
}
