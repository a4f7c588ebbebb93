//! What an upstream sent, read strictly, and of it only what answers the question: nothing that was not asked for gets
//! into a cache or to a client. Pure.
//!
//! Kept are, in the answer, the chain of aliases from the question on and the records of the asked type at its end; in
//! the authority section, the SOA that a negative answer lives by, of a domain that the chain's end is in, and, if
//! DNSSEC was asked for, the signatures and denials that go with them. Everything else is dropped: name servers, glue,
//! other names. Addresses that this upstream may not point at are dropped and counted. The result is written anew, and
//! must be readable by another codec than ours.

use std::time::Duration;

use hickory_proto::op::Message;

use super::entry::{Body, Entry};
use super::rebind::Guard;
use super::wire::{Name, Reader, Record, Writer};
use crate::answer::message::Ede;
use crate::query::{HEADER, Rcode};
use crate::zone::{IN, rtype};

/// Longest life of a positive answer: who serves longer ones is rarely meant (RFC 8767 §4 allows any cap).
const TTL_MAX: u32 = 86_400;
/// Longest life of a negative answer (RFC 2308 §5 has one to three hours).
const NEGATIVE_MAX: u32 = 3600;
/// Life of a negative answer without SOA, which may not be kept by RFC 2308 §5: just long enough that a program asking
/// in a loop does not ask others in a loop.
const UNSAID: u32 = 1;
/// Most aliases followed. Others stop at 8 to 16.
const CHAIN_MAX: usize = 16;
/// Most records read of one message. 64 KiB hold no more sensible ones.
const RECORDS_MAX: usize = 4096;

/// Record types of DNSSEC, which mean something here only if they were asked for.
const DNAME: u16 = 39;
const RRSIG: u16 = 46;
const NSEC: u16 = 47;
const NSEC3: u16 = 50;

/// The question as it was sent: what an answer is compared with.
#[derive(Debug, Clone)]
pub(crate) struct Sent<'a> {
    pub(crate) id: [u8; 2],
    /// With the letter case that was chosen for it.
    pub(crate) question: &'a [u8],
    pub(crate) dnssec_ok: bool,
}

/// What an upstream's message is.
#[derive(Debug)]
pub(crate) enum Cleaned {
    /// An answer, and how many records an upstream may not give were dropped from it.
    Answer(Entry, usize),
    /// Longer than the transport: to be asked again over a stream.
    Truncated,
    /// This upstream cannot or will not say.
    Failed(Failed),
}

/// Why an upstream did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It does not understand the question, perhaps for its EDNS.
    NotUnderstood,
    /// It said SERVFAIL.
    ServFail,
    /// It refuses, or refers to others instead of asking them.
    Refused,
    /// Its answer cannot be read.
    Malformed,
}

/// Whether a message answers what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    Yes,
    /// But for the letter case: from a server that does not copy it, or from somebody who guesses.
    OtherCase,
    No,
}

/// Compares what every datagram is compared with before it is believed: a response, id, question.
pub(crate) fn matches(message: &[u8], sent: &Sent<'_>) -> Match {
    let Some((header, body)) = message.split_at_checked(HEADER) else { return Match::No };
    if header[..2] != sent.id || header[2] & 0xf8 != 0x80 {
        return Match::No;
    }
    // Servers that do not understand a question may leave it out; that can only make us ask another one.
    if header[4..6] == [0, 0] && header[3] & 15 != 0 && body.is_empty() {
        return Match::Yes;
    }
    match body.get(..sent.question.len()) {
        Some(question) if header[4..6] == [0, 1] && question == sent.question => Match::Yes,
        Some(question) if header[4..6] == [0, 1] && question.eq_ignore_ascii_case(sent.question) => Match::OtherCase,
        _ => Match::No,
    }
}

