//! What may be set about the API.

use std::fmt;
use std::hint::black_box;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Where the API listens and who may speak to it.
#[derive(Clone, Debug, Default)]
pub struct ApiConfig {
    /// TCP addresses; port 0 takes a free one. Anything but loopback needs a token.
    pub listen: Vec<SocketAddr>,
    /// A Unix socket, made with mode 0660: who may open it may speak.
    pub unix: Option<PathBuf>,
    /// What every request must carry, on every listener: `Authorization: Bearer TOKEN`.
    pub token: Option<Token>,
}

/// A secret that clients show. Not printed anywhere.
#[derive(Clone)]
pub struct Token(String);

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a token is 16 to 1,024 visible ASCII characters without spaces")]
pub struct TokenError;

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let valid = (16..=1024).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if valid { Ok(Self(text.to_owned())) } else { Err(TokenError) }
    }
}

impl Token {
    /// Whether this is the token, in a time that depends on the length of what was presented only.
    pub(super) fn is(&self, presented: &[u8]) -> bool {
        let secret = self.0.as_bytes();
        let mut different = secret.len() ^ presented.len();
        for (position, byte) in presented.iter().enumerate() {
            different |= usize::from(black_box(secret[position % secret.len()] ^ byte));
        }
        black_box(different) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_the_token() {
        let token: Token = "0123456789abcdef".parse().unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for wrong in [&b""[..], b"0123456789abcdeg", b"0123456789abcde", b"0123456789abcdef0123456789abcdef"] {
            assert!(!token.is(wrong), "{wrong:?}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn a_token_is_long_and_has_no_spaces() {
        for bad in ["", "short", "with a space in it", "ümlaut-ümlaut-ümlaut"] {
            assert!(bad.parse::<Token>().is_err(), "{bad:?}");
        }
    }
}
