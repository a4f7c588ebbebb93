//! One SQL statement with its parameters, in the forms the API takes.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::value::Value;

/// One SQL statement and what its parameters are.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    sql: String,
    params: Params,
}

/// The parameters of a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Params {
    /// The statement has none.
    None,
    /// For `?`, in order.
    Positional(Vec<Value>),
    /// By name, with its sigil: `:name`, `@name` or `$name`.
    Named(BTreeMap<String, Value>),
}

impl Statement {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Statement {
        Statement { sql: sql.into(), params: Params::None }
    }

    /// The same statement with these parameters, one for each `?`.
    #[must_use]
    pub fn with<V: Into<Value>>(mut self, params: impl IntoIterator<Item = V>) -> Statement {
        self.params = Params::Positional(params.into_iter().map(Into::into).collect());
        self
    }

    /// The same statement with parameters by name, sigil included.
    #[must_use]
    pub fn with_named<N: Into<String>, V: Into<Value>>(
        mut self,
        params: impl IntoIterator<Item = (N, V)>,
    ) -> Statement {
        self.params = Params::Named(params.into_iter().map(|(n, v)| (n.into(), v.into())).collect());
        self
    }

    /// The SQL text, parameters not filled in.
    pub fn sql(&self) -> &str {
        &self.sql
    }
}

impl From<&str> for Statement {
    fn from(sql: &str) -> Statement {
        Statement::new(sql)
    }
}

impl From<String> for Statement {
    fn from(sql: String) -> Statement {
        Statement::new(sql)
    }
}

impl Serialize for Statement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.params {
            Params::None => serializer.serialize_str(&self.sql),
            Params::Positional(values) => (&self.sql, values).serialize(serializer),
            Params::Named(values) => (&self.sql, values).serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_the_one_the_api_reads() {
        let json = |statement: &Statement| serde_json::to_string(statement).unwrap();
        assert_eq!(json(&Statement::new("SELECT 1")), r#""SELECT 1""#);
        assert_eq!(json(&Statement::new("SELECT ?").with(["a"])), r#"["SELECT ?",["a"]]"#);
        assert_eq!(json(&Statement::new("SELECT :x").with_named([(":x", 1)])), r#"["SELECT :x",{":x":1}]"#);
    }
}
