use std::time::Instant;

use futures_util::FutureExt;
use kith_gossip_proto::NodeId;
use tokio::task::JoinSet;

use super::*;
use crate::core::{Fact, Life, Status, Ttl};

/// Keeps facts, and takes its time for it.
struct Slow;

const APPEND: Duration = Duration::from_millis(10);

impl Journal for Slow {
    fn append(&self, _: Facts) -> BoxFuture<'static, Result<(), JournalError>> {
        let mut done = tokio::time::interval_at(tokio::time::Instant::now() + APPEND, APPEND);
        async move {
            done.tick().await;
            Ok(())
        }
        .boxed()
    }

    fn is_up(&self) -> bool {
        true
    }

    fn compact(&self, _: Facts) -> BoxFuture<'static, Result<(), JournalError>> {
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
    working_with(Arc::new(Slow), Facts::new(), 0)
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
    let shown = Arc::new(Shown::new(Arc::clone(board.sight())));
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

/// Keeps facts, and counts how often it is compacted, and to how many.
#[derive(Default)]
struct Counting(std::sync::Mutex<Vec<usize>>);

impl Journal for Counting {
    fn append(&self, _: Facts) -> BoxFuture<'static, Result<(), JournalError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn is_up(&self) -> bool {
        true
    }

    fn compact(&self, facts: Facts) -> BoxFuture<'static, Result<(), JournalError>> {
        self.0.lock().unwrap().push(facts.len());
        std::future::ready(Ok(())).boxed()
    }
}

/// How often a journal is compacted that holds this many users who were seen, and so many facts more.
async fn compacted(seen: usize, more: usize) -> Vec<usize> {
    let journal = Arc::new(Counting::default());
    let now = Clock::start().now().wall_ms;
    let facts = (0..seen).map(|n| (user(&format!("u{n}")), Fact::Seen(now))).collect();
    let Working { desk, .. } = &working_with(Arc::clone(&journal) as Arc<dyn Journal>, facts, more);
    for n in 0..20 {
        let status = if n % 2 == 0 { Status::Away } else { Status::Online };
        desk.write(put("ann", status)).await.unwrap();
    }
    let compacted = journal.0.lock().unwrap();
    compacted.clone()
}

#[tokio::test]
async fn a_journal_is_compacted_when_half_of_it_says_nothing_and_not_because_it_says_much() {
    assert_eq!(compacted(250_000, 200_000).await, Vec::<usize>::new());
    let compacted = compacted(250_000, 250_001).await;
    assert!(matches!(compacted[..], [to] if (250_000..250_020).contains(&to)), "{compacted:?}");
}
