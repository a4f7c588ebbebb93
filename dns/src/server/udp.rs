//! Datagrams: one task for each socket, which receives, answers and sends; no task for a query.
//!
//! A socket on a wildcard address asks the kernel which address each query was sent to and answers from there, since a
//! client drops an answer that comes from another (RFC 2181 §4.1).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::{Desk, Reply};
use crate::answer::Transport;

/// Longest query that is read: a question with every option known has some 600 bytes. A longer one is cut, and then it
/// is malformed.
const QUERY_MAX: usize = 4096;
/// Receive errors in a row after which the socket is given up, so that the part is restarted with a fresh one.
const ERRORS_MAX: u32 = 100;

/// Serves one socket until told to stop.
pub(crate) async fn serve(socket: UdpSocket, desk: Desk, token: CancellationToken) -> io::Result<()> {
    let door = Door::new(socket)?;
    let mut query = [0; QUERY_MAX];
    let mut out = Vec::with_capacity(QUERY_MAX);
    let mut turn = rand::random::<u32>();
    let mut errors = 0;
    loop {
        let received = tokio::select! {
            // Cancel-safe: a datagram is taken only when the call that takes it is ready.
            () = token.cancelled() => return Ok(()),
            received = door.receive(&mut query) => received,
        };
        let (len, source, asked) = match received {
            Ok(received) => received,
            Err(error) => {
                errors += 1;
                if errors >= ERRORS_MAX {
                    return Err(error);
                }
                continue;
            }
        };
        errors = 0;
        turn = turn.wrapping_add(1);
        // Nobody can receive at port 0: a forged source.
        if source.port() == 0 || desk.answer(&query[..len], Transport::Udp, source, turn, &mut out) == Reply::Nothing {
            continue;
        }
        if door.send(&out, source, asked).await.is_err() {
            desk.counters().send_errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The address that a query was sent to, as the kernel takes it back for the answer.
#[derive(Clone, Copy)]
enum SentTo {
    /// The one the socket is bound to.
    Bound,
    V4(nix::libc::in_pktinfo),
    V6(nix::libc::in6_pktinfo),
}

/// A socket on one address, or on all of them.
enum Door {
    One(UdpSocket),
    All(UdpSocket),
}

impl Door {
    fn new(socket: UdpSocket) -> io::Result<Self> {
        let addr = socket.local_addr()?;
        if !addr.ip().is_unspecified() {
            return Ok(Self::One(socket));
        }
        match addr.ip() {
            IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
        Ok(Self::All(socket))
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, SentTo)> {
        match self {
            Self::One(socket) => {
                let (len, source) = socket.recv_from(buffer).await?;
                Ok((len, source, SentTo::Bound))
            }
            Self::All(socket) => socket.async_io(Interest::READABLE, || receive(socket, buffer)).await,
        }
    }

    async fn send(&self, reply: &[u8], to: SocketAddr, from: SentTo) -> io::Result<()> {
        match self {
            Self::One(socket) => socket.send_to(reply, to).await.map(drop),
            Self::All(socket) => socket.async_io(Interest::WRITABLE, || send(socket, reply, to, from)).await,
        }
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, SentTo)> {
    let mut control = nix::cmsg_space!(nix::libc::in_pktinfo, nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut asked = SentTo::Bound;
    for part in message.cmsgs()? {
        match part {
            ControlMessageOwned::Ipv4PacketInfo(mut to) => {
                // Only the address goes back: which interface leads to the asker is for routing to say.
                to.ipi_ifindex = 0;
                to.ipi_spec_dst = to.ipi_addr;
                asked = SentTo::V4(to);
            }
            ControlMessageOwned::Ipv6PacketInfo(to) => asked = SentTo::V6(to),
            _ => {}
        }
    }
    let source = message.address.and_then(|address| socket_addr(&address));
    let source = source.ok_or_else(|| io::Error::other("a datagram without a source"))?;
    Ok((message.bytes, source, asked))
}

fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr, from: SentTo) -> io::Result<()> {
    let to = SockaddrStorage::from(to);
    let parts = [IoSlice::new(reply)];
    let (v4, v6);
    let control: &[ControlMessage<'_>] = match &from {
        SentTo::Bound => &[],
        SentTo::V4(info) => {
            v4 = [ControlMessage::Ipv4PacketInfo(info)];
            &v4
        }
        SentTo::V6(info) => {
            v6 = [ControlMessage::Ipv6PacketInfo(info)];
            &v6
        }
    };
    sendmsg(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
    Ok(())
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}
