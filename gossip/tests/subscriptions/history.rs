//! Histories by chance: what clients of two nodes write, how it gets from one to the other, and when their schemas change.

use kith_gossip::store::Statement;
use kith_gossip_proto::Value;
use proptest::prelude::*;

/// Tables with every kind of key and affinity, with few values in them, so that what may collide does.
pub(crate) const SCHEMA: &str = "
CREATE TABLE a (id TEXT NOT NULL PRIMARY KEY, x INTEGER, t TEXT, u);
CREATE TABLE b (k TEXT NOT NULL, n INTEGER NOT NULL, a_id TEXT, v REAL, PRIMARY KEY (k, n));
CREATE TABLE c (id INTEGER NOT NULL PRIMARY KEY, a_id TEXT COLLATE NOCASE, x NUMERIC, z BLOB);
CREATE TABLE d (h BLOB NOT NULL PRIMARY KEY, n INTEGER, t TEXT COLLATE NOCASE, g INTEGER AS (n + 1) VIRTUAL) WITHOUT ROWID;
";

/// The same with a column more in each of two tables, and an index.
pub(crate) fn migrated() -> String {
    let longer =
        SCHEMA.replace("t TEXT, u)", "t TEXT, u, more TEXT)").replace("z BLOB)", "z BLOB, more INTEGER DEFAULT 1)");
    format!("{longer} CREATE INDEX a_x ON a (x);")
}

pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// The key's columns first. The fourth may be generated.
    pub(crate) columns: &'static [&'static str],
    key: usize,
}

pub(crate) const TABLES: [Table; 4] = [
    Table { name: "a", columns: &["id", "x", "t", "u"], key: 1 },
    Table { name: "b", columns: &["k", "n", "a_id", "v"], key: 2 },
    Table { name: "c", columns: &["id", "a_id", "x", "z"], key: 1 },
    Table { name: "d", columns: &["h", "n", "t", "g"], key: 1 },
];

/// As SQL, and as a parameter.
type Constant = (&'static str, fn() -> Value);

/// What is written and compared.
pub(crate) const CONSTANTS: [Constant; 14] = [
    ("1", || Value::Integer(1)),
    ("2", || Value::Integer(2)),
    ("'1'", || Value::text("1")),
    ("'a'", || Value::text("a")),
    ("NULL", || Value::Null),
    ("1.0", || Value::real(1.0)),
    ("'A'", || Value::text("A")),
    ("'1.0'", || Value::text("1.0")),
    ("1.5", || Value::real(1.5)),
    ("X'31'", || Value::Blob((*b"1").into())),
    ("''", || Value::text("")),
    ("-1", || Value::Integer(-1)),
    ("9007199254740993", || Value::Integer(9_007_199_254_740_993)),
    ("9007199254740992.0", || Value::real(9_007_199_254_740_992.0)),
];

/// Which of them: mostly one of few, so that equal meets equal.
pub(crate) fn value() -> impl Strategy<Value = u8> {
    prop_oneof![3 => 0..4u8, 1 => 0..14u8]
}

/// The values of key columns: few, and of the column's kind.
fn key_value(table: u8, part: usize, at: u8) -> String {
    match (table, part) {
        (0, _) => ["'1'", "'2'", "'a'", "'A'"][usize::from(at % 4)].to_owned(),
        (1, 0) => ["'1'", "'a'"][usize::from(at % 2)].to_owned(),
        (3, _) => ["X'31'", "X'61'", "X''"][usize::from(at % 3)].to_owned(),
        _ => (at % 3).to_string(),
    }
}

/// One write.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put { table: u8, key: u8, values: [u8; 3] },
    Replace { table: u8, key: u8, value: u8 },
    Set { table: u8, key: u8, column: u8, value: u8 },
    SetWhere { table: u8, column: u8, value: u8, is: u8 },
    Move { table: u8, from: u8, to: u8 },
    Drop { table: u8, key: u8 },
    DropWhere { table: u8, column: u8, is: u8 },
}

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A transaction here.
    Here(Vec<Op>),
    /// A transaction there, which is kept back.
    There(Vec<Op>),
    /// All that was kept back comes, version by version.
    Push,
    /// All that we lack is asked for and joined.
    Pull,
    /// The other node takes all that it lacks.
    Back,
    /// Our schema changes.
    Migrate,
    /// The other's schema changes.
    MigrateThere,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let ops = || proptest::collection::vec(op(), 1..4);
    prop_oneof![
        12 => ops().prop_map(Step::Here),
        6 => ops().prop_map(Step::There),
        4 => Just(Step::Push),
        3 => Just(Step::Pull),
        2 => Just(Step::Back),
        1 => Just(Step::Migrate),
        1 => Just(Step::MigrateThere),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let (table, key, column) = (|| 0..4u8, || 0..6u8, || 0..2u8);
    prop_oneof![
        6 => (table(), key(), [value(), value(), value()]).prop_map(|(table, key, values)| Op::Put { table, key, values }),
        1 => (table(), key(), value()).prop_map(|(table, key, value)| Op::Replace { table, key, value }),
        4 => (table(), key(), column(), value())
            .prop_map(|(table, key, column, value)| Op::Set { table, key, column, value }),
        1 => (table(), column(), value(), value())
            .prop_map(|(table, column, value, is)| Op::SetWhere { table, column, value, is }),
        2 => (table(), key(), key()).prop_map(|(table, from, to)| Op::Move { table, from, to }),
        3 => (table(), key()).prop_map(|(table, key)| Op::Drop { table, key }),
        1 => (table(), column(), value()).prop_map(|(table, column, is)| Op::DropWhere { table, column, is }),
    ]
}

