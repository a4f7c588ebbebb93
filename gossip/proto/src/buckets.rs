//! The digest by bucket: all rows, tombstones included, spread over 1,024 buckets by a hash of table and key.
//!
//! Two nodes whose digests differ find out by their buckets which thousandth of the rows to look at. Unlike the digest,
//! buckets are not kept: they are made from the rows when somebody asks, which is rare.

use xxhash_rust::xxh3::xxh3_64;

use crate::{Digest, Key, Name};

/// How many buckets there are: their digests are 16 KiB, and of a million rows a thousand share one.
pub const BUCKETS: usize = 1024;

/// One of the buckets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bucket(u16);

impl Bucket {
    /// The bucket of a row. The same on all nodes: a promise of the wire.
    pub fn of(table: &Name, key: &Key) -> Self {
        let table = table.as_str().as_bytes();
        // The length keeps a name apart from the key after it.
        let mut bytes = Vec::with_capacity(8 + table.len() + key.as_bytes().len());
        bytes.extend_from_slice(&(table.len() as u64).to_le_bytes());
        bytes.extend_from_slice(table);
        bytes.extend_from_slice(key.as_bytes());
        Self((xxh3_64(&bytes) % BUCKETS as u64) as u16)
    }

    /// The bucket with this number, if there is one.
    pub fn new(number: u64) -> Option<Self> {
        u16::try_from(number).ok().filter(|&number| usize::from(number) < BUCKETS).map(Self)
    }

    /// Its number, below [`BUCKETS`].
    pub fn number(self) -> u16 {
        self.0
    }
}

/// The digest of every bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Buckets(Vec<Digest>);

impl Default for Buckets {
    fn default() -> Self {
        Self(vec![Digest::default(); BUCKETS])
    }
}

impl Buckets {
    /// From the digests of all buckets in their order; none if they are more or fewer.
    pub fn new(digests: Vec<Digest>) -> Option<Self> {
        (digests.len() == BUCKETS).then_some(Self(digests))
    }

    /// Counts the terms of a row.
    pub fn add(&mut self, bucket: Bucket, terms: Digest) {
        self.0[usize::from(bucket.0)] += terms;
    }

    /// The digests in the order of their buckets.
    pub fn iter(&self) -> impl Iterator<Item = Digest> + '_ {
        self.0.iter().copied()
    }

    /// The digest of everything.
    pub fn total(&self) -> Digest {
        let mut total = Digest::default();
        self.iter().for_each(|digest| total += digest);
        total
    }

    /// The buckets in which the other has something else.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Bucket> + 'a {
        let pairs = (0..).zip(self.iter().zip(other.iter()));
        pairs.filter(|(_, (ours, theirs))| ours != theirs).map(|(number, _)| Bucket(number))
    }
}
