//! Changes: written at a pace, heard of as an event, and seen in an answer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use kith_tests::lab::Api;
use kith_tests::load::{Asker, Between};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::names::{self, NAMES};

/// Writes that wait for their acknowledgement. At the bound the next one comes late, and fewer are written than was meant.
const OUT_MAX: usize = 64;
/// Between two questions for a name whose change is awaited: what this measure is exact to.
const LOOK: Duration = Duration::from_micros(500);
/// Most answers that were wrong are told; one is too many.
const TOLD: usize = 5;

/// The number of changes that were begun of each name.
#[derive(Debug)]
pub(crate) struct Begun(Vec<AtomicU32>);

impl Begun {
    pub(crate) fn none() -> Arc<Begun> {
        Arc::new(Begun((0..NAMES).map(|_| AtomicU32::new(0)).collect()))
    }
}

/// Changes to look for: name and number. Behind a lock, at which a thread sleeps: a channel's receiver spins while a sender is
/// half way, which never ends if the receiver goes before the sender on their one core.
#[derive(Debug, Default)]
pub(crate) struct Awaited(Mutex<Vec<(u32, u32)>>);

impl Awaited {
    fn add(&self, name: u32, number: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name, number));
    }

    fn take(&self) -> Vec<(u32, u32)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A change at a moment: it was acknowledged, an event told of it, an answer had it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) name: u32,
    /// Which change of the name.
    pub(crate) number: u32,
    pub(crate) at: SystemTime,
}

/// Writes `rate` changes a second, of one name after the other, and says when each was acknowledged.
pub(crate) async fn write(
    api: &Api,
    begun: &Begun,
    awaited: &Awaited,
    (rate, lasts): (u32, Duration),
    first: &mut u32,
) -> Result<Vec<Moment>> {
    let (mut out, mut moments) = (JoinSet::new(), Vec::new());
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    let started = Instant::now();
    while started.elapsed() < lasts {
        tick.tick().await;
        let name = *first % NAMES;
        *first += 1;
        let number = begun.0[name as usize].load(Ordering::Relaxed) + 1;
        begun.0[name as usize].store(number, Ordering::Release);
        awaited.add(name, number);
        let (api, sql) = (api.clone(), names::update(name, number));
        out.spawn(async move {
            api.execute(&sql, &json!([])).await.map_err(|error| anyhow!(error))?;
            anyhow::Ok(Moment { name, number, at: SystemTime::now() })
        });
        while out.len() >= OUT_MAX {
            moments.extend(out.join_next().await.transpose()?.transpose()?);
        }
    }
    while let Some(written) = out.join_next().await {
        moments.push(written??);
    }
    Ok(moments)
}

/// Follows the containers until it is told to stop; what came, and when it did.
pub(crate) async fn follow(api: &Api, stop: CancellationToken) -> Result<Vec<(SystemTime, Vec<u8>)>> {
    let query = json!("SELECT id, ip FROM containers");
    let mut stream = api.stream("/v1/subscriptions", Some(&query)).await.map_err(|error| anyhow!(error))?;
    let mut came = Vec::new();
    while let Some(chunk) = stop.run_until_cancelled(stream.chunk()).await {
        let chunk = chunk?.context("the subscription ended")?;
        came.push((SystemTime::now(), chunk.to_vec()));
    }
    Ok(came)
}

/// The changes in what a subscription told. They are read afterwards, so that reading delays nobody.
pub(crate) fn events(came: &[(SystemTime, Vec<u8>)]) -> Vec<Moment> {
    let (mut moments, mut line, mut numbers) = (Vec::<Moment>::new(), Vec::new(), vec![0; NAMES as usize]);
    for (at, chunk) in came {
        for byte in chunk {
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            let name = change(&std::mem::take(&mut line));
            // Of the lines of one change the first is its event.
            if let Some((name, address)) = name {
                let number: &mut u32 = &mut numbers[name as usize];
                if (1..=names::INSTANCES).any(|i| names::address(name, *number + 1, i).to_string() == address) {
                    *number += 1;
                    moments.push(Moment { name, number: *number, at: *at });
                }
            }
        }
    }
    moments
}

