//! The certificate of the HTTP API, read again when its files change.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use ring::digest::{SHA256, digest};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;

/// No chain and no key is larger.
const FILE_BYTES: u64 = 1 << 20;

/// What handshakes are made with at this moment.
pub(crate) struct Certificate {
    files: TlsFiles,
    shown: ArcSwap<ServerConfig>,
    /// Of the files as they were when they were looked at last, good or not.
    seen: Mutex<[u8; 32]>,
}

impl Certificate {
    /// Reads a chain of certificates and the key of its first one, PEM both.
    pub(crate) fn read(files: &TlsFiles) -> Result<Self, String> {
        let read = Pem::read(files)?;
        let shown = ArcSwap::from(read.config()?);
        Ok(Self { files: files.clone(), shown, seen: Mutex::new(read.mark()) })
    }

    /// For the next handshake.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.shown.load_full())
    }

    /// Reads the files again if they have changed. Of two that belong together one may be there a moment before the other:
    /// then the certificate stays what it was.
    pub(crate) fn refresh(&self) -> Result<(), String> {
        let read = Pem::read(&self.files)?;
        let mark = read.mark();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == mark {
            return Ok(());
        }
        *seen = mark;
        self.shown.store(read.config()?);
        tracing::info!(file = %self.files.cert.display(), "the certificate is read again");
        Ok(())
    }
}

/// Both files.
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Pem {
    fn read(files: &TlsFiles) -> Result<Self, String> {
        Ok(Self { cert: bounded(&files.cert)?, key: bounded(&files.key)? })
    }

    fn mark(&self) -> [u8; 32] {
        let each = [&self.cert, &self.key].map(|bytes| digest(&SHA256, bytes));
        let both = digest(&SHA256, &each.map(|digest| digest.as_ref().to_vec()).concat());
        let mut mark = [0; 32];
        mark.copy_from_slice(both.as_ref());
        mark
    }

    fn config(&self) -> Result<Arc<ServerConfig>, String> {
        let certs = CertificateDer::pem_slice_iter(&self.cert).collect::<Result<Vec<_>, _>>();
        let certs = certs.map_err(|e| format!("the certificate: {e}"))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|e| format!("the key: {e}"))?;
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let config = builder.with_no_client_auth().with_single_cert(certs, key).map_err(|e| e.to_string())?;
        Ok(Arc::new(config))
    }
}

fn bounded(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES {
        return Err(format!("{}: over 1 MiB", path.display()));
    }
    std::fs::read(path).map_err(failed)
}
