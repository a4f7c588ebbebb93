//! A table of names that never changes: two pieces of memory, whatever the number of names.
//!
//! ```text
//! slots    u32 offsets into `bytes`, by the seeded hash of the name
//! bytes    name of 1 length byte | sets u8 | for each set: type u16, count u16, length u32, records …
//! ```
//! A name and its records stand together, so that finding them costs two cache misses: the slot and the entry.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::zone::records::RRset;

/// Bytes before the records of a set.
const SET_HEAD: usize = 8;

/// Names with their records.
#[derive(Debug)]
pub(crate) struct Table {
    slots: HashTable<u32>,
    bytes: Box<[u8]>,
    hash: RandomState,
}

/// A name's records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FixedNode<'a> {
    /// Sets, one behind the other.
    sets: &'a [u8],
}

impl Table {
    /// The node of a lower-cased relative name.
    pub(crate) fn get(&self, name: &[u8]) -> Option<FixedNode<'_>> {
        let at = *self.slots.find(self.hash.hash_one(name), |at| name_at(&self.bytes, *at) == name)?;
        let rest = &self.bytes[at as usize + 1 + name.len()..];
        let (length, rest) = rest.split_first_chunk().map(|(length, rest)| (u32::from_le_bytes(*length), rest))?;
        Some(FixedNode { sets: &rest[..length as usize] })
    }

    /// How many names there are, empty non-terminals included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

fn name_at(bytes: &[u8], at: u32) -> &[u8] {
    let at = at as usize;
    &bytes[at + 1..][..usize::from(bytes[at])]
}

impl<'a> FixedNode<'a> {
    /// Whether the name exists only because others stand below it.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    pub(crate) fn sets(&self) -> impl Iterator<Item = RRset<'a>> + use<'a> {
        let mut rest = self.sets;
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_first_chunk::<SET_HEAD>()?;
            let [t0, t1, c0, c1, l0, l1, l2, l3] = *head;
            let (records, tail) = tail.split_at(u32::from_le_bytes([l0, l1, l2, l3]) as usize);
            rest = tail;
            Some(RRset::new(u16::from_le_bytes([t0, t1]), u16::from_le_bytes([c0, c1]), records))
        })
    }

    /// The set of a type.
    pub(crate) fn set(&self, rtype: u16) -> Option<RRset<'a>> {
        self.sets().find(|set| set.rtype == rtype)
    }
}

/// A table being filled. Each name is put in once.
#[derive(Debug)]
pub(crate) struct TableBuilder {
    slots: HashTable<u32>,
    bytes: Vec<u8>,
    hash: RandomState,
}

/// A table has no room for more than 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl TableBuilder {
    pub(crate) fn with_capacity(names: usize, bytes: usize) -> Self {
        Self { slots: HashTable::with_capacity(names), bytes: Vec::with_capacity(bytes), hash: RandomState::default() }
    }

    /// Puts in a name, whose sets [`TableBuilder::set`] then appends.
    pub(crate) fn name(&mut self, name: &[u8]) -> Result<Entry, Full> {
        let at = u32::try_from(self.bytes.len()).map_err(|_| Full)?;
        self.bytes.push(name.len() as u8);
        self.bytes.extend_from_slice(name);
        let sets = self.bytes.len();
        self.bytes.extend_from_slice(&0_u32.to_le_bytes());
        let Self { slots, bytes, hash } = self;
        slots.insert_unique(hash.hash_one(name), at, |at| hash.hash_one(name_at(bytes, *at)));
        Ok(Entry { sets })
    }

    /// Appends a set to the name that was put in last: `count` records of this type, written by `write`.
    pub(crate) fn set(&mut self, entry: &Entry, rtype: u16, count: u16, write: impl FnOnce(&mut Vec<u8>)) {
        let head = self.bytes.len();
        self.bytes.extend_from_slice(&rtype.to_le_bytes());
        self.bytes.extend_from_slice(&count.to_le_bytes());
        self.bytes.extend_from_slice(&0_u32.to_le_bytes());
        write(&mut self.bytes);
        let length = (self.bytes.len() - head - SET_HEAD) as u32;
        self.bytes[head + 4..head + SET_HEAD].copy_from_slice(&length.to_le_bytes());
        let sets = (self.bytes.len() - entry.sets - 4) as u32;
        self.bytes[entry.sets..entry.sets + 4].copy_from_slice(&sets.to_le_bytes());
    }

    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        self.slots.find(self.hash.hash_one(name), |at| name_at(&self.bytes, *at) == name).is_some()
    }

    pub(crate) fn finish(self) -> Table {
        Table { slots: self.slots, bytes: self.bytes.into(), hash: self.hash }
    }
}

/// A name that was put in.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Where the length of its sets stands.
    sets: usize,
}
