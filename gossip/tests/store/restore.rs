//! Backups restored, and damaged files kept aside: nothing is ever destroyed, and no version is given out twice.

use std::io::Read;
use std::path::{Path, PathBuf};

use kith_gossip::store::{Existing, OpenError, RestoreError, Store, restore, verify_file};
use kith_gossip_proto::Vector;
use tempfile::TempDir;

use crate::rig::{Rig, collect, config, state};

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT);";

async fn backup(store: &Store, folder: &TempDir) -> PathBuf {
    let mut copy = store.copy().await.unwrap();
    let mut bytes = Vec::new();
    copy.file.read_to_end(&mut bytes).unwrap();
    let path = folder.path().join("backup.db");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn files(folder: &Path, part: &str) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(part) && !name.ends_with("-wal")).count()
}

#[tokio::test]
async fn a_restored_backup_is_another_site_so_both_can_go_on() {
    let (first, elsewhere) = (Rig::new(SCHEMA), TempDir::new().unwrap());
    first.run("INSERT INTO t VALUES (1, 'one')").await.unwrap();
    let file = backup(&first.store, &elsewhere).await;
    let found = verify_file(&file).unwrap();
    assert_eq!((found.rows, found.wrong.len(), found.digest()), (1, 0, first.store.state().digest()));
    // What the backup does not know of.
    let later = first.version("INSERT INTO t VALUES (2, 'two')").await;
    let restored = restore(&file, &elsewhere.path().join("kith.db"), Existing::Stays).unwrap();
    assert_eq!((restored.rows, restored.aside), (1, None));
    let second = Store::open(config(&elsewhere, SCHEMA)).unwrap();
    assert_ne!(second.site(), first.store.site());
    let second = Rig { dir: elsewhere, store: second };
    let own = second.version("INSERT INTO t VALUES (3, 'three')").await;
    assert_ne!((own.site, own.version), (later.site, later.version));
    for (from, to) in [(&first, &second), (&second, &first)] {
        let (rows, heads) = collect(&from.store, Vector::default()).await;
        to.store.join(rows, heads).await.unwrap();
    }
    assert_eq!(state(&first.store).await, state(&second.store).await);
    assert_eq!(first.store.state().digest(), second.store.state().digest());
    second.is_sound().await;
}

#[tokio::test]
async fn a_store_that_is_there_stays_or_is_kept_aside() {
    let rig = Rig::new(SCHEMA);
    rig.run("INSERT INTO t VALUES (1, 'one')").await.unwrap();
    let (elsewhere, path) = (TempDir::new().unwrap(), rig.dir.path().join("kith.db"));
    let file = backup(&rig.store, &elsewhere).await;
    let in_use = restore(&file, &path, Existing::KeptAside);
    assert!(matches!(in_use, Err(RestoreError::Open(OpenError::InUse { .. }))), "{in_use:?}");
    rig.run("INSERT INTO t VALUES (2, 'two')").await.unwrap();
    rig.store.close().await;
    assert!(matches!(restore(&file, &path, Existing::Stays), Err(RestoreError::Exists { .. })));
    let damaged = elsewhere.path().join("damaged.db");
    std::fs::write(&damaged, &std::fs::read(&file).unwrap()[..5000]).unwrap();
    let refused = restore(&damaged, &path, Existing::KeptAside);
    assert!(matches!(refused, Err(RestoreError::Open(_) | RestoreError::Unsound(_))), "{refused:?}");
    assert_eq!(files(rig.dir.path(), "before-restore"), 0);
    let aside = restore(&file, &path, Existing::KeptAside).unwrap().aside.unwrap();
    assert_eq!(verify_file(&aside).unwrap().rows, 2);
    let store = Store::open(config(&rig.dir, SCHEMA)).unwrap();
    assert_eq!(store.boot(), 2);
    let store = Rig { dir: rig.dir, store };
    assert_eq!(store.rows("SELECT * FROM t").await.unwrap().len(), 1);
    store.is_sound().await;
}

#[tokio::test]
async fn a_damaged_store_is_kept_aside_and_its_place_counts_on() {
    let mut rig = Rig::new(SCHEMA);
    for time in 1..=4 {
        rig.run("INSERT INTO t VALUES (1, 'one')").await.unwrap();
        let site = rig.store.site();
        rig.store.close().await;
        let path = rig.dir.path().join("kith.db");
        std::fs::write(&path, "this was a database".repeat(1000)).unwrap();
        assert!(matches!(Store::open(config(&rig.dir, SCHEMA)), Err(OpenError::Damaged { .. })));
        let store = Store::open_or_begin_anew(config(&rig.dir, SCHEMA)).unwrap();
        assert!(store.boot() > time && store.site() != site && store.state().heads.is_empty());
        rig = Rig { dir: rig.dir, store };
        assert_eq!(files(rig.dir.path(), "damaged"), usize::try_from(time).unwrap().min(3));
    }
}
