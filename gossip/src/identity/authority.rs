//! The cluster's certificate authority: one key, on one node, that says who belongs.
//!
//! It signs two things: the certificate of its own, once, and those of nodes, each for one name and for [`NODE_LASTS`]. The
//! private key of a node is never seen here, only the public one.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kith_gossip_proto::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::validity::{AUTHORITY_LASTS, BACKDATED, NODE_LASTS};
use super::{Identity, IdentityError, Validity, files, provider};

/// Issues certificates for the nodes of one cluster.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// Why a certificate could not be made.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The certificate or its key.
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
    /// What was made, or what was read, does not pass our own checks.
    #[error("the authority cannot be used")]
    Identity(#[from] IdentityError),
    /// The key belongs to another authority.
    #[error("the key {key} does not belong to the authority in {ca}")]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        ca: PathBuf,
    },
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Random,
    /// The files.
    #[error("cannot write {path}")]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error)
    }
}

impl Authority {
    /// A new authority for the cluster of this name. Two of one name still refuse each other: the key counts.
    pub fn found(cluster: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("kith cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        in_force(&mut params, now - BACKDATED, now + AUTHORITY_LASTS);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// The authority whose certificate and private key these files hold. The key must be readable by its owner only.
    pub fn open(ca: &Path, key: &Path) -> Result<Self, AuthorityError> {
        let certificate = files::certificates(ca)?.swap_remove(0);
        let pair = files::key_pair(key)?;
        let same = subject_key(&certificate).is_some_and(|public| public == pair.subject_public_key_info());
        if !same {
            return Err(AuthorityError::KeyMismatch { key: key.to_owned(), ca: ca.to_owned() });
        }
        Ok(Self { issuer: Issuer::from_ca_cert_der(&certificate, pair)?, certificate })
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The same in PEM form.
    pub fn certificate_pem(&self) -> String {
        files::pem(&self.certificate)
    }

    /// The private key in PEM form, for a file that only its owner may read.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for this node and public key, from now on. It never outlasts the authority.
    pub fn certify(
        &self,
        node: &NodeId,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let end = Validity::of(&self.certificate).map_or(now, |own| own.until);
        let mut params = leaf(node)?;
        in_force(&mut params, now - BACKDATED, end.min(now + NODE_LASTS));
        self.sign(params, key)
    }

    /// The same in PEM form, for a key that was made here.
    pub fn certify_pem(&self, node: &NodeId, key: &super::NewKey, now: SystemTime) -> Result<String, AuthorityError> {
        self.certify(node, key.public(), now).map(|certificate| files::pem(&certificate))
    }

    /// The same node and key for another term: what renewing is.
    pub(crate) fn renew(
        &self,
        certificate: &CertificateDer<'_>,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let node = super::node_of(certificate).map_err(|error| error.in_file(Path::new("(a peer's)")))?;
        let key = SubjectPublicKeyInfo::from_der(&subject_key(certificate).unwrap_or_default())?;
        self.certify(&node, &key, now)
    }

    pub(super) fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        params.serial_number = Some(serial()?);
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }

    /// An identity for this node, in memory only, its key made here.
    pub(super) fn identity(&self, node: &NodeId, clock: super::Clock) -> Result<Identity, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = self.certify(node, &key, clock.now())?;
        let private = key.serialize_der().try_into().map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        Ok(Identity::in_memory(&self.certificate, certificate, private, clock)?)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// What a node's certificate says: its one name, and that it may both serve and ask.
pub(super) fn leaf(node: &NodeId) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(vec![node.to_string()])?;
    params.distinguished_name = named(node.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Whole seconds, which is what a certificate can say.
fn in_force(params: &mut CertificateParams, from: SystemTime, until: SystemTime) {
    let at = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs())
    };
    params.not_before = at(from);
    params.not_after = at(until);
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Drawn, not counted: nobody keeps a list, and 16 bytes do not meet twice (RFC 5280 §4.1.2.2 allows 20).
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    provider().secure_random.fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from(bytes.to_vec()))
}

/// The public key of a certificate, as it stands in it.
pub(crate) fn subject_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}
