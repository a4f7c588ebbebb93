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

    /// All that a write says is one version.
    fn plan_one(&mut self, write: &Write, plan: &mut Plan, now: Now) -> Result<(), Refusal> {
        let user = &write.user;
        let tag = self.users.get(user).map_or_else(|| super::User::default().tag(), |user| user.tag());
        if write.if_match.is_some_and(|wanted| wanted != tag) {
            return Err(Refusal::Changed);
        }
        let facts = match &write.what {
            What::Put { session, status: Status::Offline, .. } => {
                self.plan_end(user, vec![session.clone().unwrap_or_default()], plan, now)
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
                plan.held.push((user.clone(), session, *ttl));
                facts
            }
            What::End { session: Some(session) } => self.plan_end(user, vec![session.clone()], plan, now),
            What::End { session: None } => {
                let held = self.owner.of(user).map(|(session, _)| session);
                let all: BTreeSet<_> = held.chain(self.doubted_of(user)).cloned().collect();
                self.plan_end(user, all.into_iter().collect(), plan, now)
            }
        };
        if !facts.is_empty() {
            self.number();
        }
        plan.facts.extend(facts.into_iter().map(|fact| (user.clone(), fact)));
        Ok(())
    }

    fn plan_end(&self, user: &UserId, sessions: Vec<SessionName>, plan: &mut Plan, now: Now) -> Vec<Fact> {
        let mut facts = self.ended(user, &sessions, now);
        if !facts.is_empty() {
            facts.push(Fact::Seen(now.wall_ms));
        }
        plan.released.extend(sessions.into_iter().map(|session| (user.clone(), session)));
        facts
    }

    /// What is said of a session that is entered: nothing, if it is held like this.
    fn entered(&self, user: &UserId, session: &SessionName, status: Status, ttl: Ttl, now: Now) -> Vec<Fact> {
        let life = Life::Live { status, ttl };
        let known = self.users.get(user).and_then(|user| user.session(&self.me, session));
        let held = self.owner.held(user, session);
        let told = held.is_some_and(|held| now.wall_ms < held.told_ms.saturating_add(TELL_SEEN_MS));
        let mut facts = Vec::new();
        if held.is_none() || self.is_doubted(user, session) || known.is_none_or(|known| known.life != life) {
            let entered = Session { version: self.following(), life, changed_ms: now.wall_ms };
            facts.push(Fact::Session(session.clone(), entered));
        }
        if !told {
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
        Some(Fact::Explicit(Explicit {
            version: self.following(),
            stamp,
            status,
            message,
            by: session.clone(),
            state: State::Holds,
            changed_ms: now.wall_ms,
        }))
    }

    /// What is said of sessions that end.
    pub(super) fn ended(&self, user: &UserId, sessions: &[SessionName], now: Now) -> Vec<Fact> {
        let version = self.following();
        let held: Vec<_> = sessions
            .iter()
            .filter(|session| self.owner.held(user, session).is_some() || self.is_doubted(user, session))
            .collect();
        let ended = Session { version, life: Life::Ended, changed_ms: now.wall_ms };
        let mut facts: Vec<_> = held.iter().map(|session| Fact::Session((*session).clone(), ended.clone())).collect();
        let explicit = self.users.get(user).and_then(|user| user.explicit(&self.me)).cloned();
        if let Some(explicit) = explicit
            && explicit.state == State::Holds
            && held.contains(&&explicit.by)
        {
            let over = Explicit { version, state: State::Expired, changed_ms: now.wall_ms, ..explicit };
            facts.push(Fact::Explicit(over));
        } else if let Some(session) = held.iter().find(|session| self.is_doubted(user, session)) {
            facts.push(self.restated(user, session));
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
        // What has no version of its own stands behind what is before it.
        let mut seq = prev.seq + 1;
        for (user, fact) in &facts {
            seq = fact.version().map_or(seq, |version| version.seq.max(seq));
            self.tail.push(seq, user.clone(), fact.clone());
        }
        self.take_in(&me, facts.iter().cloned(), now);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::Event;

    fn at(ms: u64) -> Now {
        Now { mono: Duration::from_millis(ms), wall_ms: 1_000_000 + ms }
    }

    /// What one says comes to the other, who sees so many events of it within a second.
    fn events(from: &mut Board, to: &mut Board, ms: u64) -> (usize, usize) {
        let out = from.drain();
        for (_, says) in out.say {
            to.hear(says, at(ms));
        }
        let mut events = (out.events, to.drain().events);
        for ms in (ms..ms + 1_000).step_by(10) {
            for (board, events) in [(&mut *from, &mut events.0), (&mut *to, &mut events.1)] {
                board.tick(at(ms));
                events.extend(board.drain().events);
            }
        }
        let of = |events: Vec<Event>| events.len();
        (of(events.0), of(events.1))
    }

    #[test]
    fn a_status_and_its_message_are_one_version_and_one_event_everywhere() {
        let ann = UserId::try_from("ann").unwrap();
        let mut owner = Board::new("n0".parse().unwrap(), 1, at(0));
        let mut other = Board::new("n1".parse().unwrap(), 1, at(0));
        let sync = Says::Ask { node: other.me.clone(), known: None };
        owner.hear(sync, at(0));
        events(&mut owner, &mut other, 0);
        for (turn, status) in [Status::Busy, Status::Away, Status::Online].into_iter().enumerate() {
            let ms = 2_000 * (1 + turn as u64);
            let message = Message::try_from(format!("at lunch {turn}")).ok();
            let what = What::Put { session: None, status, message, ttl: Ttl::default() };
            let plan = owner.plan(&[Write { user: ann.clone(), if_match: None, what }], at(ms));
            let versions: BTreeSet<_> = plan.facts.iter().filter_map(|(_, fact)| fact.version()).collect();
            assert_eq!(versions.len(), 1, "{:?}", plan.facts);
            owner.commit(plan, at(ms));
            assert_eq!(events(&mut owner, &mut other, ms), (1, 1), "{status}");
        }
        assert_eq!(other.vector()[&owner.me], owner.head);
        let end = crate::core::board_test::end(&ann);
        let plan = owner.plan(&[end], at(9_000));
        owner.commit(plan, at(9_000));
        assert_eq!(events(&mut owner, &mut other, 9_000), (1, 1));
    }
}
