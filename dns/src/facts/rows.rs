//! One table: its rows, decoded, and the snapshot that may be replacing them.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;

use super::Effect;
use super::changes::Changes;
use crate::feed::Cell;
use crate::row::{self, Fault, Key};

/// The number of a row while it is there.
pub(crate) type Id = u32;

/// A kind of row.
pub(crate) trait Fact: Sized + PartialEq {
    /// What finds rows by other things than their keys.
    type Index: Default + std::fmt::Debug;
    /// How many columns are the key.
    const KEY: usize;

    fn decode(cells: &[Cell], faults: &mut Vec<Fault>) -> Result<Self, Fault>;

    /// Enters a row into the index. Texts that the index has already are shared with it from then on.
    fn add(&mut self, id: Id, index: &mut Self::Index);

    fn remove(&self, id: Id, index: &mut Self::Index);

    /// Marks what depends on this row, which has just come or gone (`other` is what it was or is instead).
    fn mark(&self, other: Option<&Self>, rows: &Rows<Self>, changes: &mut Changes);
}

/// A table as it is, with the snapshot that may be arriving.
#[derive(Debug)]
pub(crate) struct Mirror<T: Fact> {
    rows: Rows<T>,
    /// The snapshot that arrives since a `Reset`.
    stage: Option<Rows<T>>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Loading,
    Current,
    Lost,
}

/// Rows that can be used, and what is wrong with these and with the others.
#[derive(Debug)]
pub(crate) struct Rows<T: Fact> {
    ids: HashMap<Key, Id, RandomState>,
    slots: Vec<Option<(Key, T)>>,
    free: Vec<Id>,
    index: T::Index,
    faults: BTreeMap<Key, Vec<Fault>>,
}

impl<T: Fact> Default for Rows<T> {
    fn default() -> Self {
        Self {
            ids: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            index: T::Index::default(),
            faults: BTreeMap::new(),
        }
    }
}

impl<T: Fact> Rows<T> {
    pub(super) fn index(&self) -> &T::Index {
        &self.index
    }

    /// A row by the number that the index gave.
    pub(crate) fn at(&self, id: Id) -> Option<(&Key, &T)> {
        self.slots.get(id as usize).and_then(Option::as_ref).map(|(key, row)| (key, row))
    }

    /// Puts a row in the place of the one that had its key, and marks what depends on either.
    fn put(&mut self, key: &Key, row: Option<T>, faults: Vec<Fault>, changes: &mut Changes) -> Change {
        let mut change = Change::None;
        if self.faults.get(key).map_or(&[][..], Vec::as_slice) != faults {
            changes.faults = true;
            change = Change::Some;
            match faults.is_empty() {
                true => _ = self.faults.remove(key),
                false => _ = self.faults.insert(key.clone(), faults),
            }
        }
        let held = self.ids.get(key).copied();
        let same = held.and_then(|id| self.at(id)).map(|(_, old)| old) == row.as_ref();
        if same {
            return change;
        }
        let old = held.and_then(|id| self.take(key, id));
        if let Some(mut row) = row {
            let id = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                // As many rows as the store can hold: far below 2³².
                (self.slots.len() - 1) as Id
            });
            row.add(id, &mut self.index);
            self.slots[id as usize] = Some((key.clone(), row));
            self.ids.insert(key.clone(), id);
        }
        let new = self.ids.get(key).and_then(|id| self.at(*id)).map(|(_, row)| row);
        if let Some(old) = &old {
            old.mark(new, self, changes);
        }
        if let Some(new) = new {
            new.mark(old.as_ref(), self, changes);
        }
        Change::Some
    }

    fn take(&mut self, key: &Key, id: Id) -> Option<T> {
        self.ids.remove(key);
        let (_, row) = self.slots[id as usize].take()?;
        row.remove(id, &mut self.index);
        self.free.push(id);
        Some(row)
    }
}

/// Whether anything is different.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Some,
}

impl<T: Fact> Default for Mirror<T> {
    fn default() -> Self {
        Self { rows: Rows::default(), stage: None, phase: Phase::Loading }
    }
}

impl<T: Fact> Mirror<T> {
    /// The rows that count.
    pub(crate) fn rows(&self) -> &Rows<T> {
        &self.rows
    }

    pub(crate) fn index(&self) -> &T::Index {
        &self.rows.index
    }

    /// The rows that can be used, in no order.
    pub(crate) fn used(&self) -> impl Iterator<Item = (&Key, &T)> {
        self.rows.slots.iter().flatten().map(|(key, row)| (key, row))
    }

    /// Everything that is wrong with rows, in key order.
    pub(crate) fn faults(&self) -> impl Iterator<Item = (&Key, &Fault)> {
        self.rows.faults.iter().flat_map(|(key, faults)| faults.iter().map(move |fault| (key, fault)))
    }

    /// The row of a one-column key.
    pub(crate) fn get(&self, key: &str) -> Option<&T> {
        self.rows.ids.get(key).and_then(|id| self.rows.at(*id)).map(|(_, row)| row)
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn upsert(&mut self, cells: &[Cell], changes: &mut Changes) -> Effect {
        let mut faults = Vec::new();
        let row = T::decode(cells, &mut faults).map_err(|fault| faults.push(fault)).ok();
        self.put(&row::key(cells, T::KEY), row, faults, changes)
    }

    pub(super) fn delete(&mut self, cells: &[Cell], changes: &mut Changes) -> Effect {
        self.put(&row::key(cells, T::KEY), None, Vec::new(), changes)
    }

    /// Rows go to the stage while a snapshot arrives.
    fn put(&mut self, key: &Key, row: Option<T>, faults: Vec<Fault>, changes: &mut Changes) -> Effect {
        if let Some(stage) = &mut self.stage {
            stage.put(key, row, faults, &mut Changes::default());
            return Effect::None;
        }
        let change = self.rows.put(key, row, faults, changes);
        match (std::mem::replace(&mut self.phase, Phase::Current), change) {
            (Phase::Loading, _) => {
                self.phase = Phase::Loading;
                Effect::None
            }
            (Phase::Current | Phase::Lost, Change::Some) => Effect::Facts,
            (Phase::Lost, Change::None) => Effect::Freshness,
            (Phase::Current, Change::None) => Effect::None,
        }
    }

    pub(super) fn reset(&mut self) {
        self.stage = Some(Rows::default());
    }

    pub(super) fn synced(&mut self, changes: &mut Changes) -> Effect {
        let was = std::mem::replace(&mut self.phase, Phase::Current);
        match (self.stage.take(), was) {
            (Some(rows), _) => {
                self.rows = rows;
                *changes = Changes::everything();
                Effect::Facts
            }
            (None, Phase::Loading) => Effect::Facts,
            (None, Phase::Lost) => Effect::Freshness,
            (None, Phase::Current) => Effect::None,
        }
    }

    pub(super) fn lost(&mut self, changes: &mut Changes) {
        self.stage = None;
        match self.phase {
            Phase::Loading => {
                self.rows = Rows::default();
                *changes = Changes::everything();
            }
            Phase::Current | Phase::Lost => self.phase = Phase::Lost,
        }
    }
}
