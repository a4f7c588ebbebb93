//! What time brings: sessions end, nodes fall silent, windows of events close, beats are due.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kith_gossip_proto::NodeId;

use super::{Board, To};
use crate::core::Now;
use crate::core::events::Event;
use crate::core::fact::Fact;
use crate::core::id::{SessionName, UserId};
use crate::core::says::{FACTS, Says};
use crate::core::sight::{BEAT_EVERY, Heard, SILENT_AFTER, STALE_AFTER, Sight};
use crate::core::user::Visible;

/// Users that are looked at in one go when a node is heard in another way: some milliseconds of work, between which
/// everything else gets its turn.
const SWEPT: usize = 1_000;

/// A node is heard in another way: what is seen of each of its users may have changed.
#[derive(Debug)]
pub(super) struct Sweep {
    nodes: Vec<NodeId>,
    /// How the others were seen before.
    before: Arc<Sight>,
    /// The last user that was looked at.
    at: Option<UserId>,
}

impl Board {
    /// Time went on. Does a bounded piece of what is due; [`Board::next`] says when to come again, which may be at once.
    pub fn tick(&mut self, now: Now) {
        self.clocks.read(now.wall_ms, now.mono);
        self.look(now);
        self.sweep(now);
        self.expire(now);
        self.forget();
        let Self { events, users, sight, out, .. } = self;
        let seen = |id: &UserId| -> Visible {
            users.get(id).map_or_else(|| super::User::default().visible(sight), |user| user.visible(sight))
        };
        out.events.extend(events.end(now.mono, seen));
        if now.mono >= self.beat_at {
            self.beat_at = now.mono + BEAT_EVERY;
            let beat = Says::Beat { node: self.me.clone(), head: self.head, wall_ms: now.wall_ms };
            self.out.say.push((To::All, beat));
        }
    }

    /// When something is due next.
    pub fn next(&self, now: Now) -> Duration {
        if !self.sweeps.is_empty() || self.is_forgetting() {
            return now.mono;
        }
        let tell = (!self.tell.is_empty()).then_some(now.mono);
        let ends = self.owner.next(&self.planned);
        [Some(self.beat_at), ends, self.events.next(), tell].into_iter().flatten().min().unwrap_or(self.beat_at)
    }

    /// Sees the others as they are heard by now. Checked with every beat of ours: three looks fit between stale and not.
    fn look(&mut self, now: Now) {
        let mut sight = Sight { me: self.me.clone(), latest: self.clocks.latest(now.mono), nodes: Default::default() };
        let (mut changed, mut lost) = (Vec::new(), Vec::new());
        for (node, peer) in &mut self.peers {
            let heard = peer.heard_by(now.mono);
            if heard != peer.heard {
                changed.push(node.clone());
                peer.heard = heard;
            }
            if heard == Heard::Silent {
                self.clocks.forget(node);
            }
            if peer.is_lost(now.mono) {
                lost.push(node.clone());
            }
            sight.nodes.insert(node.clone(), heard);
        }
        for node in lost {
            self.replace(&node, Vec::new(), now);
            self.peers.remove(&node);
            sight.nodes.remove(&node);
        }
        if changed.is_empty() && now.mono < self.beat_at {
            return;
        }
        let before = std::mem::replace(&mut self.sight, Arc::new(sight));
        self.out.sight = Some(Arc::clone(&self.sight));
        if !changed.is_empty() {
            self.sweeps.push_back(Sweep { nodes: changed, before, at: None });
        }
    }

    /// Looks at some users of nodes that are heard in another way.
    fn sweep(&mut self, now: Now) {
        let Some(mut sweep) = self.sweeps.pop_front() else { return };
        let from = sweep.at.as_ref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut swept = 0;
        let mut last = None;
        for (id, user) in self.users.range::<UserId, _>((from, std::ops::Bound::Unbounded)).take(SWEPT) {
            swept += 1;
            last = Some(id.clone());
            if sweep.nodes.iter().any(|node| user.is_known_by(node)) {
                let (before, after) = (user.visible(&sweep.before), user.visible(&self.sight));
                if self.events.changed(id, before, &after, now.mono) {
                    self.out.events.push(Event(id.clone()));
                }
            }
        }
        if swept == SWEPT {
            sweep.at = last;
            self.sweeps.push_front(sweep);
        }
    }

