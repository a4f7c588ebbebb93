//! Deletions that are forgotten: what goes, what stays of it, and whose rows are not taken any more.

use std::time::Duration;

use kith_gossip::store::{ApplyError, Due, Heard, InstallError, Known, Store};
use kith_gossip_proto::frame::Answered;
use kith_gossip_proto::{Day, Hlc, Purged, Value, Vector};

use crate::copy::install;
use crate::rig::{Rig, collect, state};

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT);
    CREATE TABLE u (id TEXT NOT NULL PRIMARY KEY, a TEXT) WITHOUT ROWID;";

/// Two stores with the same rows, of which one was deleted.
async fn pair() -> (Rig, Rig) {
    let (a, b) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    let versions = [
        a.version("INSERT INTO t VALUES (1, 'one'), (2, 'two'); INSERT INTO u VALUES ('x', 'ex')").await,
        a.version("DELETE FROM t WHERE id = 1; DELETE FROM u").await,
    ];
    b.store.apply(versions.to_vec()).await.unwrap();
    (a, b)
}

async fn due(store: &Store) -> Due {
    let state = store.state();
    store.due(Vector::clone(&state.heads), Hlc::MAX).await.unwrap()
}

async fn purge(store: &Store) -> u64 {
    store.purge(due(store).await).await.unwrap()
}

/// What a store would answer a pull of everything with.
async fn answer(store: &Store) -> (Vec<kith_gossip_proto::frame::PulledRow>, Answered) {
    let (rows, heads) = collect(store, Vector::default()).await;
    (rows, Answered { heads, purged: Purged::clone(&store.state().purged) })
}

#[tokio::test]
async fn tombstones_go_with_their_log_and_their_day_when_they_are_covered_and_old() {
    let (a, b) = pair().await;
    let (site, made) = (a.store.site(), a.store.state().hlc);
    let heads = Vector::clone(&a.store.state().heads);
    assert!(a.store.due([(site, 1)].into_iter().collect(), Hlc::MAX).await.unwrap().is_empty(), "not covered");
    assert!(a.store.due(heads.clone(), made).await.unwrap().is_empty(), "too young");
    assert_eq!(purge(&a.store).await, 2);
    assert_eq!(state(&a.store).await.len(), 1);
    a.is_sound().await;
    assert_eq!(a.one("SELECT count(*) FROM __kith_log").await, Value::Integer(1));
    let (at_a, at_b) = (a.store.state(), b.store.state());
    assert_eq!((at_a.digests.days().count(), at_a.digests.live()), (0, at_b.digests.live()));
    assert_eq!(at_a.heads, at_b.heads);
    assert_eq!(at_a.digests.from(at_a.purged.floor), at_b.digests.from(at_a.purged.floor));
    assert_eq!((&at_a.purged.through, at_a.purged.floor), (&[(site, 2)].into_iter().collect(), Day::of(made).next()));
    assert!(due(&a.store).await.is_empty());
    let purged = at_a.purged.clone();
    let a = a.reopen(SCHEMA).await;
    assert_eq!(a.store.state().purged, purged);
    a.is_sound().await;
}

#[tokio::test]
async fn a_row_that_came_back_and_one_deleted_again_are_not_purged_by_what_was_due_before() {
    let (a, _) = pair().await;
    let before = due(&a.store).await;
    a.run("INSERT INTO t VALUES (1, 'again')").await.unwrap();
    a.run("INSERT INTO u VALUES ('x', 'again'); DELETE FROM u").await.unwrap();
    a.run("INSERT INTO u VALUES ('x', 'again')").await.unwrap();
    a.run("DELETE FROM u").await.unwrap();
    assert_eq!(a.store.purge(before).await.unwrap(), 0);
    assert_eq!(state(&a.store).await.len(), 3);
    a.is_sound().await;
}

/// Where the key is unknown it may be one that somebody else still has a tombstone of: an insert below that would be lost
/// there, and nowhere else.
#[tokio::test]
async fn a_key_that_was_forgotten_is_inserted_above_its_last_length() {
    let (a, b) = pair().await;
    purge(&a.store).await;
    let (pulled, copied) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    let (rows, answered) = answer(&a.store).await;
    pulled.store.join(rows, answered).await.unwrap();
    install(&a.store, &copied.store).await.unwrap();
    for (id, store) in [(1, &a), (11, &pulled), (21, &copied)] {
        let version = store.version(&format!("INSERT INTO t VALUES ({id}, 'new') ON CONFLICT DO NOTHING")).await;
        assert_eq!(version.changes[0].cl, 3, "{id}");
    }
    let again = pulled.version("INSERT INTO t VALUES (1, 'later') ON CONFLICT DO NOTHING").await;
    let (rows, heads) = collect(&pulled.store, Vector::default()).await;
    b.store.join(rows, heads).await.unwrap();
    assert_eq!(again.changes[0].cl, 3);
    assert_eq!(b.one("SELECT a FROM t WHERE id = 1").await, Value::Text(b"later".to_vec().into()));
    for store in [&a, &b, &pulled, &copied] {
        store.is_sound().await;
    }
}

