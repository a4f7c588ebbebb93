//! Copies of a store: what becomes of one in a store that has nothing, in one that has something, and when it is damaged.

use std::io::Read;
use std::os::unix::fs::FileExt;

use kith_gossip::store::{InstallError, Keys, Store, StoreCopy};
use kith_gossip_proto::{Hlc, Value};

use crate::rig::{Rig, state};

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT, b INTEGER);";

async fn filled() -> Rig {
    let rig = Rig::new(SCHEMA);
    rig.run("INSERT INTO t VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3)").await.unwrap();
    rig.run("UPDATE t SET b = 20 WHERE id = 2; DELETE FROM t WHERE id = 3").await.unwrap();
    rig
}

pub(crate) async fn install(from: &Store, to: &Store) -> Result<(), InstallError> {
    send(from.copy().await.unwrap(), to).await
}

async fn send(mut copy: StoreCopy, to: &Store) -> Result<(), InstallError> {
    let mut bytes = Vec::new();
    copy.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, copy.bytes);
    let mut incoming = to.receive().unwrap();
    bytes.chunks(1000).for_each(|chunk| incoming.write(chunk).unwrap());
    to.install(incoming, Hlc::MAX).await.map(drop)
}

pub(crate) fn files(rig: &Rig) -> Vec<String> {
    let names = std::fs::read_dir(rig.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_empty_store_becomes_the_copy_and_stays_itself() {
    let (old, new) = (filled().await, Rig::new(SCHEMA));
    let (site, mut commits) = (new.store.site(), new.store.commits());
    install(&old.store, &new.store).await.unwrap();
    assert_eq!(state(&new.store).await, state(&old.store).await);
    assert_eq!(new.store.state().digests, old.store.state().digests);
    assert_eq!(new.store.state().heads, old.store.state().heads);
    new.is_sound().await;
    // Readers saw one commit, which touched everything.
    let commit = commits.recv().await.unwrap();
    assert_eq!(commit.touched["t"].keys, Keys::Many);
    assert!(commits.try_recv().is_err());
    // What it writes is its own, also after the next start.
    let written = new.version("INSERT INTO t VALUES (4, 'four', 4)").await;
    assert_eq!(written.site, site);
    assert_eq!(new.rows("SELECT id FROM t ORDER BY id").await.unwrap().len(), 3);
    std::fs::write(new.dir.path().join("kith.db-coming-7"), "left by a crash").unwrap();
    let new = new.reopen(SCHEMA).await;
    assert_eq!((new.store.site(), new.store.boot()), (site, 2));
    let next = new.version("UPDATE t SET a = 'vier' WHERE id = 4").await;
    assert!(next.site == site && next.version > written.version && next.hlc > written.hlc);
    new.is_sound().await;
    old.store.apply(vec![written]).await.unwrap();
    assert_eq!(old.one("SELECT a FROM t WHERE id = 4").await, Value::Text(b"four".to_vec().into()));
    assert_eq!(files(&new), ["kith.db", "kith.db-lock", "kith.db-shm", "kith.db-wal"]);
    assert_eq!(files(&old), files(&new));
}

#[tokio::test]
async fn a_store_that_has_something_joins_the_copy() {
    let (old, new) = (filled().await, Rig::new(SCHEMA));
    new.run("INSERT INTO t VALUES (1, 'mine', 7), (9, 'nine', 9)").await.unwrap();
    install(&old.store, &new.store).await.unwrap();
    assert!(new.store.state().heads.covers(&old.store.state().heads));
    assert_eq!(new.rows("SELECT id FROM t ORDER BY id").await.unwrap().len(), 3);
    new.is_sound().await;
    install(&new.store, &old.store).await.unwrap();
    assert_eq!(state(&new.store).await, state(&old.store).await);
    assert_eq!(new.store.state().digests, old.store.state().digests);
    old.is_sound().await;
}

#[tokio::test]
async fn what_this_node_declares_beyond_the_copy_stays() {
    let old = filled().await;
    let new = Rig::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT, b INTEGER, c TEXT DEFAULT 'x');
         CREATE TABLE u (id INTEGER PRIMARY KEY NOT NULL, d TEXT);
         CREATE INDEX by_d ON u (d);",
    );
    let hash = new.store.state().schema;
    install(&old.store, &new.store).await.unwrap();
    assert_eq!(new.store.state().schema, hash);
    assert_eq!(new.one("SELECT c FROM t WHERE id = 1").await, Value::Text(b"x".to_vec().into()));
    new.run("INSERT INTO u VALUES (1, 'd')").await.unwrap();
    let index = new.one("SELECT count(*) FROM sqlite_schema WHERE name = 'by_d'").await;
    assert_eq!(index, Value::Integer(1));
    new.is_sound().await;
}

#[tokio::test]
async fn a_copy_that_is_damaged_changes_nothing() {
    let old = filled().await;
    for (what, at, bytes) in [("no database", 0, &b"nothing"[..]), ("half a page", 4096, &[0xFF; 2000])] {
        let new = Rig::new(SCHEMA);
        let copy = old.store.copy().await.unwrap();
        copy.file.write_all_at(bytes, at).unwrap();
        let refused = send(copy, &new.store).await;
        assert!(matches!(refused, Err(InstallError::Open(_) | InstallError::Unsound(_))), "{what}: {refused:?}");
        assert!(new.store.state().heads.is_empty());
        new.run("INSERT INTO t VALUES (1, 'still here', 1)").await.unwrap();
        new.is_sound().await;
        assert_eq!(files(&new), ["kith.db", "kith.db-lock", "kith.db-shm", "kith.db-wal"], "{what}");
    }
}

/// One bit of a value: SQLite cannot notice, the digest does.
#[tokio::test]
async fn a_copy_with_one_wrong_letter_is_refused() {
    let (old, new) = (filled().await, Rig::new(SCHEMA));
    let mut copy = old.store.copy().await.unwrap();
    let mut bytes = Vec::new();
    copy.file.read_to_end(&mut bytes).unwrap();
    let at = bytes.windows(3).position(|window| window == b"two").unwrap();
    bytes[at] ^= 1;
    let mut incoming = new.store.receive().unwrap();
    incoming.write(&bytes).unwrap();
    let refused = new.store.install(incoming, Hlc::MAX).await;
    assert!(matches!(refused, Err(InstallError::Unsound(_))), "{refused:?}");
}
