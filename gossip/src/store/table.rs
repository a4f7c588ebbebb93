//! The replicated tables as they are in the database: columns, keys, and the SQL that reads and writes them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use kith_gossip_proto::key::KeyError;
use kith_gossip_proto::{Digest, Key, Name, Value};
use rusqlite::Connection;

use super::stamps::Stamps;
use super::statement::value;

/// What begins all SQL of the store's own. Prepared statements are cached by their text, and what was prepared with the
/// store's rights must not be found by a client's text.
pub(crate) const OWN: &str = "/*kith*/";

/// All replicated tables, by name. Follows migrations: each makes another set.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TableSet {
    tables: BTreeMap<Name, Arc<Table>>,
    ids: BTreeMap<i64, Arc<Table>>,
    hash: u64,
}

impl TableSet {
    /// A table by its name as the schema spells it.
    pub fn get(&self, name: &str) -> Option<&Arc<Table>> {
        self.tables.get(name)
    }

    /// All tables, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Table>> + '_ {
        self.tables.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Equal on nodes whose tables, columns, types and keys are equal.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn by_id(&self, id: i64) -> Option<&Arc<Table>> {
        self.ids.get(&id)
    }

    /// Reads what the database holds.
    pub(crate) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut set = Self::default();
        let mut text = String::new();
        let mut statement = conn.prepare(
            "SELECT t.tid, t.name, l.wr, l.strict FROM __kith_table t
             JOIN pragma_table_list l ON l.schema = 'main' AND l.name = t.name WHERE t.live ORDER BY t.name",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
            let place = if row.get(2)? { Place::Key } else { Place::Rowid };
            let typing = if row.get(3)? { Typing::Strict } else { Typing::Flexible };
            let table = Arc::new(Table::load(conn, id, &name, place, typing)?);
            table.describe(&mut text);
            set.tables.insert(table.name.clone(), Arc::clone(&table));
            set.ids.insert(id, table);
        }
        set.hash = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
        Ok(set)
    }
}

/// One replicated table.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// As the schema spells it.
    pub name: Name,
    /// Replicated columns, those of the key included, in the table's order. Generated columns are not among them.
    pub columns: Vec<Name>,
    /// Columns of the primary key, in the key's order.
    pub key: Vec<Name>,
    pub(crate) id: i64,
    pub(crate) place: Place,
    /// Where in `columns` the key's columns are.
    pub(crate) key_at: Vec<usize>,
    /// Per column: its bit in a mask of stamps; none for a column of the key.
    pub(crate) cid: Vec<Option<u8>>,
    /// Per column: what SQLite makes of values that are written to it.
    pub(crate) affinity: Vec<Affinity>,
    /// Per column: NOT NULL and no default, so that no row can be inserted without a value for it.
    pub(crate) needed: Vec<Need>,
    /// Per column: its number in the table, which counts generated columns too.
    pub(crate) number: Vec<i32>,
    pub(crate) sql: Texts,
}

/// Where a row is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// By rowid.
    Rowid,
    /// By a rowid that is the INTEGER PRIMARY KEY itself, so SQLite may choose it.
    Alias,
    /// A WITHOUT ROWID table: by its key.
    Key,
}

/// Whether an INSERT must name the column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Optional,
    Required,
}

/// Whether a table holds its columns to their types (sqlite.org/stricttables.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typing {
    Flexible,
    Strict,
}

/// Type affinity (sqlite.org/datatype3.html §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affinity {
    Text,
    /// INTEGER and NUMERIC convert alike when storing.
    Numeric,
    Real,
    /// BLOB, none, and ANY in a STRICT table: nothing is converted.
    Blob,
}

