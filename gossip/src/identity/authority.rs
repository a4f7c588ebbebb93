//! A certificate authority in memory, for `kith dev` and for tests. It is gone when the process is.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kith_gossip_proto::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::PrivateKeyDer;
use thiserror::Error;

use super::{Identity, IdentityError, Origin};

/// Issues identities for the nodes of one cluster.
pub struct DevAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Why a certificate could not be made.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The certificate or its key.
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
    /// What was made does not pass our own checks.
    #[error("the certificate that was made cannot be used")]
    Identity(#[source] IdentityError),
    /// The files.
    #[error("cannot write {path}")]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// An identity as files, as [`Identity::from_files`] reads it.
#[derive(Clone, Debug)]
pub struct PemFiles {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// The node's private key, mode 0600.
    pub key: PathBuf,
}

impl DevAuthority {
    /// A new authority for the cluster of this name. Two of one name still refuse each other: the key counts.
    pub fn new(cluster: &str) -> Result<Self, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("kith cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(AuthorityError::Certificate)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(AuthorityError::Certificate)?;
        Ok(Self { issuer })
    }

    /// An identity for this node, in memory only.
    pub fn issue(&self, node: &NodeId) -> Result<Identity, AuthorityError> {
        let (certificate, key) = self.certify(&leaf(node)?)?;
        let private = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|_| AuthorityError::Certificate(rcgen::Error::CouldNotParseKeyPair))?;
        let nowhere = Path::new("(in memory)");
        let origin = Origin { ca: nowhere, cert: nowhere, key: nowhere };
        let chain = vec![certificate.der().clone()];
        Identity::checked(&[self.issuer.der().clone()], chain, private, &origin).map_err(AuthorityError::Identity)
    }

    /// An identity for this node, as three files in `dir`.
    pub fn write(&self, node: &NodeId, dir: &Path) -> Result<PemFiles, AuthorityError> {
        self.write_leaf(&leaf(node)?, node.as_str(), dir)
    }

    pub(super) fn write_leaf(
        &self,
        params: &CertificateParams,
        stem: &str,
        dir: &Path,
    ) -> Result<PemFiles, AuthorityError> {
        let (certificate, key) = self.certify(params)?;
        let file = |ending: &str| dir.join(format!("{stem}.{ending}.pem"));
        let files = PemFiles { ca: dir.join("ca.pem"), cert: file("cert"), key: file("key") };
        write(&files.ca, &self.issuer.pem())?;
        write(&files.cert, &certificate.pem())?;
        write(&files.key, &key.serialize_pem())?;
        Ok(files)
    }

    fn certify(&self, params: &CertificateParams) -> Result<(rcgen::Certificate, KeyPair), AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Certificate)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(AuthorityError::Certificate)?;
        Ok((certificate, key))
    }
}

/// What a node's certificate says: its one name, and that it may both serve and ask.
pub(super) fn leaf(node: &NodeId) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(vec![node.to_string()]).map_err(AuthorityError::Certificate)?;
    params.distinguished_name = named(node.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// All files get the key's mode: the certificates need no reader but the owner either.
fn write(path: &Path, text: &str) -> Result<(), AuthorityError> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| AuthorityError::Write { path: path.to_owned(), source })
}
