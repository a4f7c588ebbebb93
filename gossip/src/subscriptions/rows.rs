//! The result of a query as it was last seen, and what differs when it is looked at again.
//!
//! A result row is found again by its identity: the primary keys behind it where there are any, else its cells. Rows of
//! one identity are told apart by counting, so duplicates are kept as such. A row keeps its id for as long as its identity
//! stays in the result; ids are not used again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use super::identity::parts;
use super::line::ChangeKind;

/// A query's rows.
#[derive(Debug, Default)]
pub(super) struct ResultRows {
    rows: BTreeMap<Bytes, Entry>,
    /// The rows by each part of their identity but the first, which they are sorted by.
    by_part: BTreeMap<Part, BTreeSet<Bytes>>,
    last_id: u64,
    /// Which look at the query is going on; rows it has seen carry it.
    pass: u64,
    /// What the rows take, about.
    bytes: usize,
    /// How long the last look at the whole query took.
    pub(super) whole_took: Duration,
    /// How long the last look worked, which is not how long it waited to know what to look at.
    pub(super) took: Duration,
    /// Whether the last look was at all of them.
    pub(super) whole: bool,
}

/// What a row takes beside its bytes: its entry, and its part of the map.
const ROW_BYTES: usize = 144;

/// What one entry of the index by parts takes beside its part's bytes.
const PART_BYTES: usize = 112;

/// A table's place among the query's, and the part of identities that one of its rows is.
pub(super) type Part = (usize, Vec<u8>);

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

    fn insert(&mut self, identity: Bytes, entry: Entry) {
        self.bytes += ROW_BYTES + identity.len() + entry.cells.len();
        for part in later_parts(&identity) {
            self.bytes += PART_BYTES + part.1.len();
            self.by_part.entry(part).or_default().insert(identity.clone());
        }
        self.rows.insert(identity, entry);
    }

    fn remove(&mut self, identity: &[u8]) -> Option<Difference> {
        let (identity, entry) = self.rows.remove_entry(identity)?;
        self.bytes -= ROW_BYTES + identity.len() + entry.cells.len();
        for part in later_parts(&identity) {
            self.bytes -= PART_BYTES + part.1.len();
            if let Some(identities) = self.by_part.get_mut(&part) {
                identities.remove(&identity);
                if identities.is_empty() {
                    self.by_part.remove(&part);
                }
            }
        }
        Some(entry.deleted())
    }

    /// The rows with this part, by identity.
    fn with_part(&self, part: &Part) -> Vec<Bytes> {
        let (table, bytes) = part;
        if *table > 0 {
            return self.by_part.get(part).into_iter().flatten().cloned().collect();
        }
        let from = self.rows.range::<[u8], _>((Bound::Included(&bytes[..]), Bound::Unbounded));
        from.map(|(identity, _)| identity).take_while(|identity| identity.starts_with(bytes)).cloned().collect()
    }

    /// Begins to look.
    pub(super) fn look(&mut self) -> Pass<'_> {
        self.pass += 1;
        Pass { result: self, changed: Vec::new() }
    }
}

