//! A reply under construction: never longer than its limit, whole records only.

use crate::config::Ttl;
use crate::cookie::BOTH;
use crate::query::{
    Edns, HEADER, Head, Nsid, OPTION_COOKIE, OPTION_EDE, OPTION_NSID, OPTION_PADDING, Padding, Query, Rcode,
};
use crate::zone::{IN, RR_HEAD, RR_LENGTH, TO_QUESTION, Tail, rtype};

/// The UDP payload that we offer and never exceed: fits the smallest IPv6 MTU, so that nothing is ever fragmented.
pub(crate) const PAYLOAD: u16 = 1232;
/// Longest node id told as NSID: a name's length, so that OPT leaves the answer its room.
const NSID_MAX: usize = 63;
/// Padded replies are a multiple of this long (RFC 8467 §4.1).
const BLOCK: usize = 468;
/// Bytes of an OPT record without options.
const OPT_HEAD: usize = 11;

/// Extended errors (RFC 8914 §4) that this server gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ede {
    StaleAnswer = 3,
    NotReady = 14,
    Blocked = 15,
    Prohibited = 18,
    StaleNxDomain = 19,
    NetworkError = 23,
}

impl Ede {
    const ALL: [Ede; 6] =
        [Ede::StaleAnswer, Ede::NotReady, Ede::Blocked, Ede::Prohibited, Ede::StaleNxDomain, Ede::NetworkError];

    /// The one that is among these EDNS options.
    pub(crate) fn read(mut options: &[u8]) -> Option<Self> {
        while let Some((head, tail)) = options.split_at_checked(4) {
            let (option, rest) = tail.split_at_checked(usize::from(u16::from_be_bytes([head[2], head[3]])))?;
            if head[..2] == OPTION_EDE.to_be_bytes() {
                let code = u16::from_be_bytes(*option.first_chunk()?);
                return Self::ALL.into_iter().find(|ede| *ede as u16 == code);
            }
            options = rest;
        }
        None
    }
}

/// Sections that records go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer = 0,
    Authority = 1,
    Additional = 2,
}

/// Whether a record found room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Left,
    None,
}

pub(crate) struct Message<'o> {
    out: &'o mut Vec<u8>,
    /// Most bytes before OPT.
    limit: usize,
    counts: [u16; 3],
    truncated: u8,
    /// Offset of the name that records are about: the question's, later that of an alias's target.
    subject: u16,
}

impl<'o> Message<'o> {
    /// Begins a reply to `query`, of at most `size` bytes with everything, in an emptied `out`.
    pub(crate) fn new(out: &'o mut Vec<u8>, query: &Query<'_>, size: usize, opt: Option<&Opt<'_>>) -> Self {
        out.clear();
        out.extend_from_slice(&query.head.id);
        out.extend_from_slice(&[0; HEADER - 2]);
        out.extend_from_slice(query.question);
        let limit = size - opt.map_or(0, Opt::len);
        Self { out, limit, counts: [0; 3], truncated: 0, subject: HEADER as u16 }
    }

    /// Where the next record begins.
    pub(crate) fn position(&self) -> usize {
        self.out.len()
    }

    /// What was written from there on.
    pub(crate) fn written(&self, from: usize) -> &[u8] {
        &self.out[from..]
    }

    /// Whether so many bytes would fit.
    pub(crate) fn fits(&self, bytes: usize) -> Room {
        if self.out.len() + bytes <= self.limit { Room::Left } else { Room::None }
    }

    /// From here on, records are about the name that stands at this offset.
    pub(crate) fn turn_to(&mut self, subject: u16) {
        self.subject = subject;
    }

    /// Offset of the name that records are about.
    pub(crate) fn subject(&self) -> u16 {
        self.subject
    }

