//! What a subscription's query is and what it reads, found out once, while it is prepared.
//!
//! SQLite's authorizer names every table, column and function that a statement uses. It is installed once, on a
//! connection that does nothing else: installing it expires every prepared statement of its connection.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use kith_gossip_proto::{Name, Value};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OpenFlags, ToSql};
use thiserror::Error;

use super::equality::Equality;
use super::line;
use super::shape::{Join, Nested, Plain, Reach, Shape, ShapeError, Told};
use crate::store::{Params, Statement, Table, TableSet};

/// SQL text may be this long.
const SQL_BYTES: i32 = 64 << 10;
/// The name under which a key column is added to the select list, and of the parameter it is compared with.
const KEY_COLUMN: &str = "__kith_key_";

/// A plain query with its keys.
struct Keyed {
    all: String,
    parts: Vec<Part>,
    reach: Reach,
}

/// Why a statement is not a subscription.
#[derive(Debug, Error)]
pub enum QueryRefused {
    /// SQLite does not accept it; the message is SQLite's.
    #[error("{0}")]
    Sql(String),
    /// Its parameters do not fit it.
    #[error("{0}")]
    Parameters(String),
    /// It is no SELECT.
    #[error("a subscription takes a SELECT: this statement returns no rows or does more than read")]
    NotASelect,
    /// Its result may change while no row does.
    #[error("{0}() gives another answer each time: a subscription would go wrong without any change")]
    NotDeterministic(String),
    /// It reads what is not replicated, or not only.
    #[error("{0} is not a replicated table: its changes are not followed")]
    NotFollowed(String),
    /// It reads local row numbers.
    #[error("rowid of {0} is this node's own: select the primary key")]
    Rowid(String),
    /// Its text cannot be extended as a subscription needs.
    #[error("{0}")]
    Text(String),
}

impl From<ShapeError> for QueryRefused {
    fn from(error: ShapeError) -> Self {
        Self::Text(error.to_string())
    }
}

impl From<rusqlite::Error> for QueryRefused {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            // What the authorizer denies is everything but reading.
            rusqlite::Error::SqliteFailure(failure, _) | rusqlite::Error::SqlInputError { error: failure, .. }
                if failure.code == rusqlite::ErrorCode::AuthorizationForStatementDenied =>
            {
                Self::NotASelect
            }
            // SQLite's own words, without those of the wrapper.
            rusqlite::Error::SqliteFailure(_, Some(message)) => Self::Sql(message),
            rusqlite::Error::SqlInputError { msg, .. } => Self::Sql(msg),
            other => Self::Sql(other.to_string()),
        }
    }
}

/// A query as it is run and followed.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The text with its parameters expanded: equal texts are equal queries.
    pub(super) identity: String,
    /// The names of the selected columns.
    pub(super) columns: Vec<String>,
    /// What to run for the whole result: the selected columns, then the key columns.
    pub(super) all: String,
    /// The tables of a plain query, whose key columns follow the selected ones. Empty: the cells are the identity.
    pub(super) parts: Vec<Part>,
    /// Which result rows a changed row may concern.
    pub(super) reach: Reach,
    /// The tables it reads, and of each the columns whose change may change the result. A key column is always among
    /// them: rows that come and go touch all columns, updates never one of the key.
    pub(super) reads: BTreeMap<Name, Columns>,
    /// Of some tables, the one value of one column that a row must have to matter; at most one per table.
    pub(super) equal: Vec<Equality>,
    /// What to bind.
    pub(super) params: Params,
}

impl Plan {
    /// Whether the same commits concern both.
    pub(super) fn concerns_as(&self, other: &Self) -> bool {
        self.equal == other.equal && self.reads.keys().eq(other.reads.keys())
    }

    /// What to run for the result rows that are made of one row of a table, given by its place: its key's parameters are
    /// bound by [`bind_key`].
    pub(super) fn of_part(&self, table: usize) -> String {
        let first: usize = self.parts[..table].iter().map(|part| part.columns).sum();
        let equal = |i| format!("\"{KEY_COLUMN}{}\" = :{KEY_COLUMN}{i}", first + i);
        let condition: Vec<_> = (0..self.parts[table].columns).map(equal).collect();
        format!("SELECT * FROM (\n{}\n) WHERE {}", self.all, condition.join(" AND "))
    }
}

/// Columns of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Columns {
    /// All of them: a generated column is read, which changes with others.
    Any,
    /// These.
    These(BTreeSet<Name>),
}

/// A table of a plain query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) table: Name,
    /// How many key columns it has.
    pub(super) columns: usize,
    pub(super) join: Join,
}

/// Where queries are analysed, one at a time: it takes less than a millisecond.
#[derive(Clone, Debug)]
pub(super) struct Analysts(Arc<Mutex<Analyst>>);

