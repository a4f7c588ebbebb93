//! What changes cost who asks: 10,000 names in a store of one server, 500 changes a second written over its API, 50,000
//! questions a second answered by one worker on a core of its own.
//!
//! `cargo build --release -p kith && cargo bench -p kith-tests --bench busy_zone [-- --rounds 3 --seconds 5 --rate 50000 --changes 500]`,
//! and with `-- --flood` what floods of other names cost who asks for these (see [`flood`]).
//!
//! A round is a time without changes and one with them, so that a machine that grows slower does so for both. Each change
//! sets all addresses of one name, and every answer is read: it has one change or the next, never a mix. The generator goes
//! before everything else on its core; on a machine of two that is the store's core too, which is then slower than it would be.
//! What fell on a pause of the whole machine, as a virtual one has them, says nothing of Kith: times are told of all changes,
//! and of those that no pause touched ([`UNTOUCHED`]).
//! One JSON line, milliseconds but where `us` is said. It fails if an answer was wrong, and only then: figures are for people.

mod changes;
mod flood;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, ensure};
use kith_tests::cost::{self, Cores, Task};
use kith_tests::lab::{Authority, Lab, Node, eventually};
use kith_tests::load::{Asker, Count, Load, Pause, share};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use changes::{Awaited, Begun, Moment, Seeker};
use flood::{Flooder, Kind, Upstreams};
use names::NAMES;

/// Until the store has all rows, and DNS all names.
const FILLING: Duration = Duration::from_secs(120);
/// Asked before anything is measured, so that no cache is cold.
const WARMING: Duration = Duration::from_secs(1);
/// Asked on when the last change was written, so that it is seen in an answer as well.
const AFTER: Duration = Duration::from_millis(500);
/// After a pause of the machine, until what had piled up in it is worked off: a change that began sooner was touched by it.
const UNTOUCHED: Duration = Duration::from_millis(50);

struct Arguments {
    rounds: u32,
    lasts: Duration,
    rate: u32,
    changes: u32,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Changes,
    Flood,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    let cores = Cores::share_out()?;
    cost::pin_this_thread(&cores.rest)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lab = Lab::new("busy");
    let mut node = lab.nodes(&Authority::new("busy"), &["s"]).remove(0);
    let upstreams = Upstreams::start();
    let always = ["dns.threads=1", "dns.ranges=10.0.0.0/8"].map(str::to_owned);
    for setting in always.into_iter().chain(upstreams.settings()) {
        node.set(setting);
    }
    runtime.block_on(fill(&mut node))?;
    let worker = settle(&node, &cores)?;
    let line = match arguments.mode {
        Mode::Changes => busy(&runtime, &node, &worker, (&cores, &arguments))?,
        Mode::Flood => flooded(&runtime, &node, (&cores, &arguments))?,
    };
    #[expect(clippy::print_stdout, reason = "the figures are this program's output")]
    {
        println!("{line}");
    }
    Ok(())
}

impl Arguments {
    fn parse() -> Result<Arguments> {
        let mut arguments =
            Arguments { rounds: 3, lasts: Duration::from_secs(5), rate: 50_000, changes: 500, mode: Mode::Changes };
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            if word == "--flood" {
                arguments.mode = Mode::Flood;
                continue;
            }
            let value = words.next().and_then(|value| value.parse::<u32>().ok()).filter(|value| *value > 0);
            let value = value.with_context(|| format!("{word} takes a number"))?;
            match word.as_str() {
                "--rounds" => arguments.rounds = value,
                "--seconds" => arguments.lasts = Duration::from_secs(value.into()),
                "--rate" => arguments.rate = value,
                "--changes" => arguments.changes = value,
                _ => anyhow::bail!("unknown argument {word}"),
            }
        }
        Ok(arguments)
    }
}

/// Starts the node, and waits until it answers for all names.
async fn fill(node: &mut Node) -> Result<()> {
    node.start().await;
    for statements in names::inserts() {
        let reply = node.api().post("/v1/transactions", &json!(statements)).await.map_err(|error| anyhow!(error))?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.body);
    }
    let node = &*node;
    for name in (0..NAMES).step_by(97).chain([NAMES - 1]) {
        eventually("all names are answered", FILLING, async || {
            let answer = node.resolve(&format!("busy-n{name}.internal")).await?;
            if answer.addresses.len() == 3 { Ok(()) } else { Err(format!("n{name}: {answer:?}")) }
        })
        .await;
    }
    Ok(())
}

