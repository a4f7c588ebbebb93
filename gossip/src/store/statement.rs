//! SQL with its parameters, and what executing it gave.

use std::time::Duration;

use kith_gossip_proto::Value;
use rusqlite::types::{ToSqlOutput, ValueRef};

/// One SQL statement of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The text of exactly one statement.
    pub sql: String,
    /// Its parameters.
    pub params: Params,
}

/// Values for the parameters of a statement.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Params {
    /// None given.
    #[default]
    None,
    /// In order, one for each parameter.
    Positional(Vec<Value>),
    /// By name, with the sigil (`:name`, `@name`, `$name`). Each must occur in the statement.
    Named(Vec<(String, Value)>),
}

impl Statement {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), params: Params::None }
    }

    /// A statement with positional parameters.
    pub fn with(sql: impl Into<String>, values: impl IntoIterator<Item = Value>) -> Self {
        Self { sql: sql.into(), params: Params::Positional(values.into_iter().collect()) }
    }
}

/// A transaction that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// One per statement, in order.
    pub results: Vec<StatementResult>,
    /// From the start of the first statement to the end of the last; the shared COMMIT is not in it.
    pub time: Duration,
    /// The version it became; none when no replicated row changed.
    pub version: Option<u64>,
}

/// What one statement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatementResult {
    /// Rows inserted, updated or deleted, as SQLite counts them.
    pub rows_affected: u64,
    /// How long it ran.
    pub time: Duration,
}

impl Params {
    /// Binds to a prepared statement. The message says which parameter is missing, too many or unknown.
    pub(crate) fn bind(&self, statement: &mut rusqlite::Statement<'_>) -> Result<(), String> {
        let wanted = statement.parameter_count();
        match self {
            Self::None if wanted == 0 => Ok(()),
            Self::None => Err(format!("the statement has {wanted} parameters, and none were given")),
            Self::Positional(values) if values.len() != wanted => {
                Err(format!("the statement has {wanted} parameters, and {} were given", values.len()))
            }
            Self::Positional(values) => values.iter().zip(1..).try_for_each(|(value, index)| {
                statement.raw_bind_parameter(index, Sql(value)).map_err(|error| error.to_string())
            }),
            Self::Named(values) => {
                let mut bound = vec![false; wanted];
                for (name, value) in values {
                    let index = statement.parameter_index(name).map_err(|error| error.to_string())?;
                    let index = index.ok_or_else(|| format!("the statement has no parameter {name}"))?;
                    statement.raw_bind_parameter(index, Sql(value)).map_err(|error| error.to_string())?;
                    bound[index - 1] = true;
                }
                match bound.iter().position(|&bound| !bound) {
                    None => Ok(()),
                    Some(index) => Err(format!(
                        "parameter {} of the statement was not given",
                        statement.parameter_name(index + 1).unwrap_or("?")
                    )),
                }
            }
        }
    }
}

/// A value as SQLite takes it.
pub(crate) struct Sql<'a>(pub(crate) &'a Value);

impl rusqlite::ToSql for Sql<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(i) => ValueRef::Integer(*i),
            Value::Real(f) => ValueRef::Real(*f),
            Value::Text(bytes) => ValueRef::Text(bytes),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A value as SQLite gave it, in canonical form.
pub(crate) fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(i) => Value::Integer(i),
        ValueRef::Real(f) => Value::real(f),
        ValueRef::Text(bytes) => Value::Text(bytes.into()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.into()),
    }
}
