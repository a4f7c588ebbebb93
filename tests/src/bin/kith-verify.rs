//! `kith-verify [--for SECONDS] [--nodes N] [--seed N] [--remember SECONDS] [--pace N] [--calm SECONDS] [--json]`: runs a cluster over namespaces, mixes
//! faults by the seed, and says which promises of the store held, and what the first node used, which is never killed. Exit
//! code 0: all; 1: not all, 2: wrong usage or no privilege. Not shipped.
//!
//! What is written is deleted again, and deletions are remembered for a week: what the stores hold grows with what was
//! written. With `--remember` they are forgotten sooner, and what grows then is a leak. `--pace` and `--calm` make it cost less.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use kith_tests::lab::{Fleet, Node};
use kith_tests::verify::{EVERY, Nemesis, Report, Usage, Verification};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// For the digests to be equal once the last fault is over: a partition heals in 10 s, a loss of packets in 20.
const BOUND: Duration = Duration::from_secs(30);
struct Arguments {
    seconds: u64,
    nodes: u8,
    seed: u64,
    /// How many seconds deletions are remembered.
    remember: Option<u64>,
    /// Transactions of each node a second.
    pace: u32,
    /// How many seconds more than a few there are between two faults.
    calm: u64,
    output: Output,
}

enum Output {
    Text,
    Json,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
        let seed = u64::from(std::process::id());
        let mut arguments =
            Arguments { seconds: 60, nodes: 5, seed, remember: None, pace: 20, calm: 0, output: Output::Text };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--for" => arguments.seconds = words.next()?.parse().ok()?,
                "--nodes" => arguments.nodes = words.next()?.parse().ok().filter(|nodes| (2..=20).contains(nodes))?,
                "--seed" => arguments.seed = words.next()?.parse().ok()?,
                "--remember" => arguments.remember = Some(words.next()?.parse().ok()?),
                "--pace" => arguments.pace = words.next()?.parse().ok().filter(|pace| *pace > 0)?,
                "--calm" => arguments.calm = words.next()?.parse().ok()?,
                "--json" => arguments.output = Output::Json,
                _ => return None,
            }
        }
        Some(arguments)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1)) else {
        eprintln!(
            "usage: kith-verify [--for SECONDS] [--nodes 2..20] [--seed N] [--remember SECONDS] [--pace N] [--calm SECONDS] \
             [--json]"
        );
        return ExitCode::from(2);
    };
    eprintln!("seed {}", arguments.seed);
    let shorter = |node: &mut Node| {
        if let Some(seconds) = arguments.remember {
            node.set(format!("gossip.remember_deletions_ms={}", 1_000 * seconds));
        }
    };
    let Some(mut fleet) = Fleet::start("kith-verify", arguments.nodes, shorter).await else {
        return ExitCode::from(2);
    };
    let verification = Verification::begin(&fleet, arguments.pace);
    let mut nemesis = Nemesis::new(arguments.seed).sparing(0).calmer(Duration::from_secs(arguments.calm));
    let (watched, stop) = (fleet.nodes[0].id(), CancellationToken::new());
    let mut watching = JoinSet::new();
    watching.spawn(watch(watched, stop.clone()));
    nemesis.strike(&mut fleet, Duration::from_secs(arguments.seconds)).await;
    stop.cancel();
    let usage = watching.join_next().await.and_then(Result::ok).unwrap_or_default();
    let report = verification.finish(&fleet, BOUND).await;
    if say(&report, &usage, &nemesis, &arguments).is_err() {
        return ExitCode::FAILURE;
    }
    if report.breaches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the process uses until it is told to stop.
async fn watch(id: u32, stop: CancellationToken) -> Usage {
    let (mut usage, mut period) = (Usage::default(), tokio::time::interval(EVERY));
    // Cancel-safe: a tick that is not taken is not missed at the end.
    while stop.run_until_cancelled(period.tick()).await.is_some() {
        usage.look(id);
    }
    usage
}

fn say(report: &Report, usage: &Usage, nemesis: &Nemesis, arguments: &Arguments) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match arguments.output {
        Output::Json => {
            let mut all = report.json();
            (all["seed"], all["faults"]) = (json!(arguments.seed), json!(nemesis.log));
            all["usage"] = json!({ "peak_mib": usage.peak(), "mib_an_hour": usage.growth(),
                                   "anonymous_mib_an_hour": usage.anonymous_growth(), "files": usage.files,
                                   "threads": usage.threads });
            writeln!(out, "{all}")
        }
        Output::Text => {
            nemesis.log.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            write!(out, "seed {}: {report}", arguments.seed)?;
            let (peak, Usage { files, threads, .. }) = (usage.peak(), usage);
            writeln!(out, "n1 used {peak:.1} MiB at most, {files} files, {threads} threads")?;
            let hourly =
                |growth: Option<f64>| growth.map_or("too short to say".to_owned(), |growth| format!("{growth:.2}"));
            let (all, anonymous) = (hourly(usage.growth()), hourly(usage.anonymous_growth()));
            writeln!(out, "growth in MiB an hour: {all}, of it not of files: {anonymous}")
        }
    }
}
