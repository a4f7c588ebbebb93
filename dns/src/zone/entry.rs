//! Entries: a name, what stands there and which unit put it there, as bytes that a shard keeps one behind the other.
//!
//! ```text
//! unit (4)  length of all (4)  kind (1)  length of the name (1)  name  body
//! ```
//! Numbers are in the order of this machine: an entry never leaves the process.

use super::node::{Endpoints, Listed, Node};
use super::records::Sets;
use crate::name;

/// Who put an entry there: a number that the builder gives out.
pub(crate) type UnitId = u32;

/// Bytes before the name.
const HEAD: usize = 10;
/// Bytes before the record of a pointer: its rank (1), and when what has the address started (8).
const POINTER_HEAD: usize = 9;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Body: sets.
    Plain,
    /// Body: sets.
    App,
    /// Body: endpoints.
    Peers,
    /// Body: endpoints.
    Nearest,
    /// Body: what it is chosen by, the greatest wins; then sets.
    Pointer,
    /// No body.
    Apps,
    /// No body.
    Instances,
    /// No body. A flat name that its unit would have if it were not another's: it is not there for questions, but tells
    /// the builder who else wants the name.
    Claim,
}

impl Kind {
    const ALL: [Kind; 8] =
        [Kind::Plain, Kind::App, Kind::Peers, Kind::Nearest, Kind::Pointer, Kind::Apps, Kind::Instances, Kind::Claim];
}

/// One entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) unit: UnitId,
    pub(crate) kind: Kind,
    pub(crate) name: &'a [u8],
    body: &'a [u8],
    /// All of it.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads the entry that begins here.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEAD>()?;
        let unit = UnitId::from_ne_bytes([head[0], head[1], head[2], head[3]]);
        let len = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
        let kind = *Kind::ALL.get(usize::from(head[8]))?;
        let bytes = bytes.get(..len as usize)?;
        let (name, body) = bytes.get(HEAD..)?.split_at_checked(usize::from(head[9]))?;
        Some(Self { unit, kind, name, body, bytes })
    }

    /// What a question finds here; a claim is nothing.
    pub(crate) fn node(&self) -> Option<Node<'a>> {
        match self.kind {
            Kind::Plain => Some(Node::Plain(Sets::read(self.body))),
            Kind::App => Some(Node::App(Sets::read(self.body))),
            Kind::Peers => Some(Node::Peers(Endpoints::read(self.body))),
            Kind::Nearest => Some(Node::Nearest(Endpoints::read(self.body))),
            Kind::Pointer => Some(Node::Plain(Sets::read(self.body.get(POINTER_HEAD..)?))),
            Kind::Apps => Some(Node::List(Listed::Apps)),
            Kind::Instances => Some(Node::List(Listed::Instances)),
            Kind::Claim => None,
        }
    }

    /// Whether this can be an entry of ours, wherever it was read from: answering relies on its form.
    fn is_sound(&self) -> bool {
        name::is_relative(self.name)
            && match self.node() {
                Some(Node::Plain(sets) | Node::App(sets)) => sets.is_sound(),
                Some(Node::Peers(_) | Node::Nearest(_) | Node::List(_)) => true,
                None => self.kind == Kind::Claim,
            }
    }

    /// Whether this one comes before another of the same name. Only pointers can share a name, several units having one
    /// address: rank, start and target are compared, in this order, as bytes.
    pub(crate) fn beats(&self, other: &Entry<'_>) -> bool {
        self.kind == Kind::Pointer && other.kind == Kind::Pointer && self.body > other.body
    }
}

/// The entries of one unit among these, which stand one behind the other. Of the others two numbers are read.
pub(crate) fn of_unit(mut bytes: &[u8], unit: UnitId) -> impl Iterator<Item = Entry<'_>> {
    std::iter::from_fn(move || {
        loop {
            let [a, b, c, d, len @ ..] = *bytes.first_chunk::<8>()?;
            let (one, rest) = bytes.split_at_checked(u32::from_ne_bytes(len) as usize)?;
            bytes = rest;
            if UnitId::from_ne_bytes([a, b, c, d]) == unit {
                return Entry::read(one);
            }
        }
    })
}

/// Writes entries.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    bytes: Vec<u8>,
    /// Where each begins.
    starts: Vec<usize>,
}

impl Entries {
    /// Appends an entry, whose body `write` appends.
    pub(crate) fn push(&mut self, unit: UnitId, kind: Kind, name: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&unit.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        let name_len = u8::try_from(name.len()).expect("a name has at most 255 bytes");
        self.bytes.extend_from_slice(&[kind as u8, name_len]);
        self.bytes.extend_from_slice(name);
        write(&mut self.bytes);
        let len = u32::try_from(self.bytes.len() - start).expect("an entry holds a few RRsets of at most 64 KiB");
        self.bytes[start + 4..start + 8].copy_from_slice(&len.to_ne_bytes());
    }

    /// Entries one behind the other; `None` unless all of them are sound.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut starts = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let entry = Entry::read(&bytes[at..]).filter(Entry::is_sound)?;
            starts.push(at);
            at += entry.bytes.len();
        }
        Some(Self { bytes: bytes.to_vec(), starts })
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = Entry<'_>> {
        self.starts.iter().filter_map(|start| self.at(*start))
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// Every entry, and where it is.
    pub(crate) fn positions(&self) -> impl Iterator<Item = (usize, Entry<'_>)> {
        self.starts.iter().filter_map(|start| Some((*start, self.at(*start)?)))
    }

    /// The entry at one of [`Entries::positions`].
    pub(crate) fn at(&self, position: usize) -> Option<Entry<'_>> {
        Entry::read(&self.bytes[position..])
    }

    /// Appends an entry that was written elsewhere.
    pub(crate) fn copy(&mut self, entry: &Entry<'_>) {
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(entry.bytes);
    }
}

/// Appends what a pointer is chosen by.
pub(crate) fn push_pointer_head(out: &mut Vec<u8>, rank: u8, started_at: i64) {
    out.push(rank);
    // As an unsigned number the order of bytes is the order of times.
    out.extend_from_slice(&(started_at ^ i64::MIN).to_be_bytes());
}