impl Analysts {
    /// Opens a connection to the store's file.
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Analyst::open(path)?))))
    }

    /// Finds out what a statement is and reads.
    pub(super) async fn analyse(&self, statement: Statement, tables: Arc<TableSet>) -> Result<Plan, QueryRefused> {
        let analyst = Arc::clone(&self.0);
        let analysis = tokio::task::spawn_blocking(move || {
            analyst.lock().unwrap_or_else(PoisonError::into_inner).analyse(&statement, &tables)
        });
        analysis.await.unwrap_or_else(|error| Err(QueryRefused::Text(error.to_string())))
    }
}

/// The connection on which queries are analysed.
#[derive(Debug)]
pub(super) struct Analyst {
    conn: Connection,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    mode: Mode,
    reads: BTreeSet<(String, String)>,
    functions: BTreeSet<String>,
    refused: Option<String>,
}

/// Whose statement is being prepared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Ours,
    Clients,
}

/// Functions whose answer depends on more than their arguments. Those of date and time depend on the clock only for
/// certain arguments, which [`Shape`] looks at.
const NOT_DETERMINISTIC: [&str; 9] = [
    "random",
    "randomblob",
    "changes",
    "total_changes",
    "last_insert_rowid",
    "current_date",
    "current_time",
    "current_timestamp",
    "load_extension",
];