    /// Ends some sessions whose time is over, and tells when users were seen. Also while a plan is under way: its users are
    /// left out, and of others nothing in it is said.
    fn expire(&mut self, now: Now) {
        let due = self.owner.due(now, FACTS / 3, &self.planned);
        let mut facts = self.over(due, now);
        while facts.len() < FACTS
            && let Some((user, seen)) = self.tell.pop_first()
        {
            facts.push((user, Fact::Seen(seen)));
        }
        self.say_and_store(facts, now);
    }

    /// Ends what is over of these users before something of theirs is planned: what begins then is something else, and who was
    /// shown as gone comes with an event.
    pub(super) fn expire_of(&mut self, users: &BTreeSet<UserId>, now: Now) {
        let over = |user: &UserId| {
            let of = self.owner.of(user).filter(|(_, held)| held.deadline <= now.mono);
            of.map(|(session, _)| (user.clone(), session.clone())).collect::<Vec<_>>()
        };
        let due = users.iter().flat_map(over).collect();
        let facts = self.over(due, now);
        self.say_and_store(facts, now);
    }

    /// What is said of sessions that are over.
    fn over(&mut self, due: Vec<(UserId, SessionName)>, now: Now) -> Vec<(UserId, Fact)> {
        let mut facts = Vec::new();
        for (user, session) in due {
            let seen = self.owner.held(&user, &session).map_or(0, |held| held.seen_ms);
            let ended = self.ended(&user, std::slice::from_ref(&session), now);
            self.number();
            self.owner.release(&user, &session);
            let of = ended.into_iter().chain([Fact::Seen(seen)]);
            facts.extend(of.map(|fact| (user.clone(), fact)));
        }
        facts
    }

    fn say_and_store(&mut self, facts: Vec<(UserId, Fact)>, now: Now) {
        self.out.store.extend(facts.iter().cloned());
        self.enforce(facts, now);
    }
}

