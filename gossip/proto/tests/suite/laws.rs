//! The laws of `Row::join`: the order, number and grouping of deliveries does not matter.

use std::collections::BTreeMap;

use kith_gossip_proto::version::Life;
use kith_gossip_proto::{Cell, Change, Hlc, Name, Row, Stamp, Value, Version};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::{key, ordinal, row, site, site_id, stamp, value, version};

fn join(a: &Row, b: &Row) -> Row {
    let mut joined = a.clone();
    joined.join(b.clone());
    joined
}

/// The rows that a version's changes become, whatever row they are of: laws hold for all rows of one key.
fn parts(version: &Version) -> Vec<Row> {
    version.rows().map(|(_, row)| row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn join_is_commutative(a in row(), b in row()) {
        prop_assert_eq!(join(&a, &b), join(&b, &a));
    }

    #[test]
    fn join_is_associative(a in row(), b in row(), c in row()) {
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
    }

    #[test]
    fn join_is_idempotent_and_rises(a in row(), b in row()) {
        prop_assert_eq!(join(&a, &a), a.clone());
        let joined = join(&a, &b);
        prop_assert_eq!(join(&joined, &a), joined.clone());
        prop_assert_eq!(join(&joined, &b), joined);
    }

    #[test]
    fn what_changes_become_obeys_the_same_laws(a in version(), b in version(), whole in row()) {
        for x in parts(&a) {
            for y in parts(&b) {
                prop_assert_eq!(join(&x, &y), join(&y, &x));
                prop_assert_eq!(join(&join(&whole, &x), &y), join(&whole, &join(&x, &y)));
                prop_assert_eq!(join(&join(&whole, &x), &x), join(&whole, &x));
            }
        }
    }

    #[test]
    fn a_change_becomes_its_cells_under_one_stamp(version in version()) {
        for ((change, row), seq) in version.rows().zip(0..) {
            let stamp = version.stamp(seq);
            prop_assert!(row.cells.values().all(|cell| cell.stamp == stamp));
            prop_assert!(row.cells.iter().map(|(name, cell)| (name, &cell.value)).eq(&change.cells));
            let rs = match change.life { Life::Changed => stamp, Life::Since(rs) => rs };
            prop_assert_eq!((row.cl, row.rs), (change.cl, rs));
            prop_assert!(row.cl % 2 == 1 || row.cells.is_empty());
        }
    }

    #[test]
    fn an_update_joined_to_its_row_is_the_row_with_those_cells(
        since in stamp(), key in key(), columns in proptest::collection::btree_map("[a-c]", (value(), value()), 1..4),
        updated in vec(any::<bool>(), 3), site in site(), number in ordinal(),
    ) {
        let names = || columns.keys().map(|name| Name::from(&**name));
        let old: BTreeMap<_, _> = names().zip(columns.values())
            .map(|(name, (value, _))| (name, Cell { stamp: since, value: value.clone() })).collect();
        let cells: BTreeMap<_, _> = names().zip(columns.values()).zip(&updated)
            .filter(|(_, updated)| **updated).map(|((name, (_, value)), _)| (name, value.clone())).collect();
        let row = Row { cl: 1, rs: since, cells: old };
        let change = Change { table: "t".into(), key, cl: 1, life: Life::Since(since), cells: cells.clone() };
        let later = Hlc::from_bits(since.hlc.to_bits() + 1);
        let update = Version { site, version: number, hlc: later, changes: vec![change] };
        let joined = join(&row, &parts(&update)[0]);
        prop_assert_eq!(joined.rs, since);
        for (name, cell) in &joined.cells {
            let expected = match cells.get(name) {
                Some(value) if later > since.hlc => Cell { stamp: update.stamp(0), value: value.clone() },
                // At the end of time no reading is later, and the sites' ids decide.
                Some(value) => row.cells[name].clone().max(Cell { stamp: update.stamp(0), value: value.clone() }),
                None => row.cells[name].clone(),
            };
            prop_assert_eq!(cell, &expected);
        }
        prop_assert_eq!(joined.cells.len(), row.cells.len());
    }
}

fn stamp_at(hlc: u64, site: u8) -> Stamp {
    Stamp { hlc: Hlc::from_bits(hlc), site: site_id(site), version: 1, seq: 0 }
}

fn alive(cl: u64, stamp: Stamp, value: Value) -> Row {
    Row { cl, rs: stamp, cells: [("a".into(), Cell { stamp, value })].into() }
}

#[test]
fn a_delete_beats_a_concurrent_update_whatever_the_clocks() {
    let updated = alive(1, stamp_at(1_000, 1), Value::Integer(1));
    let deleted = Row::tombstone(2, stamp_at(1, 2));
    assert_eq!(join(&updated, &deleted), deleted);
}

#[test]
fn a_reinsert_beats_the_delete_it_has_seen_and_a_concurrent_one() {
    let reinserted = alive(3, stamp_at(1, 1), Value::Integer(1));
    for deleted in [Row::tombstone(2, stamp_at(0, 2)), Row::tombstone(2, stamp_at(1_000, 2))] {
        assert_eq!(join(&deleted, &reinserted), reinserted);
    }
}

#[test]
fn equal_stamps_with_other_values_end_the_same_everywhere() {
    let [low, high] = [Value::Integer(7), Value::text("7")].map(|value| alive(1, stamp_at(1, 1), value));
    assert_eq!(join(&low, &high), high);
    assert_eq!(join(&high, &low), high);
}

#[test]
fn a_cell_never_written_loses_to_one_that_was_also_to_null() {
    let null = alive(1, stamp_at(1, 1), Value::Null);
    let absent = Row { cells: BTreeMap::new(), ..null.clone() };
    assert_eq!(join(&absent, &null), null);
}

#[test]
fn two_deletes_leave_one_tombstone() {
    let [early, late] = [Row::tombstone(2, stamp_at(1, 2)), Row::tombstone(2, stamp_at(2, 1))];
    assert_eq!(join(&early, &late), late);
    assert_eq!(late.stamps(), [stamp_at(2, 1)]);
}
