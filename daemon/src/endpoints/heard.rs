//! What was asked of a peer and what it answered: pure. Times come in.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::echo::{Asker, Token};
use super::socket::EVERY;

/// Questions that are remembered, the last ones: an answer to an earlier one is none.
const KEPT: usize = 8;
/// How long an answer may take. One that takes longer still counts when it comes.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Questions as long as a packet may be that are not answered, in a row, until such packets are lost and not just one of them.
const LOST: u32 = 3;

/// What is heard of one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    asked: VecDeque<(Token, Instant)>,
    /// When it last answered, or said that we had.
    pub(super) answered: Option<Instant>,
    /// When it last answered: then short questions come through, there and back.
    echoed: Option<Instant>,
    /// How long that took.
    took: Option<Duration>,
    /// When it last asked.
    pub(super) asked_by: Option<Instant>,
    /// What became of the longest packets.
    long: Long,
}

/// What became of the longest packets to a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Long {
    /// How long the last question was.
    length: u16,
    /// It, until it is answered.
    asked: Option<Token>,
    /// How many are not answered.
    missing: u32,
    /// Whether one was.
    passed: bool,
}

/// Whether the longest packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Longest {
    /// Those of this length do.
    Pass(u16),
    /// They are lost, and short ones are not.
    Lost(u16),
    /// Not known.
    Unknown,
}

impl Heard {
    /// It is asked.
    pub(super) fn ask(&mut self, token: Token, now: Instant) {
        if self.asked.len() >= KEPT {
            self.asked.pop_front();
        }
        self.asked.push_back((token, now));
    }

    /// It is asked by a question as long as a packet may be. Where short ones are not answered either, that would say nothing;
    /// what it says of itself does not count, as a firewall may keep our questions from it and let its own out.
    pub(super) fn ask_long(&mut self, token: Token, length: u16, now: Instant) {
        if !self.echoed.is_some_and(|at| is_of_late(at, now)) || self.long.length != length {
            self.long = Long { length, ..Long::default() };
        }
        self.long.missing += u32::from(self.long.asked.is_some());
        self.long.asked = Some(token);
    }

    /// Whether the last such question is not answered, so that it is soon to be asked again.
    pub(super) fn waits_for_long(&self) -> bool {
        self.long.asked.is_some()
    }

    /// Whether such packets pass.
    pub(super) fn longest(&self) -> Longest {
        let Long { length, missing, passed, .. } = self.long;
        match (missing >= LOST, passed) {
            (true, _) => Longest::Lost(length),
            (false, true) => Longest::Pass(length),
            (false, false) => Longest::Unknown,
        }
    }

    /// It answers; what answers no question of ours changes nothing.
    pub(super) fn answer(&mut self, token: Token, now: Instant) {
        if self.long.asked == Some(token) {
            self.long = Long { asked: None, missing: 0, passed: true, ..self.long };
        }
        if let Some(at) = self.asked.iter().position(|(asked, _)| *asked == token)
            && let Some((_, asked)) = self.asked.remove(at)
        {
            (self.answered, self.echoed) = (Some(now), Some(now));
            self.took = Some(now.saturating_duration_since(asked));
        }
    }

    /// It asks.
    pub(super) fn asks(&mut self, asker: Asker, now: Instant) {
        self.asked_by = Some(now);
        match asker {
            Asker::Answered => self.answered = Some(now),
            Asker::NotAnswered => {}
        }
    }

    /// What is said of it when it is asked.
    pub(super) fn asker(&self, now: Instant) -> Asker {
        if self.answered.is_some_and(|at| is_of_late(at, now)) { Asker::Answered } else { Asker::NotAnswered }
    }

    /// How long its last answer took, if it answers.
    pub(super) fn round_trip(&self, now: Instant) -> Option<Duration> {
        self.took.filter(|_| self.echoed.is_some_and(|at| is_of_late(at, now)))
    }

    /// Whether it ever answered or asked.
    pub(super) fn echoes(&self) -> bool {
        self.answered.is_some() || self.asked_by.is_some()
    }

