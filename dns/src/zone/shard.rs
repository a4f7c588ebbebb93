//! Shards: the names of a zone in some thousands of immutable pieces, so that a change makes only its own pieces anew.
//!
//! ```text
//! Shards ─► 64 branches ─► 64 shards each ─► index ─► entries
//! ```
//! A generation shares with the one before it every branch and shard that did not change. Two levels, because the next
//! generation then copies some hundred pointers and not all 4,096.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::entry::{self, Entries, Entry, UnitId};
use super::node::Node;

/// Branches, and shards in each.
const FAN: usize = 64;
/// Shards. At a million names each has some 250, of which 30 KB are copied when one of them changes.
const SHARDS: usize = FAN * FAN;

/// Where a name is: the number of a shard.
pub(crate) type ShardId = u16;

/// All names of one table.
#[derive(Debug, Clone)]
pub(crate) struct Shards {
    /// Seeded at random, so that nobody can choose names that collide.
    seed: RandomState,
    branches: Box<[Arc<Branch>]>,
    /// How many names there are.
    names: usize,
}

#[derive(Debug, Clone)]
struct Branch {
    shards: Box<[Arc<Shard>]>,
}

/// One piece.
#[derive(Debug, Default)]
struct Shard {
    /// Open addressing with a power of two of slots, at most three quarters of them used.
    index: Box<[Slot]>,
    /// Entries, one behind the other.
    entries: Box<[u8]>,
    /// Names that a question finds.
    names: usize,
}

/// A place in the index.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// 32 bits of the hash, of which the lower ones are the place where the search begins.
    tag: u32,
    /// Where the entry begins; [`FREE`] where there is none.
    at: u32,
}

const FREE: u32 = u32::MAX;

impl Default for Shards {
    fn default() -> Self {
        // All begin as the same empty one.
        let shard = Arc::new(Shard::default());
        let branch = Arc::new(Branch { shards: std::iter::repeat_n(shard, FAN).collect() });
        Self { seed: RandomState::default(), branches: std::iter::repeat_n(branch, FAN).collect(), names: 0 }
    }
}

impl Shards {
    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.names
    }

    /// What stands at a name.
    pub(crate) fn get(&self, name: &[u8]) -> Option<Node<'_>> {
        let hash = self.hash(name);
        self.shard(shard_of(hash)).get(tag_of(hash), name)
    }

    /// Every entry of a name, also those that no question finds.
    pub(crate) fn all(&self, name: &[u8]) -> impl Iterator<Item = Entry<'_>> {
        let hash = self.hash(name);
        self.shard(shard_of(hash)).probe(tag_of(hash), name)
    }

    /// The entries of one unit in one shard.
    pub(crate) fn of_unit(&self, shard: ShardId, unit: UnitId) -> impl Iterator<Item = Entry<'_>> {
        entry::of_unit(&self.shard(shard).entries, unit)
    }

    /// Every entry.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.branches
            .iter()
            .flat_map(|branch| branch.shards.iter())
            .flat_map(|shard| shard.entries())
            .map(|(_, one)| one)
    }

    /// The shard of a name.
    pub(crate) fn shard_of(&self, name: &[u8]) -> ShardId {
        shard_of(self.hash(name))
    }

    /// Takes entries out of these shards and puts others in, wherever they belong. What has the same entries afterwards
    /// stays as it is.
    pub(crate) fn replace(&mut self, shards: &[ShardId], gone: impl Fn(&Entry<'_>) -> bool, added: &Entries) {
        let mut changes: Vec<Change> = shards.iter().map(|shard| Change { shard: *shard, added: None }).collect();
        changes.extend(added.positions().map(|(at, entry)| {
            let hash = self.hash(entry.name);
            Change { shard: shard_of(hash), added: Some((tag_of(hash), at)) }
        }));
        changes.sort_by_key(|change| change.shard);
        for changes in changes.chunk_by(|a, b| a.shard == b.shard) {
            let (branch, place) = (usize::from(changes[0].shard) / FAN, usize::from(changes[0].shard) % FAN);
            let old = &self.branches[branch].shards[place];
            let here = changes.iter().filter_map(|change| change.added);
            let here = here.filter_map(|(tag, at)| Some((tag, added.at(at)?)));
            let Some(new) = old.replaced(&gone, here) else { continue };
            self.names = self.names - old.names + new.names;
            Arc::make_mut(&mut self.branches[branch]).shards[place] = Arc::new(new);
        }
    }

    /// How many shards these are not the same as those.
    #[cfg(test)]
    pub(crate) fn different(&self, other: &Self) -> usize {
        let all = |shards: &Self| shards.branches.iter().flat_map(|branch| branch.shards.to_vec()).collect::<Vec<_>>();
        all(self).iter().zip(all(other)).filter(|(a, b)| !Arc::ptr_eq(a, b)).count()
    }

    fn shard(&self, shard: ShardId) -> &Shard {
        &self.branches[usize::from(shard) / FAN].shards[usize::from(shard) % FAN]
    }

    fn hash(&self, name: &[u8]) -> u64 {
        let mut hasher = self.seed.build_hasher();
        hasher.write(name);
        hasher.finish()
    }
}