impl Analyst {
    /// Opens a connection of its own to the store's file.
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(path, flags)?;
        // It never reads a page of data beyond the schema.
        conn.execute_batch("PRAGMA query_only = 1; PRAGMA trusted_schema = 0; PRAGMA cache_size = -64;")?;
        conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES)?;
        conn.set_limit(Limit::SQLITE_LIMIT_EXPR_DEPTH, 200)?;
        conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let recorder = Arc::clone(&seen);
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            recorder.lock().unwrap_or_else(PoisonError::into_inner).record(context.action)
        }))?;
        Ok(Self { conn, seen })
    }

    /// Finds out what a statement is. Blocking.
    pub(super) fn analyse(&mut self, statement: &Statement, tables: &TableSet) -> Result<Plan, QueryRefused> {
        // A statement that runs makes SQLite notice that the schema has changed; preparing alone does not.
        self.conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        let shape = {
            // SQLite says first what is wrong with a text; its limits bound what is parsed next.
            self.prepare(&statement.sql)?;
            Shape::of(&statement.sql)?
        };
        let (identity, columns) = self.expand(&shape.text, &statement.params)?;
        let functions = self.functions();
        refuse_now(&functions, &statement.params)?;
        let plain = match &shape.plain {
            Some(plain) if !self.aggregates(&functions)? => self.keyed(&shape, plain, columns.len(), tables)?,
            Some(_) | None => None,
        };
        // What is run is what is recorded: with the keys, if they were added.
        let whole = || Keyed { all: shape.text.clone(), parts: Vec::new(), reach: Reach::Whole };
        let Keyed { all, parts, reach } = plain.unwrap_or_else(whole);
        self.prepare(&all)?;
        let mut reads = self.reads(tables)?;
        if shape.told == Told::NotAll {
            let named = tables.iter().filter(|table| shape.names(table.name.as_str()));
            reads.extend(named.map(|table| (table.name.clone(), Columns::Any)));
        }
        let equal = self.equalities(&identity, &statement.params, tables);
        Ok(Plan { identity, columns, all, parts, reach, reads, equal, params: statement.params.clone() })
    }

    /// What the text, with its parameters in their places, demands of its tables. A table that is read twice may matter
    /// by rows that only the other reading sees.
    fn equalities(&self, expanded: &str, params: &Params, tables: &TableSet) -> Vec<Equality> {
        // SQLite expands a text up to its first zero byte, and what is not UTF-8 does not come back as it was.
        let altered = |value: &Value| matches!(value, Value::Text(bytes) if bytes.contains(&0) || std::str::from_utf8(bytes).is_err());
        if params_of(params).any(altered) {
            return Vec::new();
        }
        let Ok(Shape { plain: Some(plain), .. }) = Shape::of(expanded) else { return Vec::new() };
        if plain.nested == Nested::Yes {
            return Vec::new();
        }
        let mut found = Vec::new();
        for source in &plain.sources {
            let Some(table) = table_of(tables, &source.table) else { continue };
            let readings = plain.sources.iter().filter(|other| other.table.eq_ignore_ascii_case(&source.table)).count();
            let mut written = plain.equal.iter().filter(|written| match &written.label {
                Some(label) => source.is_named(label),
                // Of several tables SQLite knows whose the column is; here it is nobody's.
                None => plain.sources.len() == 1,
            });
            if readings == 1 {
                found.extend(written.find_map(|written| Equality::proven(&self.conn, table, written)));
            }
        }
        found
    }

    /// Prepares a client's text, recording what it uses. Returns its number of columns.
    fn prepare(&self, sql: &str) -> Result<usize, QueryRefused> {
        self.recorded(|conn| {
            let statement = conn.prepare(sql)?;
            let is_select = statement.readonly() && statement.column_count() > 0 && statement.is_explain() == 0;
            if is_select { Ok(statement.column_count()) } else { Err(QueryRefused::NotASelect) }
        })
    }

    fn recorded<T>(&self, prepare: impl FnOnce(&Connection) -> Result<T, QueryRefused>) -> Result<T, QueryRefused> {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen() = Seen { mode: Mode::Clients, ..Seen::default() };
        let prepared = prepare(&self.conn);
        let mut seen = seen();
        seen.mode = Mode::Ours;
        match (prepared, seen.refused.take()) {
            (Err(_), Some(function)) => Err(QueryRefused::NotDeterministic(function)),
            (prepared, _) => prepared,
        }
    }

    fn functions(&self) -> BTreeSet<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).functions.clone()
    }

    /// Binds the parameters and reads the text back with them in their places.
    fn expand(&self, sql: &str, params: &Params) -> Result<(String, Vec<String>), QueryRefused> {
        self.recorded(|conn| {
            let mut statement = conn.prepare(sql)?;
            bind(&mut statement, params)?;
            let columns = statement.column_names().map(str::to_owned).collect();
            let text = statement.expanded_sql();
            let mut text = text.ok_or_else(|| QueryRefused::Parameters("the parameters are too large".to_owned()))?;
            // SQLite expands a float to 15 digits and a text up to its first zero byte; what that loses is said again.
            if params_of(params).any(|value| matches!(value, Value::Real(_) | Value::Text(_))) {
                text.push_str(&format!(" -- {params:?}"));
            }
            Ok((text, columns))
        })
    }

    /// Whether one of these functions is an aggregate in some form. `min` and `max` of several arguments are not, and are
    /// taken for one.
    fn aggregates(&self, functions: &BTreeSet<String>) -> Result<bool, QueryRefused> {
        let sql = "SELECT count(*) FROM pragma_function_list WHERE name = ?1 COLLATE NOCASE AND type IN ('a', 'w')";
        let mut statement = self.conn.prepare_cached(sql)?;
        for function in functions {
            if statement.query_row([function], |row| row.get::<_, i64>(0))? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The query with its tables' keys selected too, if SQLite agrees that those columns are what they are meant to be.
    fn keyed(
        &self,
        shape: &Shape,
        plain: &Plain,
        visible: usize,
        tables: &TableSet,
    ) -> Result<Option<Keyed>, QueryRefused> {
        let (mut added, mut origins, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for source in &plain.sources {
            let Some(table) = table_of(tables, &source.table) else { return Ok(None) };
            for column in &table.key {
                let quoted = column.as_str().replace('"', "\"\"");
                added.push(format!("{}.\"{quoted}\" AS \"{KEY_COLUMN}{}\"", source.label, added.len()));
                origins.push((table.name.as_str().to_owned(), column.as_str().to_owned()));
            }
            parts.push(Part { table: table.name.clone(), columns: table.key.len(), join: source.join });
        }
        let Some(all) = shape.with_columns(&added) else { return Ok(None) };
        let confirmed = self.recorded(|conn| {
            let statement = conn.prepare(&all)?;
            let columns = statement.columns_with_metadata();
            let origin =
                |c: rusqlite::ColumnMetadata<'_>| Some((c.table_name()?.to_owned(), c.origin_name()?.to_owned()));
            Ok(columns.skip(visible).map(origin).eq(origins.iter().cloned().map(Some)))
        });
        if !confirmed.unwrap_or(false) {
            return Ok(None);
        }
        Ok(Some(Keyed { all, parts, reach: plain.reach }))
    }

    /// The replicated tables and columns that the last recorded statement reads; refuses everything else.
    fn reads(&self, tables: &TableSet) -> Result<BTreeMap<Name, Columns>, QueryRefused> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let mut reads = BTreeMap::<Name, Columns>::new();
        for (read, column) in seen.reads {
            let Some(table) = table_of(tables, &read) else {
                // Table functions over their arguments, and names that only this statement gives to a part of itself.
                let function = ["json_each", "json_tree"].contains(&read.as_str());
                let own_name = column.is_empty() && !self.exists(&read)?;
                if function || own_name {
                    continue;
                }
                return Err(QueryRefused::NotFollowed(read));
            };
            if column == "ROWID" {
                return Err(QueryRefused::Rowid(read));
            }
            let key = || Columns::These(table.key.iter().cloned().collect());
            let columns = reads.entry(table.name.clone()).or_insert_with(key);
            match table.columns.iter().find(|known| known.as_str() == column) {
                Some(known) => columns.add(known),
                None if column.is_empty() => {}
                None => *columns = Columns::Any,
            }
        }
        Ok(reads)
    }

    fn exists(&self, table: &str) -> Result<bool, QueryRefused> {
        if table.starts_with("sqlite_") || table.starts_with("pragma_") {
            return Ok(true);
        }
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
        Ok(self.conn.prepare_cached(sql)?.query_row([table], |row| row.get::<_, i64>(0))? > 0)
    }
}

impl Columns {
    fn add(&mut self, column: &Name) {
        match self {
            Self::Any => {}
            Self::These(columns) => drop(columns.insert(column.clone())),
        }
    }

    /// Whether a change of these columns may matter.
    pub(super) fn meet(&self, touched: &BTreeSet<Name>) -> bool {
        match self {
            Self::Any => true,
            Self::These(columns) => !columns.is_disjoint(touched),
        }
    }
}

impl Seen {
    fn record(&mut self, action: AuthAction<'_>) -> Authorization {
        if self.mode == Mode::Ours {
            return Authorization::Allow;
        }
        match action {
            AuthAction::Read { table_name, column_name } => {
                self.reads.insert((table_name.to_owned(), column_name.to_owned()));
                Authorization::Allow
            }
            AuthAction::Function { function_name } => {
                if NOT_DETERMINISTIC.iter().any(|name| name.eq_ignore_ascii_case(function_name)) {
                    self.refused = Some(function_name.to_owned());
                    return Authorization::Deny;
                }
                self.functions.insert(function_name.to_owned());
                Authorization::Allow
            }
            AuthAction::Select | AuthAction::Recursive => Authorization::Allow,
            _ => Authorization::Deny,
        }
    }
}

/// A parameter, as rusqlite binds it.
struct Bound<'v>(&'v Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(line::borrowed(self.0)))
    }
}

