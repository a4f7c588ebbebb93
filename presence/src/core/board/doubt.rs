//! What the log may say and this node does not: writes whose append did not return well.
//!
//! Such a write is not in force, but its facts may be in the log, or come there late, with versions above all that holds. So
//! the next write of such a session says all that it leaves in force once more, also where nothing changes by it.

use kith_gossip_proto::Hlc;

use super::{Board, Plan, SESSIONS};
use crate::core::fact::{Explicit, Fact, State};
use crate::core::id::{SessionName, UserId};

/// Sessions that are doubted. Of more, a restart may show what was not in force, for as long as the session lives.
const DOUBTED: usize = 65_536;

impl Board {
    /// Nobody knows whether the log says this.
    pub(super) fn doubt(&mut self, plan: Plan) {
        let held = plan.held.into_iter().map(|(user, session, _)| (user, session));
        self.doubted.extend(held.chain(plan.released));
        while self.doubted.len() > DOUBTED {
            self.doubted.pop_first();
        }
    }

    pub(super) fn is_doubted(&self, user: &UserId, session: &SessionName) -> bool {
        !self.doubted.is_empty() && self.doubted.contains(&(user.clone(), session.clone()))
    }

    /// Some sessions of a user that are doubted.
    pub(super) fn doubted_of(&self, user: &UserId) -> impl Iterator<Item = &SessionName> {
        let from = (user.clone(), SessionName::default());
        let of = self.doubted.range(from..).take_while(move |(u, _)| u == user);
        of.map(|(_, session)| session).take(SESSIONS)
    }

    /// What holds of what a user said of himself, once more: it overrules what the log may say.
    pub(super) fn restated(&self, user: &UserId, session: &SessionName) -> Fact {
        let version = self.following();
        let own = self.users.get(user).and_then(|user| user.explicit(&self.me)).cloned();
        Fact::Explicit(match own {
            Some(own) => Explicit { version, ..own },
            // Nothing: it must not overrule what other nodes say.
            None => Explicit {
                version,
                stamp: Hlc::ZERO,
                status: None,
                message: None,
                by: session.clone(),
                state: State::Expired,
                changed_ms: 0,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::board_test::{end, put};
    use crate::core::{Now, Status, Write};

    const NOW: Now = Now { mono: Duration::from_secs(1), wall_ms: 1_000_000 };

    fn board() -> Board {
        Board::new("n1".parse().unwrap(), 1, NOW)
    }

    fn kept(board: &mut Board, log: &mut Vec<(UserId, Fact)>, write: &Write) {
        let plan = board.plan(std::slice::from_ref(write), NOW);
        log.extend(plan.facts.clone());
        board.commit(plan, NOW);
    }

    /// In the log all the same.
    fn late(board: &mut Board, log: &mut Vec<(UserId, Fact)>, write: &Write) {
        let plan = board.plan(std::slice::from_ref(write), NOW);
        log.extend(plan.facts.clone());
        board.abandon(plan);
    }

    fn status(board: &Board, user: &UserId) -> Status {
        board.user(user).map_or(Status::Offline, |user| user.effective(board.sight()).status)
    }

    #[test]
    fn a_restart_shows_the_write_that_was_answered_and_not_one_that_was_abandoned() {
        let ann = UserId::try_from("ann").unwrap();
        let (online, away, gone) = (put(&ann, Status::Online, 60), put(&ann, Status::Away, 60), end(&ann));
        for (before, abandoned, last, shown) in [
            (Some(&online), &away, &online, Status::Online),
            (Some(&away), &online, &away, Status::Away),
            (Some(&away), &gone, &away, Status::Away),
            (None, &away, &gone, Status::Offline),
            (None, &away, &online, Status::Online),
        ] {
            let (mut running, mut log) = (board(), Vec::new());
            if let Some(before) = before {
                kept(&mut running, &mut log, before);
            }
            late(&mut running, &mut log, abandoned);
            kept(&mut running, &mut log, last);
            assert_eq!(status(&running, &ann), shown);
            let mut restarted = board();
            restarted.restore(log, NOW);
            assert_eq!(status(&restarted, &ann), shown, "{before:?}, {abandoned:?} abandoned, {last:?}");
        }
    }
}
