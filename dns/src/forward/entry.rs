//! One kept answer: wire bytes behind any question of its name, with the places of the TTLs in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::wire::Mark;
use crate::answer::message::{self, Ede, Extent, Opt};
use crate::query::{HEADER, Query, Rcode};

/// How long an answer is kept beyond its life, for the time when no upstream answers (RFC 8767 §5: one to three days).
pub(super) const STALE_MAX: Duration = Duration::from_secs(86_400);
/// Longest time for which a failure is given again without asking.
const HOLD_MAX: Duration = Duration::from_secs(5);
/// TTL of what is served although it has expired (RFC 8767 §4).
const STALE_TTL: u32 = 30;
/// Part of its life that is left when a busy answer is fetched anew: a tenth.
const PREFETCH_PART: u32 = 10;
/// Shortest life that is worth fetching ahead: below it, a tenth is less than an upstream takes.
const PREFETCH_MIN: Duration = Duration::from_secs(5);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Entry {
    body: Body,
    /// How long it may be kept from the moment it came.
    ttl: Duration,
    born: Option<Instant>,
    /// Set by the first who sees that it is to be fetched anew.
    refreshing: AtomicBool,
    /// What stands in for an answer while none can be had.
    makeshift: Option<Makeshift>,
}

/// Of an answer that is none: given for a moment, so that upstreams in trouble are not asked by everybody at once.
#[derive(Debug)]
struct Makeshift {
    /// Failures in a row up to this one.
    strikes: u32,
    /// The last true answer.
    last: Option<Arc<Entry>>,
}

/// What an answer says.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) rcode: Rcode,
    pub(crate) ede: Option<Ede>,
    /// Records in the answer and in the authority section.
    pub(crate) counts: [u16; 2],
    /// All of them. Compression pointers reach into the question: right behind any header and question of this length.
    pub(crate) records: Box<[u8]>,
    pub(crate) marks: Box<[Mark]>,
}

/// What somebody who finds an answer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// Give it.
    Fresh,
    /// Give it, and see that it is fetched anew.
    Nearing,
    /// Not give it, unless nothing better can be had.
    Expired,
}

impl Body {
    /// The same, expired.
    fn stale(&self) -> Self {
        let ede = match self.rcode {
            Rcode::NxDomain => Ede::StaleNxDomain,
            _ => Ede::StaleAnswer,
        };
        let mut records = self.records.clone();
        for mark in &self.marks {
            let at = usize::from(mark.ttl);
            records[at..at + 4].copy_from_slice(&STALE_TTL.to_be_bytes());
        }
        Self { ede: Some(ede), records, ..self.clone() }
    }
}

impl Entry {
    /// An answer that came at no time yet.
    pub(crate) fn new(body: Body, ttl: Duration) -> Self {
        Self { body, ttl, born: None, refreshing: AtomicBool::new(false), makeshift: None }
    }

    /// The same, come now.
    pub(crate) fn born(self, now: Instant) -> Self {
        Self { born: Some(now), ..self }
    }

    /// What is given after one more failure to get an answer: for a second at first, then for longer, at most
    /// [`HOLD_MAX`] (RFC 9520 §3.2). `before` is what was kept until then; its last true answer is given again if it
    /// has not expired too long ago, and SERVFAIL if there is none.
    pub(crate) fn failed(before: Option<&Arc<Entry>>, ede: Option<Ede>, now: Instant) -> Self {
        let strikes = before.and_then(|before| before.makeshift.as_ref()).map_or(1, |makeshift| makeshift.strikes + 1);
        let last = before.and_then(|before| match &before.makeshift {
            Some(makeshift) => makeshift.last.clone(),
            None => Some(Arc::clone(before)),
        });
        let last = last.filter(|last| last.expired_for(now).is_none_or(|ago| ago <= STALE_MAX));
        let body = match &last {
            Some(last) => last.body.stale(),
            None => Body { rcode: Rcode::ServFail, ede, counts: [0; 2], records: [].into(), marks: [].into() },
        };
        let hold = Duration::from_secs(1 << (strikes - 1).min(8)).min(HOLD_MAX);
        Self { makeshift: Some(Makeshift { strikes, last }), ..Self::new(body, hold).born(now) }
    }

