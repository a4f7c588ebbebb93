//! DNS as a stranger speaks it: a UDP query by hickory's codec, which shares no code with our answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
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

/// Asks `server` for the addresses of `name`.
///
/// # Errors
/// When there is no answer within 2 s, or none that can be read.
///
/// # Panics
/// If `name` is no name.
pub async fn resolve(server: SocketAddr, name: &str) -> Result<Answer, String> {
    let mut question = Message::new(0x6b69, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(
        Name::from_ascii(format!("{name}.")).expect("the test asks for a name"),
        RecordType::A,
    ));
    let bytes = question.to_vec().expect("a question fits");
    let reply = exchange(server, &bytes).await?.ok_or("no answer")?;
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
    let said = |e: std::io::Error| e.to_string();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(said)?;
    socket.connect(server).await.map_err(said)?;
    socket.send(packet).await.map_err(said)?;
    let mut buffer = vec![0; 65_535];
    match tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await {
        Err(_) => Ok(None),
        Ok(received) => Ok(Some(buffer[..received.map_err(said)?].to_vec())),
    }
}
