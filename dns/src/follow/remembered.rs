//! Servers that were up before this start, and of which nobody has spoken since.
//!
//! The store tells of every member when it is followed, but it cannot tell of one that ended while this host did: that one
//! is in no gossip any more, and its rows would be answered for ever. So whoever is remembered as up has a time from the
//! moment that everything is followed, and is silent then. It reads no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::facts::Freshness;
use crate::feed::{Event, Member, MemberState};

/// How long a server may be unheard after a start, which is how long a member may be at any time.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Remembered {
    unheard: BTreeMap<String, Member>,
    /// Whether the store has told of anybody: else it may be the telling that is missing.
    told: Told,
    due: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Something,
}

impl Remembered {
    /// Of these members all that were up but ourselves.
    pub(super) fn new(members: &[Member], own: &str) -> Self {
        let up = members.iter().filter(|member| member.state == MemberState::Up && member.server != own);
        let unheard = up.map(|member| (member.server.clone(), member.clone())).collect();
        Self { unheard, told: Told::Nothing, due: None }
    }

    /// Takes note of an event, of this member if it is of one, and of how far the feed can be believed after it.
    pub(super) fn hear(&mut self, member: Option<&str>, freshness: Freshness, now: Instant) {
        if self.unheard.is_empty() {
            return;
        }
        if let Some(member) = member {
            self.unheard.remove(member);
            self.told = Told::Something;
        }
        match freshness {
            Freshness::Current if self.told == Told::Something => self.due = self.due.or(Some(now + GRACE)),
            Freshness::Current => {}
            // While the store is away nobody can be heard.
            Freshness::Loading | Freshness::Stale => self.due = None,
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
