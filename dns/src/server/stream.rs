//! One connection: two bytes of length before each message (RFC 1035 §4.2.2), any number of them in flight, answered
//! as their answers are there (RFC 7766 §6.2.1.1).

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc::{self, OwnedPermit};
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
/// Bytes of late replies that wait to be written, beyond which nothing more is read either.
const HELD_MANY: usize = 128 * 1024;
/// Bytes beyond which a reply is lost and the connection with it: of questions that were handed over together all may
/// get the largest answers, and a client that takes none of them has no claim to 4 MiB.
const HELD_MAX: usize = 512 * 1024;

/// Serves one connection until either side has had enough.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    (source, transport): (SocketAddr, Transport),
    desk: &Desk,
    token: &CancellationToken,
) -> io::Result<()> {
    let (later, mut late) = Later::new();
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
                talk.take(reply)?;
                while talk.output.len() < WRITE && let Ok(reply) = late.try_recv() {
                    talk.take(reply)?;
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
    later: Later,
}

/// Where late replies come from: room for so many, and for so many bytes.
struct Later {
    sender: mpsc::Sender<Late>,
    held: Arc<AtomicUsize>,
}

/// A late reply.
#[derive(Debug)]
enum Late {
    Reply(Vec<u8>),
    /// There was no room for its bytes.
    Lost,
}

/// Room for one late reply, unless too many bytes wait when it is there.
#[derive(Debug)]
pub(crate) struct Room {
    permit: OwnedPermit<Late>,
    held: Arc<AtomicUsize>,
}

impl Later {
    fn new() -> (Self, mpsc::Receiver<Late>) {
        let (sender, late) = mpsc::channel(LATER_MAX);
        (Self { sender, held: Arc::default() }, late)
    }

    /// Room for one more, if there is any.
    fn room(&self) -> Option<Room> {
        if self.held.load(Ordering::Relaxed) >= HELD_MANY {
            return None;
        }
        let permit = self.sender.clone().try_reserve_owned().ok()?;
        Some(Room { permit, held: Arc::clone(&self.held) })
    }
}

impl Room {
    /// Gives the reply to the connection.
    pub(super) fn give(self, mut reply: Vec<u8>) {
        reply.shrink_to_fit();
        let len = reply.len();
        let late = match self.held.fetch_add(len, Ordering::Relaxed) + len {
            ..=HELD_MAX => Late::Reply(reply),
            _ => {
                self.held.fetch_sub(len, Ordering::Relaxed);
                Late::Lost
            }
        };
        self.permit.send(late);
    }
}

impl<'d> Talk<'d> {
    fn new((source, transport): (SocketAddr, Transport), desk: &'d Desk, later: Later) -> Self {
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
                let Some(room) = self.later.room() else { break Next::Wait };
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

    /// Appends a late reply to the output.
    fn take(&mut self, late: Late) -> io::Result<()> {
        let Late::Reply(reply) = late else { return Err(io::Error::other("more replies than the client takes")) };
        self.later.held.fetch_sub(reply.len(), Ordering::Relaxed);
        self.output.extend_from_slice(&(reply.len() as u16).to_be_bytes());
        self.output.extend_from_slice(&reply);
        Ok(())
    }

    /// Whether a reply is to come from the slow path.
    fn is_waited_for(&self) -> bool {
        self.later.sender.capacity() < LATER_MAX
    }
}

/// The first whole message.
fn message(input: &[u8]) -> Option<&[u8]> {
    let (length, rest) = input.split_at_checked(2)?;
    rest.get(..usize::from(u16::from_be_bytes([length[0], length[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_replies_have_room_for_so_many_bytes() {
        let (later, mut late) = Later::new();
        let rooms: Vec<Room> = (0..LATER_MAX).map_while(|_| later.room()).collect();
        assert_eq!(rooms.len(), LATER_MAX);
        assert!(later.room().is_none());
        rooms.into_iter().for_each(|room| room.give(vec![0; 60_000]));
        let held = later.held.load(Ordering::Relaxed);
        assert!((HELD_MANY..=HELD_MAX).contains(&held), "{held}");
        // All but one are taken: a few bytes are no reason to wait, many are.
        let desk = crate::testing::desk([], 0);
        let mut talk = Talk::new((([127, 0, 0, 1], 7).into(), Transport::Tcp), &desk, later);
        let all: Vec<Late> = std::iter::from_fn(|| late.try_recv().ok()).collect();
        assert_eq!(all.len(), LATER_MAX);
        assert!(talk.later.room().is_none());
        let lost = all.into_iter().filter_map(|late| talk.take(late).err()).count();
        assert_eq!(talk.output.len() - 2 * (LATER_MAX - lost), held);
        assert!(lost > 0 && talk.later.room().is_some());
    }
}
