use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::check::Check;
use super::run::Loop;
use super::{ASKS, Discovery, News, Ready, Sources, Told};
use crate::change::Class;
use crate::follow::{Change, Follow as _, FollowError, Prepared, Reloaded};
use crate::peers::Kept;
use crate::render::tests::settings;
use crate::render::{Limits, Section, Settings};
use crate::resolve::{Answer, Dns, Failure, Service};
use crate::shape::Unknown;

const TTL: Duration = Duration::from_secs(5);

/// A name server whose answers the test turns.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<BTreeMap<String, Said>>>, Arc<AtomicU32>);

#[derive(Clone, Default)]
struct Said {
    addresses: Vec<IpAddr>,
    texts: Vec<String>,
    services: Vec<Service>,
    failed: Option<Failure>,
}

impl Fake {
    fn set(&self, name: &str, said: Said) {
        self.0.lock().expect("no test panics with it").insert(format!("{name}.nats.internal."), said);
    }

    fn addresses(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        self.set(name, Said { addresses, ..Said::default() });
    }

    fn regions(&self, text: &str) {
        self.set("regions", Said { texts: vec![text.to_owned()], ..Said::default() });
    }

    fn silent(&self) {
        for said in self.0.lock().expect("no test panics with it").values_mut() {
            said.failed = Some(Failure::TimedOut);
        }
    }

    fn empty(&self) {
        self.0.lock().expect("no test panics with it").clear();
    }

    fn answer<T: Ord>(&self, name: &str, found: impl Fn(Said) -> Vec<T>) -> Answer<T> {
        let said = self.0.lock().expect("no test panics with it").get(name).cloned().unwrap_or_default();
        match said.failed.clone() {
            Some(failure) => Answer::Failed(failure),
            None => Answer::of(found(said), TTL),
        }
    }
}

impl Dns for Fake {
    async fn addresses(&self, name: &str) -> Answer<IpAddr> {
        self.answer(name, |said| said.addresses)
    }
    async fn services(&self, name: &str) -> Answer<Service> {
        self.answer(name, |said| said.services)
    }
    async fn texts(&self, name: &str) -> Answer<String> {
        // Regions, once in a look.
        self.1.fetch_add(1, Ordering::Relaxed);
        self.answer(name, |said| said.texts)
    }
}

/// Refuses what has this text in it.
#[derive(Clone, Default)]
struct Judge(Arc<Mutex<Option<String>>>);

impl Check for Judge {
    async fn check(&self, file: &Path) -> Result<(), String> {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        match &*self.0.lock().expect("no test panics with it") {
            Some(bad) if text.contains(bad) => Err(format!("{bad} is refused")),
            _ => Ok(()),
        }
    }
}

struct Bench {
    dns: Fake,
    judge: Judge,
    settings: Arc<Mutex<Result<Settings, String>>>,
    folder: tempfile::TempDir,
    token: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        Self {
            dns: Fake::default(),
            judge: Judge::default(),
            settings: Arc::new(Mutex::new(Ok(settings()))),
            folder: tempfile::tempdir().expect("a folder"),
            token: CancellationToken::new(),
        }
    }

    /// Three servers of `ams`, one of `iad`.
    fn with_peers() -> Self {
        let bench = Self::new();
        bench.dns.addresses("center.process", &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1"]);
        bench.dns.addresses("ams", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        bench.dns.addresses("iad", &["10.1.0.1"]);
        bench.dns.regions("ams,iad");
        bench
    }

    fn start(&self) -> (Discovery, JoinSet<()>) {
        let (asks, asked) = mpsc::channel(ASKS);
        let (says, news) = watch::channel(News::none());
        let of = Arc::clone(&self.settings);
        let sources = Sources {
            place: settings().place,
            settings: Arc::new(move || of.lock().expect("no test panics with it").clone()),
            binary: PathBuf::new(),
            file: self.file(),
            kept: Kept::at(self.folder.path().join("peers.json")),
        };
        let running = Loop::new(sources, self.judge.clone(), self.dns.clone(), says, asked).run(self.token.clone());
        (Discovery { news, asks, told: Told::default() }, JoinSet::from_iter([running]))
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("nats.conf")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file()).expect("a file")
    }

    fn limit(&self, max_connections: u32) {
        let mut wanted = settings();
        wanted.limits = Limits { max_connections: Some(max_connections), ..Limits::default() };
        *self.settings.lock().expect("no test panics with it") = Ok(wanted);
    }
}

