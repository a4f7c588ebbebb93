//! Writes, for tests of the core.

use super::board::{What, Write};
use super::{Status, Ttl, UserId};

/// A user is here, in the default session and in the name of all.
pub(crate) fn put(user: &UserId, status: Status, ttl: u64) -> Write {
    let ttl = Ttl::try_from(ttl).unwrap();
    Write { user: user.clone(), if_match: None, what: What::Put { session: None, status, message: None, ttl } }
}

/// A user is gone.
pub(crate) fn end(user: &UserId) -> Write {
    Write { user: user.clone(), if_match: None, what: What::End { session: None } }
}
