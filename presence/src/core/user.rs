//! A user: all that nodes say of him, merged, and what follows from it.
//!
//! The merge is a join: per session and node the greater version, per node the greater version of what he said of himself,
//! and the greatest time at which he was seen. Any order, duplication or grouping of facts ends in the same user.

use kith_gossip_proto::{Hlc, NodeId};

use super::fact::{Explicit, Fact, Life, Session, State};
use super::id::SessionName;
use super::sight::{Heard, Sight};
use super::status::{Message, Status, Ttl};

/// All that is known of a user.
///
/// Most have one session on one node, so these are short sorted lists: a tree would take a kilobyte for each user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    sessions: Vec<(NodeId, SessionName, Session)>,
    explicit: Vec<(NodeId, Explicit)>,
    seen_ms: u64,
}

/// What a reader is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective<'a> {
    /// How he is.
    pub status: Status,
    /// What he says beside it.
    pub message: Option<&'a Message>,
    /// Whether all that says he is here comes from nodes that are not heard.
    pub stale: bool,
    /// The session that decides, if he is here: its node, its name, its ttl.
    pub by: Option<(&'a NodeId, &'a SessionName, Ttl)>,
    /// When what is shown was said, in milliseconds since 1970; 0 if nothing was.
    pub updated_ms: u64,
    /// When he was last heard of, in milliseconds since 1970; 0 if never.
    pub seen_ms: u64,
}

/// What a reader can see change. Everything else about a user changes without an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Visible {
    /// How he is.
    pub status: Status,
    /// What he says beside it.
    pub message: Option<Message>,
    /// Whether that is stale.
    pub stale: bool,
}

impl User {
    /// Takes in what `node` says. False if it was known.
    pub fn join(&mut self, node: &NodeId, fact: Fact) -> bool {
        match fact {
            Fact::Session(name, session) => self.join_session(node, name, session),
            Fact::Explicit(explicit) => self.join_explicit(node, explicit),
            Fact::Seen(ms) => {
                let later = ms > self.seen_ms;
                self.seen_ms = self.seen_ms.max(ms);
                later
            }
        }
    }

    fn join_session(&mut self, node: &NodeId, name: SessionName, session: Session) -> bool {
        match self.sessions.binary_search_by(|(n, s, _)| (n, s).cmp(&(node, &name))) {
            Ok(at) if self.sessions[at].2.version >= session.version => return false,
            Ok(at) => self.sessions[at].2 = session,
            Err(at) => {
                self.sessions.reserve_exact(1);
                self.sessions.insert(at, (node.clone(), name, session));
            }
        }
        true
    }

    fn join_explicit(&mut self, node: &NodeId, explicit: Explicit) -> bool {
        match self.explicit.binary_search_by(|(n, _)| n.cmp(node)) {
            Ok(at) if self.explicit[at].1.version >= explicit.version => return false,
            Ok(at) => self.explicit[at].1 = explicit,
            Err(at) => {
                self.explicit.reserve_exact(1);
                self.explicit.insert(at, (node.clone(), explicit));
            }
        }
        true
    }

    /// Takes in all that another copy knows.
    pub fn merge(&mut self, other: &Self) {
        for (node, name, session) in &other.sessions {
            self.join_session(node, name.clone(), session.clone());
        }
        for (node, explicit) in &other.explicit {
            self.join_explicit(node, explicit.clone());
        }
        self.seen_ms = self.seen_ms.max(other.seen_ms);
    }

