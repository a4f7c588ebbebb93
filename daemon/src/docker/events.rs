//! What changed since the last look: Docker's events, of which only *whose* they are is believed. What became of a container
//! is asked, but for the one thing that nobody can be asked about: that it was destroyed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{ContainerId, connect};
use crate::retry::Retry;
use crate::wake::Wake;

/// Containers that are noted one by one between two looks. Beyond it all are looked at.
const NOTED: usize = 1024;
/// Events that lasted this long were good ones: the next delay is short again.
const HELD: Duration = Duration::from_secs(10);
/// How far back events are asked for, for a wall clock that is set back while Docker does not listen yet. What is told
/// twice is looked at twice, no more.
const BEFORE: Duration = Duration::from_secs(10);

/// Whose state is to be looked at. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes(Arc<Mutex<Noted>>);

/// What was noted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Containers of which an event told.
    pub(crate) changed: BTreeSet<ContainerId>,
    /// Containers that Docker says were destroyed.
    pub(crate) destroyed: BTreeSet<ContainerId>,
    /// Whether events may have been missed, so that all are to be looked at.
    pub(crate) missed: bool,
}

impl Noted {
    /// Adds what else was noted.
    pub(crate) fn add(&mut self, other: Noted) {
        self.changed.extend(other.changed);
        self.destroyed.extend(other.destroyed);
        self.missed |= other.missed;
    }
}

impl Changes {
    /// Takes what was noted.
    pub(crate) fn take(&self) -> Noted {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts back what could not be looked at.
    pub(crate) fn put_back(&self, noted: Noted) {
        self.note(|now| now.add(noted));
    }

    fn note(&self, change: impl FnOnce(&mut Noted)) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut noted);
        if noted.changed.len() > NOTED {
            noted.changed.clear();
            noted.missed = true;
        }
        if noted.destroyed.len() > NOTED {
            // They are missing from two full lists instead.
            noted.destroyed.clear();
            noted.missed = true;
        }
    }
}

/// Who follows Docker's events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Follow {
    /// Where is noted whose they are.
    pub(crate) changes: Changes,
    /// Who looks at containers.
    pub(crate) containers: Wake,
    /// Who looks at Docker's networks, and at what it leaves of the firewall when it starts.
    pub(crate) networks: Wake,
}

/// Follows Docker's events until the token is cancelled, noting whose they are and waking who looks.
pub(crate) async fn follow(socket: PathBuf, follow: Follow, token: CancellationToken) {
    let go_on = async {
        let mut retry = Retry::new();
        loop {
            let begun = Instant::now();
            events(&socket, &follow).await;
            if begun.elapsed() >= HELD {
                retry.succeeded();
            }
            sleep(retry.delay()).await;
        }
    };
    token.run_until_cancelled(go_on).await;
}

/// One connection, to its end. Why it ended is for who asks Docker next to find out and tell.
///
/// The question goes out when the stream is first polled, and Docker answers it before it listens: what happens until then
/// may be in neither the full list, which is asked for here, nor the events. So events are asked for from before the list
/// on. Docker has the last 256 of them, on the clock that is this host's.
async fn events(socket: &std::path::Path, follow: &Follow) {
    let Ok(docker) = connect(socket).await else { return };
    let types = std::collections::HashMap::from([("type", vec!["container", "network"])]);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(BEFORE);
    let since = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
    let mut events = docker.events(Some(EventsOptionsBuilder::default().since(&since).filters(&types).build()));
    // What happened while nobody listened was told to nobody.
    follow.look_at_all();
    follow.networks.poke();
    while let Some(Ok(event)) = events.next().await {
        if made_or_removed_a_network(&event) {
            follow.networks.poke();
        }
        if let Some((id, what)) = of(event) {
            follow.changes.note(|noted| {
                match what {
                    What::Changed => noted.changed.insert(id),
                    What::Destroyed => noted.destroyed.insert(id),
                };
            });
            follow.containers.poke();
        }
    }
    // Whether Docker has gone is found out by asking it.
    follow.look_at_all();
}

impl Follow {
    fn look_at_all(&self) {
        self.changes.note(|noted| noted.missed = true);
        self.containers.poke();
    }
}

fn made_or_removed_a_network(event: &EventMessage) -> bool {
    let action = event.action.as_deref();
    event.typ == Some(EventMessageTypeEnum::NETWORK) && matches!(action, Some("create" | "destroy" | "remove"))
}

enum What {
    Changed,
    Destroyed,
}

/// The container that an event is about, if it says anything of it.
fn of(event: EventMessage) -> Option<(ContainerId, What)> {
    let (actor, action) = (event.actor?, event.action?);
    match event.typ? {
        // Docker's own checks are commands that it runs inside, three events each; what they found has an event of its own.
        EventMessageTypeEnum::CONTAINER if action.starts_with("exec_") => None,
        EventMessageTypeEnum::CONTAINER => {
            // The second is Podman's word.
            let what = if ["destroy", "remove"].contains(&action.as_str()) { What::Destroyed } else { What::Changed };
            Some((actor.id?, what))
        }
        EventMessageTypeEnum::NETWORK => Some((actor.attributes?.remove("container")?, What::Changed)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
