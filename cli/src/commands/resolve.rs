//! `kith resolve`: a question over UDP, over TCP if the answer was cut, printed as `dig` prints it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, Record, RecordType};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::value::printable;
use crate::args::Resolve;
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// The server of most hosts that run us.
const DEFAULT_SERVER: &str = "127.0.0.1:53";
/// How long an answer may take, and how often it is asked for. A container's resolver is not more patient.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 3;
/// The size of answer that we take over UDP, which passes every path unfragmented (as does the server's).
const UDP_SIZE: u16 = 1232;
/// EDE, RFC 8914.
const EXTENDED_ERROR: u16 = 15;

/// An answer, and how it came.
struct Answer {
    message: Message,
    transport: &'static str,
    took: Duration,
    size: usize,
}

/// Asks and prints.
pub(crate) async fn run(args: &Resolve) -> Result<(), Failure> {
    let query = question(args)?;
    let server = server(args)?;
    let answer = ask(server, &query).await?;
    let mut out = Out::new();
    if args.output.json {
        out.json(&as_json(server, &answer))?;
    } else {
        lines(server, &answer).into_iter().try_for_each(|line| out.line(line))?;
    }
    match answer.message.metadata.response_code {
        ResponseCode::NoError => Ok(()),
        _ => Err(Failure::quiet(Exit::Failed)),
    }
}

fn question(args: &Resolve) -> Result<Query, Failure> {
    let wrong = |what: String| Failure::message(Exit::Usage, what);
    if args.reverse {
        let address: IpAddr = args.name.parse().map_err(|_| wrong(format!("`{}` is not an address", args.name)))?;
        return Ok(Query::query(Name::from(address), RecordType::PTR));
    }
    let mut name = Name::from_str(&args.name).map_err(|e| wrong(format!("`{}` is not a name: {e}", args.name)))?;
    name.set_fqdn(true);
    let kind = RecordType::from_str(&args.record_type.to_uppercase())
        .map_err(|_| wrong(format!("`{}` is not a record type", args.record_type)))?;
    Ok(Query::query(name, kind))
}

fn server(args: &Resolve) -> Result<SocketAddr, Failure> {
    let text = args.server.clone().or_else(|| std::env::var("KITH_RESOLVER").ok());
    let text = text.as_deref().unwrap_or(DEFAULT_SERVER);
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, 53).into()))
        .map_err(|_| Failure::message(Exit::Usage, format!("`{text}` is not ADDRESS or ADDRESS:PORT")))
}

async fn ask(server: SocketAddr, query: &Query) -> Result<Answer, Failure> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_SIZE).set_version(0);
    request.set_edns(edns);
    let bytes = request.to_vec().map_err(|e| Failure::new(Exit::Failed, e).context("cannot write the question"))?;
    let failed = |e: std::io::Error| {
        Failure::new(Exit::Unavailable, e)
            .context(format!("no answer from {server}"))
            .hint("name another server with --server ADDR; `kith dev` answers on 127.0.0.1:5300")
    };
    let begun = Instant::now();
    let mut reply = over_udp(server, &request, &bytes).await.map_err(failed)?;
    let mut transport = "UDP";
    if reply.0.metadata.truncation {
        reply = timeout(PATIENCE, over_tcp(server, &request, &bytes))
            .await
            .unwrap_or_else(|_| Err(silent()))
            .map_err(failed)?;
        transport = "TCP";
    }
    Ok(Answer { message: reply.0, transport, took: begun.elapsed(), size: reply.1 })
}

fn silent() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, format!("silent for {} s", PATIENCE.as_secs()))
}

async fn over_udp(server: SocketAddr, request: &Message, bytes: &[u8]) -> std::io::Result<(Message, usize)> {
    let local: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    for _ in 0..ATTEMPTS {
        socket.send(bytes).await?;
        let until = Instant::now() + PATIENCE;
        // Whatever is not the answer to this question is passed over, without giving it more time.
        while let Ok(received) = tokio::time::timeout_at(until, socket.recv(&mut buffer)).await {
            let size = received?;
            if let Ok(reply) = Message::from_vec(&buffer[..size])
                && answers(&reply, request)
            {
                return Ok((reply, size));
            }
        }
    }
    Err(silent())
}

