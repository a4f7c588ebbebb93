use std::future::pending;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::{Attempt, Keeper, LONGEST, Lease, LeaseError, Order, Own, RENEWAL, Reason, TTL, Turn};
use crate::follow::{Change, Follow, FollowError, Prepared, Reloaded};
use crate::logged::Log;

/// A bucket that several servers share: who holds the key, at which revision, until when.
#[derive(Clone, Default)]
struct Bucket(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    holder: Option<(String, Instant)>,
    revision: u64,
    broken: bool,
    /// How many answers to renewals are lost on their way back.
    lost: u32,
    /// Whom it does not hear.
    cut_off: Option<&'static str>,
    /// Whether there are regions that no server has heard of.
    unheard: bool,
    log: Vec<String>,
}

struct FakeLease(String, Bucket);

impl Bucket {
    fn with<T>(&self, f: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = self.0.lock().expect("no test panics with it");
        if kept.holder.as_ref().is_some_and(|(_, until)| *until <= Instant::now()) {
            kept.holder = None;
        }
        f(&mut kept)
    }

    fn holder(&self) -> Option<String> {
        self.with(|kept| kept.holder.as_ref().map(|(who, _)| who.clone()))
    }

    fn log(&self) -> String {
        self.with(|kept| kept.log.join(", "))
    }
}

fn no_answer() -> LeaseError {
    LeaseError::Unavailable("no answer".to_owned())
}

impl Kept {
    fn hears(&self, who: &str) -> Result<(), LeaseError> {
        if self.broken {
            return Err(LeaseError::Unavailable("no meta leader".to_owned()));
        }
        if self.cut_off == Some(who) { Err(no_answer()) } else { Ok(()) }
    }
}

impl Lease for FakeLease {
    async fn take(&mut self) -> Result<Attempt, LeaseError> {
        self.1.with(|kept| {
            kept.hears(&self.0)?;
            let again = match &kept.holder {
                Some((who, _)) if *who != self.0 => return Ok(Attempt::Held(who.clone())),
                Some(_) => " again",
                None => "",
            };
            kept.holder = Some((self.0.clone(), Instant::now() + TTL));
            kept.revision += 1;
            kept.log.push(format!("{} takes{again}", self.0));
            Ok(Attempt::Mine(kept.revision))
        })
    }

    async fn renew(&mut self, revision: u64) -> Result<u64, LeaseError> {
        self.1.with(|kept| {
            kept.hears(&self.0)?;
            if kept.holder.as_ref().is_none_or(|(who, _)| *who != self.0) || kept.revision != revision {
                return Err(LeaseError::Lost);
            }
            kept.holder = Some((self.0.clone(), Instant::now() + TTL));
            kept.revision += 1;
            if kept.lost > 0 {
                kept.lost -= 1;
                return Err(no_answer());
            }
            Ok(kept.revision)
        })
    }

    async fn release(&mut self, revision: u64) -> Result<(), LeaseError> {
        self.1.with(|kept| {
            assert_eq!(kept.revision, revision);
            kept.holder = None;
            kept.log.push(format!("{} gives back", self.0));
        });
        Ok(())
    }
}

/// How a process is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    Unwell,
    /// It does not even answer.
    Silent,
}

/// Whether there is anybody else.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    Some,
    None,
}

/// Whether regions are heard of while a turn is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    Meanwhile,
    Never,
}

