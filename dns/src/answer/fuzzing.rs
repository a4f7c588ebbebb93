//! What must hold of a query and of its answer, whatever bytes come.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use hickory_proto::op::{Edns, Message, OpCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder, BinEncodable as _};

use super::{Asked, Cookies, Outcome, Rcode, Transport, answer};
use crate::query::{self, HEADER, QName, Query, Reject};
use crate::testing::{self, container, decode, metadata, nats, server, service};
use crate::zone::fixed::{FileState, Fixed, zone_of};
use crate::zone::{IN, Zone, rtype};
use crate::zonefile::Reader;

/// Names of every kind over the rows: aliases that lead away, on and in a circle, wildcards, a delegation.
const OVER: &str = "$ORIGIN internal.\n$TTL 30\n@ SOA a b 1 2 3 4 5\nmail MX 10 casa-api\nto CNAME away.example.\n\
    on CNAME casa-api\nto-none CNAME none\nring CNAME ring2\nring2 CNAME ring\n*.w TXT a\n*.w.w CNAME casa-api\n\
    cut NS ns.cut\nns.cut A 192.0.2.1\n_s._tcp SRV 1 2 3 casa-api\ns HTTPS 1 . alpn=h2\nlong TXT aaaaaaaaaaaaaaaaaaaaaaaa\n";

/// Of which every name gives the same code, unless it is an alias and that is asked for.
const TYPES: [u16; 7] = [rtype::A, rtype::AAAA, rtype::MX, rtype::TXT, rtype::SRV, rtype::HTTPS, 65_280];

/// A zone with a name of each kind.
static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let mut rows = vec![
        metadata("cluster_cidr", "10.210.0.0/16"),
        server("s1").set("wireguard_ip", "10.210.1.1").set("region", "ams"),
        server("s2").set("wireguard_ip", "10.210.1.2").set("region", "iad"),
        service("casa", "api").set("ports", r#"[{"name":"http","port":80}]"#),
        service("casa", "web"),
        nats("n1", "nats", "10.210.1.1").set("client_port", 4222).set("route_port", 6222),
    ];
    // So many that a datagram does not take them.
    rows.extend((0..90).map(|n| container(&format!("{n:012x}"), "casa/api", &format!("10.210.128.{n}"))));
    let zone = zone_of(&mut Reader::of(OVER.as_bytes()), &|origin| origin == b"\x08internal\0").expect("a good file");
    let fixed = Fixed::new(vec![FileState { path: "zone".into(), zone: Some(Arc::new(zone)), fault: None }]);
    testing::zone(rows).with_fixed(&fixed)
});

/// One byte of flags, then a message: both codecs agree on what a query is, and the answer to one can be read by the
/// other, is never longer than the asker takes, copies id and question, says TC if it is cut, has an SOA if it denies,
/// and has the code that every type of the name has.
pub(crate) fn query(bytes: &[u8]) {
    let Some((flags, packet)) = bytes.split_first() else { return };
    let transport = if flags & 1 != 0 { Transport::Tcp } else { Transport::Udp };
    let mut out = Vec::new();
    let outcome = ask(packet, transport, *flags, &mut out);
    let parsed = query::parse(packet);
    agree(packet, &parsed);
    let query = match parsed {
        Err(Reject::Drop) => {
            assert_eq!((outcome, out.len()), (Outcome::Drop, 0));
            return;
        }
        Err(Reject::Reply(_, rcode)) => {
            assert_eq!((&out[..2], out.len(), rcode_of(&out)), (&packet[..2], HEADER, rcode as u8));
            return;
        }
        Ok(query) => query,
    };
    let asked = Asked { query: packet, transport, source: source(*flags), turn: 0, cookies: COOKIES };
    assert!(out.len() <= asked.size(&query), "{} bytes of {}", out.len(), asked.size(&query));
    let read = decode(&out);
    assert_eq!(
        (&out[..2], out[2] & 0xf9, &out[HEADER..][..query.question.len()]),
        (&packet[..2], 0x80 | packet[2] & 0x79, query.question)
    );
    assert_eq!(read.edns.is_some(), query.edns.is_some(), "OPT");
    let rcode = rcode_of(&out);
    if rcode == Rcode::NxDomain as u8 && !read.metadata.truncation {
        assert!(read.authorities.iter().any(|record| record.record_type() == RecordType::SOA), "a denial without SOA");
    }
    ask(packet, Transport::Tcp, *flags, &mut out);
    let whole = decode(&out);
    let count = |message: &Message| message.answers.len() + message.authorities.len();
    assert!(read.metadata.truncation || count(&read) == count(&whole), "cut, and nothing says so");
    if query.qclass == IN && TYPES.contains(&query.qtype) {
        same_code(packet, &query, *flags);
    }
}

