//! What is known of one other node: how far its history was followed, and when it was heard.
//!
//! ```text
//!            first word of it, or a change that does not follow ─► ask
//!   Unknown ───────────────────────────────────────────────────────► Followed ── a change that follows ─► Followed
//!              an answer, whole                                        ▲    │ a gap: ask, set aside
//!                                                                      └────┘ an answer after what we knew
//! ```
//! Who was stale or silent and is heard again may have said anything meanwhile: until that is known, what it said before is
//! shown as it was, and who went is not shown as here for a moment.
//!
//! Changes of one node are applied strictly in order, so what is known of it is one version, and what is over need not be
//! remembered: nothing older comes after.

use std::time::Duration;

use super::fact::Fact;
use super::id::UserId;
use super::says::Answer;
use super::sight::Heard;
use super::version::Version;

/// An answer of which nothing more came within this is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Changes that are set aside until an answer has filled the gap before them. What is beyond comes with another answer.
const SET_ASIDE: usize = 256;

/// What a node said is forgotten when it was away for a day: if it comes back it says it again.
const LOST_AFTER: Duration = Duration::from_secs(86_400);

/// Another node.
#[derive(Debug)]
pub struct Peer {
    /// The last change that was applied; none before an answer came.
    head: Option<Version>,
    /// When it was last heard.
    heard_at: Duration,
    /// How that was last taken into account.
    pub(crate) heard: Heard,
    /// It was not heard for a while, and what it said meanwhile is not known.
    missed: bool,
    /// When it was asked, or a part of its answer came last.
    asked_at: Option<Duration>,
    aside: Vec<Changes>,
    /// Parts of an answer that is not complete.
    parts: Vec<Answer>,
}

/// Changes of one message.
#[derive(Debug)]
pub struct Changes {
    pub(crate) prev: Version,
    pub(crate) head: Version,
    pub(crate) facts: Vec<(UserId, Fact)>,
}

/// What is to be applied.
#[derive(Debug, Default)]
pub struct Steps {
    /// All that holds: what is not in it is over.
    pub(crate) whole: Option<Vec<(UserId, Fact)>>,
    /// Changes, in order.
    pub(crate) changes: Vec<(UserId, Fact)>,
}

impl Peer {
    /// A node that was first heard, or heard of, at `heard_at`.
    pub fn new(heard_at: Duration, heard: Heard) -> Self {
        Self { head: None, heard_at, heard, missed: false, asked_at: None, aside: Vec::new(), parts: Vec::new() }
    }

    /// Whether what it says is followed.
    pub fn head(&self) -> Option<Version> {
        self.head
    }

    /// It said something.
    pub fn hear(&mut self, at: Duration) {
        self.heard_at = self.heard_at.max(at);
    }

    /// How well it is heard: no better than before as long as it is not known what was missed.
    pub fn heard_by(&mut self, now: Duration) -> Heard {
        let heard = Heard::since(now.saturating_sub(self.heard_at));
        self.missed |= heard != Heard::Live;
        if self.missed { heard.max(self.heard) } else { heard }
    }

    /// Whether it is away for so long that what it said is forgotten.
    pub fn is_lost(&self, now: Duration) -> bool {
        now.saturating_sub(self.heard_at) >= LOST_AFTER
    }

    /// It says that its last change is `head`. True: it is to be asked. Also if we know more of it than it does, which it
    /// learns by that.
    pub fn differs(&mut self, head: Version, now: Duration) -> bool {
        let known = self.head == Some(head);
        self.missed &= !known;
        !known && self.may_ask(now)
    }

    fn may_ask(&mut self, now: Duration) -> bool {
        let may = self.asked_at.is_none_or(|asked| now.saturating_sub(asked) >= ASK_AGAIN);
        if may {
            self.asked_at = Some(now);
            self.parts = Vec::new();
        }
        may
    }

    /// Changes came. What follows is given back; a gap is to be asked about, if so said.
    pub fn changed(&mut self, changes: Changes, now: Duration) -> (Steps, bool) {
        match self.head {
            Some(known) if changes.head <= known => (Steps::default(), false),
            // What is known in part is repeated in part, which changes nothing.
            Some(known) if changes.prev <= known && changes.head.epoch == known.epoch => {
                self.head = Some(changes.head);
                self.missed = false;
                let mut steps = Steps { whole: None, changes: changes.facts };
                self.catch_up(&mut steps);
                (steps, false)
            }
            Some(_) | None => {
                if self.aside.len() < SET_ASIDE {
                    self.aside.push(changes);
                }
                (Steps::default(), self.may_ask(now))
            }
        }
    }

    /// Part of an answer came. However long all of it takes, it is waited for while parts come.
    pub fn answered(&mut self, answer: Answer, now: Duration) -> Steps {
        // The parts of one answer are told apart from those of another by what they lead up to.
        if self.parts.first().is_some_and(|first| (first.head, first.after) != (answer.head, answer.after)) {
            self.parts.clear();
        }
        if answer.part as usize != self.parts.len() {
            return Steps::default();
        }
        self.asked_at = Some(now);
        self.parts.push(answer);
        let last = self.parts.last().map_or(0, |last| last.parts as usize);
        if self.parts.len() < last {
            return Steps::default();
        }
        let parts = std::mem::take(&mut self.parts);
        self.asked_at = None;
        let Some((head, after)) = parts.first().map(|first| (first.head, first.after)) else { return Steps::default() };
        let facts = parts.into_iter().flat_map(|part| part.facts).collect();
        self.complete(head, after, facts)
    }

