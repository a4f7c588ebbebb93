//! The query string.

use super::error::ApiError;

/// Names and values, decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes what stands behind the `?`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        });
        decoded.collect::<Option<_>>().map(Self).ok_or_else(|| ApiError::bad("the query string is not text"))
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a switch is on: `?strict=1`, or `?strict`.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), Some("" | "1" | "true"))
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_what_is_not_text_is_refused() {
        let query = Query::parse(Some("users=a%2cb+c%00&strict&x=1&x=2")).unwrap();
        assert_eq!(query.get("users"), Some("a,b c\0"));
        assert!(query.is_set("strict") && query.is_set("x") && !query.is_set("y"));
        for bad in ["%", "a=%f", "a=%zz", "a=%ff"] {
            assert!(Query::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
