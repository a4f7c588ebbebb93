//! Floods: random names below our zone, random foreign names that nobody answers, and such that an upstream answers at once.
//! Own names are asked for all the while, from another source.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};
use kith_tests::lab::Upstream;
use kith_tests::load::{Asker, Between, share};
use serde_json::{Value, json};

use crate::names::{self, NAMES};

/// Questions for own names, a second.
pub(crate) const HITS: u32 = 10_000;
/// Questions of a flood, a second.
pub(crate) const FLOOD: u32 = 40_000;
/// Where floods come from: more sources than it takes to fill every place in which questions wait.
const SOURCES: usize = 32;
/// What answers are kept in, in bytes: little enough that it is full within seconds.
const KEPT: usize = 4 << 20;
/// Of what is answered, in seconds: nothing runs out while it is measured.
const TTL: u16 = 3600;

/// What is asked for beside own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Nothing,
    /// Names of our zone that do not exist.
    Own,
    /// Names whose upstream is a black hole.
    Hole,
    /// Names that an upstream has an address for.
    Answered,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Nothing, Kind::Own, Kind::Hole, Kind::Answered];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Nothing => "no_flood",
            Kind::Own => "own_random_names",
            Kind::Hole => "foreign_names_black_hole",
            Kind::Answered => "foreign_names_answered",
        }
    }

    /// Questions a second, those for own names among them.
    pub(crate) fn rate(self) -> u32 {
        match self {
            Kind::Nothing => HITS,
            Kind::Own | Kind::Hole | Kind::Answered => HITS + FLOOD,
        }
    }
}

/// Upstreams on loopback: one takes questions and says nothing, one has an address for every name. They end when dropped.
#[derive(Debug)]
pub(crate) struct Upstreams {
    hole: Upstream,
    answering: Upstream,
}

impl Upstreams {
    pub(crate) fn start() -> Upstreams {
        let (hole, answering) = (Upstream::start(TTL), Upstream::start(TTL));
        hole.fall_silent();
        Upstreams { hole, answering }
    }

    /// The configuration by which they are asked.
    pub(crate) fn settings(&self) -> [String; 3] {
        [
            format!("dns.upstreams={}", self.hole.address()),
            format!("dns.forward=answered.example={}", self.answering.address()),
            format!("dns.cache_bytes={KEPT}"),
        ]
    }
}

/// Where the questions come from: own names from the first.
pub(crate) fn sources() -> impl Iterator<Item = IpAddr> {
    (1..=SOURCES as u8 + 1).map(|last| Ipv4Addr::new(127, 0, 0, last).into())
}

/// Asks for own names, and for what floods.
#[derive(Debug)]
pub(crate) struct Flooder {
    kind: Kind,
    questions: Vec<Vec<u8>>,
    asked: u64,
    chance: u64,
    hits: u64,
    took: Vec<Duration>,
    /// Of what floods: answers by their code.
    codes: BTreeMap<u8, u64>,
    wrong: Option<String>,
}

impl Flooder {
    pub(crate) fn new(kind: Kind, seed: u64) -> Flooder {
        Flooder {
            kind,
            questions: (0..NAMES).map(names::question_for).collect(),
            asked: 0,
            chance: 0x9e37_79b9_7f4a_7c15 ^ (seed << 20),
            hits: 0,
            took: Vec::new(),
            codes: BTreeMap::new(),
            wrong: None,
        }
    }

    /// The 99th percentile of own names, and what was seen.
    pub(crate) fn finish(mut self) -> Result<(Duration, Value)> {
        if let Some(wrong) = self.wrong {
            return Err(anyhow!("{wrong}"));
        }
        let p99 = share(0.99, &mut self.took);
        let codes: BTreeMap<_, _> = self.codes.iter().map(|(code, count)| (format!("code_{code}"), count)).collect();
        let line = json!({
            "hits": self.hits, "hits_lost": self.hits - self.took.len() as u64, "flood": self.asked - self.hits,
            "flood_answers": codes, "p50_us": super::micros(share(0.5, &mut self.took)), "p99_us": super::micros(p99),
        });
        Ok((p99, line))
    }
}

impl Asker for Flooder {
    fn ask(&mut self, _: SystemTime, query: &mut Vec<u8>) -> (u64, usize) {
        self.asked += 1;
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let random = format!("{:012x}", self.chance >> 16);
        let labels: &[&str] = match self.kind {
            _ if self.kind == Kind::Nothing || self.asked.is_multiple_of(u64::from(1 + FLOOD / HITS)) => {
                self.hits += 1;
                let name = (self.chance % u64::from(NAMES)) as usize;
                query.extend_from_slice(&self.questions[name]);
                return (name as u64, 0);
            }
            Kind::Nothing | Kind::Own => &[&random, "internal"],
            Kind::Hole => &[&random, "hole", "example"],
            Kind::Answered => &[&random, "answered", "example"],
        };
        query.extend(names::question(labels));
        (u64::MAX, 1 + (self.asked as usize % SOURCES))
    }

    fn answered(&mut self, tag: u64, at: Between, reply: &[u8]) {
        if tag == u64::MAX {
            *self.codes.entry(reply.get(3).map_or(255, |byte| byte & 15)).or_default() += 1;
            return;
        }
        self.took.push(at.took());
        if let Err(wrong) = names::read(tag as u32, &self.questions[tag as usize], reply) {
            self.wrong = Some(wrong);
        }
    }
}