    /// Whether it was ever asked.
    pub(super) fn was_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Questions since then, and since its last answer, that have no answer though they had their time.
    pub(super) fn missing(&self, since: Instant, now: Instant) -> usize {
        let since = self.answered.map_or(since, |answered| answered.max(since));
        let is_late = |at: Instant| at >= since && now.saturating_duration_since(at) >= PATIENCE;
        self.asked.iter().filter(|(_, at)| is_late(*at)).count()
    }
}

/// Whether that answers the last question, which had its time.
fn is_of_late(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < EVERY + PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_missing_once_they_had_their_time_and_until_one_comes() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut heard = Heard::default();
        for number in 0..4 {
            heard.ask(Token([number; 8]), at(u64::from(number) * 3000));
        }
        assert_eq!((heard.missing(start, at(9000)), heard.missing(start, at(10_000))), (3, 4));
        assert_eq!(heard.missing(at(3000), at(10_000)), 3);
        heard.answer(Token([9; 8]), at(10_000));
        assert_eq!((heard.missing(start, at(10_000)), heard.echoes()), (4, false));
        heard.answer(Token([2; 8]), at(10_000));
        assert_eq!((heard.missing(start, at(20_000)), heard.round_trip(at(13_999))), (0, Some(Duration::from_secs(4))));
        assert_eq!(heard.round_trip(at(14_000)), None);
        // Nobody answers twice by one token, and few are remembered.
        heard.answer(Token([2; 8]), at(11_000));
        assert_eq!(heard.answered, Some(at(10_000)));
        for number in 0..100 {
            heard.ask(Token([number; 8]), at(12_000));
        }
        heard.answer(Token([91; 8]), at(13_000));
        assert_eq!((heard.missing(start, at(13_000)), heard.answered), (KEPT, Some(at(10_000))));
    }

    #[test]
    fn a_peer_that_says_it_was_answered_counts_as_one_that_answers() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heard = Heard::default();
        heard.ask(Token([1; 8]), at(0));
        heard.asks(Asker::NotAnswered, at(1));
        assert_eq!((heard.missing(start, at(2)), heard.asker(at(2)), heard.echoes()), (1, Asker::NotAnswered, true));
        heard.asks(Asker::Answered, at(2));
        assert_eq!(
            (heard.missing(start, at(2)), heard.asker(at(5)), heard.round_trip(at(5))),
            (0, Asker::Answered, None)
        );
        assert_eq!(heard.asker(at(6)), Asker::NotAnswered);
    }

    #[test]
    fn long_packets_are_lost_when_several_are_and_short_ones_are_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heard = Heard::default();
        // Nobody answers at all.
        for number in 0..10 {
            heard.ask_long(Token([number; 8]), 1372, at(u64::from(number)));
        }
        assert_eq!(heard.longest(), Longest::Unknown);
        // It asks, and says that we answer, and does not.
        for number in 0..10 {
            heard.asks(Asker::Answered, at(20));
            heard.ask_long(Token([number; 8]), 1372, at(20));
        }
        assert_eq!(heard.longest(), Longest::Unknown);
        let ask = |heard: &mut Heard, number: u8| {
            heard.ask(Token([100; 8]), at(20));
            heard.answer(Token([100; 8]), at(20));
            heard.ask_long(Token([number; 8]), 1372, at(20));
        };
        ask(&mut heard, 11);
        heard.answer(Token([11; 8]), at(20));
        assert_eq!(heard.longest(), Longest::Pass(1372));
        (12..15).for_each(|number| ask(&mut heard, number));
        assert_eq!(heard.longest(), Longest::Pass(1372));
        ask(&mut heard, 15);
        assert_eq!(heard.longest(), Longest::Lost(1372));
        // Another length is another question.
        heard.ask_long(Token([16; 8]), 1232, at(20));
        assert_eq!(heard.longest(), Longest::Unknown);
        heard.answer(Token([16; 8]), at(20));
        assert_eq!(heard.longest(), Longest::Pass(1232));
    }
}
