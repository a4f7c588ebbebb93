//! How soon every server answers what became of a container, a server or a row: the promises of times, each beside what it took.
//!
//! `cargo bench -p kith-tests --bench servers -- --samples 20 [--power 5]`, as root with a Docker; `KITH_BIN` names the binary to measure
//! (a release build). Three whole servers, each with a Docker and one container of a service. Ends with 1 if a promise was
//! not kept. `--power` is the number of power losses, which take half a minute each.
//!
//! What became of a container is dated by Docker, an answer by the first one that holds it (asked every 2 ms), both by this
//! machine's clock.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use kith_tests::lab::{Casa, Host};
use serde_json::json;

/// Between two questions.
const POLL: Duration = Duration::from_millis(2);
/// What is not answered by then is a failure.
const GIVE_UP: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Some((samples, power)) = arguments()? else {
        eprintln!(
            "servers: skipped: give --samples N, as root with a Docker, see the head of tests/benches/servers.rs"
        );
        return Ok(());
    };
    let mut casa = Casa::found("servers", 3).await.context("whole servers cannot be made here")?;
    let mut addresses = Vec::new();
    for host in &casa.hosts {
        addresses.push(host.run_api().await);
    }
    Casa::answered(&casa.hosts, &addresses).await;

    let mut table = Table::default();
    for sample in 0..samples {
        let host = sample % casa.hosts.len();
        containers(&casa, host, &mut addresses, &mut table).await?;
    }
    for sample in 0..samples {
        let host = sample % casa.hosts.len();
        deletion(&casa, host, &mut table).await?;
    }
    for sample in 0..power {
        losses(&mut casa, 1 + sample % 2, &mut addresses, &mut table).await?;
    }
    table.print()
}

/// Kills the container of one server and starts it again.
async fn containers(casa: &Casa, host: usize, addresses: &mut [IpAddr], table: &mut Table) -> Result<()> {
    let (own, before) = (&casa.hosts[host], addresses[host]);
    let looks = casa.hosts.iter().map(|asked| first_answer(asked, |answers| !answers.contains(&before)));
    let (out, ()) = tokio::join!(futures_util::future::join_all(looks), own.docker_meanwhile(&["kill", "api"]));
    let dead = docker_time(own, "{{.State.FinishedAt}}")?;
    for (place, answered) in out.into_iter().enumerate() {
        let row = if place == host { "killed → out, on its server" } else { "killed → out, on the others" };
        table.add(row, if place == host { 500 } else { 1000 }, answered?.saturating_sub(dead));
    }
    let looks = casa.hosts.iter().map(|asked| first_answer(asked, |answers| answers.len() == casa.hosts.len()));
    let (answered, ()) = tokio::join!(futures_util::future::join_all(looks), own.docker_meanwhile(&["start", "api"]));
    let up = docker_time(own, "{{.State.StartedAt}}")?;
    for answered in answered {
        table.add("started → answered, on all", 1000, answered?.saturating_sub(up));
    }
    addresses[host] = own.api_address();
    Ok(())
}

/// Deletes the rows of one server on another.
async fn deletion(casa: &Casa, host: usize, table: &mut Table) -> Result<()> {
    let (name, other) = (&casa.hosts[host].name, &casa.hosts[(host + 1) % casa.hosts.len()]);
    for (what, sql) in [("containers", "server_id"), ("servers", "id")] {
        let count = format!("SELECT count(*) FROM {what} WHERE {sql} = '{name}'");
        let whole = other.api().query(&count).await.map_err(anyhow::Error::msg)?;
        let delete = format!("DELETE FROM {what} WHERE {sql} = ?");
        other.api().execute(&delete, &json!([name])).await.map_err(anyhow::Error::msg)?;
        let begun = Instant::now();
        while other.api().query(&count).await.map_err(anyhow::Error::msg)? != whole {
            anyhow::ensure!(begun.elapsed() < GIVE_UP, "the {what} rows of {name} are not back");
            tokio::time::sleep(POLL).await;
        }
        let row = if what == "servers" { "server row deleted → back" } else { "container row deleted → back" };
        table.add(row, 10_000, begun.elapsed());
    }
    Ok(())
}

