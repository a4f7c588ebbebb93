//! The result of a query as it was last seen, and what differs when it is looked at again.
//!
//! A result row is found again by its identity: the primary keys behind it where there are any, else its cells. Rows of
//! one identity are told apart by counting, so duplicates are kept as such. A row keeps its id for as long as its identity
//! stays in the result; ids are not used again.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::line::ChangeKind;

/// A query's rows.
#[derive(Debug, Default)]
pub(super) struct ResultRows {
    rows: BTreeMap<Bytes, Entry>,
    last_id: u64,
    /// Which look at the query is going on; rows it has seen carry it.
    pass: u64,
    /// What the rows take, about.
    bytes: usize,
}

/// What a row takes beside its bytes: its entry, and its part of the map.
const ROW_BYTES: usize = 144;

#[derive(Debug)]
struct Entry {
    id: u64,
    cells: Bytes,
    seen: u64,
    /// How many more rows of the same identity this look has met.
    copies: u64,
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) kind: ChangeKind,
    pub(super) row: u64,
    pub(super) cells: Bytes,
}

/// One look at the query: rows come in, differences go out.
pub(super) struct Pass<'r> {
    result: &'r mut ResultRows,
    changed: Vec<Difference>,
}

impl ResultRows {
    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How much memory the rows take, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All rows in the order of their ids, which is the order in which they entered the result.
    pub(super) fn snapshot(&self) -> Vec<(u64, Bytes)> {
        let mut rows: Vec<_> = self.rows.values().map(|entry| (entry.id, entry.cells.clone())).collect();
        rows.sort_unstable_by_key(|(id, _)| *id);
        rows
    }

    /// Begins to look.
    pub(super) fn look(&mut self) -> Pass<'_> {
        self.pass += 1;
        Pass { result: self, changed: Vec::new() }
    }
}

impl Pass<'_> {
    /// A row of the result. `identity` is `None` where the cells are the identity.
    pub(super) fn row(&mut self, identity: Option<&[u8]>, cells: &[u8]) {
        let pass = self.result.pass;
        let base = identity.unwrap_or(cells);
        if let Some(first) = self.result.rows.get_mut(base) {
            if first.seen == pass {
                first.copies += 1;
                let copy = copy_identity(base, first.copies);
                self.settle(copy, cells);
                return;
            }
            first.copies = 0;
            let before = first.cells.len();
            if let Some(changed) = first.meet(pass, cells) {
                self.result.bytes = self.result.bytes + cells.len() - before;
                self.changed.push(changed);
            }
            return;
        }
        self.settle(Bytes::copy_from_slice(base), cells);
    }

    /// How much memory the rows take by now, about.
    pub(super) fn bytes(&self) -> usize {
        self.result.bytes()
    }

    fn settle(&mut self, identity: Bytes, cells: &[u8]) {
        let pass = self.result.pass;
        if let Some(entry) = self.result.rows.get_mut(&identity) {
            let before = entry.cells.len();
            if let Some(changed) = entry.meet(pass, cells) {
                self.result.bytes = self.result.bytes + cells.len() - before;
                self.changed.push(changed);
            }
            return;
        }
        self.result.last_id += 1;
        let id = self.result.last_id;
        let cells = if *identity == *cells { identity.clone() } else { Bytes::copy_from_slice(cells) };
        self.changed.push(Difference { kind: ChangeKind::Insert, row: id, cells: cells.clone() });
        self.result.bytes += ROW_BYTES + identity.len() + cells.len();
        self.result.rows.insert(identity, Entry { id, cells, seen: pass, copies: 0 });
    }

    /// Ends a look at the whole query: what was not met is gone. Deletes come first, so that who follows never holds two
    /// rows where the query has one.
    pub(super) fn end_of_all(self) -> Vec<Difference> {
        let pass = self.result.pass;
        let mut gone: Vec<Difference> = Vec::new();
        let bytes = &mut self.result.bytes;
        self.result.rows.retain(|identity, entry| {
            if entry.seen != pass {
                *bytes -= ROW_BYTES + identity.len() + entry.cells.len();
                gone.push(entry.deleted());
            }
            entry.seen == pass
        });
        gone.sort_unstable_by_key(|difference| difference.row);
        gone.extend(self.changed);
        gone
    }

    /// Ends a look at the rows of these identities only: those not met are gone.
    pub(super) fn end_of<'k>(self, identities: impl IntoIterator<Item = &'k [u8]>) -> Vec<Difference> {
        let pass = self.result.pass;
        let mut gone = Vec::new();
        for identity in identities {
            if self.result.rows.get(identity).is_some_and(|entry| entry.seen != pass)
                && let Some((identity, entry)) = self.result.rows.remove_entry(identity)
            {
                self.result.bytes -= ROW_BYTES + identity.len() + entry.cells.len();
                gone.push(entry.deleted());
            }
        }
        gone.extend(self.changed);
        gone
    }
}

