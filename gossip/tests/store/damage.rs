//! Bits that a disk has changed: found wherever they are, and nothing of them told to a peer.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use kith_gossip::store::{ApplyError, Cure, OpenError, Pace, QueryError, Store};
use kith_gossip_proto::buckets::Bucket;
use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::{Hlc, Purged, SiteId, Stamp, Vector};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

use crate::rig::{Rig, collect, config, state};

const SCHEMA: &str = "
    CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT, b INTEGER);
    CREATE TABLE w (x INTEGER NOT NULL, y TEXT NOT NULL, a TEXT, PRIMARY KEY (x, y)) WITHOUT ROWID;
    CREATE INDEX by_a ON t (a);
";

fn file(rig: &Rig) -> PathBuf {
    rig.dir.path().join("kith.db")
}

async fn filled(rows: usize) -> Rig {
    let rig = Rig::new(SCHEMA);
    for row in 0..rows {
        let sql = format!(
            "INSERT INTO t VALUES ('key {row}', 'letter {row}', {row}); INSERT INTO w VALUES ({row}, 'y', 'w {row}')"
        );
        rig.run(&sql).await.unwrap();
    }
    rig.run("UPDATE t SET b = b + 1 WHERE b % 3 = 0; DELETE FROM t WHERE b % 5 = 2").await.unwrap();
    rig
}

/// Changes the file of a store that is closed, and opens it.
async fn changed(rig: Rig, change: impl FnOnce(&mut Vec<u8>)) -> (TempDir, Result<Store, OpenError>) {
    rig.store.close().await;
    let mut bytes = fs::read(file(&rig)).unwrap();
    change(&mut bytes);
    fs::write(file(&rig), bytes).unwrap();
    let opened = Store::open(config(&rig.dir, SCHEMA));
    (rig.dir, opened)
}

/// Where the text stands for the `nth` time.
fn place(bytes: &[u8], text: &str, nth: usize) -> usize {
    let places = bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text.as_bytes());
    places.map(|(at, _)| at).nth(nth).unwrap_or_else(|| panic!("{text} is not there for the {nth}. time"))
}

#[tokio::test]
async fn a_letter_that_changed_is_found_in_its_row_and_no_peer_gets_it() {
    let (dir, opened) = changed(filled(8).await, |bytes| {
        let at = place(bytes, "w 4", 0);
        bytes[at] ^= 1;
    })
    .await;
    let rig = Rig { dir, store: opened.unwrap() };
    assert!(rig.store.looks().borrow().is_none());
    let mut collected = rig.store.collect(Vector::default()).await.unwrap();
    let mut refused = None;
    while let Some(part) = collected.rows.recv().await {
        refused = part.err().or(refused);
    }
    assert!(matches!(refused, Some(QueryError::Broken(_))), "{refused:?}");
    assert_eq!(rig.store.looks().borrow().as_ref().map(|looked| looked.wrong.len()), Some(1));
    let found = rig.store.verify(Pace::InSlices).await.unwrap();
    assert!(found.wrong[0].starts_with("w ") && found.wrong[0].contains("not what was written"), "{:?}", found.wrong);
    assert_eq!(found.broken.len(), 1);
    // Clients are still answered, and writes to other rows go on.
    rig.run("INSERT INTO t VALUES ('another', 'a', 1)").await.unwrap();
    rig.store.close().await;
}

#[tokio::test]
async fn a_letter_that_changed_in_an_index_is_found_and_the_index_made_anew() {
    let (dir, opened) = changed(filled(8).await, |bytes| {
        // Beside the row itself the index has it.
        let places = (0..).map_while(|nth| {
            let at = bytes.windows(8).enumerate().filter(|(_, window)| *window == b"letter 4").nth(nth);
            at.map(|(at, _)| at)
        });
        // A row has its key before it, in the index only its place comes after it.
        let in_index = places.filter(|&at| &bytes[at - 5..at] != b"key 4").last().unwrap();
        bytes[in_index] ^= 1;
    })
    .await;
    let rig = Rig { dir, store: opened.unwrap() };
    let found = rig.store.verify(Pace::AtOnce).await.unwrap();
    assert!(found.wrong.iter().any(|wrong| wrong.contains("by_a")), "{:?}", found.wrong);
    assert!(found.malformed.is_empty() && found.indexes.contains("t"), "{:?}", found.malformed);
    let sound = Rig::new(SCHEMA);
    let (rows, heads) = collect(&rig.store, Vector::default()).await;
    sound.store.join(rows, heads).await.unwrap();
    assert_eq!(cured(&rig.store, &sound.store).await, Ok(0));
    rig.is_sound().await;
}