async fn over_tcp(server: SocketAddr, request: &Message, bytes: &[u8]) -> std::io::Result<(Message, usize)> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let size = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(size)];
    stream.read_exact(&mut buffer).await?;
    let reply = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
    if answers(&reply, request) {
        Ok((reply, buffer.len()))
    } else {
        Err(std::io::Error::other("the answer is to another question"))
    }
}

fn answers(reply: &Message, request: &Message) -> bool {
    // A FORMERR may come without the question.
    let same = reply.queries == request.queries || reply.queries.is_empty();
    reply.metadata.id == request.metadata.id && reply.metadata.message_type == MessageType::Response && same
}

/// The names of RFC 1035 and its successors, as people know them.
fn rcode(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => format!("RCODE{}", u16::from(other)),
    }
}

fn flags(message: &Message) -> Vec<&'static str> {
    let meta = &message.metadata;
    [
        (true, "qr"),
        (meta.authoritative, "aa"),
        (meta.truncation, "tc"),
        (meta.recursion_desired, "rd"),
        (meta.recursion_available, "ra"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect()
}

/// Extended errors: the code, and its text if there is one.
fn extended_errors(message: &Message) -> Vec<(u16, String)> {
    let options = message.edns.iter().flat_map(|edns| edns.options().as_ref());
    options
        .filter_map(|(_, option)| match option {
            EdnsOption::Unknown(EXTENDED_ERROR, bytes) if bytes.len() >= 2 => {
                let text = String::from_utf8_lossy(&bytes[2..]);
                Some((u16::from_be_bytes([bytes[0], bytes[1]]), printable(&text)))
            }
            _ => None,
        })
        .collect()
}

fn lines(server: SocketAddr, answer: &Answer) -> Vec<String> {
    let message = &answer.message;
    let status = rcode(message.metadata.response_code);
    let mut lines = vec![format!(";; {status}, flags: {}, id: {}", flags(message).join(" "), message.metadata.id)];
    for (code, text) in extended_errors(message) {
        lines.push(format!(";; EDE {code} {text}").trim_end().to_owned());
    }
    for query in &message.queries {
        lines.push(format!(";{} {} {}", query.name(), query.query_class(), query.query_type()));
    }
    let sections =
        [("answer", &message.answers), ("authority", &message.authorities), ("additional", &message.additionals)];
    for (title, records) in sections {
        if !records.is_empty() {
            lines.push(format!("\n;; {title}"));
            lines.extend(records.iter().map(|record| printable(&record.to_string())));
        }
    }
    let took = answer.took.as_secs_f64() * 1000.0;
    lines.push(format!("\n;; {server} over {}, {took:.1} ms, {} bytes", answer.transport, answer.size));
    lines
}

fn as_json(server: SocketAddr, answer: &Answer) -> serde_json::Value {
    let record = |record: &Record| {
        json!({
            "name": record.name.to_string(),
            "ttl": record.ttl,
            "type": record.record_type().to_string(),
            "value": record.data.to_string(),
        })
    };
    let section = |records: &[Record]| records.iter().map(record).collect::<Vec<_>>();
    let message = &answer.message;
    let errors = extended_errors(message);
    json!({
        "rcode": rcode(message.metadata.response_code),
        "flags": flags(message),
        "answers": section(&message.answers),
        "authorities": section(&message.authorities),
        "additionals": section(&message.additionals),
        "extended_errors": errors.iter().map(|(code, text)| json!({ "code": code, "text": text })).collect::<Vec<_>>(),
        "server": server.to_string(),
        "transport": answer.transport,
        "ms": answer.took.as_secs_f64() * 1000.0,
    })
}
