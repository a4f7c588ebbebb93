//! A hundred thousand users on one board: no single step takes long.

#![allow(clippy::unwrap_used, reason = "a test's functions are tests as well")]

use std::collections::BTreeSet;
use std::time::Duration;

use kith_presence::core::board::What;
use kith_presence::core::{Board, Heard, Now, Says, Status, Ttl, UserId, Write};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

/// What this thread has worked for: what else the machine does is not in it.
fn worked() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let time = |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap());
    time(usage.user_time()) + time(usage.system_time())
}

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
        let begun = worked();
        board.tick(at(now));
        longest = longest.max(worked() - begun);
        let out = board.drain();
        assert!(out.store.len() <= 250 && out.say.len() <= 2);
        gone.extend(out.events.into_iter().map(|event| event.0));
        // A step takes less than this.
        now += 1;
        assert!(now < 62_000, "{} of 100,000 within 2 s", gone.len());
    }
    assert_eq!(board.counts().sessions, 0);
    // A debug build.
    assert!(longest < Duration::from_millis(100), "{longest:?}");
}

#[test]
fn a_commit_takes_as_long_as_what_it_changes() {
    let commit = |users: u64| {
        let mut board = Board::new("n0".parse().unwrap(), 1, at(0));
        let writes: Vec<_> = (0..users).map(|n| put(&UserId::try_from(format!("user-{n}")).unwrap())).collect();
        let plan = board.plan(&writes, at(0));
        let begun = worked();
        board.commit(plan, at(0));
        worked() - begun
    };
    let (few, many) = (commit(1_500), commit(15_000));
    assert!(many < few * 40, "1,500 users {few:?}, 15,000 users {many:?}");
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
    let bound = |board: &mut Board, most| {
        board.bound(most, at(200));
        board.tick(at(200));
        board.counts().users
    };
    assert_eq!(bound(&mut board, 200), 100);
    // A twentieth more than must, so that it is seldom looked at all of them.
    assert_eq!(bound(&mut board, 50), 48);
    assert!((0..52).all(|n| board.user(&name(n)).is_none()) && (52..100).all(|n| board.user(&name(n)).is_some()));
    assert_eq!(bound(&mut board, 5), 20, "who is here stays");
}

#[test]
fn where_nearly_all_are_here_they_are_looked_at_once_a_minute() {
    let mut board = Board::new("n0".parse().unwrap(), 1, at(0));
    let users: Vec<_> = (0..40).map(|n| UserId::try_from(format!("user-{n}")).unwrap()).collect();
    let write = |board: &mut Board, writes: &[Write]| {
        let plan = board.plan(writes, at(0));
        board.commit(plan, at(0));
    };
    let day = What::Put { session: None, status: Status::Online, message: None, ttl: Ttl::try_from(86_400).unwrap() };
    write(&mut board, &users.iter().map(|user| Write { what: day.clone(), ..put(user) }).collect::<Vec<_>>());
    // Who is left of a board of 20 that has one more gone each time.
    let left = |board: &mut Board, gone: usize, ms| {
        write(board, &[Write { user: users[gone].clone(), if_match: None, what: What::End { session: None } }]);
        board.bound(20, at(ms));
        board.tick(at(ms));
        board.counts().users
    };
    assert_eq!(left(&mut board, 0, 0), 39);
    assert_eq!([1, 2, 3].map(|gone| left(&mut board, gone, 1_000)), [39; 3], "there is little to find");
    assert_eq!(left(&mut board, 4, 59_000), 39);
    assert_eq!(left(&mut board, 5, 60_000), 34);
}

#[test]
fn however_fast_users_come_and_go_their_number_is_bounded() {
    const MOST: usize = 20_000;
    let mut board = Board::new("n0".parse().unwrap(), 1, at(0));
    let (mut longest, mut most) = (Duration::ZERO, 0);
    for turn in 0..1_000 {
        let users: Vec<_> = (0..100).map(|at| UserId::try_from(format!("{turn}-{at}")).unwrap()).collect();
        let puts: Vec<_> = users.iter().map(put).collect();
        let end = |user: &UserId| Write { user: user.clone(), if_match: None, what: What::End { session: None } };
        let ends: Vec<_> = users.iter().map(end).collect();
        for writes in [puts, ends] {
            let plan = board.plan(&writes, at(turn));
            board.commit(plan, at(turn));
        }
        let begun = worked();
        board.bound(MOST, at(turn));
        board.tick(at(turn));
        longest = longest.max(worked() - begun);
        board.drain();
        most = most.max(board.counts().users);
    }
    assert!(most < MOST + MOST / 10, "{most}");
    // A debug build.
    assert!(longest < Duration::from_millis(100), "{longest:?}");
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
        let begun = worked();
        board.tick(at(now));
        longest = longest.max(worked() - begun);
        events += board.drain().events.len();
        now = (now + 1).max(u64::try_from(board.next(at(now)).as_millis()).unwrap());
    }
    assert_eq!(board.sight().of(&"n0".parse().unwrap()), Heard::Stale);
    assert_eq!(events, 99_900, "all are stale, once");
    assert!(longest < Duration::from_millis(100), "{longest:?}");
}
