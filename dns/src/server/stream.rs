//! One connection: two bytes of length before each message (RFC 1035 §4.2.2), any number of them in flight, answered
//! as their answers are there (RFC 7766 §6.2.1.1).

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::slow::ReplyTo;
use super::{Desk, Reply};
use crate::answer::{Asked, Transport};
use crate::tap::Given;

/// How long a connection may go without a whole query, and a client without taking its answers. Counted from the last
/// whole query or late answer, so that a byte now and then keeps nothing open.
const IDLE: Duration = Duration::from_secs(10);
/// Room made before each read; pipelined queries come some 40 at a time.
const READ: usize = 2048;
/// Answers gathered before they are written; one more answer, of at most 64 KiB, can come on top.
const WRITE: usize = 16 * 1024;
/// Queries of one connection that wait for the slow path. At the bound nothing more is read until one is answered, so
/// that the sender waits as TCP makes it wait.
const LATER_MAX: usize = 64;

/// Serves one connection until either side has had enough.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    (source, transport): (SocketAddr, Transport),
    desk: &Desk,
    token: &CancellationToken,
) -> io::Result<()> {
    let (later, mut late) = mpsc::channel(LATER_MAX);
    let mut talk = Talk::new((source, transport), desk, later);
    let mut cancelled = pin!(token.cancelled());
    let mut idle = pin!(sleep_until(talk.deadline));
    let mut sending = Sending::Open;
    loop {
        let next = talk.answer();
        if !talk.output.is_empty() {
            // Of TLS a part may wait to be sent.
            timeout(IDLE, async {
                stream.write_all(&talk.output).await?;
                stream.flush().await
            })
            .await??;
            talk.output.clear();
        }
        match next {
            Next::Write => continue,
            Next::Close => return Ok(()),
            Next::Read | Next::Wait => {}
        }
        if sending == Sending::Ended && !talk.is_waited_for() {
            return Ok(());
        }
        talk.input.reserve(READ);
        tokio::select! {
            // Cancel-safe, all: bytes are in `input` or still in the socket, a reply is taken only where its arm runs.
            () = &mut cancelled => return Ok(()),
            // Set anew when it is due rather than with each query.
            () = &mut idle => {
                if talk.deadline <= Instant::now() {
                    return Ok(());
                }
                idle.as_mut().reset(talk.deadline);
            }
            Some(reply) = late.recv() => {
                talk.frame(&reply);
                while talk.output.len() < WRITE && let Ok(reply) = late.try_recv() {
                    talk.frame(&reply);
                }
                talk.deadline = Instant::now() + IDLE;
            }
            read = stream.read_buf(&mut talk.input), if next == Next::Read && sending == Sending::Open => {
                if read? == 0 {
                    sending = Sending::Ended;
                }
            }
        }
    }
}

/// Whether the client may still send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    Ended,
}

/// What a connection needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// More bytes.
    Read,
    /// To write what there is, before more is answered.
    Write,
    /// A late reply, before more is answered.
    Wait,
    /// Its end, after what there is is written.
    Close,
}

/// What was said on a connection, and is to be said.
struct Talk<'d> {
    desk: &'d Desk,
    source: SocketAddr,
    transport: Transport,
    /// Holds less than one message, 65,537 bytes, before each read, unless it waits for late replies.
    input: Vec<u8>,
    output: Vec<u8>,
    reply: Vec<u8>,
    turn: u32,
    deadline: Instant,
    later: mpsc::Sender<Vec<u8>>,
}

impl<'d> Talk<'d> {
    fn new((source, transport): (SocketAddr, Transport), desk: &'d Desk, later: mpsc::Sender<Vec<u8>>) -> Self {
        let (turn, deadline) = (rand::random(), Instant::now() + IDLE);
        Self {
            desk,
            source,
            transport,
            input: Vec::new(),
            output: Vec::new(),
            reply: Vec::new(),
            turn,
            deadline,
            later,
        }
    }

    /// Answers the whole messages that are there.
    fn answer(&mut self) -> Next {
        let mut used = 0;
        let (begun, mut answered) = (Instant::now(), 0);
        let published = self.desk.published();
        let cookies = self.desk.cookies();
        let watched = self.desk.tap.watched();
        let next = loop {
            if self.output.len() >= WRITE {
                break Next::Write;
            }
            let Some(query) = message(&self.input[used..]) else { break Next::Read };
            self.turn = self.turn.wrapping_add(1);
            let (source, transport, turn) = (self.source.ip(), self.transport, self.turn);
            let asked = Asked { query, transport, source, turn, cookies };
            let came = watched.as_ref().map(|_| std::time::Instant::now());
            let mut reply = self.desk.answer(&published, &asked, &mut self.reply);
            if matches!(reply, Reply::Later | Reply::Onward) {
                let Ok(room) = self.later.clone().try_reserve_owned() else { break Next::Wait };
                reply = self.desk.hand_over(&published, &asked, ReplyTo::Stream(room), &mut self.reply);
            }
            if let (Some(watched), Some(came), Reply::Send) = (&watched, came, reply) {
                let (from, took, weight) = (None, came.elapsed(), 1);
                let given = Given { query, reply: &self.reply, source, transport, from, took, weight };
                watched.show(&published.zone, given);
            }
            used += 2 + query.len();
            match reply {
                Reply::Send => {
                    self.output.extend_from_slice(&(self.reply.len() as u16).to_be_bytes());
                    self.output.extend_from_slice(&self.reply);
                    answered += 1;
                }
                // What is no query gets no answer, and who sends such things no connection.
                Reply::Nothing => break Next::Close,
                Reply::Later | Reply::Onward => {}
            }
        };
        if answered > 0 {
            self.desk.counters().took(begun.elapsed(), answered);
        }
        if used > 0 {
            self.input.drain(..used);
            self.deadline = Instant::now() + IDLE;
        }
        next
    }

    /// Appends a reply to the output.
    fn frame(&mut self, reply: &[u8]) {
        self.output.extend_from_slice(&(reply.len() as u16).to_be_bytes());
        self.output.extend_from_slice(reply);
    }

    /// Whether a reply is to come from the slow path.
    fn is_waited_for(&self) -> bool {
        self.later.capacity() < LATER_MAX
    }
}

/// The first whole message.
fn message(input: &[u8]) -> Option<&[u8]> {
    let (length, rest) = input.split_at_checked(2)?;
    rest.get(..usize::from(u16::from_be_bytes([length[0], length[1]])))
}
