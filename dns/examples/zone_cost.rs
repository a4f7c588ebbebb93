//! What a zone costs: loading it, memory, and how long one change among 10,000, 100,000 and 1,000,000 names takes until it
//! is answered, with the CPU time that it takes.
//!
//! `cargo run --release -p kith-dns --example zone_cost`. Times are those that the part itself reports; CPU and memory are
//! the process's, from /proc.

use std::fs;
use std::io::{Error, Write as _};
use std::time::Duration;

use kith_dns::feed::{Cell, Event, Table};
use kith_dns::zone::Freshness;
use kith_dns::{Config, Dns, StatusHandle};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Between lone changes, so that none waits for the one before.
const PAUSE: Duration = Duration::from_millis(20);
/// Between the changes of a busy cluster: 500 a second.
const BUSY: Duration = Duration::from_millis(2);
/// How many of each are measured.
const ROUNDS: usize = 500;
/// Containers of each service, and of each server.
const PER_SERVICE: usize = 10;
const PER_SERVER: usize = 250;
/// Services whose containers change: all that the smallest zone has.
const SERVICES: usize = 250;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    // Four names each: `{ID}.vm`, two of the instance, and a share of the service's.
    for containers in [2_500, 25_000, 250_000] {
        measure(containers).await?;
    }
    Ok(())
}

async fn measure(containers: usize) -> Outcome<()> {
    let config =
        Config { listen: vec!["127.0.0.1:0".parse()?], ranges: vec!["10.0.0.0/8".parse()?], ..Config::new("s1") };
    let memory = resident()?;
    let (feed, events) = mpsc::channel(1024);
    let dns = Dns::build(config, ReceiverStream::new(events)).await?;
    let (status, token) = (dns.status(), CancellationToken::new());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(dns.run(token.clone()));
    let begun = Instant::now();
    load(&feed, containers).await?;
    until(&status, |status| status.get().freshness == Freshness::Current).await;
    let (loaded, built) = (begun.elapsed(), status.get().build_time);
    let (names, reverse) = (status.get().zones[0].names, status.get().reverse_names);
    let bytes = (resident()? - memory) / (names + reverse);
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{names} names, {reverse} reverse: loaded in {loaded:.0?}, built in {built:.0?}, {bytes} bytes a name"
    )?;
    for (what, pause, first) in [("lone", PAUSE, 0), ("500 a second", BUSY, ROUNDS)] {
        let (times, cpu) = changes(&feed, &status, pause, first).await?;
        let p = |percent: usize| times[(times.len() - 1) * percent / 100];
        let (p50, p99) = (p(50), p(99));
        writeln!(out, "  {what}: event to zone p50 {p50:.0?} p99 {p99:.0?}, {cpu:.0?} of CPU each")?;
    }
    token.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn load(feed: &mpsc::Sender<Event>, containers: usize) -> Outcome<()> {
    for table in Table::ALL {
        feed.send(Event::Reset(table)).await?;
    }
    for n in 0..containers.div_ceil(PER_SERVER) {
        let id = format!("s{n}");
        let cells = vec![id.as_str().into(), "".into(), "".into(), "ams".into(), Cell::Null, 0.into(), "".into()];
        feed.send(Event::Upsert { table: Table::Servers, cells }).await?;
    }
    for n in 0..containers.div_ceil(PER_SERVICE) {
        let cells = vec!["casa".into(), format!("s{n}").as_str().into(), "[]".into(), Cell::Null, 0.into()];
        feed.send(Event::Upsert { table: Table::Services, cells }).await?;
    }
    for n in 0..containers {
        feed.send(container(n, "healthy")).await?;
    }
    for table in Table::ALL {
        feed.send(Event::Synced(table)).await?;
    }
    Ok(())
}

/// Changes one container after the other: how long each took until it was in the zone, sorted, and the CPU time of one.
async fn changes(
    feed: &mpsc::Sender<Event>,
    status: &StatusHandle,
    pause: Duration,
    first: usize,
) -> Outcome<(Vec<Duration>, Duration)> {
    let mut times = Vec::new();
    let mut pauses = tokio::time::interval(pause);
    // What looking costs is not the change's.
    let idle = cpu()?;
    let begun = Instant::now();
    look(status, Duration::from_millis(200)).await;
    let looking = (cpu()? - idle).div_f64(begun.elapsed().as_secs_f64());
    let before = cpu()?;
    for round in first..first + ROUNDS {
        pauses.tick().await;
        let generation = status.get().generation;
        let sent = Instant::now();
        // One after the other is another service's, and each is news.
        let health = if (round / SERVICES).is_multiple_of(2) { "unhealthy" } else { "degraded" };
        let service = round % SERVICES;
        feed.send(container(service * PER_SERVICE + service % PER_SERVICE, health)).await?;
        until(status, |status| status.get().generation > generation).await;
        times.push(sent.elapsed());
    }
    let spent = cpu()? - before;
    let spent = spent.saturating_sub(looking.mul_f64(times.iter().sum::<Duration>().as_secs_f64()));
    times.sort();
    Ok((times, spent / ROUNDS as u32))
}

/// Looks as [`until`] does, for so long.
async fn look(status: &StatusHandle, time: Duration) {
    let end = Instant::now() + time;
    until(status, |status| status.get().generation == u64::MAX || Instant::now() > end).await;
}

/// Looked at often enough for the figure, seldom enough not to be it.
async fn until(status: &StatusHandle, is: impl Fn(&StatusHandle) -> bool) {
    let mut looks = tokio::time::interval(Duration::from_micros(200));
    while !is(status) {
        looks.tick().await;
    }
}

/// Bytes of memory that this process has.
fn resident() -> Outcome<usize> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: usize = text.split(' ').nth(1).ok_or_else(|| Error::other("no second field"))?.parse()?;
    Ok(pages * 4096)
}

/// CPU time of this process, to the nanosecond: the sum over its threads.
fn cpu() -> Outcome<Duration> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().ok_or_else(|| Error::other("no first field"))?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

fn container(n: usize, health: &str) -> Event {
    let cells = vec![
        // No two begin alike.
        format!("{n:012x}").repeat(5).as_str().into(),
        "casa".into(),
        format!("s{}", n / PER_SERVICE).as_str().into(),
        format!("s{}", n / PER_SERVER).as_str().into(),
        format!("i{}", n % PER_SERVICE).as_str().into(),
        format!("10.{}.{}.{}", 1 + n / 62_500, n / 250 % 250, n % 250).as_str().into(),
        "".into(),
        "[]".into(),
        health.into(),
        0.into(),
        0.into(),
    ];
    Event::Upsert { table: Table::Containers, cells }
}
