//! What is known of the containers: looks at Docker and probes, each in a task of its own, and what they found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kith_gossip_client::error::Chain;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

use super::instance::{Instance, Unlisted};
use crate::clock::Now;
use crate::docker::{Addresses, Changes, Container, ContainerId, Docker, DockerError, Noted};
use crate::health::{Check, Health, Run, Status, probe};
use crate::wake::Wake;

/// How often all of Docker is looked at.
const FULL: Duration = Duration::from_secs(30);
/// How long after a list that a container is missing from the next one says that it is gone.
const MISSING: Duration = Duration::from_secs(10);
/// How long after a failure Docker is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known, and what is on its way.
pub(crate) struct Looks {
    docker: Option<Docker>,
    asked: Option<Asked>,
    changes: Changes,
    noted: Noted,
    wake: Wake,
    tasks: JoinSet<()>,
    /// What the tasks leave here before they wake us: at most one for each container, and one of Docker's.
    found: Arc<Mutex<Vec<Found>>>,
    known: BTreeMap<ContainerId, Known>,
    /// Containers that were seen before this start, and have not been since; with the full list that they were missing from.
    before: BTreeMap<ContainerId, Option<Instant>>,
    gone: BTreeSet<ContainerId>,
    probing: BTreeSet<ContainerId>,
    full_at: Option<Instant>,
    failed: Option<(String, Instant)>,
}

/// A container that Docker has shown.
#[derive(Debug)]
pub(crate) struct Known {
    /// As Docker showed it last.
    pub(crate) container: Container,
    /// What it is an instance of, if it is one.
    pub(crate) instance: Result<Instance, Unlisted>,
    /// How it is.
    pub(crate) health: Health,
    /// The full list that it was missing from.
    missing: Option<Instant>,
}

/// What was asked of Docker.
struct Asked {
    noted: Noted,
    full: Full,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    Yes,
    No,
}

/// What a task came back with.
enum Found {
    Docker { docker: Docker, answer: Result<Vec<(ContainerId, Option<Container>)>, DockerError> },
    Probe { id: ContainerId, run: Run, found: Result<(), String> },
}

impl Looks {
    pub(crate) fn new(socket: &Path, changes: Changes, wake: Wake, seen: &BTreeSet<ContainerId>) -> Looks {
        Looks {
            docker: Some(Docker::at(socket)),
            asked: None,
            changes,
            noted: Noted::default(),
            wake,
            tasks: JoinSet::new(),
            found: Arc::default(),
            known: BTreeMap::new(),
            before: seen.iter().map(|id| (id.clone(), None)).collect(),
            gone: BTreeSet::new(),
            probing: BTreeSet::new(),
            full_at: None,
            failed: None,
        }
    }

    /// Takes up what the tasks that ended have found. `host` is where host-network containers are.
    pub(crate) fn take_up(&mut self, host: &Addresses, now: Now) {
        while let Some(ended) = self.tasks.try_join_next() {
            ended.expect("a look does not panic, and is never aborted");
        }
        let found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        for found in found {
            match found {
                Found::Probe { id, run, found } => {
                    self.probing.remove(&id);
                    // What was found of its former self says nothing.
                    if let Some(known) = self.known.get_mut(&id).filter(|known| known.container.run == run) {
                        known.health.probed(found, now);
                    }
                }
                Found::Docker { mut docker, answer } => {
                    let asked = self.asked.take().expect("what was asked is kept until it is answered");
                    match answer {
                        Ok(answer) => self.answered(asked, answer, host, now),
                        Err(error) => {
                            docker.failed();
                            self.unanswered(asked, &error, now);
                        }
                    }
                    self.docker = Some(docker);
                }
            }
        }
    }

    fn answered(&mut self, asked: Asked, answer: Vec<(ContainerId, Option<Container>)>, host: &Addresses, now: Now) {
        if self.failed.take().is_some() {
            tracing::info!("docker answers again");
        }
        let mut there = BTreeSet::new();
        for (id, container) in answer {
            if let Some(container) = container {
                there.insert(id.clone());
                self.saw(id, container, host, now);
            }
        }
        self.gone.extend(asked.noted.destroyed.into_iter().filter(|id| !there.contains(id)));
        if asked.full == Full::Yes {
            self.missing_from(&there, now);
            self.full_at = Some(now.at);
        }
        for id in &self.gone {
            self.known.remove(id);
            self.before.remove(id);
        }
    }

    /// A full list has only these.
    fn missing_from(&mut self, there: &BTreeSet<ContainerId>, now: Now) {
        let known = self.known.iter_mut().map(|(id, known)| (id, &mut known.missing));
        for (id, missing) in known.chain(&mut self.before).filter(|(id, _)| !there.contains(*id)) {
            let since = *missing.get_or_insert(now.at);
            if now.at.saturating_duration_since(since) >= MISSING {
                self.gone.insert(id.clone());
            }
        }
    }

    fn saw(&mut self, id: ContainerId, container: Container, host: &Addresses, now: Now) {
        self.gone.remove(&id);
        self.before.remove(&id);
        let mut instance = Instance::of(&container, host);
        let check = instance.as_ref().map_or(Check::Running, |instance| instance.check.clone());
        match self.known.remove(&id) {
            Some(mut known) => {
                known.health.observed(&check, container.run, now);
                // Docker takes the address from a container that is frozen or stops; where it was is where it is shown.
                if let (Ok(instance), Ok(before), false) = (&mut instance, &known.instance, runs(container.run)) {
                    instance.at = before.at.clone();
                }
                self.known.insert(id, Known { container, instance, health: known.health, missing: None });
            }
            None => {
                let health = Health::new(check, container.run, now);
                self.known.insert(id, Known { container, instance, health, missing: None });
            }
        }
    }

