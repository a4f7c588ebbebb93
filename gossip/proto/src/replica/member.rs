//! What one member has that we lack, as far as we were told.

use std::time::Duration;

use super::Stream;
use super::future::PULL_AFTER_REFUSAL;
use super::pull::{PULL_AFTER, PULL_RETRY, Pull};
use super::tree::GRAFT_AFTER;
use crate::Vector;

/// A node that gossip sees, or that has a stream with us, or both.
#[derive(Debug, Default)]
pub(super) struct Member {
    gossip: Gossip,
    /// How many streams of each kind are open. More than one only between the beginning of a new one and the report of
    /// the end of the old one.
    ours: u32,
    theirs: u32,
    /// What it told us on our stream, since that opened.
    heads: Option<Vector>,
    /// What it had applied when it first told that it has applied all that is purged here; nothing while it has not.
    followed_since: Option<Vector>,
    /// Those of them that were above ours, and may still be.
    lead: Vector,
    ahead: Option<Ahead>,
    /// Not pulled from before then.
    pull_again: Duration,
    way: Way,
}

/// How a pull fetches what is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    /// The rows above our heads.
    #[default]
    Rows,
    /// The whole store. Decided by the peer, who sees how much is missing, for its next pull only: should that fail, it is
    /// asked again what we need.
    Snapshot,
}

#[derive(Debug, Default)]
struct Gossip {
    sees: Sees,
    /// The hash of its vector, which may be seconds old; only looked at while it cannot tell us its heads.
    hash: Option<u64>,
    /// The hash it had when a pull from it began that was joined since. It says nothing any more: we have all of that,
    /// and the two hashes may differ for long because we have more.
    settled: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sees {
    #[default]
    Nobody,
    Member,
}

/// What a member was ahead with when we noticed. While pushes flow its latest heads are always a little above ours, so
/// what counts is whether we reach those.
#[derive(Debug)]
struct Ahead {
    heads: Vector,
    hash: Option<u64>,
    /// When to ask it for the versions, in a tree, where it may push them no more.
    graft: Option<Duration>,
    /// When to pull, if we have not reached it by then.
    due: Duration,
}

impl Member {
    /// Returns whether it was not up before.
    pub(super) fn come_up(&mut self) -> bool {
        std::mem::replace(&mut self.gossip.sees, Sees::Member) == Sees::Nobody
    }

    /// Returns whether it was up before.
    pub(super) fn go_down(&mut self) -> bool {
        std::mem::take(&mut self.gossip).sees == Sees::Member
    }

    pub(super) fn opened(&mut self, stream: Stream) {
        match stream {
            // The first heads the peer sends on it are all it has, and may be lower than before: it may have lost some.
            Stream::Ours => {
                self.ours += 1;
                self.heads = None;
                self.followed_since = None;
                self.lead = Vector::default();
            }
            Stream::Theirs => self.theirs += 1,
        }
    }

    pub(super) fn closed(&mut self, stream: Stream) {
        let count = match stream {
            Stream::Ours => &mut self.ours,
            Stream::Theirs => &mut self.theirs,
        };
        *count = count.saturating_sub(1);
        if !self.is_connected() {
            self.ahead = None;
        }
    }

    pub(super) fn has(&self, stream: Stream) -> bool {
        match stream {
            Stream::Ours => self.ours > 0,
            Stream::Theirs => self.theirs > 0,
        }
    }

    /// Whether there is a connection that a pull could go over.
    pub(super) fn is_connected(&self) -> bool {
        self.ours + self.theirs > 0
    }

    /// Whether nothing is left to be remembered of it.
    pub(super) fn is_gone(&self) -> bool {
        self.gossip.sees == Sees::Nobody && !self.is_connected()
    }

    pub(super) fn heads(&self) -> Option<&Vector> {
        self.heads.as_ref()
    }

    pub(super) fn gossiped(&mut self, hash: u64) {
        self.gossip.hash = Some(hash);
    }

    /// It told us heads. What the first ones on a stream list was committed before it opened: no push of it is under way.
    pub(super) fn told(&mut self, rose: &Vector, ours: &Vector, purged: &Vector, now: Duration) {
        let above = rose.above(ours);
        if self.heads.is_none() && !above.is_empty() {
            self.ahead = Some(Ahead { heads: above.clone(), hash: None, graft: None, due: now });
        }
        self.lead.join(&above);
        let heads = self.heads.get_or_insert_default();
        heads.join(rose);
        if self.followed_since.is_none() && heads.covers(purged) {
            self.followed_since = Some(heads.clone());
        }
        self.watch(ours, now);
    }

