//! The keys whose signatures are believed, from files that are read again when they change.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A shorter secret can be guessed from one token (RFC 7518 §3.2).
const SECRET_BYTES: usize = 32;
/// No file of keys is larger.
const FILE_BYTES: u64 = 1 << 20;

/// Where keys are. The algorithm belongs to the key: what a token says of it is only compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A secret in a file: HS256.
    Secret(PathBuf),
    /// An Ed25519 public key, PEM: EdDSA.
    Ed25519(PathBuf),
    /// An RSA public key, PEM: RS256.
    Rsa(PathBuf),
    /// A JWK set: Ed25519 and RSA keys.
    Jwks(PathBuf),
}

/// Why keys cannot be read.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file.
    #[error("cannot read the key file {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// What is in it.
    #[error("the key file {0} holds no {1}")]
    Invalid(PathBuf, &'static str),
    /// The secret is short.
    #[error("the secret in {0} has {1} bytes; HS256 needs at least {SECRET_BYTES}")]
    Short(PathBuf, usize),
}

/// What tells that a file was changed: when, and how long it is.
pub(super) type Stamp = (SystemTime, u64);

/// One key.
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) key: DecodingKey,
}

impl KeySource {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Secret(path) | Self::Ed25519(path) | Self::Rsa(path) | Self::Jwks(path) => path,
        }
    }

    pub(super) fn changed(&self) -> Option<Stamp> {
        let metadata = fs::metadata(self.path()).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }

    pub(super) fn read(&self) -> Result<Vec<Key>, KeyError> {
        let path = self.path().to_owned();
        let size = fs::metadata(&path).map_err(|e| KeyError::Read(path.clone(), e))?.len();
        if size > FILE_BYTES {
            return Err(KeyError::Invalid(path, "key: it is over 1 MiB"));
        }
        let bytes = fs::read(&path).map_err(|e| KeyError::Read(path.clone(), e))?;
        let one = |algorithm, key| vec![Key { algorithm, kid: None, key }];
        match self {
            Self::Secret(_) => {
                let secret = bytes.trim_ascii();
                if secret.len() < SECRET_BYTES {
                    return Err(KeyError::Short(path, secret.len()));
                }
                Ok(one(Algorithm::HS256, DecodingKey::from_secret(secret)))
            }
            Self::Ed25519(_) => {
                let key = public_key(&bytes).filter(|key| key.len() == 32);
                let key = key.ok_or(KeyError::Invalid(path, "Ed25519 public key as PEM"))?;
                Ok(one(Algorithm::EdDSA, DecodingKey::from_ed_der(&key)))
            }
            Self::Rsa(_) => {
                let key = public_key(&bytes).filter(|key| key.len() > 256);
                let key = key.ok_or(KeyError::Invalid(path, "RSA public key of 2048 bits or more as PEM"))?;
                Ok(one(Algorithm::RS256, DecodingKey::from_rsa_der(&key)))
            }
            Self::Jwks(_) => {
                let set: JwkSet =
                    serde_json::from_slice(&bytes).map_err(|_| KeyError::Invalid(path.clone(), "JWK set"))?;
                let keys: Vec<_> = set.keys.iter().filter_map(of_jwk).collect();
                if keys.is_empty() { Err(KeyError::Invalid(path, "Ed25519 or RSA key")) } else { Ok(keys) }
            }
        }
    }
}

/// Keys of other kinds are left out, and those that are for something else (RFC 7517 §4.2-4.4): a set may serve others too.
/// A symmetric key in a set is not taken, as sets are public.
fn of_jwk(jwk: &Jwk) -> Option<Key> {
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let meant = &jwk.common;
    let signs = meant.public_key_use.as_ref().is_none_or(|meant| *meant == PublicKeyUse::Signature);
    let verifies = meant.key_operations.as_ref().is_none_or(|may| may.contains(&KeyOperations::Verify));
    let fits = meant.key_algorithm.is_none_or(|meant| meant == named);
    if !(signs && verifies && fits) {
        return None;
    }
    Some(Key { algorithm, kid: meant.key_id.clone(), key: DecodingKey::from_jwk(jwk).ok()? })
}

fn public_key(pem: &[u8]) -> Option<Vec<u8>> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    let (_, key) = SubjectPublicKeyInfo::from_der(&der).ok()?;
    Some(key.subject_public_key.data.to_vec())
}