    fn complete(&mut self, head: Version, after: Option<Version>, facts: Vec<(UserId, Fact)>) -> Steps {
        let mut steps = match after {
            Some(_) if self.head.is_some_and(|known| head <= known) => return Steps::default(),
            // Asked of an earlier state than ours, or of one we have left: of no use.
            Some(after) if self.head.is_none_or(|known| after > known || after.epoch != known.epoch) => {
                return Steps::default();
            }
            Some(_) => Steps { whole: None, changes: facts },
            None if self.head.is_some_and(|known| head < known) => return Steps::default(),
            None => Steps { whole: Some(facts), changes: Vec::new() },
        };
        self.head = Some(head);
        self.missed = false;
        self.catch_up(&mut steps);
        steps
    }

    /// Applies what was set aside and follows by now.
    fn catch_up(&mut self, steps: &mut Steps) {
        let mut aside = std::mem::take(&mut self.aside);
        aside.sort_by_key(|changes| changes.prev);
        for changes in aside {
            match self.head {
                Some(known) if changes.head <= known => {}
                Some(known) if changes.prev <= known && changes.head.epoch == known.epoch => {
                    self.head = Some(changes.head);
                    steps.changes.extend(changes.facts);
                }
                Some(_) | None => self.aside.push(changes),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    const fn at(seq: u64) -> Version {
        Version { epoch: 7, seq }
    }

    fn fact(ms: u64) -> (UserId, Fact) {
        (UserId::try_from("ann").unwrap(), Fact::Seen(ms))
    }

    fn changes(prev: u64, head: u64) -> Changes {
        Changes { prev: at(prev), head: at(head), facts: vec![fact(head)] }
    }

    fn answer(after: Option<u64>, head: u64, part: u32, parts: u32) -> Answer {
        let after = after.map(at);
        Answer { node: "a".parse().unwrap(), after, head: at(head), part, parts, facts: vec![fact(head)] }
    }

    #[test]
    fn a_gap_is_asked_about_once_and_what_came_meanwhile_follows_the_answer() {
        let mut peer = Peer::new(Duration::ZERO, Heard::Live);
        let now = Duration::from_secs(10);
        assert!(peer.differs(at(5), now));
        assert!(!peer.differs(at(5), now), "asked already");
        assert!(!peer.changed(changes(5, 6), now).1, "asked already");
        assert!(peer.answered(answer(None, 5, 0, 2), NOW).whole.is_none());
        let steps = peer.answered(answer(None, 5, 1, 2), NOW);
        assert_eq!((steps.whole.map(|facts| facts.len()), steps.changes), (Some(2), vec![fact(6)]));
        assert_eq!(peer.head(), Some(at(6)));
        assert_eq!(peer.changed(changes(6, 7), now).0.changes, [fact(7)]);
        assert_eq!(peer.changed(changes(6, 7), now).0.changes, []);
        assert!(peer.changed(changes(8, 9), now).1);
        assert_eq!(peer.answered(answer(Some(7), 8, 0, 1), NOW).changes, [fact(8), fact(9)]);
    }

    #[test]
    fn an_answer_that_was_lost_in_part_is_asked_for_again() {
        let mut peer = Peer::new(Duration::ZERO, Heard::Live);
        assert!(peer.differs(at(5), Duration::ZERO));
        peer.answered(answer(None, 5, 0, 3), NOW);
        assert!(peer.answered(answer(None, 5, 2, 3), NOW).whole.is_none());
        assert!(peer.differs(at(5), Duration::from_secs(1)));
        peer.answered(answer(None, 5, 0, 2), NOW);
        assert!(peer.answered(answer(None, 5, 1, 2), NOW).whole.is_some());
        assert!(!peer.differs(at(5), Duration::from_secs(9)));
    }

    #[test]
    fn an_answer_that_takes_longer_than_it_is_waited_for_is_taken_as_long_as_parts_come() {
        let (mut peer, ms) = (Peer::new(Duration::ZERO, Heard::Live), Duration::from_millis);
        assert!(peer.differs(at(5), ms(0)));
        peer.answered(answer(None, 5, 0, 3), ms(600));
        assert!(!peer.differs(at(5), ms(1_000)), "it is being answered");
        peer.answered(answer(None, 5, 1, 3), ms(1_500));
        assert!(!peer.differs(at(5), ms(2_000)));
        assert!(peer.answered(answer(None, 5, 2, 3), ms(2_400)).whole.is_some());
    }

    #[test]
    fn another_epoch_is_taken_whole_only() {
        let mut peer = Peer::new(Duration::ZERO, Heard::Live);
        peer.answered(answer(None, 5, 0, 1), NOW);
        let next = Version { epoch: 8, seq: 1 };
        let changes = Changes { prev: Version { epoch: 8, seq: 0 }, head: next, facts: vec![fact(1)] };
        let (steps, ask) = peer.changed(changes, Duration::ZERO);
        assert!(ask && steps.changes.is_empty());
        assert!(peer.differs(next, Duration::from_secs(2)));
    }
}
