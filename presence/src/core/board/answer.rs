//! Answers to peers that missed something.

use kith_gossip_proto::NodeId;

use super::{Board, PEERS, To};
use crate::core::fact::Fact;
use crate::core::id::UserId;
use crate::core::says::{Answer, FACTS, Says};
use crate::core::version::Version;

impl Board {
    /// A peer asks what came after `known`.
    pub(super) fn answer(&mut self, peer: &NodeId, known: Option<Version>) {
        if !self.planned.is_empty() {
            // What is planned has numbers, and is not in force yet. Where too many ask, the rest asks again.
            if self.asking.contains_key(peer) || self.asking.len() < PEERS {
                self.asking.insert(peer.clone(), known);
            }
            return;
        }
        if let Some(known) = known
            && known > self.head
        {
            // It knows of us what we do not: our log is an old one, or lost. What we say from here on must be later.
            self.begin_anew(known.epoch.saturating_add(1));
        }
        let tail = known.filter(|known| known.epoch == self.head.epoch);
        let (after, facts) = match tail.and_then(|known| Some((known, self.tail.after(known.seq)?))) {
            Some((known, facts)) => (Some(known), facts),
            None => (None, self.own_facts()),
        };
        for answer in parts(&self.me, after, self.head, facts) {
            self.out.say.push((To::Node(peer.clone()), Says::Answer(answer)));
        }
    }

    /// Answers who asked while a plan was under way.
    pub(super) fn answer_waiting(&mut self) {
        for (peer, known) in std::mem::take(&mut self.asking) {
            self.answer(&peer, known);
        }
    }

    /// Goes on in another epoch, with all that holds.
    fn begin_anew(&mut self, epoch: u64) {
        self.head = Version { epoch, seq: 0 };
        self.numbered = 0;
        self.tail = crate::core::tail::Tail::default();
        let own: Vec<(UserId, Fact)> = self.own_facts();
        for (id, mut fact) in own {
            let version = self.number();
            match &mut fact {
                Fact::Session(_, session) => session.version = version,
                Fact::Explicit(explicit) => explicit.version = version,
                Fact::Seen(_) => {}
            }
            if let Some(user) = self.users.get_mut(&id) {
                std::sync::Arc::make_mut(user).join(&self.me, fact.clone());
            }
            self.out.dirty.insert(id.clone());
            self.out.store.push((id, fact));
        }
        self.head.seq = self.numbered;
        self.tail = crate::core::tail::Tail::since(self.numbered);
    }

    /// The version that a change of ours has next.
    pub(super) fn following(&self) -> Version {
        Version { epoch: self.head.epoch, seq: self.numbered + 1 }
    }

    /// It is given to one.
    pub(super) fn number(&mut self) -> Version {
        let version = self.following();
        self.numbered = version.seq;
        version
    }
}

fn parts(node: &NodeId, after: Option<Version>, head: Version, facts: Vec<(UserId, Fact)>) -> Vec<Answer> {
    let parts = facts.len().div_ceil(FACTS).max(1);
    let count = u32::try_from(parts).unwrap_or(u32::MAX);
    let mut facts = facts.into_iter();
    (0..count)
        .map(|part| {
            let facts = facts.by_ref().take(FACTS).collect();
            Answer { node: node.clone(), after, head, part, parts: count, facts }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::Now;
    use crate::core::board_test::put;
    use crate::core::{Heard, Status};

    const NOW: Now = Now { mono: Duration::from_secs(100), wall_ms: 1_700_000_000_000 };
    const MAX: Version = Version { epoch: u64::MAX, seq: u64::MAX };

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn an_epoch_that_no_clock_shows_silences_nobody() {
        let ann = UserId::try_from("ann").unwrap();
        let mut owner = Board::new(node("n0"), NOW.wall_ms, NOW);
        let mut other = Board::new(node("n1"), NOW.wall_ms, NOW);
        owner.hear(Says::Ask { node: node("evil"), known: Some(MAX) }, NOW);
        let forged = Answer { node: node("n0"), after: None, head: MAX, part: 0, parts: 1, facts: Vec::new() };
        other.hear(Says::Answer(forged), NOW);
        other.hear(Says::Beat { node: node("n0"), head: MAX, wall_ms: NOW.wall_ms }, NOW);
        let plan = owner.plan(&[put(&ann, Status::Busy, 60)], NOW);
        owner.commit(plan, NOW);
        owner.tick(NOW);
        for _ in 0..2 {
            owner.drain().say.into_iter().for_each(|(_, says)| other.hear(says, NOW));
            other.drain().say.into_iter().for_each(|(_, says)| owner.hear(says, NOW));
        }
        assert_eq!(other.user(&ann).unwrap().effective(other.sight()).status, Status::Busy);
        assert_eq!(owner.counts().head.epoch, NOW.wall_ms);
    }

    #[test]
    fn of_nodes_beyond_the_most_that_are_heard_no_clock_is_kept() {
        let mut board = Board::new(node("n0"), NOW.wall_ms, NOW);
        for n in 1..=PEERS + 1 {
            let head = Version { epoch: NOW.wall_ms, seq: 0 };
            board.hear(Says::Beat { node: node(&format!("n{n}")), head, wall_ms: 1 }, NOW);
        }
        let kept = |n: usize| board.clocks.offset_ms(&node(&format!("n{n}"))).is_some();
        assert_eq!((kept(PEERS), kept(PEERS + 1)), (true, false));
        assert_eq!(board.sight().of(&node(&format!("n{}", PEERS + 1))), Heard::Silent);
    }
}
