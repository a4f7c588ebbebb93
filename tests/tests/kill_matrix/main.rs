//! Promise G9 as `dig` sees it each second: the store, its database, the upstream and DNS itself are taken away, one after the
//! other until all of it is gone, and come back. What was seen is printed as a table.

mod dig;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dig::Seen;
use kith_tests::lab::{Authority, Lab, Node, Upstream, eventually, resolve};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// For what must come, on a busy machine.
const BOUND: Duration = Duration::from_secs(60);
/// In which a store that hangs counts as away: thrice the 3 s in which it says something, and what a busy machine adds.
const HUNG: Duration = Duration::from_secs(15);
/// How many looks, a second apart, there are at each state.
const LOOKS: usize = 3;
/// RFC 8914: the answer is of an earlier time.
const STALE: u16 = 3;

const OWN: &str = "casa-api.internal";
const ABSENT: &str = "casa-nobody.internal";
const KEPT: &str = "kept.example.net";
const ADDRESS: &str = "10.210.0.1";

/// What is asked each second: a name of ours, one that is not there, a foreign one that was asked for before, and one that was not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    own: Seen,
    absent: Seen,
    kept: Seen,
    fresh: Seen,
}

struct Matrix {
    dns: Node,
    begun: Instant,
    asked: u32,
}

impl Matrix {
    async fn look(&mut self, state: &str) -> Look {
        self.asked += 1;
        let (at, fresh) = (self.dns.at.dns, format!("n{}.example.net", self.asked));
        let second = self.begun.elapsed().as_secs_f64();
        let (own, absent, kept, fresh) =
            tokio::join!(Seen::of(at, OWN), Seen::of(at, ABSENT), Seen::of(at, KEPT), Seen::of(at, &fresh));
        eprintln!("{second:5.1} | {state:<34} | {own:<16} | {absent:<13} | {kept:<13} | {fresh}");
        Look { own, absent, kept, fresh }
    }

    /// Looks once a second; each time `own`, `kept` and `fresh` are so, and a name that is not there is never given.
    async fn sees(&mut self, state: &str, own: &Expected, kept: &Expected, fresh: &Expected) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        // A look takes two where a foreign name has its SERVFAIL.
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..LOOKS {
            second.tick().await;
            let look = self.look(state).await;
            assert!(own.is(&look.own) && kept.is(&look.kept) && fresh.is(&look.fresh), "{state}: {look:?}");
            assert_eq!((look.absent.rcode.as_str(), look.absent.addresses.len()), ("NXDOMAIN", 0), "{state}: {look:?}");
        }
    }
}

