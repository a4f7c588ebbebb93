//! What commits have asked a query to look at, merged while it looks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kith_gossip_proto::{Key, Name};

/// Above this many keys, or a quarter of the result, one run of the whole query is cheaper than one per key.
const KEYS_MAX: usize = 1_024;
/// The same for a query over several tables: without an index that joins them the other way round, each key costs a run
/// through the other table.
const JOINED_KEYS_MAX: usize = 32;

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Everything.
    All,
    /// The result rows that these may concern.
    Keys(Changed),
}

/// The keys of changed rows, by table.
pub(super) type Changed = BTreeMap<Name, BTreeSet<Key>>;

/// What has been asked for and is not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Wanted(Mutex<State>);

/// Ordered: each includes those before it.
#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Nothing,
    Look {
        extent: Extent,
        /// The commit that asked last.
        upto: u64,
    },
    /// The schema changed: what the query means must be found out again.
    Analysis,
}

impl Wanted {
    /// A commit asks for a look.
    pub(super) fn look(&self, more: Extent, commit: u64) {
        let mut state = self.lock();
        *state = match std::mem::take(&mut *state) {
            State::Analysis => State::Analysis,
            State::Nothing => State::Look { extent: more, upto: commit },
            State::Look { extent, .. } => State::Look { extent: extent.and(more), upto: commit },
        };
    }

    /// Anything may have changed, also what the query means.
    pub(super) fn analysis(&self) {
        *self.lock() = State::Analysis;
    }

    pub(super) fn is_any(&self) -> bool {
        *self.lock() != State::Nothing
    }

    /// What is to be looked at in a snapshot as of this commit. What later commits have asked for stays wanted, too: all of
    /// it may look otherwise then.
    pub(super) fn take(&self, commit: u64) -> Extent {
        let mut state = self.lock();
        match &*state {
            State::Nothing => Extent::Keys(Changed::new()),
            State::Look { extent, upto } => {
                let extent = extent.clone();
                if *upto <= commit {
                    *state = State::Nothing;
                }
                extent
            }
            State::Analysis => Extent::All,
        }
    }

    /// Whether the query must be analysed first. A look at everything is then wanted.
    pub(super) fn take_analysis(&self) -> bool {
        let mut state = self.lock();
        let analysis = *state == State::Analysis;
        if analysis {
            *state = State::Look { extent: Extent::All, upto: 0 };
        }
        analysis
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in between leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For more keys of one table than this, one run of a whole query with so many rows is cheaper than one for each.
pub(super) fn worth_of_keys(rows: usize) -> usize {
    KEYS_MAX.min(8 + rows / 4)
}

impl Extent {
    /// Everything, where one run of the whole query is cheaper than one for each key.
    pub(super) fn if_worth_it(self, tables: usize, rows: usize) -> Self {
        let most = if tables > 1 { JOINED_KEYS_MAX } else { KEYS_MAX };
        self.unless_more_than(most.min(worth_of_keys(rows)))
    }

    fn and(self, more: Self) -> Self {
        match (self, more) {
            (Self::Keys(mut keys), Self::Keys(more)) => {
                more.into_iter().for_each(|(table, more)| keys.entry(table).or_default().extend(more));
                Self::Keys(keys).unless_more_than(KEYS_MAX)
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }

    fn unless_more_than(self, most: usize) -> Self {
        match self {
            Self::Keys(keys) if keys.values().map(BTreeSet::len).sum::<usize>() <= most => Self::Keys(keys),
            Self::Keys(_) | Self::All => Self::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use kith_gossip_proto::Value;

    use super::*;

    fn keys(table: &str, keys: std::ops::Range<i64>) -> Extent {
        let keys = keys.map(|key| Key::encode([&Value::Integer(key)]).unwrap()).collect();
        Extent::Keys([(Name::from(table), keys)].into())
    }

    #[test]
    fn what_a_later_commit_asked_for_is_looked_at_twice() {
        let wanted = Wanted::default();
        wanted.look(keys("a", 0..1), 1);
        wanted.look(keys("a", 1..2), 2);
        wanted.look(keys("b", 0..1), 3);
        let Extent::Keys(changed) = wanted.take(2) else { panic!("few keys are no reason to look at everything") };
        assert_eq!(changed.values().map(BTreeSet::len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!((wanted.is_any(), wanted.take(3)), (true, Extent::Keys(changed)));
        assert_eq!((wanted.is_any(), wanted.take(4)), (false, Extent::Keys(Changed::new())));
    }

    #[test]
    fn many_keys_are_everything_and_an_analysis_outlasts_looks() {
        let wanted = Wanted::default();
        wanted.look(keys("a", 0..600), 1);
        wanted.look(keys("b", 0..600), 1);
        assert_eq!(wanted.take(1), Extent::All);
        assert_eq!(keys("a", 0..9).if_worth_it(1, 3), Extent::All);
        assert_eq!(keys("a", 0..8).if_worth_it(1, 3), keys("a", 0..8));
        wanted.analysis();
        wanted.look(keys("a", 0..1), 2);
        assert_eq!((wanted.take(2), wanted.take_analysis(), wanted.take_analysis()), (Extent::All, true, false));
        assert_eq!((wanted.take(2), wanted.is_any()), (Extent::All, false));
    }
}
