//! WireGuard keys: the public one, which everybody may see, and this server's private one, which nobody does.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// The key that a server is known by inside the mesh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct PublicKey([u8; 32]);

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no WireGuard key: 32 bytes in base64")]
pub(crate) struct KeyError;

impl PublicKey {
    /// The key of these bytes.
    pub(crate) fn new(bytes: [u8; 32]) -> PublicKey {
        PublicKey(bytes)
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| KeyError)?;
        let key: [u8; 32] = bytes.try_into().map_err(|_| KeyError)?;
        // With this one, WireGuard means that there is none.
        if key == [0; 32] { Err(KeyError) } else { Ok(PublicKey(key)) }
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<PublicKey, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_in_base64_and_not_all_zero() {
        let text = "DD5yKRfzExcV5+kDnTroDgCU15latdMjiQ59j1hEuk8=";
        assert_eq!(text.parse::<PublicKey>().unwrap().to_string(), text);
        let zero = BASE64.encode(&[0; 32]);
        for wrong in [
            "",
            "x",
            &text[..40],
            &text[1..],
            &format!("{text} "),
            "DD5yKRfzExcV5+kDnTroDgCU15latdMjiQ59j1hEuk9=",
            &zero,
        ] {
            assert_eq!(wrong.parse::<PublicKey>(), Err(KeyError), "{wrong}");
        }
    }
}
