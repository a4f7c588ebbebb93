//! Empty non-terminals above names of several units, counted by the names below them.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

use super::unit::SHARED;
use crate::name;
use crate::zone::entry::{Entries, Entry, Kind};

/// How many names there are below each name.
#[derive(Debug, Default)]
pub(super) struct Shared {
    counts: HashMap<Box<[u8]>, i64, RandomState>,
}

/// What is to be added to the counts.
pub(super) type Deltas = HashMap<Box<[u8]>, i64, RandomState>;

impl Shared {
    /// Takes the new counts, writes what has come to be, and returns what is gone.
    pub(super) fn apply(&mut self, deltas: Deltas, added: &mut Entries) -> HashSet<Box<[u8]>, RandomState> {
        let mut gone = HashSet::default();
        for (name, delta) in deltas.into_iter().filter(|(_, delta)| *delta != 0) {
            let count = self.counts.entry(name.clone()).or_default();
            let before = *count;
            *count += delta;
            if *count == 0 {
                self.counts.remove(&name);
                gone.insert(name);
            } else if before == 0 {
                added.push(SHARED, Kind::Plain, &name, |_| {});
            }
        }
        gone
    }
}

/// Counts the names above these entries.
pub(super) fn count<'e>(
    deltas: &mut Deltas,
    entries: impl Iterator<Item = Entry<'e>>,
    each: i64,
    above: impl Fn(&[u8], &mut dyn FnMut(&[u8])),
) {
    for entry in entries {
        above(entry.name, &mut |name| match deltas.get_mut(name) {
            Some(delta) => *delta += each,
            None => _ = deltas.insert(name.into(), each),
        });
    }
}

/// What is shared above a relative name: `{project}.svc` and `svc`.
pub(super) fn above_name(relative: &[u8], out: &mut dyn FnMut(&[u8])) {
    if !relative.ends_with(SVC) {
        return;
    }
    let mut rest = relative;
    while let Some((_, parent)) = name::split_first(rest) {
        if is_shared(parent) && !parent.is_empty() {
            out(parent);
        }
        rest = parent;
    }
}

/// The last label of the names without the ambiguity of `-`.
const SVC: &[u8] = b"\x03svc";
/// The last label of the names of servers. It is always there.
const NODE: &[u8] = b"\x04node";

/// Whether a name above another is not its unit's own.
pub(super) fn is_shared(relative: &[u8]) -> bool {
    let above = name::split_first(relative).map_or(&[][..], |(_, parent)| parent);
    relative.is_empty() || relative == SVC || above == SVC || relative == NODE
}
