//! Units: who puts names into a zone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Problem;
use crate::facts::Group;
use crate::zone::entry::{Entries, UnitId};
use crate::zone::shard::{Places, Shards};

/// The unit of empty non-terminals above names of several units.
pub(super) const SHARED: UnitId = 0;

/// What a unit is, in the order in which problems are listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// What is always there: `local.node` and the lists of everything.
    Fixed,
    /// `{server}.node`, by the server's id.
    Server(Arc<str>),
    /// The names of a service and of its instances.
    Group(Group),
    /// The names of a NATS cluster.
    Cluster(Arc<str>),
}

/// All units that have names or problems.
#[derive(Debug, Default)]
pub(super) struct Units {
    ids: HashMap<Key, UnitId, RandomState>,
    /// By number, less one: the first is [`SHARED`].
    units: Vec<Unit>,
    free: Vec<UnitId>,
    problems: BTreeMap<Key, (Vec<Problem>, usize)>,
    problem_count: usize,
    changed: Problems,
}

/// Whether the problems are others than when they were last listed.
#[derive(Debug, Default, PartialEq, Eq)]
enum Problems {
    #[default]
    Same,
    Changed,
}

#[derive(Debug)]
struct Unit {
    key: Key,
    names: Places,
    pointers: Places,
}

impl Units {
    /// The number of a unit, which it gets if it has none.
    pub(super) fn id(&mut self, key: Key) -> UnitId {
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let unit = Unit { key: key.clone(), names: Places::default(), pointers: Places::default() };
        let id = match self.free.pop() {
            Some(id) => {
                self.units[id as usize - 1] = unit;
                id
            }
            None => {
                self.units.push(unit);
                self.units.len() as UnitId
            }
        };
        self.ids.insert(key, id);
        id
    }

    pub(super) fn key(&self, unit: UnitId) -> &Key {
        &self.units[unit as usize - 1].key
    }

    /// Where its names are.
    pub(super) fn names(&self, unit: UnitId) -> &Places {
        &self.units[unit as usize - 1].names
    }

    /// Where its addresses are.
    pub(super) fn pointers(&self, unit: UnitId) -> &Places {
        &self.units[unit as usize - 1].pointers
    }

    /// Remembers what is wrong with a unit: the first problems, and how many there are.
    pub(super) fn set_problems(&mut self, unit: UnitId, problems: Vec<Problem>, count: usize) {
        let key = self.key(unit).clone();
        let old = self.problems.get(&key).map_or(0, |(_, count)| *count);
        if old == 0 && count == 0 {
            return;
        }
        self.problem_count = self.problem_count - old + count;
        self.changed = Problems::Changed;
        if count == 0 {
            self.problems.remove(&key);
        } else {
            self.problems.insert(key, (problems, count));
        }
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flat_map(|(problems, _)| problems)
    }

    pub(super) fn problem_count(&self) -> usize {
        self.problem_count
    }

    /// Whether problems changed since this was last asked.
    pub(super) fn problems_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed) == Problems::Changed
    }

    /// Remembers where the names of these units went, and forgets units that have none.
    pub(super) fn settle(
        &mut self,
        dirty: &Dirty,
        (name_shards, names): (&Shards, &Entries),
        (pointer_shards, pointers): (&Shards, &Entries),
    ) {
        let mut names = Places::by_unit(name_shards, names);
        let mut pointers = Places::by_unit(pointer_shards, pointers);
        for id in dirty.iter() {
            let unit = &mut self.units[id as usize - 1];
            unit.names = names.remove(&id).unwrap_or_default();
            unit.pointers = pointers.remove(&id).unwrap_or_default();
            if unit.names.is_empty() && !self.problems.contains_key(&unit.key) {
                self.ids.remove(&unit.key);
                self.free.push(id);
            }
        }
    }
}

/// The units that are made anew, each once, in the order of their discovery.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    order: Vec<UnitId>,
    set: HashSet<UnitId, RandomState>,
}

impl Dirty {
    pub(super) fn of(units: &mut Units, keys: impl IntoIterator<Item = Key>) -> Self {
        let mut dirty = Self::default();
        for key in keys {
            dirty.add(units.id(key));
        }
        dirty
    }

    pub(super) fn add(&mut self, unit: UnitId) {
        if self.set.insert(unit) {
            self.order.push(unit);
        }
    }

    pub(super) fn has(&self, unit: UnitId) -> bool {
        self.set.contains(&unit)
    }

    /// The unit at a place of the order, of which there may come to be more.
    pub(super) fn get(&self, place: usize) -> Option<UnitId> {
        self.order.get(place).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = UnitId> + '_ {
        self.order.iter().copied()
    }
}