    fn unanswered(&mut self, asked: Asked, error: &DockerError, now: Now) {
        let reason = Chain(error).to_string();
        if self.failed.as_ref().is_none_or(|(before, _)| *before != reason) {
            tracing::warn!(reason, "docker does not answer");
        }
        self.failed = Some((reason, now.at));
        for known in self.known.values_mut() {
            known.health.unanswered();
        }
        self.changes.put_back(asked.noted);
    }

    /// Starts the look and the probes that are due.
    pub(crate) fn start(&mut self, now: Now) {
        self.start_probes(now);
        self.noted.add(self.changes.take());
        let full =
            if self.noted.missed || self.full_due().is_none_or(|due| due <= now.at) { Full::Yes } else { Full::No };
        let nothing = full == Full::No && self.noted == Noted::default();
        if nothing || self.again().is_some_and(|again| again > now.at) {
            return;
        }
        let Some(docker) = self.docker.take() else { return };
        let noted = std::mem::take(&mut self.noted);
        let ids = noted.changed.union(&noted.destroyed).cloned().collect();
        self.asked = Some(Asked { noted, full });
        let leave = self.leave();
        let look = async move {
            let mut docker = docker;
            let answer = match full {
                Full::Yes => docker.list().await,
                Full::No => docker.inspect(ids).await,
            };
            leave(Found::Docker { docker, answer });
        };
        self.tasks.spawn(look.in_current_span());
    }

    fn start_probes(&mut self, now: Now) {
        let leave = self.leave();
        for (id, known) in &self.known {
            let Some((due, ip, check)) = known.probe() else { continue };
            if due > now.at || !self.probing.insert(id.clone()) {
                continue;
            }
            let (id, run, leave) = (id.clone(), known.container.run, leave.clone());
            let look = async move {
                let found = probe(ip, check).await;
                leave(Found::Probe { id, run, found });
            };
            self.tasks.spawn(look);
        }
    }

    /// How a task leaves what it found.
    fn leave(&self) -> impl Fn(Found) + Clone + Send + use<> {
        let (all, wake) = (self.found.clone(), self.wake.clone());
        move |found| {
            all.lock().unwrap_or_else(PoisonError::into_inner).push(found);
            wake.poke();
        }
    }

    /// When something is due next, wakes apart.
    pub(crate) fn next(&self, now: Now) -> Instant {
        let probes = self.known.iter().filter(|(id, _)| !self.probing.contains(*id));
        let probes = probes.filter_map(|(_, known)| known.probe().map(|(due, _, _)| due));
        let look = match (&self.asked, self.again()) {
            (Some(_), _) => None,
            (None, Some(again)) => Some(again),
            (None, None) => Some(self.full_due().unwrap_or(now.at)),
        };
        probes.chain(look).min().unwrap_or(now.at + FULL)
    }

    /// When the next full list is due; `None`: at once.
    fn full_due(&self) -> Option<Instant> {
        let last = self.full_at?;
        let known = self.known.values().map(|known| known.missing);
        let missing = known.chain(self.before.values().copied()).any(|missing| missing.is_some());
        Some(last + if missing { MISSING } else { FULL })
    }

    fn again(&self) -> Option<Instant> {
        self.failed.as_ref().map(|(_, at)| *at + AGAIN)
    }

    /// The containers.
    pub(crate) fn known(&self) -> impl Iterator<Item = (&ContainerId, &Known)> {
        self.known.iter()
    }

    /// Those of before this start that have not been seen since.
    pub(crate) fn before(&self) -> impl Iterator<Item = &ContainerId> {
        self.before.keys()
    }

    /// Whether Docker has ever shown this one, or said that it was destroyed.
    pub(crate) fn knows(&self, id: &ContainerId) -> bool {
        self.known.contains_key(id) || self.before.contains_key(id) || self.gone.contains(id)
    }

    /// Whether there was a full list.
    pub(crate) fn has_full_list(&self) -> bool {
        self.full_at.is_some()
    }

    /// Those whose rows are to go.
    pub(crate) fn gone(&self) -> &BTreeSet<ContainerId> {
        &self.gone
    }

    /// The row of one has gone.
    pub(crate) fn deleted(&mut self, id: &ContainerId) {
        self.gone.remove(id);
    }

    /// How Docker is, for status.
    pub(crate) fn docker(&self, now: Now) -> Value {
        let ms = |at: Instant| u64::try_from(now.at.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
        json!({
            "error": self.failed.as_ref().map(|(reason, _)| reason),
            "full_list_ms_ago": self.full_at.map(ms),
        })
    }
}

impl Known {
    /// When, where and how it is to be probed, if it is.
    fn probe(&self) -> Option<(Instant, IpAddr, Check)> {
        let instance = self.instance.as_ref().ok()?;
        Some((self.health.due()?, instance.probed_at()?, instance.check.clone()))
    }

    /// Whether somebody may want to know about it.
    pub(crate) fn is_notable(&self) -> bool {
        self.instance.is_err() || self.health.verdict().status != Status::Healthy
    }

    /// It, for status.
    pub(crate) fn describe(&self) -> Value {
        let verdict = self.health.verdict();
        let id: String = self.container.id.chars().take(12).collect();
        let mut shown = json!({ "id": id, "name": self.container.name });
        match &self.instance {
            Ok(_) => {
                shown["health"] = json!(verdict.status.word());
                shown["reason"] = json!(verdict.reason);
            }
            Err(unlisted) => shown["unlisted"] = json!(unlisted.to_string()),
        }
        shown
    }
}

fn runs(run: Run) -> bool {
    match run {
        Run::Running { .. } => true,
        Run::Paused | Run::Stopped => false,
    }
}

#[cfg(test)]
mod tests;