/// Each flip is refused at the start, or found by a look, or has changed nothing that anybody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flip_anywhere_in_the_file_stays_unnoticed() {
    const FLIPS: u64 = 400;
    let rig = filled(40).await;
    let (sound, heads) = (state(&rig.store).await, rig.store.state().heads.clone());
    let peer = Rig::new(SCHEMA);
    let (rows, everything) = collect(&rig.store, Vector::default()).await;
    peer.store.join(rows, everything).await.unwrap();
    rig.store.close().await;
    let bytes = fs::read(file(&rig)).unwrap();
    let (mut refused, mut found, mut put_right, mut harmless) = (0, 0, 0, 0);
    for seed in 0..FLIPS {
        let drawn = usize::try_from(xxh3_64(&seed.to_le_bytes()) >> 1).unwrap();
        let (at, bit) = (drawn / 8 % bytes.len(), drawn % 8);
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("kith.db"), flipped).unwrap();
        let store = match Store::open(config(&dir, SCHEMA)) {
            Ok(store) => store,
            Err(error) => {
                refused += 1;
                // Nothing else makes a server that has peers begin anew.
                assert!(matches!(error, OpenError::Damaged { .. } | OpenError::Newer { .. }), "{error}");
                continue;
            }
        };
        match store.verify(Pace::AtOnce).await {
            Ok(looked) if looked.wrong.is_empty() => {
                harmless += 1;
                assert_eq!(state(&store).await, sound, "seed {seed}: byte {at}, bit {bit}");
                assert_eq!(store.state().heads, heads, "seed {seed}: byte {at}, bit {bit}");
            }
            Ok(_) => {
                found += 1;
                // Whoever has peers is put right, or begins anew where its file does not let itself be put right.
                match cured(&store, &peer.store).await {
                    Ok(_) if store.verify(Pace::AtOnce).await.unwrap().wrong.is_empty() => {
                        assert_eq!(state(&store).await, sound, "seed {seed}: byte {at}, bit {bit}");
                        assert_eq!(store.state().digests, peer.store.state().digests);
                        put_right += 1;
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            Err(QueryError::Malformed(_) | QueryError::Broken(_)) => found += 1,
            Err(other) => panic!("seed {seed}: byte {at}, bit {bit}: {other:?}"),
        }
        store.close().await;
    }
    let all_kinds = refused > 0 && harmless > 0 && put_right > found / 2;
    assert!(
        all_kinds,
        "of {FLIPS} flips {refused} refused at the start, {harmless} harmless, {found} found, {put_right} put right"
    );
}

/// Everything that a sound peer can say of what is damaged here, put in its place.
async fn cured(damaged: &Store, sound: &Store) -> Result<u64, ApplyError> {
    let (ours, theirs) = (damaged.survey().await.unwrap(), sound.survey().await.unwrap());
    assert_eq!(theirs.wrong, None);
    let differing = ours.buckets.differing(&theirs.buckets).chain(ours.broken);
    let buckets: BTreeSet<_> = differing.collect();
    let mut collected = sound.collect_with(Vector::clone(&damaged.state().heads), buckets.clone()).await.unwrap();
    let mut rows = Vec::new();
    while let Some(part) = collected.rows.recv().await {
        rows.extend(part.unwrap());
    }
    let cure =
        Cure { buckets, rows, heads: collected.heads, purged: Purged::clone(&collected.purged), indexes: ours.indexes };
    damaged.repair(cure).await.map(|repaired| repaired.rows)
}

/// Two stores with the same rows, one of them changed behind its back.
async fn tampered(sql: &str) -> (Rig, Rig) {
    let sound = filled(40).await;
    let rig = Rig::new(SCHEMA);
    let (rows, heads) = collect(&sound.store, Vector::default()).await;
    rig.store.join(rows, heads).await.unwrap();
    let behind = rusqlite::Connection::open(file(&rig)).unwrap();
    behind.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    (rig, sound)
}

#[tokio::test]
async fn whatever_changed_behind_the_stores_back_is_found_and_put_right_from_a_sound_peer() {
    let cases = [
        ("a value", "UPDATE t SET a = 'other' WHERE id = 'key 4'"),
        ("a value of a table without rowids", "UPDATE w SET a = 'other' WHERE x = 4"),
        ("a key", "UPDATE t SET id = 'another' WHERE id = 'key 4'"),
        ("a key that is no key", "UPDATE t SET id = 0.5 WHERE id = 'key 4'"),
        ("a key of a table without rowids", "UPDATE w SET y = 'z' WHERE x = 4"),
        ("a row is gone", "DELETE FROM t WHERE id = 'key 4'"),
        (
            "a row is gone, stamps and all",
            "DELETE FROM w WHERE x = 4; DELETE FROM w__kith_row WHERE k IN (SELECT k FROM w__kith_row LIMIT 1)",
        ),
        ("a row nobody wrote", "INSERT INTO t VALUES ('from nowhere', 'a', 1)"),
        ("stamps", "UPDATE t__kith_row SET st = x'03' || substr(st, 2) WHERE k = 5"),
        ("no stamps", "UPDATE t__kith_row SET st = x'00' WHERE k = 5"),
        ("a tombstone's stamps", "UPDATE t__kith_tomb SET st = substr(st, 1, length(st) - 1) || x'77'"),
        (
            "a tombstone's key",
            "UPDATE t__kith_tomb SET pk = pk || x'01' WHERE pk IN (SELECT pk FROM t__kith_tomb LIMIT 1)",
        ),
        ("a live row's tombstone", "INSERT INTO w__kith_tomb SELECT k, st FROM w__kith_row LIMIT 1"),
        ("the log", "DELETE FROM __kith_log WHERE seq = 0"),
        ("where the log points", "UPDATE __kith_log SET k = 1"),
        ("more log", "INSERT INTO __kith_log SELECT site, ver + 100, seq, tid, k FROM __kith_log"),
        ("the digest", "UPDATE __kith_meta SET digest = zeroblob(16)"),
        ("a day's digest", "UPDATE __kith_day SET sum = zeroblob(16)"),
        ("a day", "DELETE FROM __kith_day"),
    ];
    for (what, sql) in cases {
        let (rig, sound) = tampered(sql).await;
        let (before, digests) = (state(&sound.store).await, sound.store.state().digests.clone());
        let found = rig.store.verify(Pace::AtOnce).await.unwrap();
        assert_ne!(found.wrong, Vec::<String>::new(), "{what}");
        // What it alone has written is not lost by it.
        let own = rig.version("INSERT INTO t VALUES ('own', 'own', 1)").await;
        cured(&rig.store, &sound.store).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = rig.store.verify(Pace::AtOnce).await.unwrap();
        assert_eq!(found.wrong, Vec::<String>::new(), "{what}");
        assert_eq!(found.digests, rig.store.state().digests, "{what}");
        assert_eq!((state(&sound.store).await, &sound.store.state().digests), (before, &digests), "{what}");
        sound.store.apply(vec![own]).await.unwrap();
        assert_eq!(state(&rig.store).await, state(&sound.store).await, "{what}");
        assert_eq!(rig.store.state().digests, sound.store.state().digests, "{what}");
        rig.reopen(SCHEMA).await.is_sound().await;
    }
}

/// Where not even the bookkeeping can be read, the writer still has it in memory.
#[tokio::test]
async fn what_the_file_says_of_sites_is_written_anew_from_memory() {
    let cases = [
        "UPDATE __kith_site SET head = head + 1024",
        "UPDATE __kith_site SET id = randomblob(16) WHERE ord = 2",
        "UPDATE __kith_site SET ord = 99 WHERE ord = 2",
        "INSERT INTO __kith_purged VALUES (randomblob(16), 7)",
        "UPDATE __kith_meta SET purged_day = 9",
    ];
    for sql in cases {
        let (rig, sound) = tampered(sql).await;
        let found = rig.store.verify(Pace::AtOnce).await;
        assert!(matches!(found, Err(QueryError::Broken(_))), "{sql}: {found:?}");
        assert!(rig.store.looks().borrow().as_ref().is_some_and(|looked| !looked.wrong.is_empty()), "{sql}");
        let heads = sound.store.state().heads.clone();
        let cure = Cure { heads: Vector::clone(&heads), ..Cure::default() };
        assert_eq!(rig.store.repair(cure).await.unwrap().rows, 0, "{sql}");
        assert_eq!(rig.store.verify(Pace::AtOnce).await.unwrap().wrong, Vec::<String>::new(), "{sql}");
        let rig = rig.reopen(SCHEMA).await;
        rig.is_sound().await;
        assert!(rig.store.state().heads == heads, "{sql}");
        assert_eq!(state(&rig.store).await, state(&sound.store).await, "{sql}");
    }
}

#[tokio::test]
async fn what_is_written_after_a_repair_is_later_than_what_it_brought() {
    let (rig, sound) = tampered("UPDATE t SET a = 'other' WHERE id = 'key 4'").await;
    let ((table, key), mut row) = state(&sound.store)
        .await
        .into_iter()
        .find(|((table, _), row)| table.as_str() == "t" && row.is_alive())
        .unwrap();
    let site = SiteId::new([7; 16]);
    let stamp = Stamp { hlc: Hlc::from_ms(rig.store.state().hlc.ms() + 3_600_000), site, version: 1, seq: 0 };
    row.cells.values_mut().for_each(|cell| cell.stamp = stamp);
    let buckets = [Bucket::of(&table, &key)].into();
    let heads = [(site, 1)].into_iter().collect();
    let cure = Cure { buckets, rows: vec![PulledRow { table, key, row }], heads, ..Cure::default() };
    rig.store.repair(cure).await.unwrap();
    let later = rig.version("UPDATE t SET a = 'later'").await;
    assert!(later.hlc > stamp.hlc, "{:?} is not after {:?}", later.hlc, stamp.hlc);
}

#[tokio::test]
async fn what_a_repair_replaces_is_kept_beside_the_store() {
    let (rig, sound) = tampered("UPDATE t SET a = 'other' WHERE id = 'key 4'").await;
    assert_eq!(cured(&rig.store, &sound.store).await, Ok(1));
    let names = fs::read_dir(rig.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = names.filter(|path| path.to_string_lossy().contains(".repaired-")).collect();
    let text = fs::read_to_string(&kept[0]).unwrap();
    assert!(kept.len() == 1 && text.contains("a = 'other' by") && text.contains("a = 'letter 4' by"), "{text}");
}
