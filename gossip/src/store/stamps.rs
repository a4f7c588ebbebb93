//! All stamps of one row, packed: what `st` holds.
//!
//! ```text
//! varint causal length, 4 bytes seal, then one or more groups { varint column mask, varint site ord, varint version, varint seq, 8 bytes hlc }
//! ```
//! The first group is the row's own stamp, and its mask the columns written by the same change; so a fresh row has one
//! group, about 20 bytes. A bit of the mask is a column's `cid`.
//!
//! The seal is 32 bits of the sum of the row's terms in the digest, without those of cells that are set
//! aside. SQLite cannot tell a flipped bit of a value from a value, and the digest of the whole store says only that
//! something is wrong; the seal says it of the row, whenever the row is read for a peer. Being a sum it is kept like the
//! digest, change by change, and costs no hash of its own. One damage in four billion passes it.

use kith_gossip_proto::{Digest, Hlc, SiteId, Stamp};
use thiserror::Error;

/// How many columns of a table, its key aside, can carry stamps: the bits of a mask.
pub(crate) const COLUMNS_MAX: usize = 128;

/// A row's causal length and stamps, by `cid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamps {
    pub(crate) cl: u64,
    seal: u32,
    /// The row's own first, each once.
    groups: Vec<Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    mask: u128,
    stamp: Stamp,
}

/// A row whose stamps no release writes, or whose seal is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a row is not what was written")]
pub(crate) struct Damaged;

impl Stamps {
    /// A row whose every column in `mask` was written by the change that created it; a tombstone with mask 0. Not sealed.
    pub(crate) fn fresh(cl: u64, stamp: Stamp, mask: u128) -> Self {
        Self { cl, seal: 0, groups: vec![Group { mask, stamp }] }
    }

    /// Sealed with the sum of all terms of the row.
    pub(crate) fn sealed(mut self, terms: Digest) -> Self {
        self.seal = low(terms);
        self
    }

    /// Whether these are the terms that the row was written with.
    pub(crate) fn is_sealed(&self, terms: Digest) -> bool {
        self.seal == low(terms)
    }

    /// Terms came into the row and went from it.
    pub(crate) fn reseal(&mut self, went: Digest, came: Digest) {
        self.seal = self.seal.wrapping_sub(low(went)).wrapping_add(low(came));
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.cl % 2 == 1
    }

    /// The row's own stamp.
    pub(crate) fn rs(&self) -> Stamp {
        self.groups[0].stamp
    }

    /// A column's stamp; none while the column was never written in this life.
    pub(crate) fn cell(&self, cid: u8) -> Option<Stamp> {
        self.groups.iter().find(|group| group.mask & (1 << cid) != 0).map(|group| group.stamp)
    }