    /// Whether this is an old answer, given for want of a better one.
    pub(crate) fn is_stale(&self) -> bool {
        self.makeshift.as_ref().is_some_and(|makeshift| makeshift.last.is_some())
    }

    /// Whether it is worth keeping.
    pub(crate) fn is_lasting(&self) -> bool {
        self.ttl > Duration::ZERO
    }

    pub(crate) fn rcode(&self) -> Rcode {
        self.body.rcode
    }

    /// What else is to be said of it.
    pub(crate) fn ede(&self) -> Option<Ede> {
        self.body.ede
    }

    /// How long ago it expired; `None` while it has not.
    fn expired_for(&self, now: Instant) -> Option<Duration> {
        self.elapsed(now).checked_sub(self.ttl)
    }

    fn elapsed(&self, now: Instant) -> Duration {
        self.born.map_or(Duration::ZERO, |born| now.saturating_duration_since(born))
    }

    /// What is to be done with it. Only the first who asks is told to fetch it anew.
    pub(crate) fn age(&self, now: Instant) -> Age {
        let elapsed = self.elapsed(now);
        if elapsed >= self.ttl {
            return Age::Expired;
        }
        let nearing =
            self.makeshift.is_none() && self.ttl >= PREFETCH_MIN && (self.ttl - elapsed) * PREFETCH_PART <= self.ttl;
        if nearing && !self.refreshing.load(Ordering::Relaxed) && !self.refreshing.swap(true, Ordering::Relaxed) {
            return Age::Nearing;
        }
        Age::Fresh
    }

    /// How long it may be kept.
    #[cfg(test)]
    pub(crate) fn life(&self) -> Duration {
        self.ttl
    }

    /// Bytes that keeping it takes, without its key.
    pub(crate) fn bytes(&self) -> usize {
        let last = self.makeshift.as_ref().and_then(|makeshift| makeshift.last.as_ref());
        let behind = last.map_or(0, |last| last.bytes());
        behind + size_of::<Self>() + self.body.records.len() + self.body.marks.len() * size_of::<Mark>()
    }

    /// Writes the reply to `query`, of at most `size` bytes: whole records, and TC if one of them is missing.
    /// `opt` says its [`Entry::ede`].
    pub(crate) fn write(&self, query: &Query<'_>, size: usize, opt: Option<&Opt<'_>>, now: Instant, out: &mut Vec<u8>) {
        let body = &self.body;
        let room = size.saturating_sub(HEADER + query.question.len() + opt.map_or(0, Opt::len));
        let (kept, bytes) = if body.records.len() <= room {
            (body.marks.len(), body.records.len())
        } else {
            let kept = body.marks.partition_point(|mark| usize::from(mark.end) <= room);
            (kept, kept.checked_sub(1).map_or(0, |last| usize::from(body.marks[last].end)))
        };
        out.clear();
        out.extend_from_slice(&[0; HEADER]);
        out.extend_from_slice(query.question);
        let base = out.len();
        out.extend_from_slice(&body.records[..bytes]);
        let elapsed = u32::try_from(self.elapsed(now).as_secs()).unwrap_or(u32::MAX);
        if elapsed > 0 {
            for mark in &body.marks[..kept] {
                let ttl = &mut out[base + usize::from(mark.ttl)..][..4];
                let left = u32::from_be_bytes([ttl[0], ttl[1], ttl[2], ttl[3]]).saturating_sub(elapsed);
                ttl.copy_from_slice(&left.to_be_bytes());
            }
        }
        let extent = if kept < body.marks.len() { Extent::Cut } else { Extent::Whole };
        let answers = kept.min(usize::from(body.counts[0]));
        let counts = [answers as u16, (kept - answers) as u16];
        message::forwarded(out, query.head, self.body.rcode, extent, counts, opt);
    }
}
