//! What a zone costs: how long a change among 4,000 and 10,000 names takes until it is answered.
//!
//! `cargo run --release -p kith-dns --example zone_cost`. Reads the time that the part itself reports.

use std::io::Write as _;
use std::time::Duration;

use kith_dns::feed::{Cell, Event, Table};
use kith_dns::{Config, Dns};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Between changes, so that each is a lone one; changes in a row are gathered for up to 5 ms.
const PAUSE: Duration = Duration::from_millis(60);
/// Containers of each service.
const PER_SERVICE: usize = 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for containers in [1_000, 2_500] {
        measure(containers).await?;
    }
    Ok(())
}

async fn measure(containers: usize) -> Result<(), Box<dyn std::error::Error>> {
    let config =
        Config { listen: vec!["127.0.0.1:0".parse()?], ranges: vec!["10.0.0.0/8".parse()?], ..Config::new("s1") };
    let (feed, events) = mpsc::channel(1024);
    let dns = Dns::build(config, ReceiverStream::new(events)).await?;
    let (status, token) = (dns.status(), CancellationToken::new());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(dns.run(token.clone()));
    for table in Table::ALL {
        feed.send(Event::Reset(table)).await?;
    }
    for n in 0..containers / PER_SERVICE {
        let cells = vec!["casa".into(), format!("s{n}").as_str().into(), "[]".into(), Cell::Null, 0.into()];
        feed.send(Event::Upsert { table: Table::Services, cells }).await?;
    }
    for n in 0..containers {
        feed.send(container(n, "healthy")).await?;
    }
    for table in Table::ALL {
        feed.send(Event::Synced(table)).await?;
    }
    let mut times = Vec::new();
    let mut builds = Vec::new();
    let mut pauses = tokio::time::interval(PAUSE);
    for round in 0..60 {
        pauses.tick().await;
        let before = status.get().generation;
        let begun = Instant::now();
        feed.send(container(round, if round % 2 == 0 { "unhealthy" } else { "healthy" })).await?;
        // Looked at often enough for the figure, seldom enough not to be it.
        let mut looks = tokio::time::interval(Duration::from_micros(200));
        while status.get().generation == before {
            looks.tick().await;
        }
        times.push(begun.elapsed());
        builds.push(status.get().build_time);
    }
    times.sort();
    builds.sort();
    let (names, reverse) = (status.get().zones[0].names, status.get().reverse_names);
    let p = |list: &[Duration], percent: usize| list[(list.len() - 1) * percent / 100];
    writeln!(
        std::io::stdout(),
        "{containers} containers, {names} names, {reverse} reverse: build p50 {:?} p99 {:?}, event to zone p50 {:?} p99 {:?}",
        p(&builds, 50),
        p(&builds, 99),
        p(&times, 50),
        p(&times, 99),
    )?;
    token.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

fn container(n: usize, health: &str) -> Event {
    let cells = vec![
        format!("{n:012x}").repeat(5).as_str().into(),
        "casa".into(),
        format!("s{}", n / PER_SERVICE).as_str().into(),
        "s1".into(),
        format!("i{}", n % PER_SERVICE).as_str().into(),
        format!("10.1.{}.{}", n / 250, n % 250).as_str().into(),
        "".into(),
        "[]".into(),
        health.into(),
        0.into(),
        0.into(),
    ];
    Event::Upsert { table: Table::Containers, cells }
}
