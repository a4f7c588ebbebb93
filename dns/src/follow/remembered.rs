//! Servers that were up, and of which the store did not tell when it was followed anew.
//!
//! The store tells of every member that it knows, but it cannot tell of one that ended while it was away, or while this host was:
//! that one is in no gossip any more, and its rows would be answered for ever. So whoever was up and is not told of has a time
//! from the moment that everything is followed, and is silent then. It reads no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::facts::Freshness;
use crate::feed::{Event, Member, MemberState};

/// How long a server may be unheard after a start, which is how long a member may be at any time.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Remembered {
    unheard: BTreeMap<String, Member>,
    due: Option<Instant>,
}

impl Remembered {
    /// The store told of these. Of all `members` that are known here, whoever is up and not among them, nor ourselves, is unheard.
    pub(super) fn listed<'a>(&mut self, told: &BTreeSet<String>, members: impl Iterator<Item = &'a Member>, own: &str) {
        let missing = members
            .filter(|member| member.state == MemberState::Up && member.server != own && !told.contains(&member.server));
        self.unheard = missing.map(|member| (member.server.clone(), member.clone())).collect();
        self.due = None;
    }

    /// This one is told of after all.
    pub(super) fn heard(&mut self, server: &str) {
        self.unheard.remove(server);
    }

    /// Takes note of how far the feed can be believed.
    pub(super) fn believe(&mut self, freshness: Freshness, now: Instant) {
        match freshness {
            Freshness::Current if !self.unheard.is_empty() => self.due = self.due.or(Some(now + GRACE)),
            // While the store is away nobody can be heard.
            Freshness::Current | Freshness::Loading | Freshness::Stale => self.due = None,
        }
    }

    /// When those who are not heard by then are silent.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.unheard.is_empty())
    }

    /// What is to be taken for said of those who were not heard.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = Event> + use<> {
        let silent = |member| Event::Member(Member { state: MemberState::Silent, heard: None, rtt: None, ..member });
        std::mem::take(&mut self.unheard).into_values().map(silent)
    }
}