impl Op {
    pub(crate) fn statement(&self) -> Statement {
        Statement::new(self.sql())
    }

    fn sql(&self) -> String {
        match *self {
            Self::Put { table, key, values } => {
                let columns = stored(table);
                let rest = &columns[of(table).key..];
                let parts = keys(table, key).into_iter().chain(values.iter().map(|&value| constant(value)));
                let parts: Vec<_> = parts.take(columns.len()).collect();
                let set: Vec<_> = rest.iter().map(|column| format!("{column} = excluded.{column}")).collect();
                format!(
                    "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO UPDATE SET {}",
                    of(table).name,
                    columns.join(", "),
                    parts.join(", "),
                    set.join(", ")
                )
            }
            Self::Replace { table, key, value } => {
                let columns = &of(table).columns[..=of(table).key];
                let (name, keys, value) = (of(table).name, keys(table, key).join(", "), constant(value));
                format!("INSERT OR REPLACE INTO {name} ({}) VALUES ({keys}, {value})", columns.join(", "))
            }
            Self::Set { table, key, column, value } => {
                format!(
                    "UPDATE {} SET {} = {} WHERE {}",
                    of(table).name,
                    cell(table, column),
                    constant(value),
                    is(table, key)
                )
            }
            Self::SetWhere { table, column, value, is } => {
                let (name, column) = (of(table).name, cell(table, column));
                format!("UPDATE {name} SET {column} = {} WHERE {column} IS {}", constant(value), constant(is))
            }
            Self::Move { table, from, to } => {
                let last = of(table).key - 1;
                let (name, column) = (of(table).name, of(table).columns[last]);
                let to = key_value(table, last, to);
                format!("UPDATE OR IGNORE {name} SET {column} = {to} WHERE {}", is(table, from))
            }
            Self::Drop { table, key } => format!("DELETE FROM {} WHERE {}", of(table).name, is(table, key)),
            Self::DropWhere { table, column, is } => {
                format!("DELETE FROM {} WHERE {} = {}", of(table).name, cell(table, column), constant(is))
            }
        }
    }
}

fn of(table: u8) -> &'static Table {
    &TABLES[usize::from(table)]
}

/// The columns that can be written.
fn stored(table: u8) -> &'static [&'static str] {
    let columns = of(table).columns;
    if table == 3 { &columns[..3] } else { columns }
}

/// A column beside the key.
fn cell(table: u8, column: u8) -> &'static str {
    let rest = &stored(table)[of(table).key..];
    rest[usize::from(column) % rest.len()]
}

fn constant(at: u8) -> String {
    CONSTANTS[usize::from(at) % CONSTANTS.len()].0.to_owned()
}

fn keys(table: u8, key: u8) -> Vec<String> {
    (0..of(table).key).map(|part| key_value(table, part, key)).collect()
}

fn is(table: u8, key: u8) -> String {
    let columns = of(table).columns.iter().zip(keys(table, key));
    let equal: Vec<_> = columns.map(|(column, value)| format!("{column} = {value}")).collect();
    equal.join(" AND ")
}
