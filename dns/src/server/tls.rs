//! DNS over TLS (RFC 7858): the certificate, read from files and again when they change, and the handshake.
//!
//! Behind the handshake a connection is like any other: same limits, same answers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::watch::follow;
use crate::zonefile::Source;

/// How long a handshake may take: two round trips to anywhere, and a slow client.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The protocol, for clients that name it (RFC 7858 has none of its own; this is IANA's).
const ALPN: &[u8] = b"dot";

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct TlsError {
    /// The file that is wrong.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// What handshakes are made with at this moment.
#[derive(Debug, Clone)]
pub(crate) struct Certificate(Arc<ArcSwap<Shown>>);

/// A certificate, and what is wrong with the files as they are, if anything: then it is what they were before.
#[derive(Debug, Clone)]
struct Shown {
    config: Arc<ServerConfig>,
    fault: Option<TlsError>,
}

/// Follows the files.
#[derive(Debug)]
pub(crate) struct CertificateWatch {
    cert: PathBuf,
    key: PathBuf,
    /// As they were when they were read last and good.
    read: [Source; 2],
    certificate: Certificate,
}

impl Certificate {
    /// The certificate of these files, and what follows them.
    pub(crate) fn read(cert: &Path, key: &Path) -> Result<(Self, CertificateWatch), TlsError> {
        let read = [cert, key].map(Source::of);
        let shown = Shown { config: load(cert, key)?, fault: None };
        let certificate = Self(Arc::new(ArcSwap::from_pointee(shown)));
        let watch = CertificateWatch { cert: cert.into(), key: key.into(), read, certificate: certificate.clone() };
        Ok((certificate, watch))
    }

    /// What is wrong with the files as they are.
    pub(crate) fn fault(&self) -> Option<TlsError> {
        self.0.load().fault.clone()
    }

    /// Makes a connection a secure one.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.0.load().config));
        timeout(HANDSHAKE, acceptor.accept(stream)).await?
    }
}

impl CertificateWatch {
    /// Follows the files until told to stop.
    pub(crate) async fn run(self, token: CancellationToken) -> Result<(), JoinError> {
        follow(self, Self::look, token).await
    }

    /// Reads what has changed. Files that are wrong are read again each time: of two that belong together one may be
    /// there a moment before the other.
    fn look(&mut self) {
        let before = self.certificate.0.load_full();
        if before.fault.is_none() && self.read.iter().all(Source::is_unchanged) {
            return;
        }
        let read = [&self.cert, &self.key].map(|path| Source::of(path));
        match load(&self.cert, &self.key) {
            Ok(config) => {
                tracing::info!(file = %self.cert.display(), "certificate for DNS over TLS read");
                self.read = read;
                self.certificate.0.store(Arc::new(Shown { config, fault: None }));
            }
            Err(fault) => {
                if before.fault.as_ref() != Some(&fault) {
                    tracing::warn!(%fault, "certificate for DNS over TLS is wrong: the one before is used on");
                }
                let config = Arc::clone(&before.config);
                self.certificate.0.store(Arc::new(Shown { config, fault: Some(fault) }));
            }
        }
    }
}

/// Reads a chain of certificates and the key of its first one, PEM both.
fn load(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let wrong = |file: &Path, reason: String| TlsError { file: file.into(), reason };
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| wrong(cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(cert, "no certificate in PEM".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| wrong(cert, error.to_string()))?;
    let config = builder.with_no_client_auth().with_single_cert(chain, private);
    let mut config = config.map_err(|error| {
        let reason = match error {
            rustls::Error::InconsistentKeys(_) => format!("is not the key of {}", cert.display()),
            error => error.to_string(),
        };
        wrong(key, reason)
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a certificate for a name and its key.
    fn write(folder: &Path, name: &str) -> rcgen::KeyPair {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(folder.join("cert"), certificate.pem()).unwrap();
        std::fs::write(folder.join("key"), key.serialize_pem()).unwrap();
        key
    }

    #[test]
    fn files_that_are_wrong_are_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
        let wrong = || load(&cert, &key).unwrap_err();
        assert_eq!(wrong().file, cert, "not there");
        write(folder.path(), "a.example");
        assert!(load(&cert, &key).is_ok());
        std::fs::write(&cert, "no certificate").unwrap();
        assert_eq!(wrong().to_string(), format!("{}: no certificate in PEM", cert.display()));
        write(folder.path(), "a.example");
        std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert_eq!(wrong().to_string(), format!("{}: is not the key of {}", key.display(), cert.display()));
    }

    #[test]
    fn files_that_become_wrong_change_nothing_but_the_alarm() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
        write(folder.path(), "a.example");
        let (certificate, mut watch) = Certificate::read(&cert, &key).unwrap();
        let config = || Arc::clone(&certificate.0.load().config);
        let first = config();
        watch.look();
        assert!(Arc::ptr_eq(&first, &config()), "nothing has changed");
        std::fs::write(&key, "cut off").unwrap();
        watch.look();
        assert!(Arc::ptr_eq(&first, &config()));
        assert_eq!(certificate.fault().map(|fault| fault.file), Some(key.clone()));
        write(folder.path(), "b.example");
        watch.look();
        assert!(!Arc::ptr_eq(&first, &config()));
        assert_eq!(certificate.fault(), None);
    }
}
