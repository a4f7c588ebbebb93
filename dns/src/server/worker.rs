//! Workers: a plain thread for each UDP socket, which receives, answers and sends by the batch.
//!
//! Every address has one socket for each worker, and the kernel spreads askers over them (SO_REUSEPORT), so workers share
//! nothing that is written: the zone is read, counters and buffers are each worker's own. A query costs no lock, no
//! allocation and no task.
//!
//! A worker sleeps in the call that receives. Shutting its socket down wakes it for good: Linux does that for sockets
//! without a connection as well, although it reports them as not connected.

use std::io;
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Door, Packet, Sent, SentTo};
use super::limit::Limiter;
use super::round::{Round, Sight};
use super::slow::ReplyTo;
use super::{Desk, Reply};
use crate::answer::{Asked, Transport};
use crate::forward::Table;
use crate::tap::Basis;

/// Receive errors in a row after which the socket is given up, so that the part is restarted with a fresh one.
const ERRORS_MAX: u32 = 100;

/// One running worker. Dropping it stops it and waits for its thread, which ends with the batch it is at.
pub(crate) struct Worker {
    thread: Option<JoinHandle<()>>,
    socket: Arc<UdpSocket>,
    stopping: Arc<AtomicBool>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Worker {
    /// Starts the thread for this socket, which must be a blocking one. `table` has the answers to names that are not
    /// ours which it need not hand over.
    pub(crate) fn start(socket: UdpSocket, desk: Desk, mut table: Option<Table>) -> io::Result<Self> {
        let door = door(&socket)?;
        let socket = Arc::new(socket);
        let stopping = Arc::new(AtomicBool::new(false));
        let (tell, ended) = oneshot::channel();
        let (for_thread, stop) = (Arc::clone(&socket), Arc::clone(&stopping));
        let thread = Builder::new().name("dns".to_owned()).spawn(move || {
            let result = work(&for_thread, door, &desk, table.as_mut(), &stop);
            // Before anybody hears of the end: the port is then free.
            drop((for_thread, desk, table));
            // Nobody listens when the part was dropped rather than stopped.
            tell.send(result).ok();
        })?;
        Ok(Self { thread: Some(thread), socket, stopping, ended })
    }

    /// Waits until the worker ends, by itself or because it is told to.
    pub(crate) async fn run(mut self, token: CancellationToken) -> io::Result<()> {
        let ended = tokio::select! {
            // Cancel-safe: the receiver is borrowed, and asked again below.
            ended = &mut self.ended => ended,
            () = token.cancelled() => {
                self.wake();
                (&mut self.ended).await
            }
        };
        ended.unwrap_or_else(|_| Err(io::Error::other("the worker panicked")))
    }

    fn wake(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Err(error) = SockRef::from(&*self.socket).shutdown(Shutdown::Read)
            && error.kind() != io::ErrorKind::NotConnected
        {
            tracing::warn!(%error, "cannot wake a worker");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a worker panicked");
        }
    }
}

/// What kind of socket this is; one on all addresses is told to say which address each datagram was sent to, since a
/// client drops an answer that comes from another (RFC 2181 §4.1).
fn door(socket: &UdpSocket) -> io::Result<Door> {
    let ip = socket.local_addr()?.ip();
    if !ip.is_unspecified() {
        return Ok(Door::One);
    }
    match ip.is_ipv4() {
        true => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
        false => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(Door::All)
}

fn work(
    socket: &Arc<UdpSocket>,
    door: Door,
    desk: &Desk,
    mut table: Option<&mut Table>,
    stopping: &AtomicBool,
) -> io::Result<()> {
    let mut batch = Batch::new(door);
    let mut limiter = desk.rate.map(Limiter::new);
    let began = Instant::now();
    let mut turn = rand::random::<u32>();
    let mut errors = 0;
    loop {
        let received = batch.receive(socket.as_fd());
        if stopping.load(Ordering::Acquire) {
            return Ok(());
        }
        match received {
            Ok(()) => errors = 0,
            Err(error) => {
                errors += 1;
                if errors >= ERRORS_MAX {
                    return Err(error);
                }
            }
        }
        let elapsed = began.elapsed();
        {
            // Given back before the next wait, which may be long: an old zone is not to be kept by who sleeps.
            let (published, access) = (desk.published(), desk.access.load());
            let mut round = Round {
                desk,
                published: &published,
                access: &access,
                limiter: &mut limiter,
                elapsed,
                sight: Sight::of(desk, batch.len(), turn),
            };
            let cookies = desk.cookies();
            if let Some(table) = &mut table {
                table.fill(Instant::now());
            }
            batch.answer_each(|packet, out| {
                turn = turn.wrapping_add(1);
                let Packet { query, source, sent_to } = packet;
                let asked = Asked { query, transport: Transport::Udp, source: source.ip(), turn, cookies };
                // Nobody can receive at port 0: a forged source.
                if source.port() == 0 {
                    desk.counters().add(|counters| &counters.dropped, 1);
                    return Reply::Nothing;
                }
                let begun = round.sight.is_some().then(Instant::now);
                let (reply, basis) = match round.answer(&asked, out) {
                    Reply::Later => later(&round, table.as_deref_mut(), (socket, source, sent_to), &asked, out),
                    // What an alias of ours leads to is put together on the slow path.
                    Reply::Onward => later(&round, None, (socket, source, sent_to), &asked, out),
                    reply => (reply, None),
                };
                if let Some(begun) = begun {
                    round.show(&asked, (reply, out), basis, begun);
                }
                reply
            });
        }
        let sent = batch.send(socket.as_fd());
        count(desk, sent, began.elapsed() - elapsed);
    }
}

/// Counts what was sent of a batch that took so long.
fn count(desk: &Desk, Sent { taken, failed }: Sent, took: Duration) {
    if taken > 0 {
        desk.counters().took(took, taken);
    }
    if failed > 0 {
        desk.counters().add(|counters| &counters.send_errors, failed);
    }
}

/// Answers what is in no zone of ours: from the table, or hands it over.
fn later(
    round: &Round<'_>,
    table: Option<&mut Table>,
    (socket, to, from): (&Arc<UdpSocket>, SocketAddr, SentTo),
    asked: &Asked<'_>,
    out: &mut Vec<u8>,
) -> (Reply, Option<Basis>) {
    if let Some(tally) = table.and_then(|table| table.answer(&round.published.zone, asked, out)) {
        round.desk.counters().count(&tally);
        return (Reply::Send, Some(Basis::Kept));
    }
    let reply_to = ReplyTo::Datagram { socket: Arc::clone(socket), to, from };
    (round.desk.hand_over(round.published, asked, reply_to, out), None)
}