/// Takes the power of one server and gives it back.
async fn losses(casa: &mut Casa, host: usize, addresses: &mut [IpAddr], table: &mut Table) -> Result<()> {
    let gone = addresses[host];
    let dead = now();
    casa.switch.kill(&mut casa.hosts[host]);
    let others: Vec<usize> = (0..casa.hosts.len()).filter(|place| *place != host).collect();
    let looks = others.iter().map(|place| first_answer(&casa.hosts[*place], |answers| !answers.contains(&gone)));
    for answered in futures_util::future::join_all(looks).await {
        table.add("power lost → out, on the others", 12_000, answered?.saturating_sub(dead));
    }
    casa.switch.start(&casa.hosts[host]);
    casa.hosts[host].api_runs().await;
    addresses[host] = casa.hosts[host].api_address();
    let back = addresses[host];
    casa.hosts[host].launch();
    let begun = now();
    let looks = others.iter().map(|place| first_answer(&casa.hosts[*place], |answers| answers.contains(&back)));
    for answered in futures_util::future::join_all(looks).await {
        table.add("agent started, container up → answered, on the others", 2_000, answered?.saturating_sub(begun));
    }
    casa.hosts[host].ready().await;
    Casa::answered(&casa.hosts, addresses).await;
    Ok(())
}

/// When `asked` first gave an answer that `is` wanted.
async fn first_answer(asked: &Host, is: impl Fn(&[IpAddr]) -> bool) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        if let Ok(answer) = asked.resolve(Casa::NAME).await
            && answer.rcode == "NOERROR"
            && is(&answer.addresses)
        {
            return Ok(now());
        }
        if begun.elapsed() > GIVE_UP {
            bail!("{} did not answer as wanted within {GIVE_UP:?}", asked.name);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A time that Docker says of the container, since 1970.
fn docker_time(host: &Host, format: &str) -> Result<Duration> {
    let said = host.docker(&["inspect", "--format", format, "api"]);
    let nanos = host.command("date").args(["--date", &said, "+%s%N"]).output()?;
    let nanos: u64 = String::from_utf8(nanos.stdout)?.trim().parse().context("`date` reads Docker's times")?;
    Ok(Duration::from_nanos(nanos))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What was measured, by row, with its target in milliseconds.
#[derive(Default)]
struct Table {
    rows: Vec<(&'static str, u64, Vec<Duration>)>,
}

impl Table {
    fn add(&mut self, row: &'static str, target: u64, took: Duration) {
        match self.rows.iter_mut().find(|(name, ..)| *name == row) {
            Some((.., samples)) => samples.push(took),
            None => self.rows.push((row, target, vec![took])),
        }
    }

    #[expect(clippy::print_stdout, reason = "the figures are this program's output")]
    fn print(mut self) -> Result<()> {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        println!("{:<56} {:>4} {:>9} {:>9} {:>9} {:>9}", "ms", "n", "median", "p95", "max", "target");
        let mut missed = Vec::new();
        for (row, target, samples) in &mut self.rows {
            samples.sort();
            let at = |share: usize| ms(samples[(samples.len() - 1) * share / 100]);
            println!("{row:<56} {:>4} {:>9.1} {:>9.1} {:>9.1} {target:>9}", samples.len(), at(50), at(95), at(100));
            if samples.last().is_some_and(|worst| *worst > Duration::from_millis(*target)) {
                missed.push(*row);
            }
        }
        if missed.is_empty() { Ok(()) } else { bail!("missed at least once: {}", missed.join("; ")) }
    }
}

fn arguments() -> Result<Option<(usize, usize)>> {
    let (mut samples, mut power) = (None, 5);
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} takes a number"))?;
        let value = value.parse().with_context(|| format!("{word} takes a number"))?;
        match word.as_str() {
            "--samples" => samples = Some(value),
            "--power" => power = value,
            _ => bail!("{word} is not known; --samples and --power are"),
        }
    }
    Ok(samples.map(|samples| (samples, power)))
}