impl Discovery {
    /// A process that starts, as soon as it may.
    async fn started(&mut self) -> PathBuf {
        let mut tries = 0;
        loop {
            match self.before_start().await {
                Ok(Prepared::File(path)) => return path,
                other => assert!(tries < 100, "after {tries} tries {other:?}"),
            }
            tries += 1;
            pass(1).await;
        }
    }

    /// What the runner is told next.
    async fn told(&mut self) -> Change {
        let told = tokio::time::timeout(Duration::from_secs(120), self.changed()).await;
        told.unwrap_or_else(|_| panic!("after two minutes the news are {:?}", self.news.borrow()))
    }

    /// The first news that are so. Time is virtual: a minute of it is none.
    async fn until(&mut self, so: impl Fn(&News) -> bool) -> News {
        let found = tokio::time::timeout(Duration::from_secs(120), self.news.wait_for(so)).await;
        let found = found.map(|found| found.expect("the loop runs").clone());
        found.unwrap_or_else(|_| panic!("after two minutes the news are {:?}", self.news.borrow()))
    }
}

async fn pass(time: u64) {
    tokio::time::sleep(Duration::from_secs(time)).await;
}

#[tokio::test(start_paused = true)]
async fn a_first_list_that_never_settles_is_asked_for_once_a_second_after_a_minute() {
    let bench = Bench::with_peers();
    let (mut discovery, task) = bench.start();
    let mut looks = Vec::new();
    for second in 0..90 {
        // Ports are those of the last answer; addresses are held.
        let service = Service { target: "a.".to_owned(), port: 6_222 + second % 2, addresses: BTreeSet::new() };
        bench.dns.set("_nats-route._tcp", Said { services: vec![service], ..Said::default() });
        pass(1).await;
        looks.push(bench.dns.1.swap(0, Ordering::Relaxed));
    }
    assert!(looks[10..50].iter().all(|count| (3..=4).contains(count)), "{looks:?}");
    assert!(looks[62..].iter().all(|count| *count <= 1), "{looks:?}");
    assert!(looks[62..].iter().sum::<u32>() > 20, "{looks:?}");
    let waits = discovery.before_start().await.expect("it can wait");
    assert!(matches!(waits, Prepared::Waiting(_)), "{waits:?}");
    bench.token.cancel();
    task.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_waits_for_its_first_peers_and_starts_with_them() {
    let bench = Bench::new();
    let (mut discovery, task) = bench.start();
    discovery.until(|news| news.ready == Ready::Waiting(Unknown::Others)).await;
    assert!(!bench.file().exists());
    let waits = discovery.before_start().await.expect("it can wait");
    assert_eq!(waits, Prepared::Waiting("no other server of the center is known".to_owned()));

    bench.dns.addresses("center.process", &["10.0.0.1", "10.0.0.2"]);
    bench.dns.addresses("ams", &["10.0.0.1", "10.0.0.2"]);
    bench.dns.regions("ams");
    assert_eq!(discovery.told().await, Change::Start);
    assert_eq!(discovery.before_start().await.expect("there are peers"), Prepared::File(bench.file()));
    assert!(bench.text().contains("nats-route://10.0.0.2:6222"));
    assert_eq!(discovery.news.borrow().peers, 1);
    bench.token.cancel();
    task.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_list_of_all_has_to_stay_the_same_for_a_moment_and_later_ones_have_not() {
    let bench = Bench::new();
    bench.dns.regions("ams");
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
    let (mut discovery, _task) = bench.start();
    for known in 2..=4 {
        bench.dns.addresses("center.process", &all[..known]);
        bench.dns.addresses("ams", &all[..known]);
        discovery.until(|news| news.ready == Ready::Waiting(Unknown::Settling)).await;
        pass(1).await;
        assert_eq!(discovery.news.borrow().ready, Ready::Waiting(Unknown::Settling));
    }
    assert_eq!(discovery.told().await, Change::Start);
    discovery.started().await;
    assert_eq!(discovery.news.borrow().peers, 3);
    bench.dns.addresses("center.process", &all[..2]);
    let again = bench.start().0.until(|news| news.ready != Ready::Asking).await;
    assert_eq!(again.ready, Ready::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_which_nothing_was_heard_for_a_while_has_not_stayed_the_same() {
    let bench = Bench::with_peers();
    let (mut discovery, _task) = bench.start();
    discovery.until(|news| news.ready == Ready::Waiting(Unknown::Settling)).await;
    bench.dns.silent();
    pass(10).await;
    assert_eq!(discovery.news.borrow().ready, Ready::Waiting(Unknown::Settling));
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.1.0.1"];
    bench.dns.addresses("center.process", &all);
    bench.dns.addresses("ams", &all[..4]);
    bench.dns.addresses("iad", &all[4..]);
    bench.dns.regions("ams,iad");
    discovery.started().await;
    assert_eq!(discovery.news.borrow().peers, 4);
}

#[tokio::test(start_paused = true)]
async fn after_a_minute_a_list_is_enough_of_which_one_name_is_never_answered() {
    let bench = Bench::with_peers();
    bench.dns.set("iad", Said { failed: Some(Failure::TimedOut), ..Said::default() });
    let (mut discovery, _task) = bench.start();
    pass(55).await;
    assert_eq!(discovery.news.borrow().ready, Ready::Waiting(Unknown::Settling));
    assert_eq!(discovery.told().await, Change::Start);
}

#[tokio::test(start_paused = true)]
async fn the_last_of_those_that_start_together_is_seen_soon_and_the_list_settles_in_two_seconds() {
    let bench = Bench::new();
    bench.dns.regions("ams");
    bench.dns.addresses("center.process", &["10.0.0.1", "10.0.0.2"]);
    bench.dns.addresses("ams", &["10.0.0.1", "10.0.0.2"]);
    let (mut discovery, _task) = bench.start();
    discovery.until(|news| news.ready == Ready::Waiting(Unknown::Settling)).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    bench.dns.addresses("center.process", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    bench.dns.addresses("ams", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let last = tokio::time::Instant::now();
    assert_eq!(discovery.told().await, Change::Start);
    let waited = last.elapsed();
    assert!((Duration::from_secs(2)..=Duration::from_millis(2_500)).contains(&waited), "{waited:?}");
    assert_eq!(discovery.news.borrow().peers, 2);
}

#[tokio::test(start_paused = true)]
async fn who_comes_in_the_first_minute_is_found_within_a_second_and_later_when_the_answer_is_old() {
    let bench = Bench::with_peers();
    let (mut discovery, _task) = bench.start();
    discovery.started().await;
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
    for (known, after, bound) in [(4, 10, 1), (5, 60, 5)] {
        pass(after).await;
        bench.dns.addresses("center.process", &all[..known]);
        bench.dns.addresses("ams", &all[..known]);
        let begun = tokio::time::Instant::now();
        assert_eq!(discovery.told().await, Change::Reload { what: "reload: routes".to_owned() });
        assert!(begun.elapsed() <= Duration::from_secs(bound), "{:?}", begun.elapsed());
        discovery.reloaded(Reloaded::Taken).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_route_is_a_reload_and_another_region_waits_for_the_next_start() {
    let bench = Bench::with_peers();
    let (mut discovery, _task) = bench.start();
    discovery.started().await;
    let before = bench.text();

    bench.dns.addresses("center.process", &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1", "10.2.0.1"]);
    bench.dns.addresses("syd", &["10.2.0.1"]);
    bench.dns.regions("ams,iad,syd");
    let news = discovery.until(|news| news.due.takes(Class::Aside)).await;
    assert_eq!((news.due.to_string().as_str(), news.reload), ("at the next start: gateways", 0));
    assert_eq!(bench.text(), before, "a changed gateway block would make every reload fail");

    bench.dns.addresses("center.process", &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.1.0.1", "10.2.0.1"]);
    bench.dns.addresses("ams", &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    assert_eq!(discovery.told().await, Change::Reload { what: "reload: routes".to_owned() });
    assert!(bench.text().contains("10.0.0.4:6222") && !bench.text().contains("10.2.0.1"), "{}", bench.text());
    discovery.reloaded(Reloaded::Taken).await;
    discovery.until(|news| news.due.to_string() == "at the next start: gateways").await;

    discovery.started().await;
    assert!(bench.text().contains("10.2.0.1:7222"));
    discovery.until(|news| news.due.sections.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn dns_that_is_silent_or_empty_changes_nothing_and_is_said() {
    let bench = Bench::with_peers();
    let (mut discovery, _task) = bench.start();
    discovery.started().await;
    let before = bench.text();
    bench.dns.empty();
    let news = discovery.until(|news| news.dns.is_some()).await;
    assert_eq!(news.dns.as_deref(), Some("center.process.nats.internal. has no records"));
    pass(60).await;
    bench.dns.addresses("center.process", &["10.0.0.1"]);
    bench.dns.silent();
    let news = discovery.until(|news| news.dns.as_deref().is_some_and(|said| said.contains("no answer"))).await;
    assert_eq!(news.dns.as_deref(), Some("center.process.nats.internal.: no answer in time"));
    pass(60).await;
    assert_eq!(bench.text(), before);
    assert_eq!((discovery.news.borrow().reload, discovery.news.borrow().due.sections.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_gone_for_good_leaves_the_routes_after_the_hold_down_and_one_that_flaps_does_not() {
    let bench = Bench::with_peers();
    let (mut discovery, _task) = bench.start();
    discovery.started().await;
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1"];
    for second in 0..60 {
        bench.dns.addresses("center.process", if second % 2 == 0 { &all[..2] } else { &all });
        pass(1).await;
    }
    assert_eq!(discovery.news.borrow().reload, 0);
    bench.dns.addresses("center.process", &["10.0.0.1", "10.0.0.2", "10.1.0.1"]);
    let gone = tokio::time::Instant::now();
    discovery.until(|news| news.reload == 1).await;
    assert!(gone.elapsed() >= Duration::from_secs(85), "after {:?}", gone.elapsed());
    assert!(!bench.text().contains("10.0.0.3"));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_addresses_are_bounded_and_said() {
    let bench = Bench::with_peers();
    let many: Vec<String> = (0..1_000).map(|at| format!("10.9.{}.{}", at / 250, at % 250 + 1)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    bench.dns.addresses("center.process", &many);
    bench.dns.addresses("ams", &many);
    let (mut discovery, _task) = bench.start();
    discovery.started().await;
    let news = discovery.until(|news| news.dns.is_some()).await;
    assert_eq!(news.dns.as_deref(), Some("center.process.nats.internal. has 1000 records; 256 are used"));
    assert_eq!(news.peers, 256);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_leaves_the_file_and_is_said_until_it_is_accepted() {
    let bench = Bench::with_peers();
    let (mut discovery, _task) = bench.start();
    discovery.started().await;
    let before = bench.text();
    *bench.judge.0.lock().expect("free") = Some("max_connections: 7".to_owned());
    bench.limit(7);
    let news = discovery.until(|news| news.refused.is_some()).await;
    assert_eq!(news.refused.as_deref(), Some("max_connections: 7 is refused"));
    assert_eq!((bench.text(), news.reload), (before, 0));
    bench.limit(8);
    let news = discovery.until(|news| news.refused.is_none()).await;
    assert_eq!(news.reload, 1);
    assert!(bench.text().contains("max_connections: 8"));
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_the_process_refuses_has_the_old_file_put_back() {
    let bench = Bench::with_peers();
    let (mut discovery, _task) = bench.start();
    discovery.started().await;
    let before = bench.text();
    bench.limit(9);
    assert_eq!(discovery.told().await, Change::Reload { what: "reload: limits".to_owned() });
    discovery.reloaded(Reloaded::Refused("not supported".to_owned())).await;
    let news = discovery.until(|news| news.refused.is_some()).await;
    assert_eq!((news.refused.as_deref(), news.due.to_string().as_str()), (Some("not supported"), "reload: limits"));
    assert_eq!(bench.text(), before);
    pass(30).await;
    assert_eq!(discovery.news.borrow().reload, 1, "it is not tried again at once");
}

#[tokio::test(start_paused = true)]
async fn what_takes_a_restart_is_not_in_the_file_that_is_reloaded() {
    let bench = Bench::with_peers();
    let (mut discovery, _task) = bench.start();
    discovery.started().await;
    let mut wanted = settings();
    wanted.append = Some("max_subscriptions: 5".to_owned());
    wanted.limits.max_payload = Some(99);
    *bench.settings.lock().expect("free") = Ok(wanted);
    assert_eq!(discovery.told().await, Change::Reload { what: "reload: limits".to_owned() });
    assert!(bench.text().contains("max_payload: 99") && !bench.text().contains("max_subscriptions"));
    discovery.reloaded(Reloaded::Taken).await;
    assert_eq!(discovery.told().await, Change::Restart { what: "restart: appended configuration".to_owned() });
    tokio::time::timeout(Duration::from_secs(60), discovery.changed()).await.expect_err("it is told once");
    discovery.started().await;
    assert!(bench.text().contains("max_subscriptions: 5"));
}

#[tokio::test(start_paused = true)]
async fn what_takes_a_restart_and_is_taken_back_is_told_once() {
    let bench = Bench::with_peers();
    let (mut discovery, _task) = bench.start();
    discovery.started().await;
    let with = |append: Option<&str>| {
        let append = append.map(str::to_owned);
        *bench.settings.lock().expect("free") = Ok(Settings { append, ..settings() });
    };
    with(Some("max_subscriptions: 5"));
    assert_eq!(discovery.told().await, Change::Restart { what: "restart: appended configuration".to_owned() });
    with(None);
    assert_eq!(discovery.told().await, Change::TakenBack);
    tokio::time::timeout(Duration::from_secs(60), discovery.changed()).await.expect_err("it is told once");
}

#[tokio::test(start_paused = true)]
async fn a_start_while_dns_is_away_is_with_the_last_peers() {
    let bench = Bench::with_peers();
    let (mut discovery, task) = bench.start();
    discovery.started().await;
    let before = bench.text();
    discovery.until(|news| news.ready == Ready::Ready).await;
    pass(1).await;
    bench.token.cancel();
    task.join_all().await;

    let again = Bench { token: CancellationToken::new(), ..bench };
    std::fs::remove_file(again.file()).expect("it was written");
    again.dns.silent();
    let (mut discovery, _task) = again.start();
    discovery.started().await;
    assert_eq!(again.text(), before);
}

#[tokio::test(start_paused = true)]
async fn a_mistake_at_a_start_runs_the_file_of_the_life_before() {
    let bench = Bench::with_peers();
    std::fs::write(bench.file(), "port: 4222\n").expect("room");
    *bench.settings.lock().expect("free") = Err("accounts.conf: no such file".to_owned());
    let (mut discovery, _task) = bench.start();
    discovery.started().await;
    assert_eq!(bench.text(), "port: 4222\n");
    assert_eq!(discovery.news.borrow().refused.as_deref(), Some("accounts.conf: no such file"));
    *bench.settings.lock().expect("free") = Ok(settings());
    let news = discovery.until(|news| news.due.takes(Class::Restart)).await;
    assert!(news.due.sections.iter().any(|(section, _)| *section == Section::Cluster));
}

#[tokio::test(start_paused = true)]
async fn a_mistake_at_the_first_start_is_waited_out() {
    let bench = Bench::with_peers();
    *bench.judge.0.lock().expect("free") = Some("server_name".to_owned());
    let (mut discovery, _task) = bench.start();
    discovery.until(|news| news.refused.is_some()).await;
    let error = discovery.before_start().await.expect_err("there is no file");
    assert!(matches!(&error, FollowError::Refused(reason) if reason == "server_name is refused"), "{error}");
    *bench.judge.0.lock().expect("free") = None;
    assert_eq!(discovery.told().await, Change::Start);
    assert_eq!(discovery.started().await, bench.file());
    discovery.until(|news| news.refused.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn ports_that_differ_are_found_by_the_addresses_of_their_targets() {
    let bench = Bench::with_peers();
    let service = |target: &str, port, address: Option<&str>| Service {
        target: format!("{target}.vm.nats.internal."),
        port,
        addresses: address.into_iter().map(|text| text.parse().expect("an address")).collect(),
    };
    let services =
        vec![service("a", 6_222, Some("10.0.0.1")), service("b", 6_333, Some("10.0.0.2")), service("c", 6_444, None)];
    bench.dns.set("_nats-route._tcp", Said { services, ..Said::default() });
    bench.dns.addresses("c.vm", &["10.0.0.3"]);
    bench.dns.set("_nats-gateway._tcp", Said { services: vec![service("a", 7_333, None)], ..Said::default() });
    let (mut discovery, _task) = bench.start();
    discovery.started().await;
    let text = bench.text();
    for wanted in ["10.0.0.2:6333", "10.0.0.3:6444", "10.1.0.1:7333"] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
}
