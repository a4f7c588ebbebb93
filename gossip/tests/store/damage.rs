//! Bits that a disk has changed: found wherever they are, and nothing of them told to a peer.

use std::fs;
use std::path::PathBuf;

use kith_gossip::store::{OpenError, Pace, QueryError, Store};
use kith_gossip_proto::Vector;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

use crate::rig::{Rig, config, state};

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
async fn a_letter_that_changed_in_an_index_is_found() {
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
    assert!(found.malformed.is_empty(), "{:?}", found.malformed);
    rig.store.close().await;
}

/// Each flip is refused at the start, or found by a look, or has changed nothing that anybody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flip_anywhere_in_the_file_stays_unnoticed() {
    const FLIPS: u64 = 400;
    let rig = filled(40).await;
    let (sound, heads) = (state(&rig.store).await, rig.store.state().heads.clone());
    rig.store.close().await;
    let bytes = fs::read(file(&rig)).unwrap();
    let (mut refused, mut found, mut harmless) = (0, 0, 0);
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
                assert!(error.to_string().contains("kith.db") || matches!(error, OpenError::Schema(_)), "{error}");
                continue;
            }
        };
        match store.verify(Pace::AtOnce).await {
            Ok(looked) if looked.wrong.is_empty() => {
                harmless += 1;
                assert_eq!(state(&store).await, sound, "seed {seed}: byte {at}, bit {bit}");
                assert_eq!(store.state().heads, heads, "seed {seed}: byte {at}, bit {bit}");
            }
            Ok(_) | Err(QueryError::Malformed(_) | QueryError::Broken(_)) => found += 1,
            Err(other) => panic!("seed {seed}: byte {at}, bit {bit}: {other:?}"),
        }
        store.close().await;
    }
    let all_kinds = refused > 0 && found > 0 && harmless > 0;
    assert!(all_kinds, "of {FLIPS} flips {refused} were refused at the start, {found} found, {harmless} harmless");
}
