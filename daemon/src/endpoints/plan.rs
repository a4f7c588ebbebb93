//! The plan of the endpoints: pure. A tunnel that carries is left alone; one that does not is tried at the next place.
//!
//! ```text
//!             answers, or shakes hands                4 answers missing, or 275 s without a handshake
//!   Trying ────────────────────────────► Up ────────────────────────────────────────────────┐
//!     ▲ │  15 s; twice as long each round, at most 2 minutes                                ▼
//!     │ └────────────────────────────────────────────────────────────────────────────────► Down
//!     └──────────────────── the next endpoint is set, or the peer comes from elsewhere ─────┘
//! ```
//!
//! WireGuard takes what is authentic from wherever it comes, and sends there from then on. So what has come since a place was set
//! came from there.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::heard::Heard;
use super::socket::EVERY;
use super::trial::Trial;
use super::{Echoed, SOON};
use crate::clock::Now;
use crate::peers::{MeshRange, PublicKey, can_end};

/// Answers that may be missing, less one: with one question every 3 s a way that dies is noticed within 15 s (see [`QUIET`]), and the
/// loss of a few packets is not.
const MISSING: usize = 4;
/// How long a place has for its first answer or handshake: three of WireGuard's attempts, which are 5 s apart.
const FIRST: Duration = Duration::from_secs(15);
/// The same after many rounds. A server that is away for long costs its peers an attempt now and then, and comes back by itself.
const LONGEST: Duration = Duration::from_secs(120);
/// How long a peer that does not echo may go without a handshake. While packets pass there is one every 2 minutes, so this is two that
/// did not come, and some time.
const HANDSHAKE: Duration = Duration::from_secs(275);
/// How long something must not have come from a peer for it to be quiet. Who gets a packet and has nothing to say sends an empty one
/// after 10 s, and the next is after the first packet that it gets then: ours are one question apart. And it is seen at the next look.
const QUIET: Duration = Duration::from_secs(10).saturating_add(EVERY).saturating_add(SOON);
/// How long a peer's daemon must not have asked for it to be gone: two questions. Less than it takes to miss four answers.
const GONE: Duration = Duration::from_secs(7);

/// The tunnel to a peer, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tunnel {
    /// The peer's key.
    pub(super) key: PublicKey,
    /// Its server.
    pub(super) id: String,
    /// Where its row says that it is reached, most useful first.
    pub(super) endpoints: Vec<SocketAddr>,
    /// Where it was reached.
    pub(super) worked: Option<SocketAddr>,
    /// Whether its daemon is known to echo.
    pub(super) echoed: Echoed,
    /// Where its packets go.
    pub(super) current: Option<SocketAddr>,
    /// What was tried.
    pub(super) trial: Trial,
    /// When its last handshake was seen.
    pub(super) shook: Option<Instant>,
    /// When something was seen to have come from it.
    pub(super) received: Option<Instant>,
    /// What its daemon says.
    pub(super) heard: Heard,
}

/// How a tunnel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It carries packets.
    Up,
    /// It is not known yet.
    Trying,
    /// It does not.
    Down(Why),
}

/// How that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The peer's daemon does not answer.
    NoAnswer,
    /// The peer does not shake hands.
    NoHandshake,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a peer's packets there.
    Try {
        /// Its server.
        id: String,
        /// Its key.
        key: PublicKey,
        /// Where to.
        endpoint: SocketAddr,
        /// Where they went in vain.
        not: Option<SocketAddr>,
        /// Why.
        why: Why,
        /// Whether all places were tried.
        round: Round,
    },
    /// Remember that a peer is reached there.
    Keep {
        /// Its server.
        id: String,
        /// Its key.
        key: PublicKey,
        /// Where.
        endpoint: SocketAddr,
    },
    /// Remember that a peer's daemon echoes.
    Echoes {
        /// Its server.
        id: String,
        /// Its key.
        key: PublicKey,
    },
}

/// Whether all places were tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// There is one that was not.
    GoesOn,
    /// All were, so it begins anew.
    Begins,
}