/// Binds the parameters. Names that the statement lacks are ignored; positions must be as many as it has, but for those
/// that a subscription has added by name.
pub(super) fn bind(statement: &mut rusqlite::Statement<'_>, params: &Params) -> Result<(), QueryRefused> {
    match params {
        Params::None => {}
        Params::Positional(values) => {
            let ours = (1..=statement.parameter_count()).filter(|&i| is_ours(statement.parameter_name(i))).count();
            let wanted = statement.parameter_count() - ours;
            if values.len() != wanted {
                let message = format!("the statement has {wanted} parameters, {} were given", values.len());
                return Err(QueryRefused::Parameters(message));
            }
            for (position, value) in (1..).zip(values) {
                statement.raw_bind_parameter(position, Bound(value))?;
            }
        }
        Params::Named(values) => {
            for (name, value) in values {
                if let Some(position) = statement.parameter_index(name)? {
                    statement.raw_bind_parameter(position, Bound(value))?;
                }
            }
        }
    }
    Ok(())
}

fn is_ours(parameter: Option<&str>) -> bool {
    parameter.is_some_and(|name| name.strip_prefix(':').is_some_and(|name| name.starts_with(KEY_COLUMN)))
}

/// Binds the key that [`Plan::of_part`] asks for.
pub(super) fn bind_key(statement: &mut rusqlite::Statement<'_>, key: &[Value]) -> rusqlite::Result<()> {
    for (i, value) in key.iter().enumerate() {
        let name = format!(":{KEY_COLUMN}{i}");
        let position = statement.parameter_index(&name)?.ok_or(rusqlite::Error::InvalidParameterName(name))?;
        statement.raw_bind_parameter(position, Bound(value))?;
    }
    Ok(())
}

fn params_of(params: &Params) -> impl Iterator<Item = &Value> {
    let (positional, named) = match params {
        Params::None => (&[][..], &[][..]),
        Params::Positional(values) => (&values[..], &[][..]),
        Params::Named(values) => (&[][..], &values[..]),
    };
    positional.iter().chain(named.iter().map(|(_, value)| value))
}

/// A clock may also hide in a parameter.
fn refuse_now(functions: &BTreeSet<String>, params: &Params) -> Result<(), QueryRefused> {
    let now = |value: &Value| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("now"));
    match functions.iter().find(|function| Shape::is_clock(function)) {
        Some(function) if params_of(params).any(now) => Err(QueryRefused::NotDeterministic(function.clone())),
        Some(_) | None => Ok(()),
    }
}

/// A replicated table, however the query spells it.
fn table_of<'t>(tables: &'t TableSet, name: &str) -> Option<&'t Table> {
    tables.iter().find(|known| known.name.as_str().eq_ignore_ascii_case(name)).map(|table| &**table)
}
