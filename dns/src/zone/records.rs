//! Records in wire form, ready to be copied behind a question.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::RRSET_MAX;
use crate::config::Ttl;
use crate::name;

/// Record types (RFC 1035 §3.2.2 and the registry) that mean something here.
pub(crate) mod rtype {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const MX: u16 = 15;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const DS: u16 = 43;
    pub(crate) const HTTPS: u16 = 65;
    pub(crate) const TKEY: u16 = 249;
    pub(crate) const TSIG: u16 = 250;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const MAILB: u16 = 253;
    pub(crate) const MAILA: u16 = 254;
    pub(crate) const ANY: u16 = 255;
}

/// Class IN.
pub(crate) const IN: u16 = 1;
/// Bytes before the RDATA of a record whose owner is a pointer.
pub(crate) const RR_HEAD: usize = 12;
/// Offset of RDLENGTH in such a record.
pub(crate) const RR_LENGTH: usize = 10;
/// Pointer to the question's name (RFC 1035 §4.1.4): the name begins right behind the 12 bytes of the header.
pub(crate) const TO_QUESTION: [u8; 2] = [0xc0, 0x0c];

/// Whether the RDATA is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// It is.
    Whole,
    /// It ends in a relative name; the origin of the zone that was asked follows (and counts in RDLENGTH).
    Origin,
}

/// One RRset: its records in wire form, one behind the other, each with [`TO_QUESTION`] as owner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RRset<'a> {
    pub(crate) rtype: u16,
    pub(crate) tail: Tail,
    count: u16,
    wire: &'a [u8],
}

impl<'a> RRset<'a> {
    /// So many whole records of this type.
    pub(super) fn new(rtype: u16, count: u16, wire: &'a [u8]) -> Self {
        Self { rtype, tail: Tail::Whole, count, wire }
    }

    /// The records, beginning with the one that `turn` points at, and all others after it.
    pub(crate) fn rotated(&self, turn: u32) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let index = (turn % u32::from(self.count.max(1))) as usize;
        // Addresses have one length, so where one begins is a product; others are walked.
        let first = match self.rtype {
            rtype::A => index * (RR_HEAD + 4),
            rtype::AAAA => index * (RR_HEAD + 16),
            _ => records(self.wire).take(index).map(<[u8]>::len).sum(),
        };
        let (before, after) = self.wire.split_at(first);
        records(after).chain(records(before))
    }

    /// The addresses of an A or AAAA set.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<'a> {
        let rtype = self.rtype;
        records(self.wire).filter_map(move |record| match rtype {
            rtype::A => record[RR_HEAD..].first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
            rtype::AAAA => record[RR_HEAD..].first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
            _ => None,
        })
    }

    /// Whether the answerer can rely on the form of it, wherever it was read from.
    fn is_sound(&self) -> bool {
        let (mut count, mut length) = (0, 0);
        let sound = records(self.wire).all(|record| {
            count += 1;
            length += record.len();
            match self.rtype {
                rtype::A => record.len() == RR_HEAD + 4,
                rtype::AAAA => record.len() == RR_HEAD + 16,
                // Priority, weight and port stand before the target.
                rtype::SRV => self.tail == Tail::Origin && record.get(RR_HEAD + 6..).is_some_and(name::is_relative),
                _ => true,
            }
        });
        sound && count == usize::from(self.count) && length == self.wire.len()
    }

    /// All records, in their order.
    pub(crate) fn wire(&self) -> &'a [u8] {
        self.wire
    }
}

/// The RRsets of one name, as [`push_set`] wrote them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sets<'a>(&'a [u8]);

/// Bytes before the records of a set: type (2), tail (1), a zero, number of records (2), two zeros, bytes of them (4).
const SET_HEAD: usize = 12;

impl<'a> Sets<'a> {
    /// Reads sets out of an entry.
    pub(crate) fn read(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether these are sets, whole, wherever they were read from.
    pub(crate) fn is_sound(&self) -> bool {
        let mut length = 0;
        let sound = self.iter().all(|set| {
            length += SET_HEAD + set.wire.len();
            set.is_sound()
        });
        sound && length == self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = RRset<'a>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_first_chunk::<SET_HEAD>()?;
            let number = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
            let len = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
            let (wire, tail) = tail.split_at_checked(len as usize)?;
            rest = tail;
            let kind = if head[2] == 0 { Tail::Whole } else { Tail::Origin };
            Some(RRset { rtype: number(0), tail: kind, count: number(4), wire })
        })
    }
}

/// Appends an A set, unless there is no address.
pub(crate) fn push_a(out: &mut Vec<u8>, addresses: impl Iterator<Item = Ipv4Addr>, ttl: Ttl) {
    push_set(out, rtype::A, Tail::Whole, ttl, addresses.map(|address| address.octets()));
}

/// Appends an AAAA set, unless there is no address.
pub(crate) fn push_aaaa(out: &mut Vec<u8>, addresses: impl Iterator<Item = Ipv6Addr>, ttl: Ttl) {
    push_set(out, rtype::AAAA, Tail::Whole, ttl, addresses.map(|address| address.octets()));
}

/// Appends any set, of RDATA in wire form, unless there is none. Equal records count once (RFC 2181 §5), at most
/// [`RRSET_MAX`] of them.
pub(crate) fn push_set<D: AsRef<[u8]>>(
    out: &mut Vec<u8>,
    rtype: u16,
    tail: Tail,
    ttl: Ttl,
    mut rdata: impl Iterator<Item = D>,
) {
    let Some(first) = rdata.next() else { return };
    let start = out.len();
    out.extend_from_slice(&[0; SET_HEAD]);
    let count = match rdata.next() {
        // Most names have one instance: no list to sort.
        None => {
            push_record(out, rtype, ttl.as_secs(), first.as_ref());
            1
        }
        Some(second) => {
            let mut all: Vec<D> = [first, second].into_iter().chain(rdata).collect();
            all.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
            all.dedup_by(|a, b| a.as_ref() == b.as_ref());
            all.truncate(RRSET_MAX);
            for data in &all {
                push_record(out, rtype, ttl.as_secs(), data.as_ref());
            }
            all.len() as u16
        }
    };
    let len = (out.len() - start - SET_HEAD) as u32;
    let head = &mut out[start..start + SET_HEAD];
    head[..2].copy_from_slice(&rtype.to_ne_bytes());
    head[2] = u8::from(tail == Tail::Origin);
    head[4..6].copy_from_slice(&count.to_ne_bytes());
    head[8..].copy_from_slice(&len.to_ne_bytes());
}

/// Cuts records with pointer owners apart.
fn records(wire: &[u8]) -> impl Iterator<Item = &[u8]> + use<'_> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let length = rest.get(RR_LENGTH..RR_HEAD)?;
        let end = RR_HEAD + usize::from(u16::from_be_bytes([length[0], length[1]]));
        let (record, tail) = rest.split_at_checked(end)?;
        rest = tail;
        Some(record)
    })
}

/// Appends one record whose owner is the question.
pub(super) fn push_record(wire: &mut Vec<u8>, rtype: u16, ttl: u32, rdata: &[u8]) {
    wire.extend_from_slice(&TO_QUESTION);
    wire.extend_from_slice(&rtype.to_be_bytes());
    wire.extend_from_slice(&IN.to_be_bytes());
    wire.extend_from_slice(&ttl.to_be_bytes());
    let length = u16::try_from(rdata.len()).expect("RDATA of a file is checked, a list is cut at 65,000 bytes");
    wire.extend_from_slice(&length.to_be_bytes());
    wire.extend_from_slice(rdata);
}
