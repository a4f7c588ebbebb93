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
    /// One of these must be in every request, on every listener: `Authorization: Bearer TOKEN`. None: whoever reaches a
    /// listener may do everything.
    pub tokens: Option<Tokens>,
}

/// What a token lets its holder do. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Queries, subscriptions, status, metrics.
    Read,
    /// Also transactions, and what parts say of themselves.
    Write,
    /// Also the schema.
    Admin,
}

impl Scope {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Tokens as a file holds them: one that may do everything; or one a line, each behind its scope.
///
/// ```text
/// # what a dashboard has
/// read  kWq8…
/// admin 5hX2…
/// ```
#[derive(Clone, Debug)]
pub struct Tokens(Vec<(Scope, Token)>);

/// A compare takes as long as there are tokens, so there are not many.
const TOKENS_MAX: usize = 64;

/// Why a text holds no tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokensError {
    /// A line of another form.
    #[error("line {0}: neither a token alone nor `read`, `write` or `admin` and a token")]
    Line(usize),
    /// A secret that is none.
    #[error("line {0}: {1}")]
    Token(usize, #[source] TokenError),
    /// None at all, or too many.
    #[error("1 to {TOKENS_MAX} tokens are wanted, and {0} are there")]
    Count(usize),
}

impl FromStr for Tokens {
    type Err = TokensError;

    fn from_str(text: &str) -> Result<Self, TokensError> {
        let mut tokens = Vec::new();
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            let words: Vec<_> = line.split_whitespace().collect();
            let (scope, secret) = match *words {
                [] => continue,
                [first, ..] if first.starts_with('#') => continue,
                [secret] | ["admin", secret] => (Scope::Admin, secret),
                ["read", secret] => (Scope::Read, secret),
                ["write", secret] => (Scope::Write, secret),
                _ => return Err(TokensError::Line(number)),
            };
            tokens.push((scope, secret.parse().map_err(|error| TokensError::Token(number, error))?));
        }
        if (1..=TOKENS_MAX).contains(&tokens.len()) { Ok(Self(tokens)) } else { Err(TokensError::Count(tokens.len())) }
    }
}

impl Tokens {
    /// What the holder of this secret may do. Takes as long whichever it is.
    pub(super) fn scope(&self, presented: &[u8]) -> Option<Scope> {
        self.0.iter().filter(|(_, token)| token.is(presented)).map(|(scope, _)| *scope).max()
    }

    /// The secret that may do most, for this node's own clients.
    pub fn widest(&self) -> &str {
        self.0.iter().max_by_key(|(scope, _)| *scope).map_or("", |(_, token)| &token.0)
    }
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
    fn a_file_holds_one_token_or_one_a_line_behind_its_scope() {
        let alone: Tokens = "  0123456789abcdef\n".parse().unwrap();
        assert_eq!((alone.scope(b"0123456789abcdef"), alone.scope(b"x")), (Some(Scope::Admin), None));
        let text = "# shown to all\n\nread aaaaaaaaaaaaaaaa\nwrite\tbbbbbbbbbbbbbbbb\nadmin cccccccccccccccc\nread cccccccccccccccc";
        let tokens: Tokens = text.parse().unwrap();
        let scopes = [b"aaaaaaaaaaaaaaaa", b"bbbbbbbbbbbbbbbb", b"cccccccccccccccc", b"dddddddddddddddd"];
        let scopes = scopes.map(|secret| tokens.scope(secret));
        assert_eq!(scopes, [Some(Scope::Read), Some(Scope::Write), Some(Scope::Admin), None]);
        assert_eq!(tokens.widest(), "cccccccccccccccc");
        assert!(!format!("{tokens:?}").contains("aaaa"));
        for (bad, error) in [
            ("", TokensError::Count(0)),
            ("# nothing\n", TokensError::Count(0)),
            ("root aaaaaaaaaaaaaaaa", TokensError::Line(1)),
            ("\nread short", TokensError::Token(2, TokenError)),
        ] {
            assert_eq!(bad.parse::<Tokens>().map(|_| ()), Err(error), "{bad:?}");
        }
    }

    #[test]
    fn a_token_is_long_and_has_no_spaces() {
        for bad in ["", "short", "with a space in it", "ümlaut-ümlaut-ümlaut"] {
            assert!(bad.parse::<Token>().is_err(), "{bad:?}");
        }
    }
}