/// A server: the number of its process, and how that is; its name, and how many seconds it takes to step down.
#[derive(Clone)]
struct FakeOwn(Arc<Mutex<(u32, Health)>>, Bucket, &'static str, Arc<AtomicU64>);

impl Own for FakeOwn {
    async fn process(&self) -> Option<String> {
        let (number, health) = *self.0.lock().expect("free");
        (health != Health::Silent).then(|| number.to_string())
    }
    async fn well(&self) -> bool {
        self.0.lock().expect("free").1 == Health::Well
    }
    async fn lacks_regions(&self) -> bool {
        self.1.with(|kept| kept.unheard)
    }
    async fn step_down(&self) {
        sleep(Duration::from_secs(self.3.load(Ordering::Relaxed))).await;
        self.1.with(|kept| kept.log.push(format!("{} steps down", self.2)));
    }
}

struct FakeKeeper(&'static str, Bucket, FakeOwn, Others);

impl Keeper for FakeKeeper {
    type Lease = FakeLease;
    type Own = FakeOwn;
    fn turn(&self) -> Option<(FakeLease, FakeOwn)> {
        (self.3 == Others::Some).then(|| (FakeLease(self.0.to_owned(), self.1.clone()), self.2.clone()))
    }
}

/// Whoever follows DNS: says what the test has it say.
struct Script(mpsc::Receiver<Change>);

impl Follow for Script {
    fn before_start(&mut self) -> BoxFuture<'_, Result<Prepared, FollowError>> {
        Box::pin(async { Ok(Prepared::File(PathBuf::from("/nats.conf"))) })
    }
    fn changed(&mut self) -> BoxFuture<'_, Change> {
        Box::pin(async {
            match self.0.recv().await {
                Some(change) => change,
                None => pending().await,
            }
        })
    }
    fn reloaded(&mut self, _: Reloaded) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

struct Server {
    turn: Turn<Script, FakeKeeper>,
    ends: super::Ends,
    script: mpsc::Sender<Change>,
    own: FakeOwn,
}

fn server(name: &'static str, bucket: &Bucket, others: Others) -> Server {
    let own = FakeOwn(Arc::new(Mutex::new((1, Health::Well))), bucket.clone(), name, Arc::default());
    let (script, changes) = mpsc::channel(8);
    let (turn, ends) = Turn::new(Script(changes), FakeKeeper(name, bucket.clone(), own.clone(), others));
    Server { turn, ends, script, own }
}

/// A server that is not the only one, and the bucket that it shares with the others.
fn single() -> (Bucket, Server) {
    let bucket = Bucket::default();
    let one = server("a", &bucket, Others::Some);
    (bucket, one)
}

/// Two servers that share a bucket.
fn pair() -> (Bucket, Server, Server) {
    let (bucket, one) = single();
    let two = server("b", &bucket, Others::Some);
    (bucket, one, two)
}

impl Server {
    async fn is_to_restart(&self) {
        self.script.send(restart("store")).await.expect("room");
    }
    /// It is to restart, and is told to when it is its turn.
    async fn gets_its_turn(&mut self) {
        self.is_to_restart().await;
        assert_eq!(self.told().await, restart("store"));
    }
    async fn is_taken_back(&self) {
        self.script.send(Change::TakenBack).await.expect("room");
    }
    async fn is_ordered(&self, order: Order) {
        self.ends.orders.send(order).await.expect("room");
    }
    fn is(&self, health: Health) {
        self.own.0.lock().expect("free").1 = health;
    }
    /// What it says that it waits for.
    fn waits(&self) -> Option<Arc<str>> {
        self.ends.waits.borrow().clone()
    }
    async fn told(&mut self) -> Change {
        timeout(Duration::from_secs(3_600), self.turn.changed()).await.expect("it is told something")
    }
    async fn is_told_nothing_for(&mut self, seconds: u64) {
        timeout(Duration::from_secs(seconds), self.turn.changed()).await.expect_err("it waits");
    }
    /// What the runner does: another process, well or not.
    async fn restarts(&mut self, health: Health) {
        self.turn.before_start().await.expect("a file");
        let mut process = self.own.0.lock().expect("free");
        *process = (process.0 + 1, health);
    }
}

fn restart(what: &str) -> Change {
    Change::Restart { what: what.to_owned() }
}

#[tokio::test(start_paused = true)]
async fn a_lone_server_needs_no_lease_and_other_changes_pass() {
    let bucket = Bucket::default();
    let mut lone = server("a", &bucket, Others::None);
    lone.is_to_restart().await;
    assert_eq!(lone.told().await, restart("store"));
    lone.script.send(Change::Start).await.expect("room");
    assert_eq!(lone.told().await, Change::Start);
    assert_eq!(bucket.log(), "");
}

#[tokio::test(start_paused = true)]
async fn two_servers_never_restart_at_once_and_the_second_waits_until_the_first_is_well() {
    let (bucket, mut one, mut two) = pair();
    one.gets_its_turn().await;
    two.is_to_restart().await;
    two.is_told_nothing_for(300).await;
    assert_eq!(two.waits().as_deref(), Some("a restart waits: it is the turn of a"));
    one.restarts(Health::Unwell).await;
    two.is_told_nothing_for(120).await;
    one.is(Health::Well);
    assert_eq!(two.told().await, restart("store"));
    assert_eq!(bucket.log(), "a takes, a steps down, a gives back, b takes, b steps down");
    assert_eq!(two.waits().as_deref(), None);
    two.restarts(Health::Well).await;
    two.is_told_nothing_for(10).await;
    assert_eq!(bucket.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_get_well_stops_the_roll_for_ten_minutes() {
    let (_, mut one, mut two) = pair();
    one.gets_its_turn().await;
    one.restarts(Health::Unwell).await;
    let since = Instant::now();
    two.gets_its_turn().await;
    let waited = since.elapsed();
    assert!(waited > LONGEST && waited < LONGEST + TTL + RENEWAL, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_it_waits_and_says_so_and_an_operator_goes_on_without() {
    let (bucket, mut one) = single();
    bucket.with(|kept| kept.broken = true);
    one.is_to_restart().await;
    one.is_told_nothing_for(600).await;
    assert_eq!(one.waits().as_deref(), Some("a restart waits: JetStream has no lease to give: no meta leader"));
    one.is_ordered(Order::RestartWithoutLease).await;
    assert_eq!(one.told().await, restart("an operator's order, without a lease"));
    one.restarts(Health::Well).await;
    bucket.with(|kept| kept.broken = false);
    one.is_told_nothing_for(60).await;
    assert_eq!((bucket.log().as_str(), one.waits().as_deref()), ("", None));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_started_in_the_meantime_needs_no_turn() {
    let (bucket, mut one, mut two) = pair();
    one.gets_its_turn().await;
    two.is_to_restart().await;
    two.is_told_nothing_for(5).await;
    two.restarts(Health::Well).await;
    one.restarts(Health::Well).await;
    one.is_told_nothing_for(5).await;
    two.is_told_nothing_for(60).await;
    assert_eq!(bucket.log(), "a takes, a steps down, a gives back");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_gone_blocks_nobody_for_longer_than_its_lease() {
    let (_, mut one, mut two) = pair();
    one.gets_its_turn().await;
    sleep(Duration::from_secs(1)).await;
    drop(one);
    let since = Instant::now();
    two.gets_its_turn().await;
    assert!(since.elapsed() <= TTL + Duration::from_secs(3), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_by_itself_while_it_steps_down_leaves_the_turn_to_others() {
    let (bucket, mut one, mut two) = pair();
    one.own.3.store(60, Ordering::Relaxed);
    one.is_to_restart().await;
    one.is_told_nothing_for(5).await;
    assert_eq!(bucket.holder().as_deref(), Some("a"));
    one.restarts(Health::Well).await;
    let since = Instant::now();
    two.gets_its_turn().await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(bucket.log(), "a takes, a gives back, b takes, b steps down");
}

#[tokio::test(start_paused = true)]
async fn an_operators_order_waits_for_the_turn_as_well() {
    let (bucket, mut one) = single();
    one.is_ordered(Order::Restart(Reason::Operator)).await;
    assert_eq!(one.told().await, restart("an operator's order"));
    assert_eq!(bucket.holder().as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_be_told_from_the_next_gets_no_turn_until_it_answers() {
    let (bucket, mut one) = single();
    one.is(Health::Silent);
    one.is_to_restart().await;
    one.is_told_nothing_for(60).await;
    assert_eq!(one.waits().as_deref(), Some("a restart waits: nats-server does not answer"));
    assert_eq!(bucket.holder(), None);
    one.is(Health::Well);
    assert_eq!(one.told().await, restart("store"));
    one.is_told_nothing_for(40).await;
    assert_eq!(bucket.holder().as_deref(), Some("a"), "the process that ends is well, and not another one");
    one.restarts(Health::Well).await;
    one.is_told_nothing_for(10).await;
    assert_eq!(bucket.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_is_lost_does_not_end_the_turn() {
    let (bucket, mut one, mut two) = pair();
    one.gets_its_turn().await;
    one.restarts(Health::Unwell).await;
    two.is_to_restart().await;
    bucket.with(|kept| kept.lost = 2);
    two.is_told_nothing_for(300).await;
    assert_eq!(bucket.holder().as_deref(), Some("a"));
    one.is(Health::Well);
    assert_eq!(two.told().await, restart("store"));
    assert!(
        bucket.log().ends_with("a takes again, a takes again, a gives back, b takes, b steps down"),
        "{}",
        bucket.log()
    );
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_cannot_be_renewed_is_over_with_its_lease_and_not_taken_for_ours_beyond() {
    let (bucket, mut one, mut two) = pair();
    one.gets_its_turn().await;
    one.restarts(Health::Unwell).await;
    two.is_to_restart().await;
    bucket.with(|kept| kept.cut_off = Some("a"));
    two.is_told_nothing_for(TTL.as_secs() - 2).await;
    assert_eq!(two.told().await, restart("store"));
    bucket.with(|kept| kept.cut_off = None);
    one.is(Health::Well);
    two.is_told_nothing_for(60).await;
    assert_eq!(bucket.holder().as_deref(), Some("b"));
    assert_eq!(bucket.log(), "a takes, a steps down, b takes, b steps down");
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_when_its_lease_is_over_is_taken_anew() {
    let (bucket, mut one) = single();
    one.own.3.store(TTL.as_secs() + 1, Ordering::Relaxed);
    one.is_to_restart().await;
    one.is_told_nothing_for(TTL.as_secs()).await;
    one.own.3.store(0, Ordering::Relaxed);
    assert_eq!(one.told().await, restart("store"));
    assert_eq!(bucket.log(), "a takes, a steps down, a takes, a steps down");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_taken_back_has_nobody_restart_and_an_order_stays() {
    let (bucket, mut one, mut two) = pair();
    one.gets_its_turn().await;
    two.is_to_restart().await;
    two.is_told_nothing_for(5).await;
    two.is_taken_back().await;
    two.is_told_nothing_for(5).await;
    assert_eq!(two.waits().as_deref(), None);
    one.restarts(Health::Well).await;
    one.is_told_nothing_for(5).await;
    two.is_told_nothing_for(300).await;
    assert_eq!(bucket.log(), "a takes, a steps down, a gives back");

    bucket.with(|kept| kept.broken = true);
    two.is_to_restart().await;
    two.is_ordered(Order::Restart(Reason::Operator)).await;
    two.is_told_nothing_for(5).await;
    two.is_taken_back().await;
    two.is_told_nothing_for(5).await;
    bucket.with(|kept| kept.broken = false);
    assert_eq!(two.told().await, restart("an operator's order"));
}

#[tokio::test(start_paused = true)]
async fn regions_that_the_restart_of_one_has_others_hear_of_restart_no_other() {
    let (bucket, mut one, mut two) = pair();
    bucket.with(|kept| kept.unheard = true);
    one.is_ordered(Order::Restart(Reason::Regions)).await;
    assert_eq!(one.told().await, restart("regions are in DNS that it has not heard of"));
    two.is_ordered(Order::Restart(Reason::Regions)).await;
    two.is_told_nothing_for(60).await;
    one.restarts(Health::Well).await;
    // What it tells is heard some seconds after it is well.
    two.is_told_nothing_for(5).await;
    assert_eq!(bucket.holder().as_deref(), Some("b"));
    bucket.with(|kept| kept.unheard = false);
    two.is_told_nothing_for(300).await;
    assert_eq!(bucket.log(), "a takes, a steps down, a gives back, b takes, b gives back");
    assert_eq!(two.waits().as_deref(), None);
}

#[tokio::test(start_paused = true)]
async fn what_else_is_due_restarts_a_server_that_waits_for_regions() {
    let (bucket, mut one) = single();
    for heard in [Heard::Meanwhile, Heard::Never] {
        bucket.with(|kept| kept.unheard = true);
        one.is_ordered(Order::Restart(Reason::Regions)).await;
        one.is_told_nothing_for(2).await;
        one.is_to_restart().await;
        if heard == Heard::Meanwhile {
            // It is told of both after it was found that one is void.
            bucket.with(|kept| kept.unheard = false);
            sleep(Duration::from_secs(5)).await;
        }
        assert_eq!(one.told().await, restart("store"));
        one.restarts(Health::Well).await;
        one.is_told_nothing_for(5).await;
        assert_eq!(bucket.holder(), None);
    }
    one.is_ordered(Order::Restart(Reason::Regions)).await;
    one.is_told_nothing_for(2).await;
    one.is_ordered(Order::Restart(Reason::Operator)).await;
    assert_eq!(one.told().await, restart("an operator's order"));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_another_takes_the_place_of_is_no_error() {
    let (log, _guard) = Log::of_warnings();
    let (_, mut one) = single();
    for _ in 0..2 {
        one.gets_its_turn().await;
        one.restarts(Health::Unwell).await;
    }
    one.is_told_nothing_for(10).await;
    assert_eq!(log.text(), "");
}

#[tokio::test(start_paused = true)]
async fn a_second_wish_while_the_server_does_not_come_back_keeps_the_turn_that_it_has() {
    let (bucket, mut one, mut two) = pair();
    one.gets_its_turn().await;
    one.restarts(Health::Silent).await;
    one.is_told_nothing_for(5).await;
    one.is_to_restart().await;
    two.is_to_restart().await;
    one.is_told_nothing_for(5).await;
    assert_eq!(one.waits().as_deref(), Some("a restart waits: nats-server does not answer"));
    two.is_told_nothing_for(300).await;
    assert_eq!(bucket.holder().as_deref(), Some("a"));
    one.is(Health::Unwell);
    assert_eq!(one.told().await, restart("store"), "it answers, and another start may be what makes it well");
    assert_eq!(one.waits().as_deref(), None);
    two.is_told_nothing_for(300).await;
    one.restarts(Health::Well).await;
    one.is_told_nothing_for(5).await;
    assert_eq!(two.told().await, restart("store"));
    assert_eq!(bucket.log(), "a takes, a steps down, a steps down, a gives back, b takes, b steps down");
}

#[tokio::test(start_paused = true)]
async fn wishes_that_are_taken_back_while_the_server_does_not_come_back_leave_it_the_turn_that_it_has() {
    let (bucket, mut one, mut two) = pair();
    one.gets_its_turn().await;
    one.restarts(Health::Silent).await;
    two.is_to_restart().await;
    for _ in 0..15 {
        one.is_to_restart().await;
        one.is_told_nothing_for(5).await;
        one.is_taken_back().await;
        one.is_told_nothing_for(5).await;
    }
    assert_eq!(one.waits().as_deref(), None);
    two.is_told_nothing_for(300).await;
    assert_eq!(bucket.holder().as_deref(), Some("a"));
    one.is(Health::Well);
    assert_eq!(two.told().await, restart("store"));
    one.is_told_nothing_for(60).await;
    assert_eq!(bucket.log(), "a takes, a steps down, a gives back, b takes, b steps down");
}

#[tokio::test(start_paused = true)]
async fn a_wish_beside_a_turn_that_is_over_takes_one_of_its_own() {
    let (bucket, mut one) = single();
    one.gets_its_turn().await;
    one.restarts(Health::Silent).await;
    one.is_to_restart().await;
    one.is_told_nothing_for(LONGEST.as_secs() + TTL.as_secs() + 60).await;
    assert_eq!(bucket.holder(), None);
    one.is(Health::Unwell);
    assert_eq!(one.told().await, restart("store"));
    assert_eq!(bucket.log(), "a takes, a steps down, a takes, a steps down");
}
