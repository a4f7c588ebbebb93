//! Versions that came before what they need, or faster than the store takes them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{NodeId, SiteId, Vector, Version};

/// Bytes of versions of one site that may wait. Pushes of a site come in order, so what waits is what was sent around one
/// lost frame or one slow third node; 4 MiB is four versions of the greatest size, or some 20,000 of a usual one. What
/// comes on top is dropped and pulled. One version may always wait, whatever its size, or it could only ever be pulled.
const SITE_BYTES: usize = 4 << 20;

/// How long a version may wait. Whatever can still come has been pulled many times by then; what has not is a version whose
/// predecessor no node has any more: its site lost both in a power cut, and goes on under another id.
const PARKED_FOR: Duration = Duration::from_secs(60);

/// Versions by site and number, bounded per site.
#[derive(Debug, Default)]
pub(super) struct Parked(BTreeMap<SiteId, Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    bytes: usize,
    versions: BTreeMap<u64, Parcel>,
}

/// A version with what is asked of it again and again while it waits.
#[derive(Debug)]
struct Parcel {
    version: Version,
    from: NodeId,
    needs: Vector,
    size: usize,
    until: Duration,
}

impl Parked {
    pub(super) fn bytes(&self) -> usize {
        self.0.values().map(|waiting| waiting.bytes).sum()
    }

    /// Keeps a version until it can be handed on, if there is room. Returns whether it was not there.
    pub(super) fn insert(&mut self, version: Version, from: &NodeId, now: Duration) -> bool {
        let waiting = self.0.entry(version.site).or_default();
        let (size, until) = (version.size(), now + PARKED_FOR);
        let fits = waiting.bytes + size <= SITE_BYTES || waiting.versions.is_empty();
        let is_new = !waiting.versions.contains_key(&version.version);
        if fits && is_new {
            waiting.bytes += size;
            let (needs, from) = (version.needs(), from.clone());
            waiting.versions.insert(version.version, Parcel { version, from, needs, size, until });
        }
        is_new
    }

    /// Takes a version that follows `handed` directly and needs nothing beyond it, with its size and who sent it.
    pub(super) fn take_ready(&mut self, handed: &Vector) -> Option<(Version, usize, NodeId)> {
        let ready = |(&site, waiting): (&SiteId, &Waiting)| {
            let (_, parcel) = waiting.versions.first_key_value()?;
            handed.covers(&parcel.needs).then_some(site)
        };
        let site = self.0.iter().find_map(ready)?;
        let waiting = self.0.get_mut(&site)?;
        let (_, Parcel { version, from, size, .. }) = waiting.versions.pop_first()?;
        waiting.bytes -= size;
        if waiting.versions.is_empty() {
            self.0.remove(&site);
        }
        Some((version, size, from))
    }

    /// Drops what is handed on or was brought by a pull meanwhile, and what waits in vain.
    pub(super) fn forget(&mut self, handed: &Vector, now: Duration) {
        self.0.retain(|&site, waiting| {
            let head = handed.head(site);
            waiting.versions.retain(|&number, parcel| number > head && parcel.until > now);
            waiting.bytes = waiting.versions.values().map(|parcel| parcel.size).sum();
            !waiting.versions.is_empty()
        });
    }
}
