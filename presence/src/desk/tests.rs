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
    let clock = Clock::start();
    let me: NodeId = "n1".parse().unwrap();
    let board = Board::new(me, 1, clock.now());
    let (say, said) = mpsc::channel(SAID);
    let (hear, heard) = mpsc::channel(SAID);
    let shown = Arc::new(Shown::new(Arc::clone(board.sight())));
    let tools = Tools {
        board,
        clock,
        shown,
        hub: Arc::default(),
        journal: Arc::new(Slow),
        kept: 0,
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
