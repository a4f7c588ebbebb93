//! Who: users and their sessions. Parsed once at the edge; inside, they are valid.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most bytes of an id.
pub const ID_BYTES: usize = 128;

/// The session of a write that names none.
const DEFAULT_SESSION: &str = "default";

/// A user: 1 to 128 bytes of any text. In subjects and keys only ever as base64url.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(Arc<str>);

/// One device or tab of a user: 1 to 128 bytes of any text.
///
/// Nearly every session is the default one, which therefore takes no memory of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(Option<Arc<str>>);

/// Why a text is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the {what} must have 1 to {ID_BYTES} bytes, and has {bytes}")]
pub struct IdError {
    what: &'static str,
    bytes: usize,
}

fn checked(what: &'static str, text: &str) -> Result<(), IdError> {
    let bytes = text.len();
    if (1..=ID_BYTES).contains(&bytes) { Ok(()) } else { Err(IdError { what, bytes }) }
}

impl UserId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SessionName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(DEFAULT_SESSION)
    }
}

impl TryFrom<&str> for UserId {
    type Error = IdError;

    fn try_from(text: &str) -> Result<Self, IdError> {
        checked("user id", text).map(|()| Self(text.into()))
    }
}

impl TryFrom<String> for UserId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        Self::try_from(text.as_str())
    }
}

impl TryFrom<&str> for SessionName {
    type Error = IdError;

    fn try_from(text: &str) -> Result<Self, IdError> {
        checked("session", text)?;
        Ok(Self((text != DEFAULT_SESSION).then(|| text.into())))
    }
}

impl TryFrom<String> for SessionName {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        Self::try_from(text.as_str())
    }
}

impl From<UserId> for String {
    fn from(id: UserId) -> Self {
        id.as_str().to_owned()
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> Self {
        name.as_str().to_owned()
    }
}

impl std::borrow::Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Debug for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_of_1_to_128_bytes_is_an_id() {
        for good in ["a", "a.b", "a b", "*", ">", "a\0b", "ü", &"x".repeat(128)] {
            assert_eq!(UserId::try_from(good).unwrap().as_str(), good);
            assert_eq!(SessionName::try_from(good).unwrap().as_str(), good);
        }
        for bad in ["", &"x".repeat(129), &"ü".repeat(65)] {
            assert!(UserId::try_from(bad).is_err() && SessionName::try_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_default_session_is_one_however_it_is_named() {
        assert_eq!(SessionName::try_from("default"), Ok(SessionName::default()));
        assert_eq!(SessionName::default().as_str(), "default");
    }
}