/// Looks that find a node stale or silent come no later than this after it is.
const _: () =
    assert!(BEAT_EVERY.as_millis() * 3 <= STALE_AFTER.as_millis() && STALE_AFTER.as_secs() < SILENT_AFTER.as_secs());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::board_test::{end, put};
    use crate::core::{Status, Write};

    fn at(secs: u64) -> Now {
        Now { mono: Duration::from_secs(100 + secs), wall_ms: 1_000_000 + secs * 1_000 }
    }

    fn write(board: &mut Board, write: &Write, now: Now) {
        let plan = board.plan(std::slice::from_ref(write), now);
        board.commit(plan, now);
    }

    /// What one says comes to the other.
    fn tell(from: &mut Board, to: &mut Board, now: Now) {
        for (_, says) in from.drain().say {
            to.hear(says, now);
        }
    }

    fn shown(board: &Board, user: &UserId) -> (Status, bool) {
        let nobody = super::super::User::default().into();
        let shown = board.user(user).unwrap_or(&nobody).effective(board.sight());
        (shown.status, shown.stale)
    }

    #[test]
    fn who_is_heard_again_is_shown_as_before_until_it_is_known_what_he_said_meanwhile() {
        let (ann, bob) = (UserId::try_from("ann").unwrap(), UserId::try_from("bob").unwrap());
        for (away, before) in [(20, (Status::Online, true)), (45, (Status::Offline, false))] {
            let mut owner = Board::new("n0".parse().unwrap(), 1, at(0));
            let mut other = Board::new("n1".parse().unwrap(), 1, at(0));
            write(&mut owner, &put(&ann, Status::Online, 600), at(0));
            write(&mut owner, &put(&bob, Status::Online, 600), at(0));
            for _ in 0..2 {
                owner.tick(at(0));
                tell(&mut owner, &mut other, at(0));
                tell(&mut other, &mut owner, at(0));
            }
            other.tick(at(1));
            assert_eq!((shown(&other, &ann), shown(&other, &bob)), ((Status::Online, false), (Status::Online, false)));
            // Nothing that is said meanwhile is heard.
            write(&mut owner, &end(&bob), at(5));
            other.tick(at(away));
            assert_eq!((shown(&other, &ann), shown(&other, &bob)), (before, before));
            owner.drain();
            owner.tick(at(away));
            tell(&mut owner, &mut other, at(away));
            other.tick(at(away + 1));
            assert_eq!((shown(&other, &ann), shown(&other, &bob)), (before, before), "only a beat was heard");
            tell(&mut other, &mut owner, at(away + 1));
            tell(&mut owner, &mut other, at(away + 1));
            other.tick(at(away + 1));
            let now = ((Status::Online, false), (Status::Offline, false));
            assert_eq!((shown(&other, &ann), shown(&other, &bob)), now, "after {away} s");
        }
    }

    #[test]
    fn sessions_end_while_a_plan_is_under_way_and_others_learn_both() {
        let (ann, bob) = (UserId::try_from("ann").unwrap(), UserId::try_from("bob").unwrap());
        for durable in [true, false] {
            let mut owner = Board::new("n0".parse().unwrap(), 1, at(0));
            let mut other = Board::new("n1".parse().unwrap(), 1, at(0));
            for user in [&ann, &bob] {
                write(&mut owner, &put(user, Status::Online, 60), at(0));
            }
            for _ in 0..2 {
                owner.tick(at(0));
                tell(&mut owner, &mut other, at(0));
                tell(&mut other, &mut owner, at(0));
            }
            let plan = owner.plan(&[put(&ann, Status::Busy, 60)], at(59));
            owner.tick(at(61));
            tell(&mut owner, &mut other, at(61));
            let of = |board: &Board| [&ann, &bob].map(|user| shown(board, user).0);
            assert_eq!(
                (of(&owner), of(&other)),
                ([Status::Online, Status::Offline], [Status::Online, Status::Offline])
            );
            assert!(owner.next(at(61)) > at(61).mono, "who is planned is not looked at all the time");
            if durable {
                owner.commit(plan, at(61));
            } else {
                owner.abandon(plan);
                owner.tick(at(61));
            }
            let now = if durable { Status::Busy } else { Status::Offline };
            tell(&mut owner, &mut other, at(61));
            assert_eq!((of(&owner), of(&other)), ([now, Status::Offline], [now, Status::Offline]));
            assert_eq!(other.vector()[&owner.me], owner.head);
        }
    }

    #[test]
    fn whoever_was_shown_as_gone_by_the_clock_comes_back_with_an_event() {
        let ann = UserId::try_from("ann").unwrap();
        let mut board = Board::new("n0".parse().unwrap(), 1, at(0));
        let online = put(&ann, Status::Online, 60);
        let events = |board: &mut Board| board.drain().events.len();
        write(&mut board, &online, at(0));
        assert_eq!(events(&mut board), 1);
        write(&mut board, &online, at(59));
        board.tick(at(60));
        assert_eq!(events(&mut board), 0);
        // Nobody has ended the session yet, and it is not taken up again.
        assert_eq!(board.heartbeat(&ann, &Default::default(), at(119)), crate::core::owner::Beat::Unknown);
        write(&mut board, &online, at(119));
        board.tick(at(120));
        assert_eq!((events(&mut board), shown(&board, &ann).0), (2, Status::Online), "gone, and here");
        // Its time is over while it is made durable.
        let plan = board.plan(std::slice::from_ref(&online), at(178));
        board.commit(plan, at(180));
        assert_eq!((events(&mut board), shown(&board, &ann).0), (1, Status::Online));
    }
}
