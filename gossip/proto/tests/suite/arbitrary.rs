//! Small worlds: few keys, few sites and near-equal clocks, so that whatever can collide does.

use std::collections::BTreeMap;

use kith_gossip_proto::buckets::{Bucket, Buckets};
use kith_gossip_proto::frame::{Answered, Hello, PulledRow, Question};
use kith_gossip_proto::version::Life;
use kith_gossip_proto::{
    Cell, Change, Day, Digest, Frame, Hlc, Key, Name, Past, Purged, Row, SiteId, Stamp, Start, Value, Vector, Version,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

pub(crate) fn site_id(n: u8) -> SiteId {
    SiteId::new([n; 16])
}

pub(crate) fn site() -> impl Strategy<Value = SiteId> {
    (1u8..4).prop_map(site_id)
}

pub(crate) fn hlc() -> impl Strategy<Value = Hlc> {
    prop_oneof![9 => (1u64..4).prop_map(Hlc::from_bits), 1 => Just(Hlc::MAX)]
}

/// Stamps as damaged sites may also make them: the parts are independent of each other.
pub(crate) fn stamp() -> impl Strategy<Value = Stamp> {
    (hlc(), site(), ordinal(), 0u32..3).prop_map(|(hlc, site, version, seq)| Stamp { hlc, site, version, seq })
}

/// A causal length, up to the greatest.
fn length() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 1u64..5, 1 => Just((1 << 48) - 1)]
}

pub(crate) fn ordinal() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 1u64..4, 1 => Just(i64::MAX.cast_unsigned())]
}

pub(crate) fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        (-2i64..3).prop_map(Value::Integer),
        Just(Value::Integer(i64::MIN)),
        Just(Value::Integer(i64::MAX)),
        any::<f64>().prop_map(Value::real),
        "[a\0\u{e4}]{0,3}".prop_map(|text| Value::text(&text)),
        vec(any::<u8>(), 0..4).prop_map(|bytes| Value::Text(bytes.into())),
        vec(any::<u8>(), 0..4).prop_map(|bytes| Value::Blob(bytes.into())),
    ]
}

pub(crate) fn column() -> impl Strategy<Value = Name> {
    "[a-c]".prop_map(|name| Name::from(&*name))
}

pub(crate) fn table() -> impl Strategy<Value = Name> {
    "[t-u]".prop_map(|name| Name::from(&*name))
}

pub(crate) fn key() -> impl Strategy<Value = Key> {
    prop_oneof![(0i64..3).prop_map(Value::Integer), "[xy\0]{0,2}".prop_map(|text| Value::text(&text))]
        .prop_map(|value| Key::encode([&value]).unwrap())
}

/// A row of any kind: complete, partial, deleted.
pub(crate) fn row() -> impl Strategy<Value = Row> {
    let cell = (stamp(), value()).prop_map(|(stamp, value)| Cell { stamp, value });
    (length(), stamp(), btree_map(column(), cell, 0..4)).prop_map(|(cl, rs, cells)| {
        let cells = if cl % 2 == 1 { cells } else { BTreeMap::new() };
        Row { cl, rs, cells }
    })
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let parts = (table(), key(), length(), proptest::option::of(stamp()), btree_map(column(), value(), 0..4));
    parts.prop_map(|(table, key, cl, since, cells)| {
        if cl % 2 == 0 {
            return Change { table, key, cl, life: Life::Changed, cells: BTreeMap::new() };
        }
        Change { table, key, cl, life: since.map_or(Life::Changed, Life::Since), cells }
    })
}

pub(crate) fn version() -> impl Strategy<Value = Version> {
    (site(), ordinal(), hlc(), vec(change(), 0..4)).prop_map(|(site, version, hlc, mut changes)| {
        // An update names an earlier version, or it is refused.
        changes.retain(|change| match change.life {
            Life::Changed => true,
            Life::Since(rs) => rs.site != site || rs.version < version,
        });
        Version { site, version, hlc, changes }
    })
}

pub(crate) fn vector() -> impl Strategy<Value = Vector> {
    vec((site(), ordinal()), 0..4).prop_map(Vector::from_iter)
}

fn hello() -> impl Strategy<Value = Hello> {
    let parts = (any::<u32>(), "[a-z0-9]{1,63}", "[ -~\u{e4}]{0,20}", past(), any::<u64>());
    parts.prop_map(|(wire, node, label, past, wall_ms)| Hello {
        wire,
        node: node.parse().unwrap(),
        label,
        past,
        wall_ms,
    })
}

fn past() -> impl Strategy<Value = Past> {
    let start = (ordinal(), any::<u64>()).prop_map(|(boot, nonce)| Start { boot, nonce });
    let first = proptest::option::of(hlc().prop_filter("zero says that there is none", |&first| first > Hlc::ZERO));
    (site(), start, prop_oneof![Just(0), ordinal()], first).prop_map(|(site, start, head, first)| Past {
        site,
        start,
        head,
        first,
    })
}

pub(crate) fn pulled_row() -> impl Strategy<Value = PulledRow> {
    (table(), key(), row()).prop_map(|(table, key, row)| PulledRow { table, key, row })
}

pub(crate) fn bucket() -> impl Strategy<Value = Bucket> {
    (0..1024u64).prop_map(|number| Bucket::new(number).unwrap())
}

fn purged() -> impl Strategy<Value = Purged> {
    let lengths = proptest::collection::btree_map(table(), length(), 0..3);
    let parts = (vector(), lengths, any::<u32>());
    parts.prop_map(|(through, lengths, floor)| Purged { through, lengths, floor: Day(floor) })
}

pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        hello().prop_map(Frame::Hello),
        vec(version().prop_map(Into::into), 0..4).prop_map(Frame::Versions),
        vector().prop_map(Frame::Heads),
        (vector(), vector()).prop_map(|(above, purged)| Frame::Pull(Question { above, purged })),
        vec(pulled_row(), 0..4).prop_map(Frame::Rows),
        (vector(), purged()).prop_map(|(heads, purged)| Frame::Pulled(Answered { heads, purged })),
        ".{0,20}".prop_map(Frame::Refused),
        (site(), ordinal()).prop_map(|(site, boot)| Frame::Forked(site, boot)),
        Just(Frame::NeedsSnapshot),
        any::<u64>().prop_map(Frame::Snapshot),
        vec(any::<u8>(), 0..20).prop_map(|bytes| Frame::Chunk(bytes.into())),
        any::<u128>().prop_map(Frame::SnapshotEnd),
        vector().prop_map(Frame::Graft),
        vec(site(), 0..4).prop_map(Frame::Prune),
        Just(Frame::Compare),
        (vector(), vec((bucket(), any::<u128>()), 0..3)).prop_map(|(heads, some)| {
            let mut buckets = Buckets::default();
            some.into_iter().for_each(|(bucket, bits)| buckets.add(bucket, Digest::from_bits(bits)));
            Frame::Buckets(heads, buckets)
        }),
        (vector(), vec(bucket(), 0..4)).prop_map(|(above, buckets)| Frame::Repair(above, buckets)),
        any::<u64>().prop_map(Frame::Clock),
        vector().prop_map(Frame::FromFuture),
        prop_oneof![Just(0u8), 28u8..=255].prop_map(Frame::Unknown),
    ]
}
