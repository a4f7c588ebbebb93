//! A hundred thousand users on one board: no single step takes long.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kith_presence::core::board::What;
use kith_presence::core::{Board, Heard, Now, Says, Status, Ttl, UserId, Write};

fn put(user: &UserId) -> Write {
    let what = What::Put { session: None, status: Status::Online, message: None, ttl: Ttl::default() };
    Write { user: user.clone(), if_match: None, what }
}

fn at(ms: u64) -> Now {
    Now { mono: Duration::from_millis(ms), wall_ms: 1_000_000 + ms }
}

#[test]
fn a_hundred_thousand_sessions_that_end_together_hold_up_nobody() {
    let mut board = Board::new("n0".parse().unwrap(), 1, at(0));
    let users: Vec<UserId> = (0..100_000).map(|at| UserId::try_from(format!("user-{at}")).unwrap()).collect();
    for users in users.chunks(150) {
        let writes: Vec<_> = users.iter().map(put).collect();
        let plan = board.plan(&writes, at(0));
        board.commit(plan, at(0));
    }
    board.drain();
    let (mut now, mut longest, mut gone) = (60_000, Duration::ZERO, BTreeSet::new());
    while gone.len() < users.len() {
        let begun = Instant::now();
        board.tick(at(now));
        longest = longest.max(begun.elapsed());
        let out = board.drain();
        assert!(out.store.len() <= 250 && out.say.len() <= 2);
        gone.extend(out.events.into_iter().map(|event| event.0));
        // A step takes less than this.
        now += 1;
        assert!(now < 62_000, "{} of 100,000 within 2 s", gone.len());
    }
    assert_eq!(board.counts().sessions, 0);
    // A debug build, on a machine that does other things.
    assert!(longest < Duration::from_millis(100), "{longest:?}");
}

#[test]
fn of_too_many_users_those_seen_longest_ago_are_forgotten_and_nobody_who_is_here() {
    let mut board = Board::new("n0".parse().unwrap(), 1, at(0));
    let name = |n: u64| UserId::try_from(format!("user-{n}")).unwrap();
    for n in 0..100 {
        let plan = board.plan(&[put(&name(n))], at(n));
        board.commit(plan, at(n));
        if n < 80 {
            let end = Write { user: name(n), if_match: None, what: What::End { session: None } };
            let plan = board.plan(&[end], at(n));
            board.commit(plan, at(n));
        }
    }
    board.bound(200);
    assert_eq!(board.counts().users, 100);
    board.bound(50);
    assert_eq!(board.counts().users, 50);
    assert!((0..50).all(|n| board.user(&name(n)).is_none()) && (50..100).all(|n| board.user(&name(n)).is_some()));
    board.bound(5);
    assert_eq!(board.counts().users, 20, "who is here stays");
}

#[test]
fn a_node_with_a_hundred_thousand_users_that_falls_silent_holds_up_nobody() {
    let mut owner = Board::new("n0".parse().unwrap(), 1, at(0));
    let mut board = Board::new("n1".parse().unwrap(), 1, at(0));
    for chunk in 0..666 {
        let users = (0..150).map(|at| UserId::try_from(format!("user-{}", chunk * 150 + at)).unwrap());
        let writes: Vec<_> = users.map(|user| put(&user)).collect();
        let plan = owner.plan(&writes, at(0));
        owner.commit(plan, at(0));
    }
    let ask = Says::Ask { node: "n1".parse().unwrap(), known: None };
    owner.drain();
    owner.hear(ask, at(0));
    for (_, says) in owner.drain().say {
        board.hear(says, at(0));
    }
    board.drain();
    assert_eq!(board.counts().users, 99_900);
    let (mut now, mut events, mut longest) = (3_100, 0, Duration::ZERO);
    while now < 4_000 {
        let begun = Instant::now();
        board.tick(at(now));
        longest = longest.max(begun.elapsed());
        events += board.drain().events.len();
        now = (now + 1).max(u64::try_from(board.next(at(now)).as_millis()).unwrap());
    }
    assert_eq!(board.sight().of(&"n0".parse().unwrap()), Heard::Stale);
    assert_eq!(events, 99_900, "all are stale, once");
    assert!(longest < Duration::from_millis(100), "{longest:?}");
}
