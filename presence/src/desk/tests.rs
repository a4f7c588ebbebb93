use std::time::Instant;

use futures_util::FutureExt;
use kith_gossip_proto::NodeId;
use tokio::task::JoinSet;

use super::*;
use crate::core::{Fact, Life, Session, Status, Ttl, Version};
use crate::journal::End;

/// Keeps facts, and takes its time for it.
struct Slow(Duration);

impl Journal for Slow {
    fn append(&self, _: Facts) -> BoxFuture<'static, Result<(), JournalError>> {
        let mut done = tokio::time::interval_at(tokio::time::Instant::now() + self.0, self.0);
        async move {
            done.tick().await;
            Ok(())
        }
        .boxed()
    }

    fn is_up(&self) -> bool {
        true
    }

    fn end(&self) -> End {
        End(0)
    }

    fn forget(&self, _: End) -> BoxFuture<'static, Result<(), JournalError>> {
        std::future::ready(Ok(())).boxed()
    }
}

fn user(name: &str) -> UserId {
    UserId::try_from(name).unwrap()
}

fn put(name: &str, status: Status) -> Write {
    let ttl = Ttl::try_from(5).unwrap();
    Write { user: user(name), if_match: None, what: What::Put { session: None, status, message: None, ttl } }
}

/// A desk at work with a journal that is slow: what is asked of it, what it hears and what it says.
struct Working {
    desk: Desk,
    hear: mpsc::Sender<Says>,
    said: mpsc::Receiver<(To, Says)>,
    tasks: JoinSet<()>,
}

fn working() -> Working {
    working_with(Arc::new(Slow(Duration::from_millis(10))), Facts::new(), 0)
}

/// A desk that begins with these facts, of which its journal holds so many more that say nothing.
fn working_with(journal: Arc<dyn Journal>, facts: Facts, more: usize) -> Working {
    let clock = Clock::start();
    let me: NodeId = "n1".parse().unwrap();
    let mut board = Board::new(me, 1, clock.now());
    let kept = facts.len();
    board.restore(facts, clock.now());
    let (say, said) = mpsc::channel(SAID);
    let (hear, heard) = mpsc::channel(SAID);
    let shown = Arc::new(Shown::new(Arc::clone(board.sight()), clock));
    let tools = Tools {
        board,
        clock,
        shown,
        hub: Arc::default(),
        journal,
        kept: kept + more,
        said: kept,
        say,
        heard,
        tally: Arc::default(),
        filled_at: Duration::ZERO,
    };
    let (desk, requests) = Desk::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(work(tools, requests, CancellationToken::new()));
    Working { desk, hear, said, tasks }
}

#[tokio::test]
async fn sessions_end_and_peers_are_answered_while_there_is_always_something_to_write() {
    let Working { desk, hear, mut said, mut tasks } = working();
    desk.write(put("bob", Status::Online)).await.unwrap();
    let begun = Instant::now();
    // Of one user one write goes at a time: 20 s of them wait from here on, and none is answered for nothing.
    let load = (0..2_000).map(|n| {
        let desk = desk.clone();
        async move { desk.write(put("ann", if n % 2 == 0 { Status::Away } else { Status::Online })).await }
    });
    let load = tasks.spawn(futures_util::future::join_all(load).map(drop));
    let peer: NodeId = "n2".parse().unwrap();
    hear.send(Says::Ask { node: peer.clone(), known: None }).await.unwrap();
    let (mut answered, mut ended) = (false, false);
    while !(answered && ended) {
        let (to, says) = said.recv().await.expect("the desk works");
        match says {
            Says::Answer(_) => answered |= to == To::Node(peer.clone()),
            Says::Changes { facts, .. } => {
                ended |= facts.iter().any(|(of, fact)| {
                    *of == user("bob") && matches!(fact, Fact::Session(_, session) if session.life == Life::Ended)
                });
            }
            Says::Beat { .. } | Says::Ask { .. } => {}
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "answered {answered}, ended {ended}");
    }
    assert!(!load.is_finished(), "there was a time without load");
}

