//! Names that go into a question, a file or an address, checked once where they come in.

use std::fmt;
use std::str::FromStr;

/// One label of a host name: a region, a cluster (an APP in DNS), the name of a server. Lower-case letters, digits, `-`
/// and `_`, at most 63, so that it is the same in DNS, in a configuration file and in a subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// The zone under which the names are asked: labels with dots between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(String);

/// Why a name is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing, or more than 63 bytes.
    #[error("{0:?} is no name: one has 1 to 63 characters")]
    Length(String),
    /// A character that a host name cannot have.
    #[error("{0:?}: only letters, digits, - and _ make a name")]
    Character(String),
}

impl Label {
    /// The name, lower-cased.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.is_empty() || text.len() > 63 {
            return Err(BadName::Length(text.chars().take(80).collect()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err(BadName::Character(text.to_owned()));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for Zone {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let labels: Result<Vec<Label>, BadName> = text.trim_end_matches('.').split('.').map(str::parse).collect();
        let labels: Vec<String> = labels?.into_iter().map(|label| label.0).collect();
        Ok(Self(labels.join(".")))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{BadName, Label, Zone};

    #[test]
    fn a_name_is_lower_case_and_holds_nothing_that_a_file_would_read_otherwise() {
        let name = |text: &str| text.parse::<Label>().map(|label| label.to_string());
        assert_eq!(name("AMS"), Ok("ams".to_owned()));
        for bad in ["a b", "a\"b", "a.b", "a\n", "é", "$x", "a/b", "{"] {
            assert_eq!(name(bad), Err(BadName::Character(bad.to_owned())));
        }
        assert_eq!(name(""), Err(BadName::Length(String::new())));
        assert!(matches!(name(&"a".repeat(64)), Err(BadName::Length(_))));
    }

    #[test]
    fn a_zone_is_labels() {
        let zone = |text: &str| text.parse::<Zone>().map(|zone| zone.to_string());
        assert_eq!(zone("Internal."), Ok("internal".to_owned()));
        assert_eq!(zone("a.b"), Ok("a.b".to_owned()));
        assert!(zone("a..b").is_err() && zone("").is_err());
    }
}
