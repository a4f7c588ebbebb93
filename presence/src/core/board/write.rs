//! Writes of this node: planned, made durable by the shell, and then in force.

use std::collections::BTreeSet;

use kith_gossip_proto::clocks::{reading, stamped_from};
use thiserror::Error;

use super::{Board, To};
use crate::core::Now;
use crate::core::events::Event;
use crate::core::fact::{Explicit, Fact, Life, Session, State};
use crate::core::id::{SessionName, UserId};
use crate::core::owner::{Beat, TELL_SEEN_MS};
use crate::core::says::Says;
use crate::core::status::{Message, Status, Ttl};
use crate::core::version::Version;

/// Most sessions of one user on one node: more devices and tabs than anybody has, and few enough for one message.
pub const SESSIONS: usize = 64;

/// What is asked of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Of whom.
    pub user: UserId,
    /// Only if [`User::tag`](crate::core::User::tag) is this.
    pub if_match: Option<u64>,
    /// What.
    pub what: What,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The user is here.
    Put {
        /// In this session; none: in the default one, and in the name of all.
        session: Option<SessionName>,
        /// How he is. Offline ends the session.
        status: Status,
        /// What he says, in the name of all his sessions.
        message: Option<Message>,
        /// For how long after the last heartbeat.
        ttl: Ttl,
    },
    /// The user is gone.
    End {
        /// From this session; none: from all that this node holds.
        session: Option<SessionName>,
    },
}

/// Why a write is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// `if_match` does not.
    #[error("the user was changed since")]
    Changed,
    /// One more session of this user than a node holds.
    #[error("a node holds at most {SESSIONS} sessions of one user")]
    Sessions,
}

/// Writes that are to be made durable together.
#[derive(Debug)]
#[must_use = "a plan is committed or abandoned: until then no session ends"]
pub struct Plan {
    /// What is to be stored; nothing, if nothing changes but how long sessions live.
    pub facts: Vec<(UserId, Fact)>,
    /// For each write, whether it is done.
    pub results: Vec<Result<(), Refusal>>,
    pub(super) held: Vec<(UserId, SessionName, Ttl)>,
    pub(super) released: Vec<(UserId, SessionName)>,
}

impl Plan {
    /// Whose sessions it changes.
    pub fn users(&self) -> impl Iterator<Item = &UserId> {
        self.held.iter().map(|(user, ..)| user).chain(self.released.iter().map(|(user, _)| user))
    }
}

impl Board {
    /// Plans writes, each of another user. Nothing is in force before [`Board::commit`].
    ///
    /// # Panics
    /// If two writes are of one user, of which the second would not see the first; or if another plan is under way.
    pub fn plan(&mut self, writes: &[Write], now: Now) -> Plan {
        assert!(self.planned.is_empty(), "one plan at a time");
        let users: BTreeSet<_> = writes.iter().map(|write| write.user.clone()).collect();
        assert_eq!(users.len(), writes.len(), "one write of a user at a time");
        self.expire_of(&users, now);
        self.planned = users;
        let mut plan = Plan { facts: Vec::new(), results: Vec::new(), held: Vec::new(), released: Vec::new() };
        for write in writes {
            let result = self.plan_one(write, &mut plan, now);
            plan.results.push(result);
        }
        plan
    }

