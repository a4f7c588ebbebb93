//! The follower in virtual time.

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{advance, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::feed::MemberState;
use crate::testing::{addresses, config, container, member, server, service, snapshot};

/// A follower that remembers members, with a service that has an instance on `s1`, which it is, and one on `s2`.
struct Running {
    feed: mpsc::UnboundedSender<Event>,
    published: Arc<ArcSwap<Published>>,
    token: CancellationToken,
    task: JoinSet<Result<(), FollowError>>,
    _fixed: watch::Sender<Fixed>,
}

impl Running {
    fn start(remembered: Vec<Member>) -> Self {
        let (feed, events) = mpsc::unbounded_channel();
        let settings = Arc::new(Settings::from(&config()));
        let (sender, fixed) = watch::channel(Fixed::default());
        let published = Arc::new(ArcSwap::from_pointee(Follower::nothing(&settings, &fixed.borrow())));
        let stream = Box::pin(UnboundedReceiverStream::new(events));
        let follower = Follower::new(stream, settings, Arc::clone(&published), (fixed, remembered));
        let (token, mut task) = (CancellationToken::new(), JoinSet::new());
        task.spawn(follower.run(token.clone()));
        let rows = [
            server("s1"),
            server("s2"),
            service("casa", "api"),
            container("aa", "casa/api", "10.210.0.1"),
            container("ab", "casa/api", "10.210.0.2").set("server_id", "s2"),
        ];
        for event in snapshot(rows) {
            feed.send(event).unwrap();
        }
        Self { feed, published, token, task, _fixed: sender }
    }

    fn say(&self, server: &str, state: MemberState) {
        self.feed.send(Event::Member(member(server, state))).unwrap();
    }

    /// The store is followed, and tells of these, which are up.
    fn tell(&self, servers: &[&str]) {
        let members = servers.iter().map(|server| member(server, MemberState::Up)).collect();
        self.feed.send(Event::Members(members)).unwrap();
    }

    /// Waits until these are answered, for 30 s of virtual time at most.
    async fn answers(&self, expected: &str) {
        let same = async {
            while addresses(&self.published.load().zone, "casa-api.internal") != expected {
                advance(Duration::from_millis(1)).await;
                // Zones are built beside the virtual clock.
                tokio::task::yield_now().await;
            }
        };
        let said = || addresses(&self.published.load().zone, "casa-api.internal");
        assert!(timeout(Duration::from_secs(30), same).await.is_ok(), "{} instead of {expected}", said());
    }

    /// Nothing else is answered for this long.
    async fn keeps(&self, expected: &str, lasts: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < lasts {
            advance(Duration::from_millis(1)).await;
            tokio::task::yield_now().await;
            assert_eq!(addresses(&self.published.load().zone, "casa-api.internal"), expected);
        }
    }

    async fn stop(mut self) {
        self.token.cancel();
        self.task.join_next().await.expect("one task").expect("no panic").expect("it stops cleanly");
    }
}

/// A row of an instance of the service.
fn row(id: &str, ip: &str, server: &str) -> Event {
    container(id, "casa/api", ip).set("server_id", server).upsert()
}

const BOTH: &str = "10.210.0.1 10.210.0.2";

#[tokio::test(start_paused = true)]
async fn who_was_up_before_a_start_and_is_not_heard_for_ten_seconds_is_left_out() {
    let remembered = vec![member("s1", MemberState::Up), member("s2", MemberState::Up)];
    let running = Running::start(remembered);
    running.tell(&["s1"]);
    running.answers(BOTH).await;
    let begun = Instant::now();
    running.answers("10.210.0.1").await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(9), "after {took:?}");
    running.say("s2", MemberState::Up);
    running.answers(BOTH).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_heard_after_a_start_stays_and_so_do_all_while_nobody_tells_of_members() {
    let remembered = || vec![member("s2", MemberState::Up)];
    let (heard, untold) = (Running::start(remembered()), Running::start(remembered()));
    heard.tell(&["s1"]);
    heard.say("s2", MemberState::Up);
    for running in [&heard, &untold] {
        running.answers(BOTH).await;
    }
    advance(Duration::from_secs(60)).await;
    // Whatever was due has been done when the next change is answered.
    for running in [&heard, &untold] {
        let row = container("ac", "casa/api", "10.210.0.3").set("instance_id", "another");
        running.feed.send(row.upsert()).unwrap();
        running.answers("10.210.0.1 10.210.0.2 10.210.0.3").await;
    }
    heard.stop().await;
    untold.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_ended_while_the_store_was_away_is_left_out_once_it_is_followed_again() {
    let running = Running::start(Vec::new());
    running.tell(&["s1", "s2"]);
    running.answers(BOTH).await;
    running.feed.send(Event::FeedLost).unwrap();
    for table in Table::ALL {
        running.feed.send(Event::Synced(table)).unwrap();
    }
    // The store has started anew, and s2 is not there to be heard.
    running.tell(&["s1"]);
    running.keeps(BOTH, Duration::from_secs(9)).await;
    running.answers("10.210.0.1").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_given_up_while_the_store_is_away() {
    let running = Running::start(vec![member("s2", MemberState::Up)]);
    running.tell(&["s1"]);
    running.answers(BOTH).await;
    running.feed.send(Event::FeedLost).unwrap();
    while running.published.load().zone.freshness() != Freshness::Stale {
        tokio::task::yield_now().await;
    }
    advance(Duration::from_secs(60)).await;
    running.answers(BOTH).await;
    running.stop().await;
}

/// The store was away and all tables but the services are followed again, of which the containers have changed.
async fn all_but_one_are_back() -> Running {
    let running = Running::start(Vec::new());
    running.answers(BOTH).await;
    running.feed.send(Event::FeedLost).unwrap();
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Services) {
        running.feed.send(Event::Synced(table)).unwrap();
    }
    running.feed.send(row("ab", "10.210.9.2", "s2")).unwrap();
    running
}

#[tokio::test(start_paused = true)]
async fn what_happened_while_the_store_was_away_is_answered_when_all_of_it_is_there() {
    let running = all_but_one_are_back().await;
    running.keeps(BOTH, RETURN_MAX / 2).await;
    running.feed.send(Event::Synced(Table::Services)).unwrap();
    let begun = Instant::now();
    running.answers("10.210.0.1 10.210.9.2").await;
    assert!(begun.elapsed() < RETURN_MAX / 4, "after {:?}", begun.elapsed());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_table_that_does_not_come_back_holds_up_the_others_for_three_seconds() {
    let running = all_but_one_are_back().await;
    let begun = Instant::now();
    running.answers("10.210.0.1 10.210.9.2").await;
    assert!(begun.elapsed() >= RETURN_MAX, "after {:?}", begun.elapsed());
    running.feed.send(row("ab", "10.210.9.3", "s2")).unwrap();
    let begun = Instant::now();
    running.answers("10.210.0.1 10.210.9.3").await;
    assert!(begun.elapsed() < RETURN_MAX / 4, "once, and not at each change: after {:?}", begun.elapsed());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_there_together_are_answered_together() {
    let running = Running::start(Vec::new());
    running.answers(BOTH).await;
    let of = |change: u8| (format!("10.210.{change}.1"), format!("10.210.{change}.2"));
    for change in 1..50 {
        let (one, two) = of(change);
        running.feed.send(container("aa", "casa/api", &one).upsert()).unwrap();
        tokio::task::yield_now().await;
        // A zone is due, and the other row is there: whichever is looked at first.
        running.feed.send(container("ab", "casa/api", &two).set("server_id", "s2").upsert()).unwrap();
        advance(GATHER_MAX).await;
        let (before, _) = of(change - 1);
        let expected = format!("{one} {two}");
        for _ in 0..1000 {
            let said = addresses(&running.published.load().zone, "casa-api.internal");
            if said == expected {
                break;
            }
            assert!(said.starts_with(&before) || change == 1 && said == BOTH, "{said} on the way to {expected}");
            advance(Duration::from_millis(1)).await;
        }
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn half_of_a_transaction_is_not_answered_while_its_rest_may_come() {
    let running = Running::start(Vec::new());
    running.feed.send(Event::Committed(Table::Containers)).unwrap();
    running.answers(BOTH).await;
    running.feed.send(row("aa", "10.210.9.1", "s1")).unwrap();
    running.keeps(BOTH, HALF_MAX / 2).await;
    running.feed.send(row("ab", "10.210.9.2", "s2")).unwrap();
    running.feed.send(Event::Committed(Table::Containers)).unwrap();
    running.answers("10.210.9.1 10.210.9.2").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_end_never_comes_is_answered_after_a_second() {
    let running = Running::start(Vec::new());
    running.feed.send(Event::Committed(Table::Containers)).unwrap();
    running.answers(BOTH).await;
    running.feed.send(container("ac", "casa/api", "10.210.0.3").set("instance_id", "another").upsert()).unwrap();
    let begun = Instant::now();
    running.answers("10.210.0.1 10.210.0.2 10.210.0.3").await;
    assert!(begun.elapsed() >= HALF_MAX, "after {:?}", begun.elapsed());
    // That is over: what others change is answered at once.
    running.feed.send(Event::Committed(Table::Servers)).unwrap();
    running.feed.send(server("s2").set("draining", 1).upsert()).unwrap();
    running.feed.send(Event::Committed(Table::Servers)).unwrap();
    let begun = Instant::now();
    running.answers("10.210.0.1 10.210.0.3").await;
    assert!(begun.elapsed() < HALF_MAX / 2, "after {:?}", begun.elapsed());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn half_of_a_transaction_is_not_answered_while_a_snapshot_comes_either() {
    let running = Running::start(Vec::new());
    running.feed.send(Event::Committed(Table::Containers)).unwrap();
    running.answers(BOTH).await;
    running.feed.send(row("aa", "10.210.9.1", "s1")).unwrap();
    // The connection is lost in the middle, and what follows is begun anew.
    running.feed.send(Event::Reset(Table::Containers)).unwrap();
    running.feed.send(row("aa", "10.210.9.1", "s1")).unwrap();
    running.keeps(BOTH, HALF_MAX / 2).await;
    running.feed.send(row("ab", "10.210.9.2", "s2")).unwrap();
    running.feed.send(Event::Synced(Table::Containers)).unwrap();
    running.answers("10.210.9.1 10.210.9.2").await;
    running.stop().await;
}
