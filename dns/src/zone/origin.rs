//! Origins: the names at which our zones begin, with what stands at their apex.

use super::records::{RR_HEAD, TO_QUESTION, push_record, rtype};
use crate::config::Ttl;

/// One zone of ours.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Lower-cased, with the closing zero.
    wire: Box<[u8]>,
    owner: Owner,
    /// RDATA of the NS record, in full; `None`: the zone's file has them.
    name_server: Option<Box<[u8]>>,
    ttl: Ttl,
    /// `None`: this is only laid over a zone that is served anyway.
    soa: Option<Soa>,
}

/// Whose a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The zone's with this place in the configuration.
    Forward(usize),
    /// A reverse zone's.
    Reverse,
    /// A zone's that is in a file alone.
    File,
    /// In no zone of ours.
    Nobody,
}

/// Seconds of refresh, retry and expire in every SOA of our own making. Nothing transfers these zones, so that they only
/// have to look sane to a checker (RIPE-203's order: refresh > retry, expire far above both).
const SOA_TIMERS: [u32; 3] = [3600, 600, 86_400];

impl Origin {
    /// A zone of names, whose name server is the answering server itself, `local.node`.
    pub(crate) fn forward(place: usize, wire: &[u8], ttl: Ttl, negative_ttl: Ttl) -> Self {
        Self::made(Owner::Forward(place), wire, wire, (ttl, negative_ttl))
    }

    /// A zone of addresses, served by `local.node` of the first zone of names.
    pub(crate) fn reverse(wire: &[u8], first: &[u8], ttl: Ttl, negative_ttl: Ttl) -> Self {
        Self::made(Owner::Reverse, wire, first, (ttl, negative_ttl))
    }

    /// A zone that is in a file.
    pub(crate) fn fixed(wire: &[u8], soa: Option<Soa>) -> Self {
        Self { wire: wire.into(), owner: Owner::File, name_server: None, ttl: Ttl::DEFAULT, soa }
    }

    fn made(owner: Owner, wire: &[u8], served_by: &[u8], (ttl, negative_ttl): (Ttl, Ttl)) -> Self {
        let name_server = Some([LOCAL_NODE, served_by].concat().into());
        Self { wire: wire.into(), owner, name_server, ttl, soa: Some(Soa::made(wire, negative_ttl)) }
    }

    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    pub(crate) fn name_server(&self) -> Option<&[u8]> {
        self.name_server.as_deref()
    }

    pub(crate) fn ttl(&self) -> Ttl {
        self.ttl
    }

    pub(crate) fn soa(&self) -> Option<&Soa> {
        self.soa.as_ref()
    }
}

/// The SOA of a zone, as two whole records: one to answer with, one for negative answers.
#[derive(Debug)]
pub(crate) struct Soa {
    answer: Box<[u8]>,
    negative: Box<[u8]>,
    /// Where in both a pointer to the zone's own name belongs: the owner, and names that end in it.
    pointers: Box<[u16]>,
}

impl Soa {
    /// MNAME is the zone itself, as RFC 6303 §3 has it for zones that exist everywhere at once, and RNAME
    /// `nobody.invalid`. The serial number is put in when it is sent. The TTL of a negative answer is also its MINIMUM, so that a cache keeps it exactly this long.
    fn made(apex: &[u8], negative_ttl: Ttl) -> Self {
        let seconds = negative_ttl.as_secs();
        let mut numbers = [0; 20];
        for (index, number) in [0, SOA_TIMERS[0], SOA_TIMERS[1], SOA_TIMERS[2], seconds].into_iter().enumerate() {
            numbers[4 * index..4 * index + 4].copy_from_slice(&number.to_be_bytes());
        }
        Self::of(apex, apex, b"\x06nobody\x07invalid\0", &numbers, seconds)
    }

    /// That of a file. `None`: these bytes are no SOA.
    pub(crate) fn read(apex: &[u8], rdata: &[u8], ttl: u32) -> Option<Self> {
        let (server, rest) = rdata.split_at_checked(name_length(rdata)?)?;
        let (person, numbers) = rest.split_at_checked(name_length(rest)?)?;
        Some(Self::of(apex, server, person, numbers.try_into().ok()?, ttl))
    }

    /// Names end in a pointer to the apex where they can, so that a negative answer fits into 512 bytes whatever was asked.
    fn of(apex: &[u8], server: &[u8], person: &[u8], numbers: &[u8; 20], ttl: u32) -> Self {
        let mut pointers = vec![0];
        let mut rdata = Vec::new();
        for name in [server, person] {
            match before(name, apex) {
                Some(labels) => {
                    rdata.extend_from_slice(labels);
                    pointers.push((RR_HEAD + rdata.len()) as u16);
                    rdata.extend_from_slice(&TO_QUESTION);
                }
                None => rdata.extend_from_slice(name),
            }
        }
        rdata.extend_from_slice(numbers);
        let minimum = u32::from_be_bytes([numbers[16], numbers[17], numbers[18], numbers[19]]);
        let record = |ttl| {
            let mut record = Vec::with_capacity(RR_HEAD + rdata.len());
            push_record(&mut record, rtype::SOA, ttl, &rdata);
            record.into()
        };
        // RFC 2308 §5: what a cache keeps a negative answer for is the lesser of the two.
        Self { answer: record(ttl), negative: record(ttl.min(minimum)), pointers: pointers.into() }
    }

    /// The record to answer with.
    pub(crate) fn answer(&self) -> &[u8] {
        &self.answer
    }

    /// The record for the authority section of a negative answer.
    pub(crate) fn negative(&self) -> &[u8] {
        &self.negative
    }

    /// Where in a record pointers to the zone's own name are to be put.
    pub(crate) fn pointers(&self) -> &[u16] {
        &self.pointers
    }
}

/// The labels of `name` before `apex`, if it ends in it.
fn before<'n>(name: &'n [u8], apex: &[u8]) -> Option<&'n [u8]> {
    let at = name.len().checked_sub(apex.len())?;
    let mut label = 0;
    while label < at {
        label += 1 + usize::from(name[label]);
    }
    (label == at && name[at..].eq_ignore_ascii_case(apex)).then_some(&name[..at])
}

/// Bytes of the name that `wire` begins with.
fn name_length(wire: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match usize::from(*wire.get(at)?) {
            0 => return Some(at + 1),
            length => at += 1 + length,
        }
    }
}

/// The relative name of the answering server.
pub(crate) const LOCAL_NODE: &[u8] = b"\x05local\x04node";
