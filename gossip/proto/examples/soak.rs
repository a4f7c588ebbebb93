//! Seeds of the simulation one after the other, for as long as is said, until one fails:
//! `cargo run --release -p kith-gossip-proto --features sim --example soak -- --for 1h`, with `--from SEED` to go on.

#![allow(clippy::print_stdout, reason = "what it found is what it is for")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use kith_gossip_proto::replica::Sizes;
use kith_gossip_proto::sim::{Config, Damage, Disks, Trace, Wall, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| arguments.iter().skip_while(|word| *word != name).nth(1);
    let (Some(time), Some(from)) = (
        after("--for").map_or(Some(Duration::from_secs(60)), |text| duration(text)),
        after("--from").map_or(Some(1_000_000), |text| text.parse::<u64>().ok()),
    ) else {
        println!("usage: soak [--for 90s|10m|1h] [--from SEED]");
        return ExitCode::from(2);
    };
    let (began, mut runs, mut commits) = (Instant::now(), 0_u64, 0);
    while began.elapsed() < time {
        let seed = from + runs;
        match run(seed, &config(seed)) {
            Ok(report) => commits += report.commits,
            Err(failure) => {
                // Once more, for its history.
                let traced = Config { trace: Trace::On, ..config(seed) };
                println!("{}", run(seed, &traced).err().unwrap_or(failure));
                println!("this run had {} nodes, {:?}, {:?}", traced.nodes, traced.sizes, traced.window);
                return ExitCode::FAILURE;
            }
        }
        runs += 1;
    }
    println!("seeds {from} to {} held: {commits} transactions in {:?}", from + runs - 1, began.elapsed());
    ExitCode::SUCCESS
}

/// Clusters of each size in turn, every other one as a tree.
fn config(seed: u64) -> Config {
    let nodes = [2, 3, 5, 5, 8, 12][usize::try_from(seed / 2 % 6).unwrap_or(0)];
    let sizes = if seed.is_multiple_of(2) { Sizes::default() } else { Sizes { whole_up_to: 0, tree_above: 0 } };
    let damage = if seed % 6 == 1 { Damage::Some } else { Damage::None };
    let wall = if seed % 6 == 5 { Wall::OneAhead } else { Wall::InStep };
    let disks = if seed % 12 == 10 { Disks::SetBack } else { Disks::Stay };
    // A peer that cannot repair, or holds what is from the future, is asked again after a while.
    let slow = damage == Damage::Some || wall == Wall::OneAhead || disks == Disks::SetBack;
    let settle = Duration::from_secs(if slow { 90 } else { 9 });
    Config {
        nodes,
        sizes,
        chaos: Duration::from_secs(12),
        settle,
        rest: Duration::ZERO,
        // Every third.
        window: seed.is_multiple_of(3).then_some(Duration::from_millis(1_500)),
        // And every other one of the rest has rows that change behind the stores' backs.
        damage,
        wall,
        disks,
        sabotage: None,
        trace: Trace::Off,
    }
}

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.len().checked_sub(1)?);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    number.parse::<u64>().ok().map(|number| Duration::from_secs(number * seconds))
}
