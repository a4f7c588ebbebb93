//! Clocks far ahead: what a store stamps by, and which copies it does not take.

use std::io::Read;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kith_gossip::store::{Highest, InstallError, Pace, Store};
use kith_gossip_proto::version::Life;
use kith_gossip_proto::{Change, Hlc, Key, SiteId, Value, Vector, Version};

use crate::rig::Rig;

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT);";
const DAY: u64 = 86_400_000;
const MINUTE: u64 = 60_000;

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// The clocks of peers, where ours is a day ahead of them.
fn a_day_ago() -> Option<Highest> {
    Some(Highest { at: Instant::now(), ms: (wall_ms() - DAY).cast_signed() })
}

#[tokio::test]
async fn a_store_far_ahead_of_its_peers_stamps_by_their_clocks_also_after_its_next_start() {
    let rig = Rig::new(SCHEMA);
    rig.store.correct_clock(a_day_ago());
    let first = rig.version("INSERT INTO t VALUES (1, 'x')").await;
    let second = rig.version("INSERT INTO t VALUES (2, 'x')").await;
    assert!(first.hlc < second.hlc && second.hlc.ms() < wall_ms() - DAY + MINUTE, "{first:?} {second:?}");
    // What was reserved for after a crash was, too.
    let rig = rig.reopen(SCHEMA).await;
    rig.store.correct_clock(a_day_ago());
    let third = rig.version("INSERT INTO t VALUES (3, 'x')").await;
    assert!(second.hlc < third.hlc && third.hlc.ms() < wall_ms() - DAY + MINUTE, "{third:?}");
    rig.store.correct_clock(None);
    assert!(rig.version("INSERT INTO t VALUES (4, 'x')").await.hlc.ms() + MINUTE > wall_ms());
}

async fn install(from: &Store, to: &Store, latest: Hlc) -> Result<(), InstallError> {
    let (mut copy, mut bytes) = (from.copy().await.unwrap(), Vec::new());
    copy.file.read_to_end(&mut bytes).unwrap();
    let mut incoming = to.receive().unwrap();
    incoming.write(&bytes).unwrap();
    to.install(incoming, latest).await.map(drop)
}

#[tokio::test]
async fn a_copy_that_holds_one_stamp_from_the_future_is_refused_whole() {
    let (old, new) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    old.run("INSERT INTO t VALUES (1, 'x'), (2, 'x')").await.unwrap();
    let last = old.version("DELETE FROM t WHERE id = 2").await.hlc;
    let before = Hlc::from_bits(last.to_bits() - 1);
    let refused = install(&old.store, &new.store, before).await;
    assert!(matches!(refused, Err(InstallError::FromFuture(stamp)) if stamp.hlc == last), "{refused:?}");
    assert!(new.store.state().heads.is_empty() && new.store.state().hlc < before);
    install(&old.store, &new.store, last).await.unwrap();
    assert_eq!(new.one("SELECT count(*) FROM t").await, Value::Integer(1));
}

/// A change of the only row, by a site of its own.
fn version(site: u8, cl: u64, ms: u64) -> Version {
    let cells = if cl % 2 == 1 { [("a".into(), Value::text("x"))].into() } else { [].into() };
    let key = Key::encode([&Value::Integer(1)]).unwrap();
    let changes = vec![Change { table: "t".into(), key, cl, life: Life::Changed, cells }];
    Version { site: SiteId::new([site; 16]), version: 1, hlc: Hlc::from_ms(ms), changes }
}

/// A site that was ahead, and all of whose stamps are gone, is still noted with them by whoever took them.
#[tokio::test]
async fn the_clock_of_who_takes_a_copy_follows_stamps_that_are_there_and_nothing_else() {
    let (old, new) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    let now = wall_ms();
    old.store.apply(vec![version(1, 1, now + DAY), version(2, 2, now)]).await.unwrap();
    assert!(old.store.state().hlc.ms() >= now + DAY);
    install(&old.store, &new.store, Hlc::from_ms(now + MINUTE)).await.unwrap();
    assert_eq!(new.store.state().heads, old.store.state().heads);
    assert!(new.store.state().hlc.ms() < now + MINUTE);
    let written = new.version("INSERT INTO t VALUES (1, 'again')").await;
    assert!(written.hlc.ms() < now + MINUTE, "{written:?}");
    new.is_sound().await;
}

