//! A join token: what a person carries from the authority's node to the new one.
//!
//! ```text
//! kith1.BASE64URL( JSON: node, number, cluster, addresses, authority, secret )
//! ```
//! It tells the new node whom to dial and whom to believe: the hash of the authority's certificate, so that nobody between
//! the two can pass for the authority. Its secret works once (see [`super::Invites`]), and is shown to nobody but a node
//! that this authority vouches for.

use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use kith_gossip_proto::NodeId;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{AuthorityError, provider};

/// What a token begins with: the form, and its version.
const PREFIX: &str = "kith1.";

/// The longest text that is looked at: a name, a hash, and far more addresses than anybody types.
const TEXT_MAX: usize = 4_096;

/// Addresses in a token; the first that answers is enough.
pub const ADDRESSES_MAX: usize = 8;

/// An invitation as the new node holds it.
#[derive(Clone, Debug)]
pub struct Token {
    /// The name it is bound to.
    pub node: NodeId,
    /// The number that is kept for it.
    pub number: u8,
    /// The cluster's name.
    pub cluster: String,
    /// Where the authority's node is dialled, `host:port`.
    pub addresses: Vec<String>,
    /// Which authority signs.
    pub authority: Fingerprint,
    /// What works once.
    pub secret: Secret,
}

/// The SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// 128 random bits. Printed nowhere but in its token; kept as a hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 16]);

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this is no join token: copy it whole, from `kith1.` to its end")]
pub struct TokenError;

/// The form on paper.
#[derive(Serialize, Deserialize)]
struct Written {
    node: String,
    number: u8,
    cluster: String,
    addresses: Vec<String>,
    authority: String,
    secret: String,
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let coded = text.strip_prefix(PREFIX).filter(|coded| coded.len() <= TEXT_MAX).ok_or(TokenError)?;
        let json = BASE64URL_NOPAD.decode(coded.as_bytes()).map_err(|_| TokenError)?;
        let written: Written = serde_json::from_slice(&json).map_err(|_| TokenError)?;
        if written.addresses.is_empty() || written.addresses.len() > ADDRESSES_MAX {
            return Err(TokenError);
        }
        Ok(Self {
            node: written.node.parse().map_err(|_| TokenError)?,
            number: written.number,
            cluster: written.cluster,
            addresses: written.addresses,
            authority: Fingerprint(bytes(&written.authority)?),
            secret: Secret(bytes(&written.secret)?),
        })
    }
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], TokenError> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| TokenError)?;
    bytes.try_into().map_err(|_| TokenError)
}

impl Token {
    /// The text that is carried. It holds the secret, so there is no `Display`.
    pub fn reveal(&self) -> String {
        let written = Written {
            node: self.node.to_string(),
            number: self.number,
            cluster: self.cluster.clone(),
            addresses: self.addresses.clone(),
            authority: BASE64URL_NOPAD.encode(&self.authority.0),
            secret: self.secret.reveal(),
        };
        let json = serde_json::to_vec(&written).expect("texts and a number are JSON");
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&json))
    }
}

impl Fingerprint {
    /// A certificate's.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(sha256(certificate))
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Secret {
    /// A new one.
    pub(super) fn draw() -> Result<Self, AuthorityError> {
        let mut bytes = [0; 16];
        provider().secure_random.fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
        Ok(Self(bytes))
    }

    pub(super) fn read(text: &str) -> Result<Self, TokenError> {
        bytes(text).map(Self)
    }

    pub(super) fn reveal(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }

    /// What is kept of it.
    pub(super) fn hash(&self) -> String {
        HEXLOWER.encode(&sha256(&self.0))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// By rustls' own ring, so that nothing else is linked for it.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3 is one of TLS 1.3");
    let hash = suite.common.hash_provider.hash(bytes);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            node: "fra-2".parse().unwrap(),
            number: 2,
            cluster: "casa".into(),
            addresses: vec!["192.0.2.1:31280".into()],
            authority: Fingerprint([7; 32]),
            secret: Secret([9; 16]),
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_written_and_shows_its_secret_to_nobody() {
        let text = token().reveal();
        let read: Token = format!(" {text}\n").parse().unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", token()));
        assert_eq!(read.secret, token().secret);
        assert!(!format!("{read:?}").contains(&token().secret.reveal()), "{read:?}");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let good = token().reveal();
        let empty = Token { addresses: Vec::new(), ..token() }.reveal();
        let many = Token { addresses: vec!["a:1".into(); ADDRESSES_MAX + 1], ..token() }.reveal();
        let long = format!("{PREFIX}{}", "A".repeat(TEXT_MAX + 1));
        for bad in ["", "kith1.", &good[..good.len() - 1], &good[1..], "kith2.AAAA", &empty, &many, &long] {
            assert_eq!(bad.parse::<Token>().map(|_| ()), Err(TokenError), "{bad}");
        }
    }

    #[test]
    fn the_hash_is_sha_256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(HEXLOWER.encode(&sha256(b"")), empty);
    }
}
