//! Stores of which there is, or was, another: copies, disks that are set back, logs that lost their end.

use std::fs;
use std::path::{Path, PathBuf};

use kith_gossip::store::{ApplyError, Cure, Durability, InstallError, Met, Store, StoreConfig};
use kith_gossip_proto::{NodeId, Past, Start, Value, Vector};
use tempfile::TempDir;

use crate::copy::install;
use crate::rig::{Rig, collect, config, state};

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT);";

/// What the disk held at some moment.
struct Image(Vec<(PathBuf, Vec<u8>)>);

impl Image {
    fn of(folder: &Path) -> Self {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        Self(files.map(|path| (path.clone(), fs::read(path).unwrap())).collect())
    }

    /// Sets the disk back: the files are the same ones as before, as when a whole file system is set back.
    fn put_back(&self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            fs::write(entry.unwrap().path(), b"").unwrap();
        }
        self.0.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
}

async fn insert(rig: &Rig, id: i64) {
    rig.run(&format!("INSERT INTO t VALUES ({id}, 'a')")).await.unwrap();
}

async fn pull(to: &Rig, from: &Rig) {
    let (rows, heads) = collect(&from.store, Vector::clone(&to.store.state().heads)).await;
    to.store.join(rows, heads).await.unwrap();
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

async fn meet(rig: &Rig, peer: &Rig) -> Met {
    rig.store.meet(&node("peer"), peer.store.past()).await.unwrap()
}

#[tokio::test]
async fn a_copied_file_is_another_site_and_a_moved_one_is_not() {
    let (rig, elsewhere) = (Rig::new(SCHEMA), TempDir::new().unwrap());
    insert(&rig, 1).await;
    let site = rig.store.site();
    let rig = rig.reopen(SCHEMA).await;
    assert_eq!(rig.store.site(), site);
    rig.store.close().await;
    let path = |dir: &TempDir| dir.path().join("kith.db");
    fs::copy(path(&rig.dir), path(&elsewhere)).unwrap();
    let copy = Store::open(config(&elsewhere, SCHEMA)).unwrap();
    let copy = Rig { dir: elsewhere, store: copy };
    assert_ne!(copy.store.site(), site);
    assert_eq!(copy.store.state().heads.head(site), 1, "what it has is of the old one");
    assert_eq!(copy.version("INSERT INTO t VALUES (2, 'of the copy')").await.version, 1);
    copy.is_sound().await;
    let of_copy = copy.store.site();
    let copy = copy.reopen(SCHEMA).await;
    assert_eq!(copy.store.site(), of_copy);

    let moved = TempDir::new_in(rig.dir.path().parent().unwrap()).unwrap();
    fs::rename(path(&rig.dir), path(&moved)).unwrap();
    assert_eq!(Store::open(config(&moved, SCHEMA)).unwrap().site(), site);
}

#[tokio::test]
async fn a_disk_that_was_set_back_is_known_by_whoever_met_a_later_start() {
    let (rig, peer) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    insert(&rig, 1).await;
    let rig = rig.reopen(SCHEMA).await;
    assert_eq!(meet(&peer, &rig).await, Met::Itself);
    assert_eq!(meet(&peer, &rig).await, Met::Itself);
    rig.store.close().await;
    let image = Image::of(rig.dir.path());
    for _ in 0..2 {
        let rig = Rig { store: Store::open(config(&rig.dir, SCHEMA)).unwrap(), dir: TempDir::new().unwrap() };
        assert_eq!(meet(&peer, &rig).await, Met::Itself, "it is later than what was met");
        rig.store.close().await;
    }
    image.put_back(rig.dir.path());
    let rig = Rig { store: Store::open(config(&rig.dir, SCHEMA)).unwrap(), ..rig };
    let peer = peer.reopen(SCHEMA).await;
    assert_eq!(meet(&peer, &rig).await, Met::Forked(4), "also after a restart of the peer");
    assert_eq!(meet(&Rig::new(SCHEMA), &rig).await, Met::Itself, "nobody else knows");
}

#[tokio::test]
async fn a_start_that_lacks_what_a_peer_holds_of_it_gives_up_its_site_and_gets_it_back() {
    let (rig, peer) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    insert(&rig, 1).await;
    let rig = rig.reopen(SCHEMA).await;
    rig.store.close().await;
    let image = Image::of(rig.dir.path());
    let rig = Rig { store: Store::open(config(&rig.dir, SCHEMA)).unwrap(), ..rig };
    insert(&rig, 2).await;
    pull(&peer, &rig).await;
    rig.store.close().await;
    image.put_back(rig.dir.path());

    let rig = Rig { store: Store::open(config(&rig.dir, SCHEMA)).unwrap(), ..rig };
    let (old, boot) = (rig.store.site(), rig.store.boot());
    insert(&rig, 3).await;
    let Met::Forked(known) = meet(&peer, &rig).await else { panic!("the peer holds what it lacks") };
    assert_eq!(known, boot, "a peer that has never met it knows no greater one");
    let done = rig.store.begin_again(known + 7).await.unwrap().unwrap();
    assert_eq!((done.old, done.kept, done.rows), (old, 1, 1));
    pull(&rig, &peer).await;
    pull(&peer, &rig).await;
    for rig in [&rig, &peer] {
        rig.is_sound().await;
        assert_eq!(rig.one("SELECT group_concat(id) FROM t").await, Value::text("1,2,3"));
    }
    assert_eq!(state(&rig.store).await, state(&peer.store).await);
    assert_eq!(rig.store.state().digests, peer.store.state().digests);

    let rig = rig.reopen(SCHEMA).await;
    assert_eq!((rig.store.boot(), rig.store.site()), (known + 8, done.site));
    assert_eq!(meet(&peer, &rig).await, Met::Itself);
    assert_eq!(rig.store.begin_again(99).await, Ok(None), "no other store can have a site that is so new");
    let rig = rig.reopen(SCHEMA).await;
    assert!(rig.store.begin_again(u64::MAX >> 1).await.unwrap().is_some());
    assert!(rig.reopen(SCHEMA).await.store.boot() < 20_000, "no count is believed that cannot be");
}

#[tokio::test]
async fn what_a_peer_holds_of_a_start_that_it_lacks_is_not_taken_however_it_comes() {
    let (rig, peer) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    rig.store.close().await;
    let image = Image::of(rig.dir.path());
    let open = || Store::open(config(&rig.dir, SCHEMA)).unwrap();
    let before = Rig { store: open(), dir: TempDir::new().unwrap() };
    let written = before.version("INSERT INTO t VALUES (1, 'a')").await;
    peer.store.apply(vec![written.clone()]).await.unwrap();
    // So that it cannot find out by the rows that it holds.
    peer.run("DELETE FROM t").await.unwrap();
    before.store.close().await;
    image.put_back(rig.dir.path());

    let rig = Rig { store: open(), dir: TempDir::new().unwrap() };
    assert_eq!(meet(&peer, &rig).await, Met::Itself);
    let (rows, heads) = collect(&peer.store, Vector::default()).await;
    assert!(matches!(install(&peer.store, &rig.store).await, Err(InstallError::Forked)));
    let cure = Cure { rows: rows.clone(), heads: heads.clone(), ..Cure::default() };
    assert_eq!(rig.store.repair(cure).await, Err(ApplyError::Forked));
    assert_eq!(rig.store.apply(vec![written]).await, Ok(Vector::default()));
    assert_eq!(rig.store.join(rows, heads).await, Err(ApplyError::Forked));
    assert!(rig.store.state().heads.is_empty());

    insert(&rig, 2).await;
    rig.store.begin_again(rig.store.boot()).await.unwrap().unwrap();
    pull(&rig, &peer).await;
    pull(&peer, &rig).await;
    assert_eq!(state(&rig.store).await, state(&peer.store).await);
    assert_eq!(rig.one("SELECT group_concat(id) FROM t").await, Value::text("2"));
}

#[tokio::test]
async fn a_log_that_lost_its_end_repeats_no_version() {
    let (dir, peer) = (TempDir::new().unwrap(), Rig::new(SCHEMA));
    let config = StoreConfig { durability: Durability::Normal, ..config(&dir, SCHEMA) };
    let rig = Rig { store: Store::open(config.clone()).unwrap(), dir };
    insert(&rig, 1).await;
    let log = rig.dir.path().join("kith.db-wal");
    let kept = fs::metadata(&log).unwrap().len();
    // A disk that loses what it said was synced: the peer has it, and this store does not.
    for id in 2..5 {
        insert(&rig, id).await;
    }
    pull(&peer, &rig).await;
    let (old, lost) = (rig.store.site(), rig.store.state().heads.head(rig.store.site()));
    let (database, log_then) = (fs::read(&config.path).unwrap(), fs::read(&log).unwrap());
    rig.store.close().await;
    fs::write(&config.path, database).unwrap();
    fs::write(&log, &log_then[..usize::try_from(kept).unwrap()]).unwrap();
    fs::write(rig.dir.path().join("kith.db-shm"), b"").unwrap();

    let rig = Rig { store: Store::open(config).unwrap(), ..rig };
    assert_eq!((rig.store.site(), rig.store.state().heads.head(old)), (old, 1));
    let next = rig.version("INSERT INTO t VALUES (5, 'after')").await;
    assert!(next.version > lost, "{} was given out before", next.version);
    let Met::Forked(boot) = meet(&peer, &rig).await else { panic!("the peer holds what it lacks") };
    rig.store.begin_again(boot).await.unwrap().unwrap();
    pull(&rig, &peer).await;
    pull(&peer, &rig).await;
    for rig in [&rig, &peer] {
        rig.is_sound().await;
        assert_eq!(rig.one("SELECT group_concat(id) FROM t").await, Value::text("1,2,3,4,5"));
    }
    assert_eq!(rig.store.state().digests, peer.store.state().digests);
}

#[tokio::test]
async fn of_two_stores_of_one_site_the_earlier_start_gives_way() {
    let rig = Rig::new(SCHEMA);
    rig.store.close().await;
    let image = Image::of(rig.dir.path());
    let open = || Store::open(config(&rig.dir, SCHEMA)).unwrap();
    let first = open();
    let (past, boot) = (first.past(), first.boot());
    first.close().await;
    let second = open();
    assert_eq!(second.meet(&node("peer"), past).await.unwrap(), Met::Forked(boot + 1));
    let later = second.past();
    second.close().await;
    image.put_back(rig.dir.path());
    let first = open();
    assert_eq!(first.meet(&node("peer"), later).await.unwrap(), Met::Ours);
}

#[tokio::test]
async fn g16_a_node_cannot_give_itself_the_site_of_another() {
    let (rig, peer) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    let past = peer.store.past();
    assert_eq!(rig.store.meet(&node("peer"), past).await.unwrap(), Met::Itself);
    // By whatever it says of its starts, and also after a restart.
    let later = Past { start: Start { boot: past.start.boot + 1_000, nonce: 7 }, ..past };
    let rig = rig.reopen(SCHEMA).await;
    for claim in [past, later] {
        assert_eq!(rig.store.meet(&node("other"), claim).await.unwrap(), Met::OfAnother(claim.start.boot));
    }
    assert_eq!(rig.store.meet(&node("peer"), past).await.unwrap(), Met::Itself, "whose it is goes on");
}