#[tokio::test]
async fn what_was_stamped_ahead_is_stamped_anew_and_the_clock_goes_back_for_good() {
    let (rig, peer) = (Rig::new(SCHEMA), Rig::new(SCHEMA));
    let now = wall_ms();
    rig.store.correct_clock(a_day_ago());
    let sound = rig.version("INSERT INTO t VALUES (1, 'in time'), (9, 'gone')").await;
    rig.store.correct_clock(None);
    // A day later than the clocks of the others.
    rig.run("INSERT INTO t VALUES (2, 'early')").await.unwrap();
    rig.run("UPDATE t SET a = 'early' WHERE id = 1").await.unwrap();
    rig.run("DELETE FROM t WHERE id = 9").await.unwrap();
    let (old, latest) = (rig.store.site(), Hlc::from_ms(now - DAY + MINUTE));
    rig.store.correct_clock(a_day_ago());
    // A peer names one that is not the first.
    let refused = Vector::from_iter([(old, sound.version + 3)]);
    let renounced = rig.store.renounce_later(refused, latest).await.unwrap().unwrap();
    assert_eq!((renounced.old, renounced.kept, renounced.rows), (old, sound.version, 3));
    rig.is_sound().await;
    // From there on it counts.
    let of_today = |rig: &Rig| rig.store.state().hlc.ms() <= latest.ms();
    assert!(of_today(&rig), "{:?}", rig.store.state().hlc);
    let rig = rig.reopen(SCHEMA).await;
    assert!(of_today(&rig), "{:?}", rig.store.state().hlc);
    let found = rig.store.verify(Pace::AtOnce).await.unwrap();
    assert!(found.newest.is_some_and(|stamp| stamp.hlc.ms() <= latest.ms()), "{:?}", found.newest);
    // To a peer they are as any others.
    install(&rig.store, &peer.store, Hlc::from_ms(latest.ms() + 1)).await.unwrap();
    assert_eq!(peer.one("SELECT group_concat(id || a) FROM t ORDER BY id").await, Value::text("1early,2early"));
    assert_eq!(peer.store.state().heads.head(old), sound.version);
}

/// It gave up its site for another reason, with what that had stamped by then.
#[tokio::test]
async fn what_an_earlier_site_stamped_ahead_is_stamped_anew_too() {
    let rig = Rig::new(SCHEMA);
    let now = wall_ms();
    rig.store.correct_clock(a_day_ago());
    rig.run("INSERT INTO t VALUES (1, 'in time'), (3, 'in time')").await.unwrap();
    rig.store.correct_clock(None);
    rig.run("INSERT INTO t VALUES (2, 'early')").await.unwrap();
    let early = rig.version("UPDATE t SET a = 'early' WHERE id = 1").await;
    let second = rig.store.renounce(u64::MAX).await.unwrap();
    assert_eq!((second.kept, second.rows), (early.version, 0));
    // Of the site that it has since then, one row has both.
    rig.run("DELETE FROM t WHERE id = 3; UPDATE t SET id = 4 WHERE id = 2").await.unwrap();

    let latest = Hlc::from_ms(now - DAY + MINUTE);
    rig.store.correct_clock(a_day_ago());
    let renounce = |site, version| rig.store.renounce_later(Vector::from_iter([(site, version)]), latest);
    assert_eq!(renounce(SiteId::new([9; 16]), 1).await.unwrap(), None, "another's site");
    let third = renounce(early.site, early.version).await.unwrap().unwrap();
    assert_eq!((third.old, third.kept, third.rows), (second.site, 0, 4));
    rig.is_sound().await;
    let state = rig.store.state();
    // Of the version between nothing is left: it stands, as a number.
    assert_eq!(*state.heads, Vector::from_iter([(early.site, early.version - 1), (third.site, 1)]));
    assert!(state.hlc.ms() <= latest.ms(), "{:?}", state.hlc);
    let found = rig.store.verify(Pace::AtOnce).await.unwrap();
    assert!(found.newest.is_some_and(|stamp| stamp.hlc.ms() <= latest.ms()), "{:?}", found.newest);
    assert_eq!(rig.one("SELECT group_concat(id || a) FROM t ORDER BY id").await, Value::text("1early,4early"));
    assert_eq!(renounce(early.site, early.version).await.unwrap(), None, "once is enough");
}