/// One shard to look at, and perhaps an entry for it: its tag, and where it is among those that are added.
struct Change {
    shard: ShardId,
    added: Option<(u32, usize)>,
}

fn shard_of(hash: u64) -> ShardId {
    (hash as usize % SHARDS) as ShardId
}

fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

impl Shard {
    fn get(&self, tag: u32, name: &[u8]) -> Option<Node<'_>> {
        self.probe(tag, name).find_map(|entry| entry.node())
    }

    /// Entries of this name, the one that is answered before all others.
    fn probe(&self, tag: u32, name: &[u8]) -> impl Iterator<Item = Entry<'_>> {
        let mask = self.index.len().wrapping_sub(1);
        let mut at = tag as usize & mask;
        std::iter::from_fn(move || {
            // One slot in four is free, so that this ends.
            let slot = self.index.get(at).filter(|slot| slot.at != FREE)?;
            at = (at + 1) & mask;
            Some(slot)
        })
        .filter(move |slot| slot.tag == tag)
        .filter_map(|slot| Entry::read(&self.entries[slot.at as usize..]))
        .filter(move |entry| entry.name == name)
    }

    fn entries(&self) -> impl Iterator<Item = (u32, Entry<'_>)> {
        let used = self.index.iter().filter(|slot| slot.at != FREE);
        used.filter_map(|slot| Some((slot.tag, Entry::read(&self.entries[slot.at as usize..])?)))
    }

    /// This shard without what is gone and with what is added; `None` when that is the same.
    fn replaced<'a>(
        &self,
        gone: impl Fn(&Entry<'_>) -> bool,
        added: impl Iterator<Item = (u32, Entry<'a>)> + Clone,
    ) -> Option<Shard> {
        let mut out: Vec<&[u8]> =
            self.entries().filter(|(_, entry)| gone(entry)).map(|(_, entry)| entry.bytes).collect();
        let mut new: Vec<&[u8]> = added.clone().map(|(_, entry)| entry.bytes).collect();
        out.sort_unstable();
        new.sort_unstable();
        if out == new {
            return None;
        }
        let used = self.index.iter().filter(|slot| slot.at != FREE).count();
        let size = |all: &[&[u8]]| all.iter().map(|bytes| bytes.len()).sum::<usize>();
        let mut shard = Building::new(used - out.len() + new.len(), self.entries.len() - size(&out) + size(&new));
        for (tag, entry) in self.entries().filter(|(_, entry)| !gone(entry)) {
            shard.insert(tag, &entry);
        }
        for (tag, entry) in added {
            shard.insert(tag, &entry);
        }
        Some(Shard { index: shard.index.into(), entries: shard.entries.into(), names: shard.names })
    }
}

/// A shard that is being put together.
struct Building {
    index: Vec<Slot>,
    entries: Vec<u8>,
    names: usize,
}

impl Building {
    /// Of so many entries, which have so many bytes.
    fn new(count: usize, bytes: usize) -> Building {
        let slots = if count == 0 { 0 } else { (count * 4 / 3 + 1).next_power_of_two() };
        Building { index: vec![Slot { tag: 0, at: FREE }; slots], entries: Vec::with_capacity(bytes), names: 0 }
    }

    fn insert(&mut self, tag: u32, entry: &Entry<'_>) {
        let at = u32::try_from(self.entries.len()).expect("a shard of 4 GiB would be a zone of 16 TiB");
        self.entries.extend_from_slice(entry.bytes);
        let mut slot = Slot { tag, at };
        let mask = self.index.len() - 1;
        let mut place = tag as usize & mask;
        let mut first = entry.node().is_some();
        while self.index[place].at != FREE {
            let held = self.index[place];
            if held.tag == tag
                && let (Some(other), Some(mine)) = (self.read(held.at), self.read(slot.at))
                && other.name == mine.name
            {
                first &= other.node().is_none();
                if mine.beats(&other) {
                    self.index[place] = slot;
                    slot = held;
                }
            }
            place = (place + 1) & mask;
        }
        self.index[place] = slot;
        self.names += usize::from(first);
    }

    fn read(&self, at: u32) -> Option<Entry<'_>> {
        Entry::read(&self.entries[at as usize..])
    }
}

/// Which shards a unit has entries in, to find them again.
#[derive(Debug, Default, Clone)]
pub(crate) struct Places(Box<[ShardId]>);

impl Places {
    /// The shards of these entries, unit by unit.
    pub(crate) fn by_unit(shards: &Shards, entries: &Entries) -> HashMap<UnitId, Places, RandomState> {
        let mut places: Vec<(UnitId, ShardId)> =
            entries.iter().map(|entry| (entry.unit, shards.shard_of(entry.name))).collect();
        places.sort_unstable();
        places.dedup();
        let of_unit = |of: &[(UnitId, ShardId)]| (of[0].0, Places(of.iter().map(|(_, shard)| *shard).collect()));
        places.chunk_by(|a, b| a.0 == b.0).map(of_unit).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.0.iter().copied()
    }

    /// The entries of a unit.
    pub(crate) fn entries<'s>(
        &self,
        shards: &'s Shards,
        unit: UnitId,
    ) -> impl Iterator<Item = Entry<'s>> + use<'s, '_> {
        self.iter().flat_map(move |shard| shards.of_unit(shard, unit))
    }
}