/// Gives the worker its core, and the others of its process theirs.
fn settle(node: &Node, cores: &Cores) -> Result<Task> {
    let tasks = cost::tasks(node.id())?;
    for task in &tasks {
        task.pin(&cores.rest)?;
    }
    let worker = tasks.into_iter().find(|task| task.name == "dns").context("there is no thread called dns")?;
    worker.pin(&[cores.worker])?;
    Ok(worker)
}

/// What was measured in some time with changes, or without.
#[derive(Default)]
struct Measured {
    count: Count,
    took: Vec<Duration>,
    spent: Vec<Duration>,
    p99: Vec<Duration>,
}

impl Measured {
    fn add(&mut self, count: Count, spent: Duration, took: &mut Vec<Duration>) {
        self.count = self.count.and(count);
        self.spent.push(spent / u32::try_from(count.answered).unwrap_or(u32::MAX).max(1));
        self.p99.push(share(0.99, took));
        self.took.append(took);
    }

    fn figures(&mut self) -> Value {
        let took = json!({"p50_us": micros(share(0.5, &mut self.took)), "p99_us": micros(share(0.99, &mut self.took))});
        json!({
            "asked": self.count.asked, "lost": self.count.asked - self.count.answered, "took": took,
            "cpu_us": micros(share(0.5, &mut self.spent)),
            "rounds_p99_us": self.p99.iter().copied().map(micros).collect::<Vec<_>>(),
        })
    }
}

fn busy(
    runtime: &tokio::runtime::Runtime,
    node: &Node,
    worker: &Task,
    (cores, arguments): (&Cores, &Arguments),
) -> Result<Value> {
    let (begun, awaited) = (Begun::none(), Arc::new(Awaited::default()));
    let mut seeker = Seeker::new(Arc::clone(&begun), Arc::clone(&awaited));
    let mut load = Load::new(node.at.dns, [IpAddr::from(Ipv4Addr::LOCALHOST)])?;
    let (stop, api) = (CancellationToken::new(), node.api().clone());
    let follower = std::thread::spawn({
        let stop = stop.clone();
        move || {
            cost::go_first();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(changes::follow(&api, stop))
        }
    });
    let mut first = 0;
    let (mut quiet, mut busy, mut commits) = (Measured::default(), Measured::default(), Vec::new());
    let mut ask = |lasts, seeker: &mut Seeker, write: &mut dyn FnMut() -> Result<Vec<Moment>>| -> Result<_> {
        let before = worker.spent()?;
        let (count, written) = asked(&mut load, cores, (arguments.rate, lasts + AFTER), seeker, write)?;
        Ok((count, worker.spent()? - before, written))
    };
    let nothing = &mut || Ok(Vec::new());
    ask(WARMING, &mut seeker, nothing)?;
    seeker.took.clear();
    let before = runtime.block_on(looks(node))?;
    for _ in 0..arguments.rounds {
        let (count, spent, _) = ask(arguments.lasts, &mut seeker, nothing)?;
        quiet.add(count, spent, &mut seeker.took);
        let pace = (arguments.changes, arguments.lasts);
        let mut write = || runtime.block_on(changes::write(node.api(), &begun, &awaited, pace, &mut first));
        let (count, spent, written) = ask(arguments.lasts, &mut seeker, &mut write)?;
        busy.add(count, spent, &mut seeker.took);
        commits.extend(written);
    }
    let after = runtime.block_on(looks(node))?;
    stop.cancel();
    let came = follower.join().map_err(|_| anyhow!("the follower panicked"))??;
    let events = changes::events(&came);
    ensure!(seeker.wrong_count == 0, "{} answers were wrong: {:#?}", seeker.wrong_count, seeker.wrong);
    let ratio = |busy: &[Duration], quiet: &[Duration]| {
        let mut ratios: Vec<_> =
            busy.iter().zip(quiet).map(|(busy, quiet)| busy.as_secs_f64() / quiet.as_secs_f64()).collect();
        ratios.sort_by(f64::total_cmp);
        (ratios[ratios.len() / 2] * 100.0).round() / 100.0
    };
    let ratios = (ratio(&busy.p99, &quiet.p99), ratio(&busy.spent, &quiet.spent));
    let paused = load.pauses().iter().map(|pause| pause.until.duration_since(pause.from).unwrap_or_default()).sum();
    Ok(json!({
        "without_changes": quiet.figures(), "with_changes": busy.figures(),
        "changes": commits.len(), "changes_not_answered": seeker.missing(), "wrong_answers": 0,
        "event_to_answer_ms": later(&events, &seeker.found, &[]),
        "commit_to_answer_ms": later(&commits, &seeker.found, &[]),
        "pauses": load.pauses().len(), "pauses_ms": millis(paused),
        "untouched": {
            "event_to_answer_ms": later(&events, &seeker.found, load.pauses()),
            "commit_to_answer_ms": later(&commits, &seeker.found, load.pauses()),
        },
        "looks": after.0 - before.0, "looks_whole": after.1 - before.1,
        "p99_ratio": ratios.0, "cpu_ratio": ratios.1,
        "must": "event p99 <= 10, commit p99 <= 15, p99_ratio <= 2, cpu_ratio <= 1.2",
    }))
}

