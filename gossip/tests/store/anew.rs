//! A store that was away for longer than deletions are remembered: it begins anew, and nothing of its own is lost in silence.

use kith_gossip::store::{Existing, Store, restore};
use kith_gossip_proto::{Hlc, Value, Vector};
use rusqlite::Connection;

use crate::copy::{files, install};
use crate::rig::{Rig, collect, config, state};

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT, b TEXT);
    CREATE TABLE u (id TEXT NOT NULL PRIMARY KEY, a TEXT) WITHOUT ROWID;";

/// Everybody but `away` has seen the deletions, and they are forgotten.
async fn purge(store: &Store) {
    let due = store.due(Vector::clone(&store.state().heads), Hlc::MAX).await.unwrap();
    assert!(store.purge(due).await.unwrap() > 0);
}

async fn shown(rig: &Rig, sql: &str) -> Vec<String> {
    let text = |row: Vec<Value>| {
        let texts = row.iter().map(|value| match value {
            Value::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
            other => format!("{other:?}"),
        });
        texts.collect::<Vec<_>>().join(" ")
    };
    rig.rows(sql).await.unwrap().into_iter().map(text).collect()
}

/// Two stores that were equal once; then one was cut off, and both went on. The other has forgotten what it deleted.
async fn parted() -> (Rig, Rig) {
    let (a, away) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    let begun = a
        .version("INSERT INTO t VALUES (1, 'a', 'a'), (2, 'a', 'a'), (3, 'a', 'a'), (4, 'a', 'a'), (5, 'a', 'a')")
        .await;
    away.store.apply(vec![begun]).await.unwrap();
    let told = away.version("INSERT INTO t VALUES (6, 'told', NULL)").await;
    a.store.apply(vec![told]).await.unwrap();
    // Row 1 goes, row 2 changes in one column, row 5 too, but later than at the other.
    a.run("DELETE FROM t WHERE id = 1; UPDATE t SET a = 'theirs' WHERE id = 2").await.unwrap();
    away.run("UPDATE t SET a = 'mine' WHERE id = 1; UPDATE t SET b = 'mine' WHERE id = 2; DELETE FROM t WHERE id = 3")
        .await
        .unwrap();
    away.run("INSERT INTO t VALUES (7, 'mine', NULL), (8, 'mine', NULL); INSERT INTO u VALUES ('x', 'mine')")
        .await
        .unwrap();
    away.run("UPDATE t SET a = 'mine again' WHERE id = 7; UPDATE t SET a = 'mine' WHERE id IN (5, 6); DELETE FROM t WHERE id = 8").await.unwrap();
    a.waits_for_a_later_millisecond(&away).await;
    a.run("UPDATE t SET a = 'later' WHERE id = 5").await.unwrap();
    purge(&a.store).await;
    (a, away)
}

#[tokio::test]
async fn g5_what_only_the_store_that_was_away_had_is_written_again_but_on_rows_that_were_deleted() {
    let (a, away) = parted().await;
    let (site, before) = (away.store.site(), away.store.state().hlc);
    let held = state(&away.store).await;
    install(&a.store, &away.store).await.unwrap();
    let expected = ["2 theirs mine", "4 a a", "5 later a", "6 mine NULL", "7 mine again NULL"];
    let rows = |rig| shown(rig, "SELECT id || '', a, coalesce(b, 'NULL') FROM t ORDER BY id");
    assert_eq!(rows(&away).await, expected);
    assert_eq!(shown(&away, "SELECT id, a FROM u").await, ["x mine"]);
    away.is_sound().await;
    // As another site, in one version, later than all it wrote before; the old one's untold versions are nobody's.
    let after = away.store.state();
    assert_ne!(away.store.site(), site);
    assert_eq!((after.heads.head(away.store.site()), after.heads.head(site)), (1, 1));
    assert!(after.hlc > before);
    // The other takes it like anything, and goes on.
    let (mine, heads) = collect(&away.store, Vector::clone(&a.store.state().heads)).await;
    a.store.join(mine, heads).await.unwrap();
    assert_eq!(rows(&a).await, expected);
    assert_eq!(state(&a.store).await, state(&away.store).await);
    assert_eq!(a.store.state().digests, after.digests);
    let next = away.version("UPDATE t SET b = 'next' WHERE id = 4").await;
    assert_eq!((next.site, next.version), (away.store.site(), 2));
    a.store.apply(vec![next]).await.unwrap();

    // What it was is kept, and what is lost is named.
    let files = files(&away);
    let kept = files.iter().find(|name| name.starts_with("kith.db.away-")).unwrap();
    let conn = Connection::open(away.dir.path().join(kept)).unwrap();
    assert_eq!(conn.query_row("SELECT a FROM t WHERE id = 1", [], |row| row.get::<_, String>(0)).unwrap(), "mine");
    assert_eq!(held.len(), 9);
    let lists = away.store.lost();
    assert_eq!(lists.len(), 1, "{files:?}");
    assert_eq!(std::fs::read_to_string(&lists[0]).unwrap(), "t (1): a = 'mine', b = 'a'\n");
    // All of it also after the next start.
    let (site, away) = (away.store.site(), away.reopen(SCHEMA).await);
    assert_eq!((away.store.site(), away.store.lost().len()), (site, 1));
    away.is_sound().await;
}

/// What it wrote as the site that it had before is nobody else's either.
#[tokio::test]
async fn what_was_written_under_an_earlier_site_is_written_again_too() {
    let (a, away) = parted().await;
    let kept = away.store.state().heads.head(away.store.site());
    away.store.renounce(kept).await.unwrap();
    install(&a.store, &away.store).await.unwrap();
    assert_eq!(shown(&away, "SELECT a FROM t WHERE id = 7").await, ["mine again"]);
    away.is_sound().await;
}

#[tokio::test]
async fn a_restored_backup_that_is_too_old_begins_anew() {
    let (a, away) = parted().await;
    let backup = away.dir.path().join("backup");
    away.store.close().await;
    let path = config(&away.dir, SCHEMA).path;
    std::fs::copy(&path, &backup).unwrap();
    restore(&backup, &path, Existing::KeptAside).unwrap();
    let away = away.reopen(SCHEMA).await;
    install(&a.store, &away.store).await.unwrap();
    assert_eq!(shown(&away, "SELECT a FROM t WHERE id = 7").await, ["mine again"]);
    assert_eq!(shown(&away, "SELECT a FROM t WHERE id = 1").await, [] as [&str; 0]);
    away.is_sound().await;
}

/// Rows of a table that is not here travel like others, and so they are written again.
#[tokio::test]
async fn rows_of_a_table_that_the_peer_does_not_know_are_written_again() {
    let a = Rig::new("CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT);");
    let away = Rig::new(SCHEMA);
    away.store.apply(vec![a.version("INSERT INTO t VALUES (1, 'a')").await]).await.unwrap();
    away.run("INSERT INTO u VALUES ('x', 'mine'); UPDATE t SET b = 'mine' WHERE id = 1").await.unwrap();
    a.run("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (2, 'a')").await.unwrap();
    purge(&a.store).await;
    install(&a.store, &away.store).await.unwrap();
    assert_eq!(shown(&away, "SELECT id, a FROM u").await, ["x mine"]);
    assert_eq!(shown(&away, "SELECT id || '' FROM t").await, ["2"]);
    assert_eq!(away.store.lost().len(), 1);
    away.is_sound().await;
}
