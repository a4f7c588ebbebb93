//! The certificate authority of a cluster, and what it issues: the files that `kith agent` reads.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A cluster's authority. Two of them never trust each other's nodes.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Where a node's certificate files are.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

impl Authority {
    /// A fresh authority for the cluster called `cluster`.
    ///
    /// # Panics
    /// If no key can be made.
    #[must_use]
    pub fn new(cluster: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, cluster);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("the system has randomness for a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("these parameters make a certificate");
        Authority { issuer }
    }

    /// Writes `ca.pem`, `NAME.pem` and `NAME.key` (0600) into `dir`, for the node called `name`.
    pub(super) fn issue(&self, name: &str, dir: &Path) -> Files {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a node's name is a DNS label");
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("the system has randomness for a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        let files = Files {
            ca: dir.join("ca.pem"),
            cert: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        fs::write(&files.ca, self.issuer.pem()).expect("the lab's folder can be written");
        fs::write(&files.cert, certificate.pem()).expect("the lab's folder can be written");
        let secret = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&files.key);
        secret.and_then(|mut file| file.write_all(key.serialize_pem().as_bytes())).expect("the key can be written");
        files
    }
}
