//! What is remembered of a peer from look to look: since when its packets go where they go, where they went before, and when something
//! of it was seen to change. Times come in.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::plan::{Round, State, Step};
use crate::wireguard::PeerSeen;

/// The places where a peer was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trial {
    /// Since when its packets go where they go.
    pub(super) since: Instant,
    /// Where they went in vain, in this round.
    pub(super) tried: BTreeSet<SocketAddr>,
    /// Rounds in which no place worked.
    pub(super) rounds: u32,
}

/// One peer.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    /// Where its packets go.
    current: Option<SocketAddr>,
    /// Where it was looked for.
    pub(super) trial: Trial,
    handshake: Option<SystemTime>,
    /// When its last handshake was seen.
    pub(super) shook: Option<Instant>,
    bytes: u64,
    /// When something was seen to have come from it.
    pub(super) received: Option<Instant>,
    /// What it is known to be, and since when.
    known: Option<(Turn, Instant)>,
}

/// What became of a peer since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It carries packets.
    Up,
    /// It does not any more.
    Down,
}

impl Memory {
    /// Of a peer that is seen for the first time. A handshake that it had is as old as that: its value is of another clock.
    pub(super) fn new(peer: &PeerSeen, now: Instant) -> Memory {
        Memory {
            current: peer.installed.endpoint,
            trial: Trial { since: now, tried: BTreeSet::new(), rounds: 0 },
            handshake: peer.handshake,
            shook: peer.handshake.map(|_| now),
            bytes: peer.received,
            received: None,
            known: None,
        }
    }

    /// It is looked at again.
    pub(super) fn look(&mut self, peer: &PeerSeen, now: Instant) {
        if peer.handshake.is_some() && self.handshake != peer.handshake {
            self.shook = Some(now);
        }
        if self.bytes < peer.received {
            self.received = Some(now);
        }
        (self.handshake, self.bytes) = (peer.handshake, peer.received);
        // It came from elsewhere, or somebody set it.
        if self.current != peer.installed.endpoint {
            self.current = peer.installed.endpoint;
            self.trial.since = now;
        }
    }

    /// What is made of that. While it is tried it is thought of as before.
    pub(super) fn judge(&mut self, state: State, now: Instant) -> Option<Turn> {
        match (self.known.map(|(turn, _)| turn), state) {
            (_, State::Trying) | (Some(Turn::Down), State::Down(_)) => return None,
            (_, State::Up) => (self.trial.tried, self.trial.rounds) = (BTreeSet::new(), 0),
            (Some(Turn::Up) | None, State::Down(_)) => {}
        }
        let turn = if state == State::Up { Turn::Up } else { Turn::Down };
        if self.known.is_some_and(|(known, _)| known == turn) {
            return None;
        }
        self.known = Some((turn, now));
        Some(turn)
    }

    /// Whether it has carried nothing for so long.
    pub(super) fn is_down(&self, so_long: Duration, now: Instant) -> bool {
        matches!(self.known, Some((Turn::Down, since)) if now.saturating_duration_since(since) >= so_long)
    }

    /// It is tried elsewhere.
    pub(super) fn tries(&mut self, step: &Step, now: Instant) {
        let Step::Try { endpoint, not, round, .. } = step else { return };
        match round {
            Round::GoesOn => self.trial.tried.extend(*not),
            Round::Begins => {
                self.trial.tried.clear();
                self.trial.rounds = self.trial.rounds.saturating_add(1);
            }
        }
        self.trial.tried.insert(*endpoint);
        self.trial.since = now;
        self.current = Some(*endpoint);
    }
}
