//! What was written, and what may be seen of it. Pure.
//!
//! Transaction N of writer W inserts the group `v/own/W/N`, sets the group `v/count/W` to N and the group `v/all`, which all
//! writers contend for, to W.N, and deletes the group of N - 16, unless that is to be kept. A group is three rows with one
//! value. So from the count alone follows which groups must be there, which must not, and which cannot be yet.

use std::collections::{BTreeMap, BTreeSet};

use crate::lab::Api;

/// Rows of one group.
pub(super) const GROUP: usize = 3;
/// Transaction N deletes the group of N - WINDOW.
pub(super) const WINDOW: u64 = 16;
/// From here on no group is kept for good, so that what a long run holds does not grow by what it writes.
const KEPT_UNTIL: u64 = 1_600;

/// The promises that are judged here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is told in the page above")]
pub enum Promise {
    G1,
    G2,
    G3,
    G5,
    G6,
    G7,
}

/// A promise that did not hold, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Which.
    pub promise: Promise,
    /// What was seen, where.
    pub seen: String,
}

/// What the writers know, by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// One per writer.
    pub accounts: Vec<Account>,
}

/// What one writer knows.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The last number tried; they begin with 1.
    pub tried: u64,
    /// The last number acknowledged.
    pub acknowledged: u64,
    /// Numbers that were tried and not acknowledged: they may be there or not.
    pub unknown: BTreeSet<u64>,
}

/// The rows of all writers as one read showed them: values by group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    groups: BTreeMap<String, Vec<String>>,
}

impl Breach {
    pub(super) fn new(promise: Promise, seen: String) -> Breach {
        Breach { promise, seen }
    }
}

impl Book {
    pub(super) fn of(writers: usize) -> Book {
        Book { accounts: vec![Account::default(); writers] }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.accounts.iter().map(|account| account.tried - account.unknown.len() as u64).sum()
    }
}

/// Whether the group of this number is never deleted: some of the first are.
pub(super) fn is_kept(number: u64) -> bool {
    number.is_multiple_of(WINDOW) && number <= KEPT_UNTIL
}

impl Sight {
    pub(super) async fn read(api: &Api, sql: &str) -> Result<Sight, String> {
        let rows = api.query(sql).await?;
        Ok(Sight::of(rows.iter().filter_map(|row| Some((row[0].as_str()?, row[1].as_str()?)))))
    }

