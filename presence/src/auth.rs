//! Who may write: bearer tokens, JWT of RFC 7519, believed by the keys of the configuration alone.
//!
//! Nothing in a token chooses how it is checked: of the configured keys those are tried whose algorithm and name are the
//! token's, and each checks with its own algorithm. A `kid` is compared with names and opens nothing.

mod keys;
mod provider;

use std::sync::Arc;

use arc_swap::ArcSwap;
use jsonwebtoken::{EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use keys::{Key, Stamp};
pub use keys::{KeyError, KeySource};

/// Far more than a token with claims of a login needs. What is longer is not parsed.
const TOKEN_BYTES: usize = 8 << 10;
/// How far clocks of issuers may be off, in seconds.
const LEEWAY: u64 = 30;
/// Who has this may write of others.
pub(crate) const SCOPE_ANY: &str = "presence:write:any";

/// What is asked of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthConfig {
    /// Whose signatures are believed. Without any nobody writes.
    pub keys: Vec<KeySource>,
    /// The issuer that a token must name, if any.
    pub issuer: Option<String>,
    /// The audience that a token must name, if any.
    pub audience: Option<String>,
}

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    /// The user.
    pub(crate) sub: String,
    any: bool,
}

/// Why somebody does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Denied {
    /// No token.
    #[error("a bearer token is needed")]
    Missing,
    /// One that is not believed. Why is not told: it would help only who made it up.
    #[error("the token is not valid")]
    Invalid,
    /// One that was good.
    #[error("the token has expired")]
    Expired,
    /// Another user's.
    #[error("the token is another user's, without the scope {SCOPE_ANY}")]
    OfAnother,
}

impl Who {
    /// Whether he may write of `user`.
    pub(crate) fn may_write(&self, user: &str) -> Result<(), Denied> {
        if self.any || self.sub == user { Ok(()) } else { Err(Denied::OfAnother) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    #[serde(default)]
    scope: Option<Scope>,
}

/// One text with spaces between (RFC 8693 §4.2), or a list, as some issuers write.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Scope {
    Text(String),
    List(Vec<String>),
}

impl Scope {
    fn has(&self, wanted: &str) -> bool {
        match self {
            Self::Text(text) => text.split(' ').any(|scope| scope == wanted),
            Self::List(list) => list.iter().any(|scope| scope == wanted),
        }
    }
}

/// Checks tokens.
pub(crate) struct Auth {
    config: AuthConfig,
    keys: ArcSwap<Vec<Key>>,
    /// How the files were when they were read.
    read: ArcSwap<Vec<Option<Stamp>>>,
}

impl Auth {
    /// Reads all keys.
    pub(crate) fn new(config: AuthConfig) -> Result<Self, KeyError> {
        provider::install();
        let auth = Self { config, keys: ArcSwap::default(), read: ArcSwap::default() };
        auth.read()?;
        Ok(auth)
    }

    fn read(&self) -> Result<(), KeyError> {
        let changed: Vec<_> = self.config.keys.iter().map(KeySource::changed).collect();
        let keys: Vec<_> = self.config.keys.iter().map(KeySource::read).collect::<Result<_, _>>()?;
        self.keys.store(Arc::new(keys.into_iter().flatten().collect()));
        // Only now: a file that was caught half-written is read again.
        self.read.store(Arc::new(changed));
        Ok(())
    }

    /// Reads the keys again if a file was changed. What cannot be read leaves the keys as they are, and is read again the next
    /// time. Waits for the disk.
    pub(crate) fn refresh(&self) -> Result<(), KeyError> {
        let changed: Vec<_> = self.config.keys.iter().map(KeySource::changed).collect();
        if **self.read.load() == changed { Ok(()) } else { self.read() }
    }

    /// Who this `Authorization` header is of.
    pub(crate) fn check(&self, header: Option<&str>) -> Result<Who, Denied> {
        let (scheme, token) = header.ok_or(Denied::Missing)?.split_once(' ').ok_or(Denied::Missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Missing);
        }
        let token = token.trim();
        if token.len() > TOKEN_BYTES {
            return Err(Denied::Invalid);
        }
        let header = decode_header(token).map_err(|_| Denied::Invalid)?;
        let mut denied = Denied::Invalid;
        for key in self.keys.load().iter().filter(|key| fits(key, &header)) {
            match decode::<Claims>(token, &key.key, &self.validation(key)) {
                Ok(token) => {
                    let any = token.claims.scope.is_some_and(|scope| scope.has(SCOPE_ANY));
                    return Ok(Who { sub: token.claims.sub, any });
                }
                Err(error) if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::ExpiredSignature) => {
                    denied = Denied::Expired;
                }
                Err(_) => {}
            }
        }
        Err(denied)
    }

    fn validation(&self, key: &Key) -> Validation {
        let mut validation = Validation::new(key.algorithm);
        let mut needed = vec!["exp", "sub"];
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.validate_aud = self.config.audience.is_some();
        if let Some(audience) = &self.config.audience {
            validation.set_audience(&[audience]);
            needed.push("aud");
        }
        if let Some(issuer) = &self.config.issuer {
            validation.set_issuer(&[issuer]);
            needed.push("iss");
        }
        validation.set_required_spec_claims(&needed);
        validation
    }
}

fn fits(key: &Key, header: &Header) -> bool {
    key.algorithm == header.alg && (key.kid.is_none() || header.kid.is_none() || key.kid == header.kid)
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Of whom a token may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Of its own user.
    Own,
    /// Of anybody.
    Any,
}

/// A token of `sub`, signed with a secret: for people and tools on the host that has it.
pub fn sign(
    secret: &[u8],
    sub: &str,
    expires: u64,
    writes: Writes,
    audience: &AuthConfig,
) -> Result<String, SignError> {
    provider::install();
    let mut claims = serde_json::json!({"sub": sub, "exp": expires});
    let mut set = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            claims[name] = value.into();
        }
    };
    set("iss", audience.issuer.as_deref());
    set("aud", audience.audience.as_deref());
    set("scope", (writes == Writes::Any).then_some(SCOPE_ANY));
    let header = Header::new(jsonwebtoken::Algorithm::HS256);
    encode(&header, &claims, &EncodingKey::from_secret(secret.trim_ascii())).map_err(|_| SignError)
}

/// The token cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the token cannot be signed")]
pub struct SignError;

#[cfg(test)]
mod tests;
