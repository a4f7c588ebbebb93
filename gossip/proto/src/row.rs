//! A row as all sites agree on it: a chain of lives times a product of last-writer-wins cells.
//!
//! ```text
//! causal length   0          1        2        3        4
//!                 never seen alive -> deleted -> alive -> deleted ...
//! ```
//! The causal length rises by one with each create and delete (Yu & Rostad, "A Low-Cost Set CRDT Based on Causal
//! Lengths", 2020), so a delete beats every concurrent update whatever the clocks say, and a re-insert that has seen the
//! delete beats the delete. Within one life each cell goes to the greatest stamp, and as a transaction has one stamp, all
//! cells contested by two transactions go to the later one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::{Name, Stamp, Value};

/// One column of a row: what was written, and by which change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The change that wrote it. First, because it decides.
    pub stamp: Stamp,
    /// What it wrote. Decides between equal stamps only, which is damage and must still end the same everywhere.
    pub value: Value,
}

/// The state of one key: complete as a store holds it, or the part of it that one change wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Causal length: odd while the row is alive, even once deleted.
    pub cl: u64,
    /// The stamp of the last create or delete.
    pub rs: Stamp,
    /// The cells that were ever written in this life; empty when deleted. A column that is absent has its default.
    pub cells: BTreeMap<Name, Cell>,
}

impl Row {
    /// A deleted row.
    pub fn tombstone(cl: u64, rs: Stamp) -> Self {
        Self { cl, rs, cells: BTreeMap::new() }
    }

    /// Whether readers see the row.
    pub fn is_alive(&self) -> bool {
        self.cl % 2 == 1
    }

    /// The least upper bound of both. Commutative, associative, idempotent; never fails.
    pub fn join(&mut self, other: Self) {
        if other.cl > self.cl {
            *self = other;
        } else if other.cl == self.cl {
            self.rs = self.rs.max(other.rs);
            for (column, theirs) in other.cells {
                match self.cells.entry(column) {
                    Entry::Vacant(free) => drop(free.insert(theirs)),
                    Entry::Occupied(mut ours) if *ours.get() < theirs => drop(ours.insert(theirs)),
                    Entry::Occupied(_) => {}
                }
            }
        }
    }

    /// Every stamp that the row still carries: its own and its cells', each once, in order.
    pub fn stamps(&self) -> Vec<Stamp> {
        let mut stamps: Vec<_> = self.cells.values().map(|cell| cell.stamp).chain([self.rs]).collect();
        stamps.sort_unstable();
        stamps.dedup();
        stamps
    }
}