    fn plan_one(&mut self, write: &Write, plan: &mut Plan, now: Now) -> Result<(), Refusal> {
        let tag = self.users.get(&write.user).map_or_else(|| super::User::default().tag(), |user| user.tag());
        if write.if_match.is_some_and(|wanted| wanted != tag) {
            return Err(Refusal::Changed);
        }
        let user = &write.user;
        match &write.what {
            What::Put { session, status: Status::Offline, .. } => {
                self.plan_end(user, vec![session.clone().unwrap_or_default()], plan, now);
            }
            What::Put { session, status, message, ttl } => {
                let choice = match session {
                    None => Some(((*status != Status::Online).then_some(*status), message.clone())),
                    Some(_) => message.clone().map(|message| (None, Some(message))),
                };
                let session = session.clone().unwrap_or_default();
                if self.owner.held(user, &session).is_none() && self.owner.of(user).count() >= SESSIONS {
                    return Err(Refusal::Sessions);
                }
                let mut facts = self.entered(user, &session, *status, *ttl, now);
                let said = choice.and_then(|choice| self.said(user, &session, choice, now));
                let doubted = said.is_none() && self.is_doubted(user, &session);
                facts.extend(if doubted { Some(self.restated(user, &session)) } else { said });
                plan.facts.extend(facts.into_iter().map(|fact| (user.clone(), fact)));
                plan.held.push((user.clone(), session, *ttl));
            }
            What::End { session: Some(session) } => self.plan_end(user, vec![session.clone()], plan, now),
            What::End { session: None } => {
                let held = self.owner.of(user).map(|(session, _)| session);
                let all: BTreeSet<_> = held.chain(self.doubted_of(user)).cloned().collect();
                self.plan_end(user, all.into_iter().collect(), plan, now);
            }
        }
        Ok(())
    }

    fn plan_end(&mut self, user: &UserId, sessions: Vec<SessionName>, plan: &mut Plan, now: Now) {
        let facts = self.ended(user, &sessions, now);
        if !facts.is_empty() {
            plan.facts.extend(facts.into_iter().map(|fact| (user.clone(), fact)));
            self.number();
            plan.facts.push((user.clone(), Fact::Seen(now.wall_ms)));
        }
        plan.released.extend(sessions.into_iter().map(|session| (user.clone(), session)));
    }

    /// What is said of a session that is entered: nothing, if it is held like this.
    fn entered(&mut self, user: &UserId, session: &SessionName, status: Status, ttl: Ttl, now: Now) -> Vec<Fact> {
        let life = Life::Live { status, ttl };
        let known = self.users.get(user).and_then(|user| user.session(&self.me, session));
        let held = self.owner.held(user, session);
        let told = held.is_some_and(|held| now.wall_ms < held.told_ms.saturating_add(TELL_SEEN_MS));
        let mut facts = Vec::new();
        if held.is_none() || self.is_doubted(user, session) || known.is_none_or(|known| known.life != life) {
            let version = self.number();
            let session_fact = Session { version, life, changed_ms: now.wall_ms };
            facts.push(Fact::Session(session.clone(), session_fact));
        }
        if !told {
            self.number();
            facts.push(Fact::Seen(now.wall_ms));
        }
        facts
    }

    /// What a user says of himself, if it is something else than what holds.
    fn said(
        &mut self,
        user: &UserId,
        session: &SessionName,
        (status, message): (Option<Status>, Option<Message>),
        now: Now,
    ) -> Option<Fact> {
        let known = self.users.get(user);
        let own = known.and_then(|user| user.explicit(&self.me));
        let in_force = known.is_some_and(|user| user.has_said());
        let newest = own.is_some_and(|own| known.is_some_and(|user| user.stamp() == own.stamp));
        let same = own.is_some_and(|own| {
            own.state == State::Holds && own.status == status && own.message == message && own.by == *session
        });
        if (newest && same) || (!in_force && status.is_none() && message.is_none()) {
            return None;
        }
        let highest = self.clocks.highest().map(|highest| reading(highest, now.mono));
        let stamp = self.clock.tick(stamped_from(now.wall_ms, highest));
        let version = self.number();
        let by = session.clone();
        Some(Fact::Explicit(Explicit {
            version,
            stamp,
            status,
            message,
            by,
            state: State::Holds,
            changed_ms: now.wall_ms,
        }))
    }

