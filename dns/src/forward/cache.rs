//! Kept answers, bounded in bytes. Pure: whoever asks says what time it is.
//!
//! Which answers go when there is no room is decided by CLOCK: a hand goes round, takes away what nobody asked for since
//! it came by last, and spares the rest once more. What is asked for once, as the random names of a flood are, goes at
//! the first round; and a hit costs one flag, no list.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::entry::{Age, Entry};
use crate::name::NAME_MAX;
use crate::query::Query;

/// What an entry takes beside its bytes and its key: slot, table, allocations.
const OVERHEAD: usize = 128;
/// Bytes of a key behind the name: type, class, DO and CD.
const KEY_TAIL: usize = 5;

/// What an answer depends on: name in lower case, type, class, DO, CD.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    bytes: [u8; NAME_MAX + KEY_TAIL],
    len: usize,
}

impl Key {
    pub(crate) fn of(query: &Query<'_>) -> Self {
        let name = query.name.wire();
        let mut bytes = [0; NAME_MAX + KEY_TAIL];
        bytes[..name.len()].copy_from_slice(name);
        let len = name.len() + KEY_TAIL;
        let dnssec_ok = u8::from(query.edns.as_ref().is_some_and(|edns| edns.dnssec_ok != 0));
        let [t0, t1] = query.qtype.to_be_bytes();
        let [c0, c1] = query.qclass.to_be_bytes();
        bytes[name.len()..len].copy_from_slice(&[t0, t1, c0, c1, query.head.checking_disabled | dnssec_ok]);
        Self { bytes, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Kept answers by [`Key`].
#[derive(Debug)]
pub(crate) struct Cache {
    capacity: usize,
    bytes: usize,
    /// The hash is seeded at random, so that nobody can choose names that collide. Lookups only.
    places: HashMap<Arc<[u8]>, usize, foldhash::fast::RandomState>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    key: Arc<[u8]>,
    entry: Arc<Entry>,
    asked: Asked,
}

/// Whether somebody asked since the hand came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Since,
    Not,
}

impl Cache {
    /// An empty one of at most so many bytes.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, bytes: 0, places: HashMap::default(), slots: Vec::new(), free: Vec::new(), hand: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The answer under a key, however old. It allocates nothing.
    pub(crate) fn get(&mut self, key: &[u8]) -> Option<&Arc<Entry>> {
        let place = *self.places.get(key)?;
        let slot = self.slots[place].as_mut()?;
        slot.asked = Asked::Since;
        Some(&slot.entry)
    }

    /// The answer under a key that has not expired, and whether it is to be fetched anew.
    pub(crate) fn fresh(&mut self, key: &[u8], now: Instant) -> Option<(&Arc<Entry>, Age)> {
        let entry = self.get(key)?;
        match entry.age(now) {
            Age::Expired => None,
            age => Some((entry, age)),
        }
    }

    /// Keeps an answer, in place of the one under the same key, and removes others until there is room. One that is
    /// larger than an eighth of everything is not kept: it would drive out all the others.
    pub(crate) fn insert(&mut self, key: &[u8], entry: Arc<Entry>) {
        let cost = cost(key, &entry);
        if let Some(&place) = self.places.get(key) {
            self.remove(place);
        }
        if cost > self.capacity / 8 {
            return;
        }
        while self.bytes + cost > self.capacity {
            self.turn();
        }
        let key: Arc<[u8]> = key.into();
        let slot = Some(Slot { key: Arc::clone(&key), entry, asked: Asked::Not });
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.places.insert(key, place);
        self.bytes += cost;
    }

    /// Moves the hand by one.
    fn turn(&mut self) {
        let place = self.hand;
        self.hand = (self.hand + 1) % self.slots.len().max(1);
        match self.slots.get_mut(place) {
            Some(Some(slot)) if slot.asked == Asked::Since => slot.asked = Asked::Not,
            Some(Some(_)) => self.remove(place),
            Some(None) | None => {}
        }
    }

    fn remove(&mut self, place: usize) {
        if let Some(slot) = self.slots[place].take() {
            self.places.remove(&slot.key);
            self.bytes -= cost(&slot.key, &slot.entry);
            self.free.push(place);
        }
    }
}

fn cost(key: &[u8], entry: &Entry) -> usize {
    key.len() + entry.bytes() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::entry::Body;
    use super::*;
    use crate::query::Rcode;

    fn entry(now: Instant, secs: u64) -> Arc<Entry> {
        let body = Body { rcode: Rcode::NxDomain, ede: None, counts: [0; 2], records: [].into(), marks: [].into() };
        Arc::new(Entry::new(body, Duration::from_secs(secs)).born(now))
    }

    fn one() -> usize {
        cost(b"\x01a\0.....", &entry(Instant::now(), 1))
    }

    #[test]
    fn an_answer_lives_as_long_as_it_may_and_one_asker_fetches_it_before() {
        let now = Instant::now();
        let after = |secs| now + Duration::from_secs(secs);
        let mut cache = Cache::new(1 << 20);
        cache.insert(b"a", entry(now, 100));
        assert_eq!(cache.fresh(b"a", after(89)).map(|(_, age)| age), Some(Age::Fresh));
        assert_eq!(cache.fresh(b"a", after(90)).map(|(_, age)| age), Some(Age::Nearing));
        // One fetches it; the others go on taking it.
        assert_eq!(cache.fresh(b"a", after(91)).map(|(_, age)| age), Some(Age::Fresh));
        assert!(cache.fresh(b"a", after(100)).is_none());
    }

    #[test]
    fn an_expired_answer_is_given_again_for_a_day_while_nobody_answers_and_then_servfail() {
        let now = Instant::now();
        let after = |secs| now + Duration::from_secs(secs);
        let mut kept = entry(now, 100);
        // Each failure is held a little longer, at most 5 s.
        for (at, hold) in [(100, 1), (101, 2), (103, 4), (107, 5), (112, 5)] {
            kept = Arc::new(Entry::failed(Some(&kept), None, after(at)));
            assert_eq!((kept.rcode(), kept.is_stale()), (Rcode::NxDomain, true));
            assert_eq!(kept.age(after(at + hold - 1)), Age::Fresh, "{at}");
            assert_eq!(kept.age(after(at + hold)), Age::Expired, "{at}");
        }
        kept = Arc::new(Entry::failed(Some(&kept), None, after(100 + 86_400)));
        assert_eq!((kept.rcode(), kept.is_stale()), (Rcode::NxDomain, true));
        kept = Arc::new(Entry::failed(Some(&kept), None, after(101 + 86_400)));
        assert_eq!((kept.rcode(), kept.is_stale()), (Rcode::ServFail, false));
        assert_eq!(
            (Entry::failed(None, None, now).rcode(), kept.age(after(101 + 86_404))),
            (Rcode::ServFail, Age::Fresh)
        );
    }

    #[test]
    fn what_is_asked_for_survives_a_flood_of_names_that_are_asked_for_once() {
        let now = Instant::now();
        let mut cache = Cache::new(64 * one());
        cache.insert(b"\x01a\0.....", entry(now, 100));
        for flood in 0..10_000_u32 {
            cache.insert(&[&flood.to_be_bytes()[..], b"...."].concat(), entry(now, 100));
            assert!(cache.bytes() <= 64 * one());
            assert!(cache.fresh(b"\x01a\0.....", now).is_some(), "gone after {flood}");
        }
        assert_eq!(cache.len(), 64);
        assert_eq!(cache.bytes(), 64 * one());
    }

    #[test]
    fn a_later_answer_replaces_the_earlier_one() {
        let now = Instant::now();
        let mut cache = Cache::new(8 * one());
        cache.insert(b"\x01a\0.....", entry(now, 1));
        cache.insert(b"\x01a\0.....", entry(now, 50));
        assert_eq!((cache.len(), cache.bytes()), (1, one()));
        assert!(cache.fresh(b"\x01a\0.....", now + Duration::from_secs(40)).is_some());
    }

    #[test]
    fn what_is_too_large_for_the_whole_is_not_kept() {
        let now = Instant::now();
        let mut cache = Cache::new(8 * one() - 1);
        cache.insert(b"\x01a\0.....", entry(now, 1));
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }
}