impl Entry {
    fn meet(&mut self, pass: u64, cells: &[u8]) -> Option<Difference> {
        self.seen = pass;
        if *self.cells == *cells {
            return None;
        }
        self.cells = Bytes::copy_from_slice(cells);
        Some(Difference { kind: ChangeKind::Update, row: self.id, cells: self.cells.clone() })
    }

    fn deleted(&self) -> Difference {
        Difference { kind: ChangeKind::Delete, row: self.id, cells: self.cells.clone() }
    }
}

/// The identity of the `n`-th further row of one identity. Cells are JSON and hold no zero byte, so this is never another
/// row's; where keys are the identity there are no further rows.
fn copy_identity(base: &[u8], n: u64) -> Bytes {
    [base, &[0], &n.to_be_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(rows: &mut ResultRows, result: &[(&str, &str)]) -> Vec<(ChangeKind, u64, String)> {
        let mut pass = rows.look();
        for (identity, cells) in result {
            pass.row((!identity.is_empty()).then_some(identity.as_bytes()), cells.as_bytes());
        }
        let text = |d: Difference| (d.kind, d.row, String::from_utf8(d.cells.to_vec()).unwrap());
        pass.end_of_all().into_iter().map(text).collect()
    }

    #[test]
    fn a_row_with_a_key_is_updated_and_keeps_its_id() {
        use ChangeKind::{Delete, Insert, Update};
        let mut rows = ResultRows::default();
        assert_eq!(look(&mut rows, &[("a", "1"), ("b", "1")]), [(Insert, 1, "1".into()), (Insert, 2, "1".into())]);
        assert_eq!(look(&mut rows, &[("b", "2"), ("a", "1")]), [(Update, 2, "2".into())]);
        assert_eq!(look(&mut rows, &[("b", "2")]), [(Delete, 1, "1".into())]);
        assert_eq!(look(&mut rows, &[("a", "1"), ("b", "2")]), [(Insert, 3, "1".into())]);
    }

    #[test]
    fn duplicates_are_counted() {
        use ChangeKind::{Delete, Insert};
        let mut rows = ResultRows::default();
        assert_eq!(look(&mut rows, &[("", "x"), ("", "x"), ("", "x")]).len(), 3);
        assert_eq!(look(&mut rows, &[("", "x"), ("", "x"), ("", "x")]), []);
        assert_eq!(
            look(&mut rows, &[("", "x"), ("", "y")]),
            [(Delete, 2, "x".into()), (Delete, 3, "x".into()), (Insert, 4, "y".into())]
        );
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn what_the_rows_take_is_counted_both_ways() {
        let mut rows = ResultRows::default();
        look(&mut rows, &[("a", "1"), ("b", "1"), ("", "x"), ("", "x")]);
        look(&mut rows, &[("a", "a longer cell"), ("c", "1")]);
        assert_eq!(rows.bytes(), 2 * ROW_BYTES + "a".len() + "a longer cell".len() + "c1".len());
        look(&mut rows, &[("a", "1")]);
        let pass = rows.look();
        pass.end_of([&b"a"[..]]);
        assert_eq!(rows.bytes(), 0);
    }

    #[test]
    fn a_look_at_some_keys_leaves_the_others() {
        let mut rows = ResultRows::default();
        look(&mut rows, &[("a", "1"), ("b", "1"), ("c", "1")]);
        let mut pass = rows.look();
        pass.row(Some(b"b"), b"2");
        let changed = pass.end_of([&b"a"[..], &b"b"[..], &b"d"[..]]);
        assert_eq!(
            changed.iter().map(|d| (d.kind, d.row)).collect::<Vec<_>>(),
            [(ChangeKind::Delete, 1), (ChangeKind::Update, 2)]
        );
        assert_eq!(rows.snapshot().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 3]);
    }
}
