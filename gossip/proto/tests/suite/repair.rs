//! What a damaged store takes from a sound one, and what it keeps.

use kith_gossip_proto::buckets::{Bucket, Buckets};
use kith_gossip_proto::model::{RowId, Statement, Store};
use kith_gossip_proto::repair::{Seal, proven};
use kith_gossip_proto::{Digest, Key, Row, Value, Vector};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::{row, site_id};

fn id(number: u8) -> RowId {
    ("t".into(), Key::encode(&[Value::Integer(number.into())]).unwrap())
}

/// One of few statements on one of few rows.
fn statement() -> impl Strategy<Value = Statement> {
    let cell = |column: &str, n: i64| [(column.into(), Value::Integer(n))].into();
    (0u8..3, 0u8..4, 0i64..3).prop_map(move |(key, kind, n)| match kind {
        0 => Statement::Put(id(key), cell("a", n)),
        1 => Statement::Update(id(key), cell("a", n)),
        2 => Statement::Update(id(key), cell("b", n)),
        _ => Statement::Delete(id(key)),
    })
}

/// Two stores after a history in which each writes, and now and then pulls all that the other has.
fn stores() -> impl Strategy<Value = (Store, Store)> {
    vec((any::<bool>(), prop_oneof![4 => statement().prop_map(Some), 1 => Just(None)]), 0..25).prop_map(|steps| {
        let mut stores = [Store::new(site_id(1)), Store::new(site_id(2))];
        for ((second, step), wall_ms) in steps.into_iter().zip(1..) {
            match step {
                Some(statement) => drop(stores[usize::from(second)].transact(wall_ms, &[statement])),
                None => {
                    let [one, other] = &mut stores;
                    let (to, from) = if second { (one, other) } else { (other, one) };
                    let answer = from.collect(to.heads());
                    to.join(answer.rows, &answer.heads);
                }
            }
        }
        stores.into()
    })
}

fn seal() -> impl Strategy<Value = Seal> {
    prop_oneof![Just(Seal::Whole), Just(Seal::Broken)]
}

fn joined(ours: Option<Row>, theirs: Option<Row>) -> Option<Row> {
    match (ours, theirs) {
        (Some(mut ours), Some(theirs)) => {
            ours.join(theirs);
            Some(ours)
        }
        (ours, theirs) => ours.or(theirs),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn of_a_sound_row_nothing_is_lost((ours, theirs) in stores()) {
        for key in 0..3 {
            let (our, their) = (ours.rows().get(&id(key)).cloned(), theirs.rows().get(&id(key)).cloned());
            for seal in [Seal::Whole, Seal::Broken] {
                let sound = our.clone().map(|row| (row, seal));
                let kept = proven(sound, their.clone(), ours.heads(), theirs.heads());
                prop_assert_eq!(kept, joined(our.clone(), their.clone()));
            }
        }
    }

    /// Whatever a row looks like, as long as its stamps are ones that the peer has applied.
    #[test]
    fn of_what_the_peer_must_know_nothing_stays((_, theirs) in stores(), false_row in row(), seal in seal()) {
        let their = theirs.rows().get(&id(0)).cloned();
        let all: Vector = false_row.stamps().iter().map(|stamp| (stamp.site, stamp.version)).collect();
        let mut heads = theirs.heads().clone();
        heads.join(&all);
        let kept = proven(Some((false_row.clone(), seal)), their.clone(), &heads, &heads);
        let purged = their.is_none() && !false_row.is_alive() && seal == Seal::Whole;
        prop_assert_eq!(kept, if purged { Some(false_row) } else { their });
    }

    #[test]
    fn a_stamp_that_nobody_gave_stays_nowhere((_, theirs) in stores(), false_row in row(), seal in seal()) {
        let their = theirs.rows().get(&id(0)).cloned();
        let kept = proven(Some((false_row.clone(), seal)), their.clone(), &Vector::default(), &Vector::default());
        let purged = their.is_none() && !false_row.is_alive() && seal == Seal::Whole;
        prop_assert_eq!(kept, if purged { Some(false_row) } else { their });
    }
}

#[test]
fn buckets_find_the_row_that_differs_and_add_up_to_the_digest() {
    let (mut one, mut other) = (Buckets::default(), Buckets::default());
    let mut total = Digest::default();
    for number in 0..100 {
        let (table, key) = id(number);
        let term = Digest::from_bits(u128::from(number) << 64 | 1);
        one.add(Bucket::of(&table, &key), term);
        other.add(Bucket::of(&table, &key), if number == 7 { Digest::from_bits(1) } else { term });
        total += term;
    }
    assert_eq!(one.total(), total);
    let (table, key) = id(7);
    assert_eq!(one.differing(&other).collect::<Vec<_>>(), [Bucket::of(&table, &key)]);
    assert_eq!(one.differing(&one).count(), 0);
    // Part of the wire: on every node the same.
    assert_eq!(Bucket::of(&table, &key).number(), 230);
}