    /// Every stamp, each once, the row's own first.
    pub(crate) fn each(&self) -> impl Iterator<Item = Stamp> + '_ {
        self.groups.iter().map(|group| group.stamp)
    }

    pub(crate) fn has(&self, stamp: Stamp) -> bool {
        self.groups.iter().any(|group| group.stamp == stamp)
    }

    /// The columns that carry a stamp.
    pub(crate) fn mask(&self) -> u128 {
        self.groups.iter().fold(0, |mask, group| mask | group.mask)
    }

    /// Gives the columns of `mask` this stamp; a stamp that no column carries any more is gone.
    pub(crate) fn set(&mut self, mask: u128, stamp: Stamp) {
        self.clear(mask);
        match self.groups.iter_mut().find(|group| group.stamp == stamp) {
            Some(group) => group.mask |= mask,
            None => self.groups.push(Group { mask, stamp }),
        }
        self.tidy();
    }

    /// Takes the stamps of these columns away, as if they were never written.
    pub(crate) fn unset(&mut self, mask: u128) {
        self.clear(mask);
        self.tidy();
    }

    /// Changes the row's own stamp.
    pub(crate) fn set_rs(&mut self, stamp: Stamp) {
        if self.groups[0].stamp != stamp {
            let mask = match self.groups.iter().position(|group| group.stamp == stamp) {
                Some(at) => self.groups.remove(at).mask,
                None => 0,
            };
            self.groups.insert(0, Group { mask, stamp });
            self.tidy();
        }
    }

    /// Puts one stamp in the place of some.
    pub(crate) fn replace(&mut self, these: impl Fn(Stamp) -> bool, stamp: Stamp) {
        let replaced = self.groups.iter().filter(|group| these(group.stamp));
        let mask = replaced.fold(0, |mask, group| mask | group.mask);
        if these(self.rs()) {
            self.set_rs(stamp);
        }
        self.set(mask, stamp);
    }

    fn clear(&mut self, mask: u128) {
        self.groups.iter_mut().for_each(|group| group.mask &= !mask);
    }

    fn tidy(&mut self) {
        let mut at = 0;
        self.groups.retain(|group| {
            at += 1;
            at == 1 || group.mask != 0
        });
    }

    /// The bytes. `ord` numbers sites.
    pub(crate) fn pack(&self, mut ord: impl FnMut(Stamp) -> u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + 20 * self.groups.len());
        push(&mut out, u128::from(self.cl));
        out.extend_from_slice(&self.seal.to_le_bytes());
        for group in &self.groups {
            push(&mut out, group.mask);
            push(&mut out, u128::from(ord(group.stamp)));
            push(&mut out, u128::from(group.stamp.version));
            push(&mut out, u128::from(group.stamp.seq));
            out.extend_from_slice(&group.stamp.hlc.to_bits().to_le_bytes());
        }
        out
    }

    /// Reads the bytes. `site` knows sites by number.
    pub(crate) fn unpack(mut bytes: &[u8], site: impl Fn(u32) -> Option<SiteId>) -> Result<Self, Damaged> {
        let cl = narrow(take(&mut bytes)?)?;
        let (seal, rest) = bytes.split_first_chunk::<4>().ok_or(Damaged)?;
        let seal = u32::from_le_bytes(*seal);
        bytes = rest;
        let mut groups = Vec::with_capacity(1);
        while groups.is_empty() || !bytes.is_empty() {
            let mask = take(&mut bytes)?;
            let site = site(narrow(take(&mut bytes)?)?).ok_or(Damaged)?;
            let version = narrow(take(&mut bytes)?)?;
            let seq = narrow(take(&mut bytes)?)?;
            let (hlc, rest) = bytes.split_first_chunk::<8>().ok_or(Damaged)?;
            bytes = rest;
            let hlc = Hlc::from_bits(u64::from_le_bytes(*hlc));
            groups.push(Group { mask, stamp: Stamp { hlc, site, version, seq } });
        }
        Ok(Self { cl, seal, groups })
    }
}

fn low(terms: Digest) -> u32 {
    terms.to_bits() as u32
}

fn push(out: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        out.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Result<u128, Damaged> {
    let mut number = 0;
    for shift in (0..128).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Damaged)?;
        *bytes = rest;
        number |= u128::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Damaged)
}

fn narrow<T: TryFrom<u128>>(number: u128) -> Result<T, Damaged> {
    T::try_from(number).map_err(|_| Damaged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn site(ord: u32) -> Option<SiteId> {
        (ord < 4).then(|| SiteId::new([ord as u8; 16]))
    }

    fn stamp() -> impl Strategy<Value = Stamp> {
        (0u64..3, 0u32..4, prop_oneof![Just(1u64), Just(u64::MAX)], 0u32..2).prop_map(|(ms, ord, version, seq)| Stamp {
            hlc: Hlc::from_ms(ms),
            site: site(ord).unwrap(),
            version,
            seq,
        })
    }

    #[test]
    fn a_fresh_row_takes_about_twenty_bytes() {
        let stamp = Stamp { hlc: Hlc::from_ms(1_700_000_000_000), site: site(1).unwrap(), version: 70_000, seq: 3 };
        assert_eq!(Stamps::fresh(1, stamp, 0xFF).pack(|_| 1).len(), 20);
    }

    proptest! {
        #[test]
        fn stamps_survive_packing(
            first in stamp(),
            sets in proptest::collection::vec((stamp(), prop_oneof![any::<u128>(), 0u128..16]), 0..6),
            own in stamp(),
        ) {
            let mut stamps = Stamps::fresh(7, first, u128::MAX >> 1).sealed(Digest::from_bits(own.seq.into()));
            for (stamp, mask) in sets {
                stamps.set(mask, stamp);
                for cid in 0..128u8 {
                    if mask & (1 << cid) != 0 {
                        prop_assert_eq!(stamps.cell(cid), Some(stamp));
                    }
                }
            }
            stamps.set_rs(own);
            prop_assert_eq!(stamps.rs(), own);
            let bytes = stamps.pack(|stamp| u32::from(stamp.site.as_bytes()[0]));
            prop_assert_eq!(Stamps::unpack(&bytes, site), Ok(stamps));
        }

        #[test]
        fn foreign_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            drop(Stamps::unpack(&bytes, site));
        }
    }
}