/// Reads the answer to what was sent; it [`matches()`].
pub(crate) fn clean(message: &[u8], sent: &Sent<'_>, guard: &Guard) -> Cleaned {
    let Some(header) = message.get(..HEADER) else { return Cleaned::Failed(Failed::Malformed) };
    if header[2] & 0x02 != 0 {
        return Cleaned::Truncated;
    }
    let rcode = match header[3] & 15 {
        0 => Rcode::NoError,
        3 => Rcode::NxDomain,
        1 | 4 => return Cleaned::Failed(Failed::NotUnderstood),
        5 => return Cleaned::Failed(Failed::Refused),
        _ => return Cleaned::Failed(Failed::ServFail),
    };
    let Some(sections) = Sections::read(message, sent) else { return Cleaned::Failed(Failed::Malformed) };
    if sections.is_referral(rcode) {
        return Cleaned::Failed(Failed::Refused);
    }
    let mut picked = Picked::new(sent, guard);
    let cleaned = picked.all(&sections).and_then(|negative| picked.finish(rcode, negative));
    cleaned.unwrap_or(Cleaned::Failed(Failed::Malformed))
}

/// The records of a message that can matter.
struct Sections<'a> {
    answers: Vec<Record<'a>>,
    authorities: Vec<Record<'a>>,
}

impl<'a> Sections<'a> {
    fn read(message: &'a [u8], sent: &Sent<'_>) -> Option<Self> {
        let count = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
        let counts = [count(6), count(8), count(10)];
        if counts.iter().sum::<usize>() > RECORDS_MAX {
            return None;
        }
        let mut reader = Reader::new(message, HEADER + sent.question.len());
        let mut read = |count: usize| (0..count).map(|_| reader.record()).collect::<Option<Vec<_>>>();
        let (answers, authorities, _) = (read(counts[0])?, read(counts[1])?, read(counts[2])?);
        // Something behind the last record was put there by somebody who hopes that others read differently.
        reader.is_at_end().then_some(Self { answers, authorities })
    }

    /// Whether it only names servers to be asked instead (a server that does not recurse).
    fn is_referral(&self, rcode: Rcode) -> bool {
        let has = |rtype| self.authorities.iter().any(|record| record.rtype == rtype);
        rcode == Rcode::NoError && self.answers.is_empty() && has(rtype::NS) && !has(rtype::SOA)
    }
}

/// Whether an answer says that there is nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Negative {
    Yes,
    No,
}

/// The answer being put together.
struct Picked<'a> {
    sent: &'a Sent<'a>,
    guard: &'a Guard,
    qtype: u16,
    writer: Writer,
    counts: [u16; 2],
    ttl: u32,
    denied: usize,
}

impl<'a> Picked<'a> {
    fn new(sent: &'a Sent<'a>, guard: &'a Guard) -> Self {
        let (name, fixed) = sent.question.split_at(sent.question.len() - 4);
        // Written in lower case: every asker gets the own bytes back.
        let writer = Writer::new(&[&*name.to_ascii_lowercase(), fixed].concat());
        let qtype = u16::from_be_bytes([fixed[0], fixed[1]]);
        Self { sent, guard, qtype, writer, counts: [0; 2], ttl: TTL_MAX, denied: 0 }
    }

    fn add(&mut self, section: usize, record: &Record<'_>, ttl: u32) -> Option<()> {
        self.ttl = self.ttl.min(ttl);
        self.counts[section] += 1;
        self.writer.record(record, ttl)
    }

    fn all(&mut self, sections: &Sections<'_>) -> Option<Negative> {
        let mut name = Name::from(&self.sent.question[..self.sent.question.len() - 4]);
        for _ in 0..=CHAIN_MAX {
            let found = self.at(&name, sections)?;
            if found > 0 {
                self.authority(&name, sections, Negative::No)?;
                return Some(Negative::No);
            }
            let alias = |record: &&Record<'_>| record.rtype == rtype::CNAME && is_at(record, &name);
            let Some(alias) = sections.answers.iter().find(alias) else {
                self.authority(&name, sections, Negative::Yes)?;
                return Some(Negative::Yes);
            };
            self.inherited(&name, sections)?;
            self.add(0, alias, alias.ttl.min(TTL_MAX))?;
            self.signatures(rtype::CNAME, &name, sections)?;
            name = alias.target()?;
        }
        // Longer than any sensible chain, or a circle.
        None
    }

