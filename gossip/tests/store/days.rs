//! Tombstones count in the digest by the day they were made.

use kith_gossip_proto::version::Life;
use kith_gossip_proto::{Change, Day, Digest, Hlc, Key, SiteId, Value, Version};

use crate::rig::Rig;

const SCHEMA: &str = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER)";
const DAY_MS: u64 = 86_400_000;

fn delete(number: u64, table: &str, key: &str, day: u64) -> Version {
    let (table, key) = (table.into(), Key::encode([&Value::text(key)]).unwrap());
    let change = Change { table, key, cl: 2, life: Life::Changed, cells: [].into() };
    Version {
        site: SiteId::new([7; 16]),
        version: number,
        hlc: Hlc::from_ms(day * DAY_MS + number),
        changes: vec![change],
    }
}

#[tokio::test]
async fn tombstones_count_by_day_and_leave_it_when_the_row_comes_back() {
    let rig = Rig::new(SCHEMA);
    let versions = vec![delete(1, "t", "x", 3), delete(2, "t", "y", 5), delete(3, "unknown", "z", 5)];
    rig.store.apply(versions).await.unwrap();
    let digests = rig.store.state().digests.clone();
    assert_eq!(digests.days().map(|(day, _)| day).collect::<Vec<_>>(), [Day(3), Day(5)]);
    assert_eq!(digests.live(), Digest::default());
    assert_eq!(digests.from(Day(6)), digests.live());
    assert_ne!(digests.from(Day(4)), digests.total());
    rig.is_sound().await;

    rig.run("INSERT INTO t VALUES ('x', 1)").await.unwrap();
    let digests = rig.store.state().digests.clone();
    assert_eq!(digests.days().map(|(day, _)| day).collect::<Vec<_>>(), [Day(5)]);
    assert_ne!(digests.live(), Digest::default());

    let rig = rig.reopen(SCHEMA).await;
    assert_eq!(rig.store.state().digests, digests);
    rig.is_sound().await;
}