    pub(super) fn of<'a>(rows: impl Iterator<Item = (&'a str, &'a str)>) -> Sight {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in rows {
            let group = key.rsplit_once('/').map_or(key, |(group, _)| group);
            groups.entry(group.to_owned()).or_default().push(value.to_owned());
        }
        groups.values_mut().for_each(|values| values.sort());
        Sight { groups }
    }

    /// Groups that are not whole.
    pub(super) fn torn(&self) -> Vec<String> {
        let whole = |values: &[String]| values.len() == GROUP && values.windows(2).all(|pair| pair[0] == pair[1]);
        let torn = self.groups.iter().filter(|(_, values)| !whole(values));
        torn.map(|(group, values)| format!("{group} is {values:?}")).collect()
    }

    /// The last number of `writer` that this sight holds; 0 before its first.
    #[must_use]
    pub fn count(&self, writer: usize) -> u64 {
        let values = self.groups.get(&format!("v/count/{writer}"));
        values.and_then(|values| values.first()?.parse().ok()).unwrap_or(0)
    }

    /// What breaks a promise in what `observer` showed, after `last`; `before` is the book when the read began, `after`
    /// when it had ended.
    #[must_use]
    pub fn judge(&self, observer: usize, last: Option<&Sight>, before: &Book, after: &Book) -> Vec<Breach> {
        let at = |promise, seen: String| Breach::new(promise, format!("node {}: {seen}", observer + 1));
        let mut breaches: Vec<_> = self.torn().into_iter().map(|torn| at(Promise::G3, torn)).collect();
        for (writer, account) in after.accounts.iter().enumerate() {
            let count = self.count(writer);
            let shown = last.map_or(0, |last| last.count(writer));
            if count < shown {
                breaches.push(at(Promise::G6, format!("count {count} of writer {writer} after {shown}")));
            }
            let own = before.accounts[writer].acknowledged;
            if observer == writer && count < own {
                breaches.push(at(Promise::G2, format!("count {count} after {own} was acknowledged here")));
            }
            breaches.extend(self.judge_groups(writer, account).into_iter().map(|b| at(b.promise, b.seen)));
        }
        breaches
    }

    /// Whether the groups of `writer` are those that its count demands.
    fn judge_groups(&self, writer: usize, account: &Account) -> Vec<Breach> {
        let mut breaches = Vec::new();
        let prefix = format!("v/own/{writer}/");
        let numbers = self.groups.keys().filter_map(|group| group.strip_prefix(&prefix)?.parse::<u64>().ok());
        let numbers: BTreeSet<_> = numbers.collect();
        let count = self.count(writer);
        let mut breach = |promise, seen: String| breaches.push(Breach::new(promise, seen));
        for early in numbers.range(count + 1..).filter(|number| !account.unknown.contains(number)) {
            breach(Promise::G3, format!("group {early} of writer {writer} at count {count}"));
        }
        for number in (1..=count).filter(|number| !account.unknown.contains(number)) {
            let (there, deleter) = (numbers.contains(&number), number + WINDOW);
            if is_kept(number) || deleter > count {
                if !there && !account.unknown.contains(&deleter) {
                    breach(Promise::G2, format!("no group {number} of writer {writer} at count {count}"));
                }
            } else if there && !account.unknown.contains(&deleter) {
                breach(Promise::G5, format!("deleted group {number} of writer {writer} at count {count}"));
            }
        }
        breaches
    }

    /// What is not at `node` in the end, though it was acknowledged.
    #[must_use]
    pub fn lost(&self, node: &str, book: &Book) -> Vec<Breach> {
        let mut breaches = Vec::new();
        for (writer, account) in book.accounts.iter().enumerate() {
            let count = self.count(writer);
            if count < account.acknowledged {
                let seen = format!("{node}: count {count} of writer {writer}, acknowledged {}", account.acknowledged);
                breaches.push(Breach::new(Promise::G2, seen));
            }
            breaches.extend(self.judge_groups(writer, account));
        }
        breaches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(groups: &[(&str, &str)]) -> Sight {
        let rows = groups.iter().flat_map(|(group, value)| (0..GROUP).map(move |i| (format!("{group}/{i}"), *value)));
        let rows: Vec<_> = rows.collect();
        Sight::of(rows.iter().map(|(key, value)| (key.as_str(), *value)))
    }

    fn book(tried: u64) -> Book {
        Book { accounts: vec![Account { tried, acknowledged: tried, unknown: BTreeSet::new() }] }
    }

    fn broken(sight: &Sight, last: Option<&Sight>, book: &Book) -> Vec<Promise> {
        sight.judge(0, last, book, book).into_iter().map(|breach| breach.promise).collect()
    }

    #[test]
    fn a_whole_sight_breaks_nothing() {
        let seen = sight(&[("v/count/0", "2"), ("v/own/0/1", "1"), ("v/own/0/2", "2"), ("v/all", "0.2")]);
        assert_eq!(broken(&seen, Some(&seen), &book(2)), []);
        assert_eq!(seen.lost("n1", &book(2)), []);
    }

    #[test]
    fn part_of_a_transaction_is_seen() {
        let torn = Sight::of([("v/all/0", "0.1"), ("v/all/1", "0.1"), ("v/all/2", "0.2")].into_iter());
        assert_eq!(broken(&torn, None, &book(0)), [Promise::G3]);
        let early = sight(&[("v/own/0/1", "1")]);
        assert_eq!(broken(&early, None, &book(0)), [Promise::G3]);
    }

    #[test]
    fn what_is_lost_or_comes_back_is_seen() {
        let seen = sight(&[("v/count/0", "1"), ("v/own/0/1", "1")]);
        assert_eq!(broken(&seen, None, &book(2)), [Promise::G2]);
        let older = sight(&[]);
        assert_eq!(broken(&older, Some(&seen), &book(0)), [Promise::G6]);
        let without = sight(&[("v/count/0", "1")]);
        assert_eq!(broken(&without, None, &book(1)), [Promise::G2]);
        let all: Vec<_> = (1..=17).map(|n| (format!("v/own/0/{n}"), n.to_string())).collect();
        let mut groups: Vec<_> = all.iter().map(|(group, value)| (group.as_str(), value.as_str())).collect();
        groups.push(("v/count/0", "17"));
        assert_eq!(broken(&sight(&groups), None, &book(17)), [Promise::G5], "17 deletes 1");
    }

    #[test]
    fn what_was_not_acknowledged_may_be_there_or_not() {
        let account = Account { tried: 2, acknowledged: 1, unknown: [2].into() };
        let book = Book { accounts: vec![account] };
        for count in ["1", "2"] {
            assert_eq!(broken(&sight(&[("v/count/0", count), ("v/own/0/1", "1")]), None, &book), []);
        }
    }
}