const COOKIES: Cookies = Cookies::new([7; 16]);

fn source(flags: u8) -> IpAddr {
    let from: [u8; 4] = if flags & 2 != 0 { [10, 210, 128, 3] } else { [192, 0, 2, 1] };
    from.into()
}

fn ask(packet: &[u8], transport: Transport, flags: u8, out: &mut Vec<u8>) -> Outcome {
    let asked =
        Asked { query: packet, transport, source: source(flags), turn: u32::from(flags >> 2), cookies: COOKIES };
    answer(&ZONE, &asked, out)
}

fn rcode_of(reply: &[u8]) -> u8 {
    reply[3] & 15
}

fn same_code(packet: &[u8], query: &Query<'_>, flags: u8) {
    let at = HEADER + query.name.wire().len();
    let mut out = Vec::new();
    let codes = TYPES.map(|rtype| {
        let mut packet = packet.to_vec();
        packet[at..at + 2].copy_from_slice(&rtype.to_be_bytes());
        ask(&packet, Transport::Tcp, flags, &mut out);
        rcode_of(&out)
    });
    assert!(codes.iter().all(|code| *code == codes[0]), "{codes:?}");
}

/// Compares what both codecs make of a message that has no records but perhaps one additional.
fn agree(packet: &[u8], ours: &Result<Query<'_>, Reject>) {
    let Some(header) = packet.get(..HEADER) else { return };
    if header[4..10] != [0, 1, 0, 0, 0, 0] || header[10] != 0 || header[11] > 1 {
        return;
    }
    let mut decoder = BinDecoder::new(packet);
    let theirs = Message::read(&mut decoder).ok().filter(|_| decoder.is_empty());
    match (ours, theirs) {
        (Ok(query), Some(message)) => same(query, &message),
        // RDATA of what is no OPT is nothing to us, and neither are most options.
        (Ok(_), None) => assert!(header[11] > 0, "malformed, and answered"),
        (Err(Reject::Reply(_, Rcode::FormErr)), Some(message)) => assert!(
            !is_plain(packet) || message.edns.as_ref().is_some_and(|edns| !has_sound_cookie(edns)),
            "refused as malformed: {message:?}"
        ),
        (Err(_), _) => {}
    }
}

fn same(query: &Query<'_>, message: &Message) {
    let theirs = &message.queries[0];
    let name = theirs.name().to_lowercase().to_bytes().expect("a name that was read");
    assert_eq!(query.name.wire(), name);
    assert_eq!((query.qtype, query.qclass), (theirs.query_type().into(), theirs.query_class().into()));
    assert_eq!(message.metadata.op_code, OpCode::Query);
    let edns = |edns: &Edns| (edns.max_payload(), edns.version(), edns.flags().dnssec_ok);
    let ours = query.edns.map(|edns| (edns.payload, edns.version, edns.dnssec_ok != 0));
    // The codec takes no payload below 512.
    let least = |(payload, version, dnssec_ok): (u16, u8, bool)| (payload.max(512), version, dnssec_ok);
    assert_eq!(ours.map(least), message.edns.as_ref().map(edns).map(least));
}

fn has_sound_cookie(edns: &Edns) -> bool {
    match edns.option(EdnsCode::Cookie) {
        Some(EdnsOption::Unknown(_, bytes)) => matches!(bytes.len(), 8 | 16..=40),
        _ => true,
    }
}

/// Whether the question's name is not compressed, for which it has no use, and a record behind it is at the root,
/// written as one byte, with options that fill its RDATA; the other codec takes what is left over for nothing.
fn is_plain(packet: &[u8]) -> bool {
    let behind = QName::parse(&packet[HEADER..]).and_then(|(_, rest)| rest.get(4..));
    let mut rest = match behind {
        None => return false,
        Some([]) => return true,
        Some([0, record @ ..]) => record.get(10..).unwrap_or_default(),
        Some(_) => return false,
    };
    while let Some((head, tail)) = rest.split_at_checked(4) {
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let Some(next) = tail.get(length..) else { return false };
        rest = next;
    }
    rest.is_empty()
}
