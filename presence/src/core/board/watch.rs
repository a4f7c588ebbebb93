//! What time brings: sessions end, nodes fall silent, windows of events close, beats are due.

use std::sync::Arc;
use std::time::Duration;

use kith_gossip_proto::NodeId;

use super::{Board, To};
use crate::core::Now;
use crate::core::events::Event;
use crate::core::fact::Fact;
use crate::core::id::UserId;
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
        let tell = (!self.tell.is_empty() && !self.planned).then_some(now.mono);
        let ends = (!self.planned).then(|| self.owner.next()).flatten();
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

    /// Ends some sessions whose time is over, and tells when users were seen.
    fn expire(&mut self, now: Now) {
        if self.planned {
            return;
        }
        let mut facts = Vec::new();
        for (user, session) in self.owner.due(now, FACTS / 3) {
            let seen = self.owner.held(&user, &session).map_or(0, |held| held.seen_ms);
            facts.extend(
                self.ended(&user, std::slice::from_ref(&session), now).into_iter().map(|fact| (user.clone(), fact)),
            );
            facts.push((user.clone(), Fact::Seen(seen)));
            self.owner.release(&user, &session);
        }
        while facts.len() < FACTS
            && let Some((user, seen)) = self.tell.pop_first()
        {
            self.number();
            facts.push((user, Fact::Seen(seen)));
        }
        if !facts.is_empty() {
            self.out.store.extend(facts.iter().cloned());
            self.enforce(facts, now);
        }
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
}
