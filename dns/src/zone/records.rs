//! Records in wire form, ready to be copied behind a question.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::RRSET_MAX;
use crate::config::Ttl;

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

/// One RRset: where its records are, one behind the other, each with [`TO_QUESTION`] as owner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RRset {
    pub(crate) rtype: u16,
    pub(crate) tail: Tail,
    count: u16,
    start: u32,
    len: u32,
}

/// The RRsets of one name: at most an A and an AAAA, or one of another type.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sets([Option<RRset>; 2]);

impl Sets {
    pub(crate) fn of(first: Option<RRset>, second: Option<RRset>) -> Self {
        Self([first, second])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &RRset> {
        self.0.iter().flatten()
    }
}

impl From<Option<RRset>> for Sets {
    fn from(set: Option<RRset>) -> Self {
        Self([set, None])
    }
}

/// All records of a zone in one piece of memory, so that building and dropping a zone is not a million allocations.
/// Names that have the same records share them.
#[derive(Debug, Default)]
pub(crate) struct Wire(Vec<u8>);

impl Wire {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// An A set; `None` when there is no address.
    pub(crate) fn a(&mut self, addresses: impl Iterator<Item = Ipv4Addr>, ttl: Ttl) -> Option<RRset> {
        self.set(rtype::A, Tail::Whole, ttl, addresses.map(|address| address.octets()))
    }

    /// An AAAA set; `None` when there is no address.
    pub(crate) fn aaaa(&mut self, addresses: impl Iterator<Item = Ipv6Addr>, ttl: Ttl) -> Option<RRset> {
        self.set(rtype::AAAA, Tail::Whole, ttl, addresses.map(|address| address.octets()))
    }

    /// Any set, of RDATA in wire form. Equal records count once (RFC 2181 §5), at most [`RRSET_MAX`] of them.
    pub(crate) fn set<D: AsRef<[u8]>>(
        &mut self,
        rtype: u16,
        tail: Tail,
        ttl: Ttl,
        mut rdata: impl Iterator<Item = D>,
    ) -> Option<RRset> {
        // Offsets are of 32 bits: beyond 4 GiB, a hundred million records, a name has no data.
        let start = u32::try_from(self.0.len()).ok()?;
        let first = rdata.next()?;
        let count = match rdata.next() {
            // Most names have one instance: no list to sort.
            None => {
                push_record(&mut self.0, rtype, ttl, first.as_ref());
                1
            }
            Some(second) => {
                let mut all: Vec<D> = [first, second].into_iter().chain(rdata).collect();
                all.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
                all.dedup_by(|a, b| a.as_ref() == b.as_ref());
                all.truncate(RRSET_MAX);
                for data in &all {
                    push_record(&mut self.0, rtype, ttl, data.as_ref());
                }
                u16::try_from(all.len()).expect("at most RRSET_MAX records")
            }
        };
        let len = u32::try_from(self.0.len() - start as usize).ok()?;
        Some(RRset { rtype, tail, count, start, len })
    }

    /// The records of a set, beginning with the one that `turn` points at, and all others after it.
    pub(crate) fn rotated(&self, set: &RRset, turn: u32) -> impl Iterator<Item = &[u8]> {
        let wire = self.all(set);
        let index = (turn % u32::from(set.count)) as usize;
        // Addresses have one length, so where one begins is a product; others are walked.
        let first = match set.rtype {
            rtype::A => index * (RR_HEAD + 4),
            rtype::AAAA => index * (RR_HEAD + 16),
            _ => records(wire).take(index).map(<[u8]>::len).sum(),
        };
        let (before, after) = wire.split_at(first);
        records(after).chain(records(before))
    }

    /// All records of a set.
    pub(crate) fn all(&self, set: &RRset) -> &[u8] {
        &self.0[set.start as usize..][..set.len as usize]
    }
}

/// Cuts records with pointer owners apart.
fn records(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
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
fn push_record(wire: &mut Vec<u8>, rtype: u16, ttl: Ttl, rdata: &[u8]) {
    wire.extend_from_slice(&TO_QUESTION);
    wire.extend_from_slice(&rtype.to_be_bytes());
    wire.extend_from_slice(&IN.to_be_bytes());
    wire.extend_from_slice(&ttl.as_secs().to_be_bytes());
    let length = u16::try_from(rdata.len()).expect("RDATA is a name, an address or a list cut at 65,000 bytes");
    wire.extend_from_slice(&length.to_be_bytes());
    wire.extend_from_slice(rdata);
}
