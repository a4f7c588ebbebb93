//! Messages in wire form, read and written: names with their compression, records with the offsets of their TTLs.

use crate::name::{LABEL_MAX, NAME_MAX};
use crate::query::HEADER;
use crate::zone::rtype;

/// Highest offset that a compression pointer reaches (RFC 1035 §4.1.4).
const POINTER_MAX: usize = 0x3fff;
/// Most pointers followed in one name. Each must point backwards, so that a name ends anyway; this bounds the work.
const JUMPS_MAX: usize = 32;
/// Suffixes remembered for compression. More help little, and each is compared with every name written.
const SUFFIXES_MAX: usize = 64;

/// A name on the wire, uncompressed, with its closing zero, in the letter case in which it came.
#[derive(Clone, Copy)]
pub(super) struct Name {
    bytes: [u8; NAME_MAX],
    len: usize,
}

impl Name {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Whether both are the same name: letter case does not count.
    pub(super) fn is(&self, other: &[u8]) -> bool {
        self.bytes().eq_ignore_ascii_case(other)
    }

    /// Whether this name is `other` or one that `other` is below.
    pub(super) fn holds(&self, other: &[u8]) -> bool {
        let mut rest = other;
        loop {
            if self.is(rest) {
                return true;
            }
            match rest.split_first() {
                Some((&length, tail)) if length > 0 => rest = tail.get(usize::from(length)..).unwrap_or_default(),
                _ => return false,
            }
        }
    }
}

impl From<&[u8]> for Name {
    /// Of a name that was read before.
    fn from(wire: &[u8]) -> Self {
        let len = wire.len().min(NAME_MAX);
        let mut bytes = [0; NAME_MAX];
        bytes[..len].copy_from_slice(&wire[..len]);
        Self { bytes, len }
    }
}

/// A message being read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

/// One record: what comes before its RDATA, and where that is.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) owner: Name,
    pub(super) rtype: u16,
    pub(super) class: u16,
    pub(super) ttl: u32,
    message: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8], at: usize) -> Self {
        Self { message, at }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.message.len()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.message.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn name(&mut self) -> Option<Name> {
        let mut name = Name { bytes: [0; NAME_MAX], len: 0 };
        let (mut at, mut jumps) = (self.at, 0);
        loop {
            let length = usize::from(*self.message.get(at)?);
            if length & 0xc0 == 0xc0 {
                let target = (length & 0x3f) << 8 | usize::from(*self.message.get(at + 1)?);
                if jumps == 0 {
                    self.at = at + 2;
                }
                jumps += 1;
                if target >= at || target < HEADER || jumps > JUMPS_MAX {
                    return None;
                }
                at = target;
                continue;
            }
            let end = name.len + 1 + length;
            if length > LABEL_MAX || end > NAME_MAX {
                return None;
            }
            name.bytes[name.len..end].copy_from_slice(self.message.get(at..at + 1 + length)?);
            name.len = end;
            at += 1 + length;
            if length == 0 {
                if jumps == 0 {
                    self.at = at;
                }
                return Some(name);
            }
        }
    }

    pub(super) fn record(&mut self) -> Option<Record<'a>> {
        let owner = self.name()?;
        let (rtype, class) = (self.number()?, self.number()?);
        let ttl = self.take(4)?;
        let length = usize::from(self.number()?);
        let start = self.at;
        self.take(length)?;
        let ttl = u32::from_be_bytes([ttl[0], ttl[1], ttl[2], ttl[3]]);
        Some(Record { owner, rtype, class, ttl, message: self.message, start, end: self.at })
    }
}

impl<'a> Record<'a> {
    /// The name that is the whole RDATA.
    pub(super) fn target(&self) -> Option<Name> {
        let mut reader = Reader::new(&self.message[..self.end], self.start);
        reader.name().filter(|_| reader.is_at_end())
    }

    pub(super) fn rdata(&self) -> &'a [u8] {
        &self.message[self.start..self.end]
    }
}

/// A message being written, with the lower-cased question in front.
pub(super) struct Writer {
    out: Vec<u8>,
    marks: Vec<Mark>,
    /// Names that stand in the message, each with its offset: the beginnings of all their labels.
    suffixes: Vec<(Box<[u8]>, u16)>,
    base: usize,
}

/// Where one record's TTL stands and where it ends, both counted from the end of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) ttl: u16,
    pub(super) end: u16,
}

impl Writer {
    pub(super) fn new(question: &[u8]) -> Self {
        let mut out = vec![0; HEADER];
        out.extend_from_slice(question);
        let base = out.len();
        let mut writer = Self { out, marks: Vec::new(), suffixes: Vec::new(), base };
        writer.remember(&question[..question.len() - 4], HEADER);
        writer
    }

