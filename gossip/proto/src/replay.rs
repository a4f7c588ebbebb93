//! A row of a store that is given up, beside the row that takes its place: what of it is written once more.
//!
//! A node that was away for too long takes a peer's rows for its own. What it had written and told nobody is not in them:
//! it is written again, as a new transaction of a new site, if it would have won against what is there; but not on rows
//! that were deserted by a deletion that it had not heard of.

use std::collections::BTreeMap;

use crate::version::Life;
use crate::{Change, Key, Name, Row, Stamp, Value};

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// All of it is there, or something later.
    Nothing,
    /// A row with these cells.
    Insert(BTreeMap<Name, Value>),
    /// These cells of a row that is there.
    Update(BTreeMap<Name, Value>),
    /// The row goes.
    Delete,
    /// Nothing, though it is nowhere: the row was deleted.
    Lost,
}

impl Replay {
    /// Compares a row of the old store with the one of the new; `unsent` knows the stamps that only the old store has.
    pub fn of(old: &Row, new: Option<&Row>, unsent: impl Fn(Stamp) -> bool) -> Self {
        let length = new.map_or(0, |row| row.cl);
        if !old.is_alive() {
            let outlives = new.is_some_and(Row::is_alive) && length < old.cl && unsent(old.rs);
            return if outlives { Self::Delete } else { Self::Nothing };
        }
        let cells = |wins: &dyn Fn(&Name, Stamp) -> bool| -> BTreeMap<Name, Value> {
            let cells = old.cells.iter().filter(|(name, cell)| wins(name, cell.stamp));
            cells.map(|(name, cell)| (name.clone(), cell.value.clone())).collect()
        };
        let all = || cells(&|_, _| true);
        match new {
            // Its life began here and nobody knows of it, or knew only of an earlier one.
            _ if unsent(old.rs) && length < old.cl => match new {
                Some(new) if new.is_alive() => Self::Update(all()),
                _ => Self::Insert(all()),
            },
            Some(new) if new.cl == old.cl => {
                let later = |name: &Name, stamp| new.cells.get(name).is_none_or(|cell| cell.stamp < stamp);
                let won = cells(&|name, stamp| unsent(stamp) && later(name, stamp));
                if won.is_empty() { Self::Nothing } else { Self::Update(won) }
            }
            _ if old.stamps().into_iter().any(unsent) => Self::Lost,
            _ => Self::Nothing,
        }
    }

    /// The change that does it, to a key that may have had the causal length `purged`.
    pub fn change(self, table: &Name, key: &Key, new: Option<&Row>, purged: u64) -> Option<Change> {
        let length = new.map_or(0, |row| row.cl);
        let (cl, life, cells) = match (self, new) {
            (Self::Insert(cells), _) => ((length.max(purged) + 1) | 1, Life::Changed, cells),
            (Self::Update(cells), Some(new)) => (length, Life::Since(new.rs), cells),
            (Self::Delete, Some(_)) => (length + 1, Life::Changed, BTreeMap::new()),
            (Self::Nothing | Self::Lost | Self::Update(_) | Self::Delete, _) => return None,
        };
        Some(Change { table: table.clone(), key: key.clone(), cl, life, cells })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cell, Hlc, SiteId};

    /// Site 1 is the one that was away; it had told its first version only.
    fn stamp(site: u8, version: u64) -> Stamp {
        Stamp { hlc: Hlc::from_ms(version), site: SiteId::new([site; 16]), version, seq: 0 }
    }

    fn unsent(stamp: Stamp) -> bool {
        stamp.site == SiteId::new([1; 16]) && stamp.version > 1
    }

    fn row(cl: u64, rs: Stamp, cells: &[(&str, Stamp)]) -> Row {
        let cell = |&(name, stamp): &(&str, Stamp)| (name.into(), Cell { stamp, value: Value::Integer(7) });
        Row { cl, rs, cells: cells.iter().map(cell).collect() }
    }

    fn these(names: &[&str]) -> BTreeMap<Name, Value> {
        names.iter().map(|&name| (name.into(), Value::Integer(7))).collect()
    }

    #[test]
    fn what_nobody_knew_is_written_again() {
        let created = row(1, stamp(1, 2), &[("a", stamp(1, 2)), ("b", stamp(1, 3))]);
        assert_eq!(Replay::of(&created, None, unsent), Replay::Insert(these(&["a", "b"])));
        // After a deletion that it knew of.
        let again = row(3, stamp(1, 2), &[("a", stamp(1, 2))]);
        assert_eq!(Replay::of(&again, Some(&Row::tombstone(2, stamp(2, 1))), unsent), Replay::Insert(these(&["a"])));
        let before = row(1, stamp(2, 1), &[("a", stamp(2, 9))]);
        assert_eq!(Replay::of(&again, Some(&before), unsent), Replay::Update(these(&["a"])));
        let deleted = Row::tombstone(2, stamp(1, 2));
        assert_eq!(Replay::of(&deleted, Some(&before), unsent), Replay::Delete);
    }

    #[test]
    fn of_a_row_that_is_there_the_cells_that_are_later_are_written_again() {
        let old =
            row(1, stamp(2, 1), &[("a", stamp(1, 5)), ("b", stamp(1, 5)), ("c", stamp(2, 1)), ("d", stamp(1, 5))]);
        let new = row(1, stamp(2, 1), &[("a", stamp(2, 4)), ("b", stamp(2, 6)), ("c", stamp(2, 9))]);
        assert_eq!(Replay::of(&old, Some(&new), unsent), Replay::Update(these(&["a", "d"])));
        assert_eq!(Replay::of(&new, Some(&old), unsent), Replay::Nothing);
    }

    #[test]
    fn what_was_written_to_a_row_that_was_deleted_since_is_lost() {
        let old = row(1, stamp(2, 1), &[("a", stamp(1, 5)), ("b", stamp(2, 1))]);
        for new in [None, Some(Row::tombstone(2, stamp(2, 3))), Some(row(3, stamp(2, 9), &[]))] {
            assert_eq!(Replay::of(&old, new.as_ref(), unsent), Replay::Lost, "{new:?}");
        }
        let known = row(1, stamp(2, 1), &[("a", stamp(2, 1))]);
        assert_eq!(Replay::of(&known, None, unsent), Replay::Nothing);
        let deleted = Row::tombstone(2, stamp(1, 2));
        for new in [None, Some(row(3, stamp(2, 9), &[])), Some(Row::tombstone(2, stamp(2, 3)))] {
            assert_eq!(Replay::of(&deleted, new.as_ref(), unsent), Replay::Nothing, "{new:?}");
        }
    }
}
