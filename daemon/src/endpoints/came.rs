//! What came, and by which interface: Linux takes what is sent to an address of this host from every link.

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::libc::in6_pktinfo;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt,
    sockopt::{Ipv6DontFrag, Ipv6RecvPacketInfo},
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Came {
    /// How long it is.
    pub(super) length: usize,
    /// Who sent it, as it says.
    pub(super) from: SocketAddrV6,
    /// The kernel's number of the interface by which it came.
    pub(super) interface: Option<u32>,
}

impl Came {
    /// Whether it came by the interface that has this name, which may have been made anew since the last.
    pub(super) fn by(&self, name: &str) -> bool {
        self.interface.is_some_and(|number| if_nametoindex(name) == Ok(number))
    }
}

/// A socket that says of all that comes by which interface.
pub(super) async fn bind(address: Ipv6Addr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((address, port)).await?;
    setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
    // What is as long as a packet may be is sent in one, or not at all.
    if let Err(error) = setsockopt(&socket, Ipv6DontFrag, &true) {
        tracing::debug!(%error, "long echoes may come in pieces");
    }
    Ok(socket)
}

/// Waits for the next. Who stops waiting loses none.
pub(super) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Came> {
    let take = || -> io::Result<Came> {
        let mut control = cmsg_space!(in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let taken = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
        let interface = taken.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info.ipi6_ifindex),
            _ => None,
        });
        let from = taken.address.map(SocketAddrV6::from).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Came { length: taken.bytes, from, interface })
    };
    socket.async_io(Interest::READABLE, take).await
}
