//! Queries, parsed: only what an answer needs, without allocating, from any bytes.

use crate::cookie::Cookie;
use crate::name::{LABEL_MAX, NAME_MAX};
use crate::zone::rtype;

/// Length of a DNS header.
pub(crate) const HEADER: usize = 12;
/// EDNS option NSID (RFC 5001).
pub(crate) const OPTION_NSID: u16 = 3;
/// EDNS option COOKIE (RFC 7873).
pub(crate) const OPTION_COOKIE: u16 = 10;
/// EDNS option PADDING (RFC 7830).
pub(crate) const OPTION_PADDING: u16 = 12;
/// EDNS option "extended error" (RFC 8914).
pub(crate) const OPTION_EDE: u16 = 15;
/// The DO bit of EDNS flags (RFC 3225).
pub(crate) const DNSSEC_OK: u16 = 0x8000;

/// Response codes (RFC 1035 §4.1.1, RFC 6891 §9) that this server gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Rcode {
    /// No error.
    NoError = 0,
    /// The query cannot be understood.
    FormErr = 1,
    /// No answer can be given at this moment.
    ServFail = 2,
    /// The name does not exist.
    NxDomain = 3,
    /// The kind of query is not implemented.
    NotImp = 4,
    /// The server will not answer.
    Refused = 5,
    /// An EDNS version that is not known; needs OPT.
    BadVers = 16,
}

impl Rcode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Rcode; 7] = [
        Rcode::NoError,
        Rcode::FormErr,
        Rcode::ServFail,
        Rcode::NxDomain,
        Rcode::NotImp,
        Rcode::Refused,
        Rcode::BadVers,
    ];

    /// Its place in [`Rcode::ALL`].
    pub(crate) fn index(self) -> usize {
        match self {
            Rcode::BadVers => Self::ALL.len() - 1,
            other => other as usize,
        }
    }

    /// As people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rcode::NoError => "NOERROR",
            Rcode::FormErr => "FORMERR",
            Rcode::ServFail => "SERVFAIL",
            Rcode::NxDomain => "NXDOMAIN",
            Rcode::NotImp => "NOTIMP",
            Rcode::Refused => "REFUSED",
            Rcode::BadVers => "BADVERS",
        }
    }
}

/// One question, with all that the answer copies from it.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pub(crate) head: Head,
    /// The question as it came, letter case included.
    pub(crate) question: &'a [u8],
    pub(crate) name: QName,
    pub(crate) qtype: u16,
    pub(crate) qclass: u16,
    pub(crate) edns: Option<Edns>,
}

/// What every reply copies, also one that says FORMERR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) id: [u8; 2],
    /// Opcode and RD, in place.
    pub(crate) copied: u8,
    /// CD, in place.
    pub(crate) checking_disabled: u8,
}

impl Head {
    /// RD.
    pub(crate) fn wants_recursion(self) -> bool {
        self.copied & 1 != 0
    }
}

/// A question's name, lower-cased.
#[derive(Debug)]
pub(crate) struct QName {
    wire: [u8; NAME_MAX],
    len: usize,
    labels: [u8; NAME_MAX / 2],
    count: usize,
}

/// The OPT record of a query (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) payload: u16,
    pub(crate) version: u8,
    /// The DO bit, in place.
    pub(crate) dnssec_ok: u16,
    pub(crate) nsid: Nsid,
    pub(crate) cookie: Cookie,
    pub(crate) padding: Padding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nsid {
    Asked,
    NotAsked,
}

/// Whether the length of a message is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Padding {
    Asked,
    NotAsked,
}

/// Why a packet gets no proper answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reject {
    /// Nothing is sent: too short for a header, or itself a response (answering those makes loops).
    Drop,
    /// A bare header with this code.
    Reply(Head, Rcode),
}

/// Parses one message.
pub(crate) fn parse(packet: &[u8]) -> Result<Query<'_>, Reject> {
    let Some((header, body)) = packet.split_at_checked(HEADER) else { return Err(Reject::Drop) };
    if header[2] & 0x80 != 0 {
        return Err(Reject::Drop);
    }
    let head = Head { id: [header[0], header[1]], copied: header[2] & 0x79, checking_disabled: header[3] & 0x10 };
    match (header[2] >> 3) & 15 {
        0 => {}
        4 | 5 => return Err(Reject::Reply(head, Rcode::Refused)),
        _ => return Err(Reject::Reply(head, Rcode::NotImp)),
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    // One question, by RFC 9619.
    if count(4) != 1 {
        return Err(Reject::Reply(head, Rcode::FormErr));
    }
    let records = u32::from(count(6)) + u32::from(count(8));
    body_of(head, body, records, count(10)).ok_or(Reject::Reply(head, Rcode::FormErr))
}

