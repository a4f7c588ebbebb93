//! What forwarding shows of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::group::{Group, Peer, RESULTS};
use super::{Forwarder, lock};

/// Forwarding at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForwardStatus {
    /// Every upstream that is asked.
    pub upstreams: Vec<UpstreamStatus>,
    /// Answers from the cache.
    pub hits: u64,
    /// Questions that an upstream had to be asked about, or that waited for somebody else's asking.
    pub misses: u64,
    /// Answers that had expired and were given because no upstream answered.
    pub stale: u64,
    /// Questions asked before their answer expired, since it is in use.
    pub prefetches: u64,
    /// Questions that were not, because too many were being asked so.
    pub prefetches_skipped: u64,
    /// Questions turned away because too many waited.
    pub turned_away: u64,
    /// Questions refused to whom nothing is forwarded.
    pub refused: u64,
    /// Questions of our own that came back to us.
    pub loops: u64,
    /// Records dropped from answers, because they pointed at what an upstream may not point at.
    pub rebind_dropped: u64,
    /// Answers kept.
    pub entries: usize,
    /// Bytes that they take; those that workers keep at hand are counted again, as their tables are.
    pub bytes: usize,
}

/// One upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// Its address, as it is configured.
    pub name: String,
    /// Whether it answered when it was asked last.
    pub working: bool,
    /// What came of asking, and how often.
    pub results: Vec<(&'static str, u64)>,
}

/// The counters of all but the workers.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) prefetches: AtomicU64,
    pub(super) prefetches_skipped: AtomicU64,
    pub(super) turned_away: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) loops: AtomicU64,
    pub(super) rebind_dropped: AtomicU64,
}

/// The counters of one worker, which alone writes them.
#[derive(Debug, Default)]
pub(super) struct TableCounts {
    pub(super) hits: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) bytes: AtomicUsize,
}

/// Adds one where others add as well.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Adds one where nobody else does: no locked instruction.
pub(super) fn count_alone(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Forwarder {
    /// What forwarding shows at this moment.
    pub(crate) fn status(&self) -> ForwardStatus {
        let shared = &*self.0;
        let groups = shared.domains.iter().flatten().chain([&shared.default]);
        let groups: Vec<Arc<Group>> = groups.filter_map(|servers| servers.group(&shared.own)).collect();
        let upstream = |peer: &Arc<Peer>| UpstreamStatus {
            name: peer.upstream().to_string(),
            working: !peer.is_down(),
            results: RESULTS.into_iter().zip(peer.counts()).collect(),
        };
        let counts = &shared.counts;
        let of_tables = |of: fn(&TableCounts) -> u64| shared.tables.iter().map(|counts| of(counts)).sum::<u64>();
        let (entries, bytes) = {
            let cache = lock(&shared.cache);
            (cache.len(), cache.bytes())
        };
        ForwardStatus {
            upstreams: groups.iter().flat_map(|group| group.peers()).map(upstream).collect(),
            hits: read(&counts.hits) + of_tables(|counts| read(&counts.hits)),
            misses: read(&counts.misses),
            stale: read(&counts.stale) + of_tables(|counts| read(&counts.stale)),
            prefetches: read(&counts.prefetches),
            prefetches_skipped: read(&counts.prefetches_skipped),
            turned_away: read(&counts.turned_away),
            refused: read(&counts.refused),
            loops: read(&counts.loops),
            rebind_dropped: read(&counts.rebind_dropped),
            entries,
            bytes: bytes + of_tables(|counts| counts.bytes.load(Ordering::Relaxed) as u64) as usize,
        }
    }
}