    /// Appends a record whose owner is a pointer; `origin` completes one that ends in a relative name.
    pub(crate) fn push(&mut self, section: Section, record: &[u8], tail: Tail, origin: &[u8]) -> Room {
        let extra = match tail {
            Tail::Whole => &[][..],
            Tail::Origin => origin,
        };
        if self.fits(record.len() + extra.len()) == Room::None {
            return Room::None;
        }
        let start = self.out.len();
        self.out.extend_from_slice(record);
        if usize::from(self.subject) != HEADER {
            self.point(start, self.subject);
        }
        if !extra.is_empty() {
            self.out.extend_from_slice(extra);
            let at = start + RR_LENGTH;
            let length = u16::from_be_bytes([self.out[at], self.out[at + 1]]) + extra.len() as u16;
            self.out[at..at + 2].copy_from_slice(&length.to_be_bytes());
        }
        self.counts[section as usize] += 1;
        Room::Left
    }

    /// Replaces the two bytes at `at`, such as the owner of a record, by a pointer to `target`.
    pub(crate) fn point(&mut self, at: usize, target: u16) {
        self.out[at..at + 2].copy_from_slice(&(0xc000 | target).to_be_bytes());
    }

    /// Replaces the four bytes at `at` by a number.
    pub(crate) fn put(&mut self, at: usize, number: u32) {
        self.out[at..at + 4].copy_from_slice(&number.to_be_bytes());
    }

    /// Says that the answer is longer than this.
    pub(crate) fn truncate(&mut self) {
        self.truncated = 0x02;
    }

    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated != 0
    }

    /// Writes the header's rest and OPT. `authoritative`: AA.
    pub(crate) fn finish(self, head: Head, rcode: Rcode, authority: Authority, opt: Option<&Opt<'_>>) {
        let aa = match authority {
            Authority::Ours => 0x04,
            Authority::None => 0,
        };
        self.out[2] = 0x80 | head.copied | aa | self.truncated;
        self.out[3] = head.checking_disabled | (rcode as u16 & 15) as u8;
        self.out[5] = 1;
        let [answers, authorities, mut additionals] = self.counts;
        if let Some(opt) = opt {
            opt.write(self.out, rcode);
            additionals += 1;
        }
        for (at, count) in [(6, answers), (8, authorities), (10, additionals)] {
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// Whether the answer is from a zone of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authority {
    Ours,
    None,
}

/// A bare header: all that can be said to what is no query.
pub(crate) fn bare(out: &mut Vec<u8>, head: Head, rcode: Rcode) {
    out.clear();
    out.extend_from_slice(&head.id);
    out.extend_from_slice(&[0x80 | head.copied, head.checking_disabled | (rcode as u16 & 15) as u8]);
    out.extend_from_slice(&[0; 8]);
}

/// Whether a reply has all that belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    Cut,
}

/// Completes a forwarded reply, of which `out` has everything between the header and OPT; `counts` are its records in
/// the answer and in the authority section. RA is set: it was recursed for.
pub(crate) fn forwarded(
    out: &mut Vec<u8>,
    head: Head,
    rcode: Rcode,
    extent: Extent,
    counts: [u16; 2],
    opt: Option<&Opt<'_>>,
) {
    let cut = match extent {
        Extent::Whole => 0,
        Extent::Cut => 0x02,
    };
    out[..2].copy_from_slice(&head.id);
    out[2] = 0x80 | head.copied | cut;
    out[3] = 0x80 | head.checking_disabled | (rcode as u16 & 15) as u8;
    let [answers, authorities] = counts;
    let additionals = u16::from(opt.is_some());
    for (at, count) in [(4, 1), (6, answers), (8, authorities), (10, additionals)] {
        out[at..at + 2].copy_from_slice(&u16::to_be_bytes(count));
    }
    if let Some(opt) = opt {
        opt.write(out, rcode);
    }
}

/// Marks a reply as one that begins with our word (RFC 1035 §4.1.1: AA is about the first name of the answer).
pub(crate) fn set_authoritative(out: &mut [u8]) {
    out[2] |= 0x04;
}

/// Says that whoever is told this may ask for names of others (RFC 1035 §4.1.1: RA).
pub(crate) fn set_recursion_available(out: &mut [u8]) {
    out[3] |= 0x80;
}

/// The OPT record of a reply.
pub(crate) struct Opt<'a> {
    dnssec_ok: u16,
    nsid: Option<&'a [u8]>,
    cookie: Option<[u8; BOTH]>,
    pub(crate) ede: Option<Ede>,
    padding: Padding,
}

