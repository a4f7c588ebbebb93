//! What a client's SQL touched, as SQLite's pre-update hook tells it while the statements run.
//!
//! The hook collects **suspects**: places with the row that was there when the transaction first touched them. What
//! became of them is read from the table at commit ([`flush`](super::flush)), because what the hook shows cannot be
//! trusted to be what is stored: ROLLBACK TO undoes it, an UPDATE shows values before their affinity is applied, and
//! virtual columns cannot be read in it. A first old image can be trusted: it is the row as it was before the transaction.
//!
//! The hook must not panic, for the library swallows the panic and the change would be lost; should it happen all the
//! same, the mutex is poisoned and the transaction refused ([`Capture::take`]).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex};

use kith_gossip_proto::Value;
use rusqlite::hooks::{PreUpdateCase, PreUpdateNewValueAccessor, PreUpdateOldValueAccessor};

use super::error::{ExecuteError, text};
use super::guard::Switch;
use super::statement::value;
use super::table::{Affinity, Place, Table, TableSet};

/// Rows one transaction may touch, also if it leaves most of them as they were; a statement beyond it is stopped.
pub(crate) const SUSPECTS_MAX: usize = 100_000;

/// Bytes of their old images.
const IMAGES_MAX: usize = 32 << 20;

/// The suspects of one table: a place, and the row that was there first; none when there was no row.
#[derive(Debug)]
pub(crate) enum Suspects {
    /// By rowid.
    Rows(BTreeMap<i64, Option<Vec<Value>>>),
    /// By the values of the key as the hook showed them, perhaps before their affinity was applied.
    Keys(BTreeMap<Vec<Value>, Option<Vec<Value>>>),
}

impl Suspects {
    fn len(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.len(),
            Self::Keys(keys) => keys.len(),
        }
    }
}

/// The suspects of the transaction that runs.
#[derive(Debug)]
pub(crate) struct Capture {
    switch: Arc<Switch>,
    tables: Arc<TableSet>,
    suspects: BTreeMap<i64, Suspects>,
    count: usize,
    bytes: usize,
    refused: Option<ExecuteError>,
    /// Whether the row that is about to be inserted came without a key, as [`KEY_FUNCTION`] was told.
    keyless: Keyless,
    #[cfg(test)]
    pub(crate) panic_at: Option<usize>,
}

/// Called by a trigger before each INSERT into a table whose INTEGER PRIMARY KEY is the rowid, with the key. Only there
/// can it be seen that SQLite is to choose the key: a trigger then sees -1 (sqlite.org/lang_createtrigger.html §2), and the
/// pre-update hook the key that was chosen.
pub(crate) const KEY_FUNCTION: &str = "__kith_key";

/// What a BEFORE INSERT trigger sees of a key that was not given.
const NOT_GIVEN: i64 = -1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keyless {
    No,
    /// Or the key -1 was given.
    Perhaps,
}

/// A capture as the hook and the writer share it. Both run on the writer's thread, so nobody ever waits for the lock.
pub(crate) type SharedCapture = Arc<Mutex<Capture>>;

impl Capture {
    pub(crate) fn new(switch: Arc<Switch>, tables: Arc<TableSet>) -> Self {
        Self {
            switch,
            tables,
            suspects: BTreeMap::new(),
            count: 0,
            bytes: 0,
            refused: None,
            keyless: Keyless::No,
            #[cfg(test)]
            panic_at: None,
        }
    }

    pub(crate) fn set_tables(&mut self, tables: Arc<TableSet>) {
        self.tables = tables;
    }

    /// Forgets everything: the next transaction begins, or this one was rolled back.
    pub(crate) fn reset(shared: &SharedCapture) {
        let mut capture = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.clear_poison();
        capture.suspects.clear();
        capture.count = 0;
        capture.bytes = 0;
        capture.refused = None;
    }

    /// The suspects of the transaction, if all of them were seen.
    pub(crate) fn take(shared: &SharedCapture) -> Result<BTreeMap<i64, Suspects>, ExecuteError> {
        let Ok(mut capture) = shared.lock() else {
            return Err(ExecuteError::Failed("a change was lost while it was captured".to_owned()));
        };
        match capture.refused.take() {
            Some(refused) => Err(refused),
            None => Ok(std::mem::take(&mut capture.suspects)),
        }
    }

    /// Why the transaction cannot be kept, if it is known already.
    pub(crate) fn refused(shared: &SharedCapture) -> Option<ExecuteError> {
        shared.lock().ok().and_then(|capture| capture.refused.clone())
    }

    /// What the hook calls for each row.
    pub(crate) fn note(&mut self, table: &str, case: &PreUpdateCase) {
        if self.refused.is_some() {
            return;
        }
        #[cfg(test)]
        if self.panic_at == Some(self.count) {
            self.panic_at = None;
            panic!("a panic in the hook");
        }
        let Some(table) = self.tables.get(table).cloned() else { return };
        if let Err(refused) = self.suspect(&table, case) {
            self.refuse(refused);
        }
    }

