//! Wire version 1: what is written is read back, foreign bytes are refused or read, and the bytes stay what they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use kith_gossip_proto::buckets::Bucket;
use kith_gossip_proto::frame::{Answered, FRAME_MAX, Hello, PART_BYTES, PulledRow, Question, row_frames};
use kith_gossip_proto::version::Life;
use kith_gossip_proto::{
    Cell, Change, DecodeError, Frame, Hlc, Key, Past, Purged, Row, Stamp, Start, Value, Vector, Version,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::{frame, pulled_row, site_id};

/// About the memory that a frame takes once read.
fn size(frame: &Frame) -> usize {
    const CELL: usize = 100;
    match frame {
        Frame::Versions(versions) => versions.iter().map(|version| version.size()).sum(),
        Frame::Rows(rows) => {
            let row = |row: &PulledRow| size_of::<PulledRow>() + row.key.as_bytes().len() + row.row.cells.len() * CELL;
            rows.iter().map(row).sum()
        }
        Frame::Heads(vector) | Frame::Graft(vector) | Frame::FromFuture(vector) => vector.len() * 40,
        Frame::Pull(Question { above, purged }) => (above.len() + purged.len()) * 40,
        Frame::Pulled(Answered { heads, purged }) => {
            (heads.len() + purged.through.len()) * 40 + purged.lengths.len() * CELL
        }
        Frame::Hello(hello) => hello.label.len() + 200,
        Frame::Prune(sites) => size_of_val(&**sites),
        Frame::Refused(reason) => reason.len(),
        Frame::Chunk(bytes) => bytes.len(),
        Frame::Buckets(heads, buckets) => heads.len() * 40 + buckets.iter().count() * 16,
        Frame::Repair(heads, buckets) => heads.len() * 40 + size_of_val(&**buckets),
        Frame::NeedsSnapshot
        | Frame::Snapshot(_)
        | Frame::SnapshotEnd(_)
        | Frame::Forked(..)
        | Frame::Clock(_)
        | Frame::Compare
        | Frame::Unknown(_) => 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_frame_survives_its_encoding(frame in frame()) {
        prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }

    #[test]
    fn foreign_bytes_are_refused_or_read(kind in 0u8..32, body in vec(any::<u8>(), 0..200)) {
        let bytes: Vec<_> = [kind].into_iter().chain(body).collect();
        if let Ok(frame) = Frame::decode(&bytes) {
            prop_assert!(size(&frame) <= 200 + 40 * bytes.len(), "{} bytes became {}", bytes.len(), size(&frame));
        }
    }

    #[test]
    fn small_numbers_are_refused_or_read(bytes in vec(0u8..16, 1..200)) {
        if let Ok(frame) = Frame::decode(&bytes) {
            prop_assert!(size(&frame) <= 200 + 40 * bytes.len(), "{} bytes became {}", bytes.len(), size(&frame));
        }
    }

    #[test]
    fn a_mutated_frame_is_refused_or_read(
        frame in frame(), places in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = frame.encode();
        for (place, byte) in places {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            if let Ok(read) = Frame::decode(bytes) {
                // What is read can be said again: nothing came in that has no bytes of its own.
                prop_assert_eq!(Frame::decode(&read.encode()), Ok(read));
            }
        }
    }

    #[test]
    fn a_frame_cut_short_is_refused(frame in frame(), cut in any::<prop::sample::Index>()) {
        let bytes = frame.encode();
        let cut = cut.index(bytes.len());
        prop_assert!(Frame::decode(&bytes[..cut]).is_err(), "the first {} of {} bytes were read", cut, bytes.len());
    }

    #[test]
    fn rows_in_frames_of_any_size_are_the_rows(rows in vec(pulled_row(), 0..6), part_bytes in 0usize..400) {
        let join = |all: Vec<PulledRow>| {
            let mut joined: BTreeMap<_, Row> = BTreeMap::new();
            for PulledRow { table, key, row } in all {
                joined.entry((table, key)).and_modify(|before| before.join(row.clone())).or_insert(row);
            }
            joined
        };
        let mut pieces = Vec::new();
        for frame in row_frames(rows.clone(), part_bytes) {
            let bytes = frame.encode();
            // A site takes 17 bytes and a name a few, the first time.
            prop_assert!(bytes.len() < part_bytes.max(100) + 150, "{} bytes for parts of {}", bytes.len(), part_bytes);
            let Ok(Frame::Rows(rows)) = Frame::decode(&bytes) else { panic!("{frame:?}") };
            pieces.extend(rows);
        }
        prop_assert_eq!(join(pieces), join(rows));
    }

    #[test]
    fn what_follows_a_frame_is_a_later_releases(frame in frame(), more in vec(any::<u8>(), 1..20)) {
        let mut bytes = frame.encode();
        bytes.extend(more);
        prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
    }
}

fn stamp(version: u64) -> Stamp {
    Stamp { hlc: Hlc::from_ms(version), site: site_id(0xAA), version, seq: 1 }
}

fn key(value: &Value) -> Key {
    Key::encode([value]).unwrap()
}

fn versions() -> Frame {
    let insert = Change {
        table: "containers".into(),
        key: key(&Value::text("c1")),
        cl: 1,
        life: Life::Changed,
        cells: [("ip".into(), Value::text("10.0.0.7")), ("port".into(), Value::Integer(-2))].into(),
    };
    let update = Change { life: Life::Since(stamp(3)), cells: [("ip".into(), Value::Null)].into(), ..insert.clone() };
    let delete =
        Change { cl: 2, life: Life::Changed, cells: [].into(), key: key(&Value::Integer(1)), ..insert.clone() };
    let first = Version { site: site_id(0xBB), version: 7, hlc: Hlc::from_ms(9), changes: vec![insert, update] };
    let second = Version { version: 8, changes: vec![delete], ..first.clone() };
    Frame::Versions(vec![Arc::new(first), Arc::new(second)])
}

fn rows() -> Frame {
    let cells = [
        ("ip".into(), Cell { stamp: stamp(4), value: Value::Blob([0, 255].into()) }),
        ("load".into(), Cell { stamp: stamp(3), value: Value::real(1.5) }),
    ];
    let live = Row { cl: 3, rs: stamp(3), cells: cells.into() };
    let dead = Row::tombstone(4, stamp(5));
    let row = |n, row| PulledRow { table: "services".into(), key: key(&Value::Integer(n)), row };
    Frame::Rows(vec![row(1, live), row(2, dead)])
}

fn hello() -> Hello {
    Hello {
        wire: 1,
        node: "fra-1".parse().unwrap(),
        label: "127.0.0.1:31280".to_owned(),
        past: Past {
            site: site_id(0xCC),
            start: Start { boot: 3, nonce: 0x0102_0304_0506_0708 },
            head: 5,
            first: Some(Hlc::from_ms(9)),
        },
        wall_ms: 1_700_000_000_000,
    }
}

fn vector() -> Vector {
    Vector::from_iter([(site_id(0xAA), 1), (site_id(0xBB), 300)])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A difference here is a new wire version: nodes of two releases would not understand each other.
#[test]
fn bytes_of_wire_version_1() {
    let golden = [
        ("hello", Frame::Hello(hello()), GOLDEN_HELLO),
        ("versions", versions(), GOLDEN_VERSIONS),
        (
            "heads",
            Frame::Heads(vector()),
            "030200aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0100bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbac02",
        ),
        (
            "pull",
            Frame::Pull(Question { above: vector(), purged: Vector::from_iter([(site_id(0xAA), 1)]) }),
            "040200aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0100bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbac02 010101",
        ),
        ("rows", rows(), GOLDEN_ROWS),
        (
            "pulled",
            Frame::Pulled(Answered { heads: vector(), purged: purged() }),
            "060200aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0100bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbac02 010103 01 01 00017402",
        ),
        ("refused", Frame::Refused("busy".to_owned()), "070462757379"),
        ("forked", Frame::Forked(site_id(0xAA), 300), "09 00 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ac02"),
        ("needs snapshot", Frame::NeedsSnapshot, "12"),
        ("snapshot", Frame::Snapshot(300), "13ac02"),
        ("chunk", Frame::Chunk([1, 2, 3].into()), "1403010203"),
        ("snapshot end", Frame::SnapshotEnd(0x0102), "15 0201000000000000 0000000000000000"),
        (
            "a graft",
            Frame::Graft(Vector::from_iter([(site_id(0xAA), 300)])),
            "0d 01 00 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ac02",
        ),
        ("a prune", Frame::Prune(vec![site_id(0xAA)]), "0e 01 00 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("compare", Frame::Compare, "16"),
        (
            "repair",
            Frame::Repair(Vector::from_iter([(site_id(0xAA), 300)]), [1, 1023].map(|n| Bucket::new(n).unwrap()).into()),
            "18 01 00 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ac02 02 01 ff07",
        ),
        ("a clock", Frame::Clock(1_700_000_000_000), "0880d095ffbc31"),
        (
            "from the future",
            Frame::FromFuture(Vector::from_iter([(site_id(0xAA), 300)])),
            "0a 01 00 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ac02",
        ),
        ("a later kind", Frame::Unknown(31), "1f"),
    ];
    let changed: Vec<_> = golden
        .iter()
        .filter(|(_, frame, bytes)| hex(&frame.encode()) != bytes.replace([' ', '\n'], ""))
        .map(|(name, frame, _)| format!("{name}: {}", hex(&frame.encode())))
        .collect();
    assert!(changed.is_empty(), "{changed:#?}");
}

/// Columns that several sites wrote at once: each a transaction, together more than a frame.
#[test]
fn a_row_bigger_than_any_frame_can_be_pulled() {
    let cell = |n: u64| Cell { stamp: stamp(n), value: Value::Blob(vec![7; 1 << 20].into()) };
    let cells = (1..=12).map(|n| (format!("c{n}").as_str().into(), cell(n))).collect();
    let row = PulledRow { table: "t".into(), key: key(&Value::Integer(1)), row: Row { cl: 1, rs: stamp(1), cells } };
    assert!(Frame::decode(&Frame::Rows(vec![row.clone()]).encode()).is_err(), "it is too big for one");
    let frames = row_frames([row], PART_BYTES);
    assert_eq!(frames.len(), 12);
    assert!(frames.iter().all(|frame| Frame::decode(&frame.encode()).as_ref() == Ok(frame)));
}

#[test]
fn a_pull_asks_for_less_than_a_kilobyte_of_thirty_sites() {
    let heads = (0..30).map(|n| (site_id(n), 1 << 20));
    let heads: Vector = heads.collect();
    let question = Question { above: heads.clone(), purged: heads };
    assert!(Frame::Pull(question).encode().len() < 1_000);
}

fn purged() -> Purged {
    let mut purged = Purged::default();
    purged.note(&"t".into(), 2, stamp(3));
    purged
}

const GOLDEN_HELLO: &str = "
    01 40 01 05 6672612d31 0f 3132372e302e302e313a3331323830 00 cccccccccccccccccccccccccccccccc 03
    0807060504030201 80d095ffbc31 05 0000090000000000
";
const GOLDEN_VERSIONS: &str = "
    02 02
    6f 00 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 07 0000090000000000 02
        2b 00 0a 636f6e7461696e657273 05 0363310000 01 00 02 00 02 6970 03 08 31302e302e302e37 00 04 706f7274 01 03
        27 01 05 0363310000 01 01 0000030000000000 00 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 03 01 01 02 00
    1a 01 08 0000090000000000 01
        0e 01 09 018000000000000001 02 00 00
";
const GOLDEN_ROWS: &str = "
    05 02
    57 00 08 7365727669636573 09 018000000000000001 03
        02 0000030000000000 00 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 03 01 0000040000000000 01 04 01
        00 02 00 02 6970 01 04 02 00ff 00 04 6c6f6164 00 02 000000000000f83f
    1a 01 09 018000000000000002 04 01 0000050000000000 01 05 01 00 00
";

/// Puts bytes at the end of the record that begins at `at`, as a later release would append a field.
fn with_field(bytes: &[u8], at: usize, field: &[u8]) -> Vec<u8> {
    let len = usize::from(bytes[at]);
    assert!(len + field.len() < 0x80, "a length of one byte");
    let (head, tail) = bytes.split_at(at + 1 + len);
    let mut out = [head, field, tail].concat();
    out[at] += u8::try_from(field.len()).unwrap();
    out
}

#[test]
fn a_field_at_the_end_of_a_record_is_skipped() {
    let small = |cells: &[(&str, i64)]| {
        let cells = cells.iter().map(|&(name, n)| (name.into(), Value::Integer(n))).collect();
        let change = Change { table: "t".into(), key: key(&Value::Integer(1)), cl: 1, life: Life::Changed, cells };
        Arc::new(Version { site: site_id(1), version: 1, hlc: Hlc::from_ms(1), changes: vec![change] })
    };
    // Two of each, so that what follows the unknown field must still be read, references to names and sites included.
    let hello = Frame::Hello(hello());
    let versions = Frame::Versions(vec![small(&[("a", 1)]), small(&[("a", 2)])]);
    let row = |n| PulledRow { table: "t".into(), key: key(&Value::Integer(n)), row: Row::tombstone(2, stamp(1)) };
    let rows = Frame::Rows(vec![row(1), row(2)]);
    for (frame, record) in [(hello, 1), (versions, 2), (rows, 2)] {
        let bytes = with_field(&frame.encode(), record, &[0xFF, 0, 7]);
        assert_eq!(Frame::decode(&bytes), Ok(frame));
    }
}

#[test]
fn a_field_at_the_end_of_a_change_is_skipped() {
    let change = |table: &str| Change {
        table: table.into(),
        key: key(&Value::Integer(1)),
        cl: 2,
        life: Life::Changed,
        cells: [].into(),
    };
    let version =
        Version { site: site_id(1), version: 1, hlc: Hlc::from_ms(1), changes: vec![change("t"), change("t")] };
    let frame = Frame::Versions(vec![Arc::new(version)]);
    // Kind, count, then the version's record: its length, a site in full, number, hlc, count; then the first change's.
    let change_at = 2 + 1 + 17 + 1 + 8 + 1;
    let mut bytes = with_field(&frame.encode(), change_at, &[1, 2, 3]);
    bytes[2] += 3;
    assert_eq!(Frame::decode(&bytes), Ok(frame));
}

#[test]
fn a_later_kind_is_passed_over_whatever_its_body() {
    for kind in [0, 15, 31, 32, 255] {
        assert_eq!(Frame::decode(&[kind, 1, 2, 3]), Ok(Frame::Unknown(kind)));
    }
}

#[test]
fn a_bucket_that_there_is_not_is_refused() {
    assert_eq!(Frame::decode(&[24, 0, 1, 0x80, 0x08]), Err(DecodeError::Invalid("bucket")));
    let short = [&[23, 0][..], &[0; 16 * 1023]].concat();
    assert_eq!(Frame::decode(&short), Err(DecodeError::Truncated));
}

#[test]
fn a_count_beyond_the_frame_is_refused_before_room_is_made() {
    for kind in [2, 3, 4, 5, 6, 10, 13, 14, 23, 24] {
        let bytes = [&[kind][..], &[0xFF; 9], &[1], &[0; 64]].concat();
        assert!(Frame::decode(&bytes).is_err(), "kind {kind}");
    }
}

#[test]
fn a_frame_over_the_limit_is_refused() {
    let bytes = vec![31; FRAME_MAX + 1];
    assert_eq!(Frame::decode(&bytes), Err(DecodeError::TooLarge("frame")));
    assert_eq!(Frame::decode(&[]), Err(DecodeError::Truncated));
}

/// Numbers that a store cannot keep, states that no store is in.
#[test]
fn what_no_sound_peer_sends_is_refused() {
    let change = Change {
        table: "t".into(),
        key: key(&Value::Integer(1)),
        cl: 1,
        life: Life::Changed,
        cells: [("a".into(), Value::Null)].into(),
    };
    let version = Version { site: site_id(1), version: 2, hlc: Hlc::from_ms(1), changes: vec![change.clone()] };
    let with = |change: Change| Version { changes: vec![change], ..version.clone() };
    let beyond = i64::MAX.cast_unsigned() + 1;
    let own = |number| Life::Since(Stamp { site: site_id(1), ..stamp(number) });
    let bad = [
        ("version 0", Version { version: 0, ..version.clone() }),
        ("a version beyond i64", Version { version: beyond, ..version.clone() }),
        ("causal length 0", with(Change { cl: 0, ..change.clone() })),
        ("a causal length beyond i64", with(Change { cl: beyond + 1, ..change.clone() })),
        ("cells of a deleted row", with(Change { cl: 2, ..change.clone() })),
        ("an update of a deleted row", with(Change { cl: 2, life: own(1), cells: [].into(), ..change.clone() })),
        ("an update of a row of its own version", with(Change { life: own(2), ..change.clone() })),
        ("an update of a row of a later version", with(Change { life: own(3), ..change.clone() })),
        ("a row created by version 0", with(Change { life: Life::Since(stamp(0)), ..change.clone() })),
        ("a key without columns", with(Change { key: Key::encode([]).unwrap(), ..change.clone() })),
        ("negative zero", with(Change { cells: [("a".into(), Value::Real(-0.0))].into(), ..change.clone() })),
        ("NaN", with(Change { cells: [("a".into(), Value::Real(f64::NAN))].into(), ..change.clone() })),
    ];
    assert!(Frame::decode(&Frame::Versions(vec![Arc::new(version.clone())]).encode()).is_ok());
    for (what, version) in bad {
        let bytes = Frame::Versions(vec![Arc::new(version)]).encode();
        assert!(Frame::decode(&bytes).is_err(), "{what} was accepted");
    }
    let heads = Frame::Heads(Vector::from_iter([(site_id(1), beyond)]));
    assert_eq!(Frame::decode(&heads.encode()), Err(DecodeError::Overflow));
    let mut future = Frame::Versions(vec![Arc::new(version)]).encode();
    // The greatest byte of the hlc: after kind, count, length, site and number.
    future[2 + 1 + 17 + 1 + 7] = 0x80;
    assert_eq!(Frame::decode(&future), Err(DecodeError::Overflow));
}

#[test]
fn a_column_twice_in_a_record_is_refused() {
    let change = Change {
        table: "t".into(),
        key: key(&Value::Integer(1)),
        cl: 1,
        life: Life::Changed,
        cells: [("a".into(), Value::Null), ("b".into(), Value::Null)].into(),
    };
    let version = Version { site: site_id(1), version: 1, hlc: Hlc::from_ms(1), changes: vec![change] };
    let mut bytes = Frame::Versions(vec![Arc::new(version)]).encode();
    let b = bytes.iter().rposition(|&byte| byte == b'b').unwrap();
    bytes[b] = b'a';
    assert_eq!(Frame::decode(&bytes), Err(DecodeError::Invalid("second cell of a column")));
}
