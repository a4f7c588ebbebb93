//! Which tables are within a transaction: some of its rows are here, and the rest is on the way.
//!
//! Rows come one by one, and a read may end between two of one transaction. A store that marks where transactions end lets us
//! answer either all of one or nothing; of one that does not, what comes together is taken for whole.

use std::collections::BTreeSet;

use crate::feed::{Event, Table};

/// What is known of the marks of each table's stream.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// Tables whose streams have marks.
    marked: BTreeSet<Table>,
    /// Tables whose snapshot is arriving. Nothing of it shows before its end.
    staged: BTreeSet<Table>,
    /// Tables of which a change came behind the last mark.
    open: BTreeSet<Table>,
}

impl Whole {
    pub(super) fn hear(&mut self, event: &Event) {
        match event {
            Event::Reset(table) => {
                // It may be another store. What came of the one before is whole once the snapshot replaces it.
                self.marked.remove(table);
                self.staged.insert(*table);
            }
            Event::Upsert { table, .. } | Event::Delete { table, .. } => {
                if self.marked.contains(table) && !self.staged.contains(table) {
                    self.open.insert(*table);
                }
            }
            // Where a stream resumed, the rest of a transaction may still come.
            Event::Synced(table) => {
                if self.staged.remove(table) {
                    self.open.remove(table);
                }
            }
            Event::Committed(table) => {
                self.marked.insert(*table);
                self.open.remove(table);
            }
            Event::Members(_) | Event::Member(_) | Event::FeedLost => {}
        }
    }

    /// The rest of what came has been waited for long enough. Otherwise each later change of any table would wait as long for
    /// the end of a transaction that may have been lost.
    pub(super) fn give_up(&mut self) {
        self.open.clear();
    }

    /// Whether what came can be answered as it is.
    pub(super) fn is_whole(&self) -> bool {
        self.open.is_empty()
    }
}