/// What an answer must be.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// This address, as it is known just now.
    Current(&'static str),
    /// This address, marked as of an earlier time.
    Stale(&'static str),
    /// SERVFAIL.
    Failed,
}

impl Expected {
    fn is(self, seen: &Seen) -> bool {
        let stale = seen.errors.contains(&STALE);
        match self {
            Expected::Current(address) => seen.rcode == "NOERROR" && seen.addresses == [address] && !stale,
            Expected::Stale(address) => seen.rcode == "NOERROR" && seen.addresses == [address] && stale,
            Expected::Failed => seen.rcode == "SERVFAIL" && seen.addresses.is_empty(),
        }
    }
}

/// Asks for the name of ours without a pause until it is told to stop, and says how many were answered: with its address, or not at
/// all while DNS itself is away.
async fn ask_on(at: SocketAddr, stop: CancellationToken) -> u32 {
    let mut answered = 0;
    while let Some(answer) = stop.run_until_cancelled(resolve(at, OWN)).await {
        match answer {
            Ok(answer) => {
                let addresses: Vec<_> = answer.addresses.iter().map(ToString::to_string).collect();
                assert_eq!((answer.rcode.as_str(), &addresses[..]), ("NOERROR", &[ADDRESS.to_owned()][..]));
                answered += 1;
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
    answered
}

#[tokio::test]
async fn g9_a_store_that_hangs_is_away_until_it_goes_on() {
    let (lab, upstream) = (Lab::new("kills"), Upstream::start(1));
    let (store, mut matrix) = server(&lab, &upstream).await;
    let (current, stale) = (Expected::Current(ADDRESS), Expected::Stale(ADDRESS));
    let foreign = Expected::Current(Upstream::ADDRESS);
    matrix.sees("nothing", &current, &foreign, &foreign).await;

    store.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    eventually("DNS marks what it says as stale", HUNG, async || {
        let seen = Seen::of(matrix.dns.at.dns, OWN).await;
        assert_eq!(seen.addresses, [ADDRESS], "{seen:?}");
        if stale.is(&seen) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    eprintln!("marked as stale {:.1?} after the store was stopped", begun.elapsed());
    matrix.sees("the store hangs", &stale, &foreign, &foreign).await;

    // Whatever the order in which it does what waits: nothing is lost.
    let goes_on = async {
        matrix.look("the store hangs, a write waits").await;
        store.signal(Signal::SIGCONT);
    };
    tokio::join!(write(&store, "UPDATE containers SET ip = '10.210.0.2'"), goes_on);
    eventually("what is written is answered again", BOUND, async || {
        let seen = Seen::of(matrix.dns.at.dns, OWN).await;
        if Expected::Current("10.210.0.2").is(&seen) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    matrix.sees("nothing", &Expected::Current("10.210.0.2"), &foreign, &foreign).await;
}

async fn write(store: &Node, sql: &str) {
    store.api().execute(sql, &json!([])).await.expect("written");
}

/// A server with one container, in a process for its store and one for its DNS, which asks `upstream` about foreign names.
async fn server(lab: &Lab, upstream: &Upstream) -> (Node, Matrix) {
    let mut node = lab.nodes(&Authority::new("kills"), &["n1"]).remove(0);
    node.set(format!("dns.upstreams={}", upstream.address()));
    let [mut store, mut dns] = node.split();
    store.start().await;
    write(&store, "INSERT INTO services (project, name) VALUES ('casa', 'api')").await;
    let insert = "INSERT INTO containers (id, project, service, server_id, instance_id, ip, started_at) \
                  VALUES ('aaaaaaaaaaa1', 'casa', 'api', 'n1', 'a', '10.210.0.1', 1)";
    write(&store, insert).await;
    dns.launch();
    let now = Expected::Current(ADDRESS);
    eventually("DNS answers", BOUND, async || {
        let seen = Seen::of(dns.at.dns, OWN).await;
        if now.is(&seen) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let kept = lab.folder("n1").join("data");
    // As names are written there within a second or so.
    eventually("the zone is on disk", BOUND, async || {
        let files = std::fs::read_dir(&kept).map_err(|e| e.to_string())?;
        let names: Vec<_> = files.filter_map(|file| file.ok()?.file_name().into_string().ok()).collect();
        if names.iter().any(|name| name.contains("zone")) { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    (store, Matrix { dns, begun: Instant::now(), asked: 0 })
}

#[tokio::test]
async fn g9_the_kill_matrix_as_dig_sees_it_each_second() {
    let (lab, upstream) = (Lab::new("kills"), Upstream::start(1));
    let (mut store, mut matrix) = server(&lab, &upstream).await;
    let (current, stale) = (Expected::Current(ADDRESS), Expected::Stale(ADDRESS));
    let (foreign, old) = (Expected::Current(Upstream::ADDRESS), Expected::Stale(Upstream::ADDRESS));
    eprintln!("    s | what is away{:23}| a name of ours   | one not there | foreign, kept | foreign, fresh", "");
    let (stop, mut asking) = (CancellationToken::new(), JoinSet::new());
    asking.spawn(ask_on(matrix.dns.at.dns, stop.clone()));
    matrix.sees("nothing", &current, &foreign, &foreign).await;

    store.kill();
    eventually("DNS marks what it says as stale", BOUND, async || {
        let seen = Seen::of(matrix.dns.at.dns, OWN).await;
        assert_eq!(seen.addresses, [ADDRESS], "{seen:?}");
        if stale.is(&seen) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    matrix.sees("the store", &stale, &foreign, &foreign).await;

    let data = lab.folder("n1").join("data");
    let (database, aside) = (data.join("kith.db"), data.join("aside.db"));
    std::fs::rename(&database, &aside).expect("the database is there");
    matrix.sees("store, database", &stale, &foreign, &foreign).await;

    upstream.fall_silent();
    eventually("what was kept runs out, and is answered as of an earlier time", BOUND, async || {
        let seen = Seen::of(matrix.dns.at.dns, KEPT).await;
        if old.is(&seen) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    matrix.sees("store, database, upstream", &stale, &old, &Expected::Failed).await;

    // What it kept of foreign names was in its memory.
    matrix.dns.kill();
    matrix.look("all of it").await;
    matrix.dns.launch();
    let begun = Instant::now();
    while !stale.is(&matrix.look("all of it, DNS starts again").await.own) {
        assert!(begun.elapsed() < BOUND, "DNS did not come back");
    }
    matrix.sees("store, database, upstream", &stale, &Expected::Failed, &Expected::Failed).await;

    upstream.go_on();
    eventually("what failed is not remembered for longer than 5 s", BOUND, async || {
        let seen = Seen::of(matrix.dns.at.dns, KEPT).await;
        if foreign.is(&seen) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    matrix.sees("store, database", &stale, &foreign, &foreign).await;

    std::fs::rename(&aside, &database).expect("the database was put aside");
    store.start().await;
    eventually("the store is followed again", BOUND, async || {
        let seen = Seen::of(matrix.dns.at.dns, OWN).await;
        assert_eq!(seen.addresses, [ADDRESS], "{seen:?}");
        if current.is(&seen) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    matrix.sees("nothing", &current, &foreign, &foreign).await;
    stop.cancel();
    let answered = asking.join_next().await.expect("it was begun").expect("every answer had the address");
    eprintln!("asked for without a pause meanwhile: {answered} answers, each with its address");
    assert!(answered > 1_000, "{answered}");

    write(&store, "UPDATE containers SET ip = '10.210.0.2'").await;
    eventually("what is written is answered again", BOUND, async || {
        let seen = Seen::of(matrix.dns.at.dns, OWN).await;
        if Expected::Current("10.210.0.2").is(&seen) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}
