//! The slow path: what a worker cannot answer at once, handed over and answered when its answer is there.
//!
//! ```text
//! worker, connection ─► bounded queue ─► a task for each question ─► datagram, or the connection's own queue
//! ```
//!
//! A worker that hands a question over neither waits nor looks back. When the queue is full it says SERVFAIL itself, so
//! that a flood of names that are not ours costs what the refusals cost, and delays nothing that is ours.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::Desk;
use super::batch::SentTo;
use super::stream::Room;
use crate::answer::{Asked, Cookies, Tally, Transport};
use crate::tap::{Basis, Given};

/// Questions that wait to be taken up. At the bound the next one is told SERVFAIL; taking one up is microseconds, so
/// that more would only be a longer wait behind a flood.
const QUEUE_MAX: usize = 1024;
/// Questions being answered. Twice what may wait for upstreams, so that those that need not wait find a place; at the
/// bound none is taken up, and the queue fills.
const IN_FLIGHT_MAX: usize = 2048;

/// A question that is answered later, with all that its answer depends on.
#[derive(Debug)]
pub(crate) struct Question {
    query: Box<[u8]>,
    begun: Box<[u8]>,
    transport: Transport,
    source: IpAddr,
    turn: u32,
    cookies: Cookies,
    worker: Option<usize>,
    came: Instant,
}

impl Question {
    /// A copy of what was asked and of the reply of who does not forward, of this worker if it came by one.
    pub(crate) fn new(asked: &Asked<'_>, begun: &[u8], worker: Option<usize>) -> Self {
        let Asked { query, transport, source, turn, cookies } = *asked;
        Self {
            query: query.into(),
            begun: begun.into(),
            transport,
            source,
            turn,
            cookies,
            worker,
            came: Instant::now(),
        }
    }

    /// As it was asked.
    pub(crate) fn asked(&self) -> Asked<'_> {
        let Self { query, transport, source, turn, cookies, .. } = self;
        Asked { query, transport: *transport, source: *source, turn: *turn, cookies: *cookies }
    }

    /// The same once more, for who looks.
    fn copy(&self) -> Self {
        Self { query: self.query.clone(), begun: Box::default(), ..*self }
    }

    /// As it is shown with its reply, which was taken from there.
    fn given<'a>(&'a self, reply: &'a [u8], from: Basis) -> Given<'a> {
        let (query, from, took) = (&*self.query, Some(from), self.came.elapsed());
        Given { query, reply, source: self.source, transport: self.transport, from, took, weight: 1 }
    }

    /// The reply of who does not forward; empty where it is a list of our own that takes time.
    pub(crate) fn begun(&self) -> &[u8] {
        &self.begun
    }

    /// The worker that it came to.
    pub(crate) fn worker(&self) -> Option<usize> {
        self.worker
    }
}

/// A reply, with what is counted of it, and what it was taken from.
#[derive(Debug)]
pub(crate) struct Replied {
    pub(crate) reply: Vec<u8>,
    pub(crate) tally: Tally,
    pub(crate) from: Basis,
}

/// What answers questions on the slow path.
#[derive(Clone)]
pub(crate) struct Answerer(Arc<Answering>);

type Answering = dyn Fn(Question) -> Pin<Box<dyn Future<Output = Option<Replied>> + Send>> + Send + Sync;

impl Answerer {
    /// One that answers by this function; `None` where nothing is to be sent.
    pub(crate) fn new<F: Future<Output = Option<Replied>> + Send + 'static>(
        answer: impl Fn(Question) -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |question| Box::pin(answer(question))))
    }
}

impl fmt::Debug for Answerer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answerer")
    }
}

/// Where a reply goes.
#[derive(Debug)]
pub(crate) enum ReplyTo {
    Datagram {
        socket: Arc<UdpSocket>,
        to: SocketAddr,
        from: SentTo,
    },
    /// To the task that owns the connection; there is room for it.
    Stream(Room),
}

/// The sending end, one for each listener.
#[derive(Debug, Clone)]
pub(crate) struct Queue(mpsc::Sender<(Question, ReplyTo)>);

/// Whether a question was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handed {
    Over,
    /// The queue is full.
    Back,
}

impl Queue {
    /// Hands a question over, without waiting.
    pub(crate) fn offer(&self, question: Question, reply_to: ReplyTo) -> Handed {
        match self.0.try_send((question, reply_to)) {
            Ok(()) => Handed::Over,
            Err(_) => Handed::Back,
        }
    }
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Slow {
    questions: mpsc::Receiver<(Question, ReplyTo)>,
    answerer: Answerer,
}

/// The slow path with this answerer.
pub(crate) fn slow(answerer: Answerer) -> (Queue, Slow) {
    let (sender, questions) = mpsc::channel(QUEUE_MAX);
    (Queue(sender), Slow { questions, answerer })
}

impl Slow {
    /// Answers until told to stop; what is not answered by then is not answered. `desk` has the counters.
    pub(crate) async fn run(mut self, desk: Desk, token: CancellationToken) -> Result<(), JoinError> {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                // Cancel-safe, all three: nothing is taken unless its arm runs.
                () = token.cancelled() => break,
                Some(ended) = tasks.join_next() => ended?,
                Some((question, reply_to)) = self.questions.recv(), if tasks.len() < IN_FLIGHT_MAX => {
                    let (answerer, desk) = (self.answerer.clone(), desk.clone());
                    tasks.spawn(async move {
                        let came = question.came;
                        let shown = desk.tap.watched().map(|_| question.copy());
                        if let Some(Replied { reply, tally, from }) = (answerer.0)(question).await {
                            desk.counters().count(&tally);
                            desk.counters().took(came.elapsed(), 1);
                            if let (Some(question), Some(watched)) = (&shown, desk.tap.watched()) {
                                watched.show(&desk.published().zone, question.given(&reply, from));
                            }
                            give(&desk, reply, reply_to);
                        }
                    });
                }
                else => break,
            }
        }
        tasks.shutdown().await;
        Ok(())
    }
}

fn give(desk: &Desk, reply: Vec<u8>, reply_to: ReplyTo) {
    match reply_to {
        ReplyTo::Datagram { socket, to, from } => {
            if send(&socket, &reply, to, from).is_err() {
                desk.counters().add(|counters| &counters.send_errors, 1);
            }
        }
        ReplyTo::Stream(room) => room.give(reply),
    }
}

/// Sends one datagram from the address that was asked.
fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr, from: SentTo) -> io::Result<()> {
    let to = SockaddrStorage::from(to);
    let parts = [io::IoSlice::new(reply)];
    let (v4, v6);
    let control: &[ControlMessage<'_>] = match from {
        SentTo::Bound => &[],
        SentTo::V4(ip) => {
            let ip = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
            v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: ip, ipi_addr: ip };
            &[ControlMessage::Ipv4PacketInfo(&v4)]
        }
        SentTo::V6(ip, index) => {
            let ip = libc::in6_addr { s6_addr: ip.octets() };
            v6 = libc::in6_pktinfo { ipi6_addr: ip, ipi6_ifindex: index };
            &[ControlMessage::Ipv6PacketInfo(&v6)]
        }
    };
    sendmsg(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
    Ok(())
}

#[cfg(test)]
mod tests;
