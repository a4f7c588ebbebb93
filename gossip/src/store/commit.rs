//! What the store tells the parts that follow it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kith_gossip_proto::{Digest, Digests, Hlc, Key, Name, Purged, SiteId, Value, Vector, Version};

use super::watched::{Cells, Images};

/// How many keys of a table one commit lists; beyond it the commit says [`Keys::Many`].
pub(crate) const KEYS_MAX: usize = 1_024;

/// One SQLite transaction that was kept and synced: some transactions of clients, or versions or rows of peers.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Greater than that of every commit before it, in this file.
    pub number: u64,
    /// The own versions in it, in order. Empty when it stored what peers sent.
    pub versions: Vec<Arc<Version>>,
    /// What readers see otherwise than before, by table.
    pub touched: BTreeMap<Name, Touched>,
    /// The heads after it.
    pub heads: Arc<Vector>,
    /// Whether tables or columns were added.
    pub schema: SchemaChange,
}

/// Whether a commit changed what tables and columns there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaChange {
    /// It did not.
    Same,
    /// It did; [`Store::tables`](super::Store::tables) shows them, and any table may have changed.
    Changed,
}

/// What a commit changed in one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The columns whose value changed in some row. A row that came or went touches them all.
    pub columns: BTreeSet<Name>,
    /// The rows.
    pub keys: Keys,
    /// How many times a row was added. Cells that were not told of each are not known.
    rows: usize,
    /// What was and is in the watched columns.
    cells: BTreeMap<Name, Cells>,
}

/// The primary keys of changed rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Exactly these.
    These(BTreeSet<Key>),
    /// More than are worth listing: any row of the table may have changed.
    Many,
}

impl Default for Keys {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Keys {
    fn add(&mut self, key: &Key) {
        match self {
            Self::Many => {}
            Self::These(keys) if keys.len() < KEYS_MAX => drop(keys.insert(key.clone())),
            Self::These(_) => *self = Self::Many,
        }
    }
}

/// The store as of its last commit.
#[derive(Clone, Debug)]
pub struct StoreState {
    /// The store's identity in stamps.
    pub site: SiteId,
    /// How often the store was opened.
    pub boot: u64,
    /// What the site had when this start began, or when it did.
    pub(crate) own: Own,
    /// The applied and synced heads.
    pub heads: Arc<Vector>,
    /// The fingerprint of all replicated state, in parts.
    pub digests: Digests,
    /// What is left of tombstones that were purged.
    pub purged: Arc<Purged>,
    /// The last reading of the hybrid logical clock.
    pub hlc: Hlc,
    /// The number of the last commit.
    pub commits: u64,
    /// Hash of the tables and columns, equal on nodes with equal schemas.
    pub schema: u64,
    /// Cells that are kept aside because no table here can take them: of a table or column this node does not know, or
    /// a value that its own rules forbid.
    pub set_aside: u64,
    /// Sites that the store has given up since it was made.
    pub renounced: u64,
}

/// Where what the own site has written in this start lies among its versions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    /// The last one that was there before.
    pub(crate) head: u64,
    /// When the first one was written.
    pub(crate) first: Option<Hlc>,
}

impl StoreState {
    /// The fingerprint of all replicated state.
    pub fn digest(&self) -> Digest {
        self.digests.total()
    }
}

impl Touched {
    /// Any row may have changed in these columns.
    pub(crate) fn anything(columns: BTreeSet<Name>) -> Self {
        // The row that no cells were told of makes all of them unknown.
        Self { columns, keys: Keys::Many, rows: 1, cells: BTreeMap::new() }
    }

    /// A row changed: these are the cells of its watched columns, before and after.
    pub(crate) fn row(&mut self, key: &Key, images: &Images) {
        self.keys.add(key);
        self.rows += 1;
        for (column, values) in images.each() {
            self.cells.entry(column.clone()).or_default().row(key, values);
        }
    }

    /// The changed rows by what they hold, or held, in a column. `None` if that is not known: it may be anything then.
    pub fn by_value(&self, column: &Name) -> Option<&BTreeMap<Value, BTreeSet<Key>>> {
        self.cells.get(column)?.of_all(self.rows)
    }

    /// Both together.
    pub(crate) fn merge(&mut self, other: Self) {
        self.columns.extend(other.columns);
        self.rows += other.rows;
        for (column, cells) in other.cells {
            self.cells.entry(column).or_default().merge(cells);
        }
        match other.keys {
            Keys::Many => self.keys = Keys::Many,
            Keys::These(keys) => keys.iter().for_each(|key| self.keys.add(key)),
        }
    }
}
