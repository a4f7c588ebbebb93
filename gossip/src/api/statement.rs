//! SQL with its parameters, in each of the four forms that clients send:
//!
//! ```text
//! {"query": SQL, "params": [..]|null, "named_params": {..}|null}     with both, params wins; other keys are ignored
//! SQL
//! [SQL, [p1, p2]]
//! [SQL, {":name": p1}]                                               names carry their sigil
//! ```

use std::collections::BTreeMap;
use std::fmt;

use kith_gossip_proto::Value;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::store::{Params, Statement};

/// A statement as it is sent.
#[derive(Debug)]
pub(crate) struct SentStatement(pub(crate) Statement);

impl<'de> Deserialize<'de> for SentStatement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Forms)
    }
}

struct Forms;

impl<'de> Visitor<'de> for Forms {
    type Value = SentStatement;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a statement: SQL, [SQL, [parameters]], [SQL, {\":name\": parameter}] or {\"query\": SQL}")
    }

    fn visit_str<E>(self, sql: &str) -> Result<SentStatement, E> {
        Ok(statement(sql.to_owned(), Params::None))
    }

    fn visit_string<E>(self, sql: String) -> Result<SentStatement, E> {
        Ok(statement(sql, Params::None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<SentStatement, A::Error> {
        let sql = items.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
        let SentParams(params) = items.next_element()?.ok_or_else(|| de::Error::invalid_length(1, &self))?;
        if items.next_element::<de::IgnoredAny>()?.is_some() {
            return Err(de::Error::invalid_length(3, &self));
        }
        Ok(statement(sql, params))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<SentStatement, A::Error> {
        let (mut query, mut params, mut named) = (None, None, None);
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                "query" => query = Some(entries.next_value::<String>()?),
                "params" => params = entries.next_value::<Option<Vec<SentValue>>>()?,
                "named_params" => named = entries.next_value::<Option<BTreeMap<String, SentValue>>>()?,
                _ => drop(entries.next_value::<de::IgnoredAny>()?),
            }
        }
        let sql = query.ok_or_else(|| de::Error::missing_field("query"))?;
        let params = match (params, named) {
            (Some(values), _) => positional(values),
            (None, Some(values)) => self::named(values),
            (None, None) => Params::None,
        };
        Ok(statement(sql, params))
    }
}

struct SentParams(Params);

impl<'de> Deserialize<'de> for SentParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = SentParams;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of parameters or an object of named ones")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<SentParams, A::Error> {
                let mut values = Vec::with_capacity(items.size_hint().unwrap_or(8));
                while let Some(value) = items.next_element()? {
                    values.push(value);
                }
                Ok(SentParams(positional(values)))
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<SentParams, A::Error> {
                let values = BTreeMap::deserialize(de::value::MapAccessDeserializer::new(entries))?;
                Ok(SentParams(named(values)))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

fn statement(sql: String, params: Params) -> SentStatement {
    SentStatement(Statement { sql, params })
}

fn positional(values: Vec<SentValue>) -> Params {
    Params::Positional(values.into_iter().map(|SentValue(value)| value).collect())
}

fn named(values: BTreeMap<String, SentValue>) -> Params {
    Params::Named(values.into_iter().map(|(name, SentValue(value))| (name, value)).collect())
}

/// A parameter: null, true and false as 1 and 0, integers within 64 bits, other numbers as REAL, text, a list of integers
/// from 0 to 255 as BLOB, and every other list or object as its JSON.
struct SentValue(Value);

impl<'de> Deserialize<'de> for SentValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The text itself is wanted where it becomes a value.
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        let value = match raw.as_bytes().first() {
            Some(b'[') => {
                serde_json::from_str::<Vec<u8>>(raw).map_or_else(|_| Value::text(raw), |b| Value::Blob(b.into()))
            }
            Some(b'{') => Value::text(raw),
            _ => serde_json::from_str::<Scalar>(raw).map_err(de::Error::custom)?.0,
        };
        Ok(Self(value))
    }
}

struct Scalar(Value);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null, a boolean, a number or a text")
            }

            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(Value::Integer(value.into())))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(Value::Integer(value)))
            }

            #[expect(clippy::cast_precision_loss, reason = "beyond 63 bits a number is REAL, as in SQL")]
            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(i64::try_from(value).map_or_else(|_| Value::real(value as f64), Value::Integer)))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(Value::real(value)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar(Value::text(value)))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Statement, String> {
        serde_json::from_str::<SentStatement>(json).map(|SentStatement(s)| s).map_err(|error| error.to_string())
    }

    #[test]
    fn every_form_is_read() {
        let positional = |values: &[Value]| Params::Positional(values.to_vec());
        let named = |name: &str, value| Params::Named(vec![(name.to_owned(), value)]);
        let cases = [
            (r#""SELECT 1""#, Params::None),
            (r#"["SELECT 1", []]"#, positional(&[])),
            (r#"["SELECT 1", [1, "a"]]"#, positional(&[Value::Integer(1), Value::text("a")])),
            (r#"["SELECT 1", {":a": 1}]"#, named(":a", Value::Integer(1))),
            (r#"{"query": "SELECT 1"}"#, Params::None),
            (
                r#"{"params": [2], "query": "SELECT 1", "named_params": {":a": 1}, "more": {}}"#,
                positional(&[Value::Integer(2)]),
            ),
            (r#"{"query": "SELECT 1", "params": null, "named_params": {"$a": null}}"#, named("$a", Value::Null)),
        ];
        for (json, params) in cases {
            assert_eq!(read(json), Ok(Statement { sql: "SELECT 1".to_owned(), params }), "{json}");
        }
    }

    #[test]
    fn every_value_is_read() {
        let json = r#"["", [null, true, false, -5, 9223372036854775807, 9223372036854775808, 1.0, 1e3, "t\u00e4\n",
            [0, 255], [], [256], [1.0], [ "a" ], {"b": [1] }]]"#;
        let values = [
            Value::Null,
            Value::Integer(1),
            Value::Integer(0),
            Value::Integer(-5),
            Value::Integer(i64::MAX),
            Value::real(9_223_372_036_854_775_808.0),
            Value::real(1.0),
            Value::real(1000.0),
            Value::text("tä\n"),
            Value::Blob([0, 255].into()),
            Value::Blob([].into()),
            Value::text("[256]"),
            Value::text("[1.0]"),
            Value::text("[ \"a\" ]"),
            Value::text("{\"b\": [1] }"),
        ];
        assert_eq!(read(json).unwrap().params, Params::Positional(values.to_vec()));
    }

    #[test]
    fn other_shapes_are_refused_in_words() {
        let refused: Vec<_> = ["1", "[]", "[\"a\"]", "[\"a\", 1]", "[\"a\", [], []]", "{}", "{\"query\": 1}"]
            .map(|json| format!("{json}: {}", read(json).unwrap_err()))
            .into();
        insta::assert_snapshot!(refused.join("\n"), @r#"
        1: invalid type: integer `1`, expected a statement: SQL, [SQL, [parameters]], [SQL, {":name": parameter}] or {"query": SQL} at line 1 column 1
        []: invalid length 0, expected a statement: SQL, [SQL, [parameters]], [SQL, {":name": parameter}] or {"query": SQL} at line 1 column 2
        ["a"]: invalid length 1, expected a statement: SQL, [SQL, [parameters]], [SQL, {":name": parameter}] or {"query": SQL} at line 1 column 5
        ["a", 1]: invalid type: integer `1`, expected a list of parameters or an object of named ones at line 1 column 7
        ["a", [], []]: invalid length 3, expected a statement: SQL, [SQL, [parameters]], [SQL, {":name": parameter}] or {"query": SQL} at line 1 column 13
        {}: missing field `query` at line 1 column 2
        {"query": 1}: invalid type: integer `1`, expected a string at line 1 column 11
        "#);
    }
}
