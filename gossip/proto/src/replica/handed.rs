//! Versions that the store was handed and has not said it stored.

use std::collections::BTreeMap;

use crate::{SiteId, Vector, Version};

/// Bytes of versions that the store may hold in its queue. A store that keeps up holds a few kilobytes; one that stalls
/// leaves the rest parked, where each site has a bound of its own.
const STORE_BYTES: usize = 16 << 20;

/// The heads as they will be once the store has applied all that it was handed, and the size of what it has not.
#[derive(Debug)]
pub(super) struct Handed {
    heads: Vector,
    queued: BTreeMap<SiteId, BTreeMap<u64, usize>>,
    bytes: usize,
}

impl Handed {
    pub(super) fn new(heads: Vector) -> Self {
        Self { heads, queued: BTreeMap::new(), bytes: 0 }
    }

    pub(super) fn heads(&self) -> &Vector {
        &self.heads
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Room for one more version of any size: the bound is exceeded by less than the greatest version.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < STORE_BYTES
    }

    pub(super) fn hand(&mut self, version: &Version, size: usize) {
        self.heads.raise(version.site, version.version);
        self.queued.entry(version.site).or_default().insert(version.version, size);
        self.bytes += size;
    }

    /// The store has synced these heads.
    pub(super) fn stored(&mut self, heads: &Vector) {
        self.heads.join(heads);
        self.queued.retain(|&site, versions| {
            *versions = versions.split_off(&(heads.head(site) + 1));
            !versions.is_empty()
        });
        self.bytes = self.queued.values().flat_map(BTreeMap::values).sum();
    }

    /// The store did not apply something, so it will skip what came after it: begin again from what it has.
    pub(super) fn fall_back(&mut self, heads: &Vector) {
        *self = Self::new(heads.clone());
    }
}
