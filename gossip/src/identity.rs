//! Certificates: who a node is, and who may speak to it.
//!
//! A cluster has one certificate authority of its own. A node's certificate is issued by it and holds exactly one DNS
//! name, which is the node's id; no name is ever taken from elsewhere. Nodes prove themselves to each other in both
//! directions (`net::tls`), so an [`Identity`] is all three things: the authority, the chain, the key.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kith_gossip_proto::NodeId;
use kith_gossip_proto::id::NodeIdError;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, InconsistentKeys, RootCertStore};
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

mod authority;

pub use authority::{AuthorityError, DevAuthority, PemFiles};

/// The most bytes of a PEM file. A chain and a key take a few kilobytes; more is a wrong path.
const FILE_MAX: u64 = 1 << 20;

/// A node's proof of who it is, checked: the key fits, the authority issued the certificate, both are in force.
#[derive(Clone)]
pub struct Identity {
    node: NodeId,
    roots: Arc<RootCertStore>,
    key: Arc<CertifiedKey>,
    not_after: SystemTime,
}

/// Why there is no identity. Each names what to look at.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others than the owner may read the private key.
    #[error("the private key {path} has mode {mode:04o}; only its owner may read it: chmod 600 {path}")]
    KeyMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is no PEM, or not the kind of PEM it should be.
    #[error("{path} holds no {kind} in PEM form")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        kind: &'static str,
    },
    /// A certificate or key that cannot be used.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate was issued by somebody else.
    #[error("the certificate {cert} was not issued by the authority in {ca}")]
    OtherAuthority {
        /// The certificate's file.
        cert: PathBuf,
        /// The authority's file.
        ca: PathBuf,
    },
    /// The certificate is no longer in force.
    #[error("the certificate {path} expired {} days ago; it must be renewed", .ago.as_secs() / 86_400)]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// Since when.
        ago: Duration,
    },
    /// The certificate is not in force yet.
    #[error("the certificate {path} is valid only {} s from now; is this host's clock right?", .ahead.as_secs())]
    NotYet {
        /// The certificate's file.
        path: PathBuf,
        /// How long until it is.
        ahead: Duration,
    },
    /// The certificate's DNS names do not name one node.
    #[error("the certificate {path} must hold exactly one DNS name, the node's id; it holds {count}")]
    Names {
        /// The certificate's file.
        path: PathBuf,
        /// How many it holds.
        count: usize,
    },
    /// The certificate's DNS name is no node id.
    #[error("the certificate {path} names no node")]
    Name {
        /// The certificate's file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: NodeIdError,
    },
    /// The private key belongs to another certificate.
    #[error("the private key {key} does not belong to the certificate {cert}")]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
}

/// Where the three parts came from, for errors.
struct Origin<'a> {
    ca: &'a Path,
    cert: &'a Path,
    key: &'a Path,
}

impl Identity {
    /// Reads and checks the authority's certificate, the node's certificate (with its chain) and its private key, all in
    /// PEM form. The key's file must be readable by its owner only.
    pub fn from_files(ca: &Path, cert: &Path, key: &Path) -> Result<Self, IdentityError> {
        let authorities = certificates(ca)?;
        let chain = certificates(cert)?;
        let private = private_key(key)?;
        Self::checked(&authorities, chain, private, &Origin { ca, cert, key })
    }

