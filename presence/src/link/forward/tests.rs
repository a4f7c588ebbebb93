use tokio::sync::mpsc;

use super::*;
use crate::clock::Clock;
use crate::core::owner::Ends;
use crate::core::{Board, Session, Sight, Status, Ttl, User};
use crate::desk::{SAID, Tools, work};
use crate::journal::InMemory;

fn forwarder() -> Forwarder {
    let node: NodeId = "n1".parse().unwrap();
    let sight = Sight { me: node.clone(), latest: kith_gossip_proto::Hlc::MAX, nodes: BTreeMap::new() };
    Forwarder::new(node, Arc::new(Shown::new(Arc::new(sight), Clock::start())), Desk::new().0)
}

fn user(name: &str) -> UserId {
    UserId::try_from(name).unwrap()
}

/// A session of a user, as its `seq`th word says.
fn session(seq: u64, life: Life) -> Fact {
    Fact::Session(
        crate::core::SessionName::default(),
        Session { version: Version { epoch: 7, seq }, life, changed_ms: seq },
    )
}

fn live(seq: u64, status: Status) -> Fact {
    session(seq, Life::Live { status, ttl: Ttl::default() })
}

impl Forwarder {
    /// What the desk does: shows it, then says it.
    fn said(&self, name: &str, seq: u64, fact: Fact) {
        let id = user(name);
        let mut of = self.shown.get(&id).map(|entry| User::clone(&entry.user)).unwrap_or_default();
        of.join(&self.node, fact.clone());
        of.compact(&self.node);
        self.shown.put(id.clone(), Some(Arc::new(of)), Ends::Never);
        self.take_change(Version { epoch: 7, seq: seq - 1 }, Version { epoch: 7, seq }, &[(id, fact)]);
    }

    async fn reach(&self, there: Vec<Key>) {
        assert!(self.looked(Found::Another));
        self.fill(Some(there)).await;
    }
}

#[tokio::test]
async fn nothing_is_kept_before_all_that_holds_was_sent() {
    let forwarder = forwarder();
    // As after a restart: what holds was said before, and nothing since.
    let (ann, head) = (user("ann"), Version { epoch: 7, seq: 0 });
    let mut of = User::default();
    of.join(&forwarder.node, live(0, Status::Online));
    forwarder.shown.put(ann.clone(), Some(Arc::new(of)), Ends::Never);
    assert!(!forwarder.keeps(&ann, head), "the center was never there");
    assert!(forwarder.looked(Found::Another));
    assert!(!forwarder.keeps(&ann, head), "what holds is asked for");
    assert_eq!(forwarder.unforwarded(), 1, "nobody knows how much");
    forwarder.fill(Some(Vec::new())).await;
    for _ in 0..2 {
        assert!(!forwarder.keeps(&ann, head), "what holds waits");
        assert_ne!(forwarder.unforwarded(), 0);
        let (key, _) = forwarder.take_off().expect("a session, and when he was seen");
        assert!(!forwarder.keeps(&ann, head), "it flies");
        forwarder.landed(key, Landed::Kept);
    }
    assert!(forwarder.keeps(&ann, head));
    assert_eq!(forwarder.unforwarded(), 0);
    assert!(!forwarder.looked(Found::Nothing));
    assert!(!forwarder.keeps(&ann, head), "the center is away");
    assert!(!forwarder.looked(Found::Known));
    assert!(forwarder.keeps(&ann, head));
    assert!(forwarder.looked(Found::Another));
    forwarder.fill(None).await;
    assert!(!forwarder.keeps(&ann, head), "it is asked for again");
}

