//! What clients do: transactions that collide, over few rows.
//!
//! The rows of `pack` are only written together, each time with a number of its own, so that a reader who sees two
//! numbers sees a torn transaction. The rows of `free` always have all columns, so one that lacks some is half a row.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;

use super::store::Job;
use super::world::{Event, World};
use crate::model::{RowId, Statement, Store};
use crate::{Key, Name, Value};

const PACK: i64 = 3;
const FREE: i64 = 5;
const COLUMNS: [&str; 3] = ["a", "b", "c"];

fn id(table: &str, number: i64) -> RowId {
    (table.into(), Key::encode([&Value::Integer(number)]).expect("an integer is a key"))
}

fn columns(value: i64) -> BTreeMap<Name, Value> {
    COLUMNS.into_iter().map(|name| (name.into(), Value::Integer(value))).collect()
}

impl World {
    pub(super) fn write(&mut self, node: usize) {
        if self.healed.is_some() {
            return;
        }
        let mut statements = Vec::new();
        if self.rng.random_bool(0.5) {
            self.pack(&mut statements);
        }
        if statements.is_empty() || self.rng.random_bool(0.3) {
            let count = self.rng.random_range(1..4);
            statements.extend((0..count).map(|_| self.free(node)));
        }
        self.enqueue(node, Job::Commit(statements));
        // Some bursts: versions that are under way together.
        let next = if self.rng.random_bool(0.3) { self.between(0, 5) } else { self.write_delay() };
        self.after(next, Event::Write(self.life(node)));
    }

    fn pack(&mut self, statements: &mut Vec<Statement>) {
        self.numbers += 1;
        let number = self.numbers;
        let kind = self.rng.random_range(0..10);
        let column = COLUMNS[self.rng.random_range(0..COLUMNS.len())];
        statements.extend((0..PACK).map(|n| id("pack", n)).map(|id| match kind {
            0..4 => Statement::Put(id, columns(number)),
            4..9 => Statement::Update(id, [(column.into(), Value::Integer(number))].into()),
            _ => Statement::Delete(id),
        }));
    }

    fn free(&mut self, node: usize) -> Statement {
        let row = id("free", self.rng.random_range(0..FREE));
        let value = self.rng.random_range(0..4);
        match self.rng.random_range(0..10) {
            0..4 => Statement::Put(row, columns(value)),
            4..7 => {
                let column = COLUMNS[self.rng.random_range(0..COLUMNS.len())];
                Statement::Update(row, [(column.into(), Value::Integer(value))].into())
            }
            // Who moves a row moves what is there: what is damaged would be written anew, as somebody's word.
            7..9 => Statement::Delete(row),
            _ if self.may_be_hurt(node) => Statement::Delete(row),
            _ => Statement::Rekey(row, id("free", self.rng.random_range(0..FREE)).1),
        }
    }
}

/// Why a reader would complain of this store, if one would.
pub(super) fn complaint(store: &Store) -> Option<String> {
    let packed: BTreeSet<_> = (0..PACK).map(|n| store.image(&id("pack", n))).collect();
    if packed.len() > 1 {
        return Some(format!("a torn transaction: {packed:?}"));
    }
    let half = store.rows().iter().find(|(_, row)| row.is_alive() && row.cells.len() < COLUMNS.len());
    half.map(|half| format!("half a row: {half:?}"))
}