/// How often the store has looked at its live queries again, and how often at all rows of one.
async fn looks(node: &Node) -> Result<(u64, u64)> {
    let status = node.api().get("/v1/status").await.map_err(|error| anyhow!(error))?.json();
    let count = |name| status["subscriptions"][name].as_u64().with_context(|| format!("no {name} in {status}"));
    Ok((count("looks")?, count("looks_whole")?))
}

/// What floods cost who asks for own names, and the process.
fn flooded(runtime: &tokio::runtime::Runtime, node: &Node, (cores, arguments): (&Cores, &Arguments)) -> Result<Value> {
    let mut load = Load::new(node.at.dns, flood::sources())?;
    let (mut p99, mut lines) = (BTreeMap::<Kind, Vec<Duration>>::new(), Vec::new());
    for round in 0..arguments.rounds {
        for kind in Kind::ALL {
            let mut flooder = Flooder::new(kind, round.into());
            asked(&mut load, cores, (kind.rate(), arguments.lasts), &mut flooder, &mut || Ok(()))?;
            let (took, mut line) = flooder.finish()?;
            p99.entry(kind).or_default().push(took);
            line["resident_mib"] = json!(cost::resident(node.id())? >> 20);
            lines.push(json!({kind.name(): line}));
        }
    }
    let metrics = runtime.block_on(node.api().get("/metrics")).map_err(|error| anyhow!(error))?.body;
    let shown =
        |line: &&str| ["kith_dns_cache_", "kith_dns_slow_", "kith_dns_forward"].iter().any(|it| line.starts_with(it));
    let metrics: Vec<_> = metrics.lines().filter(shown).collect();
    let quiet = share(0.5, p99.entry(Kind::Nothing).or_default()).as_secs_f64();
    let ratios: BTreeMap<_, _> = p99
        .iter_mut()
        .map(|(kind, took)| (kind.name(), (share(0.5, took).as_secs_f64() / quiet * 100.0).round() / 100.0))
        .collect();
    Ok(json!({"rounds": lines, "metrics": metrics, "p99_ratio": ratios, "must": "p99_ratio <= 2, resident flat"}))
}

/// Asks from a thread of its own, while this one writes.
fn asked<A: Asker + Send, T>(
    load: &mut Load,
    cores: &Cores,
    (rate, lasts): (u32, Duration),
    asker: &mut A,
    write: &mut dyn FnMut() -> Result<T>,
) -> Result<(Count, T)> {
    std::thread::scope(|scope| {
        let generator = scope.spawn(move || {
            cost::pin_this_thread(&[cores.generator])?;
            cost::go_first();
            load.run(rate, lasts, asker)
        });
        let written = write()?;
        let count = generator.join().map_err(|_| anyhow!("the generator panicked"))??;
        Ok((count, written))
    })
}

/// How long after these moments an answer had each change that none of these pauses touched.
fn later(moments: &[Moment], found: &[Moment], pauses: &[Pause]) -> Value {
    let found: HashMap<_, SystemTime> = found.iter().map(|found| ((found.name, found.number), found.at)).collect();
    let after = |moment: &Moment| {
        let found = *found.get(&(moment.name, moment.number))?;
        let touched = pauses.iter().any(|pause| pause.from <= found && moment.at <= pause.until + UNTOUCHED);
        // An answer that was there first was there at once.
        (!touched).then(|| found.duration_since(moment.at).unwrap_or_default())
    };
    let mut took: Vec<_> = moments.iter().filter_map(after).collect();
    json!({
        "n": took.len(), "p50": millis(share(0.5, &mut took)), "p99": millis(share(0.99, &mut took)),
        "max": millis(share(1.0, &mut took)),
    })
}

fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e5).round() / 1e2
}

fn micros(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e8).round() / 1e2
}
