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
        if self.planned {
            // The order of our changes is not known yet. Where too many ask, the rest asks again.
            if self.asking.contains_key(peer) || self.asking.len() < PEERS {
                self.asking.insert(peer.clone(), known);
            }
            return;
        }
        if let Some(known) = known
            && known > self.head
        {
            // It knows of us what we do not: our log is an old one, or lost. What we say from here on must be later.
            self.begin_anew(known.epoch + 1);
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

    /// The next number for a change of ours.
    pub(super) fn number(&mut self) -> Version {
        self.numbered += 1;
        Version { epoch: self.head.epoch, seq: self.numbered }
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
