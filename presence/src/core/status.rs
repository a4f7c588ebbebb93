//! What is said of a user: status, message, and for how long.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most characters of a message.
pub const MESSAGE_CHARS: usize = 256;

/// How a user is. Ordered: the best of several sessions is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not here.
    Offline,
    /// Here, and not at the keyboard.
    Away,
    /// Here, and not to be disturbed.
    Busy,
    /// Here.
    Online,
}

/// A text that is none of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the status must be online, busy, away or offline")]
pub struct StatusError;

impl Status {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Away => "away",
            Self::Busy => "busy",
            Self::Online => "online",
        }
    }
}

impl FromStr for Status {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        [Self::Offline, Self::Away, Self::Busy, Self::Online]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or(StatusError)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A few words beside the status: at most 256 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Message(Arc<str>);

/// A message that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the message must have at most {MESSAGE_CHARS} characters, and has {0}")]
pub struct MessageError(usize);

impl Message {
    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Message {
    type Error = MessageError;

    fn try_from(text: String) -> Result<Self, MessageError> {
        let chars = text.chars().count();
        if chars <= MESSAGE_CHARS { Ok(Self(text.into())) } else { Err(MessageError(chars)) }
    }
}

impl From<Message> for String {
    fn from(message: Message) -> Self {
        message.as_str().to_owned()
    }
}

/// How long a session lives after its last heartbeat: 5 s to a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Ttl(u32);

/// A number of seconds that is too small or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the ttl must be 5 to 86400 seconds, and is {0}")]
pub struct TtlError(i64);

impl Ttl {
    /// So many seconds, if that is neither too small nor too large.
    pub fn from_secs(secs: i64) -> Result<Self, TtlError> {
        match u32::try_from(secs) {
            Ok(secs @ 5..=86_400) => Ok(Self(secs)),
            Ok(_) | Err(_) => Err(TtlError(secs)),
        }
    }

    /// In seconds.
    pub const fn as_secs(self) -> u64 {
        self.0 as u64
    }

    /// As a span of time.
    pub const fn span(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

impl Default for Ttl {
    fn default() -> Self {
        Self(60)
    }
}

impl TryFrom<u64> for Ttl {
    type Error = TtlError;

    fn try_from(secs: u64) -> Result<Self, TtlError> {
        Self::from_secs(i64::try_from(secs).unwrap_or(i64::MAX))
    }
}

impl From<Ttl> for u64 {
    fn from(ttl: Ttl) -> Self {
        ttl.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_its_bounds_is_refused() {
        assert_eq!("online".parse(), Ok(Status::Online));
        assert_eq!("Online".parse::<Status>(), Err(StatusError));
        assert!(Status::Online > Status::Busy && Status::Busy > Status::Away && Status::Away > Status::Offline);
        assert_eq!(Ttl::try_from(4), Err(TtlError(4)));
        assert_eq!(Ttl::from_secs(-1), Err(TtlError(-1)));
        assert_eq!(Ttl::try_from(5).map(Ttl::as_secs), Ok(5));
        assert_eq!(Ttl::try_from(86_401), Err(TtlError(86_401)));
        assert!(Message::try_from("ü".repeat(256)).is_ok());
        assert_eq!(Message::try_from("ü".repeat(257)), Err(MessageError(257)));
    }
}