#[tokio::test]
async fn what_was_said_before_a_start_is_sent_and_not_deleted_while_the_desk_begins() {
    let (desk, requests) = Desk::new();
    let (node, clock): (NodeId, _) = ("n1".parse().unwrap(), Clock::start());
    let mut board = Board::new(node.clone(), 8, clock.now());
    board.restore([(user("ann"), live(1, Status::Busy))], clock.now());
    let shown = Arc::new(Shown::new(Arc::clone(board.sight()), clock));
    let forwarder = Forwarder::new(node, Arc::clone(&shown), desk);
    assert!(forwarder.looked(Found::Another));
    let ((say, _said), (_hear, heard)) = (mpsc::channel(SAID), mpsc::channel(SAID));
    let tools = Tools {
        board,
        clock,
        shown,
        hub: Arc::default(),
        journal: Arc::<InMemory>::default(),
        kept: 1,
        said: 1,
        say,
        heard,
        tally: Arc::default(),
        filled_at: Duration::ZERO,
    };
    let held = Key::first(&user("ann"));
    // The link is first.
    let there = tokio::select! {
        biased;
        there = forwarder.there(async { Ok(vec![held.clone()]) }) => there,
        () = work(tools, requests, CancellationToken::new()) => unreachable!("nobody ends it"),
    };
    forwarder.fill(there).await;
    assert_eq!(forwarder.take_off(), Some((held.clone(), Some(live(1, Status::Busy)))));
    // A desk that does not answer, as one that has ended.
    assert_eq!(forwarder.there(async { Ok(vec![held]) }).await, None);
}

#[tokio::test]
async fn what_is_put_is_what_holds_then_and_one_of_a_key_flies_at_a_time() {
    let forwarder = forwarder();
    forwarder.reach(Vec::new()).await;
    forwarder.said("ann", 1, live(1, Status::Away));
    forwarder.said("ann", 2, live(2, Status::Busy));
    let (key, value) = forwarder.take_off().unwrap();
    assert_eq!(value, Some(live(2, Status::Busy)), "the newest");
    assert_eq!(forwarder.take_off(), None);
    forwarder.said("ann", 3, live(3, Status::Online));
    assert_eq!(forwarder.take_off(), None, "of this key one flies");
    // All that holds is taken once more: what flies is not overtaken by something older.
    forwarder.reach(Vec::new()).await;
    let (seen, _) = forwarder.take_off().unwrap();
    assert_eq!(seen.kind, Kind::Seen);
    forwarder.landed(key.clone(), Landed::Kept);
    assert_eq!(forwarder.take_off(), Some((key.clone(), Some(live(3, Status::Online)))));
    forwarder.landed(key.clone(), Landed::Lost);
    forwarder.said("ann", 4, session(4, Life::Ended));
    assert_eq!(forwarder.take_off(), Some((key, None)), "it is deleted");
}

#[tokio::test]
async fn however_many_come_and_go_while_the_center_is_away_little_waits() {
    let forwarder = forwarder();
    forwarder.reach(Vec::new()).await;
    assert!(!forwarder.looked(Found::Nothing));
    forwarder.said("ann", 1, live(1, Status::Online));
    for n in 2..KEYS as u64 + 1_000 {
        let name = user(&format!("u{n}"));
        let change = [(name, session(n, Life::Ended))];
        forwarder.take_change(Version { epoch: 7, seq: n - 1 }, Version { epoch: 7, seq: n }, &change);
        let waiting = forwarder.waiting();
        assert!(waiting.keys.len() <= KEYS + 1 && waiting.queue.len() <= KEYS + 1);
    }
    assert!(forwarder.looked(Found::Known), "all that holds is sent");
    // The center still holds somebody who went meanwhile.
    let gone = Key::first(&user("u77"));
    forwarder.fill(Some(vec![gone.clone()])).await;
    let mut sent: Vec<_> = std::iter::from_fn(|| forwarder.take_off()).collect();
    sent.sort_by(|a, b| a.0.cmp(&b.0));
    let ann = |fact: Fact| (Key::of(&user("ann"), &fact), Some(fact));
    assert_eq!(sent, [ann(live(1, Status::Online)), ann(Fact::Seen(0)), (gone, None)]);
}

#[tokio::test]
async fn while_all_that_holds_is_taken_others_have_their_turn() {
    let forwarder = forwarder();
    for n in 0..20_000 {
        let mut of = User::default();
        of.join(&forwarder.node, live(1, Status::Online));
        forwarder.shown.put(user(&format!("u{n}")), Some(Arc::new(of)), Ends::Never);
    }
    assert!(forwarder.looked(Found::Another));
    let mut turns = 0;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = forwarder.fill(Some(Vec::new())) => {}
        () = others => {}
    }
    assert!(turns >= 60, "{turns} turns");
    assert_eq!(forwarder.unforwarded(), 40_000);
}
