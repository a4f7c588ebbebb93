//! What can be found out from here by asking: whether a UDP port speaks QUIC, and whether a DNS server answers.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use kith_dns::ZoneName;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How long an answer may take, and how often is asked.
const PATIENCE: Duration = Duration::from_millis(700);
const ATTEMPTS: usize = 3;
/// A server answers a first datagram of at least this length only (RFC 9000, 14.1).
const FIRST: usize = 1200;
/// A version that is kept for nobody, so that any server names its own (RFC 9000, 6.3 and 15).
const NO_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// An answer.
    Answers,
    /// Nobody listens there.
    Refused,
    /// Nothing came back.
    Silent,
    /// Nothing can be sent there.
    Unreachable,
}

/// Whether something speaks QUIC at this address. It takes no certificate, and leaves nothing behind.
pub(super) async fn quic(address: SocketAddr) -> Probe {
    let mut datagram = vec![0xc0];
    datagram.extend(NO_VERSION);
    for id in [b"kith-doc", b"tor-asks"] {
        datagram.push(8);
        datagram.extend(id);
    }
    datagram.resize(FIRST, 0);
    // A negotiation of versions says version 0.
    ask(address, &datagram, |answer| answer.len() > 5 && answer[0] & 0x80 != 0 && answer[1..5] == [0; 4]).await
}

/// Whether a DNS server answers for this zone.
pub(super) async fn dns(address: SocketAddr, zone: Option<&ZoneName>) -> Probe {
    let mut question = vec![0x4b, 0x64, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let name = zone.map(ToString::to_string).unwrap_or_default();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        question.push(u8::try_from(label.len()).unwrap_or(0));
        question.extend(label.bytes());
    }
    // The root, SOA, IN.
    question.extend([0, 0, 6, 0, 1]);
    ask(address, &question, |answer| answer.len() > 4 && answer[..2] == question[..2] && answer[3] & 0x0f == 0).await
}

async fn ask(address: SocketAddr, datagram: &[u8], is_answer: impl Fn(&[u8]) -> bool) -> Probe {
    for _ in 0..ATTEMPTS {
        match timeout(PATIENCE, once(address, datagram, &is_answer)).await {
            Ok(Ok(())) => return Probe::Answers,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Probe::Refused,
            Ok(Err(_)) => return Probe::Unreachable,
            Err(_) => {}
        }
    }
    Probe::Silent
}

async fn once(address: SocketAddr, datagram: &[u8], is_answer: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    socket.send(datagram).await?;
    let mut buffer = [0; 2048];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if is_answer(&buffer[..length]) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_told_from_one_that_is_silent() {
        let quiet = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = quiet.local_addr().unwrap();
        assert_eq!(quic(address).await, Probe::Silent);
        drop(quiet);
        assert_eq!(dns(address, None).await, Probe::Refused);
    }
}