    /// Appends a record, its RDATA decompressed where it may have been compressed (RFC 3597 §4); `None` if it is
    /// malformed, and then the message is not to be used.
    pub(super) fn record(&mut self, record: &Record<'_>, ttl: u32) -> Option<()> {
        self.name(record.owner.bytes());
        self.out.extend_from_slice(&record.rtype.to_be_bytes());
        self.out.extend_from_slice(&record.class.to_be_bytes());
        let at = self.out.len();
        self.out.extend_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&[0; 2]);
        self.rdata(record)?;
        let length = u16::try_from(self.out.len() - at - 6).ok()?;
        self.out[at + 4..at + 6].copy_from_slice(&length.to_be_bytes());
        let offset = |at: usize| u16::try_from(at - self.base).ok();
        self.marks.push(Mark { ttl: offset(at)?, end: offset(self.out.len())? });
        Some(())
    }

    /// What was written behind the question, and where its records are. `None` if it is no message any more.
    pub(super) fn finish(mut self, counts: [u16; 2]) -> Option<(Vec<u8>, usize, Box<[Mark]>)> {
        self.out[2] = 0x80;
        self.out[5] = 1;
        self.out[6..8].copy_from_slice(&counts[0].to_be_bytes());
        self.out[8..10].copy_from_slice(&counts[1].to_be_bytes());
        (self.out.len() <= usize::from(u16::MAX)).then(|| (self.out, self.base, self.marks.into()))
    }

    fn rdata(&mut self, record: &Record<'_>) -> Option<()> {
        let mut reader = Reader::new(&record.message[..record.end], record.start);
        // Bytes before the names, names, bytes after them.
        let (before, names, after) = match record.rtype {
            rtype::NS | rtype::CNAME | rtype::PTR | 3 | 4 | 7..=9 | 39 => (0, 1, 0),
            rtype::SOA => (0, 2, 20),
            14 | 17 => (0, 2, 0),
            rtype::MX | 18 | 21 | 36 => (2, 1, 0),
            26 => (2, 2, 0),
            rtype::SRV => (6, 1, 0),
            35 => (naptr(record.rdata())?, 1, 0),
            rtype::A if record.rdata().len() != 4 => return None,
            rtype::AAAA if record.rdata().len() != 16 => return None,
            _ => (record.rdata().len(), 0, 0),
        };
        self.out.extend_from_slice(reader.take(before)?);
        for _ in 0..names {
            let name = reader.name()?;
            match record.rtype {
                // Types of RFC 1035: others than these may not be compressed.
                rtype::NS | rtype::CNAME | rtype::PTR | rtype::SOA | rtype::MX => self.name(name.bytes()),
                _ => self.out.extend_from_slice(name.bytes()),
            }
        }
        self.out.extend_from_slice(reader.take(after)?);
        reader.is_at_end().then_some(())
    }

    /// Writes a name, its longest suffix that stands in the message already as a pointer.
    fn name(&mut self, name: &[u8]) {
        let start = self.out.len();
        let mut rest = name;
        while let Some((&length, tail)) = rest.split_first()
            && length > 0
        {
            if let Some((_, at)) = self.suffixes.iter().find(|(known, _)| known.eq_ignore_ascii_case(rest)) {
                self.out.extend_from_slice(&(0xc000 | at).to_be_bytes());
                self.remember(&name[..name.len()], start);
                return;
            }
            let (label, next) = tail.split_at(usize::from(length));
            self.out.push(length);
            self.out.extend_from_slice(label);
            rest = next;
        }
        self.out.push(0);
        self.remember(name, start);
    }

    /// Remembers where the labels of a name begin that was written at `start`, as far as they are not known.
    fn remember(&mut self, name: &[u8], start: usize) {
        let mut at = 0;
        while name[at] > 0 && start + at <= POINTER_MAX && self.suffixes.len() < SUFFIXES_MAX {
            if self.suffixes.iter().any(|(known, _)| known.eq_ignore_ascii_case(&name[at..])) {
                return;
            }
            self.suffixes.push((name[at..].into(), (start + at) as u16));
            at += 1 + usize::from(name[at]);
        }
    }
}

/// Bytes before the name of a NAPTR record: two numbers, three texts (RFC 3403 §4.1).
fn naptr(rdata: &[u8]) -> Option<usize> {
    (0..3).try_fold(4, |at: usize, _| Some(at + 1 + usize::from(*rdata.get(at)?)))
}
