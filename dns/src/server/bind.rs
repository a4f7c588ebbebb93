//! Binding: UDP and TCP on one port, or an error that names the address.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Tries for a port that is free for both, when any port will do. Each fails only when somebody takes the UDP port
/// between two system calls, or has it already.
const TRIES: u32 = 16;
/// Connections waiting to be accepted. Beyond it the kernel drops handshakes, which are repeated.
const BACKLOG: i32 = 512;
/// Receive buffer of a UDP socket in bytes: some 4,000 queries, 20 ms of a flood of 200,000 a second.
const UDP_BUFFER: usize = 1 << 20;

/// The sockets of one address.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) addr: SocketAddr,
    /// One for each worker; blocking.
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: TcpListener,
}

/// Binds the sockets of an address, for so many workers; must be called inside a runtime.
pub(crate) fn bind(addr: SocketAddr, threads: NonZeroUsize) -> io::Result<Bound> {
    let tries = if addr.port() == 0 { TRIES } else { 1 };
    let mut last = None;
    for _ in 0..tries {
        let tcp = tcp(addr)?;
        let chosen = tcp.local_addr()?;
        match udp(chosen, threads) {
            Ok(udp) => return Ok(Bound { addr: chosen, udp, tcp }),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// Binds a socket for streams; must be called inside a runtime.
pub(crate) fn tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(addr, Type::STREAM, Protocol::TCP)?;
    socket.set_nonblocking(true)?;
    // A restart must not wait for connections of the last run to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The kernel spreads askers over sockets that share an address (SO_REUSEPORT). The first one is bound alone, and shares
/// from then on: an address that any other process has is in use, whether that one would share it or not.
fn udp(addr: SocketAddr, threads: NonZeroUsize) -> io::Result<Vec<UdpSocket>> {
    (0..threads.get())
        .map(|index| {
            let socket = socket(addr, Type::DGRAM, Protocol::UDP)?;
            socket.set_recv_buffer_size(UDP_BUFFER)?;
            if index > 0 {
                socket.set_reuse_port(true)?;
            }
            socket.bind(&addr.into())?;
            socket.set_reuse_port(true)?;
            Ok(socket.into())
        })
        .collect()
}

fn socket(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    match addr {
        // A bridge that comes later, or is made anew, is served (IP_FREEBIND).
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(true)?;
        }
    }
    Ok(socket)
}