    fn refuse(&mut self, refused: ExecuteError) {
        self.refused = Some(refused);
        self.suspects.clear();
        self.switch.halt();
    }

    fn suspect(&mut self, table: &Table, case: &PreUpdateCase) -> Result<(), ExecuteError> {
        match case {
            PreUpdateCase::Insert(new) => {
                let keyless = std::mem::replace(&mut self.keyless, Keyless::No);
                if table.place == Place::Alias && keyless == Keyless::Perhaps && new.get_new_row_id() != NOT_GIVEN {
                    return Err(ExecuteError::KeyChosen { table: table.name.to_string() });
                }
                self.came(table, new)
            }
            PreUpdateCase::Delete(old) => self.was(table, old),
            PreUpdateCase::Update { old_value_accessor: old, new_value_accessor: new } => {
                self.was(table, old)?;
                self.came(table, new)
            }
            PreUpdateCase::Unknown => Err(ExecuteError::Failed("SQLite reports an unknown kind of change".to_owned())),
        }
    }

    /// What [`KEY_FUNCTION`] does.
    pub(crate) fn expect(&mut self, key: Option<i64>) {
        self.keyless = if key.is_none_or(|key| key == NOT_GIVEN) { Keyless::Perhaps } else { Keyless::No };
    }

    /// A row is about to be where none was, unless this transaction has touched the place before.
    fn came(&mut self, table: &Table, new: &PreUpdateNewValueAccessor) -> Result<(), ExecuteError> {
        let before = self.of(table).len();
        let suspects = self.of(table);
        match suspects {
            Suspects::Rows(rows) => drop(rows.entry(new.get_new_row_id()).or_insert(None)),
            Suspects::Keys(keys) => {
                let read = |&at: &usize| new.get_new_column_value(table.number[at]).map(value);
                let key = table.key_at.iter().map(read).collect::<Result<Vec<_>, _>>().map_err(|error| lost(&error))?;
                keys.entry(key).or_insert(None);
            }
        }
        self.count += self.of(table).len() - before;
        self.check()
    }

    /// A row is about to change or go.
    fn was(&mut self, table: &Table, old: &PreUpdateOldValueAccessor) -> Result<(), ExecuteError> {
        let read = |(number, affinity): (&i32, &Affinity)| {
            old.get_old_column_value(*number).map(|old| match (value(old), affinity) {
                // The hook shows the default of a column that was added later as it is written, `DEFAULT 1`.
                (Value::Integer(whole), Affinity::Real) => Value::real(whole as f64),
                (value, _) => value,
            })
        };
        let image = || {
            table
                .number
                .iter()
                .zip(&table.affinity)
                .map(read)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| lost(&error))
        };
        let added = match self.of(table) {
            Suspects::Rows(rows) => match rows.entry(old.get_old_row_id()) {
                Entry::Vacant(free) => size(free.insert(Some(image()?))),
                Entry::Occupied(_) => 0,
            },
            Suspects::Keys(keys) => {
                let image = image()?;
                let key: Vec<_> = table.key_at.iter().map(|&at| image[at].clone()).collect();
                match keys.entry(key) {
                    Entry::Vacant(free) => size(free.insert(Some(image))),
                    Entry::Occupied(_) => 0,
                }
            }
        };
        if added > 0 {
            self.count += 1;
            self.bytes += added;
        }
        self.check()
    }

    fn of(&mut self, table: &Table) -> &mut Suspects {
        self.suspects.entry(table.id).or_insert_with(|| match table.place {
            Place::Rowid | Place::Alias => Suspects::Rows(BTreeMap::new()),
            Place::Key => Suspects::Keys(BTreeMap::new()),
        })
    }

    fn check(&self) -> Result<(), ExecuteError> {
        if self.count > SUSPECTS_MAX {
            Err(ExecuteError::TooLarge { what: "too many rows", limit: SUSPECTS_MAX })
        } else if self.bytes > IMAGES_MAX {
            Err(ExecuteError::TooLarge { what: "too many bytes", limit: IMAGES_MAX })
        } else {
            Ok(())
        }
    }
}

fn size(image: &Option<Vec<Value>>) -> usize {
    image.iter().flatten().map(weight).sum()
}

/// Bytes of a value in memory, near enough for a bound.
pub(crate) fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Integer(_) | Value::Real(_) => 16,
        Value::Text(bytes) | Value::Blob(bytes) => 16 + bytes.len(),
    }
}

fn lost(error: &rusqlite::Error) -> ExecuteError {
    ExecuteError::Failed(format!("a change could not be captured: {}", text(error)))
}
