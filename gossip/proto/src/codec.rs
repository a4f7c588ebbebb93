//! Bytes of frames: LEB128 integers, length-prefixed records, and names and sites written once a frame.
//!
//! A **record** is its length and its fields in order. A reader takes the fields it knows and skips the rest, so a later
//! release can append fields; what it appends must not intern (below), or the numbers after it would shift.
//! **Interning**: a name or site is written in full the first time in a frame and as its number from then on, since a
//! batch repeats a few of them thousands of times. Every length and count is checked against what is left before anything
//! is allocated, so the size of a frame bounds what its reader holds: some 30 times as much at worst, since a column's
//! NULL takes two bytes here and an entry of a map there.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::{Hlc, Name, SiteId, Value};

/// The greatest causal length: a row that came and went a million times a second for nine years.
const LENGTH_MAX: u64 = 1 << 48;

/// Why bytes from a peer are not what they should be. The stream they came on is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end within a field.
    #[error("the frame ends within a field")]
    Truncated,
    /// A number is wider than its field.
    #[error("a number exceeds its field")]
    Overflow,
    /// A tag that no release of this wire version writes.
    #[error("unknown {0} tag")]
    Tag(&'static str),
    /// A field whose content breaks a rule.
    #[error("invalid {0}")]
    Invalid(&'static str),
    /// More than the limit for its kind.
    #[error("{0} is over its limit")]
    TooLarge(&'static str),
}

#[derive(Default)]
pub(crate) struct Encoder {
    buf: Vec<u8>,
    names: BTreeMap<Name, u64>,
    sites: BTreeMap<SiteId, u64>,
}

impl Encoder {
    pub(crate) fn finish(self) -> Vec<u8> {
        self.buf
    }

    pub(crate) fn u8(&mut self, byte: u8) {
        self.buf.push(byte);
    }

    pub(crate) fn varint(&mut self, number: u64) {
        push_varint(&mut self.buf, number);
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.buf.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.buf.extend_from_slice(bytes);
    }

    pub(crate) fn name(&mut self, name: &Name) {
        let next = self.names.len() as u64 + 1;
        if let Some(&number) = self.names.get(name) {
            self.varint(number);
        } else {
            self.names.insert(name.clone(), next);
            self.varint(0);
            self.bytes(name.as_str().as_bytes());
        }
    }

    pub(crate) fn site(&mut self, site: SiteId) {
        let next = self.sites.len() as u64 + 1;
        if let Some(&number) = self.sites.get(&site) {
            self.varint(number);
        } else {
            self.sites.insert(site, next);
            self.varint(0);
            self.buf.extend_from_slice(site.as_bytes());
        }
    }

    pub(crate) fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.u8(0),
            Value::Integer(i) => {
                self.u8(1);
                self.varint(((i << 1) ^ (i >> 63)).cast_unsigned());
            }
            Value::Real(f) => {
                self.u8(2);
                self.u64(f.to_bits());
            }
            Value::Text(bytes) => {
                self.u8(3);
                self.bytes(bytes);
            }
            Value::Blob(bytes) => {
                self.u8(4);
                self.bytes(bytes);
            }
        }
    }

    /// Writes a record: whatever `fields` writes, after its length.
    pub(crate) fn record(&mut self, fields: impl FnOnce(&mut Self)) {
        let start = self.buf.len();
        fields(self);
        let mut prefix = Vec::with_capacity(5);
        push_varint(&mut prefix, (self.buf.len() - start) as u64);
        self.buf.splice(start..start, prefix);
    }
}

fn push_varint(buf: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buf.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    buf.push(number as u8);
}

pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
    names: Vec<Name>,
    sites: Vec<SiteId>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, names: Vec::new(), sites: Vec::new() }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Overflow)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.varint()?).map_err(|_| DecodeError::Overflow)
    }

    /// A number that counts from 1: of a version, a causal length, a start. Stores keep them as signed integers.
    pub(crate) fn ordinal(&mut self) -> Result<u64, DecodeError> {
        match self.number()? {
            0 => Err(DecodeError::Invalid("number that counts from 1")),
            number => Ok(number),
        }
    }

    /// A causal length: how often a row came and went, which ends far below what a store can keep, so that another life can
    /// always be told.
    pub(crate) fn length(&mut self) -> Result<u64, DecodeError> {
        match self.ordinal()? {
            length if length > LENGTH_MAX => Err(DecodeError::Overflow),
            length => Ok(length),
        }
    }

    /// A number that a store can keep.
    pub(crate) fn number(&mut self) -> Result<u64, DecodeError> {
        let number = self.varint()?;
        if number > i64::MAX.cast_unsigned() { Err(DecodeError::Overflow) } else { Ok(number) }
    }

    pub(crate) fn hlc(&mut self) -> Result<Hlc, DecodeError> {
        let bits = self.u64()?;
        if bits > Hlc::MAX.to_bits() { Err(DecodeError::Overflow) } else { Ok(Hlc::from_bits(bits)) }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::Overflow)?;
        self.take(len)
    }

    pub(crate) fn text(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeError::Invalid(what))
    }

    pub(crate) fn name(&mut self) -> Result<Name, DecodeError> {
        match self.varint()? {
            0 => {
                let name = Name::from(self.text("name")?);
                self.names.push(name.clone());
                Ok(name)
            }
            number => interned(&self.names, number).cloned(),
        }
    }

    pub(crate) fn site(&mut self) -> Result<SiteId, DecodeError> {
        match self.varint()? {
            0 => {
                let site = SiteId::new(self.array()?);
                self.sites.push(site);
                Ok(site)
            }
            number => interned(&self.sites, number).copied(),
        }
    }

    pub(crate) fn value(&mut self) -> Result<Value, DecodeError> {
        match self.u8()? {
            0 => Ok(Value::Null),
            1 => {
                let zigzag = self.varint()?;
                Ok(Value::Integer((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed()))
            }
            2 => {
                let float = f64::from_bits(self.u64()?);
                // NaN and -0.0 have no canonical form here; a sound peer never sends them.
                if float.is_nan() || (float == 0.0 && float.is_sign_negative()) {
                    return Err(DecodeError::Invalid("real"));
                }
                Ok(Value::Real(float))
            }
            3 => Ok(Value::Text(self.bytes()?.into())),
            4 => Ok(Value::Blob(self.bytes()?.into())),
            _ => Err(DecodeError::Tag("value")),
        }
    }

    /// Reads a record: `fields` sees its bytes only, and what it leaves is skipped.
    pub(crate) fn record<T>(
        &mut self,
        fields: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let body = self.bytes()?;
        let after = std::mem::replace(&mut self.rest, body);
        let read = fields(self);
        self.rest = after;
        read
    }

    /// Reads a count of items of at least `least` bytes each. One that what is left cannot hold is refused before room is
    /// made for it.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint()?).map_err(|_| DecodeError::Overflow)?;
        if count > self.rest.len() / least { Err(DecodeError::Truncated) } else { Ok(count) }
    }

    /// Reads a count and that many items of at least `least` bytes each.
    pub(crate) fn list<T>(
        &mut self,
        least: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.count(least)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Reads a count and that many columns, each with what `cell` reads after its name. None comes twice.
    pub(crate) fn columns<T>(
        &mut self,
        mut cell: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<BTreeMap<Name, T>, DecodeError> {
        let mut columns = BTreeMap::new();
        // A reference to a name and the tag of a value.
        for _ in 0..self.count(2)? {
            if columns.insert(self.name()?, cell(self)?).is_some() {
                return Err(DecodeError::Invalid("second cell of a column"));
            }
        }
        Ok(columns)
    }
}

fn interned<T>(seen: &[T], number: u64) -> Result<&T, DecodeError> {
    let index = usize::try_from(number - 1).map_err(|_| DecodeError::Overflow)?;
    seen.get(index).ok_or(DecodeError::Invalid("reference to an earlier name"))
}
