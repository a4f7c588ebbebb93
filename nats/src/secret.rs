//! What all servers of the center share, and what is made of it: a password for each use, so that none of them tells another.

use std::fmt;
use std::fs;
use std::path::Path;

use data_encoding::BASE32_NOPAD;
use ring::hmac;

use crate::render::Credentials;

/// Fewest letters: what can be guessed is no secret.
const SHORTEST: usize = 16;
/// The user between servers.
const ROUTES: &str = "kith";
/// The user of the account of turns: nats-server takes no name twice, and that of the system account is `kith`.
const TURNS: &str = "kith-turns";

/// The secret. Not to be printed.
#[derive(Clone)]
pub(crate) struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

impl Secret {
    /// The one in this file, without white space around it; why there is none.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let text = text.trim();
        if text.len() < SHORTEST {
            return Err(format!("{}: shorter than {SHORTEST} letters", file.display()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())))
    }

    /// What servers show to each other, at routes and gateways.
    pub(crate) fn routes(&self) -> Credentials {
        self.of(ROUTES, "routes and gateways")
    }

    /// What a runner shows for a turn to restart, where nobody is served without a name.
    pub(crate) fn turns(&self) -> Credentials {
        self.of(TURNS, "turns")
    }

    fn of(&self, user: &str, what: &str) -> Credentials {
        let password = BASE32_NOPAD.encode(hmac::sign(&self.0, what.as_bytes()).as_ref());
        Credentials { user: user.to_owned(), password }
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn it_is_the_same_for_all_who_have_it_and_another_for_each_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let written = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("room");
            Secret::read(&path)
        };
        let one = written("one", "correct horse battery\n").expect("it is long enough");
        let same = written("same", "  correct horse battery").expect("it is long enough");
        let other = written("other", "correct horse batterx").expect("it is long enough");
        assert_eq!((one.routes(), one.turns()), (same.routes(), same.turns()));
        assert_ne!(one.routes().password, one.turns().password);
        assert_ne!(one.routes(), other.routes());
        assert!(!format!("{one:?}").contains("horse") && !one.turns().password.contains("horse"));
        assert!(written("short", "0123456789abcde\n\n").expect_err("it is short").ends_with("shorter than 16 letters"));
        assert!(Secret::read(&folder.path().join("none")).is_err());
    }
}