    /// Deletions are forgotten. Who is known has applied them, and we what it wrote before.
    pub(super) fn purging(&mut self, purged: &Vector) {
        self.followed_since.take_if(|_| !self.heads.as_ref().is_some_and(|heads| heads.covers(purged)));
    }

    /// What it had applied when it had first applied all that is purged here.
    pub(super) fn followed_since(&self) -> Option<&Vector> {
        self.followed_since.as_ref()
    }

    /// Our heads rose. That alone never makes a member be ahead.
    pub(super) fn we_rose(&mut self, ours: &Vector, now: Duration) {
        if self.ahead.is_some() {
            self.watch(ours, now);
        }
    }

    /// Starts, keeps or ends the wait for what this member has and we lack.
    pub(super) fn watch(&mut self, ours: &Vector, now: Duration) {
        self.ahead.take_if(|ahead| ahead.is_reached(ours));
        if self.ahead.is_none() {
            self.ahead = self.ahead_now(ours, now);
        }
    }

    fn ahead_now(&mut self, ours: &Vector, now: Duration) -> Option<Ahead> {
        let due = now + PULL_AFTER;
        if self.heads.is_some() && self.has(Stream::Ours) {
            self.lead = self.lead.above(ours);
            let ahead = || Ahead { heads: self.lead.clone(), hash: None, graft: Some(now + GRAFT_AFTER), due };
            return (!self.lead.is_empty()).then(ahead);
        }
        let hash = self
            .gossip
            .hash
            .filter(|&hash| self.is_connected() && self.gossip.settled != Some(hash) && hash != ours.hash())?;
        Some(Ahead { heads: Vector::default(), hash: Some(hash), graft: None, due })
    }

    /// When to ask it for the versions that it is ahead with, if at all.
    pub(super) fn graft_at(&self) -> Option<Duration> {
        self.ahead.as_ref()?.graft
    }

    /// The heads that it is ahead with.
    pub(super) fn ahead_with(&self) -> Option<&Vector> {
        self.ahead.as_ref().map(|ahead| &ahead.heads)
    }

    pub(super) fn graft_again(&mut self, at: Duration) {
        if let Some(ahead) = &mut self.ahead {
            ahead.graft = Some(at);
        }
    }

    /// When to pull from it, if at all.
    pub(super) fn pull_at(&self) -> Option<Duration> {
        self.ahead.as_ref().map(|ahead| ahead.due.max(self.pull_again))
    }

    /// Whether a pull that something else asks for may go to it.
    pub(super) fn may_be_asked(&self, now: Duration) -> bool {
        self.is_connected() && self.pull_again <= now
    }

    pub(super) fn gossiped_hash(&self) -> Option<u64> {
        self.gossip.hash
    }

    /// All it had when the pull began is ours now. If it said otherwise before that, what it said is wrong, and asking it
    /// at once would not help.
    pub(super) fn pull_joined(&mut self, pull: &Pull, ours: &Vector, now: Duration) {
        self.gossip.settled = pull.gossiped;
        if self.ahead.take().is_some_and(|ahead| ahead.since_before(pull) && !ours.covers(&ahead.heads)) {
            self.pull_again = now + PULL_RETRY;
        }
        self.watch(ours, now);
    }

    /// A pull begins. Returns how.
    pub(super) fn begin_pull(&mut self) -> Way {
        std::mem::take(&mut self.way)
    }

    pub(super) fn needs_snapshot(&mut self) {
        self.way = Way::Snapshot;
    }

    pub(super) fn pull_failed(&mut self, now: Duration) {
        self.pull_again = now + PULL_RETRY;
    }

    /// Its answer was from the future, and the next one will be as well.
    pub(super) fn pull_refused(&mut self, now: Duration) {
        self.pull_again = now + PULL_AFTER_REFUSAL;
    }
}

impl Ahead {
    fn is_reached(&self, ours: &Vector) -> bool {
        ours.covers(&self.heads) && self.hash.is_none_or(|hash| hash == ours.hash())
    }

    /// Whether the wait was over when the pull began, so that the pull was to end it.
    fn since_before(&self, pull: &Pull) -> bool {
        self.due <= pull.began
    }
}