    /// The records of the asked type at this name: how many there were to keep.
    fn at(&mut self, name: &Name, sections: &Sections<'_>) -> Option<usize> {
        let mut found = 0;
        for record in sections.answers.iter().filter(|record| is_at(record, name)) {
            let wanted = record.rtype == self.qtype || self.qtype == rtype::ANY;
            if !wanted || matches!(record.rtype, rtype::OPT | rtype::TSIG) {
                continue;
            }
            if self.guard.denies(record.rtype, record.rdata()) {
                self.denied += 1;
                // A name is told to have nothing as long as it would have been told to have this.
                self.ttl = self.ttl.min(record.ttl);
                continue;
            }
            self.add(0, record, record.ttl.min(TTL_MAX))?;
            found += 1;
        }
        if found > 0 && self.qtype != rtype::ANY {
            self.signatures(self.qtype, name, sections)?;
        }
        Some(found)
    }

    /// The DNAME that an alias at this name was made of. It means something to whoever checks signatures only.
    fn inherited(&mut self, name: &Name, sections: &Sections<'_>) -> Option<()> {
        let above = |record: &&Record<'_>| {
            record.rtype == DNAME && record.class == IN && record.owner.holds(name.bytes()) && !is_at(record, name)
        };
        let Some(dname) = sections.answers.iter().find(above).filter(|_| self.sent.dnssec_ok) else { return Some(()) };
        self.add(0, dname, dname.ttl.min(TTL_MAX))?;
        self.signatures(DNAME, &dname.owner, sections)
    }

    /// The signatures of the records of this type at this name, if they were asked for.
    fn signatures(&mut self, covered: u16, name: &Name, sections: &Sections<'_>) -> Option<()> {
        if !self.sent.dnssec_ok || self.qtype == RRSIG {
            return Some(());
        }
        for record in sections.answers.iter().filter(|record| is_at(record, name) && signs(record, covered)) {
            self.add(0, record, record.ttl.min(TTL_MAX))?;
        }
        Some(())
    }

    /// What the authority section adds at the end of the chain.
    fn authority(&mut self, name: &Name, sections: &Sections<'_>, negative: Negative) -> Option<()> {
        let above =
            |record: &&Record<'_>| record.rtype == rtype::SOA && record.class == IN && record.owner.holds(name.bytes());
        let soa = sections.authorities.iter().find(above);
        if negative == Negative::Yes {
            match soa {
                Some(soa) => {
                    // MINIMUM, the last of five numbers, bounds how long there is nothing (RFC 2308 §4).
                    let minimum = soa.rdata().last_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                    self.add(1, soa, soa.ttl.min(minimum).min(NEGATIVE_MAX))?;
                }
                // What was emptied by us had no SOA, and lives as long as what it had.
                None if self.denied > 0 => {}
                None => self.ttl = self.ttl.min(UNSAID),
            }
        }
        if !self.sent.dnssec_ok {
            return Some(());
        }
        // Denials belong to the zone of the SOA or, in a positive answer from a wildcard, to one above the name.
        for record in sections.authorities.iter().filter(|record| record.class == IN) {
            let proof = matches!(record.rtype, NSEC | NSEC3) || signs(record, NSEC) || signs(record, NSEC3);
            let of_soa = negative == Negative::Yes && signs(record, rtype::SOA);
            let near = match soa {
                Some(soa) => soa.owner.holds(record.owner.bytes()),
                None => negative == Negative::No,
            };
            if near && (proof || of_soa) {
                self.add(1, record, record.ttl.min(TTL_MAX))?;
            }
        }
        Some(())
    }

    fn finish(self, rcode: Rcode, negative: Negative) -> Option<Cleaned> {
        let Self { writer, counts, ttl, denied, .. } = self;
        // Said of an answer that was emptied only: in one that has something left, nobody misses what was denied.
        let ede = (denied > 0 && negative == Negative::Yes).then_some(Ede::Blocked);
        let (message, base, marks) = writer.finish(counts)?;
        // The judge of what we wrote, RDATA that we only copied included, is a codec that is not ours.
        Message::from_vec(&message).ok()?;
        let body = Body { rcode, ede, counts, records: message[base..].into(), marks };
        Some(Cleaned::Answer(Entry::new(body, Duration::from_secs(ttl.into())), denied))
    }
}

/// Whether a record of our class is at this name.
fn is_at(record: &Record<'_>, name: &Name) -> bool {
    record.class == IN && record.owner.is(name.bytes())
}

/// Whether a record is a signature over records of this type.
fn signs(record: &Record<'_>, covered: u16) -> bool {
    record.rtype == RRSIG && record.rdata().first_chunk() == Some(&covered.to_be_bytes())
}

#[cfg(test)]
mod tests;