    /// What a reader is shown by a node that sees the others like this.
    pub fn effective(&self, sight: &Sight) -> Effective<'_> {
        let live = self.sessions.iter().filter_map(|(node, name, session)| match session.life {
            Life::Live { status, ttl } if sight.of(node) != Heard::Silent => Some((status, node, name, session, ttl)),
            Life::Live { .. } | Life::Ended => None,
        });
        // Of equals the one that is heard, then the latest; then any, but everywhere the same one.
        let best = live.clone().max_by_key(|(status, node, name, session, _)| {
            (*status, std::cmp::Reverse(sight.of(node)), session.changed_ms, *node, *name)
        });
        let Some((status, node, name, session, ttl)) = best else { return self.gone() };
        let said = self.said(sight);
        let stale = live.clone().all(|(_, node, ..)| sight.of(node) != Heard::Live);
        Effective {
            status: said.and_then(|explicit| explicit.status).unwrap_or(status),
            message: said.and_then(|explicit| explicit.message.as_ref()),
            stale,
            by: Some((node, name, ttl)),
            updated_ms: said.map_or(0, |explicit| explicit.changed_ms).max(session.changed_ms),
            seen_ms: self.seen_ms,
        }
    }

    /// What he said of himself: of the words that hold, by nodes that are heard, the one with the greatest stamp. One whose
    /// session is over overrules nothing: nodes forget it at different times, or never heard it, and are to show the same.
    fn said(&self, sight: &Sight) -> Option<&Explicit> {
        let holds = |node, explicit: &Explicit| explicit.state == State::Holds && sight.of(node) != Heard::Silent;
        let words = self.explicit.iter().filter(|(node, said)| holds(node, said) && said.stamp <= sight.latest);
        words.max_by_key(|(node, explicit)| (explicit.stamp, node)).map(|(_, last)| last)
    }

    fn gone(&self) -> Effective<'_> {
        let updated_ms = self.sessions.iter().map(|(_, _, session)| session.changed_ms).max().unwrap_or(0);
        Effective {
            status: Status::Offline,
            message: None,
            stale: false,
            by: None,
            updated_ms: updated_ms.max(self.seen_ms),
            seen_ms: self.seen_ms,
        }
    }

    /// What of that a reader can see change.
    pub fn visible(&self, sight: &Sight) -> Visible {
        let Effective { status, message, stale, .. } = self.effective(sight);
        Visible { status, message: message.cloned(), stale }
    }

    /// A number that differs whenever something was said in between, for `If-Match`. When he was seen is nothing said.
    pub fn tag(&self) -> u64 {
        let versions = self.sessions.iter().map(|(node, _, session)| (node, session.version));
        let words = self.explicit.iter().map(|(node, explicit)| (node, explicit.version));
        // FNV-1a, over few bytes: it is to differ, not to withstand anybody.
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        versions.chain(words).fold(0xcbf2_9ce4_8422_2325, |tag, (node, version)| {
            let numbers = [version.epoch.to_le_bytes(), version.seq.to_le_bytes()];
            let tag = node.as_str().bytes().fold(tag, hash);
            numbers.into_iter().flatten().fold(tag, hash)
        })
    }

    /// The sessions that are not known to be over.
    pub fn sessions(&self) -> impl Iterator<Item = (&NodeId, &SessionName, &Session)> {
        let live = self.sessions.iter().filter(|(_, _, session)| session.life != Life::Ended);
        live.map(|(node, name, session)| (node, name, session))
    }

    /// One session, also one that is over.
    pub fn session(&self, node: &NodeId, name: &SessionName) -> Option<&Session> {
        let at = self.sessions.binary_search_by(|(n, s, _)| (n, s).cmp(&(node, name))).ok()?;
        Some(&self.sessions[at].2)
    }

    /// What the user said of himself by this node.
    pub fn explicit(&self, node: &NodeId) -> Option<&Explicit> {
        let at = self.explicit.binary_search_by(|(n, _)| n.cmp(node)).ok()?;
        Some(&self.explicit[at].1)
    }

    /// The greatest stamp of what he said of himself.
    pub fn stamp(&self) -> Hlc {
        self.explicit.iter().map(|(_, explicit)| explicit.stamp).max().unwrap_or(Hlc::ZERO)
    }

    /// Whether something that he said of himself may be in force.
    pub fn has_said(&self) -> bool {
        self.explicit.iter().any(|(_, explicit)| explicit.state == State::Holds)
    }

    /// When he was last heard of.
    pub fn seen_ms(&self) -> u64 {
        self.seen_ms
    }

    /// All that `node` says of him.
    pub fn facts_of(&self, node: &NodeId) -> Vec<Fact> {
        let sessions = self.sessions.iter().filter(|(n, ..)| n == node);
        let sessions = sessions.map(|(_, name, session)| Fact::Session(name.clone(), session.clone()));
        let explicit = self.explicit(node).cloned().map(Fact::Explicit);
        sessions.chain(explicit).collect()
    }

    /// Whether `node` says anything of him.
    pub fn is_known_by(&self, node: &NodeId) -> bool {
        self.sessions.iter().any(|(n, ..)| n == node) || self.explicit(node).is_some()
    }

    /// Forgets all that `node` said.
    pub fn forget_node(&mut self, node: &NodeId) {
        self.sessions.retain(|(n, ..)| n != node);
        self.explicit.retain(|(n, _)| n != node);
    }

    /// Him as he is once these sessions of `node` have ended.
    pub fn without(&self, node: &NodeId, over: impl Fn(&SessionName) -> bool) -> Self {
        let mut left = self.clone();
        left.sessions.retain(|(n, name, _)| n != node || !over(name));
        for (n, explicit) in &mut left.explicit {
            if n == node && over(&explicit.by) {
                explicit.state = State::Expired;
            }
        }
        left.compact(node);
        left
    }

    /// Forgets sessions of `node` that are over, once nothing older of that node can come any more; and, when he has no
    /// session left, what he said of himself.
    pub fn compact(&mut self, node: &NodeId) {
        self.sessions.retain(|(n, _, session)| n != node || session.life != Life::Ended);
        if self.sessions.is_empty() {
            self.explicit = Vec::new();
        }
    }

    /// Whether nothing is known but when he was seen.
    pub fn is_gone(&self) -> bool {
        self.sessions.is_empty() && self.explicit.is_empty()
    }
}
