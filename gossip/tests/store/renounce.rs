//! A store gives up its site. That rows and bookkeeping survive it among any other steps is shown in `merge`.

use std::sync::Arc;

use kith_gossip_proto::version::Life;
use kith_gossip_proto::{Change, Hlc, Key, Row, Value, Vector, Version};

use crate::rig::{Rig, collect, state};

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT, b TEXT);";

#[tokio::test]
async fn what_is_given_up_is_told_once_more_under_another_site() {
    let rig = Rig::new(SCHEMA);
    for n in 1..=3 {
        rig.run(&format!("INSERT INTO t VALUES ({n}, 'a', 'b')")).await.unwrap();
    }
    rig.run("UPDATE t SET a = 'c' WHERE id = 1; DELETE FROM t WHERE id = 2").await.unwrap();
    let (old, digest) = (rig.store.site(), rig.store.state().digest());
    let mut commits = rig.store.commits();
    let done = rig.store.renounce(2).await.unwrap();
    assert_eq!((done.old, done.kept, done.rows), (old, 2, 3));
    let commit = commits.recv().await.unwrap();
    assert_eq!((commit.versions.len(), commit.touched.len()), (0, 0), "readers see what they saw");
    assert_eq!(*commit.heads, Vector::from_iter([(old, 2), (done.site, 1)]));
    assert_eq!((rig.store.site(), &rig.store.state().heads), (done.site, &commit.heads));
    assert_ne!(rig.store.state().digest(), digest);
    rig.is_sound().await;
    let (rows, _) = collect(&rig.store, Vector::from_iter([(old, 2)])).await;
    assert_eq!(rows.len(), 3);
    assert_eq!(rig.said("UPDATE t SET b = 'd' WHERE id = 3").await, "set t[3]@1 b='d'\n");
    let rig = rig.reopen(SCHEMA).await;
    assert_eq!(rig.store.site(), done.site);
    assert_eq!(rig.version("INSERT INTO t VALUES (4, 'a', 'b')").await.version, 3);
    rig.is_sound().await;
}

#[tokio::test]
async fn a_site_that_has_written_nothing_above_changes_its_name_only() {
    let rig = Rig::new(SCHEMA);
    let first = rig.store.renounce(0).await.unwrap();
    rig.run("INSERT INTO t VALUES (1, 'a', 'b')").await.unwrap();
    let before = rig.store.state();
    let done = rig.store.renounce(u64::MAX).await.unwrap();
    assert_eq!((done.old, done.kept, done.rows), (first.site, 1, 0));
    assert_eq!((&rig.store.state().heads, rig.store.state().digest()), (&before.heads, before.digest()));
    assert_eq!(rig.version("DELETE FROM t").await.version, 1);
    rig.is_sound().await;
}

#[tokio::test]
async fn a_peer_that_holds_the_old_stamps_and_the_store_end_alike() {
    let (rig, peer) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    let given = rig.version("INSERT INTO t VALUES (1, 'a', 'b'), (2, 'a', 'b')").await;
    peer.store.apply(vec![given]).await.unwrap();
    peer.run("UPDATE t SET a = 'of the peer' WHERE id = 1; DELETE FROM t WHERE id = 2").await.unwrap();
    let done = rig.store.renounce(0).await.unwrap();
    for (from, to) in [(&rig, &peer), (&peer, &rig)] {
        let (rows, heads) = collect(&from.store, Vector::clone(&to.store.state().heads)).await;
        to.store.join(rows, heads).await.unwrap();
        to.is_sound().await;
    }
    assert_eq!(state(&rig.store).await, state(&peer.store).await);
    assert_eq!(rig.store.state().digests, peer.store.state().digests);
    assert_eq!(rig.store.state().heads.head(done.old), 1, "it came back as somebody else's");
    assert_eq!(rig.one("SELECT count(*) FROM t").await, Value::Integer(1), "a delete stays one");
}

#[tokio::test]
async fn what_is_set_aside_is_stamped_anew_too() {
    let rig = Rig::new(SCHEMA);
    rig.store.renounce(0).await.unwrap();
    // Its site is new: it keeps it and takes what peers have of it, as if it had written that.
    let rig = rig.reopen(SCHEMA).await;
    let row = |table: &str, life| Change {
        table: table.into(),
        key: Key::encode([&Value::Integer(1)]).unwrap(),
        cl: 1,
        life,
        cells: [("a".into(), Value::text("x")), ("later".into(), Value::text("y"))].into(),
    };
    let changes = vec![row("t", Life::Changed), row("unknown", Life::Changed)];
    let own = Version { site: rig.store.site(), version: 1, hlc: Hlc::from_ms(1), changes };
    rig.store.apply(vec![own]).await.unwrap();
    let done = rig.store.renounce(0).await.unwrap();
    assert_eq!(done.rows, 2);
    rig.is_sound().await;
    let rows = state(&rig.store).await;
    let stamps: Vec<_> = rows.values().flat_map(Row::stamps).collect();
    assert_eq!(
        stamps.iter().map(|stamp| (stamp.site, stamp.version, stamp.seq)).collect::<Vec<_>>(),
        [(done.site, 1, 0), (done.site, 1, 1)]
    );
}

#[tokio::test]
async fn a_page_of_the_log_is_not_the_end_of_it() {
    let rig = Rig::new(SCHEMA);
    const ALL: &str = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1500) SELECT i";
    rig.run(&format!("INSERT INTO t (id) {ALL} FROM n")).await.unwrap();
    rig.run("UPDATE t SET a = 'x' WHERE id % 2").await.unwrap();
    assert_eq!(rig.store.renounce(0).await.unwrap().rows, 1500);
    rig.is_sound().await;
    assert_eq!(state(&rig.store).await.values().map(|row| row.stamps().len()).max(), Some(1));
    let stored = Arc::clone(&rig.store.state().heads);
    assert_eq!((stored.len(), stored.head(rig.store.site())), (1, 1));
}

#[tokio::test]
async fn what_was_purged_under_a_site_that_is_given_up_keeps_nobody_out() {
    let rig = Rig::new(SCHEMA);
    rig.run("INSERT INTO t VALUES (1, 'a', 'b')").await.unwrap();
    rig.run("DELETE FROM t").await.unwrap();
    let due = rig.store.due(Vector::clone(&rig.store.state().heads), Hlc::MAX).await.unwrap();
    assert_eq!(rig.store.purge(due).await.unwrap(), 1);
    let covers = |rig: &Rig| rig.store.state().heads.covers(&rig.store.state().purged.through);
    assert!(covers(&rig) && !rig.store.state().purged.through.is_empty());
    rig.store.renounce(0).await.unwrap();
    assert!(covers(&rig), "nobody can ever apply what it says was purged");
    rig.is_sound().await;
    let rig = rig.reopen(SCHEMA).await;
    assert!(covers(&rig), "in the file as well");
}

#[tokio::test]
async fn of_two_who_want_a_site_given_up_one_comes_too_late() {
    let rig = Rig::new(SCHEMA);
    rig.run("INSERT INTO t VALUES (1, 'a', 'b')").await.unwrap();
    let (one, other) = tokio::join!(rig.store.renounce(0), rig.store.renounce(0));
    assert!(one.is_ok() != other.is_ok(), "{one:?}, {other:?}");
    assert_eq!(rig.one("SELECT id FROM t").await, Value::Integer(1));
    rig.is_sound().await;
}
