//! Digests and hashes of vectors are compared between nodes, so they are part of wire version 1.

use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::{Cell, Day, Digest, Digests, Hlc, Key, Name, Part, Row, Stamp, Value, Vector};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::{column, key, pulled_row, site_id, stamp, table, value, vector};

type Term = (Name, Key, Name, Value, Stamp);

fn term() -> impl Strategy<Value = Term> {
    (table(), key(), column(), value(), stamp())
}

fn cell((table, key, column, value, stamp): &Term) -> Digest {
    Digest::cell(table, key, column, value, *stamp)
}

fn sum(rows: &[PulledRow]) -> Digest {
    let mut sum = Digest::default();
    for PulledRow { table, key, row } in rows {
        sum += Digest::of(table, key, row);
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn cells_that_differ_in_anything_have_different_terms(a in term(), b in term(), which in 0usize..5) {
        // Equal but for one part at most, or for any number of them.
        let mut c = a.clone();
        match which {
            0 => c.0 = b.0.clone(),
            1 => c.1 = b.1.clone(),
            2 => c.2 = b.2.clone(),
            3 => c.3 = b.3.clone(),
            _ => c.4 = b.4,
        }
        prop_assert_eq!(cell(&a) == cell(&c), a == c);
        prop_assert_eq!(cell(&a) == cell(&b), a == b);
    }

    #[test]
    fn rows_that_differ_in_anything_have_different_digests(a in pulled_row(), b in pulled_row()) {
        prop_assert_eq!(sum(std::slice::from_ref(&a)) == sum(std::slice::from_ref(&b)), a == b);
    }

    #[test]
    fn what_is_added_in_any_order_and_taken_away_leaves_nothing(rows in vec(pulled_row(), 0..6)) {
        let mut backwards = rows.clone();
        backwards.reverse();
        prop_assert_eq!(sum(&rows), sum(&backwards));
        let mut left = sum(&rows);
        for PulledRow { table, key, row } in &backwards {
            left -= Digest::of(table, key, row);
        }
        prop_assert_eq!(left, Digest::default());
    }

    #[test]
    fn different_vectors_have_different_hashes(a in vector(), b in vector()) {
        prop_assert_eq!(a.hash() == b.hash(), a == b);
    }
}

#[test]
fn digests_and_hashes_of_wire_version_1() {
    let stamp = Stamp { hlc: Hlc::from_ms(3), site: site_id(0xAA), version: 3, seq: 1 };
    let values =
        [Value::Null, Value::Integer(-2), Value::real(1.5), Value::text("10.0.0.7"), Value::Blob([0, 255].into())];
    let cells = values.into_iter().zip(["a", "b", "c", "d", "e"]);
    let cells = cells.map(|(value, name)| (name.into(), Cell { stamp, value })).collect();
    let row = Row { cl: 3, rs: stamp, cells };
    let key = Key::encode([&Value::text("c1"), &Value::Integer(1)]).unwrap();
    assert_eq!(Digest::of(&"containers".into(), &key, &row).to_string(), "9cd19e06c7f96a059aa5d5180ddf655d");
    assert_eq!(Digest::row(&"containers".into(), &key, 4, stamp).to_string(), "ba516ef4d15aefd169875d778299d1ce");
    let vector = Vector::from_iter([(site_id(0xAA), 1), (site_id(0xBB), 300)]);
    assert_eq!(format!("{:016x}", vector.hash()), "9ea4ee96305a9318");
}

#[test]
fn parts_of_a_digest_add_up_and_forget_days_without_tombstones() {
    let stamp = |day: u64| Stamp { hlc: Hlc::from_ms(day * 86_400_000), site: site_id(1), version: day, seq: 0 };
    let term = |n: u128| Digest::from_bits(n);
    let mut digests = Digests::default();
    digests.add(Part::of(1, stamp(1)), term(1));
    digests.add(Part::of(2, stamp(2)), term(10));
    digests.add(Part::of(4, stamp(3)), term(100));
    assert_eq!((digests.live(), digests.total()), (term(1), term(111)));
    assert_eq!([2, 3, 4].map(|day| digests.from(Day(day))), [term(111), term(101), term(1)]);
    assert_eq!(Digests::new(digests.live(), digests.days().collect::<Vec<_>>()), digests);
    digests.take(Part::of(2, stamp(2)), term(10));
    assert_eq!(digests, Digests::new(term(1), [(Day(3), term(100))]));
    assert_eq!(Part::of(2, Stamp { hlc: Hlc::MAX, ..stamp(0) }), Part::Day(Day(1_628_906)));
}