/// SQL of one table. Values are bound as the comment says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) quoted: String,
    /// `INSERT` of a row with all columns, in the table's order.
    pub(crate) insert: String,
    /// All columns of the row at a place: `?1` its rowid, or `?1…` its key.
    pub(crate) read: String,
    /// Place (0 for WITHOUT ROWID) and all columns of every row.
    pub(crate) all: String,
    /// Place (0 for WITHOUT ROWID), stamps and all columns of the row with key `?1…`.
    pub(crate) find: String,
    /// Whether there is a row with key `?1…`.
    pub(crate) there: String,
    /// Deletes the row at a place, which is bound as for `read`.
    pub(crate) delete: String,
    /// Stamps at `?1` (a rowid, or encoded key).
    pub(crate) stamps: String,
    /// Stores stamps `?2` at `?1`.
    pub(crate) put_stamps: String,
    pub(crate) drop_stamps: String,
    /// Tombstone of encoded key `?1`.
    pub(crate) tomb: String,
    pub(crate) put_tomb: String,
    pub(crate) drop_tomb: String,
}

impl Table {
    fn load(conn: &Connection, id: i64, name: &str, place: Place, typing: Typing) -> rusqlite::Result<Self> {
        let mut cids = BTreeMap::<String, u8>::new();
        let mut statement = conn.prepare_cached("/*kith*/ SELECT name, cid FROM __kith_col WHERE tid = ?1")?;
        let mut rows = statement.query([id])?;
        while let Some(row) = rows.next()? {
            cids.insert(row.get(0)?, row.get(1)?);
        }
        let mut table = Self {
            name: name.into(),
            columns: Vec::new(),
            key: Vec::new(),
            id,
            place,
            key_at: Vec::new(),
            cid: Vec::new(),
            affinity: Vec::new(),
            needed: Vec::new(),
            number: Vec::new(),
            sql: Texts::default(),
        };
        let mut key = BTreeMap::<i64, usize>::new();
        let mut types = Vec::new();
        let mut statement = conn.prepare_cached(
            "/*kith*/ SELECT cid, name, type, \"notnull\", dflt_value IS NULL, pk FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid",
        )?;
        let mut rows = statement.query([name])?;
        while let Some(row) = rows.next()? {
            let (column, kind, pk): (String, String, i64) = (row.get(1)?, row.get(2)?, row.get(5)?);
            if pk > 0 {
                key.insert(pk, table.columns.len());
            }
            let required = row.get(3)? && row.get(4)?;
            table.number.push(row.get(0)?);
            table.cid.push(cids.get(&column).copied());
            table.affinity.push(Affinity::of(&kind, typing));
            table.needed.push(if required { Need::Required } else { Need::Optional });
            table.columns.push(column.as_str().into());
            types.push(kind);
        }
        table.key_at = key.into_values().collect();
        table.key = table.key_at.iter().map(|&at| table.columns[at].clone()).collect();
        if let ([at], Place::Rowid) = (&*table.key_at, table.place)
            && types[*at].eq_ignore_ascii_case("integer")
            && !has_key_index(conn, name)?
        {
            table.place = Place::Alias;
        }
        table.sql.quoted = quote(name);
        table.sql = Texts::of(&table);
        Ok(table)
    }

    /// What nodes compare: everything about the table that decides whether a row means the same on both.
    fn describe(&self, out: &mut String) {
        let write = |out: &mut String| -> std::fmt::Result {
            write!(out, "{}\0", self.name)?;
            self.key.iter().try_for_each(|column| write!(out, "{column}\0"))?;
            let mut columns: Vec<_> = self.columns.iter().zip(&self.affinity).collect();
            columns.sort_by_key(|&(name, _)| name);
            columns.iter().try_for_each(|(name, affinity)| write!(out, "{name}\0{affinity:?}\0"))?;
            writeln!(out)
        };
        write(out).expect("a String takes everything that is written to it");
    }

    /// Encodes the primary key of a row that holds these values, one per column.
    pub(crate) fn key_of(&self, values: &[Value]) -> Result<Key, KeyError> {
        Key::encode(self.key_at.iter().map(|&at| &values[at]))
    }

