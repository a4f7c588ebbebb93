//! A seeded mix of faults: which, where and for how long follows from the seed alone.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::chance::Chance;
use crate::lab::Fleet;

/// The shortest fault and the shortest calm after one, in milliseconds; each lasts up to three times that.
const SHORTEST_MS: usize = 2_000;

/// One fault, with the nodes that it strikes.
#[derive(Clone, Debug, PartialEq)]
enum Fault {
    Partition {
        cut_off: Vec<usize>,
    },
    OneWay {
        from: usize,
        to: usize,
    },
    Loss {
        percent: u8,
    },
    Slow,
    Duplicates,
    Corruption,
    /// Larger packets vanish, and nobody is told.
    BlackHole,
    /// 256 kbit/s between any two.
    Narrow,
    Kill {
        node: usize,
    },
    Pause {
        node: usize,
    },
}

/// Faults, one after the other.
#[derive(Debug)]
pub struct Nemesis {
    chance: Chance,
    /// Never killed.
    spared: Option<usize>,
    /// How much longer each calm is than the least.
    calm: Duration,
    /// What was done, and when, in words.
    pub log: Vec<String>,
}

impl Nemesis {
    /// Of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Nemesis {
        Nemesis { chance: Chance::new(seed), spared: None, calm: Duration::ZERO, log: Vec::new() }
    }

    /// The same, but one node is never killed, so that its process can be watched.
    #[must_use]
    pub fn sparing(self, node: usize) -> Nemesis {
        Nemesis { spared: Some(node), ..self }
    }

    /// The same, but with a longer calm after each fault, so that it costs less.
    #[must_use]
    pub fn calmer(self, by: Duration) -> Nemesis {
        Nemesis { calm: by, ..self }
    }

    /// Strikes for as long as told, then leaves everything whole.
    pub async fn strike(&mut self, fleet: &mut Fleet, length: Duration) {
        let started = Instant::now();
        while started.elapsed() < length {
            let fault = self.choose(fleet.nodes.len());
            self.log.push(format!("{:.1} s: {fault:?}", started.elapsed().as_secs_f64()));
            begin(&fault, fleet);
            self.hold().await;
            end(&fault, fleet).await;
            self.log.push(format!("{:.1} s: over", started.elapsed().as_secs_f64()));
            self.hold().await;
            lasts(self.calm).await;
        }
    }

    /// A while of the fault, or of the calm after it.
    async fn hold(&mut self) {
        let millis = SHORTEST_MS + self.chance.below(2 * SHORTEST_MS);
        lasts(Duration::from_millis(millis as u64)).await;
    }

    fn choose(&mut self, nodes: usize) -> Fault {
        let node = self.chance.below(nodes);
        match self.chance.below(10) {
            0 => Fault::Partition { cut_off: (0..nodes).filter(|_| self.chance.below(2) == 0).collect() },
            1 => Fault::OneWay { from: node, to: (node + 1 + self.chance.below(nodes - 1)) % nodes },
            2 => Fault::Loss { percent: [10, 30][self.chance.below(2)] },
            3 => Fault::Slow,
            4 => Fault::Duplicates,
            5 => Fault::Corruption,
            6 => Fault::BlackHole,
            7 => Fault::Narrow,
            8 if self.spared != Some(node) => Fault::Kill { node },
            _ => Fault::Pause { node },
        }
    }
}

/// Lets a fault last: the one thing here that is a length of time and not a condition.
pub async fn lasts(length: Duration) {
    tokio::time::sleep(length).await;
}

fn begin(fault: &Fault, fleet: &mut Fleet) {
    let number = |node: usize| (node + 1).to_string();
    match fault {
        Fault::Partition { cut_off } => {
            let (some, others): (Vec<_>, Vec<_>) = (0..fleet.nodes.len()).partition(|node| cut_off.contains(node));
            // With nobody, or everybody, on one side nothing is cut.
            if !some.is_empty() && !others.is_empty() {
                let list = |nodes: &[usize]| nodes.iter().map(|node| number(*node)).collect::<Vec<_>>().join(",");
                fleet.links.cut(&list(&some), &list(&others));
            }
        }
        Fault::OneWay { from, to } => fleet.links.cut_one_way(&number(*from), &number(*to)),
        Fault::Loss { percent } => fleet.links.lose(*percent),
        Fault::Slow => fleet.links.spoil(&["delay=150ms", "jitter=40ms", "reorder=10%"]),
        Fault::Duplicates => fleet.links.spoil(&["dup=50%"]),
        Fault::Corruption => fleet.links.spoil(&["corrupt=1%"]),
        Fault::BlackHole => fleet.links.spoil(&["mtu=1280"]),
        Fault::Narrow => fleet.links.spoil(&["rate=256"]),
        Fault::Kill { node } => fleet.nodes[*node].kill(),
        Fault::Pause { node } => fleet.nodes[*node].signal(Signal::SIGSTOP),
    }
}

async fn end(fault: &Fault, fleet: &mut Fleet) {
    match fault {
        Fault::Partition { .. }
        | Fault::OneWay { .. }
        | Fault::Loss { .. }
        | Fault::Slow
        | Fault::Duplicates
        | Fault::Corruption
        | Fault::BlackHole
        | Fault::Narrow => fleet.links.heal(),
        Fault::Kill { node } => fleet.nodes[*node].start().await,
        Fault::Pause { node } => fleet.nodes[*node].signal(Signal::SIGCONT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_and_every_fault_comes() {
        let faults = |seed| {
            let mut nemesis = Nemesis::new(seed);
            (0..200).map(|_| format!("{:?}", nemesis.choose(5))).collect::<Vec<_>>()
        };
        assert_eq!(faults(3), faults(3));
        assert_ne!(faults(3), faults(4));
        let kinds =
            ["Partition", "OneWay", "Loss", "Slow", "Duplicates", "Corruption", "BlackHole", "Narrow", "Kill", "Pause"];
        for kind in kinds {
            assert!(faults(3).iter().any(|fault| fault.starts_with(kind)), "no {kind} in 200");
        }
    }
}