fn change(line: &[u8]) -> Option<(u32, String)> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let row = line.get("change")?.get(2)?;
    Some((names::of_container(row.get(0)?.as_str()?)?, row.get(1)?.as_str()?.to_owned()))
}

/// Asks for the names, and more often for those whose change is awaited.
#[derive(Debug)]
pub(crate) struct Seeker {
    questions: Vec<Vec<u8>>,
    begun: Arc<Begun>,
    incoming: Arc<Awaited>,
    /// Name, number of the change, and when it was asked for.
    awaited: VecDeque<(u32, u32, SystemTime)>,
    /// The change of each name that was answered last.
    seen: Vec<u32>,
    chance: u64,
    pub(crate) found: Vec<Moment>,
    pub(crate) took: Vec<Duration>,
    /// The first answers that were not whole, or of no change that there can be.
    pub(crate) wrong: Vec<String>,
    pub(crate) wrong_count: u64,
}

impl Seeker {
    pub(crate) fn new(begun: Arc<Begun>, incoming: Arc<Awaited>) -> Seeker {
        Seeker {
            questions: (0..NAMES).map(names::question_for).collect(),
            begun,
            incoming,
            awaited: VecDeque::new(),
            seen: vec![0; NAMES as usize],
            chance: 0x9e37_79b9_7f4a_7c15,
            found: Vec::new(),
            took: Vec::new(),
            wrong: Vec::new(),
            wrong_count: 0,
        }
    }

    /// How many changes no answer has shown yet.
    pub(crate) fn missing(&self) -> usize {
        self.awaited.iter().filter(|(name, number, _)| self.seen[*name as usize] < *number).count()
    }

    /// A name whose change is awaited, and was not asked for just now.
    fn awaited(&mut self, now: SystemTime) -> Option<u32> {
        self.awaited
            .extend(self.incoming.take().into_iter().map(|(name, number)| (name, number, SystemTime::UNIX_EPOCH)));
        while let Some((name, number, asked)) = self.awaited.pop_front() {
            if self.seen[name as usize] >= number {
                continue;
            }
            let rested = now.duration_since(asked).is_ok_and(|since| since >= LOOK);
            match rested {
                true => self.awaited.push_back((name, number, now)),
                false => self.awaited.push_front((name, number, asked)),
            }
            return rested.then_some(name);
        }
        None
    }

    fn judge(&mut self, name: u32, came: SystemTime, reply: &[u8]) -> Result<(), String> {
        let read = names::read(name, &self.questions[name as usize], reply)?;
        let seen = &mut self.seen[name as usize];
        if names::is_of(read, *seen) {
            return Ok(());
        }
        if *seen >= self.begun.0[name as usize].load(Ordering::Acquire) || !names::is_of(read, *seen + 1) {
            return Err(format!("busy-n{name}: an answer of change {read} after one of {seen}"));
        }
        *seen += 1;
        self.found.push(Moment { name, number: *seen, at: came });
        Ok(())
    }
}

impl Asker for Seeker {
    fn ask(&mut self, now: SystemTime, query: &mut Vec<u8>) -> (u64, usize) {
        let name = self.awaited(now).unwrap_or_else(|| {
            // Xorshift: any name, as often as any other.
            self.chance ^= self.chance << 13;
            self.chance ^= self.chance >> 7;
            self.chance ^= self.chance << 17;
            (self.chance % u64::from(NAMES)) as u32
        });
        query.extend_from_slice(&self.questions[name as usize]);
        (name.into(), 0)
    }

    fn answered(&mut self, tag: u64, at: Between, reply: &[u8]) {
        self.took.push(at.took());
        if let Err(wrong) = self.judge(tag as u32, at.came, reply) {
            self.wrong_count += 1;
            if self.wrong.len() < TOLD {
                self.wrong.push(wrong);
            }
        }
    }
}
