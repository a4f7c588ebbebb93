//! Clocks that are wrong, over real connections.

use std::time::SystemTime;

use super::*;
use crate::identity::Clock;
use crate::net::tests::Log;

const DAY: Duration = Duration::from_secs(86_400);

/// Of this host.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// A node whose clock, and whose store's, is ahead by as much as the number in its store says.
async fn start_ahead(authority: &DevAuthority, number: u8, store: MemoryStore, seeds: &[&TestNode]) -> TestNode {
    let (ahead, issuing) = (Arc::clone(&store.ahead), AtomicBool::new(true));
    let clock = Clock::turned(move || {
        // What reads it first issues the certificate, which by a wrong clock nobody would accept.
        let right = issuing.swap(false, Ordering::Relaxed);
        let ahead = if right { 0 } else { ahead.load(Ordering::Relaxed) };
        SystemTime::now() + Duration::from_millis(ahead)
    });
    TestNode::start_with(&authority.with_clock(clock), number, store, seeds).await
}

fn a_day_ahead(number: u8) -> MemoryStore {
    let store = MemoryStore::new(number);
    store.ahead.store(u64::try_from(DAY.as_millis()).unwrap(), Ordering::Relaxed);
    store
}

/// No stamp that a store holds, and no reading of its clock, is far ahead of this host's clock.
fn is_of_today(node: &TestNode) {
    let (limit, state) = (Hlc::from_ms(wall_ms() + 60_000), node.store.state());
    assert!(state.clock.last() < limit, "{}: {:?}", node.net.node(), state.clock);
    assert!(state.rows.values().flat_map(Row::stamps).all(|stamp| stamp.hlc < limit), "{}", node.net.node());
}

fn is_a_day(time: Duration) -> bool {
    time.abs_diff(DAY) < Duration::from_secs(60)
}

#[tokio::test]
async fn g4_a_node_whose_clock_is_a_day_ahead_stamps_by_its_peers() {
    let (log, _guard) = Log::capture();
    let authority = DevAuthority::new("test").unwrap();
    let a = TestNode::start(&authority, 1, &[]).await;
    let b = TestNode::start(&authority, 2, &[&a]).await;
    let c = start_ahead(&authority, 3, a_day_ahead(3), &[&a]).await;
    a.linked_to(&[&b, &c]).await;
    c.linked_to(&[&a, &b]).await;
    c.stands("c knows that it is ahead", |status| status.clocks.ahead.is_some_and(is_a_day)).await;
    a.stands("a knows how far", |status| {
        let offset = status.peers[c.net.node()].clock_ms.unwrap_or(0).unsigned_abs();
        is_a_day(Duration::from_millis(offset))
    })
    .await;
    let mut wanted = c.store.commit();
    wanted.join(&a.store.commit());
    wanted.join(&b.store.commit());
    for node in [&a, &b, &c] {
        node.store.reaches("everybody's commits", &wanted).await;
        is_of_today(node);
        assert_eq!(node.net.counters().from_the_future.get(), 0);
    }
    // Its clock is set.
    c.store.ahead.store(0, Ordering::Relaxed);
    c.stands("c is in step again", |status| status.clocks.ahead.is_none()).await;
    assert_eq!(log.lines("this node's clock is ahead").len(), 1);
    assert_eq!(log.lines("in step with its peers' again").len(), 1);
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test]
async fn g4_a_clock_that_jumps_while_running_stamps_nothing_by_it() {
    let authority = DevAuthority::new("test").unwrap();
    let a = TestNode::start(&authority, 1, &[]).await;
    let c = start_ahead(&authority, 3, MemoryStore::new(3), &[&a]).await;
    c.linked_to(&[&a]).await;
    c.store.ahead.store(u64::try_from(DAY.as_millis()).unwrap(), Ordering::Relaxed);
    let wanted = c.store.commit();
    a.store.reaches("the commit after the jump", &wanted).await;
    is_of_today(&a);
    for node in [a, c] {
        node.stop().await;
    }
}

#[tokio::test]
async fn g4_what_was_written_ahead_of_all_clocks_is_refused_until_it_is_stamped_anew_and_nothing_else_is() {
    let (log, guard) = Log::capture();
    let authority = DevAuthority::new("test").unwrap();
    let store = a_day_ahead(3);
    // Before it knows any other clock.
    let early = store.commit();
    let a = TestNode::start(&authority, 1, &[]).await;
    let mut c = start_ahead(&authority, 3, store, &[&a]).await;
    a.linked_to(&[&c]).await;
    c.linked_to(&[&a]).await;
    a.stands("a refuses what c wrote", |status| {
        let key = (SiteId::new([3; 16]), "node-3".parse().unwrap());
        status.clocks.refused.get(&key).is_some_and(|site| site.version == 1 && is_a_day(site.ahead))
    })
    .await;
    let pushed = c.store.commit();
    c.store.reaches("the commit of a", &a.store.commit()).await;
    is_of_today(&a);
    let heads = a.store.heads();
    assert!(!heads.covers(&early) && !heads.covers(&pushed), "{heads:?}");
    assert!(a.net.counters().from_the_future.get() > 0);
    assert_eq!(log.lines("versions of a site are refused").len(), 1);
    drop(guard);
    // Of two clocks nobody can tell which is wrong; once it is set, c sees it as a does.
    c.store.ahead.store(0, Ordering::Relaxed);
    let ended = tokio::time::timeout(Duration::from_secs(60), c.tasks.join_next()).await;
    let ended = ended.expect("c gives up its site within a minute").unwrap().unwrap();
    assert!(matches!(ended, Err(ReplicationError::Renamed)), "{ended:?}");
    let store = c.stop().await;
    store.state().boot += 1;
    let c = start_ahead(&authority, 3, store, &[&a]).await;
    a.store.reaches("what c wrote", &c.store.heads()).await;
    a.store.reaches("what c writes now", &c.store.commit()).await;
    is_of_today(&a);
    is_of_today(&c);
    let nodes = [a, c];
    same_rows(&nodes);
    assert_eq!(nodes[0].store.state().rows.len(), 4);
    for node in nodes {
        node.stop().await;
    }
}