    /// What is said of sessions that end.
    pub(super) fn ended(&mut self, user: &UserId, sessions: &[SessionName], now: Now) -> Vec<Fact> {
        let held: Vec<_> = sessions
            .iter()
            .filter(|session| self.owner.held(user, session).is_some() || self.is_doubted(user, session))
            .collect();
        let mut facts = Vec::new();
        for session in &held {
            let version = self.number();
            let ended = Session { version, life: Life::Ended, changed_ms: now.wall_ms };
            facts.push(Fact::Session((*session).clone(), ended));
        }
        let explicit = self.users.get(user).and_then(|user| user.explicit(&self.me)).cloned();
        if let Some(explicit) = explicit
            && explicit.state == State::Holds
            && held.contains(&&explicit.by)
        {
            let version = self.number();
            let over = Explicit { version, state: State::Expired, changed_ms: now.wall_ms, ..explicit };
            facts.push(Fact::Explicit(over));
        } else if let Some(session) = held.iter().find(|session| self.is_doubted(user, session)) {
            let restated = self.restated(user, session);
            facts.push(restated);
        }
        facts
    }

    /// A write waits for its turn, and then to be durable: until then the session that it names lives on.
    pub fn arrived(&mut self, write: &Write, now: Now) {
        if let What::Put { session, .. } = &write.what {
            self.owner.extend(&write.user, session.as_ref().unwrap_or(&SessionName::default()), now);
        }
    }

    /// What was planned is durable, and in force.
    pub fn commit(&mut self, plan: Plan, now: Now) {
        self.planned.clear();
        if !self.doubted.is_empty() {
            let held = plan.held.iter().map(|(user, session, _)| (user.clone(), session.clone()));
            for pair in held.chain(plan.released.iter().cloned()) {
                self.doubted.remove(&pair);
            }
        }
        let told = plan.facts.iter().filter(|(_, fact)| matches!(fact, Fact::Seen(_)));
        let told: BTreeSet<&UserId> = told.map(|(user, _)| user).collect();
        for (user, session, ttl) in plan.held {
            let before = self.owner.held(&user, &session).copied();
            let told_ms = before.map(|held| held.told_ms).filter(|_| !told.contains(&user));
            self.owner.hold(&user, &session, ttl, now, told_ms);
            if before.is_some_and(|held| held.deadline <= now.mono) {
                // It took that long: readers, who judge by the clock, were shown for a moment that he is gone.
                self.out.events.push(Event(user));
            }
        }
        for (user, session) in plan.released {
            self.owner.release(&user, &session);
        }
        self.enforce(plan.facts, now);
        self.answer_waiting();
    }

    /// What was planned could not be made durable, or nobody knows: it is not in force, and its numbers are not used again.
    pub fn abandon(&mut self, plan: Plan) {
        self.doubt(plan);
        self.planned.clear();
        self.answer_waiting();
    }

    /// Facts of ours are in force: they are published, and kept for whoever misses them.
    pub(super) fn enforce(&mut self, facts: Vec<(UserId, Fact)>, now: Now) {
        if facts.is_empty() {
            return;
        }
        let prev = self.head;
        if self.numbered == prev.seq {
            // What was planned is in force after what was numbered later, or has no version of its own.
            self.number();
        }
        self.head = Version { seq: self.numbered, ..self.head };
        let me = self.me.clone();
        let mut touched = BTreeSet::new();
        // What has no version of its own stands behind what is before it.
        let mut seq = prev.seq + 1;
        for (user, fact) in &facts {
            seq = fact.version().map_or(seq, |version| version.seq.max(seq));
            self.tail.push(seq, user.clone(), fact.clone());
            self.apply(&me, user, fact.clone(), now);
            touched.insert(user);
        }
        for user in touched {
            self.compact(&me, user);
        }
        self.out.say.push((To::All, Says::Changes { node: me, prev, head: self.head, facts }));
    }

    /// Heartbeats came: for each, whether there is such a session.
    pub fn heartbeat(&mut self, user: &UserId, session: &SessionName, now: Now) -> Beat {
        let beat = self.owner.beat(user, session, now);
        if let Beat::Extended { tell: true } = beat {
            self.tell.insert(user.clone(), now.wall_ms);
        }
        beat
    }

    /// When a session of this node ends, and when it was last heard of, by our clocks.
    pub fn held(&self, user: &UserId, session: &SessionName) -> Option<&crate::core::owner::Held> {
        self.owner.held(user, session)
    }
}
