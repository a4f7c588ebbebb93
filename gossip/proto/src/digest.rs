//! A fingerprint of the whole replicated state that can be kept up to date change by change.
//!
//! The sum, modulo 2^128, of a hash of every cell and of every row's own state. A sum does not care about order, and a
//! term that leaves is subtracted, so a commit costs what it changed. Hashes are xxh3-128: it guards against faults, not
//! against a forger, who would need a certificate first.

use std::fmt;

use xxhash_rust::xxh3::xxh3_128;

use crate::{Key, Name, Row, Stamp, Value};

/// The fingerprint. Equal states have equal digests; printed as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Digest(u128);

impl Digest {
    /// The digest with these bits.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// All 128 bits.
    pub const fn to_bits(self) -> u128 {
        self.0
    }

    /// The term of one cell.
    pub fn cell(table: &Name, key: &Key, column: &Name, value: &Value, stamp: Stamp) -> Self {
        let mut term = Term::new(table, key, stamp);
        term.bytes(column.as_str().as_bytes());
        term.value(value);
        term.finish()
    }

    /// The term of a row's own state. A tombstone has no other.
    pub fn row(table: &Name, key: &Key, cl: u64, rs: Stamp) -> Self {
        let mut term = Term::new(table, key, rs);
        term.0.extend_from_slice(&cl.to_le_bytes());
        term.finish()
    }

    /// All terms of a row together.
    pub fn of(table: &Name, key: &Key, row: &Row) -> Self {
        let mut sum = Self::row(table, key, row.cl, row.rs);
        for (column, cell) in &row.cells {
            sum += Self::cell(table, key, column, &cell.value, cell.stamp);
        }
        sum
    }
}

impl std::ops::AddAssign for Digest {
    fn add_assign(&mut self, term: Self) {
        self.0 = self.0.wrapping_add(term.0);
    }
}

impl std::ops::SubAssign for Digest {
    fn sub_assign(&mut self, term: Self) {
        self.0 = self.0.wrapping_sub(term.0);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The bytes of one term. Every field goes in with its length or a fixed size, so that no two terms have the same bytes.
///
/// They are gathered and hashed at once: most terms are below 240 bytes, for which that takes a tenth of what setting up a
/// hash that is fed does (80 ns each, measured by `store` in `gossip/benches`).
struct Term(Vec<u8>);

/// The fixed fields and lengths of a term, and a usual name and key.
const USUAL: usize = 128;

impl Term {
    fn new(table: &Name, key: &Key, stamp: Stamp) -> Self {
        let mut term = Self(Vec::with_capacity(USUAL + key.as_bytes().len()));
        term.0.extend_from_slice(&stamp.hlc.to_bits().to_le_bytes());
        term.0.extend_from_slice(stamp.site.as_bytes());
        term.0.extend_from_slice(&stamp.version.to_le_bytes());
        term.0.extend_from_slice(&stamp.seq.to_le_bytes());
        term.bytes(table.as_str().as_bytes());
        term.bytes(key.as_bytes());
        term
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.0.push(0),
            Value::Integer(i) => {
                self.0.push(1);
                self.0.extend_from_slice(&i.to_le_bytes());
            }
            Value::Real(f) => {
                self.0.push(2);
                self.0.extend_from_slice(&f.to_bits().to_le_bytes());
            }
            Value::Text(bytes) => {
                self.0.push(3);
                self.bytes(bytes);
            }
            Value::Blob(bytes) => {
                self.0.push(4);
                self.bytes(bytes);
            }
        }
    }

    fn finish(self) -> Digest {
        Digest(xxh3_128(&self.0))
    }
}