/// Parses what is behind the header: `records` to be skipped and `additional` ones, among which OPT may be.
fn body_of(head: Head, body: &[u8], records: u32, additional: u16) -> Option<Query<'_>> {
    let (name, rest) = QName::parse(body)?;
    let (fixed, mut rest) = rest.split_at_checked(4)?;
    let question = &body[..body.len() - rest.len()];
    let mut edns = None;
    for index in 0..records + u32::from(additional) {
        let record = Record::parse(rest)?;
        rest = record.rest;
        if record.rtype == rtype::OPT {
            if index < records || !record.root || edns.is_some() {
                return None;
            }
            edns = Some(Edns::parse(&record)?);
        }
    }
    rest.is_empty().then_some(Query {
        head,
        question,
        name,
        qtype: u16::from_be_bytes([fixed[0], fixed[1]]),
        qclass: u16::from_be_bytes([fixed[2], fixed[3]]),
        edns,
    })
}

impl QName {
    /// Reads a name without compression, which a question has no use for.
    pub(crate) fn parse(body: &[u8]) -> Option<(Self, &[u8])> {
        let mut name = Self { wire: [0; NAME_MAX], len: 0, labels: [0; NAME_MAX / 2], count: 0 };
        loop {
            let length = usize::from(*body.get(name.len)?);
            let end = name.len + 1 + length;
            if length > LABEL_MAX || end > NAME_MAX {
                return None;
            }
            let source = body.get(name.len..end)?;
            let target = &mut name.wire[name.len..end];
            target.copy_from_slice(source);
            if length == 0 {
                name.len = end;
                return Some((name, &body[end..]));
            }
            target[1..].make_ascii_lowercase();
            *name.labels.get_mut(name.count)? = name.len as u8;
            name.count += 1;
            name.len = end;
        }
    }

    /// Lower-cased, with the closing zero.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire[..self.len]
    }

    /// Where labels begin, the closing zero not counted.
    pub(crate) fn labels(&self) -> &[u8] {
        &self.labels[..self.count]
    }
}

/// One record behind the question.
struct Record<'a> {
    root: bool,
    rtype: u16,
    class: u16,
    ttl: [u8; 4],
    rdata: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut at = 0;
        loop {
            match *bytes.get(at)? {
                0 => {
                    at += 1;
                    break;
                }
                length if length & 0xc0 == 0xc0 => {
                    at += 2;
                    break;
                }
                length if usize::from(length) <= LABEL_MAX => at += 1 + usize::from(length),
                _ => return None,
            }
        }
        let fixed = bytes.get(at..at + 10)?;
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let (rdata, rest) = bytes[at + 10..].split_at_checked(length)?;
        Some(Self {
            root: at == 1,
            rtype: u16::from_be_bytes([fixed[0], fixed[1]]),
            class: u16::from_be_bytes([fixed[2], fixed[3]]),
            ttl: [fixed[4], fixed[5], fixed[6], fixed[7]],
            rdata,
            rest,
        })
    }
}

impl Edns {
    fn parse(record: &Record<'_>) -> Option<Self> {
        let mut nsid = Nsid::NotAsked;
        let mut cookie = Cookie::None;
        let mut padding = Padding::NotAsked;
        let mut rest = record.rdata;
        while !rest.is_empty() {
            let (head, tail) = rest.split_at_checked(4)?;
            let (option, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes([head[2], head[3]])))?;
            match u16::from_be_bytes([head[0], head[1]]) {
                OPTION_NSID => nsid = Nsid::Asked,
                OPTION_PADDING => padding = Padding::Asked,
                // Of several the first counts (RFC 7873 §5.2).
                OPTION_COOKIE if cookie == Cookie::None => cookie = Cookie::parse(option)?,
                _ => {}
            }
            rest = tail;
        }
        let flags = u16::from_be_bytes([record.ttl[2], record.ttl[3]]);
        let dnssec_ok = flags & DNSSEC_OK;
        Some(Self { payload: record.class, version: record.ttl[1], dnssec_ok, nsid, cookie, padding })
    }
}
