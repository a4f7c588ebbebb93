//! DNS as a stranger speaks it: a UDP query by hickory's codec, which shares no code with our answers.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use nix::sched::{CloneFlags, setns};
use tokio::net::UdpSocket;

/// For one answer on loopback.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer, as far as the lab looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As `dig` writes it, upper case: NOERROR, NXDOMAIN, SERVFAIL.
    pub rcode: String,
    /// The addresses, sorted.
    pub addresses: Vec<IpAddr>,
    /// Whether a SOA record stands in the authority section, as on every negative answer.
    pub soa: bool,
}

/// A socket to ask from, in the namespace of this file, or in ours.
///
/// # Errors
/// When the namespace cannot be entered, or has no loopback address.
pub(super) fn socket(namespace: Option<&Path>) -> Result<std::net::UdpSocket, String> {
    opened(namespace, || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })
}

/// What `open` opens, in that network namespace.
///
/// # Errors
/// When the namespace cannot be entered, or with what `open` says.
pub(super) fn opened<T: Send + 'static>(
    namespace: Option<&Path>,
    open: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let namespace = namespace.map(File::open).transpose().map_err(|e| e.to_string())?;
    // A thread is in a namespace until it ends; what it has opened stays there.
    let opened = std::thread::spawn(move || {
        namespace.map_or(Ok(()), |file| setns(file, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from))?;
        open()
    });
    opened.join().map_err(|_| "the thread that opens panicked".to_owned())?.map_err(|e| e.to_string())
}

/// Asks `server` for the addresses of `name`.
///
/// # Errors
/// When there is no answer within 2 s, or none that can be read.
///
/// # Panics
/// If `name` is no name.
pub async fn resolve(server: SocketAddr, name: &str) -> Result<Answer, String> {
    resolve_from(socket(None)?, server, name).await
}

/// The same, from this socket.
pub(super) async fn resolve_from(from: std::net::UdpSocket, server: SocketAddr, name: &str) -> Result<Answer, String> {
    let mut question = Message::new(0x6b69, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(
        Name::from_ascii(format!("{name}.")).expect("the test asks for a name"),
        RecordType::A,
    ));
    let bytes = question.to_vec().expect("a question fits");
    let reply = exchange_from(from, server, &bytes).await?.ok_or("no answer")?;
    let message = Message::from_vec(&reply).map_err(|e| format!("unreadable answer: {e}"))?;
    let mut addresses: Vec<IpAddr> = message.answers.iter().filter_map(|r| r.data.ip_addr()).collect();
    addresses.sort();
    let soa = message.authorities.iter().any(|r| matches!(r.data, RData::SOA(_)));
    Ok(Answer { rcode: format!("{:?}", message.metadata.response_code).to_uppercase(), addresses, soa })
}

/// Sends `packet` as it is and returns what comes back, or nothing within 2 s.
///
/// # Errors
/// When the packet cannot be sent, or nobody listens.
pub async fn exchange(server: SocketAddr, packet: &[u8]) -> Result<Option<Vec<u8>>, String> {
    exchange_from(socket(None)?, server, packet).await
}

async fn exchange_from(
    from: std::net::UdpSocket,
    server: SocketAddr,
    packet: &[u8],
) -> Result<Option<Vec<u8>>, String> {
    let said = |e: std::io::Error| e.to_string();
    let socket = UdpSocket::from_std(from).map_err(said)?;
    socket.connect(server).await.map_err(said)?;
    socket.send(packet).await.map_err(said)?;
    let mut buffer = vec![0; 65_535];
    match tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await {
        Err(_) => Ok(None),
        Ok(received) => Ok(Some(buffer[..received.map_err(said)?].to_vec())),
    }
}
