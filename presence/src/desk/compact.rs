//! The journal, compacted: what holds is said once more, and what was there before is forgotten.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Work;
use crate::core::UserId;
use crate::journal::{End, JournalError};

/// The journal is compacted when it holds twice what it says, and at least so many facts more.
const COMPACT_AFTER: usize = 200_000;
/// When that failed it is tried again after this.
const COMPACT_AGAIN: Duration = Duration::from_secs(60);

/// A journal that is being compacted, piece by piece: between two of them everything else gets its turn.
pub(super) enum Compacting {
    /// What holds is said once more.
    Keeping(Kept, BoxFuture<'static, Result<(), JournalError>>),
    /// What was there before is forgotten: so many facts, for which there are so many.
    Forgetting(usize, usize, BoxFuture<'static, Result<(), JournalError>>),
}

/// How far it is.
pub(super) struct Kept {
    /// What is to be forgotten.
    upto: End,
    /// How many facts that is.
    from: usize,
    /// How many stand for them so far.
    to: usize,
    /// The last user of whom they are.
    after: Option<UserId>,
}

impl Compacting {
    pub(super) fn done(&mut self) -> &mut BoxFuture<'static, Result<(), JournalError>> {
        match self {
            Self::Keeping(_, done) | Self::Forgetting(.., done) => done,
        }
    }
}

impl Work {
    /// Has the journal forget what no longer counts. No batch is under way: all that was appended is in force, or never will be.
    pub(super) fn compact(&mut self) {
        let grown = self.tools.kept.saturating_sub(self.tools.said);
        if grown <= COMPACT_AFTER.max(self.tools.said) || self.compacting.is_some() || !self.unstored.is_empty() {
            return;
        }
        let now = self.tools.clock.now().mono;
        if now < self.compact_at {
            return;
        }
        self.compact_at = now + COMPACT_AGAIN;
        let (upto, from) = (self.tools.journal.end(), self.tools.kept);
        self.compacting = Some(self.keep(&Kept { upto, from, to: 0, after: None }));
    }

    /// Has the journal keep some more of what holds; or, once it keeps all of it, forget what it stands for.
    fn keep(&self, kept: &Kept) -> Compacting {
        let (facts, after) = self.tools.board.kept_facts(kept.after.as_ref());
        match after {
            Some(_) => {
                let to = kept.to + facts.len();
                Compacting::Keeping(Kept { to, after, ..*kept }, self.tools.journal.append(facts))
            }
            None => Compacting::Forgetting(kept.from, kept.to, self.tools.journal.forget(kept.upto)),
        }
    }

    pub(super) fn compacted(&mut self, done: Result<(), JournalError>) {
        match (self.compacting.take(), done) {
            (Some(Compacting::Keeping(kept, _)), Ok(())) => self.compacting = Some(self.keep(&kept)),
            (Some(Compacting::Forgetting(from, to, _)), Ok(())) => {
                self.tools.kept = self.tools.kept.saturating_sub(from) + to;
                self.tools.said = to;
                self.compact_at = Duration::ZERO;
            }
            (_, Err(error)) => tracing::warn!(%error, "the log is not compacted"),
            (None, Ok(())) => {}
        }
    }
}
