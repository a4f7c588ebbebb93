//! Writes, for tests of the core.

use super::board::{What, Write};
use super::{Message, SessionName, Status, Ttl, UserId};

/// A user is here, in the default session and in the name of all.
pub(crate) fn put(user: &UserId, status: Status, ttl: u64) -> Write {
    let ttl = Ttl::try_from(ttl).unwrap();
    Write { user: user.clone(), if_match: None, what: What::Put { session: None, status, message: None, ttl } }
}

/// A user is here, and says something beside it; none: in the default session, and in the name of all.
pub(crate) fn say(user: &UserId, session: Option<&str>, status: Status, message: &str, ttl: u64) -> Write {
    let session = session.map(|name| SessionName::try_from(name).unwrap());
    let (message, ttl) = (Message::try_from(message.to_owned()).ok(), Ttl::try_from(ttl).unwrap());
    Write { user: user.clone(), if_match: None, what: What::Put { session, status, message, ttl } }
}

/// A user is gone.
pub(crate) fn end(user: &UserId) -> Write {
    Write { user: user.clone(), if_match: None, what: What::End { session: None } }
}