    /// All columns that are not of the key: position and bit.
    pub(crate) fn cells(&self) -> impl Iterator<Item = (usize, u8)> + '_ {
        self.cid.iter().enumerate().filter_map(|(at, cid)| cid.map(|cid| (at, cid)))
    }

    /// The bits of all columns that are not of the key.
    pub(crate) fn mask(&self) -> u128 {
        self.cells().fold(0, |mask, (_, cid)| mask | 1 << cid)
    }

    /// Position and bit of a column that is not of the key.
    pub(crate) fn cell(&self, name: &Name) -> Option<(usize, u8)> {
        let at = self.columns.iter().position(|column| column == name)?;
        self.cid[at].map(|cid| (at, cid))
    }

    /// The terms that a live row adds to the digest, but for cells that are set aside: what its stamps are sealed with.
    pub(crate) fn terms(&self, key: &Key, stamps: &Stamps, values: &[Value]) -> Digest {
        let mut sum = Digest::row(&self.name, key, stamps.cl, stamps.rs());
        for (at, cid) in self.cells() {
            if let Some(stamp) = stamps.cell(cid) {
                sum += Digest::cell(&self.name, key, &self.columns[at], &values[at], stamp);
            }
        }
        sum
    }

    pub(crate) fn by_key(&self) -> bool {
        self.place == Place::Key
    }

    /// Reads the columns of a row, from the `first` column of the result on.
    pub(crate) fn values(&self, row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Vec<Value>> {
        (first..first + self.columns.len()).map(|at| row.get_ref(at).map(value)).collect()
    }

    /// `INSERT` that names these columns, in this order. OR ABORT, whatever the table says of conflicts: a value it
    /// replaced or ignored in silence would be another row here than elsewhere.
    pub(crate) fn insert(&self, columns: &[usize]) -> String {
        let names: Vec<_> = columns.iter().map(|&at| quote(self.columns[at].as_str())).collect();
        let marks: Vec<_> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
        format!("{OWN} INSERT OR ABORT INTO {} ({}) VALUES ({})", self.sql.quoted, names.join(", "), marks.join(", "))
    }

    /// `UPDATE` of these columns, in this order, at the place that is bound after them.
    pub(crate) fn update(&self, columns: &[usize]) -> String {
        let sets: Vec<_> =
            columns.iter().zip(1..).map(|(&at, n)| format!("{} = ?{n}", quote(self.columns[at].as_str()))).collect();
        let place = self.place_condition(columns.len() + 1);
        format!("{OWN} UPDATE OR ABORT {} SET {} WHERE {place}", self.sql.quoted, sets.join(", "))
    }

    fn place_condition(&self, first: usize) -> String {
        match self.place {
            Place::Rowid | Place::Alias => format!("{} = ?{first}", self.rowid()),
            Place::Key => self.key_condition(first),
        }
    }

    fn key_condition(&self, first: usize) -> String {
        let terms = self.key.iter().zip(first..).map(|(name, n)| format!("{} = ?{n}", quote(name.as_str())));
        terms.collect::<Vec<_>>().join(" AND ")
    }

    /// A name of the rowid that no column hides.
    pub(crate) fn rowid(&self) -> &'static str {
        let hidden = |name: &&str| self.columns.iter().any(|column| column.as_str().eq_ignore_ascii_case(name));
        ["_rowid_", "rowid", "oid"].into_iter().find(|name| !hidden(name)).unwrap_or("_rowid_")
    }
}

/// An INTEGER PRIMARY KEY is the rowid itself, unless written so that it is not (`DESC`); then it has an index.
fn has_key_index(conn: &Connection, table: &str) -> rusqlite::Result<bool> {
    conn.query_row("SELECT EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk')", [table], |row| row.get(0))
}

