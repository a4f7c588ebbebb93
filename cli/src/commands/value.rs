//! SQL values, as typed by people and as shown to them.

use kith_gossip_client::Value;

/// A parameter as typed: a JSON number, null, true, false or quoted text is what it is in JSON; anything else is a text
/// as it stands. A text of digits is a number here, which a TEXT column stores as the text again.
pub(crate) fn parse(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(value) => value,
        Err(_) => Value::from(text),
    }
}

/// A value for people, on one line.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:?}"),
        Value::Text(text) => printable(text),
        Value::Blob(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x'{digits}'")
        }
    }
}

/// The text with its control characters escaped: what somebody wrote into a row must not drive another's terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_json_where_it_is_and_text_where_not() {
        assert_eq!(parse("80"), Value::Integer(80));
        assert_eq!(parse("1.5"), Value::Real(1.5));
        assert_eq!(parse("null"), Value::Null);
        assert_eq!(parse("\"80\""), Value::from("80"));
        assert_eq!(parse("[0,255]"), Value::Blob(vec![0, 255]));
        for text in ["casa", "0123456789ab", "007", "", "{\"a\":1}", "[\"x\"]", "10.210.128.7"] {
            assert_eq!(parse(text), Value::from(text));
        }
    }

    #[test]
    fn what_a_row_holds_does_not_drive_the_terminal() {
        assert_eq!(show(&Value::from("a\u{1b}[2Jb\n")), "a\\u{1b}[2Jb\\n");
        assert_eq!(show(&Value::Blob(vec![1, 255])), "x'01ff'");
        assert_eq!(show(&Value::Real(1.0)), "1.0");
    }
}