impl<'a> Opt<'a> {
    /// The reply's OPT for that of a query. Its length is settled here: `ede` may be changed, not added, later.
    pub(crate) fn of(edns: &Edns, server: &'a str, ede: Option<Ede>) -> Self {
        let nsid = match edns.nsid {
            Nsid::Asked => Some(&server.as_bytes()[..server.len().min(NSID_MAX)]),
            Nsid::NotAsked => None,
        };
        Self { dnssec_ok: edns.dnssec_ok, nsid, cookie: None, ede, padding: Padding::NotAsked }
    }

    /// The same with this cookie.
    pub(crate) fn with(self, cookie: Option<[u8; BOTH]>) -> Self {
        Self { cookie, ..self }
    }

    /// The same, which fills its message up to a whole block.
    pub(crate) fn padded(self) -> Self {
        Self { padding: Padding::Asked, ..self }
    }

    /// The bytes that it takes at most.
    pub(crate) fn len(&self) -> usize {
        let padding = match self.padding {
            Padding::Asked => 4 + BLOCK - 1,
            Padding::NotAsked => 0,
        };
        OPT_HEAD + self.rdata_len() + padding
    }

    /// Without the padding.
    fn rdata_len(&self) -> usize {
        self.nsid.map_or(0, |nsid| 4 + nsid.len()) + self.cookie.map_or(0, |_| 4 + BOTH) + self.ede.map_or(0, |_| 6)
    }

    fn write(&self, out: &mut Vec<u8>, rcode: Rcode) {
        let mut length = self.rdata_len();
        let padding = match self.padding {
            Padding::Asked => {
                length += 4;
                let whole = out.len() + OPT_HEAD + length;
                let filling = whole.next_multiple_of(BLOCK) - whole;
                length += filling;
                Some(filling)
            }
            Padding::NotAsked => None,
        };
        out.push(0);
        out.extend_from_slice(&rtype::OPT.to_be_bytes());
        out.extend_from_slice(&PAYLOAD.to_be_bytes());
        out.extend_from_slice(&[(rcode as u16 >> 4) as u8, 0]);
        out.extend_from_slice(&self.dnssec_ok.to_be_bytes());
        out.extend_from_slice(&(length as u16).to_be_bytes());
        if let Some(nsid) = self.nsid {
            out.extend_from_slice(&OPTION_NSID.to_be_bytes());
            out.extend_from_slice(&(nsid.len() as u16).to_be_bytes());
            out.extend_from_slice(nsid);
        }
        if let Some(cookie) = self.cookie {
            out.extend_from_slice(&OPTION_COOKIE.to_be_bytes());
            out.extend_from_slice(&(BOTH as u16).to_be_bytes());
            out.extend_from_slice(&cookie);
        }
        if let Some(ede) = self.ede {
            out.extend_from_slice(&OPTION_EDE.to_be_bytes());
            out.extend_from_slice(&2_u16.to_be_bytes());
            out.extend_from_slice(&(ede as u16).to_be_bytes());
        }
        if let Some(filling) = padding {
            out.extend_from_slice(&OPTION_PADDING.to_be_bytes());
            out.extend_from_slice(&(filling as u16).to_be_bytes());
            out.resize(out.len() + filling, 0);
        }
    }
}

/// One record on the stack, whose owner is the question.
pub(crate) struct Record<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Record<N> {
    /// Of class IN.
    pub(crate) fn new(rtype: u16, ttl: Ttl, rdata: &[u8]) -> Self {
        Self::of_class(IN, rtype, ttl.as_secs(), rdata)
    }

    pub(crate) fn of_class(class: u16, rtype: u16, ttl: u32, rdata: &[u8]) -> Self {
        let len = RR_HEAD + rdata.len();
        let mut bytes = [0; N];
        bytes[..2].copy_from_slice(&TO_QUESTION);
        bytes[2..4].copy_from_slice(&rtype.to_be_bytes());
        bytes[4..6].copy_from_slice(&class.to_be_bytes());
        bytes[6..10].copy_from_slice(&ttl.to_be_bytes());
        bytes[10..12].copy_from_slice(&(rdata.len() as u16).to_be_bytes());
        bytes[RR_HEAD..len].copy_from_slice(rdata);
        Self { bytes, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
