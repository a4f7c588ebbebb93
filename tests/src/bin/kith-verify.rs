//! `kith-verify [--for SECONDS] [--nodes N] [--seed N] [--json]`: runs a cluster over namespaces, mixes faults by the seed,
//! and says which promises of the store held. Exit code 0: all; 1: not all, 2: wrong usage or no privilege. Not shipped.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use kith_tests::lab::Fleet;
use kith_tests::verify::{Nemesis, Report, Verification};
use serde_json::json;

/// For the digests to be equal once the last fault is over: a partition heals in 10 s, a loss of packets in 20.
const BOUND: Duration = Duration::from_secs(30);
/// Transactions of each node a second.
const PACE: u32 = 20;

struct Arguments {
    seconds: u64,
    nodes: u8,
    seed: u64,
    output: Output,
}

enum Output {
    Text,
    Json,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
        let mut arguments =
            Arguments { seconds: 60, nodes: 5, seed: u64::from(std::process::id()), output: Output::Text };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--for" => arguments.seconds = words.next()?.parse().ok()?,
                "--nodes" => arguments.nodes = words.next()?.parse().ok().filter(|nodes| (2..=20).contains(nodes))?,
                "--seed" => arguments.seed = words.next()?.parse().ok()?,
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
        eprintln!("usage: kith-verify [--for SECONDS] [--nodes 2..20] [--seed N] [--json]");
        return ExitCode::from(2);
    };
    eprintln!("seed {}", arguments.seed);
    let Some(mut fleet) = Fleet::start("kith-verify", arguments.nodes, |_| {}).await else {
        return ExitCode::from(2);
    };
    let verification = Verification::begin(&fleet, PACE);
    let mut nemesis = Nemesis::new(arguments.seed);
    nemesis.strike(&mut fleet, Duration::from_secs(arguments.seconds)).await;
    let report = verification.finish(&fleet, BOUND).await;
    if say(&report, &nemesis, &arguments).is_err() {
        return ExitCode::FAILURE;
    }
    if report.breaches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(report: &Report, nemesis: &Nemesis, arguments: &Arguments) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match arguments.output {
        Output::Json => {
            let mut all = report.json();
            (all["seed"], all["faults"]) = (json!(arguments.seed), json!(nemesis.log));
            writeln!(out, "{all}")
        }
        Output::Text => {
            nemesis.log.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            write!(out, "seed {}: {report}", arguments.seed)
        }
    }
}