impl Pass<'_> {
    /// A row of the result. `identity` is `None` where the cells are the identity. A row with keys may be met twice, where
    /// it is asked for by two of them; one without is another row then.
    pub(super) fn row(&mut self, identity: Option<&[u8]>, cells: &[u8]) {
        let pass = self.result.pass;
        let base = identity.unwrap_or(cells);
        match self.result.rows.get_mut(base) {
            None => self.add(Bytes::copy_from_slice(base), cells),
            Some(first) if first.seen == pass => {
                if identity.is_none() {
                    first.copies += 1;
                    let copy = copy_identity(base, first.copies);
                    match self.result.rows.get_mut(&copy) {
                        // What the cells are the identity of has these cells.
                        Some(entry) => entry.seen = pass,
                        None => self.add(copy, cells),
                    }
                }
            }
            Some(first) => {
                first.copies = 0;
                let before = first.cells.len();
                if let Some(changed) = first.meet(pass, cells) {
                    self.result.bytes = self.result.bytes + cells.len() - before;
                    self.changed.push(changed);
                }
            }
        }
    }

    /// How much memory the rows take by now, about.
    pub(super) fn bytes(&self) -> usize {
        self.result.bytes()
    }

    /// The rows with this part as they are now, by identity: those met and those of before.
    pub(super) fn with_part(&self, part: &Part) -> Vec<Bytes> {
        self.result.with_part(part)
    }

    fn add(&mut self, identity: Bytes, cells: &[u8]) {
        self.result.last_id += 1;
        let (id, seen) = (self.result.last_id, self.result.pass);
        let cells = if *identity == *cells { identity.clone() } else { Bytes::copy_from_slice(cells) };
        self.changed.push(Difference { kind: ChangeKind::Insert, row: id, cells: cells.clone() });
        self.result.insert(identity, Entry { id, cells, seen, copies: 0 });
    }

    /// Ends a look at the whole query: what was not met is gone.
    pub(super) fn end_of_all(self) -> Vec<Difference> {
        let unseen = self.result.rows.iter().filter(|(_, entry)| entry.seen != self.result.pass);
        let gone: Vec<_> = unseen.map(|(identity, _)| identity.clone()).collect();
        self.end(&gone)
    }

    /// Ends a look at the rows with any of these parts: those not met are gone.
    pub(super) fn end_of_parts<'p>(self, parts: impl IntoIterator<Item = &'p Part>) -> Vec<Difference> {
        let pass = self.result.pass;
        let held = parts.into_iter().flat_map(|part| self.result.with_part(part));
        let gone = held.filter(|identity| self.result.rows.get(identity).is_some_and(|entry| entry.seen != pass));
        let gone: Vec<_> = gone.collect();
        self.end(&gone)
    }

    /// Deletes come first, so that who follows never holds two rows where the query has one.
    fn end(self, gone: &[Bytes]) -> Vec<Difference> {
        let mut differences: Vec<_> = gone.iter().filter_map(|identity| self.result.remove(identity)).collect();
        differences.sort_unstable_by_key(|difference| difference.row);
        differences.extend(self.changed);
        differences
    }
}

/// The parts of an identity but the first. Cells have none: a list in JSON begins like the length of 1.5 GB.
fn later_parts(identity: &[u8]) -> impl Iterator<Item = Part> {
    parts(identity).enumerate().skip(1).map(|(table, part)| (table, part.to_vec()))
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
        look(&mut rows, &[]);
        assert_eq!(rows.bytes(), 0);
    }

    /// The identity of a row that is made of these rows of two tables; 0 is none.
    fn pair(left: u8, right: u8) -> Vec<u8> {
        let part = |key: u8| if key == 0 { vec![0, 0, 0, 0] } else { vec![0, 0, 0, 1, key] };
        [part(left), part(right)].concat()
    }

    #[test]
    fn a_look_at_some_parts_leaves_the_others() {
        let mut rows = ResultRows::default();
        let mut pass = rows.look();
        for (left, right) in [(1, 1), (1, 2), (2, 0), (2, 2), (3, 1)] {
            pass.row(Some(&pair(left, right)), b"old");
        }
        pass.end_of_all();
        // The first table's row 1 and the second's row 2 are looked at; (2, 2) is gone, (1, 2) is met twice.
        let mut pass = rows.look();
        pass.row(Some(&pair(1, 2)), b"new");
        pass.row(Some(&pair(1, 2)), b"new");
        pass.row(Some(&pair(1, 3)), b"new");
        let [first, second] = [(0, pair(1, 0)[..5].to_vec()), (1, pair(2, 0)[..5].to_vec())];
        assert_eq!(pass.with_part(&first), [pair(1, 1), pair(1, 2), pair(1, 3)]);
        assert_eq!(pass.with_part(&second), [pair(1, 2), pair(2, 2)]);
        let changed = pass.end_of_parts([&first, &second]);
        use ChangeKind::{Delete, Insert, Update};
        let seen: Vec<_> = changed.iter().map(|d| (d.kind, d.row)).collect();
        assert_eq!(seen, [(Delete, 1), (Delete, 4), (Update, 2), (Insert, 6)]);
        assert_eq!(rows.snapshot().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 3, 5, 6]);
        let mut pass = rows.look();
        pass.row(Some(&pair(2, 0)), b"old");
        pass.end_of_all();
        assert_eq!(rows.bytes(), ROW_BYTES + pair(2, 0).len() + 3 + PART_BYTES + 4);
    }
}