impl Affinity {
    pub(crate) fn of(kind: &str, typing: Typing) -> Self {
        let kind = kind.to_ascii_uppercase();
        let has = |part| kind.contains(part);
        if typing == Typing::Strict && kind == "ANY" {
            Self::Blob
        } else if has("INT") {
            Self::Numeric
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || kind.is_empty() {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }

    /// Whether a column may hold something else than the value that is written to it. `true` may be a false alarm.
    pub(crate) fn may_change(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Blob, _) | (_, Value::Null | Value::Blob(_)) => false,
            (Self::Text, Value::Text(_)) | (Self::Numeric, Value::Integer(_)) | (Self::Real, Value::Real(_)) => false,
            // 1.5 stays in a numeric column; 1.0 becomes 1.
            (Self::Numeric, Value::Real(float)) => float.fract() == 0.0,
            (Self::Text, Value::Integer(_) | Value::Real(_))
            | (Self::Numeric, Value::Text(_))
            | (Self::Real, Value::Integer(_) | Value::Text(_)) => true,
        }
    }
}

/// A name in SQL.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Default for Texts {
    fn default() -> Self {
        let [
            quoted,
            insert,
            read,
            all,
            find,
            there,
            delete,
            stamps,
            put_stamps,
            drop_stamps,
            tomb,
            put_tomb,
            drop_tomb,
        ] = std::array::from_fn(|_| String::new());
        Self {
            quoted,
            insert,
            read,
            all,
            find,
            there,
            delete,
            stamps,
            put_stamps,
            drop_stamps,
            tomb,
            put_tomb,
            drop_tomb,
        }
    }
}

impl Texts {
    fn of(table: &Table) -> Self {
        let quoted = quote(table.name.as_str());
        let (rows, tombs) = (quote(&rows_of(&table.name)), quote(&tombs_of(&table.name)));
        let list = |prefix: &str| {
            let columns: Vec<_> = table.columns.iter().map(|c| format!("{prefix}{}", quote(c.as_str()))).collect();
            columns.join(", ")
        };
        let here = table.place_condition(1);
        let columns = list("");
        let find = if table.by_key() {
            // The encoded key of the row's stamps is bound after the key's columns.
            format!(
                "{OWN} SELECT 0, (SELECT st FROM {rows} WHERE k = ?{}), {columns} FROM {quoted} WHERE {here}",
                table.key.len() + 1
            )
        } else {
            let rowid = table.rowid();
            format!(
                "{OWN} SELECT {quoted}.{rowid}, (SELECT st FROM {rows} WHERE k = {quoted}.{rowid}), {columns} FROM {quoted} WHERE {}",
                table.key_condition(1)
            )
        };
        Self {
            there: format!("{OWN} SELECT EXISTS (SELECT 1 FROM {quoted} WHERE {})", table.key_condition(1)),
            insert: table.insert(&(0..table.columns.len()).collect::<Vec<_>>()),
            read: format!("{OWN} SELECT {columns} FROM {quoted} WHERE {here}"),
            all: format!("{OWN} SELECT {}, {columns} FROM {quoted}", if table.by_key() { "0" } else { table.rowid() }),
            find,
            delete: format!("{OWN} DELETE FROM {quoted} WHERE {here}"),
            stamps: format!("{OWN} SELECT st FROM {rows} WHERE k = ?1"),
            put_stamps: format!(
                "{OWN} INSERT INTO {rows} (k, st) VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET st = ?2"
            ),
            drop_stamps: format!("{OWN} DELETE FROM {rows} WHERE k = ?1"),
            tomb: format!("{OWN} SELECT st FROM {tombs} WHERE pk = ?1"),
            put_tomb: format!(
                "{OWN} INSERT INTO {tombs} (pk, st) VALUES (?1, ?2) ON CONFLICT (pk) DO UPDATE SET st = ?2"
            ),
            drop_tomb: format!("{OWN} DELETE FROM {tombs} WHERE pk = ?1"),
            quoted,
        }
    }
}

/// The table that holds the stamps of a table's live rows.
pub(crate) fn rows_of(table: &Name) -> String {
    format!("{table}__kith_row")
}

/// The table that holds a table's tombstones.
pub(crate) fn tombs_of(table: &Name) -> String {
    format!("{table}__kith_tomb")
}
