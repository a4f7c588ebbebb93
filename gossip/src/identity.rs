//! Certificates: who a node is, and who may speak to it.
//!
//! A cluster has one certificate authority of its own, whose key is on one node ([`Authority`]). A node's certificate is
//! issued by it and holds exactly one DNS name, which is the node's id; no name is ever taken from elsewhere. Nodes prove
//! themselves to each other in both directions (`net::tls`), so an [`Identity`] is all three things: the authority, the
//! chain, the key. Name, key and authority stay; the certificate is replaced before its end, while everybody uses it.
//!
//! How a node comes by one: somebody at the authority's node makes an invitation ([`Invites`]), whose secret is a
//! [`Token`]; the new node makes its key and shows the token ([`join()`]); the authority's node signs (`desk`). How it keeps
//! it: `keeper`. How it stands with the others: `standing`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kith_gossip_proto::NodeId;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, InconsistentKeys, RootCertStore};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

mod authority;
mod clock;
mod dev;
mod error;
mod files;
pub mod validity;

mod attempts;
pub(crate) mod desk;
mod enrolment;
pub mod invites;
mod join;
mod subnets;
pub mod token;

pub(crate) mod keeper;
pub(crate) mod standing;

pub use authority::{Authority, AuthorityError};
pub use clock::Clock;
pub use desk::Enrolment;
pub use dev::{DevAuthority, PemFiles};
pub use enrolment::Grant;
pub use error::IdentityError;
pub use files::{replace, write_new};
pub use invites::{Invite, InviteError, Invites};
pub use join::{JoinError, NewKey, join};
pub use subnets::{Subnets, SubnetsError, number_of};
pub use token::{Fingerprint, Token, TokenError};
pub use validity::{Stage, Validity};

pub(crate) use authority::subject_key;
pub(crate) use error::NodeNameError;

/// The grain of a certificate's time.
const SECOND: Duration = Duration::from_secs(1);

/// A node's proof of who it is, checked: the key fits, the authority issued the certificate and is in force. Clones share
/// the certificate, so that all of them have the renewed one.
#[derive(Clone)]
pub struct Identity {
    node: NodeId,
    roots: Arc<RootCertStore>,
    /// The authority's certificate, for those who know only its hash.
    authority: CertificateDer<'static>,
    current: watch::Sender<Arc<Current>>,
    /// Where the certificate is kept, if it is.
    file: Option<PathBuf>,
    clock: Clock,
}