impl Tunnel {
    /// How it is.
    pub(super) fn state(&self, now: Now) -> State {
        let since = self.trial.since;
        let of_late = |at: Instant, within: Duration| at >= since && now.at.saturating_duration_since(at) < within;
        let carries = self.received.is_some_and(|at| of_late(at, QUIET));
        let asks = self.heard.asked_by.is_some_and(|at| of_late(at, GONE));
        let misses = self.heard.missing(since, now.at) >= MISSING;
        // A daemon that is restarted takes no tunnel away: packets come, questions do not.
        if !self.echoes() && self.echoed == Echoed::Ever && self.has_time(now) {
            // It is about to be asked, unless we cannot.
            return State::Trying;
        }
        if !self.echoes() || misses && carries && !asks {
            return self.by_handshakes(now);
        }
        match self.heard.answered.filter(|at| *at >= since) {
            Some(_) if misses => State::Down(Why::NoAnswer),
            Some(_) => State::Up,
            // Whom nobody asked before now is not judged by the time that went by.
            None if !misses || self.has_time(now) => State::Trying,
            None => State::Down(Why::NoAnswer),
        }
    }

    /// Whether its daemon's silence says something. As long as it is not asked it does not.
    fn echoes(&self) -> bool {
        self.heard.echoes() || self.echoed == Echoed::Ever && self.heard.was_asked()
    }

    /// Whether an answer is missing.
    pub(super) fn misses(&self, now: Now) -> bool {
        self.echoes() && self.heard.missing(self.trial.since, now.at) > 0
    }

    /// How it is, of a peer whose daemon says nothing.
    fn by_handshakes(&self, now: Now) -> State {
        let came = self.shook.max(self.received).is_some_and(|at| at >= self.trial.since);
        let shook = self.shook.is_some_and(|at| now.at.saturating_duration_since(at) < HANDSHAKE);
        match (came && shook, self.has_time(now)) {
            (true, _) => State::Up,
            (false, true) => State::Trying,
            (false, false) => State::Down(Why::NoHandshake),
        }
    }

    /// Whether the place where its packets go still has time.
    fn has_time(&self, now: Now) -> bool {
        let patience = FIRST.saturating_mul(2_u32.saturating_pow(self.trial.rounds)).min(LONGEST);
        now.at.saturating_duration_since(self.trial.since) < patience
    }

    /// Where to look for it next, if there is another place: where it was last reached, then where its row says.
    fn next(&self) -> Option<(SocketAddr, Round)> {
        let places = self.worked.iter().chain(&self.endpoints).copied().filter(|at| Some(*at) != self.current);
        let untried = places.clone().find(|at| !self.trial.tried.contains(at));
        untried.map(|at| (at, Round::GoesOn)).or_else(|| places.clone().next().map(|at| (at, Round::Begins)))
    }

    /// What is known of its daemon since it was heard.
    fn news(&self) -> Option<Step> {
        let is_new = self.echoed == Echoed::Never && self.heard.echoes();
        is_new.then(|| Step::Echoes { id: self.id.clone(), key: self.key })
    }

    fn step(&self, mesh: MeshRange, now: Now) -> Option<Step> {
        let (id, key) = (self.id.clone(), self.key);
        match self.state(now) {
            State::Up => {
                let endpoint = self.current.filter(|at| Some(*at) != self.worked && can_end(*at, mesh))?;
                Some(Step::Keep { id, key, endpoint })
            }
            State::Trying => None,
            State::Down(why) => {
                let (endpoint, round) = self.next()?;
                Some(Step::Try { id, key, endpoint, not: self.current, why, round })
            }
        }
    }
}

/// What is to be done.
pub(super) fn plan(tunnels: &[Tunnel], mesh: MeshRange, now: Now) -> Vec<Step> {
    tunnels.iter().flat_map(|tunnel| tunnel.news().into_iter().chain(tunnel.step(mesh, now))).collect()
}

impl State {
    /// The word in status.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Trying => "trying",
            State::Down(_) => "down",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Try { id, endpoint, not, why, .. } => {
                let why = match why {
                    Why::NoAnswer => "no answer",
                    Why::NoHandshake => "no handshake",
                };
                let not = not.map_or_else(String::new, |not| format!(" at {not}"));
                write!(f, "try {id} at {endpoint}: {why}{not}")
            }
            Step::Echoes { id, .. } => write!(f, "the daemon of {id} echoes"),
            Step::Keep { id, endpoint, .. } => write!(f, "keep {endpoint} of {id}, which works"),
        }
    }
}

#[cfg(test)]
mod tests;
