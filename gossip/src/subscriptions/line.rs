//! The lines of an NDJSON answer: values as JSON, and the kinds of events.
//!
//! Cells are rendered once, when a row is read from SQLite, and everything after works on those bytes: two rows are the
//! same to a client exactly if their bytes are.

use std::time::Duration;

use bytes::Bytes;
use kith_gossip_proto::Value;
use rusqlite::types::ValueRef;

use super::Marks;

/// A view of a [`Value`], as SQLite's own rows are read.
pub(crate) fn borrowed(value: &Value) -> ValueRef<'_> {
    match value {
        Value::Null => ValueRef::Null,
        Value::Integer(i) => ValueRef::Integer(*i),
        Value::Real(f) => ValueRef::Real(*f),
        Value::Text(bytes) => ValueRef::Text(bytes),
        Value::Blob(bytes) => ValueRef::Blob(bytes),
    }
}

/// Appends one value: null, integer, real with its point, text, blob as an array of byte numbers.
///
/// Text that is not UTF-8 has no JSON form; its bad bytes become U+FFFD, as readers of text expect. Infinity has no JSON
/// number either and becomes null, as every JSON writer that does not fail makes it.
pub(crate) fn push_value(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => out.extend_from_slice(b"null"),
        ValueRef::Integer(i) => push_json(out, &i),
        ValueRef::Real(f) => push_json(out, &f),
        ValueRef::Text(bytes) => push_json(out, &String::from_utf8_lossy(bytes)),
        ValueRef::Blob(bytes) => push_json(out, bytes),
    }
}

/// Appends a row's cells as a JSON array.
pub(crate) fn push_cells<'a>(out: &mut Vec<u8>, cells: impl IntoIterator<Item = ValueRef<'a>>) {
    out.push(b'[');
    for (position, cell) in cells.into_iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        push_value(out, cell);
    }
    out.push(b']');
}

/// `{"columns":[…]}`: always the first line of a query's answer.
pub(crate) fn columns(names: &[String]) -> Bytes {
    let mut out = b"{\"columns\":".to_vec();
    push_json(&mut out, names);
    out.extend_from_slice(b"}\n");
    out.into()
}

/// Appends `{"row":[id,cells]}`.
pub(crate) fn push_row(out: &mut Vec<u8>, id: u64, cells: &[u8]) {
    out.extend_from_slice(b"{\"row\":[");
    push_json(out, &id);
    out.push(b',');
    out.extend_from_slice(cells);
    out.extend_from_slice(b"]}\n");
}

/// `{"eoq":{"time":…}}`, the end of the rows; for a subscription with the last change that the rows contain.
pub(crate) fn end_of_query(time: Duration, change_id: Option<u64>) -> Bytes {
    let mut out = b"{\"eoq\":{\"time\":".to_vec();
    push_json(&mut out, &time.as_secs_f64());
    if let Some(id) = change_id {
        out.extend_from_slice(b",\"change_id\":");
        push_json(&mut out, &id);
    }
    out.extend_from_slice(b"}}\n");
    out.into()
}

/// The end of the rows of a subscription, which are those of whole transactions.
pub(crate) fn end_of_rows(time: Duration, change_id: u64, marks: Marks) -> Bytes {
    let end = end_of_query(time, Some(change_id));
    match marks {
        Marks::Omitted => end,
        Marks::Sent => {
            let mut out = end.to_vec();
            push_commit(&mut out, change_id);
            out.into()
        }
    }
}

/// What happened to a result row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Insert,
    Update,
    Delete,
}

/// Appends `{"change":[kind,row id,cells,change id]}`.
pub(crate) fn push_change(out: &mut Vec<u8>, kind: ChangeKind, row: u64, cells: &[u8], change: u64) {
    out.extend_from_slice(match kind {
        ChangeKind::Insert => b"{\"change\":[\"insert\",",
        ChangeKind::Update => b"{\"change\":[\"update\",",
        ChangeKind::Delete => b"{\"change\":[\"delete\",",
    });
    push_json(out, &row);
    out.push(b',');
    out.extend_from_slice(cells);
    out.push(b',');
    push_json(out, &change);
    out.extend_from_slice(b"]}\n");
}

/// `{"alive":{}}`: there is nothing else to say.
pub(crate) fn alive() -> Bytes {
    Bytes::from_static(b"{\"alive\":{}}\n")
}

/// Appends `{"commit":{"change_id":N}}`: the changes up to this one are those of whole transactions.
pub(crate) fn push_commit(out: &mut Vec<u8>, change: u64) {
    out.extend_from_slice(b"{\"commit\":{\"change_id\":");
    push_json(out, &change);
    out.extend_from_slice(b"}}\n");
}

/// Appends `{"notify":[kind,key]}`: a row of a table, not of a result.
pub(crate) fn push_notice<'a>(out: &mut Vec<u8>, kind: ChangeKind, key: impl IntoIterator<Item = ValueRef<'a>>) {
    out.extend_from_slice(match kind {
        ChangeKind::Insert | ChangeKind::Update => b"{\"notify\":[\"update\",",
        ChangeKind::Delete => b"{\"notify\":[\"delete\",",
    });
    push_cells(out, key);
    out.extend_from_slice(b"]}\n");
}

/// `{"error":"…"}`: fatal, the last line of a stream.
pub(crate) fn error(message: &str) -> Bytes {
    let mut out = b"{\"error\":".to_vec();
    push_json(&mut out, message);
    out.extend_from_slice(b"}\n");
    out.into()
}

fn push_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("writing to memory does not fail, and none of these types refuses");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(value: &Value) -> String {
        let mut out = Vec::new();
        push_value(&mut out, borrowed(value));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_kind_of_value_has_its_json() {
        let cases = [
            (Value::Null, "null"),
            (Value::Integer(i64::MIN), "-9223372036854775808"),
            (Value::real(1.0), "1.0"),
            (Value::real(0.1 + 0.2), "0.30000000000000004"),
            (Value::real(f64::INFINITY), "null"),
            (Value::text("a\"\n\u{1}ä"), "\"a\\\"\\n\\u0001ä\""),
            (Value::Text([b'a', 0xFF].into()), "\"a\u{FFFD}\""),
            (Value::Blob([0, 255].into()), "[0,255]"),
            (Value::Blob([].into()), "[]"),
        ];
        for (value, json) in cases {
            assert_eq!(rendered(&value), json);
        }
    }

    #[test]
    fn lines_are_as_clients_know_them() {
        let mut out = Vec::new();
        push_row(&mut out, 1, b"[\"a\",80]");
        push_change(&mut out, ChangeKind::Delete, 2, b"[\"b\",82]", 3);
        push_commit(&mut out, 3);
        out.extend_from_slice(&columns(&["id".to_owned(), "port".to_owned()]));
        out.extend_from_slice(&end_of_query(Duration::from_nanos(80), Some(0)));
        out.extend_from_slice(&end_of_query(Duration::from_millis(1), None));
        out.extend_from_slice(&error("no \"x\""));
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"
        {"row":[1,["a",80]]}
        {"change":["delete",2,["b",82],3]}
        {"commit":{"change_id":3}}
        {"columns":["id","port"]}
        {"eoq":{"time":8e-8,"change_id":0}}
        {"eoq":{"time":0.001}}
        {"error":"no \"x\""}
        "#);
    }
}