#[tokio::test]
async fn rows_of_who_was_away_are_refused_on_both_sides() {
    let (a, away) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    away.store.apply(vec![a.version("INSERT INTO t VALUES (1, 'one')").await]).await.unwrap();
    a.run("DELETE FROM t").await.unwrap();
    purge(&a.store).await;
    away.run("UPDATE t SET a = 'mine' WHERE id = 1").await.unwrap();
    let (rows, answered) = answer(&away.store).await;
    assert_eq!(a.store.join(rows, answered).await, Err(ApplyError::PeerBehind));
    let (rows, answered) = answer(&a.store).await;
    assert_eq!(away.store.join(rows, answered).await, Err(ApplyError::Behind));
    assert!(matches!(install(&away.store, &a.store).await, Err(InstallError::PeerBehind)));
    assert_eq!(a.rows("SELECT * FROM t").await.unwrap().len(), 0);
    assert_eq!(away.rows("SELECT * FROM t").await.unwrap().len(), 1);
    // Who has nothing is welcome.
    let fresh = Rig::new(SCHEMA);
    let (rows, answered) = answer(&a.store).await;
    fresh.store.join(rows, answered).await.unwrap();
    assert_eq!(fresh.store.state().purged, a.store.state().purged);
}

/// A change of a row without state, made by a node that had not heard of the deletion, and handed on by one that still has
/// the tombstone: the row of that one says what became of it.
#[tokio::test]
async fn g5_a_version_that_changes_what_may_be_forgotten_waits_for_the_rows_of_who_knows() {
    let (a, b) = pair().await;
    let late = Rig::new(SCHEMA);
    let stale = late.version("INSERT INTO t VALUES (1, 'stale'), (3, 'three')").await;
    assert_eq!(purge(&a.store).await, 2);
    let before = Vector::clone(&a.store.state().heads);
    assert_eq!(
        a.store.apply(vec![stale.clone()]).await.unwrap(),
        before,
        "one of the rows may be one that was deleted"
    );
    b.store.apply(vec![stale]).await.unwrap();
    let (rows, answered) = answer(&b.store).await;
    a.store.join(rows, answered).await.unwrap();
    for store in [&a, &b] {
        assert_eq!(store.one("SELECT group_concat(a) FROM t").await, Value::Text(b"two,three".to_vec().into()));
        store.is_sound().await;
    }
    // What is made with that knowledge is above it, and taken at once.
    let fresh = b.version("INSERT INTO t VALUES (4, 'four')").await;
    assert_eq!(fresh.changes[0].cl, 1, "nothing was forgotten there");
    purge(&b.store).await;
    let fresh = [fresh, b.version("INSERT INTO t VALUES (5, 'five')").await];
    a.store.apply(fresh.to_vec()).await.unwrap();
    assert_eq!(
        a.rows("SELECT * FROM t").await.unwrap().len(),
        2,
        "the first may be forgotten, the second waits for it"
    );
}

/// What is looked up before a version is taken is not older than what is merged: a version may name a row twice.
#[tokio::test]
async fn a_version_that_names_a_row_twice_is_merged_once_a_deletion_is_forgotten() {
    let (a, b) = pair().await;
    purge(&a.store).await;
    assert_eq!(a.store.state().purged.length(&"t".into()), 2);
    let mut twice = b.version("UPDATE t SET a = 'second' WHERE id = 2").await;
    let mut first = twice.changes[0].clone();
    first.cells.insert("a".into(), Value::text("first"));
    twice.changes.insert(0, first);
    a.store.apply(vec![twice]).await.unwrap();
    assert_eq!(a.rows("SELECT a FROM t").await.unwrap(), [[Value::text("second")]]);
    a.is_sound().await;
}

#[tokio::test]
async fn a_node_is_known_for_as_long_as_one_has_listened_without_hearing_of_it() {
    let rig = Rig::new(SCHEMA);
    let heard = |listened: u64, nodes: &[&str], removed: &[&str]| {
        let of = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let (listened, window) = (Duration::from_secs(listened), Duration::from_secs(10));
        rig.store.heard(Heard { listened, nodes: of(nodes), removed: of(removed), window })
    };
    let these = |names: &[&str]| Ok(Known::These(names.iter().map(|name| name.parse().unwrap()).collect()));
    assert_eq!(heard(6, &["a", "b", "c"], &[]).await, Ok(Known::NotYet), "others may be silent since before");
    assert_eq!(heard(6, &["a"], &[]).await, these(&["a", "b", "c"]));
    let rig = rig.reopen(SCHEMA).await;
    let heard = |listened: u64, nodes: &[&str], removed: &[&str]| {
        let of = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let (listened, window) = (Duration::from_secs(listened), Duration::from_secs(10));
        rig.store.heard(Heard { listened, nodes: of(nodes), removed: of(removed), window })
    };
    assert_eq!(heard(3, &["a"], &["c"]).await, these(&["a", "b"]));
    assert_eq!(heard(3, &["a"], &[]).await, these(&["a"]));
    // A store that became a peer's copy has listened to nobody.
    let copy = Rig::new(SCHEMA);
    rig.run("INSERT INTO t VALUES (1, 'one')").await.unwrap();
    install(&rig.store, &copy.store).await.unwrap();
    let window = Duration::from_secs(10);
    let heard = Heard { listened: Duration::ZERO, nodes: [].into(), removed: [].into(), window };
    assert_eq!(copy.store.heard(heard).await, Ok(Known::NotYet));
}