#[tokio::test]
async fn sessions_that_end_together_end_in_time_however_slow_the_journal_is() {
    const MANY: usize = 10_000;
    let ttl = Ttl::try_from(5).unwrap();
    let life = Life::Live { status: Status::Online, ttl };
    let session = Session { version: Version { epoch: 0, seq: 1 }, life, changed_ms: 1 };
    let facts = (0..MANY).map(|n| (user(&format!("u{n}")), Fact::Session(SessionName::default(), session.clone())));
    let Working { desk, mut said, hear: _hear, tasks: _tasks } =
        working_with(Arc::new(Slow(Duration::from_secs(1))), facts.collect(), 0);
    let begun = Instant::now();
    let load = async {
        for n in 0.. {
            desk.write(put("ann", if n % 2 == 0 { Status::Away } else { Status::Online })).await.unwrap();
        }
    };
    let mut ended = 0;
    let all = async {
        while ended < MANY {
            let (_, says) = said.recv().await.expect("the desk works");
            let Says::Changes { facts, .. } = says else { continue };
            ended += facts.iter().filter(|(_, fact)| Life::Ended == life_of(fact)).count();
        }
    };
    // One piece for each answer of the journal would take two minutes.
    let bound = tokio::time::timeout(ttl.span() + Duration::from_secs(30), all);
    tokio::select! {
        all = bound => all.unwrap_or_else(|_| panic!("not all ended in time: {ended} of {MANY}")),
        () = load => unreachable!("it goes on"),
    }
    assert!(begun.elapsed() >= ttl.span(), "too early");
}

fn life_of(fact: &Fact) -> Life {
    match fact {
        Fact::Session(_, session) => session.life,
        Fact::Explicit(_) | Fact::Seen(_) => Life::Live { status: Status::Online, ttl: Ttl::default() },
    }
}

/// Remembers how many facts each append had, and where it was told to forget.
#[derive(Default)]
struct Counting(std::sync::Mutex<Vec<Told>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Append(usize),
    Forget(End),
}

impl Counting {
    fn told(&self, told: Told) -> BoxFuture<'static, Result<(), JournalError>> {
        self.0.lock().unwrap().push(told);
        // As any journal, it takes a moment, in which others get their turn.
        tokio::task::yield_now().map(Ok).boxed()
    }
}

impl Journal for Counting {
    fn append(&self, facts: Facts) -> BoxFuture<'static, Result<(), JournalError>> {
        self.told(Told::Append(facts.len()))
    }

    fn is_up(&self) -> bool {
        true
    }

    fn end(&self) -> End {
        End(self.0.lock().unwrap().len() as u64)
    }

    fn forget(&self, upto: End) -> BoxFuture<'static, Result<(), JournalError>> {
        self.told(Told::Forget(upto))
    }
}

/// What a journal is told that holds this many users who were seen, and so many facts more, while one user writes.
async fn told(seen: usize, more: usize) -> Vec<Told> {
    let journal = Arc::new(Counting::default());
    let now = Clock::start().now().wall_ms;
    let facts = (0..seen).map(|n| (user(&format!("u{n}")), Fact::Seen(now))).collect();
    let Working { desk, .. } = &working_with(Arc::clone(&journal) as Arc<dyn Journal>, facts, more);
    for n in 0..10_000 {
        let status = if n % 2 == 0 { Status::Away } else { Status::Online };
        desk.write(put("ann", status)).await.unwrap();
        if matches!(journal.0.lock().unwrap().last(), Some(Told::Forget(_))) || (more <= seen && n == 20) {
            break;
        }
    }
    let told = journal.0.lock().unwrap();
    told.clone()
}

#[tokio::test]
async fn a_journal_is_compacted_when_half_of_it_says_nothing_and_not_because_it_says_much() {
    let all_appended = |told: &[Told]| told.iter().all(|told| matches!(told, Told::Append(1..=3)));
    assert!(all_appended(&told(250_000, 200_000).await));
    let told = told(250_000, 250_001).await;
    let pieces: Vec<usize> =
        told.iter().filter_map(|told| if let Told::Append(n) = told { Some(*n) } else { None }).collect();
    let (most, sum) = (pieces.iter().max().unwrap(), pieces.iter().sum::<usize>());
    assert!(*most <= 250 && sum >= 250_000, "{most} at once, {sum} in all");
    // Writes are taken between the pieces.
    let turns = pieces.windows(2).filter(|two| (two[0] > 3) != (two[1] > 3)).count();
    assert!(turns > 100, "{turns} turns");
    assert!(matches!(told.last(), Some(Told::Forget(End(upto))) if *upto < 10), "{:?}", told.last());
}