    fn checked(
        authorities: &[CertificateDer<'static>],
        chain: Vec<CertificateDer<'static>>,
        private: PrivateKeyDer<'static>,
        from: &Origin<'_>,
    ) -> Result<Self, IdentityError> {
        let unusable = |path: &Path, reason: &dyn ToString| IdentityError::Unusable {
            path: path.to_owned(),
            reason: reason.to_string(),
        };
        let provider = provider();
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            in_force(authority, from.ca)?;
            roots.add(authority.clone()).map_err(|error| unusable(from.ca, &error))?;
        }
        let own = chain
            .first()
            .ok_or_else(|| IdentityError::Pem { path: from.cert.to_owned(), kind: "certificate" })?
            .clone();
        let not_after = in_force(&own, from.cert)?;
        let parsed = ParsedCertificate::try_from(&own).map_err(|error| unusable(from.cert, &error))?;
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &chain[1..], UnixTime::now(), algorithms).map_err(
            |error| match error {
                rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                    IdentityError::OtherAuthority { cert: from.cert.to_owned(), ca: from.ca.to_owned() }
                }
                other => unusable(from.cert, &other),
            },
        )?;
        let node = node_of(&own).map_err(|error| error.in_file(from.cert))?;
        let key = CertifiedKey::from_der(chain, private, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                IdentityError::KeyMismatch { key: from.key.to_owned(), cert: from.cert.to_owned() }
            }
            other => unusable(from.key, &other),
        })?;
        Ok(Self { node, roots: Arc::new(roots), key: Arc::new(key), not_after })
    }

    /// The node's id: the one DNS name of its certificate.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    pub(crate) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// The node's own certificate, as it is shown to peers.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.key.cert[0]
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The cryptography of everything between nodes: ring, the same on every build.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Why a certificate names no node.
#[derive(Debug, Error)]
pub(crate) enum NodeNameError {
    #[error("the certificate cannot be parsed")]
    Unreadable,
    #[error("the certificate must hold exactly one DNS name, the node's id; it holds {0}")]
    Count(usize),
    #[error("the certificate names no node")]
    Name(#[source] NodeIdError),
}

impl NodeNameError {
    fn in_file(self, path: &Path) -> IdentityError {
        let path = path.to_owned();
        match self {
            Self::Unreadable => IdentityError::Unusable { path, reason: self.to_string() },
            Self::Count(count) => IdentityError::Names { path, count },
            Self::Name(source) => IdentityError::Name { path, source },
        }
    }
}

/// The node a certificate names.
pub(crate) fn node_of(certificate: &CertificateDer<'_>) -> Result<NodeId, NodeNameError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| NodeNameError::Unreadable)?;
    let names = parsed.subject_alternative_name().map_err(|_| NodeNameError::Unreadable)?;
    let names: Vec<_> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| if let GeneralName::DNSName(dns) = name { Some(*dns) } else { None })
        .collect();
    match names[..] {
        [name] => name.parse().map_err(NodeNameError::Name),
        _ => Err(NodeNameError::Count(names.len())),
    }
}

/// Checks that a certificate is in force, and returns when it ends.
fn in_force(certificate: &CertificateDer<'_>, path: &Path) -> Result<SystemTime, IdentityError> {
    let unreadable =
        || IdentityError::Unusable { path: path.to_owned(), reason: "the certificate cannot be parsed".into() };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| unreadable())?;
    let at = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0));
    let (from, until) = (at(parsed.validity().not_before.timestamp()), at(parsed.validity().not_after.timestamp()));
    let now = SystemTime::now();
    if let Ok(ago) = now.duration_since(until) {
        return Err(IdentityError::Expired { path: path.to_owned(), ago });
    }
    match from.duration_since(now) {
        Ok(ahead) if !ahead.is_zero() => Err(IdentityError::NotYet { path: path.to_owned(), ahead }),
        _ => Ok(until),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let pem = || IdentityError::Pem { path: path.to_owned(), kind: "certificate" };
    let (_, text) = read(path)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().map_err(|_| pem())?;
    if found.is_empty() { Err(pem()) } else { Ok(found) }
}

/// The mode is taken from the open file, so what is checked is what is read.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let (mode, text) = read(path)?;
    if mode & 0o077 != 0 {
        return Err(IdentityError::KeyMode { path: path.to_owned(), mode: mode & 0o7777 });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| IdentityError::Pem { path: path.to_owned(), kind: "private key" })
}

fn read(path: &Path) -> Result<(u32, Vec<u8>), IdentityError> {
    let attempt = || {
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut text = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut text)?;
        Ok((mode, text))
    };
    attempt().map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