/// The certificate in use, its key, and its time.
struct Current {
    key: Arc<CertifiedKey>,
    validity: Validity,
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
        let authorities = files::certificates(ca)?;
        let chain = files::certificates(cert)?;
        let private = files::private_key(key)?;
        let from = Origin { ca, cert, key };
        let identity = Self::checked(&authorities, chain, private, &from, Clock::system())?;
        Ok(Self { file: Some(cert.to_owned()), ..identity })
    }

    /// The same from what was just made and received; nothing is kept.
    pub fn in_memory(
        authority: &CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        private: PrivateKeyDer<'static>,
        clock: Clock,
    ) -> Result<Self, IdentityError> {
        let nowhere = Path::new("(in memory)");
        let from = Origin { ca: nowhere, cert: nowhere, key: nowhere };
        Self::checked(std::slice::from_ref(authority), vec![certificate], private, &from, clock)
    }

    fn checked(
        authorities: &[CertificateDer<'static>],
        chain: Vec<CertificateDer<'static>>,
        private: PrivateKeyDer<'static>,
        from: &Origin<'_>,
        clock: Clock,
    ) -> Result<Self, IdentityError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            in_force(authority, from.ca, clock.now())?;
            roots.add(authority.clone()).map_err(|error| unusable(from.ca, &error))?;
        }
        // An end that has passed is an alarm and no reason to stay down: names are answered, what is written is kept, and
        // the authority's own node renews itself. Nobody else's handshake takes the certificate.
        let last = chain.first().and_then(Validity::of).map(|own| own.until - SECOND);
        let at = last.map_or(clock.now(), |last| last.min(clock.now()));
        let (node, validity) = vouched(&chain, &roots, from, at)?;
        let key = CertifiedKey::from_der(chain, private, &provider()).map_err(|error| mismatch(&error, from))?;
        let authority = authorities.first().cloned().ok_or_else(|| no_certificate(from.ca))?;
        let current = watch::Sender::new(Arc::new(Current { key: Arc::new(key), validity }));
        Ok(Self { node, roots: Arc::new(roots), authority, current, file: None, clock })
    }

    /// Takes a certificate for another term: of the same name, key and authority. It is kept in the file before it is
    /// used. What is connected is not touched.
    pub(crate) fn renew(&self, certificate: CertificateDer<'static>) -> Result<(), IdentityError> {
        let received = Path::new("(received)");
        let from = Origin { ca: received, cert: received, key: received };
        let chain = vec![certificate];
        let (node, validity) = vouched(&chain, &self.roots, &from, self.clock.now())?;
        if node != self.node {
            return Err(IdentityError::OtherNode { certified: node });
        }
        let key = CertifiedKey::new(chain, Arc::clone(&self.key().key));
        key.keys_match().map_err(|error| mismatch(&error, &from))?;
        if let Some(file) = &self.file {
            files::replace(file, files::pem(&key.cert[0]).as_bytes())
                .map_err(|source| IdentityError::Write { path: file.clone(), source })?;
        }
        self.current.send_replace(Arc::new(Current { key: Arc::new(key), validity }));
        Ok(())
    }

    /// The node's id: the one DNS name of its certificate.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.validity().until
    }

    /// The certificate's time.
    pub fn validity(&self) -> Validity {
        self.current.borrow().validity
    }

    /// The clock it is judged by.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    pub(crate) fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    pub(crate) fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.borrow().key)
    }

    /// The node's own certificate, as it is shown to peers.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.key().cert[0].clone()
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

/// A certificate from its PEM form. `None` if it is none.
pub(crate) fn certificate_of(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
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

/// The node that the chain's certificate names, if the authority vouches for it at this time.
fn vouched(
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    from: &Origin<'_>,
    now: SystemTime,
) -> Result<(NodeId, Validity), IdentityError> {
    let own = chain.first().ok_or_else(|| no_certificate(from.cert))?;
    let validity = in_force(own, from.cert, now)?;
    let parsed = ParsedCertificate::try_from(own).map_err(|error| unusable(from.cert, &error))?;
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, &chain[1..], now, algorithms).map_err(
        |error| match error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                IdentityError::OtherAuthority { cert: from.cert.to_owned(), ca: from.ca.to_owned() }
            }
            other => unusable(from.cert, &other),
        },
    )?;
    let node = node_of(own).map_err(|error| error.in_file(from.cert))?;
    Ok((node, validity))
}

/// Checks that a certificate is in force, and returns its time.
fn in_force(certificate: &CertificateDer<'_>, path: &Path, now: SystemTime) -> Result<Validity, IdentityError> {
    let validity = Validity::of(certificate).ok_or_else(|| unusable(path, &"the certificate cannot be parsed"))?;
    if let Ok(ago) = now.duration_since(validity.until) {
        return Err(IdentityError::Expired { path: path.to_owned(), ago });
    }
    match validity.from.duration_since(now) {
        Ok(ahead) if !ahead.is_zero() => Err(IdentityError::NotYet { path: path.to_owned(), ahead }),
        _ => Ok(validity),
    }
}

fn unusable(path: &Path, reason: &dyn ToString) -> IdentityError {
    IdentityError::Unusable { path: path.to_owned(), reason: reason.to_string() }
}

fn no_certificate(path: &Path) -> IdentityError {
    IdentityError::Pem { path: path.to_owned(), kind: "certificate" }
}

fn mismatch(error: &rustls::Error, from: &Origin<'_>) -> IdentityError {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            IdentityError::KeyMismatch { key: from.key.to_owned(), cert: from.cert.to_owned() }
        }
        other => unusable(from.key, other),
    }
}

#[cfg(test)]
mod tests;
