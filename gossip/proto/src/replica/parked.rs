//! Versions that came before what they need.

use std::collections::BTreeMap;

use crate::{SiteId as Site, Value, Vector, Version};

/// Bytes of versions of one site that may wait. Pushes of a site come in order, so what waits is what was sent around one
/// lost frame or one slow third node; 4 MiB is four versions of the greatest size, or some 20,000 of a usual one. What
/// comes on top is dropped and pulled.
const SITE_BYTES: usize = 4 << 20;

/// Versions by site and number, bounded per site.
#[derive(Debug, Default)]
pub(super) struct Parked(BTreeMap<Site, Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    bytes: usize,
    versions: BTreeMap<u64, Version>,
}

impl Parked {
    pub(super) fn bytes(&self) -> usize {
        self.0.values().map(|waiting| waiting.bytes).sum()
    }

    pub(super) fn insert(&mut self, version: Version) {
        let waiting = self.0.entry(version.site).or_default();
        let size = size(&version);
        if waiting.bytes + size <= SITE_BYTES && !waiting.versions.contains_key(&version.version) {
            waiting.bytes += size;
            waiting.versions.insert(version.version, version);
        }
    }

    /// Takes a version that follows `handed` directly and needs nothing beyond it.
    pub(super) fn take_ready(&mut self, handed: &Vector) -> Option<Version> {
        let ready = |(&site, waiting): (&Site, &Waiting)| {
            let (&number, version) = waiting.versions.first_key_value()?;
            (number == handed.head(site) + 1 && handed.covers(&version.needs())).then_some(site)
        };
        let site = self.0.iter().find_map(ready)?;
        let waiting = self.0.get_mut(&site)?;
        let (_, version) = waiting.versions.pop_first()?;
        waiting.bytes -= size(&version);
        if waiting.versions.is_empty() {
            self.0.remove(&site);
        }
        Some(version)
    }

    /// Drops what a pull has brought meanwhile.
    pub(super) fn forget(&mut self, handed: &Vector) {
        self.0.retain(|&site, waiting| {
            waiting.versions = waiting.versions.split_off(&(handed.head(site) + 1));
            waiting.bytes = waiting.versions.values().map(size).sum();
            !waiting.versions.is_empty()
        });
    }
}

/// About how much memory a version takes.
fn size(version: &Version) -> usize {
    let value = |value: &Value| match value {
        Value::Null | Value::Integer(_) | Value::Real(_) => 8,
        Value::Text(bytes) | Value::Blob(bytes) => 16 + bytes.len(),
    };
    let changes = version.changes.iter();
    64 + changes
        .map(|c| 96 + c.key.as_bytes().len() + c.cells.values().map(|v| 48 + value(v)).sum::<usize>())
        .sum::<usize>()
}
